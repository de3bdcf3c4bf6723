"""Several writers of one store, each told to keep its replica: one ships at a time, and the replica gets everything."""

from __future__ import annotations

import asyncio
import signal
from uuid import uuid4

import pytest
import statepath
from crowd import work
from crowd.processes import Client, together
from statepath.engine.primary import OpenPrimary
from statepath.events import Events, MirrorFailed, MirrorRebased


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr("statepath.engine.primary._PAUSE", 0.01)
    monkeypatch.setattr("statepath.engine.mirror._SOONEST", 0.02)
    monkeypatch.setattr("statepath.engine.mirror._TURN", 0.05)
    monkeypatch.setattr("statepath.engine.mirror._GRACE", 60)


@pytest.fixture
def source():
    return f"memory://{uuid4().hex}"


@pytest.fixture
def target():
    return f"memory://{uuid4().hex}"


def shipping(stores):
    """Those that ship."""
    return [store for store in stores if store.mirror_lag.seq is not None and not store.mirror_lag.elsewhere]


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


async def held(path):
    async with statepath.open(path, readonly=True) as store:
        documents = {document["id"]: document async for document in store.collection("raw")}
        documents |= {document["id"]: document async for document in store.collection("docs")}
        reports = [await store.read_report(id) for id in await store.reports()]
        return store.seq, documents, reports, [await store.read_log(id) for id in await store.logs()]


async def save(store, name):
    for n in range(10):
        await store.collection("raw").put({"id": f"{name} {n % 3}", "n": n})
        await store.append_log("shared", f"{name} {n}\n")


async def test_one_of_several_writers_ships_what_all_of_them_save(source, target):
    events, failed = Events(), []
    events.on(MirrorFailed, failed.append)
    events.on(MirrorRebased, failed.append)
    options = {"autosave": 0, "mirror": target, "events": events}
    async with (
        statepath.open(source, **options) as one,
        statepath.open(source, **options) as two,
        statepath.open(source, **options) as three,
    ):
        stores = (one, two, three)
        await asyncio.gather(*(save(store, str(n)) for n, store in enumerate(stores)))
        await one.sync()
        await until(
            lambda: len(shipping(stores)) == 1 and sum(store.mirror_lag.elsewhere for store in stores) == 2
        )
        (ships,) = shipping(stores)
        await until(lambda: ships.mirror_lag.seq == one.seq)
        other = next(store for store in stores if store is not ships)
        assert "another process ships" in str([check.summary for check in (await other.health()).checks])
    assert failed == []
    assert await held(target) == await held(source)


async def test_the_next_writer_ships_when_the_one_that_did_closes(source, target):
    options = {"autosave": 0, "mirror": target}
    one = await statepath.open(source, **options)
    await save(one, "one")
    await until(lambda: one.mirror_lag.seq == one.seq)
    async with statepath.open(source, **options) as two:
        await until(lambda: two.mirror_lag.elsewhere)
        await one.aclose()
        await save(two, "two")
        await until(lambda: two.mirror_lag.seq == two.seq)
        assert not two.mirror_lag.elsewhere
    assert await held(target) == await held(source)


async def test_a_writer_that_has_not_seen_yet_what_was_shipped_does_not_take_it_for_another_history(source):
    async with statepath.open(source, autosave=0) as behind, statepath.open(source, autosave=0) as ahead:
        await save(ahead, "ahead")
        shipped = await OpenPrimary(ahead._engine).head()
        assert behind.seq < shipped.seq
        await OpenPrimary(behind._engine).check(shipped)


def beside(path):
    """The state path of another store on the same storage."""
    return path.replace("store=", "store=r", 1) if "store=" in path else path.replace("?", "r?", 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "seaweed"], indirect=True)
async def test_the_replica_of_a_store_whose_writers_are_killed_has_everything(path, monkeypatch):
    replica = beside(path)
    async with statepath.open(path, autosave=0):
        pass
    monkeypatch.setenv("STATE_MIRROR", replica)
    killed = Client(work.write_everything, 0.0, 9, path, 10_000)
    working = asyncio.create_task(together(2, work.write_everything, path, 10))
    await asyncio.sleep(1)
    killed.send(signal.SIGKILL)
    await killed.ended()
    assert await working == [[], []]
    monkeypatch.delenv("STATE_MIRROR")
    async with statepath.open(path, autosave=0):
        pass  # what the killed one had committed, and not yet written into files
    await statepath.mirror(path, replica, once=True)
    assert await held(replica) == await held(path)
    async with statepath.open(replica, readonly=True) as store:
        assert [one for one in await store.verify() if one.severity == "damage"] == []
