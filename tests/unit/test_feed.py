"""How a log is read by those who may be late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from msgspec import Raw
from statepath.commit import Commit, Put
from statepath.engine.feed import in_bulk


async def commits(count: int, size: int) -> AsyncIterator[Commit]:
    for seq in range(1, count + 1):
        yield Commit(
            first=seq,
            last=seq,
            id=str(seq),
            prev="",
            writer="w",
            store="s",
            incarnation="i",
            time=datetime.now(UTC),
            durable=0,
            transactions=((Put("raw", "a", Raw(b'"%s"' % (b"x" * size))),),),
        )


async def test_so_many_commits_are_read_at_a_time() -> None:
    assert [len(few) async for few in in_bulk(commits(5, 1), most=2)] == [2, 2, 1]


async def test_of_large_commits_fewer_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath.engine.feed._MOST_BYTES", 10_000)
    assert [len(few) async for few in in_bulk(commits(5, 6000))] == [2, 2, 1]
