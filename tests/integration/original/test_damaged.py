"""A damaged directory of the original server gives what can be had of it, and says what is wrong."""

from __future__ import annotations

import json

import pytest
from statepath.errors import AccessDeniedError
from statepath.events import CorruptionDetected, EditConflict, StoreUpgraded

pytestmark = pytest.mark.slow


def by_id(documents):
    return {document["id"]: document for document in documents}


async def test_a_state_json_cut_in_half(original, tasks):
    want = original.state()["tasks"]
    backup = original.state(original.backups[-1])
    data = (original.path / "state.json").read_bytes()
    (original.path / "state.json").write_bytes(cut := data[: len(data) // 2])
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
        assert [session async for session in store.collection("sessions")] == backup["sessions"]
        assert await store.members() == {"metrics": backup["metrics"]}
        assert any("state.json" in sentence for sentence in (await store.health()).damage)
    (told,) = [event for event in original.heard if isinstance(event, CorruptionDetected)]
    assert told.key == "state.json"
    assert (original.path / told.kept_as).read_bytes() == cut
    (upgraded,) = original.told(StoreUpgraded)
    assert upgraded.source == original.backups[-1]
    pre_migration = (original.path / upgraded.backup).read_bytes()
    assert pre_migration == (original.path / original.backups[-1]).read_bytes()


async def test_an_emptied_state_json(original, tasks):
    want = original.state()["tasks"]
    (original.path / "state.json").write_bytes(b"")
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
        assert await store.collection("sessions").count() == 1
    assert [told.key for told in original.told(CorruptionDetected)] == ["state.json"]


async def test_a_newest_backup_that_is_damaged_too(original, tasks):
    want = original.state()["tasks"]
    older = original.state(original.backups[0])
    for name in ("state.json", original.backups[-1]):
        (original.path / name).write_bytes(b'{"tasks": [')
    damaged = {"state.json", original.backups[-1]}
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
        assert await store.members() == {"metrics": older["metrics"]}
    assert {told.key for told in original.told(CorruptionDetected)} == damaged


async def test_one_task_file_that_is_broken(original, tasks):
    want = original.state()["tasks"]
    file = original.path / f"tasks/{want[3]['id']}.json"
    file.write_bytes(broken := file.read_bytes()[:-20])
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    (told,) = original.told(CorruptionDetected)
    assert told.key == f"tasks/{want[3]['id']}.json"
    assert (original.path / told.kept_as).read_bytes() == broken
    assert json.loads(file.read_bytes())["id"] == want[3]["id"]


async def test_a_broken_file_with_a_long_name(original, tasks):
    want = original.state()["tasks"]
    (original.path / f"tasks/{'語' * 60}.json").write_bytes(b"{")
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    (told,) = original.told(CorruptionDetected)
    assert (original.path / told.kept_as).read_bytes() == b"{"


async def test_a_file_that_no_document_can_be_is_kept_aside(original, tasks):
    want = original.state()["tasks"]
    (original.path / "tasks/dump.json").write_bytes(
        dump := b'{"id": "dump", "text": "%s"}' % (b"x" * 300_000)
    )
    async with original.open(max_document=100_000) as store:
        assert await tasks(store) == by_id(want)
    (told,) = original.told(CorruptionDetected)
    assert (original.path / told.kept_as).read_bytes() == dump


async def test_a_session_log_whose_name_is_too_long_to_tell_its_id_stays_and_is_told(original):
    log = original.path / f"logs/session_{'語' * 60}.log"
    log.write_text("text\n")
    async with original.open() as store:
        assert len(await store.logs()) == 45
        assert await store.verify() == []
    (told,) = original.told(CorruptionDetected)
    assert ("too long" in told.reason, told.kept_as, log.read_text()) == (True, None, "text\n")


async def test_only_task_files(original, tasks):
    want = original.state()["tasks"]
    for name in ("state.json", *original.backups):
        (original.path / name).unlink()
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
        assert len(await store.logs()) == 45
    assert original.told(CorruptionDetected, EditConflict) == []
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
        assert await store.verify() == []


async def test_only_a_backup(original, tasks):
    for file in original.path.glob("tasks/*"):
        file.unlink()
    (original.path / "state.json").unlink()
    (original.path / original.backups[0]).unlink()
    backup = original.state(original.backups[0])
    async with original.open() as store:
        assert await tasks(store) == by_id(backup["tasks"])
        assert await store.members() == {"metrics": backup["metrics"]}
    assert [told.reason for told in original.told(CorruptionDetected)] == ["state.json is missing"]


async def test_a_task_file_that_is_newer_than_the_state(original, tasks):
    want = original.state()["tasks"]
    newer = want[0] | {"updated_at": "2099-01-01T00:00:00.000Z", "status": "failed"}
    original.put(f"tasks/{newer['id']}.json", newer)
    async with original.open() as store:
        assert await tasks(store) == by_id(want) | {newer["id"]: newer}


async def test_a_task_file_that_is_older_than_the_state(original, tasks):
    want = original.state()["tasks"]
    original.put(
        f"tasks/{want[0]['id']}.json", want[0] | {"updated_at": "2001-01-01T00:00:00.000Z", "logs": []}
    )
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    assert original.told(EditConflict) == []


@pytest.mark.parametrize("said", ["somehow", True], ids=repr)
async def test_a_task_file_that_says_something_else_at_the_same_time_is_kept_aside(original, tasks, said):
    state = original.state()
    want = state["tasks"]
    want[0]["exit"] = 1
    original.put("state.json", state)
    name = f"tasks/{want[0]['id']}.json"
    original.put(name, want[0] | {"exit": said})
    before = (original.path / name).read_bytes()
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    (told,) = original.told(EditConflict)
    assert told.key == name
    assert (original.path / told.kept_as).read_bytes() == before


async def test_an_older_copy_of_a_task_file_is_kept_aside(original, tasks):
    want = original.state()["tasks"]
    name = f"tasks/{want[0]['id']}.before.json"
    original.put(name, want[0] | {"updated_at": "2001-01-01T00:00:00.000Z", "status": "as it was"})
    before = (original.path / name).read_bytes()
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    (told,) = original.told(EditConflict)
    assert told.key == name
    assert (original.path / told.kept_as).read_bytes() == before


async def test_a_copy_of_a_task_file_that_says_the_same_goes(original, tasks):
    want = original.state()["tasks"]
    original.put(f"tasks/{want[0]['id']}.before.json", want[0])
    async with original.open() as store:
        assert await tasks(store) == by_id(want)
    assert original.told(EditConflict) == []
    assert len(list(original.path.glob("tasks/*"))) == len(want)


async def test_an_older_file_that_the_original_named_otherwise_is_no_conflict(empty, tasks):
    task = {"id": "Task_1", "updated_at": "2025-01-02T00:00:00Z"}
    empty.put("state.json", {"tasks": [task]})
    empty.put("tasks/Task_1.json", task | {"updated_at": "2025-01-01T00:00:00Z"})
    async with empty.open() as store:
        assert await tasks(store) == by_id([task])
        await store.flush()
    assert [path.name for path in empty.path.glob("tasks/*")] == ["%54ask_1.json"]
    assert empty.told(EditConflict) == []


async def test_a_task_that_has_only_its_file(original, tasks):
    state = original.state()
    lone = state["tasks"].pop()
    original.put("state.json", state)
    async with original.open() as store:
        assert await tasks(store) == by_id([*state["tasks"], lone])


@pytest.mark.parametrize("readonly", [False, True])
async def test_a_folder_of_tasks_that_is_a_link_is_told_and_not_taken_for_an_empty_one(original, readonly):
    (original.path / "state.json").unlink()
    (original.path / "tasks").rename(elsewhere := original.path.parent / "elsewhere")
    (original.path / "tasks").symlink_to(elsewhere)
    before = original.tree()
    with pytest.raises(AccessDeniedError, match="'tasks' in the state path is a symbolic link"):
        await original.open(readonly=readonly)
    assert original.tree() == before


async def test_everything_broken_is_an_empty_store_that_says_so(original, tasks):
    for file in (*original.path.glob("*.json"), *original.path.glob("tasks/*")):
        file.write_bytes(b"{")
    count = len(list(original.path.glob("tasks/*"))) + 3
    async with original.open() as store:
        assert await tasks(store) == {}
        await store.collection("tasks").put({"id": "new"})
    told = original.told(CorruptionDetected)
    assert len(told) == count
    assert all((original.path / event.kept_as).read_bytes() == b"{" for event in told)
    async with original.open() as store:
        assert await tasks(store) == {"new": {"id": "new"}}
        assert (await store.health()).damage == ()


async def test_a_damaged_one_can_be_read_and_nothing_is_changed(original, tasks):
    want = original.state()["tasks"]
    (original.path / "state.json").write_bytes(b"{")
    before = original.tree()
    async with original.open(readonly=True) as store:
        assert await tasks(store) == by_id(want)
        assert (await store.health()).damage
    assert original.tree() == before


async def test_halves_of_characters_that_a_cut_text_has(original, tasks):
    """JavaScript cuts a text between the halves of a character, and writes the half that is left as an escape."""
    state = original.state()
    first, second = state["tasks"][:2]
    first |= {"description": "cut \ud83d", "title": "whole \U0001f600, and \\ud83d spelt out"}
    second |= {"updated_at": "2099-01-01T00:00:00.000Z", "description": "\ude00 too"}
    for name, value in (
        ("state.json", state),
        (f"tasks/{first['id']}.json", first),
        (f"tasks/{second['id']}.json", second),
    ):
        (original.path / name).write_text(json.dumps(value))
    before = (original.path / "state.json").read_bytes()
    want = by_id(state["tasks"])
    want[first["id"]]["description"] = "cut \ufffd"
    want[second["id"]]["description"] = "\ufffd too"
    async with original.open() as store:
        assert await tasks(store) == want
        assert await store.verify() == []
    told = [event for event in original.heard if isinstance(event, CorruptionDetected)]
    assert {event.key: event.kept_as for event in told} == dict.fromkeys(
        ("state.json", f"tasks/{first['id']}.json", f"tasks/{second['id']}.json")
    )
    (upgraded,) = original.told(StoreUpgraded)
    assert (original.path / upgraded.backup).read_bytes() == before
    async with original.open() as store:
        assert await tasks(store) == want
    assert original.told(CorruptionDetected) == []
