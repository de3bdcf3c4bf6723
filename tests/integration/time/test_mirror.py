"""Replicas: shipped to from each backend to each, again after an interruption, promoted, and never written over."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
import subprocess
import sys
from collections import deque
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import statepath
from msgspec.structs import replace
from statepath.backend import slot_key
from statepath.discovery import connect
from statepath.engine.floor import read_floor, write_floor
from statepath.engine.founding import silent
from statepath.engine.opening import attach
from statepath.engine.primary import DistantPrimary
from statepath.engine.shipping import ReplicaDamagedError, Shipping
from statepath.errors import (
    AlreadyExistsError,
    CorruptionError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    StateError,
    StoreLockedError,
    UnavailableError,
)
from statepath.events import (
    MirrorCaughtUp,
    MirrorFailed,
    MirrorLagging,
    MirrorRebased,
    StorePromoted,
)
from statepath.memory import MemoryBackend, _stores

pytestmark = pytest.mark.usefixtures("soon")


def of(told, kind):
    return [event for event in told.all if isinstance(event, kind)]


async def until(condition, seconds=20.0):
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - any condition
            await asyncio.sleep(0.01)


@asynccontextmanager
async def mirroring(source, target, **options):
    """A mirror that runs beside."""
    task = asyncio.create_task(statepath.mirror(source, target, **options))
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, StateError):
            await task


def held(change, begun, free):
    """A change that waits before it is made, of the files of logs and reports."""

    async def waiting(key, *args, **options):
        if key.startswith(("logs/", "reports/")):
            begun.set()
            await free.wait()
        return await change(key, *args, **options)

    return waiting


def commits_of(store):
    return store._engine.log.read(store._engine.floor - 1)


@pytest.mark.everywhere
async def test_the_replica_holds_what_the_store_holds(path, store, elsewhere, fill, contents):
    await fill(store)
    to = elsewhere.new()
    assert (await statepath.mirror(path, to, once=True)).seq == store.seq
    await fill(store)
    assert (await statepath.mirror(path, to, once=True)).seq == store.seq == 42
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.id, replica.incarnation, replica.seq) == (store.id, store.incarnation, store.seq)
        assert replica.replica_of == store.url
        assert store.replica_of is None
        assert await contents(replica) == await contents(store)
        assert [one for one in await replica.verify() if one.severity == "damage"] == []


async def test_commits_keep_their_seqs_ids_and_times(path, store, elsewhere):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    for n in range(5):
        async with store.transaction() as tx:
            tx.put(store.collection("raw"), {"id": "a", "n": n})
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        facts = [
            [(one.first, one.last, one.id, one.prev, one.time, one.writer) async for one in commits_of(each)]
            for each in (store, replica)
        ]
        assert facts[0] == facts[1]
        assert len(facts[0]) == 5
        durable = [one.durable async for one in commits_of(replica)]
        # What was not durable here when it was written: one write has several.
        assert len(set(durable)) < 5


@pytest.mark.everywhere
async def test_each_commit_is_shipped_as_it_happens(path, store, elsewhere, told):
    to = elsewhere.new()
    async with mirroring(path, to, events=told):
        await until(lambda: of(told, MirrorCaughtUp))
        for n in range(1, 4):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.append_log("s", f"{n}\n")
            async with asyncio.timeout(20), statepath.open(to, readonly=True) as replica:
                await replica.sync(at_least=store.seq)
                assert (await replica.collection("raw").get("a"))["n"] == n


async def test_a_cursor_of_the_store_is_waited_for_by_a_replica_that_lags(path, store, elsewhere):
    raw, to = store.collection("raw"), elsewhere.new()
    await raw.put({"id": "a"})
    await statepath.mirror(path, to, once=True)
    await raw.put({"id": "b"})
    cursor = (await store.history())[-1].cursor
    await raw.put({"id": "c"})
    async with (
        statepath.open(to, readonly=True) as replica,
        aclosing(replica.watch(since=cursor)) as changes,
    ):
        waiting = asyncio.ensure_future(anext(changes))
        await until(lambda: waiting.done() or replica._engine.stream._feed.followers)
        await statepath.mirror(path, to, once=True)
        assert (await waiting).id == "c"


async def test_the_opener_of_a_store_runs_it_in_the_background(places, elsewhere, fill, contents, told):
    path, to = places.new(), elsewhere.new()
    async with statepath.open(path, autosave=0, mirror=to, events=told) as store:
        await until(lambda: store.mirror_lag.seq is not None)
        await fill(store)
        await until(lambda: store.mirror_lag.seq == store.seq)
        lag = (await store.health()).mirror
        assert (lag.behind, lag.seconds, lag.failure, lag.stopped) == (0, 0.0, None, False)
        held = await contents(store)
        await store.collection("raw").put({"id": "last"})
    assert of(told, MirrorCaughtUp)
    async with statepath.open(to, readonly=True) as replica:
        assert (await replica.collection("raw").get("last")) == {"id": "last"}
        assert replica.seq == 22
        found = await contents(replica)
        found["raw"].pop("last")
        assert found == held
    async with statepath.open(path, autosave=0, mirror=to, events=told) as store:
        await store.collection("raw").put({"id": "later"})
    async with statepath.open(to, readonly=True) as replica:
        assert replica.seq == 23
    assert of(told, MirrorFailed) == []


async def test_a_store_that_is_closed_at_once_has_its_replica(places, elsewhere, monkeypatch):
    connect = statepath.discovery.connect
    path, to = places.new(), elsewhere.new()

    async def later(place, **options):
        if place == to:
            await asyncio.sleep(0.1)  # so that it is closing by then
        return await connect(place, **options)

    monkeypatch.setattr("statepath.opening.connect", later)
    async with statepath.open(path, autosave=0, mirror=to) as store:
        await store.collection("raw").put({"id": "a"})
        await store.append_log("s", "a\n")
    async with statepath.open(to) as replica:
        assert await replica.collection("raw").get("a") == {"id": "a"}
        assert await replica.read_log("s") == "a\n"


async def test_bodies_and_the_archive_are_carried(path, store, elsewhere, monkeypatch):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 10_000)
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    raw = store.collection("raw")
    await raw.put({"id": "large", "text": "x" * 20_000})
    await raw.put({"id": "old"})
    await asyncio.sleep(0.01)
    await store.archive("raw", older_than="1ms", id="old")
    await statepath.mirror(path, to, once=True)
    assert [key for key in await elsewhere.keys(to) if key.startswith("bodies/")]
    async with statepath.open(to, readonly=True) as replica:
        assert len((await replica.collection("raw").get("large"))["text"]) == 20_000
        assert await replica.read_archived("raw", "old") == {"id": "old"}
        assert await replica.verify() == []


@pytest.mark.parametrize("part", ["jsonl.gz", "index.json"])
async def test_a_damaged_segment_of_the_archive_is_not_shipped(path, store, elsewhere, part):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await store.collection("raw").put({"id": "old"})
    await asyncio.sleep(0.01)
    await store.archive("raw", older_than="1ms", id="old")
    backend = store._engine.backend
    (key,) = [one.key async for one in backend.list_keys("archive/") if one.key.endswith(part)]
    bad = bytearray((await backend.read(key)).data)
    bad[len(bad) // 2] ^= 0x01
    await backend.write(key, bytes(bad))
    with pytest.raises(CorruptionError, match=key):
        await statepath.mirror(path, to, once=True)
    assert key not in await elsewhere.keys(to)


async def test_a_mirror_that_is_behind_holds_few_large_transactions_at_once(monkeypatch):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 10_000)
    monkeypatch.setattr("statepath.engine.shipping._RECORD_BYTES", 50_000)
    read, write = MemoryBackend.read, MemoryBackend.write
    held = [0]

    async def reading(self, key, **options):
        blob = await read(self, key, **options)
        if key.startswith("bodies/") and self.url == "memory://large":
            held.append(held[-1] + len(blob.data))
        return blob

    async def writing(self, key, data, **options):
        if key.startswith("bodies/") and self.url == "memory://replica":
            held.append(held[-1] - len(data))
        return await write(self, key, data, **options)

    monkeypatch.setattr(MemoryBackend, "read", reading)
    monkeypatch.setattr(MemoryBackend, "write", writing)
    async with statepath.open("memory://large", autosave=0) as store:
        await statepath.mirror("memory://large", "memory://replica", once=True)
        for _ in range(12):
            await store.collection("raw").put({"id": "large", "text": "x" * 20_000})
        await statepath.mirror("memory://large", "memory://replica", once=True)
    assert held[-1] == 0
    assert 20_000 < max(held) < 100_000


async def test_the_primarys_snapshots_become_the_replicas(path, store, elsewhere):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    for n in range(3):
        await store.collection("raw").put({"id": "a", "n": n})
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
    async with elsewhere.objects(to) as there:
        assert (await there.read("state.json")).data == (await store._engine.backend.read("state.json")).data
    async with statepath.open(to, readonly=True) as replica:
        assert (await replica.health()).snapshot_seq == 3
        assert len(await replica.backups()) == len(await store.backups()) == 2


@pytest.mark.parametrize("kept", ["all of it", "little of it"])
async def test_a_replica_whose_log_was_packed_and_trimmed_has_each_commit_that_it_keeps(
    path, store, places, monkeypatch, kept
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 1)
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_BODIES", -1)
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 1000)
    to, raw = places.new(), store.collection("raw")
    settings = statepath.Settings.load(path, history=0 if kept == "little of it" else "90d")
    await statepath.mirror(path, to, once=True)
    for n in range(20):
        await raw.put({"id": f"{n:02}", "text": "x" * 1000})  # a body of its own
        if n % 5 == 2:
            await store.snapshot()  # in the middle of what is shipped at once
        if n % 5 == 4:
            await statepath.mirror(path, to, once=True, settings=settings)
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.verify() == []
        floor = (await replica.stats()).floor
        assert [change.seq for change in await replica.history(since=floor - 1)] == [*range(floor, 21)]
        assert (floor == 1) == (kept == "all of it")
        for seq in range(floor - 1, 21):
            assert len(await replica.diff(seq, 20)) == 20 - seq, f"there is no way back to seq {seq}"
    copy = places.new()
    await statepath.copy(to, copy, history=True)
    async with statepath.open(copy, autosave=0) as copied:
        assert await copied.verify() == []
        assert await copied.collection("raw").find().count() == 20
        assert len(await copied.diff(floor - 1, 20)) == 21 - floor
    await places.write(to, "state.json", b"{")
    if kept == "all of it":
        newest = (await places.keys(to, "state.backup."))[-1]
        await places.write(to, newest, b"{")
    await statepath.promote(to)
    async with statepath.open(to, readonly=True) as promoted:
        assert await promoted.collection("raw").find().count() == 20


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
    assert [(event.seq, event.primary) for event in of(told, StorePromoted)] == [(21, store.url)]
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
    assert [event.retrying for event in of(told, MirrorFailed)] == [False]
    assert await elsewhere.keys(to) == before


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_a_mirror_that_runs_stops_when_its_replica_is_promoted(path, store, tmp_path, backend, told):
    """Where the replica has no lock, the log itself tells of the promotion."""
    to = f"{backend}://{tmp_path}/to"
    async with mirroring(path, to, events=told) as task:
        await store.collection("raw").put({"id": "a"})
        await until(lambda: of(told, MirrorCaughtUp))
        await statepath.promote(to)
        await store.collection("raw").put({"id": "b"})
        with pytest.raises(DivergedError):
            await asyncio.wait_for(task, 20)
    async with statepath.open(to, autosave=0) as promoted:
        assert await promoted.collection("raw").get("b") is None
        assert promoted.damage == ()


async def test_a_place_that_holds_something_else_is_refused(path, store, places, elsewhere, told):
    await store.collection("raw").put({"id": "a"})
    to, other = elsewhere.new(), elsewhere.new()
    async with statepath.open(to) as mine:
        await mine.collection("raw").put({"id": "mine"})
    with pytest.raises(AlreadyExistsError, match="it has another store"):
        await statepath.mirror(path, to)
    await statepath.copy(path, other)
    with pytest.raises(DivergedError, match="is no replica"):
        await statepath.mirror(path, other)


async def test_two_primaries_with_one_replica_are_told_apart(path, store, places, elsewhere):
    await store.collection("raw").put({"id": "a"})
    to, stranger, twin = elsewhere.new(), places.new(), places.new()
    await statepath.mirror(path, to, once=True)
    async with statepath.open(stranger) as other:
        await other.collection("raw").put({"id": "b"})
    with pytest.raises(AlreadyExistsError, match="a replica of another store"):
        await statepath.mirror(stranger, to)
    await statepath.copy(path, twin)
    with pytest.raises(DivergedError, match="of another incarnation"):
        await statepath.mirror(twin, to)
    assert (await statepath.mirror(path, to, once=True)).seq == 1


async def test_a_primary_that_lost_commits_is_not_followed(elsewhere, told):
    """As when its disk is restored from yesterday: the replica has more than is left."""
    path, to = "memory://restored", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        yesterday = _stores["restored"].copy()
        await store.collection("raw").put({"id": "b"})
        await statepath.mirror(path, to, once=True)
    _stores["restored"].clear()
    _stores["restored"].update(yesterday)
    with pytest.raises(DivergedError, match="ends before seq 2"):
        await statepath.mirror(path, to, once=True)
    async with statepath.open(path, autosave=0, mirror=to, events=told) as store:
        for id in ("b", "c"):
            await store.collection("raw").put({"id": id})
        await until(lambda: store.mirror_lag.stopped)
        assert re.search("has another seq|ends with seq", store.mirror_lag.failure)
        assert (await store.health()).healthy
    with pytest.raises(DivergedError, match="has another seq"):
        await statepath.mirror(path, to, once=True)


async def test_a_damaged_replica_is_not_made_anew_from_a_store_that_has_less(elsewhere):
    path, to = "memory://restored-to-less", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await statepath.mirror(path, to, once=True)
        for n in range(1, 9):
            await raw.put({"id": str(n)})
            if n in (2, 6):
                await store.snapshot()
            await statepath.mirror(path, to, once=True)
            if n == 2:
                earlier = _stores["restored-to-less"].copy()
    _stores["restored-to-less"].clear()
    _stores["restored-to-less"].update(earlier)
    newest = max(await elsewhere.keys(to, "journal/0"))
    await elsewhere.write(to, newest, (await elsewhere.read(to, newest)).replace(b"raw", b"rag"))
    before = await elsewhere.read(to, "state.json")
    with pytest.raises(DivergedError, match="the replica has what"):
        await statepath.mirror(path, to, once=True)
    assert await elsewhere.read(to, "state.json") == before


async def replica_with_more(to, name):
    """A replica that is at seq 8, of a store that was put back to seq 6 since."""
    path = f"memory://{name}"
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await statepath.mirror(path, to, once=True)
        for n in range(1, 9):
            await raw.put({"id": str(n)})
            if n == 2:
                await store.snapshot()
            await statepath.mirror(path, to, once=True)
            if n == 6:
                earlier = _stores[name].copy()
    _stores[name].clear()
    _stores[name].update(earlier)
    return path


def damage_seq_4(to):
    """What is in the middle of the journal: what can be read ends with seq 3."""
    (segment,) = (Path(to) / "journal").glob("0*")
    journal = segment.read_bytes()
    segment.write_bytes(journal.replace(b'{"id":"4"}', b'{"id":"X"}'))


async def test_a_native_log_that_is_damaged_in_the_middle_tells_how_far_it_had_come(tmp_path):
    to = str(tmp_path / "to")
    path = await replica_with_more(to, "less-than-a-native-log")
    damage_seq_4(to)
    with pytest.raises(DivergedError, match=r"ends with seq 6, and that with 8.*--reseed"):
        await statepath.mirror(path, to, once=True)


async def test_a_damaged_native_log_that_does_not_tell_how_far_it_had_come_is_not_replaced_unasked(
    tmp_path, monkeypatch
):
    to = str(tmp_path / "to")
    path = await replica_with_more(to, "less-than-an-unknown-log")
    damage_seq_4(to)
    monkeypatch.setattr("statepath.engine.shipping.SupportsNewest", type("Untold", (), {}))
    with pytest.raises(CorruptionError, match=r"does not tell whether it had more than .*--reseed"):
        await statepath.mirror(path, to, once=True)
    await statepath.mirror(path, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.seq, replica.damage) == (6, ())


async def test_a_damaged_native_replica_is_made_anew_from_a_store_that_has_all(path, store, tmp_path):
    to = str(tmp_path / "to")
    await statepath.mirror(path, to, once=True)
    for n in range(1, 9):
        await store.collection("raw").put({"id": str(n)})
    await statepath.mirror(path, to, once=True)
    damage_seq_4(to)
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.seq, replica.damage) == (8, ())


async def test_a_replica_that_stays_damaged_is_told(path, store, elsewhere, monkeypatch):
    async def damaged(*args, **options):
        raise ReplicaDamagedError("its disk is")

    monkeypatch.setattr("statepath.engine.mirror.Shipping.begin", damaged)
    with pytest.raises(CorruptionError, match=r"damaged still: its disk is.*--reseed"):
        await statepath.mirror(path, elsewhere.new(), once=True)


async def test_a_local_store_restored_from_yesterday_is_not_followed(tmp_path):
    path, yesterday, to = (str(tmp_path / name) for name in ("store", "yesterday", "replica"))
    for id in ("a", "b"):
        async with statepath.open(path, autosave=0, mirror=to) as store:
            await store.collection("raw").put({"id": id})
        if id == "a":
            shutil.copytree(path, yesterday)
    async with statepath.open(yesterday, autosave=0, mirror=to) as store:
        await until(lambda: store.mirror_lag.stopped)
        assert "ends with seq 1, and that with 2" in store.mirror_lag.failure
    async with statepath.open(to) as replica:
        assert await replica.collection("raw").find().count() == 2


async def test_a_primary_whose_log_is_damaged_does_not_take_the_replica_with_it(elsewhere, places):
    path, to = "memory://damaged", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "0"})
        await statepath.mirror(path, to, once=True)
        for n in (1, 2):
            await store.collection("raw").put({"id": str(n)})
        await statepath.mirror(path, to, once=True)
        held = await elsewhere.read(to, "journal/floor")
        slots = _stores["damaged"]
        for key in [key for key in slots if key.endswith("3.jsonl")]:
            slots[key] = dataclasses.replace(slots[key], data=slots[key].data.replace(b"raw", b"rag"))
        with pytest.raises(CorruptionError):
            await statepath.mirror(path, to, once=True)
    assert await elsewhere.read(to, "journal/floor") == held
    async with statepath.open(to) as replica:
        assert await replica.collection("raw").find().count() == 3


async def test_a_mirror_into_itself_is_refused(path, store):
    with pytest.raises(InvalidArgumentError, match="onto itself"):
        await statepath.mirror(path, path)
    with pytest.raises(InvalidArgumentError, match="onto itself"):
        await statepath.open(path, mirror=path)


async def test_a_mirror_within_its_own_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "store")
    for to in ("store/replica", "link/replica", "link"):
        with pytest.raises(InvalidArgumentError, match=r"itself|lie within"):
            await statepath.open(tmp_path / "store", mirror=tmp_path / to)
    assert not (tmp_path / "store").exists()


async def test_a_mirror_of_nothing_makes_nothing(path, elsewhere):
    to = elsewhere.new()
    with pytest.raises(NotFoundError):
        await statepath.mirror(path, to)
    assert await elsewhere.keys(to) == []


@pytest.mark.everywhere
async def test_what_was_trimmed_before_it_was_shipped_makes_the_replica_anew(
    path, store, elsewhere, fill, contents, monkeypatch, told
):
    await fill(store)
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for _ in range(3):
        await fill(store)
        await store.snapshot()
    assert (await store.stats()).floor > 22
    await statepath.mirror(path, to, once=True, events=told)
    assert [event.seq for event in of(told, MirrorRebased)] == [store.seq]
    assert len(await elsewhere.keys(to, "state.backup.")) == 1  # what it was before
    await store.collection("raw").put({"id": "later"})
    await statepath.mirror(path, to, once=True, events=told)
    assert len(of(told, MirrorRebased)) == 1
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)
        assert [one for one in await replica.verify() if one.severity == "damage"] == []
    await statepath.promote(to)
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.damage == ()
        await promoted.collection("raw").put({"id": "mine"})
        assert await promoted.verify() == []


async def test_a_replica_that_is_down_is_told_and_tried_again(path, store, elsewhere, switch, told):
    to = elsewhere.new()
    settings = statepath.Settings.load(path, mirror_lag=0.1, deadline=0.2)
    switch["writes"] = 0
    await store.collection("raw").put({"id": "a"})
    async with mirroring(path, to, settings=settings, events=told):
        await until(lambda: of(told, MirrorFailed))
        switch["writes"] = 10**9
        await until(lambda: of(told, MirrorCaughtUp))
    assert [(event.retrying, event.error.code) for event in of(told, MirrorFailed)] == [(True, "disk_full")]
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.collection("raw").get("a") == {"id": "a"}


async def test_a_replica_that_lags_is_told_once_and_when_it_has_caught_up(
    places, elsewhere, told, monkeypatch
):
    gate = asyncio.Event()
    path, to = places.new(), elsewhere.new()
    connect = statepath.discovery.connect

    async def later(place, **options):
        if place == to:
            await gate.wait()
        return await connect(place, **options)

    monkeypatch.setattr("statepath.opening.connect", later)
    async with statepath.open(path, autosave=0, mirror=to, mirror_lag=0.05, events=told) as store:
        await asyncio.sleep(0.1)  # so that the feed is followed from the beginning
        for n in range(3):
            await store.collection("raw").put({"id": "a", "n": n})
        await until(lambda: of(told, MirrorLagging))
        assert store.mirror_lag.behind == 3
        gate.set()
        await until(lambda: of(told, MirrorCaughtUp))
        assert (store.mirror_lag.seq, store.mirror_lag.behind) == (3, 0)
    assert len(of(told, MirrorLagging)) == 1


async def test_it_goes_on_wherever_it_was_interrupted(path, store, elsewhere, fill, contents, switch):
    await fill(store)
    to, attempts = elsewhere.new(), 0
    for more in range(40):
        switch["writes"] = 3
        try:
            await statepath.mirror(path, to, once=True)
        except UnavailableError:
            attempts += 1
            await store.collection("raw").put({"id": "since", "n": more})
            if more % 3 == 0:
                await store.append_log("s/1", f"{more}\n")
                await store.snapshot()
        else:
            break
    assert attempts > 0
    switch["writes"] = 10**9
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)
        assert [one for one in await replica.verify() if one.severity == "damage"] == []


async def test_a_copy_does_not_take_over_an_unfinished_replica(path, store, elsewhere, fill, switch):
    await fill(store)
    to = elsewhere.new()
    switch["writes"] = 2
    with pytest.raises(UnavailableError):
        await statepath.mirror(path, to, once=True)
    with pytest.raises(AlreadyExistsError):
        await statepath.copy(path, to)
    with pytest.raises(StateError, match="only the primary has the rest"):
        await statepath.promote(to)
    switch["writes"] = 10**9
    await statepath.mirror(path, to, once=True)


async def test_a_copy_of_a_replica_is_a_store(path, store, elsewhere, fill, contents):
    await fill(store)
    to, copied = elsewhere.new(), elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await statepath.copy(to, copied)
    async with statepath.open(copied, autosave=0) as other:
        assert await contents(other) == await contents(store)
        await other.collection("raw").put({"id": "a"})


SAVES = """
import asyncio, sys, statepath

async def main(path, to):
    async with statepath.open(path, mirror=to or None, autosave=0.2) as store:
        for n in range(store.seq, 10**9):
            seq = await store.collection("raw").put({"id": str(n % 50), "n": n})
            if n % 7 == 0:
                await store.append_log("s", f"{n}\\n")
            print(seq, flush=True)
            await asyncio.sleep(0.0005)

asyncio.run(main(*sys.argv[1:]))
"""
MIRRORS = "import asyncio, sys, statepath; asyncio.run(statepath.mirror(*sys.argv[1:], progress=print))"


def killed_after(program, *words, lines):
    """Run the program until it has written so many lines, and kill it; the last line."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        last = deque(islice(process.stdout, lines), 1)
        process.kill()
    return last.pop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("beside", [False, True])
async def test_a_kill_at_any_moment_leaves_a_replica_that_goes_on(tmp_path, contents, beside):
    """Of the server that runs the mirror, or of the mirror beside it; nothing acknowledged is missing in the end."""
    path, to = str(tmp_path / "from"), f"sqlite://{tmp_path}/to.db"
    seq = 0
    for lines in (1, 30, 200, 500):
        if beside:
            with subprocess.Popen(
                [sys.executable, "-u", "-c", SAVES, path, ""], stdout=subprocess.PIPE, text=True
            ) as saving:
                seq = int(saving.stdout.readline())
                killed_after(MIRRORS, path, to, lines=min(lines, 12))
                saving.kill()
        else:
            seq = int(killed_after(SAVES, path, to, lines=lines))
    await statepath.mirror(path, to, once=True)
    async with statepath.open(path, autosave=0) as store:
        assert store.seq >= seq
        await statepath.mirror(path, to, once=True)
        async with statepath.open(to, readonly=True) as replica:
            assert replica.damage == ()
            assert replica.incarnation == store.incarnation
            assert await contents(replica) == await contents(store)
            assert [one for one in await replica.verify() if one.severity == "damage"] == []


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


@pytest.mark.parametrize("slot", [2, 3], ids=["in the middle", "in the newest slot"])
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_a_damaged_replica_is_made_anew(path, store, tmp_path, places, contents, backend, told, slot):
    to = f"{backend}://{tmp_path}/to"
    await statepath.mirror(path, to, once=True)
    for n in range(3):
        await store.collection("raw").put({"id": "a", "n": n})
        await statepath.mirror(path, to, once=True)
    key = slot_key(slot)
    await places.write(to, key, (await places.read(to, key)).replace(b"raw", b"rag"))
    await statepath.mirror(path, to, once=True, events=told)
    assert [event.seq for event in of(told, MirrorRebased)] == [3]
    for _ in range(2):
        async with statepath.open(to, readonly=True) as replica:
            assert replica.damage == ()
            assert await replica.verify() == []
            assert await contents(replica) == await contents(store)
        await store.collection("raw").put({"id": "b"})
        await statepath.mirror(path, to, once=True)  # goes on behind it


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


async def test_a_replica_without_its_snapshot_is_made_anew(path, store, elsewhere, contents, told):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await elsewhere.delete(to, "state.json")
    await statepath.mirror(path, to, once=True, events=told)
    assert [event.reason for event in of(told, MirrorRebased)] == ["it is damaged: state.json is missing"]
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)


async def test_two_mirrors_of_one_store_do_no_harm(path, store, elsewhere, contents):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    async with mirroring(path, to), mirroring(path, to):
        for n in range(100):
            await store.collection("raw").put({"id": str(n % 7), "n": n})
            await asyncio.sleep(0.002)
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)
        assert [one for one in await replica.verify() if one.severity == "damage"] == []


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


async def test_a_snapshot_that_hangs_at_the_end_keeps_nothing_else_running(path, store, tmp_path):
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
        await until(session._views._task.done)
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


async def test_a_replica_with_a_lock_is_not_promoted_under_its_mirror(path, store, tmp_path, told):
    to = str(tmp_path / "locked")
    async with mirroring(path, to, events=told):
        await until(lambda: of(told, MirrorCaughtUp))
        with pytest.raises(StoreLockedError):
            await statepath.promote(to)


# Made anew
