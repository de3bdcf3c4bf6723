"""The simulated work: what each document looks like at each step of its life.

Everything follows from ids and step numbers alone, so whoever opens the store can tell for every document whether it is
whole, and which step it has reached.
"""

from __future__ import annotations

from typing import Final

import msgspec
from pydantic import BaseModel

from statepath.models import Task, TaskLogEntry

AGENTS: Final = 32
"""How many agents work, and so how many saves are in flight."""

LOGGED: Final = (2, 3)
COMPLETED: Final = 4
"""The steps of a task: 0 created, 1 started, 2 and 3 a log entry each, 4 completed."""


class Session(BaseModel):
    """An agent at work: how many tasks it has completed, and the last of them."""

    id: str
    completed: int
    task_id: str


class Acknowledgement(msgspec.Struct, array_like=True, frozen=True):
    """A save whose `await` has returned: its seq, and the step that each document it changed has reached."""

    seq: int
    steps: dict[str, int]


def agent_id(life: int, agent: int) -> str:
    return f"agent_{life}_{agent:02}"


def task_id(agent: str, number: int) -> str:
    return f"{agent}_task_{number:04}"


def agent_of(task: str) -> str:
    return task.partition("_task_")[0]


def task_at(id: str, step: int) -> Task:
    """The task as it is after the step."""
    task = Task(
        id=id,
        description=f"Implement {id}: read the issue, change the code, run the tests, report. " * 8,
        status="pending" if step == 0 else "completed" if step == COMPLETED else "in_progress",
        tool="CLAUDECODE",
        created_at=_time(0),
        updated_at=_time(1 if step in LOGGED else step),
        logs=[entry_at(id, earlier) for earlier in LOGGED if earlier <= step],
    )
    if step >= 1:
        task.started_at = _time(1)
    if step == COMPLETED:
        task.completed_at = _time(COMPLETED)
        task.result = {"files_created": [f"{id}.py"], "tests_passed": True}
    return task


def entry_at(id: str, step: int) -> TaskLogEntry:
    """The entry that the step adds to the task's log."""
    return TaskLogEntry(timestamp=_time(step), message=f"{id} has reached step {step}")


def session_at(id: str, completed: int) -> Session:
    """The agent's session after so many completed tasks."""
    return Session(id=id, completed=completed, task_id=task_id(id, completed - 1))


def line_at(id: str, number: int) -> str:
    """The line of the agent's log about its task of that number."""
    return f"{_time(COMPLETED)} {task_id(id, number)} completed\n"


def log_at(id: str, lines: int) -> str:
    """The agent's log after so many lines."""
    return "".join(line_at(id, number) for number in range(lines))


def _time(step: int) -> str:
    return f"2024-01-01T10:{step:02}:00.000Z"
