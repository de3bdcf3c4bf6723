"""A store made anew from the state of another one: what `restore` to another place, `copy` and `import` have in common.

The log's own record comes first and says that the store is unfinished, so that nobody opens it; it comes last again,
without saying so. Everything between is written, read back and compared, and what an interrupted attempt has left
there already is not written again: so an attempt can be repeated. Whoever begins one changes the record, and an attempt
that had only stalled changes nothing any more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Protocol, cast
from uuid import uuid4

from msgspec.structs import replace

from statepath.backend import (
    IF_ABSENT,
    Backend,
    CommitLog,
    ETag,
    IfMatch,
    Span,
    SupportsAppend,
    SupportsExtend,
    When,
)
from statepath.commit import FLOOR_KEY, FORMAT, PROBES, Body, Commit, commit_size
from statepath.encryption import check_founded_plain, look, storage_of, unsealed
from statepath.engine.backups import backup_key
from statepath.engine.checking import check_snapshot, keep_snapshot
from statepath.engine.files import LogPiece, Report
from statepath.engine.floor import Floor, SnapshotMark, check_ours, lost, read_floor, write_floor
from statepath.engine.history import next_commit
from statepath.engine.ids import LOGS, REPORTS
from statepath.engine.leases import LEASES
from statepath.engine.replica import Replica
from statepath.engine.snapshot import STATE_KEY, SnapshotStream, newer_format
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HeadMoved,
    NotFoundError,
)
from statepath.log import PortableCommitLog

RECORD_BYTES: Final = 1024 * 1024
"""How much of a log is appended to another one at once, about."""

Tell = Callable[[str], None]
"""Takes what is being done, in words, as it goes on."""


def silent(what: str) -> None:
    """Tells nobody."""


class Origin(Protocol):
    """What a store is made from."""

    @property
    def name(self) -> str:
        """In words: `seq 7 of /var/lib/agents`."""
        ...

    @property
    def store(self) -> str:
        """The id, which the new store keeps."""
        ...

    @property
    def replica(self) -> Replica:
        """The documents, as of the seq with which the new store begins."""
        ...

    @property
    def floor(self) -> int:
        """Where the commits begin that go with it; behind the head: there are none."""
        ...

    def files(self) -> AsyncIterator[LogPiece | Report]:
        """Its session logs and reports."""
        ...

    def archive(self) -> AsyncIterator[tuple[str, bytes]]:
        """The objects of its archive, by key."""
        ...

    def backups(self) -> AsyncIterator[Replica]:
        """Earlier states, oldest first."""
        ...

    def commits(self, after: int) -> AsyncIterator[Commit]:
        """Its commits behind the seq, up to the head."""
        ...

    async def body(self, key: str) -> bytes:
        """What one of its commits has beside itself."""
        ...


@dataclass(frozen=True, slots=True)
class Founded:
    """What was made: a store as of the seq, in an incarnation of its own."""

    seq: int
    incarnation: str
    documents: int
    logs: int
    reports: int
    commits: int


@dataclass(slots=True)
class Founding:
    """One attempt to make a store of the origin in an empty place.

    With `replica_of`, where the primary is, it becomes a replica, in the primary's `incarnation`. A replica that is
    there already is made anew: until all of it is there, it stays what it was.
    """

    origin: Origin
    backend: Backend
    log: CommitLog
    tell: Tell
    replica_of: str = ""
    incarnation: str = ""
    _etag: ETag = field(init=False)
    _sizes: dict[str, int] = field(default_factory=dict)
    _marks: list[SnapshotMark] = field(default_factory=list)
    _files_of_origin: set[str] = field(default_factory=set)
    _logs: int = 0
    _reports: int = 0
    _commits: int = 0

    async def run(self) -> Founded:
        """
        Raises:
            AlreadyExistsError: there is something in that place.
            UnsupportedError: only a newer program may go on with the state (`newer_format`).
            ConflictError: someone else has begun to make one there since.
            CorruptionError: what was written is not what was read back.
        """
        replica = self.origin.replica
        if replica.needs > FORMAT:
            raise newer_format(self.origin.name, replica.needs)
        floor, self._etag = await self._claim()
        await self._files()
        async for key, data in self.origin.archive():
            self.tell(key)
            await self._put(key, data)
        await self._backups(floor)
        await self._journal(floor)
        await self._remove_strangers()
        self.tell("writing the documents")
        if replica.head or not self.replica_of:
            self._marks.append(await self._snapshot(STATE_KEY, replica, floor))
        if self.replica_of and not isinstance(unsealed(self.log), PortableCommitLog):
            await check_ours(self.backend, self._etag)
            for key in await self.log.restart(replica.head):  # a native log knows where it ends
                await self.backend.delete(key)
        finished = replace(floor, snapshots=tuple(self._marks), unfinished="")
        if self.replica_of:
            # No slot begins at the floor yet: of those below, none counts as the one that holds it.
            finished = replace(finished, packed=max(floor.packed, floor.floor - 1))
        await write_floor(self.backend, finished, self._etag)
        documents = replica.cut().documents
        return Founded(replica.head, floor.incarnation, documents, self._logs, self._reports, self._commits)

    async def _claim(self) -> tuple[Floor, ETag]:
        """Make the place ours, or go on with what an interrupted attempt left there."""
        origin = self.origin
        stored = await read_floor(self.backend)
        async for entry in self.backend.list_keys(""):
            if stored is None and not entry.key.startswith((LEASES, PROBES)):
                raise taken(self.backend, f"it has {entry.key}")
            self._sizes[entry.key] = entry.size
        if stored is None:
            floor = Floor(
                store=origin.store,
                incarnation=self.incarnation or uuid4().hex,
                floor=origin.floor,
                unfinished=origin.name,
                replica_of=self.replica_of,
            )
            etag = await write_floor(self.backend, floor, None)
            await check_founded_plain(self.backend, etag)
            return floor, etag
        floor, etag = stored
        same = (floor.store, floor.incarnation) == (origin.store, self.incarnation)
        if self.replica_of and floor.replica_of and same:
            return replace(floor, floor=origin.floor), await write_floor(self.backend, floor, etag)
        if self.replica_of or floor.replica_of or not floor.unfinished:
            raise taken(self.backend, f"it has the store {floor.store}")
        if floor.store != origin.store or floor.floor > origin.replica.head + 1:
            raise taken(self.backend, f"there a store is being made from {floor.unfinished}")
        begun = await next_commit(self.log, floor.floor - 1) is not None
        if begun and not floor.floor <= origin.floor <= origin.replica.head:
            raise taken(
                self.backend, f"there a store is being made from {floor.unfinished}, with another history"
            )
        # An origin that is in use has gone on since. Whoever else is still at it can no longer finish.
        if not begun:
            floor = replace(floor, floor=origin.floor)
        floor = replace(floor, unfinished=origin.name)
        return floor, await write_floor(self.backend, floor, etag)

    async def _files(self) -> None:
        async for piece in self.origin.files():
            if isinstance(piece, Report):
                self._files_of_origin.add(piece.key)
                await self._put(piece.key, piece.data)
                self._reports += 1
                self.tell(f"report {self._reports}")
                continue
            await self._log_piece(piece)
            if piece.last:
                self._logs += 1
                self.tell(f"session log {self._logs}")

    async def _log_piece(self, piece: LogPiece) -> None:
        key = piece.key
        if not self.backend.capabilities.append:
            key = f"{key}/{piece.offset:020d}"
            self._files_of_origin.add(key)
            await self._put(key, piece.data)
            return
        self._files_of_origin.add(key)
        span = Span(piece.offset, piece.offset + len(piece.data))
        end = self._sizes.get(key, 0)
        there = end == span.stop if piece.last else end >= (span.stop or 0)
        if there and (not piece.data or (await self.backend.read(key, span=span)).data == piece.data):
            return  # of an empty piece there may be no file
        await check_ours(self.backend, self._etag)
        await cast("SupportsAppend", self.backend).write_at(key, piece.offset, piece.data)
        self._sizes[key] = span.stop or 0
        self._compare(key, piece.data, (await self.backend.read(key, span=span)).data)

    async def _remove_strangers(self) -> None:
        """Remove what an earlier attempt, or a replica that is made anew, has of logs and reports that there are no
        more."""
        for key in self._sizes:
            if key.startswith((LOGS, REPORTS)) and key not in self._files_of_origin:
                when = await self._unchanged(key)
                if isinstance(when, IfMatch):
                    await self.backend.delete(key, when=when)

    async def _backups(self, floor: Floor) -> None:
        async for replica in self.origin.backups():
            self.tell(f"the backup of seq {replica.head}")
            self._marks.append(await self._snapshot(backup_key(replica.time), replica, floor))

    async def _journal(self, floor: Floor) -> None:
        """The commits, in the new incarnation; behind those that an interrupted attempt has appended."""
        if floor.floor > self.origin.replica.head:
            return
        after, last = floor.floor - 1, ""
        async for commit in self.log.read(after):
            after, last = commit.last, commit.id
            self._commits += 1
        begun = False
        record: list[Commit] = []
        size = 0
        async for commit in self.origin.commits(after):
            if not begun and commit.first != after + 1:
                raise DivergedError(f"the commits of {self.origin.name} do not go on behind seq {after}")
            if not begun and last and commit.prev != last:
                raise DivergedError(
                    f"{self.backend.url} was begun from another history of {self.origin.name}; empty the place"
                )
            begun = True
            for transaction in commit.transactions:
                if isinstance(transaction, Body):
                    data = await self.origin.body(transaction.key)
                    if sha256(data).hexdigest() != transaction.sha256:
                        raise _altered(transaction.key)
                    await self._put(transaction.key, data)
            more = commit_size(commit)
            if record and size + more > RECORD_BYTES:
                await self._append(record)
                record, size = [], 0
            record.append(replace(commit, incarnation=floor.incarnation))
            size += more
        if record:
            await self._append(record)

    async def _append(self, record: Sequence[Commit]) -> None:
        try:
            await append_all(self.log, record)
        except HeadMoved:
            raise lost(self.backend) from None
        self._commits += len(record)
        self.tell(f"commit {record[-1].last} of {self.origin.replica.head}")

    async def _snapshot(self, key: str, replica: Replica, floor: Floor) -> SnapshotMark:
        """Write a snapshot and read it back."""
        stream = SnapshotStream(replica.cut(), store=floor.store, incarnation=floor.incarnation)
        when = await self._unchanged(key)
        if key not in self._sizes or not await self._holds(key, stream):
            try:
                await keep_snapshot(self.backend, key, stream, when=when)
            except (AlreadyExistsError, ConflictError):
                if not await self._holds(key, stream):
                    raise lost(self.backend) from None
        return SnapshotMark(replica.head, stream.digest, replica.time, commit=replica.commit)

    async def _holds(self, key: str, stream: SnapshotStream) -> bool:
        """Whether an interrupted attempt has written this very snapshot."""
        await asyncio.to_thread(deque, stream, 0)
        try:
            return (await check_snapshot(self.backend, key)).digest == stream.digest
        except (CorruptionError, NotFoundError):
            return False

    async def _put(self, key: str, data: bytes) -> None:
        """Write an object and read it back, unless it is there."""
        when = await self._unchanged(key)
        if self._sizes.get(key) == len(data) and await self._has(key, data):
            return
        try:
            await self.backend.write(key, data, when=when)
        except (AlreadyExistsError, ConflictError):
            if not await self._has(key, data):
                raise lost(self.backend) from None
        self._compare(key, data, (await self.backend.read(key)).data)

    async def _has(self, key: str, data: bytes) -> bool:
        try:
            return (await look(self.backend, key))[0] == data
        except NotFoundError:
            return False

    async def _unchanged(self, key: str) -> When:
        """The condition on which an object is written or deleted. The record is looked at last: whoever makes the place
        theirs changes that before the object.

        Raises:
            ConflictError: somebody has.
        """
        when: When = IF_ABSENT
        if key in self._sizes:
            with suppress(NotFoundError):
                when = IfMatch((await storage_of(self.backend).read(key, span=Span(0, 0))).etag)
        await check_ours(self.backend, self._etag)
        return when

    def _compare(self, key: str, written: bytes, read: bytes) -> None:
        if sha256(written).digest() != sha256(read).digest():
            raise _altered(key)


async def append_all(log: CommitLog, record: Sequence[Commit]) -> None:
    """Append commits that follow each other, as one where the log takes them so. Each says that what is before all of
    them is durable, and no more: a crash may leave the first ones."""
    after = record[0].first - 1
    commits = [replace(commit, durable=after) for commit in record]
    if isinstance(log, SupportsExtend):
        await log.extend(after, commits)
        return
    for commit in commits:
        await log.append(commit.first - 1, commit)


def taken(backend: Backend, what: str) -> AlreadyExistsError:
    """Why no store is made there."""
    return AlreadyExistsError(
        f"{backend.url} is not empty: {what}; nothing was written. Choose a place where nothing is",
        key=FLOOR_KEY,
    )


def _altered(key: str) -> CorruptionError:
    return CorruptionError(f"{key} is not what had been written", key=key)
