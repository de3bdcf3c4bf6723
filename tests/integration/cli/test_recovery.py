"""`restore`, `verify` and `backup`."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import statepath
from statepath.backend import Blob, Span
from statepath.cli.recovery import place
from statepath.cli.running import logging_to_stderr
from statepath.engine.snapshot import MARK
from statepath.errors import AccessDeniedError, StateError, UnavailableError
from statepath_local.backend import LocalBackend

pytestmark = pytest.mark.slow

Run = Callable[..., Any]

DATA = Path(__file__).parents[2] / "data"


def status(on: Run, document: str = "tasks/task_1") -> str:
    found: str = json.loads(on("show", document).out)["status"]
    return found


def test_restore_makes_the_documents_what_they_were_at_a_seq(on: Run, filled: str) -> None:
    facts = on("restore", "--at", "2", "--yes", "--json").json
    assert (facts["restored"], facts["to"], facts["seq"]) == (True, 2, 8)
    assert status(on) == "pending"
    assert on("show", "tasks/task_3").code == 3


def test_restore_prints_the_command_that_undoes_it(on: Run, cli: Run, filled: str) -> None:
    told = on("restore", "--at", "2", "--yes").out
    undo = re.search(r"statepath (restore --at 7 .*)", told)
    assert undo is not None
    assert cli(*undo[1].split(), "--yes").code == 0
    assert status(on) == "completed"


def test_the_time_that_is_advised_for_one_without_a_zone_is_one(on: Run, filled: str) -> None:
    advised = re.search(r"write (\S+) for UTC", on("restore", "--at", "2024-05-01").err)
    assert advised is not None
    assert place(advised[1]) == datetime(2024, 5, 1, tzinfo=UTC)


def test_restore_takes_a_time(on: Run, filled: str) -> None:
    time = on("history", "tasks/task_1", "--json").lines[0]["time"]
    assert on("restore", "--at", time, "--yes").code == 0
    assert status(on) == "pending"


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("2024-05-01T12:00:00", "write 2024-05-01T12:00:00Z for UTC"),
        ("2024-05-01", "write 2024-05-01T00:00:00Z for UTC"),
        ("yesterday", "a seq such as 42"),
        ("8", "not there yet"),
        ("9" * 5000, "a seq such as 42"),
    ],
)
def test_restore_refuses_what_is_no_place_in_the_history(
    on: Run, filled: str, files: Run, at: str, reason: str
) -> None:
    before = files()
    answer = on("restore", "--at", at, "--yes")
    assert answer.code == 2
    assert reason in answer.err
    assert files() == before


def test_restore_tells_what_it_undoes_and_asks(on: Run, filled: str, files: Run) -> None:
    before = files()
    answer = on("restore", "--at", "2", stdin="n\n")
    assert answer.code == 1
    assert "This undoes 3 changes of 3 documents since seq 2." in answer.err
    assert files() == before


def test_restore_with_dry_run_changes_nothing(on: Run, filled: str, files: Run) -> None:
    before = files()
    facts = on("restore", "--at", "2", "--dry-run", "--json").json
    assert (facts["changes"], facts["documents"], facts["restored"]) == (3, 3, False)
    assert files() == before


def test_restore_to_the_present_does_nothing(on: Run, filled: str, files: Run) -> None:
    before = files()
    assert on("restore", "--at", "7", "--json").json["restored"] is False
    assert files() == before


def test_verify_finds_nothing_in_a_sound_store(on: Run, filled: str) -> None:
    assert on("verify", "--json").json == {"ok": True, "seq": 7, "damage": 0, "findings": []}


def test_verify_names_what_is_damaged_and_exits_with_6(on: Run, filled: str, files: Run) -> None:
    state = Path(filled, "state.json")
    state.write_bytes(state.read_bytes().replace(b"failed", b"fooled"))
    before = files()
    answer = on("verify", "--json")
    assert answer.code == 6
    assert answer.json["damage"] > 0
    assert "state.json" in {one["key"] for one in answer.json["findings"]}
    assert files() == before


@pytest.mark.parametrize(
    ("error", "severity", "code"), [(UnavailableError, "unavailable", 8), (AccessDeniedError, "denied", 9)]
)
def test_verify_names_what_it_cannot_read(
    on: Run,
    filled: str,
    monkeypatch: pytest.MonkeyPatch,
    error: type[StateError],
    severity: str,
    code: int,
) -> None:
    read = LocalBackend.read

    async def fail(self: LocalBackend, key: str, *, span: Span | None = None) -> Blob:
        if key == "reports/r1.json":
            raise error("reports/r1.json: not now", key=key)
        return await read(self, key, span=span)

    monkeypatch.setattr(LocalBackend, "read", fail)
    answer = on("verify", "--json")
    assert answer.code == code
    assert (answer.json["ok"], answer.json["damage"]) == (False, 0)
    assert [(one["key"], one["severity"]) for one in answer.json["findings"]] == [
        ("reports/r1.json", severity)
    ]
    assert on("verify").out == f"{severity}: reports/r1.json: not now\n1 not read, up to seq 7\n"
    assert on("repair", "--yes").code == code


def test_verify_takes_a_file_edited_by_hand_for_a_notice(on: Run, filled: str) -> None:
    view = Path(filled, "tasks/task_1.json")
    view.write_text(view.read_text().replace("completed", "edited"))
    answer = on("verify", "--json")
    assert answer.code == 0
    assert {one["severity"] for one in answer.json["findings"]} == {"notice"}


def test_verify_shows_people_the_damage_and_the_first_notices(on: Run, path: str) -> None:
    for number in range(12):
        on("put", f"tasks/task_{number}", "-", stdin="{}")
    for view in Path(path, "tasks").iterdir():
        view.unlink()
    state = Path(path, "state.json")
    state.write_bytes(state.read_bytes()[:-20])
    lines = on("verify").out.splitlines()
    assert lines[0].startswith("damage: state.json")
    assert sum(line.startswith("notice: ") for line in lines) == 10
    assert "and 2 more notices" in lines


def test_backup_create_keeps_the_state_of_now(on: Run, filled: str) -> None:
    made = on("backup", "create", "--json").json
    assert made["seq"] == 7
    listed = on("backup", "list", "--json").lines[-1]
    assert (listed["key"], listed["seq"], listed["documents"], listed["damage"]) == (made["key"], 7, 4, None)


def test_backup_restore_makes_the_documents_those_of_the_backup(on: Run, filled: str) -> None:
    key = on("backup", "create", "--json").json["key"]
    on("put", "tasks/task_1", "-", stdin='{"status": "later"}')
    facts = on("backup", "restore", key, "--yes", "--json").json
    assert (facts["restored"], facts["to"]) == (True, 7)
    assert status(on) == "completed"


def test_backup_restore_asks_and_can_be_tried(on: Run, filled: str, files: Run) -> None:
    key = on("backup", "create", "--json").json["key"]
    on("put", "tasks/task_1", "-", stdin='{"status": "later"}')
    before = files()
    assert on("backup", "restore", key, "--dry-run").out == "would undo 1 change of 1 document since seq 7\n"
    assert on("backup", "restore", key, stdin="n\n").code == 1
    assert files() == before


@pytest.mark.parametrize("key", ["state.backup.20200101T000000.000000Z.json", "../secret", "state.json"])
def test_backup_restore_takes_listed_keys_only(on: Run, filled: str, key: str) -> None:
    answer = on("backup", "restore", key, "--yes")
    assert answer.code == 3
    assert f"next: statepath backup list -s {filled}" in answer.err


def test_backup_list_shows_a_damaged_one_as_such(on: Run, filled: str) -> None:
    key = on("backup", "create", "--json").json["key"]
    backup = Path(filled, key)
    backup.write_bytes(backup.read_bytes()[:-20])
    listed = on("backup", "list", "--json")
    assert listed.code == 0
    why = listed.lines[-1]["damage"]
    assert key in why
    shown = on("backup", "list")
    assert shown.out.splitlines()[-1].split()[:2] == [key, "unusable"]
    assert (why in shown.out, why in shown.err) == (
        False,
        True,
    )  # it would make each line longer than a terminal
    assert on("backup", "restore", key, "--yes").code == 6


def test_backup_list_shows_one_of_a_newer_program_as_such(on: Run, filled: str) -> None:
    key = on("backup", "create", "--json").json["key"]
    on("put", "tasks/later", "-", stdin="{}")
    other = on("backup", "create", "--json").json["key"]
    backup = Path(filled, key)
    body, mark, end = backup.read_bytes().rpartition(MARK)
    meta = end.rpartition(b',"crc":"')[0].replace(b'"min_reader":1', b'"min_reader":2')
    backup.write_bytes(b'%s%s%s,"crc":"%08x"}\n}\n' % (body, mark, meta, crc32(meta)))
    rows = {row["key"]: row for row in on("backup", "list", "--json").lines}
    assert "install a newer statepath" in rows[key]["damage"]
    assert (rows[other]["seq"], rows[other]["damage"]) == (8, None)


def test_backup_list_leaves_out_one_that_a_server_removes_meanwhile(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = on("backup", "create", "--json").json["key"]
    on("put", "tasks/later", "-", stdin="{}")
    other = on("backup", "create", "--json").json["key"]

    async def removing(_: object) -> list[str]:
        Path(filled, key).unlink()
        return []

    monkeypatch.setattr("statepath.cli.backups.original_keys", removing)
    listed = on("backup", "list", "--json")
    assert (listed.code, [row["key"] for row in listed.lines][-1]) == (0, other)
    assert key not in listed.out


def test_backups_that_were_exchanged_are_damage_and_not_restored(on: Run, filled: str) -> None:
    one = on("backup", "create", "--json").json["key"]
    assert on("put", "tasks/later", "-", stdin="{}").code == 0
    other = on("backup", "create", "--json").json["key"]
    states = [Path(filled, key).read_bytes() for key in (one, other)]
    Path(filled, one).write_bytes(states[1])
    Path(filled, other).write_bytes(states[0])
    damage = {row["key"]: row["damage"] for row in on("backup", "list", "--json").lines}
    assert f"{one} shows the state of {other}" in damage[one]
    assert on("backup", "restore", one, "--yes").code == 6
    assert on("verify").code == 6


def test_backup_create_creates_no_store(on: Run, path: str) -> None:
    assert on("backup", "create").code == 3
    assert not Path(path).exists()


def test_diff_tells_the_documents_and_their_fields(on: Run, filled: str) -> None:
    assert on("diff", "3").out.splitlines() == [
        '+ counters/today {"id":"today","count":1}',
        "~ tasks/task_1",
        '    ~ status: "pending" → "completed"',
    ]
    first, second = on("diff", "5", "3", "--json").lines
    assert (first["key"], first["kind"], first["after"]) == ("counters/today", "removed", None)
    assert second["fields"] == [
        {"path": "status", "kind": "changed", "before": "completed", "after": "pending"}
    ]
    assert on("diff", "5").err == "no document differs\n"


def test_diff_takes_times_and_refuses_those_without_a_zone(on: Run, filled: str) -> None:
    time = on("history", "tasks/task_3", "--json").lines[0]["time"]
    assert [one["key"] for one in on("diff", time, "--json").lines] == ["counters/today", "tasks/task_1"]
    assert on("diff", "2024-05-01T12:00:00").code == 2


def test_restore_to_another_place_leaves_the_store_as_it_is(
    on: Run, cli: Run, filled: str, files: Run, tmp_path: Path
) -> None:
    before, to = files(), str(tmp_path / "other")
    tried = on("restore", "--at", "2", "--to", to, "--dry-run", "--json").json
    assert (tried["restored"], Path(to).exists()) == (False, False)
    assert on("restore", "--at", "2", "--to", to).out == f"{to} begins with seq 2\n"
    assert files() == before
    assert cli("show", "tasks/task_1", "-s", to).out == on("show", "tasks/task_1").out.replace(
        "completed", "pending"
    )
    again = on("restore", "--at", "2", "--to", to, "--json")
    assert (again.code, again.error["code"]) == (4, "already_exists")


def test_repair_asks_and_mends(on: Run, filled: str, files: Run) -> None:
    state = Path(filled, "state.json")
    state.write_bytes(state.read_bytes().replace(b"failed", b"fooled"))
    before = files()
    tried = on("repair", "--dry-run")
    assert (tried.code, files()) == (6, before)
    assert tried.out.splitlines()[1] == (
        "    is kept aside, and written again from the newest backup and the journal"
    )
    assert on("repair", stdin="n\n").code == 1
    assert files() == before
    done = on("repair", "--yes")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "mended, up to seq 7"
    assert "kept aside: state.json.corrupt." in done.out
    assert on("verify").out == "all is well, up to seq 7\n"


def test_what_is_damaged_is_warned_of_once_however_often_the_store_is_opened(on: Run, filled: str) -> None:
    Path(filled, "state.json").write_text("{")
    assert on("repair", "--yes").err.count("warning: damage found") == 1


def test_of_two_stores_that_are_damaged_alike_both_are_named(
    filled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(filled, "state.json").write_text("{")
    places = [filled, str(tmp_path / "copied")]
    shutil.copytree(*places)

    async def look(place: str) -> None:
        async with statepath.open(place, readonly=True):
            pass

    with logging_to_stderr(debug=False):
        for place in places:
            asyncio.run(look(place))
    warnings = capsys.readouterr().err.splitlines()
    assert [re.search("damage found in (.*?): ", warning)[1] for warning in warnings] == places


def test_repair_of_a_sound_store_does_nothing(on: Run, filled: str, files: Run) -> None:
    before = files()
    assert on("repair", "--json").json["found"] == []
    assert on("repair").out == "all is well, up to seq 7\n"
    assert files() == before


def test_repair_says_what_it_could_not_mend(on: Run, filled: str) -> None:
    journal = next(Path(filled, "journal").glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes().replace(b"pending", b"pensive"))
    Path(filled, "logs/session_s1.log").unlink()
    done = on("repair", "--yes")
    assert done.code == 6
    assert "damaged still: logs/session_s1.log is missing" in done.out


def test_repair_says_what_of_the_archive_is_given_up(on: Run, filled: str) -> None:
    on("archive", "run", "tasks", "--older-than", "1ms", "--yes")
    journal = next(Path(filled, "journal").glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes().replace(b"pending", b"pensive"))
    segment = next(Path(filled, "archive").glob("*.gz"))
    segment.write_bytes(b"")
    done = on("repair", "--yes")
    assert done.code == 6
    assert f"given up: archive/{segment.name}; the archive goes on without its documents" in done.out
    assert on("verify").code == 0


def test_verify_names_the_command_that_mends(on: Run, filled: str) -> None:
    Path(filled, "journal/floor").write_bytes(b"{}")
    assert f"next: statepath repair --dry-run -s {filled}" in on("verify").err


def test_backup_export_and_import_take_a_store_to_another_place(
    on: Run, cli: Run, filled: str, files: Run, tmp_path: Path
) -> None:
    file, to, before = str(tmp_path / "store.zip"), str(tmp_path / "to"), files()
    made = on("backup", "export", file, "--history", "--json").json
    assert (made["path"], made["seq"]) == (file, 7)
    assert files() == before
    assert cli("backup", "import", file, "-s", to).out == f"{to} begins with seq 7 and 4 documents\n"
    assert cli("ls", "tasks", "--json", "-s", to).lines == on("ls", "tasks", "--json").lines
    assert [one["seq"] for one in cli("history", "--json", "-s", to).lines] == [1, 2, 3, 4, 5, 6, 7]
    again = cli("backup", "import", file, "-s", to, "--json")
    assert (again.code, again.error["code"]) == (4, "already_exists")
    assert on("backup", "export", file).code == 4


def test_backup_import_refuses_what_is_no_backup_or_too_large(
    on: Run, cli: Run, filled: str, tmp_path: Path
) -> None:
    file, to = tmp_path / "store.zip", str(tmp_path / "to")
    on("backup", "export", str(file))
    assert cli("backup", "import", str(file), "-s", to, "--max-size", "1KiB").code == 2
    assert cli("backup", "import", str(file), "-s", to, "--max-size", "much").code == 2
    file.write_bytes(file.read_bytes()[:-10])
    answer = cli("backup", "import", str(file), "-s", to)
    assert (answer.code, Path(to).exists()) == (6, False)
    assert "nothing was written" in answer.err


@pytest.fixture
def original(path: str) -> Path:
    """A directory of the original server, with two backups of its own."""
    shutil.copytree(DATA / "original-state", path)
    return Path(path)


@pytest.mark.parametrize("upgraded", [False, True])
def test_backups_of_the_original_are_listed_first(on: Run, original: Path, upgraded: bool) -> None:
    kept = sorted(file.name for file in original.glob("state.backup.*"))
    if upgraded:
        on("backup", "create")
    listed = on("backup", "list", "--json").lines
    assert [row["key"] for row in listed][:2] == kept
    assert len(listed) == (3 if upgraded else 2)
    for row in listed[:2]:
        state = json.loads((original / row["key"]).read_bytes())
        assert row["documents"] == len(state["tasks"]) + len(state["sessions"])
        assert (row["seq"], row["damage"]) == (None, None)
    assert kept[0] in on("backup", "list").out


def test_a_backup_of_the_original_can_be_restored_and_that_undone(on: Run, original: Path) -> None:
    key = min(file.name for file in original.glob("state.backup.*"))
    state = json.loads((original / key).read_bytes())
    on("put", "plans/a", "-", stdin="{}")
    before = {one["id"]: one["value"] for one in on("ls", "tasks", "--json").lines}
    tried = on("backup", "restore", key, "--dry-run", "--json").json
    assert (tried["restored"], tried["documents"] > 0) == (False, True)
    assert {one["id"]: one["value"] for one in on("ls", "tasks", "--json").lines} == before
    done = on("backup", "restore", key, "--yes", "--json").json
    assert (done["restored"], done["documents"]) == (True, tried["documents"])
    assert [one["value"] for one in on("ls", "tasks", "--json").lines] == sorted(
        state["tasks"], key=lambda task: task["id"]
    )
    assert on("ls", "plans", "--json").lines == []
    assert json.loads((original / "state.json").read_bytes())["metrics"] == state["metrics"]
    assert "already" in on("backup", "restore", key, "--yes").out
    assert on(*shlex.split(done["undo"])[1:-2], "--yes").code == 0
    assert {one["id"]: one["value"] for one in on("ls", "tasks", "--json").lines} == before


def test_a_backup_of_the_original_brings_back_true_where_there_is_1_now(on: Run, original: Path) -> None:
    key = min(file.name for file in original.glob("state.backup.*"))
    state = json.loads((original / key).read_bytes())
    task = state["tasks"][0] | {"flag": True}
    (original / key).write_text(json.dumps(state | {"tasks": [task]}))
    assert on("backup", "restore", key, "--yes").code == 0
    on("put", f"tasks/{task['id']}", "-", stdin=json.dumps(task | {"flag": 1}))
    assert on("backup", "restore", key, "--yes", "--json").json["restored"]
    assert json.loads(on("show", f"tasks/{task['id']}").out)["flag"] is True


@pytest.mark.parametrize(("now", "then"), [({"a": 1}, [{"id": "x"}]), ([{"id": "x"}], {"a": 1})])
def test_a_backup_of_the_original_brings_a_collection_back_where_a_member_has_its_name_now_and_a_member_too(
    on: Run, original: Path, now: object, then: object
) -> None:
    key = min(file.name for file in original.glob("state.backup.*"))
    for file, value in ((key, then), ("state.json", now)):
        state = json.loads((original / file).read_bytes())
        (original / file).write_text(json.dumps(state | {"plans": value}))
    on("put", "tasks/of_now", "-", stdin="{}")
    assert on("backup", "restore", key, "--yes").code == 0
    assert json.loads((original / "state.json").read_bytes())["plans"] == then


def test_a_damaged_or_missing_backup_of_the_original_is_told(on: Run, original: Path) -> None:
    key = min(file.name for file in original.glob("state.backup.*"))
    on("put", "plans/a", "-", stdin="{}")
    (original / key).write_bytes(b'{"tasks": [')
    assert on("backup", "list", "--json").lines[0]["damage"]
    assert on("backup", "restore", key, "--yes").code == 6
    assert on("backup", "restore", "state.backup.1000000000000.json", "--yes").code == 3
