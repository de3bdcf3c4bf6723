"""A long journal becomes few objects, on each object store."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE

import pytest
import statepath
from statepath.discovery import connect

WRITER = """
import asyncio, os, sys, statepath
import statepath.engine.engine as engine
import statepath.engine.snapshotter as snapshotter
from statepath.log import PortableCommitLog

snapshotter.KEEP_SECONDS, snapshotter._PACK = -1, 8
engine._MAINTAINER_TTL = 0.5  # one that was killed is the maintainer no longer
pack = PortableCommitLog.pack

async def tell(self, upto, **options):
    os.write(1, b"pack\\n")
    return await pack(self, upto, **options)

PortableCommitLog.pack = tell

async def main():
    n = int(sys.argv[2])
    async with statepath.open(sys.argv[1], autosave=0.05) as store:
        while True:
            n += 1
            await store.collection("raw").put({"id": "a", "n": n})
            os.write(1, b"%d\\n" % n)

asyncio.run(main())
"""


@pytest.fixture
def soon(monkeypatch):
    """Few commits are many, and the youngest are old enough."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 8)


async def pieces(path):
    """The keys of the packs, and of the slots."""
    backend = await connect(path, readonly=True)
    try:
        keys = [entry.key async for entry in backend.list_keys("journal/0")]
    finally:
        await backend.close()
    return [key for key in keys if "-" in key], [key for key in keys if "-" not in key]


async def test_the_past_is_read_in_few_requests(path, service, proxy, requests, soon):
    through = service.at(proxy.url).path(path.rpartition("/")[2].partition("?")[0])
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        for n in range(1, 61):
            await raw.put({"id": str(n % 7), "n": n})
            if n > 57:
                await store.snapshot()
        counts, told = [], []
        for _ in range(2):
            async with statepath.open(through, readonly=True) as reader:
                requests()
                told.append(await reader.history())
                counts.append(len(requests()))
                assert await reader.verify() == []
            await store._engine._snapshotter.pack()
        packs, slots = await pieces(path)
        assert len(packs) == 1
        assert len(slots) <= 2
        assert [change.seq for change in told[0]] == list(range(1, 61))
        assert told[1] == told[0]
        assert counts[0] > 60
        assert counts[1] <= 6
        await store.restore(at=30)
        assert (await raw.get("2"))["n"] == 30
        assert (await raw.get("3"))["n"] == 24


@pytest.mark.slow
async def test_a_packer_that_is_killed_loses_nothing(path, soon):
    told = 0
    for number in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, path, str(told), stdout=PIPE, env=os.environ
        )
        assert writer.stdout is not None
        while (line := await writer.stdout.readline()) != b"pack\n":
            told = int(line)
        await asyncio.sleep(random.Random(number).uniform(0, 0.2))
        writer.send_signal(signal.SIGKILL)
        lines = (await writer.stdout.read()).decode().splitlines()
        await writer.wait()
        told = max(told, *(int(line) for line in lines if line != "pack"), 0)
        async with statepath.open(path, autosave=0) as store:
            found = await store.collection("raw").get("a")
            assert found is not None
            assert found["n"] in (told, told + 1)
            told = found["n"]
            assert [change.seq for change in await store.history()] == list(range(1, store.seq + 1))
            assert await store.verify() == []
            assert (await store.health()).damage == ()
    async with statepath.open(path, autosave=0) as store:
        for n in range(3):
            await store.collection("raw").put({"id": "b", "n": n})
            await store.snapshot()
        await store._engine._snapshotter.pack()
        packs, slots = await pieces(path)
        assert packs
        assert len(slots) <= 10
        assert [change.seq for change in await store.history()] == list(range(1, store.seq + 1))
