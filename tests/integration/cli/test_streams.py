"""Where a command writes and reads: streams that are closed, full, or not UTF-8."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from statepath.cli.output import Output
from statepath.cli.running import logging_to_stderr
from statepath.commit import seal

Run = Callable[..., Any]

TEXT = "é中😀"


def shell(script: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command as `"$@"` of a shell's script."""
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "statepath.cli", *words],
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_stays_the_same_json_where_stdout_is_not_utf_8(
    on: Run, path: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("put", "tasks/a", "-", stdin=json.dumps({"text": TEXT}))
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    shown = shell('exec "$@"', "show", "tasks/a", "-s", path).stdout
    facts = shell('exec "$@"', "show", "tasks/a", "--json", "-s", path).stdout
    assert json.loads(shown.decode())["text"] == TEXT
    assert json.loads(facts.decode())["value"]["text"] == TEXT


@pytest.mark.slow
def test_a_closed_stdin_is_an_empty_one(filled: str) -> None:
    ended = shell('exec "$@" <&-', "put", "tasks/a", "-", "-s", filled)
    assert (ended.returncode, b"stdin is empty" in ended.stderr) == (2, True)


@pytest.mark.slow
def test_a_closed_stdout_is_no_error(on: Run, filled: str) -> None:
    ended = shell('exec "$@" >&-', "delete", "tasks/task_1", "--yes", "-s", filled)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert on("show", "tasks/task_1").code == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("command", ["ls", "config show", "history --json"])
def test_a_full_stdout_is_told_without_a_traceback(filled: str, command: str) -> None:
    ended = shell('exec "$@" >/dev/full', *command.split(), "-s", filled)
    assert ended.returncode == 1
    assert b"cannot be written: No space left on device" in ended.stderr
    assert b"Traceback" not in ended.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize("words", ["--help", "ls --help", "--version"])
def test_help_that_cannot_be_written_is_told_in_a_line(words: str) -> None:
    ended = shell('exec "$@" >/dev/full', *words.split())
    assert ended.stderr == b"error: what there is to tell cannot be written: No space left on device\n"
    assert ended.returncode == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("show tasks/none", 3),
        ("show tasks/none --json", 3),
        ("show --nope", 2),
        ("show --nope --json", 2),
        ("lease list", 0),
    ],
)
def test_a_full_stderr_changes_no_exit_code(filled: str, words: str, code: int) -> None:
    ended = shell('exec "$@" 2>/dev/full', *words.split(), "-s", filled)
    assert (ended.returncode, ended.stdout) == (code, b"")


def test_a_state_path_that_is_not_utf_8_is_an_error_in_json_too(cli: Run) -> None:
    answer = cli("status", "--json", "-s", "/no\udcff")
    assert (answer.code, answer.error["state_path"]) == (7, "/no\udcff")


def test_a_result_about_a_path_that_is_not_utf_8_is_json_too(cli: Run, filled: str, tmp_path: Path) -> None:
    there = f"{tmp_path}/no\udcff"
    made = cli("restore", "--at", "2", "--to", there, "-s", filled, "--json").json
    assert (made["restored"], made["state_path"]) == (True, there)


def test_a_condition_that_is_not_utf_8_is_refused(on: Run, filled: str) -> None:
    assert on("ls", "tasks", "--where", "status=\udcff", "--json").error["exit"] == 2


def test_json_goes_to_a_stream_without_an_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.StringIO()
    monkeypatch.setattr("sys.stdout", text)
    Output(as_json=True).json({"text": TEXT})
    assert text.getvalue() == f'{{"text":"{TEXT}"}}\n'


@pytest.mark.parametrize("words", ["show tasks/a", "show tasks/a --json", "ls tasks", "history", "diff 0"])
def test_no_stored_text_commands_the_terminal(on: Run, words: str) -> None:
    on("put", "tasks/a", "-", stdin=json.dumps({"text": "\x9b31m\x7f"}))
    shown = on(*words.split()).out
    assert "\\u009b31m\\u007f" in shown
    assert "\x9b" not in shown


@pytest.mark.parametrize(
    "words", ["show", "show --json", "ls tasks", "ls tasks --json", "history", "diff 0", "delete"]
)
def test_nothing_stored_turns_what_is_told_around(on: Run, words: str) -> None:
    turned = "tasks/a\u202eb\u2066c"
    on("put", turned, "-", stdin="{}")
    command, *options = words.split()
    told = on(command, *([turned] if command in ("show", "delete") else []), *options, stdin="")
    assert "a\\u202eb\\u2066c" in told.out + told.err
    assert not {"\u202e", "\u2066"} & set(told.out + told.err)


def test_nor_does_the_name_of_a_field(on: Run) -> None:
    for value in (1, 2):
        on("put", "tasks/a", "-", stdin=json.dumps({"\x1b[31m\x9b": value}))
    assert "\\u001b[31m\\u009b: 1 → 2" in on("diff", "1").out


def test_nor_does_what_an_error_quotes(on: Run, filled: str) -> None:
    assert "there is no backup \\u001b[31mx" in on("backup", "restore", "\x1b[31mx").err


@pytest.mark.parametrize("words", ["verify", "repair --dry-run"])
def test_nor_does_what_is_damaged(on: Run, filled: str, words: str) -> None:
    journal = next(Path(filled, "journal").glob("0*.jsonl"))
    first, rest = journal.read_bytes().split(b"\n", 1)
    record = json.loads(first)
    del record["crc"]
    body = {"key": "bodies/\x1b[31mx", "size": 1, "sha256": ""}
    altered = bytes(seal(record | {"transactions": [body] * len(record["transactions"])}))
    journal.write_bytes(altered.rstrip(b"\n") + b"\n" + rest)
    shown = on(*words.split()).out
    assert ("bodies/\\u001b[31mx" in shown, "\x1b" in shown) == (True, False)


def test_nor_does_what_a_warning_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(debug=False):
        logging.getLogger("statepath.leases").warning("held by %s\nand others", "\x1b[31mx")
    assert capsys.readouterr().err == "warning: held by \\u001b[31mx\nand others\n"


def test_nor_does_a_fact_or_a_remark(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.facts([("replica of", "\x1b[31mx")])
    output.note("\x1b[31mx")
    told = capsys.readouterr()
    assert [text.rstrip() for text in told] == ["replica of  \\u001b[31mx", "\\u001b[31mx"]


def test_nor_does_a_document_that_is_shown_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    value = {"text": "\x9b31m", "long": "x" * 200}
    Output(as_json=False).document(value)
    assert "\x9b" not in terminal.getvalue()
    assert json.loads(re.sub(r"\x1b\[\d*m", "", terminal.getvalue())) == value


def test_what_looks_like_markup_is_progress_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    with Output(as_json=False).progress("copying to [/red]/x"):
        pass
    assert "[/red]/x" in terminal.getvalue()
