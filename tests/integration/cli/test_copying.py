"""`copy`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

Run = Callable[..., Any]


@pytest.mark.slow
def test_copy_tells_what_went_along(cli: Run, filled: str, files: Run, tmp_path: Path) -> None:
    to, before = f"sqlite://{tmp_path}/to.db", files()
    assert cli("copy", filled, to).out == f"{to} holds seq 7: 4 documents, 1 session log, 1 report\n"
    assert files() == before
    assert cli("ls", "tasks", "--json", "-s", to).lines == cli("ls", "tasks", "--json", "-s", filled).lines
    assert cli("show", "reports/r1", "-s", to).out == cli("show", "reports/r1", "-s", filled).out


def test_copy_of_no_store_says_what_was_to_be_done_with_it(cli: Run, path: str, tmp_path: Path) -> None:
    answer = cli("copy", path, str(tmp_path / "to"))
    assert (answer.code, answer.err.splitlines()[0]) == (
        3,
        f"error: there is no store at {path} to be copied",
    )


@pytest.mark.parametrize(
    "words", [("copy", "from", "to"), ("mirror", "from", "to"), ("mirror", "promote", "to")]
)
def test_a_state_path_beside_the_stores_of_the_arguments_is_refused(
    cli: Run, filled: str, words: tuple[str, ...]
) -> None:
    answer = cli("-s", filled, *words)
    assert (answer.code, "leave out --state-path" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_store_that_is_made_in_memory_is_said_to_be_gone_with_the_command(
    cli: Run, on: Run, filled: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "export.zip")
    assert on("backup", "export", file).code == 0
    # Here the process goes on, with other tests' stores in its memory.
    copied, mirrored, restored, imported = (f"memory://{uuid4().hex}" for _ in range(4))
    for words in (
        ("copy", filled, copied),
        ("mirror", filled, mirrored, "--once"),
        ("restore", "--at", "2", "--to", restored, "-s", filled),
        ("backup", "import", file, "-s", imported),
    ):
        answer = cli(*words)
        assert (answer.code, "is gone with this command" in answer.err) == (0, True), words
    assert cli("copy", filled, str(tmp_path / "copied")).err == ""


def test_copy_with_history(cli: Run, filled: str, tmp_path: Path) -> None:
    to = f"sqlite://{tmp_path}/to.db"
    made = cli("copy", filled, to, "--history", "--json").json
    assert (made["target"], made["seq"], made["commits"]) == (to, 7, 7)
    assert len(cli("history", "--json", "-s", to).lines) == 7


@pytest.mark.slow
def test_copy_onto_itself_or_another_store_is_refused(
    cli: Run, filled: str, files: Run, tmp_path: Path
) -> None:
    before, to = files(), str(tmp_path / "to")
    assert "onto itself" in cli("copy", filled, filled).err
    cli("put", "tasks/mine", "-", "-s", to, stdin="{}")
    answer = cli("copy", filled, to)
    assert (answer.code, "is not empty" in answer.err) == (4, True)
    assert files() == before


def test_copy_of_nothing_makes_nothing(cli: Run, path: str, tmp_path: Path) -> None:
    assert cli("copy", path, str(tmp_path / "to")).code == 3
    assert not (tmp_path / "to").exists()
