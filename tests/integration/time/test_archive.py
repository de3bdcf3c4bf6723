"""The archive: documents that are done leave the live state, whole, and can come back."""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
from contextlib import suppress
from datetime import timedelta
from functools import reduce
from uuid import uuid4

import pytest
import statepath
from statepath.engine import archiving
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    CorruptionError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    UnavailableError,
    UnsupportedError,
)
from statepath.events import DocumentsArchived, Events

NOW = timedelta(0)


@pytest.fixture
async def tasks(store):
    """Three tasks that are done, and one that is not; the head is seq 4."""
    tasks = store.collection("tasks")
    for n in range(3):
        await tasks.put({"id": f"done_{n}", "status": "completed", "n": n})
    await tasks.put({"id": "live", "status": "running"})
    await asyncio.sleep(0.001)
    return tasks


async def ids(collection):
    return sorted([document["id"] async for document in collection])


async def archived(store, *args):
    return sorted([one.key async for one in store.archived(*args)])


DONE = ["done_0", "done_1", "done_2"]


@pytest.mark.everywhere
async def test_what_is_done_leaves_the_live_state_in_one_commit(store, tasks, places, path):
    told = []
    store.events.on(DocumentsArchived, told.append)
    done = await store.archive("tasks", older_than=NOW, status="completed")
    assert (done.documents, store.seq) == (3, 5)
    assert await ids(tasks) == ["live"]
    assert await archived(store) == [f"tasks/{id}" for id in DONE]
    assert await store.read_archived("tasks", "done_1") == {"id": "done_1", "status": "completed", "n": 1}
    assert told == [DocumentsArchived("tasks", 3, done.segments[0], 5)]
    assert await store.members() == {}
    lines = gzip.decompress(await places.read(path, done.segments[0])).splitlines()
    assert [json.loads(line)["id"] for line in lines] == DONE
    assert await store.verify() == []


async def test_it_is_there_after_reopening_and_costs_the_opening_nothing(store, tasks, path, monkeypatch):
    await store.archive("tasks", older_than=NOW, status="completed")
    await store.aclose()
    connect, keys = statepath.opening.connect, []

    async def noted(*args, **options):
        backend = await connect(*args, **options)
        read = backend.read

        async def reading(key, **options):
            keys.append(key)
            return await read(key, **options)

        backend.read = reading
        return backend

    monkeypatch.setattr("statepath.opening.connect", noted)
    async with statepath.open(path, autosave=0) as again:
        assert not [key for key in keys if key.startswith("archive/")]
        assert await archived(again) == [f"tasks/{id}" for id in DONE]
        assert await ids(again.collection("tasks")) == ["live"]


async def test_only_what_matches_and_is_old_enough_goes(store, tasks):
    from statepath import F

    assert (await store.archive("tasks", older_than="1h")).documents == 0
    assert (await store.archive("nothing", older_than=NOW)).documents == 0
    assert (await store.archive("tasks", F("n") >= 1, older_than=NOW, status="completed")).documents == 2
    assert await ids(tasks) == ["done_0", "live"]
    with pytest.raises(InvalidArgumentError):
        await store.archive("tasks", older_than="soon")
    with pytest.raises(InvalidArgumentError, match="100 deep"):
        await store.archive(
            "tasks", reduce(lambda where, _: ~where, range(3000), F("n") == 1), older_than=NOW
        )


async def test_a_dry_run_and_a_reader_change_nothing(store, tasks, path):
    tried = await store.archive("tasks", older_than=NOW, status="completed", dry_run=True)
    assert (tried.documents, tried.segments, store.seq) == (3, (), 4)
    async with statepath.open(path, readonly=True) as reader:
        with pytest.raises(ReadOnlyError):
            await reader.archive("tasks", older_than=NOW)


@pytest.mark.everywhere
async def test_one_comes_back_and_the_archive_keeps_it(store, tasks):
    await store.archive("tasks", older_than=NOW, status="completed")
    assert await store.unarchive("tasks", "done_1") == 6
    assert await tasks.get("done_1") == {"id": "done_1", "status": "completed", "n": 1}
    assert "tasks/done_1" in await archived(store)
    with pytest.raises(AlreadyExistsError):
        await store.unarchive("tasks", "done_1")
    with pytest.raises(NotFoundError, match="the archive has no tasks/live"):
        await store.unarchive("tasks", "live")


async def test_none_comes_back_under_the_name_of_a_member_which_it_would_hide(store):
    notes = store.collection("notes")
    await notes.put({"id": "a"})
    await asyncio.sleep(0.001)
    await store.archive("notes", older_than=NOW)
    async with store.transaction() as tx:
        tx.put_member("notes", {"theme": "dark"})
    with pytest.raises(InvalidArgumentError, match="'notes' is a member"):
        await store.unarchive("notes", "a")
    async with store.transaction() as tx:
        tx.put_member("notes", [])
    await store.unarchive("notes", "a")
    assert (await ids(notes), await store.get_member("notes")) == (["a"], None)


async def test_what_another_handle_has_archived_comes_back(store, tasks, path):
    async with statepath.open(path, autosave=0) as other:
        await store.archive("tasks", older_than=NOW, status="completed")
        assert await other.unarchive("tasks", "done_1") == 6


async def test_what_is_archived_again_is_shown_as_it_was_last(store, tasks):
    await store.archive("tasks", older_than=NOW, status="completed")
    await store.unarchive("tasks", "done_1")
    await tasks.put({"id": "done_1", "status": "completed", "n": "changed"})
    await asyncio.sleep(0.001)
    await store.archive("tasks", older_than=NOW, status="completed")
    assert (await store.read_archived("tasks", "done_1"))["n"] == "changed"
    assert await store.verify() == []


async def test_a_restore_brings_all_of_it_back(store, tasks):
    await store.archive("tasks", older_than=NOW, status="completed")
    await store.restore(at=4)
    assert await ids(tasks) == [*DONE, "live"]
    assert await archived(store) == []
    await store.restore(at=5)
    assert await archived(store) == [f"tasks/{id}" for id in DONE]


async def test_many_documents_take_several_segments(store, monkeypatch):
    monkeypatch.setattr("statepath.engine.archiving._DOCUMENTS", 4)
    raw = store.collection("raw")
    for n in range(10):
        await raw.put({"id": str(n)})
    await asyncio.sleep(0.001)
    done = await store.archive("raw", older_than=NOW)
    assert (len(done.segments), done.documents) == (3, 10)
    assert len(await archived(store, "raw")) == 10
    assert await store.read_archived("raw", "9") == {"id": "9"}


async def test_a_document_that_changes_meanwhile_stays_live(store, tasks, monkeypatch):
    backend, write = store._engine.backend, store._engine.backend.write
    changed = []

    async def meanwhile(key, data, **options):
        if key.startswith("archive/") and not changed:
            changed.append(await tasks.put({"id": "done_1", "status": "running"}))
        return await write(key, data, **options)

    monkeypatch.setattr(backend, "write", meanwhile)
    done = await store.archive("tasks", older_than=NOW, status="completed")
    assert done.documents == 2
    assert await ids(tasks) == ["done_1", "live"]
    assert await archived(store) == ["tasks/done_0", "tasks/done_2"]


@pytest.mark.parametrize("written", [0, 1])
async def test_a_run_that_was_interrupted_loses_nothing_and_can_be_repeated(
    store, tasks, monkeypatch, written
):
    backend, write, left = store._engine.backend, store._engine.backend.write, [written]

    async def failing(key, data, **options):
        if key.startswith("archive/"):
            if not left[0]:
                raise UnavailableError("the power failed")
            left[0] -= 1
        return await write(key, data, **options)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "write", failing)
        with pytest.raises(UnavailableError):
            await store.archive("tasks", older_than=NOW, status="completed")
    assert await ids(tasks) == [*DONE, "live"]
    assert await archived(store) == []
    assert (await store.archive("tasks", older_than=NOW, status="completed")).documents == 3
    assert await store.verify() == []


@pytest.mark.parametrize("kind", [".jsonl.gz", ".index.json"])
@pytest.mark.parametrize("gone", [True, False])
async def test_what_is_damaged_is_found_and_not_served(store, tasks, kind, gone):
    await store.archive("tasks", older_than=NOW, status="completed")
    backend = store._engine.backend
    key = next(key for key in [one.key async for one in backend.list_keys("archive/")] if key.endswith(kind))
    if gone:
        await backend.delete(key)
    else:
        data = bytearray((await backend.read(key)).data)
        data[len(data) // 2] ^= 0x80
        await backend.write(key, bytes(data))
    assert [finding.key for finding in await store.verify()] == [key]
    with pytest.raises(CorruptionError, match="archive/"):
        await store.unarchive("tasks", "done_1")


@pytest.mark.parametrize("way", ["copy", "file"])
async def test_the_archive_goes_where_the_store_goes(store, tasks, path, elsewhere, tmp_path, way):
    await store.archive("tasks", older_than=NOW, status="completed")
    to = elsewhere.new()
    if way == "copy":
        await statepath.copy(path, to)
    else:
        await store.export(tmp_path / "file.zip")
        await statepath.import_backup(tmp_path / "file.zip", to)
    async with statepath.open(to, autosave=0) as other:
        assert await archived(other) == [f"tasks/{id}" for id in DONE]
        assert [one for one in await other.verify() if one.severity == "damage"] == []
        await other.unarchive("tasks", "done_2")
        assert await ids(other.collection("tasks")) == ["done_2", "live"]


async def test_one_of_an_earlier_schema_is_migrated_when_it_comes_back(
    store, tasks, path, tmp_path, monkeypatch
):
    await store.archive("tasks", older_than=NOW, status="completed")
    await store.aclose()
    (tmp_path / "changes_of_archive.py").write_text(
        "from statepath import migration\n"
        "@migration('tasks', 1, 2)\n"
        "def mark(task):\n"
        "    return task | {'marked': True}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    async with statepath.open(path, autosave=0, migrations="changes_of_archive") as again:
        await again.unarchive("tasks", "done_0")
        assert (await again.collection("tasks").get("done_0"))["marked"] is True
        again._engine.migrations = None
        with pytest.raises(UnsupportedError, match="archived in schema version 1"):
            await again.unarchive("tasks", "done_1")
    del sys.modules["changes_of_archive"]


async def test_rules_archive_by_themselves(path):
    async with statepath.open(path) as store:
        await store.collection("other").put({"id": "a"})
        await store.collection("tasks").put({"id": "a", "status": "completed", "result": {"passed": False}})
        await store.collection("tasks").put({"id": "b", "status": "completed", "result": {"passed": True}})
    rules = "tasks older_than=0s status=completed result.passed=true; other older_than=1h"
    events, archiving = Events(), asyncio.Event()
    events.on(DocumentsArchived, lambda event: archiving.set())
    async with statepath.open(path, autosave=0.02, archive=rules, events=events) as store:
        await asyncio.wait_for(archiving.wait(), 60)
        assert await archived(store) == ["tasks/b"]
        assert await ids(store.collection("other")) == ["a"]


@pytest.fixture
def hours_later(monkeypatch):
    """Has it so many hours later for what is archived by itself."""

    def later(hours):
        monkeypatch.setattr(archiving, "unhurried_now", lambda: time.time() + hours * 3600)

    return later


@pytest.mark.parametrize(("due", "most"), [(48, 2), (90 * 24, 24)])
async def test_what_would_make_a_small_segment_waits_for_more_only_so_long(path, hours_later, due, most):
    async with statepath.open(path, autosave=0, archive=f"raw older_than={due}h") as store:
        await store.collection("raw").put({"id": "a"})
        hours_later(due + most - 0.1)
        assert await archiving.archive_by_rules(store._engine, gathering=True) == []
        hours_later(due + most + 0.1)
        (done,) = await archiving.archive_by_rules(store._engine, gathering=True)
        assert (done.documents, len(done.segments)) == (1, 1)


async def test_what_makes_a_whole_segment_waits_for_nothing(path, hours_later, monkeypatch):
    monkeypatch.setattr(archiving, "_DOCUMENTS", 2)
    async with statepath.open(path, autosave=0, archive="raw older_than=90d") as store:
        for n in range(3):
            await store.collection("raw").put({"id": str(n)})
        hours_later(90 * 24 + 0.1)
        (done,) = await archiving.archive_by_rules(store._engine, gathering=True)
        assert (done.documents, len(done.segments)) == (3, 2)


async def test_who_has_the_rules_carried_out_waits_for_nothing(path, hours_later):
    async with statepath.open(path, autosave=0, archive="raw older_than=90d") as store:
        await store.collection("raw").put({"id": "a"})
        hours_later(90 * 24 + 0.1)
        assert (await store.archive_by_rules()).documents == 1


@pytest.mark.parametrize("value", ["1", "true", "0", "false", "null", '"1"', "NaN", "[1]"])
async def test_a_rule_means_what_a_query_means(path, value):
    async with statepath.open(path, autosave=0, archive=f"raw older_than=0s n={value}") as store:
        raw = store.collection("raw")
        for id, n in enumerate((1, 1.0, True, 0, False, None, "1", "NaN", [1], [True])):
            await raw.put({"id": str(id), "n": n})
        await asyncio.sleep(0.001)
        found = await raw.find(n=value if value == "NaN" else json.loads(value)).all()
        await store.archive_by_rules()
        assert await archived(store) == [f"raw/{document['id']}" for document in found] != []


@pytest.mark.parametrize(
    "rule",
    [
        "tasks",
        "tasks status=completed",
        "tasks older_than=soon",
        "tasks older_than",
        "tasks older_than=1d result..passed=true",
    ],
)
async def test_a_rule_that_says_nothing_is_refused(path, rule):
    with pytest.raises(ConfigurationError, match="archive"):
        await statepath.open(path, archive=rule)


@pytest.mark.everywhere
async def test_clean_removes_what_nothing_names_and_keeps_every_way_back(
    store, tasks, places, path, monkeypatch
):
    await store.archive("tasks", older_than=NOW, status="completed")
    await store.restore(at=4)
    backend = store._engine.backend
    await backend.write(f"archive/{'0' * 64}.jsonl.gz", b"unfinished")
    await backend.write("state.json.corrupt.20260101T000000.000000Z", b"{")
    await backend.write("state.backup.mine.json", b"a person's")
    await backend.write("archive/2024.json", b"a person's, too")
    await asyncio.sleep(0.01)
    assert (await store.clean(dry_run=True)).objects == ()
    young = await store.clean(older_than=NOW, dry_run=True)
    assert [key for key, _ in young.objects] == ["state.json.corrupt.20260101T000000.000000Z"]
    monkeypatch.setattr("statepath.engine.cleaning._RUN", 0.0)
    plan = await store.clean(older_than=NOW, dry_run=True)
    assert [key for key, _ in plan.objects] == [
        f"archive/{'0' * 64}.jsonl.gz",
        "state.json.corrupt.20260101T000000.000000Z",
    ]
    assert plan.bytes == 11
    before = [one.key async for one in backend.list_keys("")]
    assert await store.clean(older_than=NOW) == plan
    after = [one.key async for one in backend.list_keys("")]
    assert set(before) - set(after) == {key for key, _ in plan.objects}
    await store.restore(at=5)
    assert (await store.read_archived("tasks", "done_0"))["n"] == 0


async def test_clean_with_a_clock_that_is_ahead_keeps_what_an_archive_run_is_about_to_name(monkeypatch):
    name = f"archive/{'0' * 64}.jsonl.gz"
    monkeypatch.setattr("statepath.engine.aging.unhurried_now", lambda: time.time() + 10 * 86_400)
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0) as store:
        await store._engine.backend.write(name, b"about to be named")
        assert (await store.clean(older_than=NOW)).objects == ()
        assert [one.key async for one in store._engine.backend.list_keys("archive/")] == [name]


async def test_clean_of_a_handle_that_others_left_behind_keeps_what_they_archived(
    store, tasks, places, path, monkeypatch
):
    monkeypatch.setattr("statepath.engine.cleaning._RUN", 0.0)
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    async with statepath.open(path, autosave=0) as late:
        store._engine._snapshotter._history = timedelta(seconds=-1)
        (segment,) = (await store.archive("tasks", older_than=NOW, status="completed")).segments
        for n in range(3):
            await tasks.put({"id": "live", "n": n})
            await store.snapshot()
        for key in [key for key in await places.keys(path) if key.startswith("state.")]:
            await places.write(path, key, b"{")  # nothing else tells of it now
        await asyncio.sleep(0.01)
        late._engine.log._window = 0  # as if it had slept for longer than commits are kept
        with suppress(HistoryTrimmedError):
            await late.clean(older_than=NOW)
        assert segment in await places.keys(path, "archive/")


async def test_clean_removes_what_a_probe_left_a_day_ago(store, monkeypatch):
    backend = store._engine.backend
    left = f"probe/{'a' * 24}"
    await backend.write(left, b"1")
    await store.collection("probe").put({"id": "theirs"})
    await store.flush()
    await asyncio.sleep(0.01)
    assert (await store.clean(older_than=NOW)).objects == ()
    monkeypatch.setattr("statepath.engine.cleaning._PROBED", 0.0)
    assert (await store.clean(older_than="30d")).objects == ((left, 1),)
    assert left not in [one.key async for one in backend.list_keys("")]
    assert await store.verify() == []


@pytest.fixture
async def interrupted(store, tasks, monkeypatch):
    """A store with a segment that an archive run wrote and did not name, and what takes it up."""
    commit = store._engine.commit

    async def fail(*args):
        raise UnavailableError("the power failed")

    monkeypatch.setattr(store._engine, "commit", fail)
    with pytest.raises(UnavailableError):
        await store.archive("tasks", older_than=NOW, status="completed")
    monkeypatch.setattr(store._engine, "commit", commit)
    monkeypatch.setattr("statepath.engine.cleaning._RUN", 0.0)
    await asyncio.sleep(0.01)
    return store


async def test_clean_leaves_what_an_archive_run_takes_up_meanwhile(interrupted, monkeypatch):
    look = statepath.engine.cleaning.named

    async def meanwhile(engine):
        found = await look(engine)
        await interrupted.archive("tasks", older_than=NOW, status="completed")
        return found

    monkeypatch.setattr("statepath.engine.cleaning.named", meanwhile)
    assert (await interrupted.clean(older_than=NOW)).objects == ()
    assert (await interrupted.read_archived("tasks", "done_0"))["n"] == 0
    assert await interrupted.verify() == []


async def test_clean_leaves_what_an_archive_run_takes_up_at_the_last_moment(interrupted, monkeypatch):
    backend = interrupted._engine.backend
    delete = backend.delete

    async def meanwhile(key, **options):
        monkeypatch.setattr(backend, "delete", delete)
        await interrupted.archive("tasks", older_than=NOW, status="completed")
        return await delete(key, **options)

    monkeypatch.setattr(backend, "delete", meanwhile)
    assert (await interrupted.clean(older_than=NOW)).objects == ()
    assert (await interrupted.read_archived("tasks", "done_0"))["n"] == 0
    assert await interrupted.verify() == []
