"""Replicas: shipped to from each backend to each, as it happens and again after an interruption."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import deque
from contextlib import aclosing
from datetime import timedelta
from itertools import islice
from uuid import uuid4

import pytest
import statepath
from msgspec.structs import replace
from statepath.backend import slot_key
from statepath.commit import encode_commit
from statepath.engine.shipping import Shipping
from statepath.errors import (
    AlreadyExistsError,
    CorruptionError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from statepath.events import MirrorCaughtUp, MirrorFailed, MirrorLagging, MirrorRebased
from statepath.memory import MemoryBackend

pytestmark = pytest.mark.usefixtures("soon")


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
async def test_each_commit_is_shipped_as_it_happens(path, store, elsewhere, told, until, mirroring):
    to = elsewhere.new()
    async with mirroring(path, to, events=told):
        await until(lambda: told.of(MirrorCaughtUp))
        for n in range(1, 4):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.append_log("s", f"{n}\n")
            async with asyncio.timeout(60), statepath.open(to, readonly=True) as replica:
                await replica.sync(at_least=store.seq)
                assert (await replica.collection("raw").get("a"))["n"] == n


async def test_a_cursor_of_the_store_is_waited_for_by_a_replica_that_lags(path, store, elsewhere, until):
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


async def test_the_opener_of_a_store_runs_it_in_the_background(
    places, elsewhere, fill, contents, told, until
):
    path, to = places.new(), elsewhere.new()
    async with statepath.open(path, autosave=0, mirror=to, events=told) as store:
        await until(lambda: store.mirror_lag.seq is not None)
        await fill(store)
        await until(lambda: store.mirror_lag.seq == store.seq)
        lag = (await store.health()).mirror
        assert (lag.behind, lag.seconds, lag.failure, lag.stopped) == (0, 0.0, None, False)
        held = await contents(store)
        await store.collection("raw").put({"id": "last"})
    assert told.of(MirrorCaughtUp)
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
    assert told.of(MirrorFailed) == []


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
    monkeypatch.setattr("statepath.engine.shipping.RECORD_BYTES", 50_000)
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
    assert [event.seq for event in told.of(MirrorRebased)] == [store.seq]
    assert len(await elsewhere.keys(to, "state.backup.")) == 1  # what it was before
    await store.collection("raw").put({"id": "later"})
    await statepath.mirror(path, to, once=True, events=told)
    assert len(told.of(MirrorRebased)) == 1
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)
        assert [one for one in await replica.verify() if one.severity == "damage"] == []
    await statepath.promote(to)
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.damage == ()
        await promoted.collection("raw").put({"id": "mine"})
        assert await promoted.verify() == []


async def test_a_replica_that_is_down_is_told_and_tried_again(
    path, store, elsewhere, switch, told, until, mirroring
):
    to = elsewhere.new()
    settings = statepath.Settings.load(path, mirror_lag=0.1, deadline=0.2)
    switch["writes"] = 0
    await store.collection("raw").put({"id": "a"})
    async with mirroring(path, to, settings=settings, events=told):
        await until(lambda: told.of(MirrorFailed))
        switch["writes"] = 10**9
        await until(lambda: told.of(MirrorCaughtUp))
    assert [(event.retrying, event.error.code) for event in told.of(MirrorFailed)] == [(True, "disk_full")]
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.collection("raw").get("a") == {"id": "a"}


async def test_what_cannot_be_shipped_is_told_once_however_often_the_replica_is_reached(
    path, store, elsewhere, told, until, mirroring
):
    to, arrivals = elsewhere.new(), []
    await store.collection("raw").put({"id": "old"})
    await statepath.mirror(path, to, once=True)
    await asyncio.sleep(0.01)
    await store.archive("raw", older_than="1ms", id="old")
    backend = store._engine.backend
    (key,) = [one.key async for one in backend.list_keys("archive/") if one.key.endswith("jsonl.gz")]
    good = (await backend.read(key)).data
    await backend.write(key, good[:-1])
    async with mirroring(path, to, events=told, progress=arrivals.append):
        await until(lambda: len(arrivals) > 3)
        assert [event.error.code for event in told.of(MirrorFailed)] == ["corruption"]
        assert told.of(MirrorCaughtUp) == []
        await backend.write(key, good)
        await until(lambda: told.of(MirrorCaughtUp))


async def test_a_replica_of_a_store_whose_log_is_damaged_has_not_everything(
    told, until, mirroring, monkeypatch
):
    path, to, sessions = f"memory://{uuid4().hex}", f"memory://{uuid4().hex}", []
    begin = Shipping.begin

    async def begun(*args, **options):
        sessions.append(await begin(*args, **options))
        return sessions[-1]

    monkeypatch.setattr(Shipping, "begin", begun)
    async with (
        statepath.open(path, autosave=0) as store,
        mirroring(path, to, events=told),
    ):
        raw, backend = store.collection("raw"), store._engine.backend
        await raw.put({"id": "a"})
        await until(lambda: told.of(MirrorCaughtUp))
        (one,) = [one async for one in store._engine.log.read(0)]
        await backend.write(slot_key(2), b"damaged")
        later = replace(one, first=3, last=3, id="1" * 24, prev="2" * 24, durable=2)
        await backend.write(slot_key(3), encode_commit(later))
        await until(lambda: len(sessions) > 4)
    assert [event.error.code for event in told.of(MirrorFailed)] == ["corruption"]
    assert len(told.of(MirrorCaughtUp)) == 1


async def test_where_it_ends_with_a_replica_that_is_down_nothing_says_that_it_is_tried_again(
    path, store, elsewhere, switch, told, caplog
):
    switch["writes"] = 0
    await store.collection("raw").put({"id": "a"})
    with pytest.raises(UnavailableError):
        await statepath.mirror(path, elsewhere.new(), once=True, events=told)
    assert [event.retrying for event in told.of(MirrorFailed)] == [False]
    assert "tried again" not in caplog.text


@pytest.mark.parametrize("back", [0, 3600])
async def test_a_replica_that_lags_is_told_once_and_when_it_has_caught_up(
    places, elsewhere, told, monkeypatch, until, back
):
    """Also where the machine's clock is set back."""
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
        assert store.mirror_lag.behind == 3
        now = time.time
        monkeypatch.setattr("statepath.engine.mirror.time.time", lambda: now() - back)
        await until(lambda: told.of(MirrorLagging))
        gate.set()
        await until(lambda: told.of(MirrorCaughtUp))
        assert (store.mirror_lag.seq, store.mirror_lag.behind) == (3, 0)
    assert len(told.of(MirrorLagging)) == 1


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
MIRRORS = """
import asyncio, sys, statepath
from statepath.engine import mirror

mirror._TTL, mirror._TURN = 1.5, 0.5  # the next one waits until the lease of one that was killed expires
asyncio.run(statepath.mirror(*sys.argv[1:], progress=print))
"""


def killed_after(program, *words, lines):
    """Run the program until it has written so many lines, and kill it; the last line."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        last = deque(islice(process.stdout, lines), 1)
        process.kill()
    return last.pop()


@pytest.mark.slow
@pytest.mark.timeout(600)
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


async def test_two_mirrors_of_one_store_do_no_harm(path, store, elsewhere, contents, mirroring):
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
