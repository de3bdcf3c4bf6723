"""How a log is read by those who may be late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from statepath.commit import Commit, Put
from statepath.engine.feed import Feed, in_bulk


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


class Looked(Commit, frozen=True):
    """A commit that counts how often its place is looked at."""

    looks: list[int] = msgspec.field(default_factory=list)

    def __getattribute__(self, name: str) -> Any:
        if name == "last":
            object.__getattribute__(self, "looks").append(1)
        return super().__getattribute__(name)


async def test_who_follows_closely_looks_at_nothing_that_was_told() -> None:
    feed, looks = Feed(), list[int]()
    feed.join()
    async for commit in commits(1000, 1):
        feed.tell(Looked(**msgspec.structs.asdict(commit), looks=looks), (), 1)
    looks.clear()
    assert [commit.first for commit, _ in feed.behind(998)] == [999, 1000]
    assert feed.behind(1000) == []
    assert len(looks) < 10


async def test_the_oldest_commit_behind_a_seq_is_told_where_it_is_known() -> None:
    feed = Feed()
    feed.join()
    async for commit in commits(5, 1):
        if commit.first > 2:
            feed.tell(commit, (), 1)
    oldest = [feed.oldest_behind(after) for after in range(1, 6)]
    assert [commit and commit.first for commit in oldest] == [None, 3, 4, 5, None]
