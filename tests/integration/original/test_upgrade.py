"""A directory of the original server opens without loss, and is a store from then on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
import statepath
from statepath import StatePersistence
from statepath.engine.engine import Engine
from statepath.errors import HistoryTrimmedError, ReadOnlyError, UnsupportedError
from statepath.events import CorruptionDetected, EditConflict, StoreUpgraded
from statepath.models import StateMetrics

pytestmark = pytest.mark.slow


def by_id(documents: list[dict[str, object]]) -> dict[object, object]:
    return {document["id"]: document for document in documents}


async def test_every_task_is_there_with_every_field(original, tasks):
    want = original.state()
    async with original.open() as store:
        assert await tasks(store) == by_id(want["tasks"])
        assert len(want["tasks"]) == 45
        assert [session async for session in store.collection("sessions")] == want["sessions"]
        assert await store.members() == {"metrics": want["metrics"]}
    assert original.told(CorruptionDetected, EditConflict) == []


async def test_session_logs_and_reports_can_be_read_and_continued(original):
    files = {
        path.stem.removeprefix("session_"): path.read_text() for path in original.path.glob("logs/*.log")
    }
    reports = {path.stem: json.loads(path.read_text()) for path in original.path.glob("reports/*.json")}
    assert (len(files), len(reports)) == (45, 1)
    async with original.open() as store:
        assert await store.logs() == sorted(files)
        for id, text in files.items():
            assert await store.read_log(id) == text
        assert {id: await store.read_report(id) for id in await store.reports()} == reports
        id = min(files)
        await store.append_log(id, "more\n")
        assert await store.read_log(id) == files[id] + "more\n"


async def test_the_upgrade_is_told_and_leaves_a_backup_of_what_was_there(original):
    before = (original.path / "state.json").read_bytes()
    async with original.open():
        pass
    (told,) = original.told(StoreUpgraded)
    assert (told.source, told.documents, told.backup) == ("state.json", 46, "state.pre-migration.backup.json")
    assert (original.path / told.backup).read_bytes() == before


async def test_a_backup_of_a_migration_of_the_originals_own_is_kept_aside(original):
    before = (original.path / "state.json").read_bytes()
    original.put("state.pre-migration.backup.json", theirs := '{"version": "0.9.0", "tasks": []}')
    async with original.open() as store:
        assert await store.verify() == []
    (told,) = original.told(StoreUpgraded)
    assert (original.path / told.backup).read_bytes() == before
    (earlier,) = original.path.glob("state.pre-migration.backup.json.earlier.*")
    assert earlier.read_text() == theirs


async def test_the_second_opening_is_no_upgrade_and_changes_nothing(original, tasks):
    async with original.open() as store:
        seq, held = store.seq, await tasks(store)
    before = original.tree()
    original.heard.clear()
    async with original.open() as store:
        assert (store.seq, await tasks(store)) == (seq, held)
        assert await store.verify() == []
    assert original.told(StoreUpgraded, EditConflict, CorruptionDetected) == []
    assert original.tree() == before


async def test_what_the_original_wrote_beside_stays(original):
    before = original.tree()
    async with original.open():
        pass
    after = original.tree()
    for name in original.backups:
        assert after[name] == before[name]
    for name in before:
        if name.startswith(("logs/", "reports/")):
            assert after[name] == before[name]


async def test_the_files_of_the_tasks_are_views_now(original):
    async with original.open():
        pass
    for task in original.state()["tasks"]:
        shown = json.loads((original.path / f"tasks/{task['id']}.json").read_bytes())
        assert shown.pop("_statepath")["seq"] == 1
        assert shown == task


async def test_a_reader_sees_everything_and_changes_nothing(original, tasks):
    want, before = original.state(), original.tree()
    async with original.open(readonly=True) as store:
        assert await tasks(store) == by_id(want["tasks"])
        assert await store.members() == {"metrics": want["metrics"]}
        assert len(await store.logs()) == 45
        with pytest.raises(ReadOnlyError):
            await store.collection("tasks").put({"id": "new"})
    assert original.tree() == before


async def elsewhere(way, directory, to):
    """Makes a store, or a file, of a directory as a reader sees it."""
    if way == "copy":
        await statepath.copy(directory.path, to)
        return
    async with directory.open(readonly=True) as store:
        await (store.export(to) if way == "export" else store.restore(at=store.seq, to=to))


@pytest.mark.parametrize("way", ["copy", "export", "restore"])
async def test_of_a_directory_that_is_no_store_yet_none_is_made_elsewhere(original, tasks, tmp_path, way):
    want, to = by_id(original.state()["tasks"]), tmp_path / "elsewhere"
    with pytest.raises(UnsupportedError, match="open it for writing once") as told:
        await elsewhere(way, original, to)
    assert told.value.code == "not_upgraded"
    assert not to.exists()
    async with original.open():
        pass
    await elsewhere(way, original, to)
    if way == "export":
        await statepath.import_backup(to, to := tmp_path / "imported")
    async with statepath.open(to, autosave=0) as store:
        assert await tasks(store) == want
        assert await store.verify() == []


async def test_of_a_directory_that_is_a_store_in_part_none_is_made_elsewhere(empty, monkeypatch, tmp_path):
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put("logs/session_A a.log", "text\n")
    with monkeypatch.context() as patched:
        patched.setattr("statepath.engine.engine.Engine.flush", _fail)
        with pytest.raises(OSError, match="power"):
            async with empty.open():
                pass
    with pytest.raises(UnsupportedError, match="open it for writing once"):
        await elsewhere("copy", empty, tmp_path / "elsewhere")


async def test_the_original_api_loads_what_the_original_saved(original):
    want = original.state()
    async with StatePersistence.open(original.path) as persistence:
        state = await persistence.load_state()
        assert state is not None
        assert len(state.tasks) == 45
        assert state.metrics.total_tasks == want["metrics"]["total_tasks"]
        assert {task.id for task in await persistence.load_tasks()} == set(by_id(want["tasks"]))


async def test_an_upgraded_store_can_be_restored_to_the_state_of_the_upgrade(original, tasks):
    want = by_id(original.state()["tasks"])
    async with original.open() as store:
        upgraded = store.seq
        for id in list(want)[:5]:
            await store.collection("tasks").delete(str(id))
        await store.restore(at=upgraded)
        assert await tasks(store) == want


async def test_a_restore_to_a_time_before_the_upgrade_deletes_nothing(original, tasks):
    async with original.open() as store:
        with pytest.raises(HistoryTrimmedError, match="the history begins at"):
            await store.restore(at=datetime.now(UTC) - timedelta(hours=3))
        assert await tasks(store) == by_id(original.state()["tasks"])


@pytest.mark.parametrize(
    "id",
    [
        "Task_1",
        "TASK",
        "a b",
        "täsk",
        "100%",
        "a@b.com",
        "CON",
        "x" * 150,
        "..",
        ".hidden",
        "a+b",
        "a,b",
        "日本語",
        "語" * 60,
    ],
)
async def test_an_id_of_any_kind_keeps_its_task(empty, tasks, id):
    task = {"id": id, "updated_at": "2025-01-01T00:00:00Z", "text": "in the state"}
    newer = task | {"updated_at": "2025-01-02T00:00:00Z", "text": "in its file"}
    empty.put("state.json", {"tasks": [task], "sessions": [], "metrics": {}})
    empty.put(f"tasks/{id}.json", newer)
    async with empty.open() as store:
        assert await tasks(store) == {id: newer}
        await store.flush()
        assert await store.verify() == []
    assert len(list(empty.path.glob("tasks/*"))) == 1
    assert empty.told(CorruptionDetected, EditConflict) == []


@pytest.mark.parametrize("id", ["Claude_1", "a b", "ünïcode", "My Session", "Läuft~", "100% Done", "Ä" * 34])
async def test_a_session_log_of_any_name_can_be_read(empty, id):
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put(f"logs/session_{id}.log", "text\n")
    async with empty.open() as store:
        assert await store.read_log(id) == "text\n"
        await store.append_log(id, "more\n")
        assert await store.logs() == [id]
        assert await store.read_log(id) == "text\nmore\n"


@pytest.mark.parametrize("id", ["Report_1", "a b", "Run Ä"])
async def test_a_report_of_any_name_can_be_read(empty, id):
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put(f"reports/{id}.json", {"n": 1})
    async with empty.open() as store:
        assert await store.reports() == [id]
        assert await store.read_report(id) == {"n": 1}


async def test_of_two_session_logs_that_get_one_name_none_is_deleted(empty):
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put("logs/session_A B.log", "one\n")
    empty.put("logs/session_%41%20%42.log", "another\n")
    async with empty.open():
        pass
    assert {path.read_text() for path in empty.path.glob("logs/*")} == {"one\n", "another\n"}


async def test_a_session_log_of_a_shortened_name_is_renamed_once(empty, monkeypatch):
    id = "S" * 80
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put(f"logs/session_{id}.log", "text\n")
    with monkeypatch.context() as patched:
        patched.setattr("statepath.engine.engine.Engine.snapshot", _fail)
        with pytest.raises(OSError, match="power"):
            async with empty.open():
                pass
    async with empty.open() as store:
        assert await store.read_log(id) == "text\n"
    assert len(list(empty.path.glob("logs/*"))) == 1


@pytest.mark.parametrize(
    "broken",
    [
        "statepath_local.backend.LocalBackend.delete",
        "statepath.engine.engine.Engine.snapshot",
        "statepath.engine.opening._TakeOver._know_logs",
    ],
)
async def test_an_upgrade_that_ends_between_its_commits_is_finished_by_the_next_opening(
    empty, monkeypatch, broken
):
    ids = ["A" * 80, "B" * 80, "C C"]
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    for id in ids:
        empty.put(f"logs/session_{id}.log", f"{id}\n")
    empty.put("reports/Run 1.json", {"n": 1})
    with monkeypatch.context() as patched:
        patched.setattr(broken, _fail)
        with pytest.raises(OSError, match="power"):
            async with empty.open():
                pass
    async with empty.open() as store:
        assert await store.logs() == ids
        assert [await store.read_log(id) for id in ids] == [f"{id}\n" for id in ids]
        assert await store.reports() == ["Run 1"]
        assert await store.verify() == []
    assert len(list(empty.path.glob("logs/*"))) == 3
    assert list(empty.path.glob("*.conflict.*")) == []


async def test_a_session_log_of_a_shortened_name_is_known(empty, tmp_path):
    id = "S" * 80
    empty.put("state.json", {"tasks": [{"id": "a"}]})
    empty.put(f"logs/session_{id}.log", "text\n")
    async with empty.open() as store:
        assert await store.logs() == [id]
        assert await store.verify() == []
    await statepath.copy(empty.path, to := tmp_path / "copy")
    async with statepath.open(to, autosave=0) as copied:
        assert await copied.logs() == [id]
        assert await copied.read_log(id) == "text\n"
    async with empty.open(log_bytes=0) as store:
        assert (await store.clean()).objects
        assert await store.logs() == []
    assert list(empty.path.glob("logs/*")) == []


async def _fail(*_: object) -> None:
    raise OSError("power failure")


async def test_what_is_no_task_is_kept_as_it_is(empty, tasks):
    odd = {
        "tasks": [{"id": "a"}, {"name": "no id"}, 7],
        "sessions": [],
        "flags": [1, 2],
        "queue": [],
        "Odd Name": {"x": 1},
        "n": 1,
    }
    empty.put("state.json", odd)
    async with empty.open() as store:
        assert await tasks(store) == {"a": {"id": "a"}}
        members = await store.members()
        assert members == {name: odd[name] for name in ("flags", "queue", "Odd Name", "n")} | {
            "tasks_without_id": [{"name": "no id"}, 7]
        }


@pytest.mark.parametrize(
    ("member", "kept"),
    [
        ({"schema_versions": 3}, "schema_versions_of_the_original"),
        ({"schema_versions": [{"id": "a"}]}, "schema_versions_of_the_original"),
        ({"archive_segments": {"a": 1}}, "archive_segments_of_the_original"),
        ({"lease/x": {"holder": "me"}}, "lease_x_of_the_original"),
        ({"sessions": None}, "sessions_of_the_original"),
        ({"sessions": {"s": 1}}, "sessions_of_the_original"),
        ({"": 1}, "unnamed_of_the_original"),
        ({"x" * 300: 1}, "x" * 40 + "_of_the_original"),
        ({"a\0b": 1}, "ab_of_the_original"),
    ],
    ids=lambda value: repr(value)[:24],
)
async def test_a_member_that_the_store_cannot_have_is_kept_under_another_name(empty, tasks, member, kept):
    empty.put("state.json", {"tasks": [{"id": "a"}], "last_saved": None, **member})
    for _ in range(2):
        async with empty.open() as store:
            assert await store.members() == {kept: next(iter(member.values()))}
            assert await tasks(store) == {"a": {"id": "a"}}
            assert await store.verify() == []
    assert [told.key for told in empty.told(CorruptionDetected)] == ["state.json"]
    async with StatePersistence.open(empty.path) as persistence:
        state = await persistence.load_state()
        assert state is not None
        assert [task.id for task in state.tasks] == ["a"]


async def test_a_member_gets_no_name_that_another_one_has(empty):
    empty.put(
        "state.json",
        {"tasks": [{"id": "a"}, 7], "sessions": {}, "sessions_of_the_original": 1, "tasks_without_id": 2},
    )
    async with empty.open() as store:
        assert await store.members() == {
            "sessions_of_the_original": 1,
            "sessions_of_the_original_2": {},
            "tasks_without_id": 2,
            "tasks_without_id_2": [7],
        }


async def test_a_store_that_was_upgraded_can_be_exported_and_imported(empty, tmp_path):
    empty.put("state.json", {"tasks": [{"id": "a"}], "": 1, "x" * 300: 2})
    async with empty.open() as store:
        await store.export(str(tmp_path / "store.zip"))
        held = await store.members()
    await statepath.import_backup(str(tmp_path / "store.zip"), tmp_path / "other")
    async with statepath.open(tmp_path / "other") as other:
        assert await other.members() == held


BEHIND = {
    "tasks": [{"id": "a", "updated_at": "2025-01-01T00:00:00Z", "status": "pending"}],
    "metrics": {"total_tasks": 1, "completed_tasks": 0, "failed_tasks": 0, "average_completion_time": 0},
}
"""A state of before its task failed, and the next one began."""


def put_behind(empty):
    empty.put("state.json", BEHIND)
    empty.put("tasks/a.json", {"id": "a", "updated_at": "2025-01-02T00:00:00Z", "status": "failed"})
    empty.put("tasks/b.json", {"id": "b", "updated_at": "2025-01-02T00:00:00Z", "status": "pending"})


async def counts(empty, **settings):
    async with StatePersistence.open(empty.path, autosave=0, **settings) as persistence:
        state = await persistence.load_state()
        assert state is not None
        return state.metrics.total_tasks, state.metrics.failed_tasks


@pytest.mark.parametrize("readonly", [True, False])
async def test_metrics_of_a_state_that_is_behind_the_files_are_counted_from_the_tasks(empty, readonly):
    put_behind(empty)
    assert await counts(empty, readonly=readonly) == (2, 1)
    assert await counts(empty) == (2, 1)


async def test_metrics_of_a_state_that_is_behind_are_kept_as_they_were(empty):
    put_behind(empty)
    async with empty.open() as store:
        assert await store.members() == {"metrics": BEHIND["metrics"]}


async def test_metrics_of_a_state_that_is_behind_are_counted_though_the_upgrade_was_interrupted(
    empty, monkeypatch, tasks
):
    put_behind(empty)
    decide = Engine.decide

    async def once(engine, deciding):
        if engine.seq:
            await _fail()
        return await decide(engine, deciding)

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "decide", once)
        with pytest.raises(OSError, match="power"):
            await empty.open()
    assert await counts(empty) == (2, 1)
    async with empty.open() as store:
        assert {id: task["status"] for id, task in (await tasks(store)).items()} == {
            "a": "failed",
            "b": "pending",
        }
        assert await store.verify() == []


@pytest.mark.parametrize(
    "metrics", [{}, StateMetrics().model_dump(exclude_unset=False)], ids=["none", "zeros"]
)
async def test_metrics_that_say_nothing_are_counted_from_the_tasks(empty, metrics):
    empty.put("state.json", {"tasks": [{"id": "a", "status": "failed"}], "metrics": metrics})
    assert await counts(empty) == (1, 1)


async def test_metrics_that_are_none_are_counted_from_the_tasks(empty):
    task = {"id": "a", "description": "d", "status": "failed"}
    empty.put(
        "state.json",
        {"tasks": [task], "sessions": [], "metrics": {"average_completion_time": None, "more": "theirs"}},
    )
    async with StatePersistence.open(empty.path) as persistence:
        state = await persistence.load_state()
        assert state is not None
        assert (state.metrics.total_tasks, state.metrics.failed_tasks) == (1, 1)
        assert state.metrics.average_completion_time == 0
        assert state.metrics.model_dump()["more"] == "theirs"


@pytest.mark.parametrize("state", [{}, {"tasks": [], "sessions": [], "last_saved": "2025-01-01T00:00:00Z"}])
async def test_an_empty_one_becomes_an_empty_store(empty, tasks, state):
    empty.put("state.json", state)
    before = (empty.path / "state.json").read_bytes()
    async with empty.open() as store:
        assert await tasks(store) == {}
        await store.collection("tasks").put({"id": "a"})
    assert (empty.path / "state.pre-migration.backup.json").read_bytes() == before
    async with empty.open() as store:
        assert await tasks(store) == {"a": {"id": "a"}}
    assert empty.told(EditConflict, CorruptionDetected) == []


async def test_a_task_that_stands_twice_counts_as_it_was_updated_last_and_is_told(empty, tasks):
    empty.put(
        "state.json",
        {
            "tasks": [
                {"id": "a", "updated_at": "2025-01-02T00:00:00Z", "n": 2},
                {"id": "a", "updated_at": "2025-01-01T00:00:00Z", "n": 1},
            ]
        },
    )
    async with empty.open() as store:
        assert (await tasks(store))["a"]["n"] == 2
    (told,) = empty.told(CorruptionDetected)
    assert (told.key, told.kept_as) == ("state.json", None)
    assert "1 elements of 'tasks' have the id of another one" in told.reason


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2024-01-01T10:00:00Z", "2024-01-01T10:00:00.500Z"),
        ("2024-01-01T12:30:00+02:00", "2024-01-01T11:00:00.000Z"),
        ("some day", "2024-01-01T10:00:00Z"),
    ],
)
@pytest.mark.parametrize("newer", ["state", "file"])
async def test_which_one_is_newer_their_moments_tell_however_they_are_written(
    empty, tasks, earlier, later, newer
):
    times = {"state": earlier, "file": earlier, newer: later}
    said = {place: {"id": "a", "updated_at": times[place], "text": place} for place in ("state", "file")}
    empty.put("state.json", {"tasks": [said["state"]]})
    empty.put("tasks/a.json", said["file"])
    async with empty.open() as store:
        assert await tasks(store) == {"a": said[newer]}
    assert empty.told(EditConflict, CorruptionDetected) == []


async def test_a_file_of_the_same_moment_that_says_something_else_is_kept_aside(empty, tasks):
    empty.put("state.json", {"tasks": [{"id": "a", "updated_at": "2024-01-01T10:00:00Z", "text": "state"}]})
    theirs = {"id": "a", "updated_at": "2024-01-01T11:00:00.000+01:00", "text": "file"}
    empty.put("tasks/a.json", theirs)
    async with empty.open() as store:
        assert (await tasks(store))["a"]["text"] == "state"
    (told,) = empty.told(EditConflict)
    assert json.loads((empty.path / told.kept_as).read_bytes()) == theirs


async def test_a_member_that_has_the_name_of_ours_is_kept_under_another(original, tasks):
    state = original.state()
    first, second = state["tasks"][:2]
    state["tasks"][0] = first | {"_statepath": {"their": "own"}}
    original.put("state.json", state)
    lone = {"id": "lone", "updated_at": "2020-01-01T00:00:00.000Z", "_statepath": "of its file"}
    newer = second | {"updated_at": "2099-01-01T00:00:00.000Z", "_statepath": [1]}
    for task in (first | {"_statepath": {"their": "own"}}, lone, newer):
        original.put(f"tasks/{task['id']}.json", task)

    def kept(task):
        return {name.replace("_statepath", "_statepath_of_the_original"): task[name] for name in task}

    want = by_id(state["tasks"]) | by_id([kept(state["tasks"][0]), kept(lone), kept(newer)])
    async with original.open() as store:
        assert await tasks(store) == want
        assert await store.verify() == []
    assert original.told(CorruptionDetected, EditConflict) == []
    async with original.open() as store:
        assert await tasks(store) == want


async def test_a_backup_of_the_original_in_the_place_of_a_store_is_kept_aside_and_told(
    original, tasks, caplog
):
    async with original.open() as store:
        want = await tasks(store)
    original.heard.clear()
    theirs = (original.path / original.backups[0]).read_bytes()
    (original.path / "state.json").write_bytes(theirs)
    async with original.open() as store:
        assert await tasks(store) == want
    (told,) = original.told(EditConflict)
    assert (original.path / told.kept_as).read_bytes() == theirs
    assert f"it is kept as {told.kept_as}" in caplog.text
    assert "statepath backup restore" in caplog.text
