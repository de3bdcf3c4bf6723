"""Where a mirror takes commits from: a store that is open in this process, or one that another process may write."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from statepath.backend import Backend, CommitLog
from statepath.commit import Commit, commit_size, microseconds
from statepath.engine.engine import Engine
from statepath.engine.floor import Floor, read_floor
from statepath.engine.founding import Origin
from statepath.engine.history import ends_early, next_commit
from statepath.engine.opening import attach, commit_log, open_engine
from statepath.engine.origin import StoreOrigin, present
from statepath.engine.pacing import Pace
from statepath.engine.recovery import check_finished
from statepath.engine.replay import Beside, changes_of
from statepath.engine.replica import Replica
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    NotFoundError,
)
from statepath.events import Events
from statepath.settings import Settings

ANEW: Final = (
    "make the replica anew from it (statepath mirror SRC DST --reseed, which keeps aside what is there), or mirror to "
    "a place where nothing is"
)
"""What to do about a replica that cannot follow its primary."""

_PAUSE: Final = 0.2
"""Seconds in which commits are gathered, so that many of them are one write."""
_AHEAD_BYTES: Final = 8 * 1024 * 1024
_LOOK: Final = 10.0


@dataclass(frozen=True, slots=True)
class Position:
    """How far a log reaches: its last commit, and the time of that in microseconds since 1970."""

    incarnation: str
    seq: int
    commit: str
    time: int


class Primary(Protocol):
    """A store whose commits are shipped."""

    @property
    def url(self) -> str: ...

    @property
    def store(self) -> str: ...

    @property
    def incarnation(self) -> str: ...

    @property
    def backend(self) -> Backend: ...

    def origin(self) -> AbstractAsyncContextManager[Origin]:
        """The state of now, to begin with."""
        ...

    def commits(self, after: int) -> AsyncGenerator[list[Commit]]:
        """Every commit behind the seq, gathered.

        Raises:
            HistoryTrimmedError: the log begins later.
        """
        ...

    async def head(self) -> Position:
        """How far it reaches."""
        ...

    async def check(self, position: Position) -> None:
        """
        Raises:
            DivergedError: the commit is not one of this log.
            HistoryTrimmedError: it is so old that the log does not tell.
        """
        ...

    async def saved(self) -> int:
        """The seq of its newest snapshot, as far as that is known without much ado."""
        ...

    def behind(self, seq: int) -> tuple[int, float | None]:
        """How many seqs come behind this one, and the time of the first of them, as far as it is known."""
        ...

    def worth(self, size: int) -> float:
        """For how many seconds so many bytes should be all that is shipped, so that others have the machine."""
        ...


async def read_position(backend: Backend, log: CommitLog, floor: Floor) -> Position:
    """How far the log reaches, from its newest snapshot on."""
    position = snapshot_position(floor)
    async for reached in positions(backend, log, floor):
        position = reached
    return position


def snapshot_position(floor: Floor) -> Position:
    """Where the newest snapshot stands, or else where the log begins."""
    if floor.snapshots:
        mark = floor.snapshots[-1]
        return Position(floor.incarnation, mark.seq, mark.commit, mark.time)
    return Position(floor.incarnation, floor.floor - 1, "", 0)


async def positions(
    backend: Backend, log: CommitLog, floor: Floor, beside: list[Beside] | None = None
) -> AsyncGenerator[Position]:
    """Each commit behind the newest snapshot: as `read_position`, of a log that may be damaged. `beside` takes what is
    changed beside documents."""
    position = snapshot_position(floor)
    async for commit in log.read(position.seq):
        if position.commit and commit.prev != position.commit:
            raise CorruptionError(
                f"the log of {backend.url} does not continue its snapshot of seq {position.seq}"
            )
        position = Position(commit.incarnation, commit.last, commit.id, microseconds(commit.time))
        if beside is not None:
            for transaction in commit.transactions:
                changes = await changes_of(backend, transaction)
                beside += [change for change in changes if isinstance(change, Beside)]
        yield position


async def check_position(url: str, log: CommitLog, floor: Floor, position: Position) -> None:
    """As `Primary.check`."""
    if floor.floor > position.seq + 1:
        raise HistoryTrimmedError(f"the log of {url} begins at seq {floor.floor}", floor=floor.floor)
    if position.seq == 0:
        return
    marks = {(mark.seq, mark.commit) for mark in floor.snapshots}
    if (position.seq, position.commit) in marks:
        return
    commit = await next_commit(log, position.seq - 1)
    if commit is None:
        raise DivergedError(lacks(url, f"ends before seq {position.seq}"))
    if (commit.last, commit.id) != (position.seq, position.commit):
        raise DivergedError(lacks(url, f"has another seq {position.seq}"))


def lacks(url: str, what: str) -> str:
    """Why a primary is not followed that has less than its replica."""
    return (
        f"the replica has what {url} has not, whose log {what}: was it restored from an earlier copy? Promote the "
        f"replica if that is the one that counts (statepath mirror promote DST); else {ANEW}"
    )


class OpenPrimary:
    """A store that this process has open for writing. What it saves comes first: shipping is paced meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._pace = Pace(lambda: engine.stream.told_bytes)

    @property
    def url(self) -> str:
        return self.engine.backend.url

    @property
    def store(self) -> str:
        return self.engine.store

    @property
    def incarnation(self) -> str:
        return self.engine.incarnation

    @property
    def backend(self) -> Backend:
        return self.engine.backend

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        engine = self.engine
        engine.check_loaded()
        await self._catch_up()
        now = Replica.of(engine.replica.cut())
        now.needs = engine.replica.needs
        if engine.views is not None:  # also while it is closing
            engine.views.take_left()
            await engine.views.flush(files_only=True)
        yield StoreOrigin(engine, now, now)

    def commits(self, after: int) -> AsyncGenerator[list[Commit]]:
        return self.engine.stream.follow_in_bulk(after, pause=_PAUSE)

    async def head(self) -> Position:
        await self._catch_up()
        replica = self.engine.replica
        return Position(self.engine.incarnation, replica.head, replica.commit, replica.time)

    async def check(self, position: Position) -> None:
        replica = self.engine.replica
        if replica.head < position.seq:
            await (
                self._catch_up()
            )  # another writer of the store may have shipped what this one has not seen yet
        if replica.head < position.seq:
            raise DivergedError(
                lacks(self.url, f"ends with seq {replica.head}, and that with {position.seq}")
            )
        if (replica.head, replica.commit) != (position.seq, position.commit):
            await check_position(self.url, self.engine.log, self.engine.record, position)

    async def _catch_up(self) -> None:
        """
        Raises:
            DivergedError: this handle slept past the history of its store, and has less than the replica.
        """
        try:
            await self.engine.catch_up()
        except HistoryTrimmedError as error:
            raise DivergedError(f"{self.url} cannot be shipped from here: {error}") from error

    async def saved(self) -> int:
        return self.engine.vitals.saved[0]

    def behind(self, seq: int) -> tuple[int, float | None]:
        oldest = self.engine.stream.oldest_behind(seq)
        return max(self.engine.replica.head - seq, 0), None if oldest is None else oldest.timestamp()

    def worth(self, size: int) -> float:
        return size / self._pace.limit if self.engine.is_busy() else 0.0


class DistantPrimary:
    """A store that another process may have open: its log is read beside it."""

    def __init__(
        self,
        backend: Backend,
        log: CommitLog,
        floor: Floor,
        settings: Settings,
        connect: Callable[[], Awaitable[Backend]],
    ) -> None:
        self.backend = backend
        self._log = log
        self._floor = floor
        self._looked = time.monotonic()
        self._settings = settings
        self._connect = connect
        self._read: deque[tuple[Commit, int]] = deque()
        self._bytes = 0
        self._changed = asyncio.Event()
        self._known = 0

    @classmethod
    async def open(cls, connect: Callable[[], Awaitable[Backend]], settings: Settings) -> DistantPrimary:
        """
        Parameters:
            connect: makes a connection for reading.

        Raises:
            NotFoundError: there is no store.
            StateError: it is being made from another one (`unfinished`).
        """
        backend = await attach(await connect(), settings, readonly=True)
        try:
            floor = await _record_of(backend)
        except BaseException:
            await backend.close()
            raise
        return cls(backend, commit_log(backend, settings), floor, settings, connect)

    @property
    def url(self) -> str:
        return self.backend.url

    @property
    def store(self) -> str:
        return self._floor.store

    @property
    def incarnation(self) -> str:
        return self._floor.incarnation

    @asynccontextmanager
    async def origin(self) -> AsyncIterator[Origin]:
        settings = self._settings.model_copy(update={"loads": True})
        engine = await open_engine(await self._connect(), settings, Events(), readonly=True)
        try:
            yield await present(engine, history=False)
        finally:
            await engine.close()

    async def commits(self, after: int) -> AsyncGenerator[list[Commit]]:
        self._read.clear()
        self._bytes = 0
        reading = asyncio.create_task(self._read_on(after), name="statepath-mirror-reader")
        try:
            while True:
                while not self._read:
                    if reading.done():
                        reading.result()
                        return
                    await self._change(reading)
                await asyncio.sleep(_PAUSE)
                read = list(self._read)
                yield [commit for commit, _ in read]
                for _ in read:
                    self._bytes -= self._read.popleft()[1]
                self._tell()
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read_on(self, after: int) -> None:
        async with aclosing(self._follow(after)) as commits:
            async for commit in commits:
                size = commit_size(commit)
                self._read.append((commit, size))
                self._bytes += size
                self._known = commit.last
                self._tell()
                while self._bytes > _AHEAD_BYTES:
                    await self._changed.wait()

    async def _follow(self, after: int) -> AsyncGenerator[Commit]:
        # A standby may be behind the server that the record was read from; what is not there in time is lost.
        shown, since = snapshot_position(self._floor).seq, time.monotonic()
        while after < shown:
            begun = after
            async for commit in self._log.read(after):
                yield commit
                after = commit.last
            if after > begun:
                since = time.monotonic()
            elif time.monotonic() - since < self._settings.deadline:
                await asyncio.sleep(_PAUSE)
            else:
                raise ends_early(after, shown)
        async for commit in self._log.follow(after):
            yield commit

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, reading: asyncio.Task[None]) -> None:
        change = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait((change, reading), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()

    async def head(self) -> Position:
        position = await read_position(self.backend, self._log, await self._record())
        self._known = max(self._known, position.seq)
        return position

    async def check(self, position: Position) -> None:
        await check_position(self.url, self._log, await self._record(), position)

    async def saved(self) -> int:
        if time.monotonic() - self._looked > _LOOK:
            await self._record()
        return self._floor.snapshots[-1].seq if self._floor.snapshots else 0

    async def _record(self) -> Floor:
        """The log's own record as it is now."""
        stored = await read_floor(self.backend)
        self._looked = time.monotonic()
        if stored is None or (stored[0].store, stored[0].incarnation) != (self.store, self.incarnation):
            raise DivergedError(f"{self.url} was replaced, recovered or promoted meanwhile; {ANEW}")
        self._floor = stored[0]
        return self._floor

    def behind(self, seq: int) -> tuple[int, float | None]:
        oldest = next((commit for commit, _ in self._read if commit.last > seq), None)
        return max(self._known - seq, 0), None if oldest is None else oldest.time.timestamp()

    def worth(self, size: int) -> float:
        return 0.0

    async def close(self) -> None:
        await self.backend.close()


async def _record_of(backend: Backend) -> Floor:
    stored = await read_floor(backend)
    if stored is None:
        raise NotFoundError(f"there is no store at {backend.url} to be mirrored", key=backend.url)
    check_finished(backend, stored[0])
    return stored[0]
