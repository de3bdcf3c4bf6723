"""`ls`, `show`, `put` and `delete`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.engine.engine import Engine

Run = Callable[..., Any]


def test_ls_lists_the_collections(on: Run, filled: str) -> None:
    listed = on("ls", "--json").lines
    assert [(one["collection"], one["documents"]) for one in listed] == [("counters", 1), ("tasks", 3)]


def test_ls_lists_documents_with_version_and_time(on: Run, filled: str) -> None:
    first, *others = on("ls", "tasks", "--json").lines
    assert first.keys() == {"collection", "id", "version", "modified", "value"}
    assert (first["id"], first["version"], first["value"]["status"]) == ("task_1", 5, "completed")
    assert [one["id"] for one in others] == ["task_2", "task_3"]


def test_ls_shows_a_line_for_each_document(on: Run, filled: str) -> None:
    heading, *lines = on("ls", "tasks").out.splitlines()
    assert heading.split() == ["ID", "VERSION", "MODIFIED", "DOCUMENT"]
    assert [line.split()[0] for line in lines] == ["task_1", "task_2", "task_3"]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("status=failed", ["task_2", "task_3"]),
        ("n=3", ["task_3"]),
        ('n="3"', []),
        ('status="completed"', ["task_1"]),
        ("missing=null", ["task_1", "task_2", "task_3"]),
    ],
)
def test_ls_keeps_the_documents_whose_field_has_the_value(
    on: Run, filled: str, condition: str, found: list[str]
) -> None:
    assert [one["id"] for one in on("ls", "tasks", "--where", condition, "--json").lines] == found


def test_ls_joins_conditions(on: Run, filled: str) -> None:
    listed = on("ls", "tasks", "-w", "status=failed", "-w", "n=2", "--json").lines
    assert [one["id"] for one in listed] == ["task_2"]


def test_ls_orders_and_limits(on: Run, filled: str) -> None:
    listed = on("ls", "tasks", "--order-by", "-n", "--limit", "2", "--json").lines
    assert [one["id"] for one in listed] == ["task_3", "task_2"]


def test_ls_lists_logs_and_reports(on: Run, filled: str) -> None:
    assert on("ls", "logs").out == "s1\n"
    assert on("ls", "reports", "--json").lines == [{"id": "r1"}]


def test_ls_limits_the_collections_too(on: Run, filled: str) -> None:
    assert [one["collection"] for one in on("ls", "--limit", "1", "--json").lines] == ["counters"]


@pytest.mark.parametrize("what", [(), ("logs",), ("reports",)])
@pytest.mark.parametrize("option", [("--where", "status=failed"), ("--order-by", "n")])
def test_ls_refuses_a_condition_on_what_is_no_document(
    on: Run, filled: str, what: tuple[str, ...], option: tuple[str, ...]
) -> None:
    answer = on("ls", *what, *option)
    assert (answer.code, answer.out) == (2, "")


def test_ls_of_an_unknown_collection_names_those_that_there_are(on: Run, filled: str) -> None:
    answer = on("ls", "taks")
    assert (answer.code, answer.out) == (0, "")
    assert "counters, tasks" in answer.err


def test_ls_shows_what_looks_like_markup_as_it_is(on: Run, path: str) -> None:
    on("put", "tasks/a", "-", stdin='{"id": "a", "note": "[red]no[/red]"}')
    assert "[red]no[/red]" in on("ls", "tasks").out


def test_ls_does_not_cut_lines_that_a_program_reads(on: Run, path: str) -> None:
    id = "x" * 190
    on("put", f"tasks/{id}", "-", stdin='{"note": "here"}')
    assert any(id in line and "note" in line for line in on("ls", "tasks").out.splitlines())


def test_show_writes_json_that_put_takes(on: Run, filled: str) -> None:
    text = on("show", "tasks/task_2").out
    assert json.loads(text) == {"id": "task_2", "status": "failed", "n": 2}
    assert on("put", "tasks/task_2", "-", stdin=text).code == 0


def test_show_tells_the_version_in_json(on: Run, filled: str) -> None:
    facts = on("show", "tasks/task_1", "--json").json
    assert (facts["collection"], facts["id"], facts["version"]) == ("tasks", "task_1", 5)
    assert facts["value"] == {"id": "task_1", "status": "completed", "n": 1}


def test_show_keeps_numbers_of_any_size(on: Run, path: str) -> None:
    on("put", "tasks/a", "-", stdin='{"n": 123456789012345678901234567890}')
    assert '"n": 123456789012345678901234567890' in on("show", "tasks/a").out


def test_show_shows_a_report(on: Run, filled: str) -> None:
    assert json.loads(on("show", "reports/r1").out) == {"passed": True}


def test_show_names_a_report_that_was_damaged(on: Run, filled: str) -> None:
    (Path(filled) / "reports/r1.json").write_text('{"ok": ')
    shown = on("show", "reports/r1")
    assert shown.code == 6
    assert "reports/r1" in shown.err
    assert "statepath repair --dry-run" in shown.err


def test_put_stores_a_file_and_creates_the_store(on: Run, path: str, tmp_path: Path) -> None:
    (tmp_path / "task.json").write_text('{"id": "task_9", "status": "new"}')
    stored = on("put", "tasks/task_9", str(tmp_path / "task.json"), "--json").json
    assert stored == {"collection": "tasks", "id": "task_9", "seq": 1, "changed": True}
    assert json.loads(on("show", "tasks/task_9").out)["status"] == "new"


def test_put_adds_the_id_of_the_command_line(on: Run, path: str) -> None:
    on("put", "tasks/a/b", "-", stdin="{}")
    assert json.loads(on("show", "tasks/a/b").out) == {"id": "a/b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        ('{"n": NaN}', "NaN"),
        ('{"n": Infinity}', "Infinity"),
        ('{"a": ', "not JSON"),
        ("[1, 2]", "JSON object"),
        ('{"id": "other"}', "'other'"),
        ('{"id": 7}', "7"),
        ("[" * 101 + "]" * 101, "deeper than 100"),
    ],
)
def test_put_refuses_what_is_no_document_and_says_why(on: Run, path: str, text: str, reason: str) -> None:
    answer = on("put", "tasks/a", "-", stdin=text)
    assert answer.code == 2
    assert "tasks/a" in answer.err
    assert reason in answer.err
    assert not Path(path).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/zero without an end")
def test_put_reads_no_more_than_a_document_may_have(on: Run, path: str) -> None:
    answer = on("put", "tasks/a", "/dev/zero", env={"STATE_MAX_DOCUMENT": "1MiB"})
    assert (answer.code, "more than 1,048,576 bytes" in answer.err) == (2, True)
    assert not Path(path).exists()


def test_put_into_memory_says_that_it_is_gone_with_the_command(cli: Run, on: Run, path: str) -> None:
    answer = cli("put", "tasks/a", "-", "-s", "memory://x", stdin="{}")
    assert (answer.code, "stored tasks/a as seq 1" in answer.out) == (0, True)
    assert "warning: memory://x is in the memory of this process" in answer.err
    assert on("put", "tasks/a", "-", stdin="{}").err == ""


def test_put_names_a_file_that_cannot_be_read(on: Run, path: str) -> None:
    answer = on("put", "tasks/a", "missing.json")
    assert answer.code == 2
    assert "missing.json cannot be read: No such file or directory" in answer.err


@pytest.mark.parametrize("text", ["", "\n"])
def test_put_of_what_came_to_nothing_says_so(on: Run, path: str, text: str) -> None:
    answer = on("put", "tasks/a", "-", stdin=text)
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: stdin is empty; give a JSON object")
    assert not Path(path).exists()


def test_put_with_a_version_that_is_not_stored_is_a_conflict(on: Run, filled: str) -> None:
    answer = on("put", "tasks/task_1", "-", "--if-version", "1", stdin="{}")
    assert answer.code == 4
    assert f"next: statepath show tasks/task_1 -s {filled}" in answer.err
    assert on("show", "tasks/task_1", "--json").json["version"] == 5


def test_put_with_version_0_only_creates(on: Run, filled: str) -> None:
    assert on("put", "tasks/task_1", "-", "--if-version", "0", stdin="{}").code == 4
    assert on("put", "tasks/task_4", "-", "--if-version", "0", stdin="{}").code == 0


def test_delete_asks_and_deletes_after_a_yes(on: Run, filled: str) -> None:
    answer = on("delete", "tasks/task_1", stdin="y\n")
    assert answer.code == 0
    assert "This deletes tasks/task_1, version 5." in answer.err
    assert on("show", "tasks/task_1").code == 3


@pytest.mark.parametrize("answered", ["n\n", ""])
def test_delete_changes_nothing_without_a_yes(on: Run, filled: str, files: Run, answered: str) -> None:
    before = files()
    assert on("delete", "tasks/task_1", stdin=answered).code == 1
    assert files() == before


def test_delete_with_dry_run_changes_nothing(on: Run, filled: str, files: Run) -> None:
    before = files()
    facts = on("delete", "tasks/task_1", "--dry-run", "--json").json
    assert facts == {
        "collection": "tasks",
        "id": "task_1",
        "version": 5,
        "deleted": False,
        "dry_run": True,
        "seq": None,
        "undo": None,
    }
    assert files() == before


def test_delete_does_not_delete_what_nobody_was_asked_about(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change() -> None:
        async with statepath.open(filled) as store:
            await store.collection("tasks").put({"id": "task_1", "status": "later"})

    def meanwhile(question: str, *, yes: bool) -> None:
        with ThreadPoolExecutor() as other:
            other.submit(asyncio.run, change()).result()

    monkeypatch.setattr("statepath.cli.documents.confirm", meanwhile)
    assert on("delete", "tasks/task_1").code == 4
    assert json.loads(on("show", "tasks/task_1").out)["status"] == "later"


def test_delete_prints_the_command_that_brings_it_back(on: Run, cli: Run, filled: str) -> None:
    told = on("delete", "tasks/task_1", "--yes").out
    words = told.strip().partition("to bring it back: statepath ")[2].split()
    assert cli(*words, "--yes").code == 0
    assert json.loads(on("show", "tasks/task_1").out)["status"] == "completed"


def test_the_way_back_from_a_delete_is_to_right_before_it_though_others_commit(
    on: Run, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Engine.commit

    async def delete_and_go_on(engine: Engine, *changes: Any) -> int:
        seq = await settle(engine, *changes)
        monkeypatch.setattr(Engine, "commit", settle)
        async with statepath.open(filled) as other:
            await other.collection("tasks").put({"id": "task_9"})
        await engine.catch_up()
        return seq

    monkeypatch.setattr(Engine, "commit", delete_and_go_on)
    facts = on("delete", "tasks/task_1", "--yes", "--json").json
    assert facts["seq"] == 8
    assert facts["undo"] == f"statepath restore --at 7 -s {filled}"


def test_delete_of_a_missing_document_creates_no_store(on: Run, path: str) -> None:
    assert on("delete", "tasks/task_1", "--yes").code == 3
    assert not Path(path).exists()


@pytest.mark.parametrize("text", ["{}", '{"_statepath": 1}'])
def test_a_put_that_is_refused_creates_no_store(on: Run, path: str, text: str) -> None:
    answer = on("put", "tasks/a", "-", *(["--if-version", "3"] if text == "{}" else []), stdin=text)
    assert answer.code == (4 if text == "{}" else 2)
    assert "tasks/a" in answer.err
    assert not Path(path).exists()
