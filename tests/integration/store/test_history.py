"""History and restore: the log tells what was, and brings it back."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import statepath
from statepath.errors import HistoryTrimmedError, InvalidArgumentError
from statepath.events import StateRestored
from statepath.undoing import undone_by


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def everything(store):
    """All documents of a store, by collection and id."""
    return {name: {d["id"]: d async for d in store.collection(name)} for name in store.collections()}


async def test_the_history_of_a_document_is_oldest_first(store, raw):
    await raw.put({"id": "a", "n": 1})
    await raw.put({"id": "b"})
    await raw.put({"id": "a", "n": 2})
    await raw.delete("a")
    told = await store.history("raw/a")
    assert [(change.seq, change.kind, change.value) for change in told] == [
        (1, "put", {"id": "a", "n": 1}),
        (3, "put", {"id": "a", "n": 2}),
        (4, "delete", None),
    ]
    assert told[0].time < told[1].time < told[2].time


async def test_the_history_of_everything(store, raw):
    await raw.put({"id": "a"})
    await store.collection("other").put({"id": "a"})
    assert [change.key for change in await store.history()] == ["raw/a", "other/a"]


async def test_history_can_begin_later_and_be_limited_to_the_newest(store, raw):
    for n in range(10):
        await raw.put({"id": str(n)})
    assert [change.seq for change in await store.history(since=7)] == [8, 9, 10]
    assert [change.seq for change in await store.history(limit=2)] == [9, 10]
    assert await store.history(limit=0) == []


async def test_a_negative_limit_is_refused(store):
    with pytest.raises(InvalidArgumentError):
        await store.history(limit=-1)


async def test_who_never_was_has_no_history(store, raw):
    await raw.put({"id": "a"})
    assert await store.history("raw/nobody") == []


async def test_history_begins_at_the_floor(trimmed):
    floor = (await trimmed.stats()).floor
    assert floor > 1
    assert [change.seq for change in await trimmed.history()] == list(range(floor, 5))


@pytest.fixture(params=[True, False], ids=["reader", "writer"])
async def beside(store, raw, url, monkeypatch, request):
    """A handle that has been open since before another one trimmed the log, and kept up with it."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    await store.append_log("s", "one\n")
    async with statepath.open(url, readonly=request.param, autosave=0) as handle:
        for n in range(4):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
            await handle.sync()
        yield handle


async def test_a_handle_tells_the_history_that_another_one_left(store, beside):
    left = await store.history()
    assert left[0].seq > 1
    assert await beside.history() == left


async def test_a_handle_exports_and_makes_another_store_of_what_another_one_left(beside, tmp_path):
    await beside.export(tmp_path / "whole.zip", history=True)
    await beside.export(tmp_path / "state.zip")
    other = f"memory://{tmp_path.name}"
    await beside.restore(at=3, to=other)
    async with statepath.open(other, readonly=True) as made:
        assert (await made.collection("raw").get("a"))["n"] == 1
        assert await made.read_log("s") == "one\n"


async def test_a_handle_that_the_log_does_not_reach_back_to_exports_no_history(
    store, raw, url, monkeypatch, tmp_path
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    async with statepath.open(url, readonly=True) as behind:
        for n in range(4):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
        assert await behind.history() == await store.history()
        with pytest.raises(HistoryTrimmedError, match="open the store again"):
            await behind.export(tmp_path / "whole.zip", history=True)


async def test_a_handle_tells_what_a_restore_would_undo_of_what_another_one_left(beside):
    assert (await undone_by(beside, 3)).needed


async def test_history_names_the_writer(store, raw, url):
    await raw.put({"id": "a"})
    await raw.put({"id": "a"})
    await store.aclose()
    async with statepath.open(url) as again:
        await again.collection("raw").put({"id": "a"})
        first, second, third = await again.history()
    assert first.writer == second.writer != third.writer


async def test_restore_makes_the_documents_those_of_an_earlier_seq(store, raw):
    await raw.put({"id": "kept", "n": 1})
    await raw.put({"id": "deleted later"})
    await store.collection("emptied").put({"id": "x"})
    then = await everything(store)
    await raw.put({"id": "kept", "n": 2})
    await raw.delete("deleted later")
    await raw.put({"id": "new"})
    await store.collection("emptied").delete("x")
    restored = await store.restore(at=3)
    assert (restored.to, restored.seq) == (3, store.seq)
    assert await everything(store) == then


async def test_a_restore_takes_back_what_was_being_saved_when_it_began(store, raw, monkeypatch):
    append, stopping = store._engine.log.append, asyncio.Event()

    async def append_slowly(after, commit):
        await asyncio.sleep(0.02)
        await append(after, commit)

    async def save(worker):
        n = 0
        while not stopping.is_set():
            await raw.put({"id": f"{worker} {(n := n + 1)}"})

    await raw.put({"id": "a"})
    monkeypatch.setattr(store._engine.log, "append", append_slowly)
    saving = [asyncio.create_task(save(worker)) for worker in range(3)]
    while store.seq == 1:  # noqa: ASYNC110 - now the next ones are under way
        await asyncio.sleep(0.001)
    restored = await store.restore(at=1)
    stopping.set()
    await asyncio.gather(*saving)
    assert await store.diff(1, restored.seq) == []


async def test_a_restore_is_one_commit_that_can_be_undone(store, raw):
    await raw.put({"id": "a", "n": 1})
    before = await raw.put({"id": "a", "n": 2})
    restored = await store.restore(at=1)
    assert restored.seq == before + 1
    await store.restore(at=before)
    assert (await raw.get("a"))["n"] == 2


async def test_restore_to_the_beginning_empties_the_store(store, raw):
    await raw.put({"id": "a"})
    await store.restore(at=0)
    assert store.collections() == ()


async def test_restore_to_the_present_changes_nothing(store, raw):
    await raw.put({"id": "a"})
    restored = await store.restore(at=1)
    assert (restored.to, restored.seq, store.seq) == (1, 1, 1)


async def test_restore_to_a_moment_takes_the_commits_up_to_it(store, raw):
    await raw.put({"id": "a", "n": 1})
    await raw.put({"id": "a", "n": 2})
    _, second = await store.history()
    assert (await store.restore(at=second.time - timedelta(microseconds=1))).to == 1
    assert (await raw.get("a"))["n"] == 1
    assert (await store.restore(at=second.time)).to == 2


async def test_a_moment_before_the_first_commit_is_refused_and_changes_nothing(store, raw):
    await raw.put({"id": "a"})
    (first,) = await store.history()
    with pytest.raises(HistoryTrimmedError, match="name the seq 0") as error:
        await store.restore(at=first.time - timedelta(microseconds=1))
    assert first.time.isoformat() in str(error.value)
    assert store.seq == 1


async def test_a_moment_that_has_not_been_is_refused(store, raw):
    await raw.put({"id": "a"})
    with pytest.raises(InvalidArgumentError, match="not there yet"):
        await store.restore(at=datetime.now(UTC) + timedelta(days=1))


async def test_a_moment_by_a_clock_that_is_a_little_ahead_is_now(store, raw):
    await raw.put({"id": "a"})
    assert (await store.restore(at=datetime.now(UTC) + timedelta(seconds=30))).to == 1


async def test_restore_needs_a_time_zone_and_a_seq_that_was(store, raw):
    await raw.put({"id": "a"})
    naive = datetime.now(UTC).replace(tzinfo=None)
    for at in (naive, -1, 2):
        with pytest.raises(InvalidArgumentError):
            await store.restore(at=at)
    assert store.seq == 1


async def test_restore_into_the_middle_of_a_group(store, raw, commits):
    await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(5)))
    assert len(await commits()) < 5
    await store.restore(at=3)
    assert sorted([d["id"] async for d in raw]) == ["0", "1", "2"]


async def test_restore_across_snapshots(store, raw):
    for n in range(1, 5):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    for n in (1, 3, 2):
        await store.restore(at=n)
        assert (await raw.get("a"))["n"] == n


async def test_restore_below_the_floor_works_as_far_as_backups_reach(trimmed):
    await trimmed.restore(at=1)
    assert (await trimmed.collection("raw").get("a"))["n"] == 1


async def test_restore_to_what_is_gone_is_refused(trimmed, memory):
    for key in await trimmed.backups():
        await memory.delete(key)
    with pytest.raises(HistoryTrimmedError):
        await trimmed.restore(at=1)
    assert trimmed.seq == 4


async def test_a_restore_is_told_with_the_way_back(store, raw):
    told = []
    store.events.on(StateRestored, told.append)
    await raw.put({"id": "a", "n": 1})
    await raw.put({"id": "a", "n": 2})
    await store.restore(at=1)
    assert told == [StateRestored(to_seq=1, seq=3, undo="statepath restore --at 2")]


async def test_appends_are_restored_as_they_were(store, raw):
    await raw.put({"id": "a", "logs": []})
    for n in range(5):
        await raw.append("a", "logs", n)
    await store.restore(at=3)
    assert (await raw.get("a"))["logs"] == [0, 1]


async def test_logs_and_reports_stay_as_they_are(store):
    await store.append_log("s", "one\n")
    await store.save_report("r", 1)
    await store.restore(at=0)
    assert (await store.read_log("s"), await store.read_report("r")) == ("one\n", 1)


async def test_a_restored_state_is_there_after_reopening(store, raw, url):
    await raw.put({"id": "a", "n": 1})
    await raw.put({"id": "a", "n": 2})
    await store.restore(at=1)
    await store.aclose()
    async with statepath.open(url) as again:
        assert (await again.collection("raw").get("a"))["n"] == 1
