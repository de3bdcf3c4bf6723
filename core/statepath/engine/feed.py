"""The commits that became visible last, for those who follow along. Kept only while somebody does."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from itertools import takewhile
from typing import Final

from statepath.commit import Commit, Transaction, commit_size

_MOST_BYTES: Final = 8 * 1024 * 1024

Told = tuple[Commit, Sequence[Transaction]]


async def in_bulk(commits: AsyncIterator[Commit], most: int = 256) -> AsyncGenerator[list[Commit]]:
    """The commits, so many at a time; of large ones fewer, since whoever takes them has all in memory."""
    held: list[Commit] = []
    size = 0
    async for commit in commits:
        held.append(commit)
        size += commit_size(commit)
        if len(held) >= most or size >= _MOST_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _last(told: tuple[Commit, Sequence[Transaction], int]) -> int:
    return told[0].last


class Feed:
    """A bounded tail of the log in memory. Whoever falls behind it reads the log itself. `told` is about how many bytes
    it was told while somebody followed."""

    def __init__(self) -> None:
        self.followers = 0
        self.told = 0
        self._recent: deque[tuple[Commit, Sequence[Transaction], int]] = deque()
        self._bytes = 0
        self._news: asyncio.Event | None = None

    def join(self) -> None:
        self.followers += 1

    def leave(self) -> None:
        self.followers -= 1
        if not self.followers:
            self._recent.clear()
            self._bytes = 0

    def tell(self, commit: Commit, transactions: Sequence[Transaction], size: int) -> None:
        """A commit has become visible; `size` is about its bytes."""
        if not self.followers:
            return
        self._recent.append((commit, transactions, size))
        self._bytes += size
        self.told += size
        while self._bytes > _MOST_BYTES and len(self._recent) > 1:
            self._bytes -= self._recent.popleft()[2]
        self.wake()

    def behind(self, after: int) -> list[Told]:
        """The commits behind the seq, if the tail reaches back that far."""
        if not self._recent or self._recent[0][0].first > after + 1:
            return []
        # From the end: of many who follow closely each wants the last one or two of thousands.
        found = [
            (commit, transactions)
            for commit, transactions, _ in takewhile(
                lambda told: told[0].last > after, reversed(self._recent)
            )
        ]
        found.reverse()
        return found

    def oldest_behind(self, after: int) -> Commit | None:
        """The first of these commits."""
        recent = tuple(self._recent)  # who reads metrics may ask from another thread
        if not recent or recent[0][0].first > after + 1:
            return None
        place = bisect_right(recent, after, key=_last)
        return recent[place][0] if place < len(recent) else None

    def wake(self) -> None:
        """Let all who wait for news look again."""
        if self._news is not None:
            self._news.set()
            self._news = None

    async def news(self) -> None:
        """Wait for the next commit, or for the end."""
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()
