"""Several processes write to one encrypted store: everything that holds for a plain one does."""

from __future__ import annotations

from base64 import b64encode
from secrets import token_bytes

import pytest
import statepath
from crowd import work
from crowd.processes import together


@pytest.fixture
def sealed(tmp_path, monkeypatch):
    """Has every process that is started seal what it writes, this one included."""
    file = tmp_path / "master-key"
    file.touch(0o600)
    file.write_text(b64encode(token_bytes(32)).decode())
    monkeypatch.setenv("STATE_ENCRYPTION_KEY_FILE", str(file))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "seaweed"], indirect=True)
async def test_processes_that_found_and_write_one_encrypted_store_lose_nothing(path, sealed):
    processes, times = 3, 8
    troubles = await together(processes, work.write_everything, path, times)
    assert troubles == [[]] * processes
    async with statepath.open(path, readonly=True) as store:
        assert store.encrypted
        assert len(await store.history()) == processes * times * 3
        lines = (await store.read_log("shared")).split()
        assert sorted(lines) == sorted(f"{p}:{n}" for p in range(processes) for n in range(times))
        assert await store.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "seaweed"], indirect=True)
async def test_processes_that_increment_a_sealed_counter_lose_nothing(path, sealed):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("counters").put({"id": "n", "n": 0})
    made = await together(3, work.count, path, 10)
    assert sorted(n for each in made for n in each) == list(range(1, 31))
