"""What does not get on is given up: the limit of the client libraries holds for a silence behind a request only."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest
from servers.raw import OBJECT, after_listing, drip, listening
from servers.refusals import refusal
from servers.services import SERVICES
from statepath.backend import IF_ABSENT
from statepath.discovery import connect
from statepath.errors import UnavailableError

pytestmark = pytest.mark.slow

MIB = 1024 * 1024


@asynccontextmanager
async def driver(name, serve):
    """The driver of that service, which has listed the container; all else is asked of `serve`."""
    async with listening(after_listing(name, serve)) as endpoint:
        backend = await _connected(SERVICES[name]("slow", endpoint).path("x", timeout="2"))
        yield backend._driver
        await backend.close()


async def _connected(path):
    """A loaded machine may stand still for as long as what is tested is waited for."""
    for _ in range(9):
        with suppress(UnavailableError):
            return await connect(path, readonly=True)
    return await connect(path, readonly=True)


@pytest.mark.parametrize("size", [1000, 100_000, 32 * MIB])
async def test_an_upload_that_nobody_takes_is_given_up(name, size):
    async def silent(head, writer):
        await asyncio.Event().wait()

    async with driver(name, silent) as slow:
        with pytest.raises(UnavailableError, match="no answer"):
            await slow.put("a", b"x" * size, IF_ABSENT)


async def test_a_file_that_nobody_takes_is_given_up(name, tmp_path):
    async def silent(head, writer):
        await asyncio.Event().wait()

    (tmp_path / "large").write_bytes(bytes(32 * MIB))
    async with driver(name, silent) as slow:
        with (tmp_path / "large").open("rb") as content, pytest.raises(UnavailableError, match="no answer"):
            await slow.put("a", content, IF_ABSENT)


async def test_an_object_that_comes_byte_by_byte_is_given_up(name):
    async def dripping(head, writer):
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\ncontent-range: bytes 0-999999/1000000\r\n"
        )
        writer.write(OBJECT + b"\r\n" + bytes(1000))
        await drip(writer)

    async with driver(name, dripping) as slow:
        with pytest.raises(UnavailableError, match="no answer"):
            await slow.get("a", None)


@pytest.mark.parametrize("start", [b"content-length: 1000000\r\n\r\n", b"header: "], ids=["body", "head"])
async def test_an_endpoint_whose_answer_comes_byte_by_byte_is_given_up(name, start):
    async def dripping(head, writer):
        writer.write(b"HTTP/1.1 200 OK\r\n" + start)
        await drip(writer)

    async with listening(dripping) as endpoint:
        path = SERVICES[name]("slow", endpoint).path("x", timeout="2")
        assert "no answer" in str(await refusal(path, UnavailableError))
