"""`lease list` and `lease release`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import statepath

Run = Callable[..., Any]


@pytest.fixture
def program() -> str:
    """How the holder of the lease was started."""
    return sys.argv[0]


@pytest.fixture
def held(filled: str, program: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A lease whose holder has died; its epoch."""
    monkeypatch.setattr("sys.argv", [program])

    async def hold() -> int:
        async with statepath.open(filled) as store:
            lease = store.lease("leader", ttl=60)
            await lease.acquire()
            return lease.epoch

    return asyncio.run(hold())


def test_list_names_the_holder(on: Run, held: int) -> None:
    (lease,) = on("lease", "list", "--json").lines
    assert (lease["name"], lease["ttl"]) == ("leader", 60)
    assert f"(pid {lease['pid']} on {lease['host']})" in on("lease", "list").out


def test_list_of_nothing_says_so(on: Run, filled: str) -> None:
    answer = on("lease", "list")
    assert (answer.code, answer.out) == (0, "")
    assert "nobody holds a lease" in answer.err


def test_release_without_force_names_the_holder_and_changes_nothing(on: Run, held: int, path: str) -> None:
    answer = on("lease", "release", "leader")
    assert answer.code == 5
    assert "pid" in answer.err
    assert len(on("lease", "list", "--json").lines) == 1
    assert f"to take it away now: statepath lease release leader --force -s {path}" in answer.err


@pytest.mark.parametrize("program", ["\x1b[31mserver"])
def test_the_name_of_a_program_commands_no_terminal(on: Run, held: int) -> None:
    told = on("lease", "list").out
    asked = [on("lease", "release", "leader", *force).err for force in ((), ("--force",))]
    assert ["\\u001b[31mserver" in text and "\x1b" not in text for text in (told, *asked)] == [True] * 3


@pytest.mark.slow
def test_release_with_force_takes_it_away(on: Run, held: int) -> None:
    answer = on("lease", "release", "leader", "--force", "--yes")
    assert answer.code == 0
    assert "took leader away from" in answer.out
    assert on("lease", "list", "--json").lines == []


def test_release_asks_first(on: Run, held: int) -> None:
    answer = on("lease", "release", "leader", "--force")
    assert answer.code != 0
    assert len(on("lease", "list", "--json").lines) == 1


def test_release_takes_it_away_from_nobody_else_than_was_asked_about(
    on: Run, filled: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_over() -> None:
        async with statepath.open(filled) as store:
            await store.break_lease("leader")
            await store.lease("leader", ttl=60).acquire()

    def meanwhile(question: str, *, yes: bool) -> None:
        with ThreadPoolExecutor() as other:
            other.submit(asyncio.run, take_over()).result()

    monkeypatch.setattr("statepath.cli.leases.confirm", meanwhile)
    answer = on("lease", "release", "leader", "--force")
    assert (answer.code, "by now, and was left to it" in answer.err) == (5, True)
    assert len(on("lease", "list", "--json").lines) == 1


def test_release_of_what_nobody_holds_says_so_and_leads_to_those_that_are_held(on: Run, filled: str) -> None:
    answer = on("lease", "release", "claim/task_1", "--force", "--yes", "--json")
    assert (answer.code, answer.error["next"]) == (3, f"statepath lease list -s {filled}")
