"""Tasks, session logs and reports one by one, and what is loaded."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import JsonValue
from statepath.errors import InvalidArgumentError, ReadOnlyError
from statepath.events import CorruptionDetected, Event
from statepath.models import PersistedState, Task
from statepath.persistence import StatePersistence

MakeTask = Callable[..., Task]


async def test_a_new_store_has_no_state(p: StatePersistence) -> None:
    assert await p.load_state() is None
    assert await p.load_tasks() == []


async def test_a_lease_that_was_taken_is_no_state(p: StatePersistence) -> None:
    async with p.store.lease("leader"):
        assert await p.load_state() is None


async def test_an_empty_state_that_was_saved_is_a_state(p: StatePersistence) -> None:
    await p.save_state({})
    state = await p.load_state()
    assert state is not None
    assert (state.tasks, state.sessions) == ([], [])


async def test_a_task_is_saved_at_once_and_replaces_the_one_before(
    p: StatePersistence, task: MakeTask
) -> None:
    first = await p.save_task(task("a", tool="CLAUDECODE"))
    second = await p.save_task(task("a", status="failed"))
    assert (first, second, p.store.seq) == (1, 2, 2)
    assert await p.load_tasks() == [task("a", status="failed")]


async def test_a_task_may_be_a_mapping_with_fields_of_its_own(p: StatePersistence) -> None:
    await p.save_task({"id": "a", "description": "d", "status": "odd", "logs": [], "priority": [1, None]})
    assert await p.store.collection("tasks").get("a") == {
        "id": "a",
        "description": "d",
        "status": "odd",
        "logs": [],
        "priority": [1, None],
    }


async def test_a_task_class_of_ones_own_is_stored_whole(p: StatePersistence) -> None:
    class Deployment(Task):
        region: str = "eu"

    await p.save_task(Deployment(id="a"))
    [loaded] = await p.load_tasks()
    assert loaded.model_extra == {"region": "eu"}


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"description": "no id"}, "id: Field required"),
        ({"id": ""}, "must not be empty"),
        ({"id": "a", "result": float("inf")}, "inf"),
        ("task_1", "no Task: Input"),
    ],
)
async def test_what_is_no_task_is_refused(p: StatePersistence, task: Any, message: str) -> None:
    heard: list[Event] = []
    p.on("*", heard.append)
    with pytest.raises(InvalidArgumentError, match=message):
        await p.save_task(task)
    assert (p.store.seq, heard) == (0, [])


async def test_delete_task_says_whether_there_was_one(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a"))
    assert await p.delete_task("a")
    assert not await p.delete_task("a")
    assert await p.load_tasks() == []


async def test_a_session_log_is_appended_to_as_it_is(p: StatePersistence) -> None:
    await p.save_session_log("session_1", "Task started\n")
    await p.save_session_log("session_1", "Edit ")
    await p.save_session_log("session_1", "README.md\n")
    assert await p.store.read_log("session_1") == "Task started\nEdit README.md\n"


async def test_a_report_is_where_save_report_says(tmp_path: Path) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_report("report_1", {"ok": False})
        location = await p.save_report("report_1", {"ok": True})
    path = tmp_path / "reports" / "report_1.json"
    assert location.endswith(str(path))
    assert json.loads(path.read_text()) == {"ok": True}


async def test_a_document_that_is_no_task_is_left_out_told_and_kept(
    p: StatePersistence, task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    await p.save_task(task("a"))
    odd: dict[str, JsonValue] = {"id": "odd", "description": None}
    await p.store.collection("tasks").put(odd)
    heard: list[CorruptionDetected] = []
    p.on(CorruptionDetected, heard.append)
    with caplog.at_level(logging.ERROR):
        assert await p.load_tasks() == [task("a")]
    assert [event.key for event in heard] == ["tasks/odd"]
    assert "description" in heard[0].reason
    assert "tasks/odd" in caplog.text
    assert await p.store.collection("tasks").get("odd") == odd


@pytest.mark.parametrize("collection", ["tasks", "sessions", "things"])
async def test_a_document_that_cannot_be_read_is_left_out_and_told(
    p: StatePersistence, task: MakeTask, put_unreadable: Callable[[str], Awaitable[None]], collection: str
) -> None:
    await p.save_task(task("a"))
    await p.save_state({"things": [{"id": "b"}]})
    await put_unreadable(collection)
    heard: list[CorruptionDetected] = []
    p.on(CorruptionDetected, heard.append)
    state = await p.load_state()
    assert state is not None
    assert (state.tasks, state.sessions, state.model_extra) == ([task("a")], [], {"things": [{"id": "b"}]})
    assert [event.key for event in heard] == [f"{collection}/odd"]


async def test_a_session_with_only_a_session_id_has_that_as_its_id(p: StatePersistence) -> None:
    await p.save_state({"sessions": [{"session_id": "session_1", "port": 8080}]})
    state = await p.load_state()
    assert state is not None
    assert [session.model_dump() for session in state.sessions] == [
        {"id": "session_1", "session_id": "session_1", "port": 8080}
    ]


async def test_a_session_may_be_any_mapping(p: StatePersistence) -> None:
    await p.save_state({"sessions": [MappingProxyType({"session_id": "session_1"})]})
    assert await p.store.collection("sessions").get("session_1") == {
        "id": "session_1",
        "session_id": "session_1",
    }


async def test_last_saved_is_the_time_of_the_newest_commit(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a"))
    state = await p.load_state()
    [change] = await p.store.history()
    assert state is not None
    assert state.last_saved is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", state.last_saved)
    assert 0 <= (change.time - datetime.fromisoformat(state.last_saved)).total_seconds() < 0.001


async def test_a_loaded_task_is_the_callers_own(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a"))
    [loaded] = await p.load_tasks()
    loaded.status = "failed"
    assert await p.load_tasks() == [task("a")]


async def test_loading_many_tasks_gives_others_a_turn(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task(str(number)) for number in range(300)]))
    other = asyncio.create_task(asyncio.sleep(0))
    assert len(await p.load_tasks()) == 300
    assert other.done()


async def test_an_original_directory_is_loaded_whole(tmp_path: Path, original: dict[str, Any]) -> None:
    (tmp_path / "state.json").write_text(json.dumps(original | {"theme": "dark"}))
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        state = await p.load_state()
    assert state is not None
    written = state.model_dump(mode="json")
    expected = original | {"theme": "dark", "version": "1.0.0", "last_saved": written["last_saved"]}
    assert written == expected


async def test_a_read_only_state_is_loaded_and_never_saved(tmp_path: Path, task: MakeTask) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_task(task("a"))
        async with StatePersistence.open(str(tmp_path), readonly=True) as reader:
            assert await reader.load_tasks() == [task("a")]
            with pytest.raises(ReadOnlyError):
                await reader.save_task(task("b"))
