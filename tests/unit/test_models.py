"""The seed's models lose nothing and invent nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from statepath.engine.documents import encode_model
from statepath.models import Model, PersistedState, SessionInfo, StateMetrics, Task, TaskLogEntry, iso_now

ORIGINAL = Path(__file__).parents[1] / "data" / "original-state"
TASKS = sorted((ORIGINAL / "tasks").glob("*.json"))
SNAPSHOTS = sorted(ORIGINAL.glob("state*.json"))

SEED_TASK: dict[str, Any] = {
    "id": "task_1234567890",
    "description": "Implement authentication",
    "status": "completed",
    "tool": "CLAUDECODE",
    "created_at": "2024-01-01T10:00:00Z",
    "updated_at": "2024-01-01T11:30:00Z",
    "started_at": "2024-01-01T10:05:00Z",
    "completed_at": "2024-01-01T11:30:00Z",
    "logs": [
        {
            "timestamp": "2024-01-01T10:05:00Z",
            "level": "info",
            "type": "system",
            "message": "Task started",
        }
    ],
    "result": {"files_created": ["auth.js", "auth.test.js"], "tests_passed": True},
}


def same_json(kind: type[Model], text: str) -> None:
    """JSON texts are compared, since Python takes 1 and 1.0 and True for equal."""
    written = kind.model_validate_json(text).model_dump_json()
    assert json.dumps(json.loads(written), sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)


def test_the_original_directory_is_there() -> None:
    assert (len(TASKS), len(SNAPSHOTS)) == (45, 3)


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_of_the_original_server_comes_out_equal(path: Path) -> None:
    same_json(Task, path.read_text())


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.name)
def test_a_state_of_the_original_server_comes_out_equal(path: Path) -> None:
    same_json(PersistedState, path.read_text())


def test_the_seeds_own_task_comes_out_equal() -> None:
    same_json(Task, json.dumps(SEED_TASK))


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (Task, {"id": "t", "description": "d", "status": "odd", "logs": [], "priority": {"level": 1.0}}),
        (Task, {"id": "t", "description": "", "status": "failed", "logs": [], "error": None, "tool": None}),
        (Task, {"id": "t", "description": "", "status": "failed", "logs": [], "error": {"code": 1}}),
        (
            TaskLogEntry,
            {"timestamp": "2024", "level": "l", "type": "t", "message": "m", "metadata": {"a": 1}},
        ),
        (SessionInfo, {"id": "s", "port": 8080, "tags": ["a", None, 1.5, 10**20]}),
        (
            StateMetrics,
            {"total_tasks": 1, "completed_tasks": 0, "failed_tasks": 0, "average_completion_time": 1.5},
        ),
        (PersistedState, {"tasks": [], "sessions": [], "metrics": StateMetrics().model_dump(), "theme": [1]}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_unknown_fields_nulls_and_numbers_are_kept_as_they_are(
    kind: type[Model], document: dict[str, Any]
) -> None:
    same_json(kind, json.dumps(document))


def test_what_was_never_given_is_not_written_as_null() -> None:
    assert Task(id="t", description="d").model_dump() == {
        "id": "t",
        "description": "d",
        "status": "pending",
        "logs": [],
    }


def test_a_list_that_was_filled_after_construction_is_written() -> None:
    task = Task(id="t")
    task.logs.append(TaskLogEntry(message="started"))
    state = PersistedState()
    state.tasks.append(task)
    state.metrics.total_tasks = 1
    written = state.model_dump()
    assert written["tasks"][0]["logs"] == [{"level": "info", "type": "system", "message": "started"}]
    assert written["metrics"]["total_tasks"] == 1


def test_a_field_that_is_assigned_later_is_written() -> None:
    task = Task(id="t")
    task.error = "no space"
    assert task.model_dump()["error"] == "no space"


def test_tasks_of_one_default_share_no_list() -> None:
    Task(id="a").logs.append(TaskLogEntry())
    assert Task(id="b").logs == []


def test_a_task_without_id_is_refused() -> None:
    with pytest.raises(ValidationError, match="id"):
        Task.model_validate({"description": "d"})


def test_iso_now_has_the_seeds_form() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", iso_now())


class Outcome(BaseModel):
    files: list[str] = []


def test_a_foreign_model_in_a_result_or_an_extra_field_is_written_whole() -> None:
    task = Task(id="a", result=Outcome(), review=Outcome())  # type: ignore[call-arg]
    task.result.files.append("auth.js")
    stored = json.loads(encode_model(task, key="tasks/a"))
    assert (stored["result"], stored["review"]) == ({"files": ["auth.js"]}, {"files": []})
