"""`logs`, `watch` and `history`, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import statepath
from statepath.cli.feed import Tail
from statepath.cli.output import Output

Run = Callable[..., Any]


def test_logs_shows_a_log_as_it_is(on: Run, filled: str) -> None:
    assert on("logs", "s1").out == "hello\n"


@pytest.mark.slow
def test_a_log_that_was_begun_anew_while_it_was_looked_up_is_told_once(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def look() -> None:
        async with statepath.open(path, autosave=0) as store:
            await store.append_log("s1", "old\n")
            tail = Tail(store, "s1", Output(as_json=False))
            await store.delete_log("s1")
            await store.append_log("s1", "new\n")
            await tail.show(required=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await tail.follow()

    asyncio.run(look())
    assert capsys.readouterr().out == "new\n"


def test_what_a_snapshot_writes_out_while_the_log_is_looked_up_is_shown(
    path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> None:
        async with statepath.open(path, autosave=0) as store:
            await store.append_log("s1", "old\n")
            await store.flush()
            read = store.read_log

            async def read_and_go_on(id: str) -> str:
                text = await read(id)
                await store.append_log("s1", "new\n")
                await store.snapshot()
                return text

            monkeypatch.setattr(store, "read_log", read_and_go_on)
            await Tail(store, "s1", Output(as_json=False)).show(required=True)

    asyncio.run(look())
    assert capsys.readouterr().out == "old\nnew\n"


def test_logs_in_json_tells_where_the_text_stands(on: Run, filled: str) -> None:
    assert on("logs", "s1", "--json").json == {"id": "s1", "offset": 0, "text": "hello\n"}


def test_logs_without_a_session_lists_them(on: Run, filled: str) -> None:
    assert on("logs", "--json").lines == [{"id": "s1"}]


def test_logs_follows_one_session_only(on: Run, filled: str) -> None:
    answer = on("logs", "--follow")
    assert (answer.code, answer.out, "name it" in answer.err) == (2, "", True)


def test_logs_of_an_unknown_session_points_to_the_list(on: Run, filled: str) -> None:
    answer = on("logs", "s2")
    assert answer.code == 3
    assert f"next: statepath logs -s {filled}" in answer.err


def test_history_tells_what_happened_to_a_document(on: Run, filled: str) -> None:
    changes = on("history", "tasks/task_1", "--json").lines
    assert [(one["seq"], one["kind"], one["value"]["status"]) for one in changes] == [
        (1, "put", "pending"),
        (5, "put", "completed"),
    ]


def test_history_tells_of_logs_and_reports_too(on: Run, filled: str) -> None:
    changes = on("history", "--json").lines
    assert [one["key"] for one in changes[-2:]] == ["logs/s1", "reports/r1"]
    assert on("history", "logs/s1", "--json").json["value"] == "hello\n"


def test_history_gives_the_newest_up_to_the_limit(on: Run, filled: str) -> None:
    assert [one["seq"] for one in on("history", "--limit", "2", "--json").lines] == [6, 7]


def test_history_begins_behind_a_seq(on: Run, filled: str) -> None:
    assert [one["seq"] for one in on("history", "--since", "5", "--json").lines] == [6, 7]


def test_history_shows_a_line_a_change(on: Run, filled: str) -> None:
    lines = on("history", "tasks/task_1").out.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "5"]
    assert all("tasks/task_1" in line for line in lines)


def test_history_of_something_unknown_is_empty(on: Run, filled: str) -> None:
    answer = on("history", "tasks/task_9")
    assert (answer.code, answer.out) == (0, "")


def test_watch_refuses_what_is_no_cursor(on: Run, filled: str) -> None:
    assert on("watch", "--since", "yesterday").code == 2
    assert on("watch", "--since", "9" * 5000).code == 2


def test_watch_refuses_a_cursor_of_another_history(on: Run, filled: str) -> None:
    answer = on("watch", "--since", "0123456789abcdef:3")
    assert answer.code == 4
    assert "another incarnation" in answer.err
