"""`kill -9` of a writer on an object store: what it acknowledged is there, whole, and the store can be written."""

from __future__ import annotations

import asyncio
import json
import random
import signal

import pytest
import statepath
from crowd import work
from crowd.processes import Client

ROUNDS = 5


@pytest.mark.slow
async def test_what_a_killed_writer_acknowledged_is_there(path, tmp_path):
    told: dict[str, int] = {}
    for round_number in range(ROUNDS):
        notes = tmp_path / str(round_number)
        notes.touch()
        first = max(told.values(), default=0) + 1
        writer = Client(work.save_in_lanes, path, first, str(notes))
        while not notes.stat().st_size:
            assert writer.process.is_alive()
            await asyncio.sleep(0.01)
        await asyncio.sleep(random.Random(round_number).uniform(0.05, 0.8))
        writer.send(signal.SIGKILL)
        await writer.ended()
        told.update({note["lane"]: note["n"] for note in map(json.loads, notes.read_text().splitlines())})
        async with statepath.open(path, autosave=0) as store:
            raw, other = store.collection("raw"), store.collection("other")
            for lane, n in told.items():
                found = await raw.get(lane)
                assert found is not None
                assert found["n"] in (n, n + 1), lane
                assert await other.get(lane) == found
            assert await store.verify() == []
            assert (await store.health()).damage == ()
    assert len(told) == 8
