"""`edit`: a script stands for the editor."""

from __future__ import annotations

import json
import re
import shlex
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this code be the editor: `path` is the file, `text` what it holds, `write` replaces it."""

    def install(code: str) -> None:
        script = tmp_path / "editor.py"
        script.write_text(
            "import os, pathlib, sys\n"
            "path = pathlib.Path(sys.argv[1])\ntext = path.read_text()\nwrite = path.write_text\n" + code
        )
        monkeypatch.setenv("EDITOR", shlex.join([sys.executable, str(script)]))

    return install


@pytest.fixture
def left(tmp_path: Path) -> Callable[[], list[Path]]:
    """The files that are left in the folder for temporary files."""
    return lambda: [file for file in (tmp_path / "tmp").rglob("*") if file.is_file()]


def status(on: Run) -> str:
    found: str = json.loads(on("show", "tasks/task_1").out)["status"]
    return found


def test_edit_stores_what_the_editor_wrote(on: Run, filled: str, editor: Run, left: Run) -> None:
    editor("write(text.replace('completed', 'edited'))")
    stored = on("edit", "tasks/task_1", "--json").json
    assert stored == {"collection": "tasks", "id": "task_1", "seq": 8, "changed": True}
    assert status(on) == "edited"
    assert left() == []


def test_edit_prefers_visual(on: Run, filled: str, editor: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    editor("sys.exit('the wrong editor')")
    monkeypatch.setenv("VISUAL", "true")
    assert on("edit", "tasks/task_1").out == "tasks/task_1 is as it was\n"


def test_edit_shows_the_document_to_its_owner_only(on: Run, filled: str, editor: Run, tmp_path: Path) -> None:
    editor(
        "modes = f'{path.stat().st_mode} {path.parent.stat().st_mode}'\n"
        f"pathlib.Path({str(tmp_path / 'modes')!r}).write_text(modes)"
    )
    on("edit", "tasks/task_1")
    modes = [stat.S_IMODE(int(mode)) for mode in (tmp_path / "modes").read_text().split()]
    assert modes == [0o600, 0o700]


def test_edit_without_a_change_stores_nothing(on: Run, filled: str, editor: Run, files: Run) -> None:
    editor("")
    before = files()
    assert on("edit", "tasks/task_1", "--json").json["changed"] is False
    assert files() == before


def test_edit_keeps_a_text_that_is_not_json_and_says_how_to_store_it(
    on: Run, cli: Run, filled: str, editor: Run, left: Run
) -> None:
    editor("write(text.replace('completed', 'edited') + 'x'); path.chmod(0o644)")
    answer = on("edit", "tasks/task_1")
    assert answer.code == 2
    (kept,) = left()
    assert f"your text is kept in {kept}" in answer.err
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.write_text(kept.read_text().rstrip("x"))
    command = re.search(r"statepath (put .*)", answer.err)
    assert command is not None
    assert cli(*shlex.split(command[1])).code == 0
    assert status(on) == "edited"


@pytest.mark.slow
def test_edit_keeps_the_text_when_someone_else_was_faster(
    on: Run, filled: str, editor: Run, left: Run
) -> None:
    put = [sys.executable, "-m", "statepath.cli", "put", "tasks/task_1", "-", "-s", filled]
    editor(
        f'import subprocess; subprocess.run({put!r}, input=b\'{{"status": "theirs"}}\', check=True)\n'
        "write(text.replace('completed', 'mine'))"
    )
    answer = on("edit", "tasks/task_1")
    assert answer.code == 4
    assert status(on) == "theirs"
    (kept,) = left()
    assert json.loads(kept.read_text())["status"] == "mine"
    assert str(kept) in answer.err


def test_edit_keeps_nothing_when_the_editor_fails(on: Run, filled: str, editor: Run, left: Run) -> None:
    editor("sys.exit(3)")
    answer = on("edit", "tasks/task_1")
    assert answer.code == 2
    assert "ended with 3: nothing was changed" in answer.err
    assert left() == []


def test_edit_keeps_what_was_written_by_an_editor_that_fails(
    on: Run, filled: str, editor: Run, left: Run
) -> None:
    editor("write(text.replace('completed', 'edited')); sys.exit(3)")
    answer = on("edit", "tasks/task_1")
    (kept,) = left()
    assert (answer.code, f"your text is kept in {kept}" in answer.err) == (2, True)
    assert "edited" in kept.read_text()
    assert status(on) == "completed"


def test_edit_keeps_what_the_editor_left_so_that_it_cannot_be_read(
    on: Run, filled: str, editor: Run, left: Run
) -> None:
    editor("path.rename(path.parent / 'mine'); path.mkdir()")
    answer = on("edit", "tasks/task_1")
    assert (answer.code, "cannot be read: Is a directory" in answer.err) == (2, True)
    assert "your text is kept in" in answer.err
    assert [kept.name for kept in left()] == ["mine"]


def test_edit_says_that_there_is_no_room_for_the_text(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/no/such/folder")
    error = on("edit", "tasks/task_1", "--json").error
    assert (error["code"], error["next"]) == ("no_temporary", None)
    assert error["message"].startswith("no temporary file can be made in /no/such/folder: No such file")


def test_edit_leaves_nothing_where_the_text_cannot_be_written(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("statepath.cli.editor.encode_id", lambda id: "x" * 300)
    assert on("edit", "tasks/task_1", "--json").error["code"] == "no_temporary"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_edit_names_an_editor_that_does_not_exist(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch, left: Run
) -> None:
    monkeypatch.setenv("EDITOR", "no-such-editor")
    answer = on("edit", "tasks/task_1")
    assert answer.code == 2
    assert "'no-such-editor' cannot be started: No such file or directory; name another" in answer.err
    assert left() == []


def test_edit_refuses_another_id(on: Run, filled: str, editor: Run) -> None:
    editor("write(text.replace('task_1', 'task_7'))")
    assert on("edit", "tasks/task_1").code == 2
    assert on("show", "tasks/task_7").code == 3
