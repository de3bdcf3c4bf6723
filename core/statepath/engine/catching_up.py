"""Catching up: what other writers committed becomes part of what a handle shows, in order, whole, and once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol, cast

from statepath.backend import Backend, CommitLog
from statepath.clock import clock
from statepath.commit import JOURNAL, Body, Commit, Transaction
from statepath.encryption import unsealed
from statepath.engine.replay import Beside, apply_commit, changes_of
from statepath.engine.replica import Replica, Stage
from statepath.errors import CorruptionError, DivergedError, HistoryTrimmedError
from statepath.log import PortableCommitLog


class _Handle(Protocol):
    backend: Backend
    log: CommitLog
    replica: Replica
    store: str
    incarnation: str

    def check_loop(self) -> None: ...

    def caught_up(self, commit: Commit, transactions: Sequence[Transaction], stage: Stage, size: int) -> None:
        """Another writer's commit is visible now."""
        ...

    async def bound(self) -> None:
        """What is remembered of others' commits does not grow for ever."""
        ...


class CatchingUp:
    """Brings the replica of one handle to what others committed. `alone` says that there are no others.

    Attributes:
        advancing: held by whoever moves the replica's head.
        seen: when the handle last knew of all that was durable, on the leases' clock.
        met: takes what others' commits say that concerns no document.
        off: whether the log is not looked at, since it cannot be continued, and is begun anew.
    """

    def __init__(self, handle: _Handle, *, alone: bool) -> None:
        self._handle = handle
        self._alone = alone
        self.advancing = asyncio.Lock()
        self.seen = clock()
        self.met: list[Beside] | None = None
        self.off = False

    @property
    def staleness(self) -> float:
        """For how many seconds, at most, another writer's commits may have been missed."""
        if self._alone:
            return 0.0
        age = clock() - self.seen
        log = unsealed(self._handle.log)
        if isinstance(log, PortableCommitLog) and log.head == self._handle.replica.head:
            age = min(age, log.age)
        return age

    async def catch_up(self) -> None:
        """Apply what other writers committed behind the head.

        Raises:
            HistoryTrimmedError: the log does not reach back to it any more.
        """
        if self._alone or self.off:
            return
        handle = self._handle
        handle.check_loop()
        async with self.advancing:
            begun = clock()
            try:
                async for commit in handle.log.read(handle.replica.head):
                    await self._apply(commit)
            except HistoryTrimmedError as error:
                raise HistoryTrimmedError(
                    f"this handle shows seq {handle.replica.head}, and the log begins at {error.floor}: open the store "
                    "again",
                    floor=error.floor,
                ) from error
            self.seen = begun

    async def take(self, commit: Commit) -> None:
        """Apply a commit that the follower has met, unless it is known already. More may be there behind it."""
        async with self.advancing:
            if commit.first == self._handle.replica.head + 1:
                await self._apply(commit)
                return
        if commit.last > self._handle.replica.head:
            await self.catch_up()

    async def lost_to(self, commits: Sequence[Commit]) -> None:
        """Apply what other writers committed behind the head: these, or, if there are none, what the log has."""
        if not commits:
            await self.catch_up()
        for commit in commits:
            await self.take(commit)

    async def come_behind(self, commits: Sequence[Commit], upto: int) -> None:
        """Apply what other writers committed up to the seq: these, or, if there are none, what the log has. It is for
        who holds `advancing`."""
        replica = self._handle.replica
        for commit in commits:
            await self._apply(commit)
        if replica.head < upto:
            async with aclosing(
                cast("AsyncGenerator[Commit]", self._handle.log.read(replica.head))
            ) as missed:
                async for commit in missed:
                    if commit.last > upto:
                        break
                    await self._apply(commit)
        if replica.head != upto:
            raise CorruptionError(f"seq {replica.head + 1} had been durable, and cannot be read", key=JOURNAL)

    async def _apply(self, commit: Commit) -> None:
        handle = self._handle
        if commit.store != handle.store or commit.incarnation != handle.incarnation:
            raise DivergedError(
                f"{handle.backend.url} was promoted, imported or replaced while it was open; open it again"
            )
        # Read first: nothing may come between applying the commit and telling of it.
        transactions = [
            await changes_of(handle.backend, one) if isinstance(one, Body) else one
            for one in commit.transactions
        ]
        stage, size = await apply_commit(handle.backend, handle.replica, commit, self.met)
        handle.caught_up(commit, transactions, stage, size)
        await handle.bound()
