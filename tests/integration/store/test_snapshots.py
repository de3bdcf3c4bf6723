"""Snapshots and backups: written behind, at a cost that does not grow with use."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import pytest
import statepath
from statepath import StatePersistence
from statepath.commit import slot_key
from statepath.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    UnavailableError,
)
from statepath.events import (
    AutosaveTriggered,
    BackupCreated,
    BackupError,
    HistoryTrimmed,
    SaveError,
    StateSaved,
)


@pytest.fixture
def raw(store):
    return store.collection("raw")


def told(store, *kinds):
    """The events of these kinds, as they come."""
    events = []
    for kind in kinds:
        store.events.on(kind, events.append)
    return events


async def test_a_snapshot_is_the_whole_state_that_people_can_read(store, raw, memory):
    await raw.put({"id": "a", "n": 1})
    await store.collection("tasks").put({"id": "t"})
    async with store.transaction() as tx:
        tx.put_member("metrics", {"total_tasks": 1})
    assert await store.snapshot() == 3
    state = json.loads((await memory.read("state.json")).data)
    assert (state["version"], state["seq"]) == ("1.0.0", 3)
    assert state["tasks"] == [{"id": "t"}]
    assert state["raw"] == [{"id": "a", "n": 1}]
    assert (state["sessions"], state["metrics"]) == ([], {"total_tasks": 1})


async def test_each_document_stands_on_a_line_of_its_own(store, raw, memory):
    await raw.put({"id": "a", "n": 1})
    await store.snapshot()
    assert b'\n{"id":"a","n":1}\n' in (await memory.read("state.json")).data


async def test_the_snapshot_before_becomes_a_backup(store, raw, memory):
    events = told(store, BackupCreated)
    await raw.put({"id": "a"})
    await store.snapshot()
    before = (await memory.read("state.json")).data
    assert await store.backups() == []
    await raw.put({"id": "b"})
    await store.snapshot()
    (key,) = await store.backups()
    assert (await memory.read(key)).data == before
    assert events == [BackupCreated(key, 1)]


async def test_unchanged_state_makes_neither_snapshot_nor_backup(store, raw):
    events = told(store, StateSaved, BackupCreated)
    await raw.put({"id": "a"})
    for _ in range(5):
        assert await store.snapshot() == 1
    assert [type(event) for event in events] == [StateSaved]
    assert await store.backups() == []


async def test_opening_and_closing_again_and_again_keeps_the_backups(url, memory, keys):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        await store.collection("raw").put({"id": "b"})
    before = [(key, (await memory.read(key)).etag) for key in await keys("state.")]
    assert len(before) == 2
    for _ in range(12):
        async with statepath.open(url):
            pass
    assert [(key, (await memory.read(key)).etag) for key in await keys("state.")] == before


async def test_many_short_runs_that_save_do_not_push_the_backups_out(url):
    async with statepath.open(url) as store:
        raw = store.collection("raw")
        for n in range(3):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
        before = await store.backups()
    for n in range(12):
        async with statepath.open(url) as store:
            await store.collection("raw").put({"id": "b", "n": n})
        async with StatePersistence.open(url) as persistence:
            await persistence.save_task({"id": "c", "n": n})
    async with statepath.open(url) as store:
        assert await store.backups() == before
        assert await store.verify() == []


async def test_a_run_after_a_long_time_keeps_what_it_found(url):
    for n in range(3):
        async with statepath.open(url, snapshot_age=0.000001) as store:
            await store.collection("raw").put({"id": "a", "n": n})
            assert len(await store.backups()) == max(0, n - 1)


async def test_the_last_ten_backups_are_kept(store, raw):
    made = []
    store.events.on(BackupCreated, lambda event: made.append(event.key))
    for n in range(14):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    assert len(made) == 13
    assert await store.backups() == made[-10:]


async def test_how_many_backups_are_kept_is_a_setting(url):
    async with statepath.open(url, backups=2) as store:
        for n in range(5):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        assert len(await store.backups()) == 2


async def test_a_backup_can_be_asked_for(store, raw, memory):
    await raw.put({"id": "a"})
    key = await store.backup()
    assert await store.backups() == [key]
    assert (await memory.read(key)).data == (await memory.read("state.json")).data


async def test_a_state_that_is_kept_already_is_not_kept_twice(store, raw):
    await raw.put({"id": "a"})
    assert await store.backup() == await store.backup()
    assert len(await store.backups()) == 1


async def test_there_is_no_backup_of_an_empty_store(store):
    with pytest.raises(NotFoundError, match="the store is empty"):
        await store.backup()


async def test_a_backup_is_named_by_its_utc_time(store, raw):
    await raw.put({"id": "a"})
    key = await store.backup()
    assert key.startswith("state.backup.20")
    assert key.endswith("Z.json")


async def test_a_snapshot_is_told(store, raw, memory):
    events = told(store, StateSaved)
    await raw.put({"id": "a"})
    await store.snapshot()
    ((event,)) = events
    assert (event.seq, event.documents) == (1, 1)
    assert event.bytes == len((await memory.read("state.json")).data)


async def test_a_snapshot_is_taken_of_one_moment_while_saves_go_on(open_on, faulty, memory):
    store = await open_on(faulty)
    raw = store.collection("raw")
    await raw.put({"id": "a", "n": 1})
    gate = faulty.hold("write", "state.json")
    snapshot = asyncio.ensure_future(store.snapshot())
    await gate.reached.wait()
    await raw.put({"id": "a", "n": 2})
    await raw.put({"id": "b"})
    gate.open()
    assert await snapshot == 1
    assert json.loads((await memory.read("state.json")).data)["raw"] == [{"id": "a", "n": 1}]


async def test_closing_writes_a_snapshot_of_what_changed(store, raw, memory):
    await raw.put({"id": "a"})
    await store.aclose()
    assert json.loads((await memory.read("state.json")).data)["seq"] == 1


async def test_the_state_is_read_from_the_snapshot_and_the_log_behind_it(store, raw, url):
    await raw.put({"id": "a"})
    await store.snapshot()
    await raw.put({"id": "b"})
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.collection("raw").count() == 2
        assert (await reader.collection("raw").get_document("a")).version == 1
        assert (await reader.collection("raw").get_document("b")).version == 2


async def test_a_snapshot_that_cannot_be_written_loses_nothing(open_on, faulty, url):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    faulty.fail("write", "state.json", UnavailableError("no space", code="disk_full"))
    with pytest.raises(UnavailableError, match="no space"):
        await store.snapshot()
    await store.collection("raw").put({"id": "b"})
    assert await store.snapshot() == 2
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.collection("raw").count() == 2


async def test_a_snapshot_is_read_back(open_on, faulty, memory):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    write = memory.write

    async def garbled(key, data, **options):
        return await write(key, data.replace(b'"a"', b'"x"') if key == "state.json" else data, **options)

    faulty._backend.write = garbled
    with pytest.raises(CorruptionError, match="read back"):
        await store.snapshot()
    faulty._backend.write = write
    assert await store.snapshot() == 1


async def test_a_backup_that_cannot_be_written_is_told_and_the_snapshot_is_written(open_on, faulty):
    store = await open_on(faulty)
    events = told(store, BackupError)
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    error = UnavailableError("no space", code="disk_full")
    faulty.fail("write", "state.backup.", error)
    await store.collection("raw").put({"id": "b"})
    assert await store.snapshot() == 2
    assert events == [BackupError(error)]


async def test_a_log_that_cannot_be_trimmed_is_told_and_the_snapshot_is_written(
    open_on, faulty, monkeypatch, caplog
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store = await open_on(faulty, history=0)
    events = told(store, StateSaved)
    fault = faulty.fail("delete", "journal/0", AccessDeniedError("no right to delete"), times=1000)
    for n in range(1, 4):
        await store.collection("raw").put({"id": "a", "n": n})
        assert await store.snapshot() == n
    assert fault.times < 1000
    assert [event.seq for event in events] == [1, 2, 3]
    assert "the log could not be trimmed: no right to delete" in caplog.text
    health = await store.health()
    journal = next(check for check in health.checks if check.name == "journal")
    assert (health.problems, health.status, journal.status) == ((), "warn", "warn")
    assert "could not be trimmed: no right to delete" in journal.summary


async def test_what_could_not_be_trimmed_is_trimmed_the_next_time(open_on, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store = await open_on(faulty, history=0)
    events = told(store, HistoryTrimmed)
    fault = faulty.fail("delete", "journal/0", AccessDeniedError("no right to delete"), times=1000)
    for n in range(1, 4):
        await store.collection("raw").put({"id": "a", "n": n})
        await store.snapshot()
    fault.times = 0
    await store._engine._snapshotter.trim()  # the floor stays where it is
    assert [entry.key async for entry in faulty.list_keys("journal/0")] == [slot_key(3)]
    assert events == [HistoryTrimmed(3, "age")]
    assert (await store.health()).status == "ok"


async def test_autosave_makes_snapshots_of_what_changed(url):
    async with statepath.open(url, autosave=0.001) as store:
        saved = asyncio.Event()
        triggered = told(store, AutosaveTriggered)
        store.events.on(StateSaved, lambda event: saved.set())
        await store.collection("raw").put({"id": "a"})
        await saved.wait()
        assert triggered[0] == AutosaveTriggered(1)
        assert (await store.health()).snapshot_seq == 1


async def test_autosave_that_fails_unexpectedly_goes_on_and_does_not_keep_the_store_open(
    open_on, faulty, monkeypatch, caplog
):
    store = await open_on(faulty, autosave=0.001)
    autosave, failures = store._engine._autosave, []

    async def fail():
        failures.append(1)
        raise RuntimeError("no such luck")

    monkeypatch.setattr(autosave, "_turn", fail)
    async with asyncio.timeout(60):
        while len(failures) < 3:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
    assert "the autosave failed unexpectedly" in caplog.text
    await store.aclose()
    assert faulty.closed


async def test_autosave_that_fails_is_told_and_goes_on(open_on, faulty):
    error = UnavailableError("no space", code="disk_full")
    faulty.fail("write", "state.json", error)
    store = await open_on(faulty, autosave=0.001)
    failed, saved = told(store, SaveError), asyncio.Event()
    store.events.on(StateSaved, lambda event: saved.set())
    await store.collection("raw").put({"id": "a"})
    await saved.wait()
    assert [event.error for event in failed] == [error]


@pytest.mark.parametrize("bounds", [{}, {"log_age": timedelta(days=1)}], ids=["saves", "removes"])
async def test_autosave_ends_in_silence_when_the_store_closes(open_on, faulty, caplog, bounds):
    writing = faulty.hold("write", "state.json")
    store = await open_on(faulty, autosave=0.001, **bounds)
    raw, autosave, failed = store.collection("raw"), store._engine._autosave, told(store, SaveError)
    await raw.put({"id": "a"})
    await writing.reached.wait()
    await raw.put({"id": "b"})
    committing = faulty.hold("write", "journal/0")
    saving = asyncio.ensure_future(raw.put({"id": "c"}))
    await committing.reached.wait()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    autosave._due = 0.0
    writing.open()
    await asyncio.wait([autosave._task], timeout=20)
    committing.open()
    await asyncio.gather(saving, closing)
    assert failed == []
    assert [record.message for record in caplog.records if record.name == "statepath.autosave"] == []


async def test_autosave_that_waits_for_a_save_ends_in_silence_when_the_store_closes(open_on, faulty, caplog):
    store = await open_on(faulty, autosave=0.001)
    raw, begun = store.collection("raw"), asyncio.Queue()

    def save(event):
        committing = faulty.hold("write", "journal/0")
        begun.put_nowait((committing, asyncio.ensure_future(raw.put({"id": "b"}))))

    store.events.on(AutosaveTriggered, save)
    await raw.put({"id": "a"})
    committing, saving = await begun.get()
    await committing.reached.wait()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    committing.open()
    await asyncio.gather(saving, closing)
    assert begun.empty()
    assert [record.message for record in caplog.records if record.name == "statepath.autosave"] == []


async def test_a_snapshot_that_failed_is_no_trouble_once_another_handle_has_saved(open_on, faulty, url):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    faulty.fail("write", "state.json", UnavailableError("not now"))
    with pytest.raises(UnavailableError, match="not now"):
        await store.snapshot()
    async with statepath.open(url, autosave=0) as other:
        await other.snapshot()
    await store._engine._snapshotter.refresh()
    assert (await store.health()).problems == ()


async def test_a_large_store_is_written_only_when_enough_has_changed(store, raw, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    snapshotter = store._engine._snapshotter
    for n in range(20):
        await raw.put({"id": str(n), "text": "x" * 1000})
    assert snapshotter.due
    await store.snapshot()
    assert not snapshotter.due
    await raw.put({"id": "0", "text": "y"})
    assert (snapshotter.changed, snapshotter.due) == (True, False)
    for n in range(14):
        await raw.put({"id": str(n), "text": "z" * 1000})
    assert snapshotter.due


async def test_a_large_store_whose_snapshot_could_not_be_marked_is_tried_again(open_on, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a", "text": "x" * 1000})
    await store.snapshot()
    await store.collection("raw").put({"id": "b", "text": "x" * 1000})
    faulty.fail("write", "journal/floor", UnavailableError("not now"))
    with pytest.raises(UnavailableError, match="not now"):
        await store.snapshot()
    assert store._engine._snapshotter.due
    assert await store.snapshot() == 2
    assert not store._engine._snapshotter.due
    assert store._engine._snapshotter.since == 0


async def test_what_was_committed_behind_the_snapshot_of_another_handle_is_saved_once_it_is_old_enough(
    store, url, monkeypatch
):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    snapshotter = store._engine._snapshotter
    await store.collection("raw").put({"id": "a", "text": "x" * 1000})
    await store.snapshot()
    async with statepath.open(url, autosave=0) as other:
        await other.collection("raw").put({"id": "b"})
        await other.snapshot()
        await other.collection("raw").put({"id": "c"})
        await store.sync()
        await snapshotter.refresh()
        assert (snapshotter.changed, snapshotter.due) == (True, False)
        assert snapshotter.since > 0
        monkeypatch.setattr(snapshotter, "_max_age", 0)
        assert snapshotter.due


async def test_a_few_changes_are_written_once_they_are_old_enough(url, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    async with statepath.open(url, autosave=0, snapshot_age=0.000001) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "text": "x" * 1000})
        await store.snapshot()
        await raw.put({"id": "b"})
        assert store._engine._snapshotter.due


@pytest.fixture
def copying(faulty):
    """Storage that copies, and waits with it where it is told to."""
    faulty.capabilities = replace(faulty.capabilities, copy=True)
    return faulty


async def test_a_backup_of_what_another_handle_has_replaced_meanwhile_is_made_again(
    open_on, copying, memory, other
):
    store = await open_on(copying)
    await store.collection("raw").put({"id": "a"})
    gate = copying.hold("copy", "state.json")
    backing_up = asyncio.create_task(store.backup())
    await gate.reached.wait()
    await other.collection("raw").put({"id": "late"})
    await other.snapshot()
    gate.open()
    assert b"late" in (await memory.read(await backing_up)).data
    assert await store.verify() == []


async def test_a_state_that_somebody_has_put_back_is_not_kept_for_the_present_one(open_on, copying, memory):
    store = await open_on(copying)
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    before = (await memory.read("state.json")).data
    await store.collection("raw").put({"id": "b"})
    await store.snapshot()
    kept = await store.backups()
    await memory.write("state.json", before)
    with pytest.raises(ConflictError, match="not the snapshot of seq 2 any more: it shows seq 1"):
        await store.backup()
    assert await store.backups() == kept


async def test_a_copy_that_comes_late_leaves_the_backup_of_another_handle(open_on, copying, memory, url):
    store = await open_on(copying)
    events = told(store, BackupCreated, BackupError)
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    before = (await memory.read("state.json")).data
    await store.collection("raw").put({"id": "b"})
    gate = copying.hold("copy", "state.json")
    saving = asyncio.create_task(store.snapshot())
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as other:
        await other.collection("raw").put({"id": "c"})
        await other.snapshot()
        (key,) = await other.backups()
    kept = await memory.read(key)
    gate.open()
    assert await saving == 3
    assert await memory.read(key) == kept
    assert kept.data == before
    assert events == []


async def test_a_copy_that_is_not_sound_is_not_removed_once_another_handle_has_kept_it(
    open_on, copying, memory
):
    store = await open_on(copying)
    events = told(store, BackupError)
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    sound = (await memory.read("state.json")).data
    await store.collection("raw").put({"id": "b"})
    copy = copying.copy

    async def damaging(source, target, **options):
        await copy(source, target, **options)
        return await memory.write(target, sound[:-10])

    copying.copy = damaging
    gate = copying.hold("delete", "state.backup.")
    saving = asyncio.create_task(store.snapshot())
    await gate.reached.wait()
    (key,) = await store.backups()
    await memory.write(key, sound)
    gate.open()
    assert await saving == 2
    assert (await memory.read(key)).data == sound
    assert events == []
