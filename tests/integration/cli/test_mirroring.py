"""`mirror` and `mirror promote`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Run = Callable[..., Any]


def line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


@pytest.fixture
def replica(tmp_path: Path) -> str:
    return str(tmp_path / "replica")


def test_mirror_makes_a_replica_and_brings_it_up_to_date(
    cli: Run, filled: str, replica: str, files: Run
) -> None:
    before = files()
    assert cli("mirror", filled, replica, "--once").out == f"{replica} has everything up to seq 7\n"
    assert files() == before
    assert (
        cli("ls", "tasks", "--json", "-s", replica).lines == cli("ls", "tasks", "--json", "-s", filled).lines
    )
    cli("put", "tasks/task_4", "-", "-s", filled, stdin="{}")
    lines = cli("mirror", "--once", "--json", filled, replica).lines
    assert lines == [
        {"event": "mirror:caught-up", "target": replica, "seq": 8},
        {"target": replica, "seq": 8},
    ]
    assert cli("logs", "s1", "-s", replica).out == "hello\n"


def test_a_mirror_runs_beside_a_server_until_it_is_interrupted(
    cli: Run, server: Any, path: str, replica: str
) -> None:
    with ExitStack() as started:

        def start(*words: str) -> subprocess.Popen[str]:
            command = (sys.executable, "-m", "statepath.cli", *words, "--json")
            process = started.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
            started.callback(process.kill)
            return process

        mirror = start("mirror", path, replica)
        assert line(mirror)["event"] == "mirror:caught-up"
        seq = server.tell("task_2 running")
        watching = start("watch", "--since", str(seq - 1), "-s", replica)
        assert line(watching)["value"] == {"id": "task_2", "status": "running"}
        mirror.send_signal(signal.SIGINT)
        assert mirror.wait(60) == 130
    assert cli("status", "--json", "-s", replica).json["replica_of"] == path


def test_a_replica_whose_record_is_damaged_is_made_anew(cli: Run, filled: str, replica: str) -> None:
    cli("mirror", filled, replica, "--once")
    (Path(replica) / "journal" / "floor").write_text("{")
    answer = cli("mirror", filled, replica, "--once")
    assert (answer.code, "--reseed" in answer.err) == (6, True)
    answer = cli("mirror", filled, replica, "--reseed", "--dry-run")
    assert "would be made anew" in answer.out
    assert "a plain copy" in answer.out
    assert cli("mirror", filled, replica, "--reseed", "--once", "--yes").code == 0
    assert cli("status", "--json", "-s", replica).json["replica_of"] == filled


def test_a_replica_refuses_changes_and_says_how_to_promote_it(cli: Run, filled: str, replica: str) -> None:
    cli("mirror", filled, replica, "--once")
    answer = cli("put", "tasks/task_4", "-", "-s", replica, stdin="{}")
    assert (answer.code, f"statepath mirror promote {replica}" in answer.err) == (1, True)


def test_status_tells_how_far_the_replica_is(cli: Run, filled: str, replica: str) -> None:
    env = {"STATE_MIRROR": replica}
    told = cli("status", "--json", "-s", filled, env=env).json
    assert (told["ok"], told["mirror"]["seq"]) == (True, None)
    assert "there is no" in told["mirror"]["error"]
    cli("mirror", filled, replica, "--once")
    cli("put", "tasks/task_4", "-", "-s", filled, stdin="{}")
    assert cli("status", "--json", "-s", filled, env=env).json["mirror"] == {
        "target": replica,
        "seq": 7,
        "behind": 1,
        "error": None,
    }
    assert f"{replica}, at seq 7, 1 behind" in cli("status", "-s", filled, env=env).out
    assert cli("status", "--json", "-s", filled).json["mirror"] is None


def test_a_write_from_the_command_line_is_shipped_too(cli: Run, filled: str, replica: str) -> None:
    cli("put", "tasks/task_4", "-", "-s", filled, stdin="{}", env={"STATE_MIRROR": replica})
    assert cli("status", "--json", "-s", replica).json["seq"] == 8


def test_promote_asks_and_says_what_may_be_missing(cli: Run, filled: str, replica: str) -> None:
    cli("mirror", filled, replica, "--once")
    refused = cli("mirror", "promote", replica, stdin="n\n")
    assert refused.code == 1
    assert "from seq 7 of" in refused.err
    assert cli("status", "--json", "-s", replica).json["replica_of"] == filled
    made = cli("mirror", "promote", replica, "--yes", "--json").json
    assert (made["url"], made["primary"], made["seq"]) == (replica, filled, 7)
    assert cli("status", "--json", "-s", replica).json["replica_of"] is None
    assert cli("put", "tasks/task_4", "-", "-s", replica, stdin="{}").code == 0
    assert cli("mirror", "promote", replica, "--yes").code == 2


def test_after_a_promotion_the_old_primary_is_told_both_positions(
    cli: Run, filled: str, replica: str
) -> None:
    cli("mirror", filled, replica, "--once")
    cli("mirror", "promote", replica, "--yes")
    cli("put", "tasks/mine", "-", "-s", filled, stdin="{}")
    answer = cli("mirror", filled, replica)
    assert answer.code == 4
    assert f"{replica} is at seq 8 and {filled} at seq 8" in answer.err
    assert f"statepath history --since 7 -s {filled}" in answer.err
    assert cli("mirror", filled, replica, "--json").error["code"] == "split"


def test_what_is_to_be_run_next_can_be_pasted_whatever_the_places_are_called(
    cli: Run, filled: str, tmp_path: Path
) -> None:
    store, replica = f"{tmp_path}/my store", f"{tmp_path}/it's a replica"
    os.rename(filled, store)
    cli("mirror", store, replica, "--once")
    refused = cli("put", "tasks/mine", "-", "-s", replica, stdin="{}").err
    promote = shlex.split(refused.partition("after statepath ")[2].splitlines()[0])
    assert cli(*promote, "--yes").code == 0
    cli("put", "tasks/mine", "-", "-s", store, stdin="{}")
    split = cli("mirror", store, replica).err
    history = shlex.split(split.partition("; statepath ")[2].partition(" tells ")[0])
    assert "put    tasks/mine" in cli(*history).out


def test_a_mirror_into_itself_or_another_store_is_refused(cli: Run, filled: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    cli("put", "tasks/mine", "-", "-s", other, stdin="{}")
    assert (cli("mirror", filled, filled).code, cli("mirror", filled, f"{filled}/replica").code) == (2, 2)
    assert cli("mirror", filled, other).code == 4
    assert cli("mirror", str(tmp_path / "none"), other).code == 3
