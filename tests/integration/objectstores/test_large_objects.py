"""A large object is in memory once, as it goes and as it comes."""

import os
import tracemalloc

import pytest
from statepath.discovery import connect

SIZE = 32 * 1024 * 1024


@pytest.fixture
async def backend(path):
    backend = await connect(path)
    yield backend
    await backend.close()


@pytest.fixture
def most():
    """The most memory that was taken since the last look, beside what was there then."""
    tracemalloc.start()
    before = 0

    def most():
        nonlocal before
        now, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, since = now, peak - before
        return since

    yield most
    tracemalloc.stop()


async def test_one_that_is_written_is_not_copied(backend, most):
    data = os.urandom(SIZE)
    most()
    await backend.write("a", data)
    assert most() < SIZE / 4


async def test_one_that_is_read_is_not_put_together_beside_its_parts(backend, most, service):
    times = 2.2 if service.name == "azurite" else 1.4  # Azure's client puts it together itself
    await backend.write("a", bytes(SIZE))
    most()
    await backend.read("a")
    assert most() < times * SIZE
