"""What a command writes with `--json`, as the page tells it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"
ARCHIVE = ("archive", "run", "counters", "--older-than", "1ms", "--yes")


def told(command: str) -> list[set[str]]:
    """The members of each form that the page has of the command's objects."""
    section = DOCS.read_text().partition("### What --json has")[2].partition("\n### ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    (members,) = [members for commands, members in rows if command in re.findall(r"`([^`]+)`", commands)]
    return [set(form.split()) for form in re.findall(r"`([^`]+)`", members) if not form.startswith("--")]


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("show", "tasks/task_1"), "show"),
        (("show", "reports/r1"), "show"),
        (("put", "tasks/a", "-"), "put"),
        (("logs", "s1"), "logs SESSION"),
        (("restore", "--at", "2", "--yes"), "restore"),
        (("restore", "--at", "2", "--to", "there"), "restore"),
        (("backup", "create"), "backup create"),
        (("backup", "list"), "backup list"),
        (("backup", "export", "state.zip"), "backup export"),
        (("verify",), "verify"),
        (("repair",), "repair"),
        (("clean",), "clean"),
        (ARCHIVE, "archive run"),
        (("doctor",), "doctor"),
    ],
)
def test_an_object_has_the_members_that_the_page_tells(
    on: Run, filled: str, words: tuple[str, ...], command: str
) -> None:
    if words[0] == "backup":
        on("backup", "create")
    assert set(on(*words, "--json", stdin="{}").lines[-1]) in told(command)


def test_so_has_what_is_of_the_archive(on: Run, filled: str) -> None:
    on(*ARCHIVE)
    for command, *words in (("list",), ("show", "counters/today"), ("restore", "counters/today")):
        assert [set(on("archive", command, *words, "--json").json)] == told(f"archive {command}")


def test_so_has_a_copy(cli: Run, filled: str) -> None:
    assert [set(cli("copy", filled, "copied", "--json").json)] == told("copy")


def test_so_has_a_key_and_its_times_are_those_of_everything(on: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_KEY_FILE", "master-key")
    made = on("keys", "init", "--new-key", "--json").json
    (listed,) = on("keys", "list", "--json").lines
    assert [set(made)] == [set(listed)] == told("keys list")
    assert datetime.fromisoformat(listed["created"]).utcoffset() is not None
