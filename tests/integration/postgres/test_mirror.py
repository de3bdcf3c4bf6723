"""A replica in a database: shipped to, made anew, promoted; and a store in a database that is mirrored."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import statepath
from statepath.errors import DivergedError, UnavailableError
from statepath.events import Events, MirrorRebased
from statepath_postgres.log import PostgresCommitLog


async def save(store, count):
    raw = store.collection("raw")
    await asyncio.gather(*(raw.put({"id": str(n % 10), "n": n}) for n in range(count)))
    await store.append_log("s", f"{count}\n")
    await store.flush()


async def held(store):
    return {one["id"]: one async for one in store.collection("raw")}, await store.read_log("s")


async def test_a_replica_in_a_database_is_promoted(path, tmp_path):
    async with statepath.open(tmp_path / "store", autosave=0) as store:
        await save(store, 100)
        await statepath.mirror(tmp_path / "store", path, once=True)
        await save(store, 100)
        await store.snapshot()
        await statepath.mirror(tmp_path / "store", path, once=True)
        found = await held(store)
    async with statepath.open(path) as replica:
        assert replica.readonly
        assert await held(replica) == found
    assert (await statepath.promote(path)).seq == 202
    async with statepath.open(path, autosave=0) as promoted:
        assert await held(promoted) == found
        assert await promoted.collection("raw").put({"id": "mine"}) == 204
        assert await promoted.verify() == []
    with pytest.raises(DivergedError):
        await statepath.mirror(tmp_path / "store", path, once=True)


async def outgrow(store):
    """Go on until the log does not reach back any more to where the replica stands."""
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for _ in range(3):
        await save(store, 10)
        await store.snapshot()


async def test_a_replica_in_a_database_is_made_anew(path, tmp_path, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    told = []
    events = Events()
    events.on(MirrorRebased, told.append)
    async with statepath.open(tmp_path / "store", autosave=0) as store:
        await save(store, 10)
        await statepath.mirror(tmp_path / "store", path, once=True)
        await outgrow(store)
        await statepath.mirror(tmp_path / "store", path, once=True, events=events)
        assert [event.seq for event in told] == [store.seq]
        await save(store, 10)
        await statepath.mirror(tmp_path / "store", path, once=True, events=events)
        assert len(told) == 1
        async with statepath.open(path, readonly=True) as replica:
            assert replica.damage == ()
            assert await held(replica) == await held(store)


async def test_a_replica_in_a_database_is_promoted_that_was_being_made_anew(path, tmp_path, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)

    async def dies(self, after):
        raise UnavailableError("killed")

    async with statepath.open(tmp_path / "store", autosave=0) as store:
        await save(store, 10)
        await statepath.mirror(tmp_path / "store", path, once=True)
        await outgrow(store)
        with monkeypatch.context() as patch:
            patch.setattr(PostgresCommitLog, "restart", dies)
            with pytest.raises(UnavailableError, match="killed"):
                await statepath.mirror(tmp_path / "store", path, once=True)
        found, seq = await held(store), store.seq
    assert (await statepath.promote(path)).seq == seq
    async with statepath.open(path, autosave=0) as promoted:
        assert promoted.damage == ()
        assert await held(promoted) == found
        assert await promoted.collection("raw").put({"id": "mine"}) == seq + 2
        assert await promoted.verify() == []


async def test_a_store_in_a_database_is_mirrored(path, tmp_path):
    async with statepath.open(path, mirror=tmp_path / "replica", autosave=0) as store:
        await save(store, 200)
        async with asyncio.timeout(60):
            while store.mirror_lag.seq != store.seq:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.02)
        found = await held(store)
    async with statepath.open(tmp_path / "replica") as replica:
        assert await held(replica) == found
