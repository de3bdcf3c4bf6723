"""What works beside a running server, and what does not: real processes."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., Any]
Start = Callable[..., subprocess.Popen[str]]


def line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("ls",),
        ("ls", "tasks"),
        ("show", "tasks/task_1"),
        ("logs", "s1"),
        ("history",),
        ("verify",),
        ("backup", "list"),
        ("config", "show"),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_what_reads_works_beside_a_server(on: Run, server: Any, words: tuple[str, ...]) -> None:
    server.tell("task_2 running")
    answer = on(*words)
    assert answer.code == 0
    assert "warning" not in answer.err


def test_what_reads_sees_what_the_server_acknowledged(on: Run, server: Any) -> None:
    seq = server.tell("task_1 running")
    shown = on("show", "tasks/task_1", "--json").json
    assert (shown["version"], shown["value"]["status"]) == (seq, "running")


@pytest.mark.parametrize(
    "words",
    [
        ("put", "tasks/task_1", "-"),
        ("delete", "tasks/task_1", "--yes"),
        ("restore", "--at", "0", "--yes"),
        ("backup", "create"),
    ],
    ids=" ".join,
)
def test_what_writes_works_beside_a_server_that_goes_on(on: Run, server: Any, words: tuple[str, ...]) -> None:
    answer = on(*words, stdin="{}")
    assert answer.code == 0
    before = on("status", "--json").json["seq"]
    assert server.tell("task_2 running") == before + 1
    assert on("verify").code == 0


def test_trying_works_beside_a_server(on: Run, server: Any) -> None:
    assert on("delete", "tasks/task_1", "--dry-run").code == 0
    assert on("restore", "--at", "0", "--dry-run").code == 0


def test_watch_tells_changes_as_they_become_durable(start: Start, server: Any) -> None:
    watching = start("watch", "--since", str(server.seq), "--collection", "tasks", "--json")
    for status in ("running", "completed"):
        server.tell("s1 not of this collection")
        seq = server.tell(f"task_1 {status}")
        told = line(watching)
        assert (told["seq"], told["key"], told["value"]["status"]) == (seq, "tasks/task_1", status)


def test_watch_goes_on_behind_a_cursor(on: Run, start: Start, server: Any) -> None:
    cursor = on("history", "--limit", "1", "--json").json["cursor"]
    seq = server.tell("task_1 running")
    server.tell("task_1 completed")
    assert line(start("watch", "--since", cursor, "--json"))["seq"] == seq


def test_watch_ends_with_130_at_ctrl_c(start: Start, server: Any) -> None:
    watching = start("watch", "--since", str(server.seq), "--json")
    server.tell("task_1 running")
    line(watching)
    watching.send_signal(signal.SIGINT)
    assert watching.wait() == 130
    assert watching.stderr is not None
    assert "Traceback" not in watching.stderr.read()


def test_logs_follows_each_line_once(start: Start, server: Any) -> None:
    following = start("logs", "s1", "--follow")
    assert following.stdout is not None
    told = [following.stdout.readline()]
    for number in range(5):
        server.tell("s2 of another session")
        server.tell(f"s1 line {number}")
        told.append(following.stdout.readline())
    assert told == ["begun\n", *(f"line {number}\n" for number in range(5))]


def test_a_log_that_is_removed_and_begun_anew_is_followed_on(start: Start, server: Any) -> None:
    following = start("logs", "s1", "--follow", "--json")
    assert following.stdout is not None
    told = [following.stdout.readline()]
    server.tell("unlog s1")
    for number in range(2):
        server.tell(f"s1 line {number}")
        told.append(following.stdout.readline())
    assert [(one["offset"], one["text"]) for one in map(json.loads, told)] == [
        (0, "begun\n"),
        (0, "line 0\n"),
        (7, "line 1\n"),
    ]


def test_of_a_log_that_was_removed_only_what_came_later_is_shown(on: Run, server: Any, path: str) -> None:
    server.tell("s1 before")
    server.tell("unlog s1")
    server.tell("s1 after")
    assert on("logs", "s1").out == "after\n"
    server.process.kill()
    server.process.wait()
    Path(path, "logs/session_s1.log").write_text("begun\nbefore\n")
    assert on("logs", "s1").out == "after\n"


def test_a_log_that_a_killed_server_had_no_time_to_write_is_shown(on: Run, server: Any, path: str) -> None:
    server.tell("s1 last words")
    server.process.kill()
    server.process.wait()
    file = Path(path, "logs/session_s1.log")
    file.write_text("begun\nla")
    assert on("logs", "s1").out == "begun\nlast words\n"
