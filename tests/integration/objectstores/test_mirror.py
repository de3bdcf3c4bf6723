"""A store on the local disk, and its replica on an object store: few requests, a lost network, a fresh machine."""

from __future__ import annotations

import asyncio

import pytest
import statepath
from servers.proxy import Does
from servers.services import writes
from statepath.errors import DivergedError
from statepath.events import Events, MirrorCaughtUp, MirrorFailed


async def shipped(store):
    async with asyncio.timeout(60):
        while store.mirror_lag.seq != store.seq:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


async def save(store, count, **more):
    raw = store.collection("raw")
    for n in range(count):
        await raw.put({"id": str(n % 10), "n": n, **more})
    await store.append_log("s", f"{count}\n")


async def held(store):
    await store.flush()
    return {one["id"]: one async for one in store.collection("raw")}, await store.read_log("s")


async def test_a_fresh_machine_goes_on_with_the_replica(path, tmp_path):
    async with statepath.open(tmp_path / "store", mirror=path, autosave=0) as store:
        await save(store, 200)
        await shipped(store)
        await store.snapshot()
        await save(store, 50, more="ä")
        await shipped(store)
        found = await held(store)
    async with statepath.open(path) as replica:
        assert (replica.readonly, replica.seq) == (True, 252)
        assert await held(replica) == found
        assert [one for one in await replica.verify() if one.severity == "damage"] == []
    assert (await statepath.promote(path)).seq == 252
    async with statepath.open(path, autosave=0) as promoted:
        assert await held(promoted) == found
        assert await promoted.collection("raw").put({"id": "mine"}) == 254
        assert await promoted.verify() == []
    async with statepath.open(tmp_path / "store", mirror=path, autosave=0) as store:
        await save(store, 1)
        async with asyncio.timeout(60):
            while not store.mirror_lag.stopped:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        assert "was promoted at seq 252" in store.mirror_lag.failure
    with pytest.raises(DivergedError, match="both went on"):
        await statepath.mirror(tmp_path / "store", path, once=True)


async def test_many_commits_are_one_request(counted, requests, tmp_path, monkeypatch):
    monkeypatch.setattr("statepath.engine.primary._PAUSE", 2.0)
    async with statepath.open(tmp_path / "store", mirror=counted, autosave=0) as store:
        await shipped(store)
        requests()
        await save(store, 500)
        await shipped(store)
    is_commit = writes("journal/0")
    sent = [one for one in requests() if is_commit(one.method, one.target, one.body)]
    assert 0 < len(sent) <= 501 / 10


async def test_a_lost_answer_ships_nothing_twice(counted, proxy, tmp_path):
    told = []
    events = Events()
    events.on(MirrorFailed, told.append)
    events.on(MirrorCaughtUp, told.append)
    async with statepath.open(tmp_path / "store", mirror=counted, autosave=0, events=events) as store:
        await shipped(store)
        is_commit = writes("journal/0")
        proxy.fault(Does.RESET_AFTER, lambda one: is_commit(one.method, one.target, one.body), times=2)
        await save(store, 30)
        await shipped(store)
        found = await held(store)
    async with statepath.open(counted, readonly=True) as replica:
        assert await held(replica) == found
        history = [one.seq for one in await replica.history()]
        assert history == sorted(set(history))
    assert [one for one in told if isinstance(one, MirrorFailed)] == []
