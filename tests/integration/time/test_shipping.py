"""One mirror among others: what it has still to do when it ends, slept or stalled changes nothing any more."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import pytest
import statepath
from msgspec.structs import replace
from statepath.backend import slot_key
from statepath.discovery import connect
from statepath.engine.floor import read_floor, write_floor
from statepath.engine.founding import silent
from statepath.engine.opening import attach
from statepath.engine.primary import DistantPrimary
from statepath.engine.shipping import Shipping
from statepath.errors import UnavailableError

pytestmark = pytest.mark.usefixtures("soon")


def held(change, begun, free):
    """A change that waits before it is made, of the files of logs and reports."""

    async def waiting(key, *args, **options):
        if key.startswith(("logs/", "reports/")):
            begun.set()
            await free.wait()
        return await change(key, *args, **options)

    return waiting


async def slept(path, store, to, places):
    """A slot with seqs 2 to 8, as a mirror leaves it that slept: it goes into the replica that is at seq 5."""
    beside = f"{to}-beside"
    raw = store.collection("raw")
    await raw.put({"id": "1"})
    await statepath.mirror(path, beside, once=True)
    for n in range(2, 6):
        await raw.put({"id": f"{n}"})
    await statepath.mirror(path, to, once=True)
    for n in range(6, 9):
        await raw.put({"id": f"{n}"})
    await statepath.mirror(path, beside, once=True)
    assert await places.keys(beside, "journal/0") == [slot_key(2)]
    return slot_key(2), await places.read(beside, slot_key(2))


async def test_what_a_mirror_that_slept_leaves_below_a_replica_made_meanwhile_is_nothing(
    path, store, tmp_path, places
):
    to = f"memory://{tmp_path}/to"
    await places.write(to, *await slept(path, store, to, places))
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.seq, replica.damage) == (5, ())
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        assert replica.seq == 8
        assert await replica.verify() == []


async def test_what_a_mirror_that_slept_leaves_while_a_replica_is_promoted_is_nothing(
    path, store, tmp_path, places, monkeypatch
):
    to = f"memory://{tmp_path}/to"
    slot, data = await slept(path, store, to, places)
    async with places.objects(
        to, readonly=False
    ) as backend:  # it was being made anew: the snapshot was there
        floor, etag = await read_floor(backend)
        await write_floor(backend, replace(floor, floor=1, packed=0), etag)

    async def fails(self, *args):
        await places.write(to, slot, data)
        raise UnavailableError("the power failed")

    with monkeypatch.context() as patch:
        patch.setattr("statepath.log.PortableCommitLog.append", fails)
        with pytest.raises(UnavailableError):
            await statepath.promote(to)
    await statepath.promote(to)
    async with statepath.open(to, readonly=True) as promoted:
        assert promoted.seq == 6
        assert await promoted.collection("raw").find().count() == 5


async def test_what_a_mirror_ships_while_its_replica_is_promoted_stays(
    path, store, tmp_path, places, monkeypatch
):
    to = f"memory://{tmp_path}/to"
    await slept(path, store, to, places)
    await statepath.mirror(path, to, once=True)
    shipped = slot_key(6), await places.read(to, slot_key(6))
    async with places.objects(
        to, readonly=False
    ) as backend:  # it was being made anew: the snapshot was there
        await backend.delete(slot_key(6))
        floor, etag = await read_floor(backend)
        await write_floor(backend, replace(floor, floor=1, packed=0), etag)
    floors = []

    async def with_more_behind(*args):
        floors.append(etag := await write_floor(*args))
        if len(floors) == 1:
            await places.write(to, *shipped)
        return etag

    monkeypatch.setattr("statepath.engine.promoting.write_floor", with_more_behind)
    assert (await statepath.promote(to)).seq == 8
    async with statepath.open(to, readonly=True) as promoted:
        assert promoted.damage == ()
        assert await promoted.collection("raw").find().count() == 8


@asynccontextmanager
async def shipping(source, target):
    """A session with a replica that ships as far as it is told to: that of a mirror which stalls in between."""
    settings = statepath.Settings.load(source)
    primary = await DistantPrimary.open(partial(connect, source, readonly=True), settings)
    backend = await attach(await connect(target), settings)
    session = await Shipping.begin(primary, backend, settings, silent)

    async def ship(seq):
        async for commits in primary.commits(session.position.seq):
            async for _ in session.ship(commits):
                pass
            if session.position.seq == seq:
                return

    try:
        yield ship, session, backend
    finally:
        await session.close()
        await backend.close()
        await primary.close()


async def test_a_snapshot_that_hangs_at_the_end_keeps_nothing_else_running(path, store, tmp_path, until):
    cancelled, free = asyncio.Event(), asyncio.Event()

    async def hanging():
        try:
            await free.wait()
        except asyncio.CancelledError:
            cancelled.set()
            await free.wait()

    async with shipping(path, f"memory://{tmp_path}/to") as (_, session, _):
        session._snapshotting = asyncio.create_task(hanging())
        await asyncio.sleep(0)  # it has begun
        closing = asyncio.create_task(session.close())
        await cancelled.wait()
        await until(session._views._task._task.done)
        assert not closing.done()
        free.set()
        await closing


async def test_a_replica_whose_snapshot_finds_no_room_on_the_way_is_told(
    path, store, tmp_path, monkeypatch, caplog
):
    def full():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("statepath.engine.shipping.Spool", full)
    async with shipping(path, f"memory://{tmp_path}/to") as (_, session, _):
        await session._snapshot()
    assert "snapshot could not be written: no usable temporary directory" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
@pytest.mark.parametrize("kind", ["report", "log", "log begun anew"])
async def test_a_mirror_that_stalled_takes_nothing_back_that_another_has_shipped(
    tmp_path, backend, contents, kind, monkeypatch
):
    path, to = tmp_path / "state", f"{backend}://{tmp_path}/to"
    async with statepath.open(path, autosave=0) as store:

        async def change(n):
            if kind == "report":
                await store.save_report("r", {"n": n})
            else:
                if kind == "log begun anew":
                    await store.delete_log("x")
                await store.append_log("x", f"{n}\n")

        await change(1)
        await statepath.mirror(path, to, once=True)
        async with shipping(path, to) as (ship, session, target):
            stalled, free = asyncio.Event(), asyncio.Event()
            for name in {"write", "write_at", "delete"}.intersection(dir(target)):
                monkeypatch.setattr(target, name, held(getattr(target, name), stalled, free))
            await change(2)
            await ship(store.seq)
            await stalled.wait()
            for n in range(3, 5):
                await change(n)
                await statepath.mirror(path, to, once=True)
            free.set()
            await session.settle()
        async with statepath.open(to, readonly=True) as replica:
            assert await contents(replica) == await contents(store)
