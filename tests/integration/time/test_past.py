"""The past: what differed, and how little is read to find it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
import statepath
from statepath.engine.restoring import past
from statepath.errors import HistoryTrimmedError, InvalidArgumentError
from statepath.undoing import undone_by


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def told(store, *at):
    return [(one.kind, one.key, one.before, one.after) for one in await store.diff(*at)]


@pytest.mark.everywhere
async def test_diff_tells_what_was_added_changed_and_removed(store, raw):
    await raw.put({"id": "same", "n": 1})
    await raw.put({"id": "changed", "n": 1})
    await raw.put({"id": "removed"})
    await store.collection("other").put({"id": "added"})
    await raw.put({"id": "changed", "n": 2})
    await raw.delete("removed")
    assert await told(store, 3) == [
        ("added", "other/added", None, {"id": "added"}),
        ("changed", "raw/changed", {"id": "changed", "n": 1}, {"id": "changed", "n": 2}),
        ("removed", "raw/removed", {"id": "removed"}, None),
    ]
    assert await told(store, 3, 5) == (await told(store, 3))[:2]
    assert [one[0] for one in await told(store, 6, 3)] == ["removed", "changed", "added"]


async def test_what_came_back_to_what_it_was_does_not_differ(store, raw):
    await raw.put({"id": "a", "n": 1, "m": 2})
    await raw.put({"id": "a", "n": 2})
    await raw.put({"m": 2, "n": 1, "id": "a"})
    assert await store.diff(1) == []
    assert await store.diff(3, 3) == []


@pytest.mark.parametrize(("then", "now"), [(True, 1), (1, 1.0), ([0, {"n": 2.0}], [False, {"n": 2}])])
async def test_one_as_a_number_and_as_a_truth_are_not_the_same(store, raw, then, now):
    """A model may well mind which of them it gets."""
    await raw.put({"id": "a", "same": 1, "x": then})
    await raw.put({"id": "a", "same": 1, "x": now})
    (one,) = await store.diff(1)
    (field,) = one.fields()
    assert (field.path, repr(field.before), repr(field.after)) == ("x", repr(then), repr(now))
    await store.restore(at=1)
    assert repr((await raw.get("a"))["x"]) == repr(then)


async def test_behind_the_head_there_is_no_history_yet(store, raw):
    seq = await raw.put({"id": "a"})
    assert await store.history(since=seq) == await store.history(since=seq + 1) == []
    assert await store.history("raw/a", since=seq + 99, limit=1) == []


async def test_a_difference_names_its_fields(store, raw):
    await raw.put({"id": "a", "kept": 1, "result": {"passed": None, "n": [1]}, "gone": None})
    await raw.put({"id": "a", "kept": 1, "result": {"passed": True, "n": [1, 2]}, "new": {}})
    (one,) = await store.diff(1)
    assert [(field.path, field.kind, field.before, field.after) for field in one.fields()] == [
        ("result.passed", "changed", None, True),
        ("result.n", "changed", [1], [1, 2]),
        ("gone", "removed", None, None),
        ("new", "added", None, {}),
    ]


async def test_diff_takes_moments(store, raw):
    for n in range(3):
        await raw.put({"id": "a", "n": n})
    first, second, _ = await store.history()
    (one,) = await store.diff(first.time, second.time)
    assert (one.before["n"], one.after["n"]) == (0, 1)


@pytest.mark.parametrize("at", [-1, 99, datetime(2024, 5, 1)])  # noqa: DTZ001 - the mistake that is refused
async def test_diff_refuses_what_is_no_place_in_the_history(store, raw, at):
    await raw.put({"id": "a"})
    with pytest.raises(InvalidArgumentError):
        await store.diff(at)
    with pytest.raises(InvalidArgumentError):
        await store.diff(1, at)


@pytest.fixture
async def trimmed(store, raw, monkeypatch):
    """Three snapshots, of the seqs 1 to 3, then seq 4; the log begins behind the first."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for n in range(1, 4):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    await raw.put({"id": "a", "n": 4})
    return store


async def test_what_lies_before_the_history_is_refused(trimmed):
    with pytest.raises(HistoryTrimmedError):
        await trimmed.diff(0)
    with pytest.raises(HistoryTrimmedError):
        await trimmed.restore(at=datetime(2024, 5, 1, tzinfo=UTC))


@pytest.mark.slow
@pytest.mark.parametrize("by", ["age", "bytes"])
async def test_there_is_a_way_back_to_all_that_the_log_has(path, monkeypatch, by):
    """Also to what is older than the last backups: those that the commits are replayed on stay, and few of them."""
    keep, day, clock = 3, 86_400, [1_700_000_000.0]
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", 0)  # memory has a clock of its own
    monkeypatch.setattr("statepath.engine.snapshotter.time.time", lambda: clock[0])
    monkeypatch.setattr("statepath.engine.committer.time.time_ns", lambda: round(clock[0] * 1e9))
    limit = {"history": "24h"} if by == "age" else {"history": "300d", "history_bytes": 48 * 465}
    async with statepath.open(path, autosave=0, backups=keep, **limit) as store:
        raw = store.collection("raw")
        for n in range(1, 97):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
            assert len(await store.backups()) <= keep + 6
            clock[0] += day / 48
        floor = (await store.stats()).floor
        assert 96 - 48 * 1.5 <= floor <= 96 - 40
        for at in range(floor - 1, 97):
            assert (await past(store._engine, at)).get("raw", "a").json() == b'{"id":"a","n":%d}' % at
        with pytest.raises(HistoryTrimmedError, match=f"a way back is that of seq {floor - 1}"):
            await store.diff(floor - 2)


async def test_a_clock_that_jumps_ahead_ends_no_history(store, raw, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    now = time.time()
    for n in range(6):
        monkeypatch.setattr("time.time", lambda ahead=n // 3 * 10 * 86_400: now + ahead)
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    assert (await store.stats()).floor == 1


async def test_a_store_that_is_saved_is_not_asked_for_its_time_to_end_old_history(store, raw, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter.earliest_now", AsyncMock(side_effect=AssertionError))
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for n in range(6):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    assert (await store.stats()).floor > 1


async def test_history_that_is_not_old_by_the_clock_of_the_storage_stays(monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    for module in ("aging", "snapshotter"):
        monkeypatch.setattr(f"statepath.engine.{module}.unhurried_now", lambda: time.time() + 10 * 86_400)
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0) as store:
        for n in range(6):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        assert (await store.stats()).floor == 1


@pytest.mark.parametrize("trimmed_at", [4, 5])
async def test_a_new_handle_keeps_the_way_back_when_the_marks_are_thinned_out(path, monkeypatch, trimmed_at):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._MARKS", 8)
    async with statepath.open(path, autosave=0, backups=2) as store:
        store._engine._snapshotter._history = timedelta(seconds=-1)
        for n in range(1, trimmed_at + 1):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        floor = (await store.stats()).floor
        assert floor > 1
        store._engine._snapshotter._history = timedelta(days=1)
        while len(store._engine.record.snapshots) < 8:
            await store.collection("raw").put({"id": "a", "n": store.seq + 1})
            await store.snapshot()
    async with statepath.open(path, autosave=0, backups=2) as store:
        await store.collection("raw").put({"id": "a", "n": store.seq + 1})
        await store.snapshot()
        assert len(store._engine.record.snapshots) <= 8
        for at in range(floor - 1, store.seq + 1):
            assert (await past(store._engine, at)).get("raw", "a").json() == b'{"id":"a","n":%d}' % at


async def test_what_a_restore_would_undo_is_read_from_there_on(store, raw, monkeypatch):
    for n in range(1, 4):
        await raw.put({"id": "a", "n": n})
    await store.snapshot()
    at = (await store.history())[-1].time
    await raw.put({"id": "a", "n": 4})
    await raw.put({"id": "b"})
    await raw.delete("a")
    await store.append_log("s", "not a document\n")
    log, begun = type(store._engine.log), []
    read = log.read
    monkeypatch.setattr(log, "read", lambda self, after: begun.append(after) or read(self, after))
    found = await undone_by(store, at)
    assert (found.to, found.changes, found.documents, found.needed) == (3, 3, 2, True)
    assert min(begun) == 3


@pytest.fixture
def reads(store, monkeypatch):
    """The keys of the whole objects that the store reads, in order."""
    keys = []
    read = store._engine.backend.read

    async def noted(key, **options):
        if not options:
            keys.append(key)
        return await read(key, **options)

    monkeypatch.setattr(store._engine.backend, "read", noted)
    return keys


@pytest.mark.parametrize("way", ["seq", "time"])
async def test_a_restore_reads_one_snapshot_and_the_commits_behind_it(store, raw, reads, way):
    for n in range(12):
        await raw.put({"id": "a", "n": n})
        if n % 2:
            await store.snapshot()  # of the seqs 2, 4, 6, 8, 10 and 12; the last one is state.json
    times = [change.time for change in await store.history()]
    backups = await store.backups()
    reads.clear()
    await store.restore(at=5 if way == "seq" else times[4])
    assert (await raw.get("a"))["n"] == 4
    assert [key for key in reads if key.startswith("state.")] == [backups[1]]


async def test_a_snapshot_of_before_a_recovery_is_no_way_back(store, raw, path, places):
    """Its seqs were given away again: what it calls seq 3 is not what the log calls so."""
    for n in range(3):
        await raw.put({"id": "a", "n": n})
    key = await store.backup()
    lost = await places.read(path, key)
    await store.aclose()
    for name in await places.keys(path):
        if name != "lock":
            await places.delete(path, name)
    async with statepath.open(path, autosave=0) as again:
        await again.collection("raw").put({"id": "b"})
        later = f"state.backup.{datetime.now(UTC):%Y%m%dT%H%M%S}.999999Z.json"
        await again._engine.backend.write(later, lost)
        await again.collection("raw").put({"id": "c"})
        await again.collection("raw").put({"id": "d"})
        await again.restore(at=3)
        assert [document["id"] async for document in again.collection("raw")] == ["b", "c", "d"]
