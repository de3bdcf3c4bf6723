"""Every commit in the moment that it becomes visible to a handle, whoever made it, for those who follow along."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from time import monotonic
from typing import Final

from statepath.backend import Backend, CommitLog
from statepath.breath import Breath
from statepath.commit import Commit, Transaction, commit_size
from statepath.engine.feed import Feed, in_bulk
from statepath.engine.following import Follower
from statepath.engine.history import ends_early
from statepath.engine.replay import changes_of
from statepath.errors import ClosedError, HistoryTrimmedError, StateError

logger = logging.getLogger("statepath.following")

_BEHIND: Final = 0.2
"""Seconds until a log that ends before what is shown is read again."""
_SOONEST: Final = 0.05
_LATEST: Final = 5.0
"""Seconds until a log that did not answer is read again."""


class Stream:
    """The commits of one handle: the latest from memory, earlier ones from the log.

    Unless the handle is `alone`, other writers' commits are handed to `take` while somebody follows. `head` is the seq
    that the handle shows, and `closed` says that it shows nothing more. `begin` tells where the log begins by its own
    record, and `patience` is for how many seconds it may end before what is shown.
    """

    def __init__(
        self,
        backend: Backend,
        log: CommitLog,
        *,
        alone: bool,
        head: Callable[[], int],
        closed: Callable[[], bool],
        take: Callable[[Commit], Awaitable[None]],
        begin: Callable[[], Awaitable[int]],
        patience: float,
    ) -> None:
        self._backend = backend
        self._log = log
        self._alone = alone
        self._head = head
        self._closed = closed
        self._begin = begin
        self._patience = patience
        self._feed = Feed()
        self._follower = Follower(log, head, take, self._feed.wake)

    def tell(self, commit: Commit, transactions: Sequence[Transaction], size: int) -> None:
        """A commit has become visible; `size` is about its bytes."""
        self._feed.tell(commit, transactions, size)

    def wake(self) -> None:
        """Let those who follow see that the handle is closed."""
        self._feed.wake()

    async def stop(self) -> None:
        """Look no more for what other writers commit."""
        await self._follower.stop()

    @property
    def told_bytes(self) -> int:
        """About how many bytes have become visible since somebody follows."""
        return self._feed.told

    def oldest_behind(self, after: int) -> datetime | None:
        """The time of the first commit behind the seq, if it was made lately; `None` also if there is none."""
        oldest = self._feed.oldest_behind(after)
        return None if oldest is None else oldest.time

    async def follow(self, after: int) -> AsyncGenerator[tuple[Commit, Sequence[Transaction]]]:
        """Every commit behind the seq `after`, from the log and then as they become visible to this handle. Where the
        storage does not answer for a while, it goes on afterwards.

        Raises:
            HistoryTrimmedError: the log begins later.
            CorruptionError: it ends before what the handle shows.
        """
        self._join()
        pause, breath, short = _SOONEST, Breath(), None
        try:
            while True:
                recent = self._feed.behind(after)
                if recent:
                    for commit, transactions in recent:
                        yield commit, transactions
                        after = commit.last
                        if breath.due(commit_size(commit)):
                            await asyncio.sleep(0)
                elif self._head() > after:
                    begun = after
                    try:
                        async with aclosing(self._read(after, self._head())) as read:
                            async for commit, transactions in read:
                                yield commit, transactions
                                after, pause, short = commit.last, _SOONEST, None
                                if breath.due(commit_size(commit)):
                                    await asyncio.sleep(0)
                        if after == begun:
                            short = await self._wait_for_log(after, short)
                    except StateError as error:
                        if not error.retryable:
                            raise
                        logger.warning(
                            "the log cannot be read for now: %s", error, extra={"code": error.code}
                        )
                        await self._rest(pause)
                        pause, short = min(2 * pause, _LATEST), None
                if self._closed():
                    return
                if self._head() <= after:
                    if self._follower.failure is not None:
                        raise copy.copy(self._follower.failure)
                    await self._feed.news()
        except ClosedError:
            if not self._closed():
                raise
        finally:
            self._leave()

    async def follow_in_bulk(self, after: int, *, pause: float) -> AsyncGenerator[list[Commit]]:
        """As `follow`, for who may be late: every `pause` seconds all commits that have come. Ends when the store is
        closing and all are told.

        Raises:
            HistoryTrimmedError: the log begins later.
            CorruptionError: it ends before what the handle shows.
        """
        self._join()
        short = None
        try:
            while True:
                if recent := self._feed.behind(after):
                    yield [commit for commit, _ in recent]
                    after = recent[-1][0].last
                elif self._head() > after:
                    begun = after
                    async for commits in in_bulk(self._log.read(after)):
                        yield commits
                        after, short = commits[-1].last, None
                    if after == begun:
                        short = await self._wait_for_log(after, short)
                        if self._closed():
                            return
                elif self._closed():
                    return
                elif self._follower.failure is not None:
                    raise copy.copy(self._follower.failure)
                else:
                    await self._feed.news()
                if not self._closed():
                    await asyncio.sleep(pause)
        finally:
            self._leave()

    async def _read(self, after: int, head: int) -> AsyncGenerator[tuple[Commit, Sequence[Transaction]]]:
        """What the log has behind the seq `after`, up to what is shown."""
        async for commit in self._log.read(after):
            if commit.last > head:
                break
            yield commit, [await changes_of(self._backend, one) for one in commit.transactions]

    async def _wait_for_log(self, after: int, since: float | None) -> float:
        """Wait for a log that ended at the seq, before what is shown, when it was read: a standby may be behind the
        server that was read before it. `since`: when that was noticed first, if it had been; given back.

        Raises:
            HistoryTrimmedError: nothing is left of it behind the seq.
            CorruptionError: it has lost its end.
        """
        begin = await self._begin()
        if begin > after + 1:
            raise HistoryTrimmedError(
                f"the log begins at seq {begin}; what came before was trimmed", floor=begin
            )
        # By a clock that rests while the machine sleeps: nothing reads the log meanwhile.
        since = monotonic() if since is None else since
        if monotonic() - since >= self._patience:
            raise ends_early(after, self._head())
        await self._rest(_BEHIND)
        return since

    async def _rest(self, seconds: float) -> None:
        """Wait so long, unless the handle is closed meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._closed():
                    await self._feed.news()

    def _join(self) -> None:
        self._feed.join()
        if not self._alone:
            self._follower.join(self._head())

    def _leave(self) -> None:
        self._feed.leave()
        if not self._alone:
            self._follower.leave()
