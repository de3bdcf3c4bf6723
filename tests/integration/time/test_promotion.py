"""A replica that is promoted goes on from where it was, as a store of its own, and is never written over."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock

import pytest
import statepath
from statepath.errors import (
    DivergedError,
    InvalidArgumentError,
    ReadOnlyError,
    StoreLockedError,
    UnavailableError,
)
from statepath.events import MirrorCaughtUp, MirrorFailed, StorePromoted

pytestmark = pytest.mark.usefixtures("soon")


@pytest.mark.everywhere
async def test_a_replica_takes_no_changes_until_it_is_promoted(path, store, elsewhere, fill, contents, told):
    await fill(store)
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to) as replica:
        assert replica.readonly
        with pytest.raises(ReadOnlyError, match="statepath mirror promote"):
            await replica.collection("raw").put({"id": "a"})
    at = store._engine.replica.time
    made = await statepath.promote(to, events=told)
    assert (made.seq, made.store, made.primary) == (21, store.id, store.url)
    assert round(made.time.timestamp() * 1_000_000) == at
    assert [(event.seq, event.primary) for event in told.of(StorePromoted)] == [(21, store.url)]
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.incarnation == made.incarnation != store.incarnation
        assert promoted.damage == ()
        assert await contents(promoted) == await contents(store)
        assert await promoted.collection("raw").put({"id": "a"}) == 23
        await promoted.snapshot()
        assert await promoted.verify() == []
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.damage == ()
        assert await promoted.collection("raw").get("a") == {"id": "a"}
        await promoted.restore(at=21)
        assert await promoted.collection("raw").get("a") is None
    with pytest.raises(InvalidArgumentError, match="is no replica"):
        await statepath.promote(to)


async def test_a_promotion_that_was_interrupted_is_finished_by_the_next(path, store, elsewhere, monkeypatch):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)

    async def fails(*args):
        raise UnavailableError("the power failed", code="disk_full")

    with monkeypatch.context() as patch:
        patch.setattr("statepath.engine.promoting.write_floor", fails)
        with pytest.raises(UnavailableError):
            await statepath.promote(to)
    with pytest.raises(DivergedError, match="is being promoted"):
        await statepath.mirror(path, to, once=True)
    async with statepath.open(to) as replica:
        assert (replica.readonly, replica.seq) == (True, 2)
    assert (await statepath.promote(to)).seq == 1
    async with statepath.open(to, autosave=0) as promoted:
        assert await promoted.collection("raw").put({"id": "b"}) == 3
        assert await promoted.verify() == []


async def test_so_is_that_of_a_replica_that_had_nothing(path, store, elsewhere, monkeypatch):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    with monkeypatch.context() as patch:
        patch.setattr(
            "statepath.engine.promoting.write_floor",
            AsyncMock(side_effect=UnavailableError("the power failed")),
        )
        with pytest.raises(UnavailableError):
            await statepath.promote(to)
    assert (await statepath.promote(to)).seq == 0
    async with statepath.open(to, autosave=0) as promoted:
        assert await promoted.collection("raw").put({"id": "a"}) == 2
        assert await promoted.verify() == []


async def test_a_promoted_replica_is_never_written_over(path, store, elsewhere, told):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await statepath.promote(to)
    with pytest.raises(DivergedError, match="has everything that") as caught:
        await statepath.mirror(path, to)
    assert caught.value.code == "promoted"
    await store.collection("raw").put({"id": "b"})
    async with statepath.open(to, autosave=0) as promoted:
        await promoted.collection("raw").put({"id": "mine"})
    before = await elsewhere.keys(to)
    with pytest.raises(DivergedError, match=r"is at seq 3 and .* at seq 2") as caught:
        await statepath.mirror(path, to, events=told)
    assert caught.value.code == "split"
    assert [event.retrying for event in told.of(MirrorFailed)] == [False]
    assert await elsewhere.keys(to) == before


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_a_mirror_that_runs_stops_when_its_replica_is_promoted(
    path, store, tmp_path, backend, told, until, mirroring
):
    """Where the replica has no lock, the log itself tells of the promotion."""
    to = f"{backend}://{tmp_path}/to"
    async with mirroring(path, to, events=told) as task:
        await store.collection("raw").put({"id": "a"})
        await until(lambda: told.of(MirrorCaughtUp))
        await statepath.promote(to)
        await store.collection("raw").put({"id": "b"})
        with pytest.raises(DivergedError):
            await asyncio.wait_for(task, 60)
    async with statepath.open(to, autosave=0) as promoted:
        assert await promoted.collection("raw").get("b") is None
        assert promoted.damage == ()


async def test_a_cursor_of_the_primary_goes_on_in_the_promoted_replica(path, store, elsewhere):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": "a", "n": n})
    cursors = [one.cursor for one in await store.history()]
    await statepath.mirror(path, to, once=True)
    await statepath.promote(to)
    await raw.put({"id": "lost"})
    lost = (await store.history())[-1].cursor
    async with statepath.open(to, autosave=0) as promoted:
        await promoted.collection("raw").put({"id": "mine"})
        async for change in promoted.watch(since=cursors[1]):
            assert (change.seq, change.value) == (3, {"id": "a", "n": 2})
            break
        with pytest.raises(DivergedError, match="another incarnation"):
            promoted.watch(since=lost)


async def test_a_later_snapshot_of_the_old_primary_is_not_taken_for_the_stores_own(path, store, elsewhere):
    """As when it was on its way while the replica was promoted."""
    to = elsewhere.new()
    for n in range(2):
        await store.collection("raw").put({"id": "a", "n": n})
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
    await statepath.promote(to)
    await store.collection("raw").put({"id": "lost"})
    await store.snapshot()
    await elsewhere.write(to, "state.json", (await store._engine.backend.read("state.json")).data)
    async with statepath.open(to, autosave=0) as promoted:
        assert [damage.key for damage in promoted.damage] == ["state.json"]
        assert await promoted.collection("raw").find().all() == [{"id": "a", "n": 1}]
        assert await promoted.collection("raw").put({"id": "mine"}) == 4
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.damage == ()
        assert await promoted.verify() == []


async def test_a_promoted_store_that_lost_its_record_is_still_one_history(path, store, elsewhere):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    made = await statepath.promote(to)
    await elsewhere.delete(to, "journal/floor")
    for n in range(2):
        async with statepath.open(to, autosave=0) as promoted:
            assert [damage.key for damage in promoted.damage] == ["journal/floor"] * (1 - n)
            assert promoted.incarnation == made.incarnation
            await promoted.collection("raw").put({"id": "mine", "n": n})
            assert await promoted.collection("raw").find().count() == 2


@pytest.mark.slow
async def test_a_replica_with_a_lock_is_not_promoted_under_its_mirror(
    path, store, tmp_path, told, until, mirroring
):
    to = str(tmp_path / "locked")
    async with mirroring(path, to, events=told):
        await until(lambda: told.of(MirrorCaughtUp))
        with pytest.raises(StoreLockedError):
            await statepath.promote(to)
