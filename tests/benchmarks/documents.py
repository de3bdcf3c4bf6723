"""What is saved: tasks of a coding agent, of a wanted size, with text and structure in the usual shares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

from pydantic import BaseModel, JsonValue

START = datetime(2026, 1, 1, tzinfo=UTC)
PROSE = """the agent reads a file runs tests and writes what it found into report before next step begins with
error at line in module import path expected got value none of which was seen earlier so plan changes again"""
WORDS = PROSE.split()
SHAPES = 97


class LogEntry(BaseModel):
    timestamp: datetime
    level: str
    type: str
    message: str


class Task(BaseModel):
    id: str
    description: str
    status: str
    tool: str
    created_at: datetime
    updated_at: datetime
    attempt: int = 0
    logs: list[LogEntry] = []
    result: dict[str, JsonValue] | None = None


def make_task(id: str, size: int, seed: int = 0) -> Task:
    """A task whose JSON is about `size` bytes long."""
    random = Random(seed)
    entries = max(4, size // 500)
    task = Task(
        id=id,
        description=_text(random, 200),
        status="running",
        tool="CLAUDECODE",
        created_at=START,
        updated_at=START + timedelta(seconds=random.random() * 1000),
        result={"files_created": ["auth.js", "auth.test.js"], "tests_passed": True},
    )
    room = (size - len(task.model_dump_json())) // entries
    task.logs = [make_entry(random.randrange(10**6), room - 1) for _ in range(entries)]
    return task


def make_tasks(count: int, size: int) -> list[Task]:
    """Distinct tasks. They share a few bodies, so that many fit into memory."""
    shapes = [make_task("", size, seed) for seed in range(min(SHAPES, count))]
    return [shapes[n % len(shapes)].model_copy(update={"id": f"task_{n:08d}"}) for n in range(count)]


def make_entry(seed: int, size: int) -> LogEntry:
    """An entry of a task's log whose JSON is about `size` bytes long."""
    random = Random(seed)
    when = START + timedelta(microseconds=random.randrange(10**9, 10**10))
    return LogEntry(timestamp=when, level="info", type="system", message=_text(random, size - 85))


def _text(random: Random, length: int) -> str:
    text = ""
    while len(text) < length:
        text += random.choice(WORDS) + " "
    return text[: max(0, length)]
