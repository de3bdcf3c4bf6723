"""Errors: exit codes, messages, and what they must not show."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from statepath import errors
from statepath.cli.app import app
from statepath.cli.exits import EXITS, Exit, exit_of
from statepath.cli.running import Failure, command_line
from statepath.errors import StateError
from typer.main import get_command

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

DOCS = Path(__file__).parents[3] / "docs" / "cli.md"
CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StateError)]
CANARY = "kanarienvogel"


def rows() -> list[list[str]]:
    """The table of exit codes in the documentation."""
    lines = DOCS.read_text().partition("## Exit codes")[2].partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d", line)]


def test_every_error_has_an_exit_code() -> None:
    assert all(exit_of(kind("why")) is not Exit.OK for kind in CLASSES)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFoundError("x"), 3),
        (errors.StoreLockedError("x"), 5),
        (errors.UnknownSchemeError("x"), 7),
        (errors.ReadOnlyError("x"), 1),
    ],
)
def test_the_nearest_class_decides(error: StateError, code: int) -> None:
    assert exit_of(error) == code


def test_the_documentation_has_the_table() -> None:
    assert {(int(code), name.strip("`")) for code, name, *_ in rows()} == {
        (int(code), code.name) for code in Exit
    }


def test_the_documentation_has_the_errors_of_each_code() -> None:
    told = {name: int(code) for code, _, _, names in rows() for name in re.findall(r"`(\w+)`", names)}
    assert told == {kind.__name__: int(code) for kind, code in EXITS.items()}


def test_the_documentation_has_every_command(cli: Run) -> None:
    told = set(re.findall(r"^\| `([a-z]+)", DOCS.read_text(), re.MULTILINE))
    listed = set(re.findall(r"^│ ([a-z]+)  ", cli("--help").out.partition("Commands")[2], re.MULTILINE))
    assert listed
    assert told == listed


def test_what_the_list_of_commands_tells_of_each_has_no_line_break_of_its_own() -> None:
    def told(group: Any, *names: str) -> Iterator[tuple[tuple[str, ...], str]]:
        for name, command in group.commands.items():
            yield (*names, name), command.help.strip().partition("\n\n")[0]
            if hasattr(command, "commands"):
                yield from told(command, *names, name)

    assert [names for names, first in told(get_command(app)) if "\n" in first] == []


def test_an_error_is_a_message_on_stderr_and_no_traceback(on: Run, filled: str) -> None:
    answer = on("show", "tasks/task_9")
    assert (answer.code, answer.out) == (3, "")
    assert answer.err.splitlines() == [
        "error: tasks/task_9 does not exist",
        f"  state path: {filled}",
        f"  next: statepath ls tasks -s {filled}",
    ]


def test_an_error_in_json_is_one_object_on_stderr(on: Run, filled: str) -> None:
    answer = on("show", "tasks/task_9", "--json")
    assert (answer.code, answer.out) == (3, "")
    assert answer.error == {
        "code": "not_found",
        "message": "tasks/task_9 does not exist",
        "key": "tasks/task_9",
        "state_path": filled,
        "next": f"statepath ls tasks -s {filled}",
        "retryable": False,
        "exit": 3,
    }


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("--nope",), "statepath"),
        (("nope",), "statepath"),
        (("ls", "--nope"), "statepath ls"),
        (("ls", "--limit", "x"), "statepath ls"),
        (("show",), "statepath show"),
        (("backup", "nope"), "statepath backup"),
        (("backup", "restore"), "statepath backup restore"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_usage_error_in_json_is_an_object_too(
    cli: Run, words: tuple[str, ...], command: str, first: bool
) -> None:
    answer = cli("--json", *words) if first else cli(*words, "--json")
    assert (answer.code, answer.out, len(answer.err.splitlines())) == (2, "", 1)
    assert answer.error["code"] == "usage"
    assert (answer.error["next"], answer.error["exit"]) == (f"{command} --help", 2)
    assert answer.error["state_path"] is None


def test_a_usage_error_without_json_is_for_people(cli: Run) -> None:
    answer = cli("ls", "--nope")
    assert answer.code == 2
    assert "Usage: " in answer.err


def test_what_nobody_confirms_is_an_object_in_json(on: Run, filled: str, files: Run) -> None:
    before = files()
    answer = on("delete", "tasks/task_1", "--json", stdin="")
    assert (answer.code, answer.error["code"]) == (1, "not_confirmed")
    assert "--yes" in answer.error["message"]
    assert files() == before


def test_an_error_of_doctor_is_about_the_state_path_that_it_was_given(
    cli: Run, filled: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    answer = cli("doctor", str(tmp_path / "file"), "-s", filled, "--json")
    assert answer.error["state_path"] == str(tmp_path / "file")
    assert filled not in answer.err


@pytest.mark.parametrize("words", [("show", "tasks"), ("show", "Tasks/a"), ("put", "metrics/a", "-")])
def test_a_reference_that_names_no_document_is_a_usage_error(
    on: Run, filled: str, words: tuple[str, ...]
) -> None:
    assert on(*words, stdin="{}").code == 2


def test_a_command_to_go_on_with_is_for_the_same_store_but_has_no_secrets() -> None:
    assert command_line("my folder", "ls", "tasks") == "statepath ls tasks -s 'my folder'"
    assert command_line(None, "ls") == "statepath ls"
    url = f"s3://{CANARY}:{CANARY}@bucket/x?endpoint={CANARY}"
    assert command_line(url, "ls") == "statepath ls -s 's3://…@bucket/x?endpoint=…'"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("archive", "show", "tasks/task_9"), "archive list"),
        (("keys", "list"), "config show"),
        (("show", "logs/s1"), "logs"),
        (("delete", "reports/r1"), "ls reports"),
        (("ls", "tasks/task_1"), "show tasks/task_1"),
        (("ls", "reports/r1"), "show reports/r1"),
        (("ls", "logs/s1"), "logs"),
    ],
)
def test_a_command_to_go_on_with_is_one_that_helps(
    on: Run, filled: str, words: tuple[str, ...], command: str
) -> None:
    assert on(*words, "--json").error["next"] == f"statepath {command} -s {filled}"


def test_what_names_no_document_is_not_to_be_shown(on: Run, filled: str) -> None:
    for name in ("tasks/", "/", "../x", "Tasks/a", "archive/x"):
        assert (name, on("ls", name, "--json").error["next"]) == (name, None)


@pytest.mark.parametrize("file", ["/no/such/folder/file", "tasks/file"])
def test_a_file_that_is_not_there_is_no_document(on: Run, filled: str, file: str) -> None:
    for words in (("backup", "export", file), ("backup", "import", file)):
        answer = on(*words, "--json")
        assert (answer.code, answer.error["next"]) == (3, None)
        assert answer.error["message"] == f"{file}: No such file or directory; check the path"


@pytest.mark.parametrize(
    ("number", "code", "ends"),
    [(errno.EACCES, "file_denied", 9), (errno.EROFS, "file_denied", 9), (errno.ENOSPC, "file_failed", 8)],
)
def test_a_file_that_cannot_be_written_is_no_failure_of_the_store(
    on: Run, filled: str, number: int, code: str, ends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("statepath.engine.exporting._create", refused)
    error = on("backup", "export", "kept.zip", "--json").error
    assert (error["code"], error["exit"], error["next"]) == (code, ends, None)
    assert error["message"].startswith(f"kept.zip: {os.strerror(number)}")


@pytest.mark.parametrize("words", [("copy",), ("mirror", "--once"), ("restore", "--at", "1", "-s")])
def test_where_two_places_may_have_failed_both_are_told_and_no_command_for_one_of_them(
    cli: Run, filled: str, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(self: Any, *_: Any, **__: Any) -> None:
        raise errors.UnavailableError("no space left to write state.json", code="disk_full")

    monkeypatch.setattr("statepath_local.backend.LocalBackend.write", full)
    target = str(tmp_path / "target")
    answer = cli(*words, filled, *(["--to"] if words[0] == "restore" else []), target)
    assert answer.code == 8
    assert answer.err.splitlines()[-3:] == [
        "error: no space left to write state.json",
        f"  from: {filled}",
        f"  to: {target}",
    ]
    error = cli(*words, filled, *(["--to"] if words[0] == "restore" else []), target, "--json").error
    assert (error["state_path"], error["to"], error["next"]) == (filled, target, None)


def test_the_state_path_is_told_unless_the_message_has_it() -> None:
    error = errors.StateError("no space left to write state.json")
    assert Failure(error, "state").text().splitlines()[1:] == ["  state path: state"]
    error = errors.StateError("the folder /srv/state is not there")
    assert Failure(error, "state").text().splitlines()[1:] == []


def test_a_file_that_is_no_backup_is_no_damage_of_the_store(cli: Run, path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    answer = cli("backup", "import", str(tmp_path / "file"), "-s", path, "--json")
    assert (answer.code, answer.error["next"]) == (6, None)


def test_a_folder_is_no_backup(on: Run, path: str, tmp_path: Path) -> None:
    answer = on("backup", "import", str(tmp_path))
    assert (answer.code, answer.err.splitlines()[0]) == (2, f"error: {tmp_path} is a folder; name a file")


@pytest.mark.parametrize(
    "words",
    [("diff",), ("doctor",), ("history",), ("archive", "list"), ("archive", "run"), ("keys", "retire")],
)
def test_what_may_be_left_out_is_in_brackets_once(cli: Run, words: tuple[str, ...]) -> None:
    usage = re.search("Usage: .*", cli(*words, "--help").out)
    assert usage is not None
    assert usage[0].count("[") == 2
    assert "[[" not in usage[0]


def test_only_a_document_in_a_conflict_is_to_be_shown() -> None:
    assert Failure(errors.ConflictError("x", key="tasks/a"), None).next == "statepath show tasks/a"
    assert Failure(errors.ConflictError("x", key="journal/floor"), None).next is None


def test_no_command_helps_where_the_key_ring_cannot_be_used() -> None:
    assert Failure(errors.CorruptionError("x", key="keyring.json"), None).next is None


@pytest.mark.parametrize(
    ("ran", "error"),
    [
        ("doctor", errors.UnavailableError("x")),
        ("config", errors.ConfigurationError("x")),
        ("verify", errors.CorruptionError("x")),
    ],
)
def test_no_command_that_fails_is_to_be_run_next(ran: str, error: StateError) -> None:
    advised = Failure(error, None, "status").next
    assert advised is not None
    assert advised.startswith(f"statepath {ran}")
    assert Failure(error, None, ran).next is None


def test_what_looks_like_markup_is_shown_as_it_is(cli: Run, filled: str) -> None:
    path = f"{filled}[red]"
    os.rename(filled, path)
    assert path in cli("status", "-s", path).out


def test_the_state_path_may_stand_before_the_command(cli: Run, filled: str) -> None:
    assert cli("-s", filled, "--json", "status").json["url"] == filled


@pytest.mark.parametrize(
    "words",
    [("backup", "list"), ("archive", "list"), ("lease", "list"), ("keys", "list"), ("config", "show")],
)
def test_the_options_of_a_group_may_stand_before_its_command(
    cli: Run, filled: str, words: tuple[str, str]
) -> None:
    group, command = words
    behind = cli(group, command, "-s", filled, "--json")
    between = cli(group, "-s", filled, "--json", command)
    assert (between.code, between.out, between.err) == (behind.code, behind.out, behind.err)


def test_the_last_state_path_counts(cli: Run, filled: str, tmp_path: Path) -> None:
    assert cli("-s", str(tmp_path / "other"), "status", "-s", filled).code == 0


def test_the_state_path_comes_from_the_environment_else(cli: Run, filled: str) -> None:
    assert cli("status", "--json", env={"STATE_PATH": filled}).json["url"] == filled


def test_a_path_that_is_a_file_is_an_error(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    answer = cli("status", "-s", str(tmp_path / "file"))
    assert answer.code not in (0, 1)
    assert str(tmp_path / "file") in answer.err
    assert (tmp_path / "file").read_text() == "mine"


COMMANDS = [
    ("status",),
    ("ls",),
    ("show", "tasks/a"),
    ("put", "tasks/a", "-"),
    ("edit", "tasks/a"),
    ("delete", "tasks/a", "--yes"),
    ("logs",),
    ("watch",),
    ("history",),
    ("restore", "--at", "1", "--yes"),
    ("verify",),
    ("backup", "create"),
    ("backup", "list"),
    ("backup", "restore", "x", "--yes"),
    ("config", "show"),
    ("doctor",),
]


URLS = [
    f"nosuch://{CANARY}:{CANARY}@host/x?token={CANARY}",
    f"s3://{CANARY}:{CANARY}@bucket/x",
    f"file://{CANARY}:{CANARY}@localhost/x",
    f"memory://x?password={CANARY}",
    f"nosuch://{CANARY}@host/x",
]


def check_silent(answer: Any) -> None:
    assert answer.out + answer.err
    assert CANARY not in answer.out + answer.err


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_command_shows_the_secrets_of_a_state_path(cli: Run, words: tuple[str, ...]) -> None:
    check_silent(cli("--debug", *words, "-s", URLS[0], stdin="{}"))
    check_silent(cli("--debug", *words, "--json", stdin="{}", env={"STATE_PATH": URLS[2]}))


@pytest.mark.parametrize("command", ["status", "doctor"])
@pytest.mark.parametrize("url", URLS)
def test_no_state_path_is_shown_with_its_secrets(cli: Run, command: str, url: str) -> None:
    answer = cli("--debug", command, "-s", url)
    check_silent(answer)
    assert answer.code != 0
