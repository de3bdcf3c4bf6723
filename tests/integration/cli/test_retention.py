"""`archive run|list|show|restore`, `clean`."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import statepath

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

FAILED = ("archive", "run", "tasks", "--older-than", "1ms", "--where", "status=failed")


def test_run_tells_asks_and_archives(on: Run, filled: str, files: Run) -> None:
    before = files()
    tried = on(*FAILED, "--dry-run", "--json").json
    assert (tried["documents"], tried["segments"]) == (2, [])
    assert on(*FAILED, stdin="n\n").code == 1
    assert files() == before
    done = on(*FAILED, "--yes", "--json").json
    assert (done["documents"], len(done["segments"])) == (2, 1)
    assert [one["id"] for one in on("ls", "tasks", "--json").lines] == ["task_1"]
    assert {one["key"] for one in on("archive", "list", "--json").lines} == {"tasks/task_2", "tasks/task_3"}
    assert on("archive", "list", "counters").err == "the archive holds no documents of counters\n"
    assert on("verify").code == 0


def test_show_and_restore_one(on: Run, filled: str) -> None:
    on(*FAILED, "--yes")
    assert on("archive", "show", "tasks/task_2", "--json").json["value"]["n"] == 2
    assert on("archive", "restore", "tasks/task_2").out == "tasks/task_2 is live again, as seq 9\n"
    assert '"n": 2' in on("show", "tasks/task_2").out
    assert on("archive", "restore", "tasks/task_2").code == 4
    assert on("archive", "show", "tasks/task_1").code == 3


def test_rules_of_the_settings_are_run_without_a_collection(on: Run, filled: str) -> None:
    rules = {"STATE_ARCHIVE": "tasks older_than=0s status=failed; counters older_than=1h"}
    assert on("archive", "run", "--yes", "--json", env=rules).json["documents"] == 2
    assert on("archive", "run", "--json").json["documents"] == 0
    assert on("archive", "run").out == "nothing to archive\n"


@pytest.mark.parametrize("words", [("tasks",), ("--older-than", "1d"), ("--where", "a=b")], ids=" ".join)
def test_run_needs_both_a_collection_and_an_age_or_neither(on: Run, filled: str, words: Any) -> None:
    assert on("archive", "run", *words).code == 2


def test_clean_tells_asks_and_removes(on: Run, filled: str, files: Run) -> None:
    aside = Path(filled, "state.json.corrupt.20260101T000000.000000Z")
    aside.write_bytes(b"12345")
    assert on("clean").out == "nothing to remove\n"
    before = files()
    tried = on("clean", "--older-than", "0s", "--dry-run", "--json").json
    assert (tried["bytes"], [one["key"] for one in tried["objects"]]) == (5, [aside.name])
    assert on("clean", "--older-than", "0s", stdin="n\n").code == 1
    assert files() == before
    assert on("clean", "--older-than", "0s", "--yes").out.splitlines()[-1] == "removed 1 objects (5 B)"
    assert not aside.exists()


def test_clean_tells_and_removes_session_logs_beyond_their_bounds(on: Run, filled: str, files: Run) -> None:
    env = {"STATE_LOG_BYTES": "5"}
    log = Path(filled, "logs/session_s1.log")
    before = files()
    assert on("clean", "--dry-run").out == "nothing to remove\n"
    tried = on("clean", "--dry-run", "--json", env=env).json
    assert (tried["bytes"], [one["key"] for one in tried["objects"]]) == (6, ["logs/session_s1.log"])
    assert files() == before
    assert on("clean", "--yes", env=env).out.splitlines()[-1] == "removed 1 objects (6 B)"
    assert not log.exists()
    assert on("logs").out == ""
    assert on("verify").code == 0


def test_a_restore_does_not_count_what_it_does_not_bring_back(on: Run, filled: str) -> None:
    before = on("restore", "--at", "6", "--dry-run", "--json").json
    on("clean", "--yes", env={"STATE_LOG_BYTES": "0"})
    assert on("restore", "--at", "6", "--dry-run", "--json").json["changes"] == before["changes"]


def test_no_store_is_made(on: Run, path: str) -> None:
    assert on(*FAILED).code == 3
    assert on("clean").code == 3
    assert on("archive", "restore", "tasks/a").code == 3
    assert not Path(path).exists()


def test_clean_tells_what_it_removed_and_not_what_it_had_planned(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = Path(filled, "state.json.corrupt.20260101T000000.000000Z")
    aside.write_bytes(b"12345")
    later = aside.with_name("state.json.corrupt.20260102T000000.000000Z")
    monkeypatch.setattr("statepath.cli.cleaning.confirm", lambda *_, **__: later.write_bytes(b"67"))
    assert on("clean", "--older-than", "0s").out.splitlines()[-1] == "removed 2 objects (7 B)"


def test_clean_removes_what_the_state_has_of_a_lease_that_nobody_holds(on: Run, filled: str) -> None:
    async def hold() -> None:
        async with statepath.open(filled) as store:
            await store.lease("leader", ttl=600).acquire()
            shutil.rmtree(f"{filled}/leases")

    asyncio.run(hold())
    tried = on("clean", "--dry-run", "--json").json
    assert [one["key"] for one in tried["objects"]] == ["leases/leader"]
    assert on("clean", "--yes", "--json").json["objects"] == tried["objects"]
    assert on("clean").out == "nothing to remove\n"
