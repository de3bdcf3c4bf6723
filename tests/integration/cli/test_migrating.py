"""`migrate up`, `migrate rollback`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

MODULE = """
from statepath import migration

@migration("tasks", 1, 2)
def rename(task):
    task["state"] = task.pop("status")
    return task
"""


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment of a program that knows the migration."""
    name = f"migrations_{uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield {"STATE_MIGRATIONS": name}
    sys.modules.pop(name, None)


def test_up_tells_and_does_it(on: Run, filled: str, files: Run, known: dict[str, str]) -> None:
    before = files()
    tried = on("migrate", "up", "--dry-run", env=known)
    assert tried.out.splitlines()[:3] == [
        "~ tasks/task_1",
        '    - status: "completed"',
        '    + state: "completed"',
    ]
    assert tried.out.splitlines()[-1] == "would migrate tasks from 1 to 2"
    assert files() == before
    done = on("migrate", "up", "--json", env=known).json
    assert (done["versions"], done["seq"]) == ({"tasks": {"from": 1, "to": 2}}, 8)
    assert done["documents"] == {"tasks": 3}
    assert on("migrate", "up", env=known).out == "nothing is due\n"
    assert on("migrate", "up", "--dry-run", env=known).out == "nothing is due\n"
    assert '"state": "completed"' in on("show", "tasks/task_1").out


def test_a_command_that_writes_has_to_know_the_schema(on: Run, filled: str, known: dict[str, str]) -> None:
    on("migrate", "up", env=known)
    answer = on("put", "tasks/new", "-", "--json", stdin="{}")
    assert (answer.code, answer.error["code"]) == (1, "newer_schema")
    assert on("put", "tasks/new", "-", stdin="{}", env=known).code == 0


def test_rollback_asks_and_goes_back(on: Run, filled: str, files: Run, known: dict[str, str]) -> None:
    on("migrate", "up", env=known)
    before = files()
    assert on("migrate", "rollback", "--dry-run").out.splitlines()[-1] == (
        "would go back to seq 7: tasks from 2 to 1"
    )
    assert on("migrate", "rollback", stdin="n\n").code == 1
    assert files() == before
    assert on("migrate", "rollback", "--yes", "--json").json["to"] == 7
    assert '"status": "completed"' in on("show", "tasks/task_1").out
    assert on("migrate", "rollback", "--yes").code == 2


def test_what_fails_is_named_with_the_next_command(
    on: Run, filled: str, files: Run, known: dict[str, str]
) -> None:
    on("put", "tasks/odd", "-", stdin="{}")
    before = files()
    answer = on("migrate", "up", "--json", env=known)
    assert (answer.code, answer.error["code"], answer.error["key"]) == (1, "migration_failed", "tasks/odd")
    assert files() == before


def test_no_store_is_made(on: Run, path: str, known: dict[str, str]) -> None:
    assert on("migrate", "up", env=known).code == 3
    assert on("migrate", "rollback", "--yes").code == 3
    assert not Path(path).exists()
