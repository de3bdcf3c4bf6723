"""`kill -9` of a writer on an object store: what it acknowledged is there, whole, and the store can be written."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE

import pytest
import statepath

ROUNDS = 5
WRITER = """
import asyncio, os, sys, statepath

async def lane(store, number, start):
    raw, other = store.collection("raw"), store.collection("other")
    n = start
    while True:
        n += 1
        async with store.transaction() as tx:
            tx.put(raw, {"id": str(number), "n": n})
            tx.put(other, {"id": str(number), "n": n})
        os.write(1, b"%d %d\\n" % (number, n))

async def main():
    async with statepath.open(sys.argv[1], autosave=0.2) as store:
        await asyncio.gather(*(lane(store, number, int(sys.argv[2])) for number in range(8)))

asyncio.run(main())
"""


@pytest.mark.slow
async def test_what_a_killed_writer_acknowledged_is_there(path):
    told: dict[str, int] = {}
    for round_number in range(ROUNDS):
        start = max(told.values(), default=0) + 1
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, path, str(start), stdout=PIPE, env=os.environ
        )
        assert writer.stdout is not None
        first = await writer.stdout.readline()
        await asyncio.sleep(random.Random(round_number).uniform(0.05, 0.8))
        writer.send_signal(signal.SIGKILL)
        lines = (first + await writer.stdout.read()).decode().splitlines()
        await writer.wait()
        told.update({lane: int(n) for lane, n in (line.split() for line in lines)})
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
