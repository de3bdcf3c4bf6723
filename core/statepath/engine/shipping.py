"""How commits get to a replica: one connection to it, from where the replica stands on.

The commits are the primary's, unaltered but for `durable`, which is about the log that they stand in. So the replica's
own log tells how far it is, and the next session goes on from there: by incarnation, seq and commit id.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from shlex import quote
from typing import Final

from msgspec import UNSET

from statepath.backend import Backend as Target
from statepath.backend import CommitLog, ETag, SupportsNewest
from statepath.commit import (
    PROBES,
    Body,
    Commit,
    Note,
    Put,
    Transaction,
    decode_changes,
    microseconds,
    size_of,
)
from statepath.encryption import unsealed
from statepath.engine.archiving import ARCHIVE, Segment, decode_segments, read_whole, segments
from statepath.engine.backups import backup_key
from statepath.engine.checking import check_snapshot
from statepath.engine.floor import Floor, read_floor
from statepath.engine.founding import RECORD_BYTES, Founding, Tell, append_all, taken
from statepath.engine.leases import LEASES
from statepath.engine.opening import commit_log, put_aside
from statepath.engine.primary import (
    ANEW,
    Position,
    Primary,
    lacks,
    positions,
    read_position,
    snapshot_position,
)
from statepath.engine.replay import Beside
from statepath.engine.replica import MEMBERS, Replica
from statepath.engine.reseeding import empty
from statepath.engine.snapshot import ARCHIVE_MEMBER, STATE_KEY
from statepath.engine.snapshotter import Snapshotter, Written
from statepath.engine.spool import Spool
from statepath.engine.viewwriter import ViewWriter
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from statepath.events import Events
from statepath.settings import Settings

logger = logging.getLogger("statepath.mirror")

_SNAPSHOT_PAUSE: Final = 30.0
_EMPTY_PLACE: Final = "Mirror to a place where nothing is"


class ReplicaDamagedError(Exception):
    """The replica cannot tell where it stands: it has to be made anew. Never seen by callers."""


@dataclass(slots=True)
class _Examined:
    """A commit, and what has to be brought along with it."""

    commit: Commit
    size: int = 0
    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    beside: list[Beside] = field(default_factory=list)


class Shipping:
    """A session with the replica. Get one by `begin`; `close` it."""

    def __init__(
        self, primary: Primary, target: Target, settings: Settings, floor: Floor, position: Position
    ) -> None:
        self._primary = primary
        self._target = target
        self._settings = settings
        self._floor = floor
        self.position = position
        self._log = commit_log(target, settings)
        self._shown = Replica()  # no documents: only how far the log reaches
        self._shown.head = position.seq
        self._archived: set[str] = set()
        self._snapshotting: asyncio.Task[None] | None = None
        self._next_snapshot = 0.0
        self._views = ViewWriter(
            self._shown,
            target,
            store=floor.store,
            documents=False,
            interval=settings.view_interval,
            busy=lambda: False,
            failed=lambda error: None,
            alone=False,
            catch_up=self._catch_up,
        )

    @classmethod
    async def begin(
        cls,
        primary: Primary,
        target: Target,
        settings: Settings,
        tell: Tell,
        *,
        anew: bool = False,
        reseed: bool = False,
    ) -> Shipping:
        """Find out where the replica stands, and make it where nothing is yet. `target` is the session's from now on.

        Parameters:
            anew: make it again from the primary's present state.
            reseed: the same of one that cannot follow the primary: of another incarnation, or with what that has not.

        Raises:
            AlreadyExistsError: there is something that is no replica of the primary.
            DivergedError: the replica was promoted, or has what the primary has not, as far as its log tells.
            ReplicaDamagedError: its log is damaged, or its snapshot is missing.
            HistoryTrimmedError: the primary's log does not reach back to where the replica stands.
            CorruptionError: it is to be made, and the primary's log is damaged.
        """
        if reseed:
            async with primary.origin():  # nothing is emptied for a store that is damaged itself
                tell("making room")
                await empty(
                    target,
                    settings,
                    store=primary.store,
                    incarnation=primary.incarnation,
                    primary=primary.url,
                )
        await check_place(primary, target, settings)
        log = commit_log(target, settings)
        stored = await read_floor(target)
        if anew and stored is not None:
            await _keep_state(target)
        if anew or stored is None or stored[0].unfinished:
            async with primary.origin() as origin:
                founding = Founding(
                    origin, target, log, tell, replica_of=primary.url, incarnation=primary.incarnation
                )
                await founding.run()
            stored = await read_floor(target)
            if stored is None:
                raise NotFoundError(f"{target.url} was removed while it was being made")
            if anew:
                await log.trim(stored[0].floor - 1)
        floor, etag = stored
        beside: list[Beside] = []
        position = snapshot_position(floor)
        damage: CorruptionError | None = None
        try:
            async for reached in positions(target, log, floor, beside):
                position = reached
        except CorruptionError as error:
            damage = error
        if position.incarnation != floor.incarnation:
            raise DivergedError(
                f"{target.url} is being promoted: it goes on from seq {position.seq} by itself"
            )
        if damage is not None:
            await _check_has_all(primary, target, log, position, damage)
            raise ReplicaDamagedError(str(damage)) from damage
        await primary.check(position)
        session = cls(primary, target, settings, floor, position)
        try:
            await session._take_over(etag, beside)
        except BaseException:
            await session.close()
            raise
        return session

    async def _take_over(self, etag: ETag, beside: list[Beside]) -> None:
        target, floor = self._target, self._floor
        for change in beside:
            self._mark(change)
        self._archived = {entry.key async for entry in target.list_keys(ARCHIVE)}
        state = floor.snapshots[-1] if floor.snapshots else None
        sizes = [entry.size async for entry in target.list_keys(STATE_KEY) if entry.key == STATE_KEY]
        if state is not None and not sizes:
            raise ReplicaDamagedError(f"{STATE_KEY} is missing")
        self._snapshotter = Snapshotter(
            target,
            self._log,
            self._shown,
            self._views,
            Events(),
            Written(floor, etag, state, None, state.seq if state else 0, 0, sum(sizes)),
            self._settings,
            put_aside=partial(put_aside, target),
            cut=lambda: nullcontext(self._shown.cut()),
        )

    async def ship(self, commits: Sequence[Commit]) -> AsyncIterator[int]:
        """Make the commits durable in the replica's log, many at once; after each write, how many bytes that was.

        Raises:
            DivergedError: they do not follow what the replica has.
            UnsupportedError: they are sealed, and this process has no keys (`encrypted`).
            ConflictError: somebody else wrote to the replica; begin again.
        """
        record: list[_Examined] = []
        size = 0
        last = self.position
        for commit in commits:
            if commit.sealed is not UNSET:
                if record:
                    yield await self._write(record, size)
                raise self._encrypted(commit)
            last = self._following(last, commit)
            one = await self._examine(commit)
            if record and size + one.size > RECORD_BYTES:
                yield await self._write(record, size)
                record, size = [], 0
            record.append(one)
            size += one.size
        if record:
            yield await self._write(record, size)

    def _following(self, last: Position, commit: Commit) -> Position:
        """Where the log ends with the commit."""
        if commit.incarnation != last.incarnation:
            raise DivergedError(
                f"{self._primary.url} is in another incarnation since seq {commit.first}, and the replica at "
                f"{self._target.url} is not; {ANEW}"
            )
        if commit.first != last.seq + 1 or (last.commit and commit.prev != last.commit):
            raise DivergedError(
                f"commit {commit.first} of {self._primary.url} does not follow seq {last.seq} of the replica at "
                f"{self._target.url}: they are two histories; {ANEW}"
            )
        return Position(commit.incarnation, commit.last, commit.id, microseconds(commit.time))

    def _encrypted(self, commit: Commit) -> UnsupportedError:
        return UnsupportedError(
            f"{self._primary.url} was encrypted while it was mirrored, at seq {commit.first}: its replica at "
            f"{self._target.url} keeps what it has up to seq {self.position.seq}; begin again with the master key, and "
            "mirror to a place where nothing is",
            code="encrypted",
        )

    async def _examine(self, commit: Commit) -> _Examined:
        one = _Examined(commit)
        for transaction in commit.transactions:
            first = transaction[0] if isinstance(transaction, tuple) and len(transaction) == 1 else None
            if type(first) is Put and first.collection != MEMBERS:  # nearly all of them
                one.size += size_of(first)
                continue
            if isinstance(transaction, Body):
                one.size += transaction.size
            for change in await self._changes(transaction, one.bodies):
                if not isinstance(transaction, Body):
                    one.size += size_of(change)
                if isinstance(change, Beside):
                    one.beside.append(change)
                elif isinstance(change, Put) and (change.collection, change.id) == (MEMBERS, ARCHIVE_MEMBER):
                    one.segments += decode_segments(bytes(change.document))
        return one

    async def _changes(self, transaction: Transaction | Body, bodies: list[tuple[str, bytes]]) -> Transaction:
        if not isinstance(transaction, Body):
            return transaction
        data = (await self._primary.backend.read(transaction.key)).data
        if sha256(data).hexdigest() != transaction.sha256:
            raise CorruptionError(f"{transaction.key} does not match its digest", key=transaction.key)
        bodies.append((transaction.key, data))
        return decode_changes(data)

    async def _write(self, record: Sequence[_Examined], size: int) -> int:
        for one in record:
            for key, data in one.bodies:
                await self._target.write(key, data)
            for segment in one.segments:
                await self._bring(segment)
        after = self.position.seq
        try:
            await append_all(self._log, [one.commit for one in record])
        except HeadMoved:
            raise ConflictError(f"somebody else wrote to {self._target.url} behind seq {after}") from None
        last = record[-1].commit
        self.position = Position(last.incarnation, last.last, last.id, microseconds(last.time))
        self._shown.head = last.last
        self._snapshotter.committed(size)
        for one in record:
            for change in one.beside:
                self._mark(change)
        return size

    async def _catch_up(self) -> None:
        """Heed what another mirror has shipped, where this one stalled: its logs and reports are the later ones. This
        session ends at its next write."""
        async for commit in self._log.read(self._shown.head):
            for change in (await self._examine(commit)).beside:
                self._mark(change)
            self._shown.head = commit.last

    def _mark(self, change: Beside) -> None:
        if not isinstance(change, Note):
            self._views.mark_file(change)

    async def _bring(self, segment: Segment) -> None:
        """Copy a segment of the archive.

        Raises:
            CorruptionError: it is missing or damaged where it comes from.
        """
        if self._archived.issuperset(segment.keys):
            return
        try:
            objects = await read_whole(self._primary.backend, segment)
        except CorruptionError:
            async with self._primary.origin() as origin:
                if segment in segments(origin.replica):
                    raise
            return  # a repair has given it up since
        for key, data in objects:
            if key not in self._archived:
                await self._target.write(key, data)
                self._archived.add(key)

    async def keep_up(self) -> None:
        """Take the primary's snapshot over where that is due, behind the commits: then the replica's log is trimmed,
        too, and opening it does not become slower."""
        if self._snapshotting is not None and not self._snapshotting.done():
            return
        if time.monotonic() < self._next_snapshot or not self._snapshotter.due:
            return
        seq = await self._primary.saved()
        if self._snapshotter.saved < seq <= self.position.seq:
            self._next_snapshot = time.monotonic() + _SNAPSHOT_PAUSE
            self._snapshotting = asyncio.create_task(self._snapshot(), name="statepath-mirror-snapshot")

    async def settle(self) -> None:
        """Let the files of logs and reports, and a snapshot that is due, be there as well."""
        await self._views.flush(files_only=True)
        self._next_snapshot = 0.0
        await self.keep_up()
        if self._snapshotting is not None:
            await asyncio.wait([self._snapshotting])

    async def _snapshot(self) -> None:
        try:
            with closing(Spool()) as spool:
                meta = await spool.fill(self._primary.backend)
                ours = (meta.store, meta.incarnation) == (self._floor.store, self._floor.incarnation)
                if ours and meta.seq <= self.position.seq:
                    await self._snapshotter.take(spool, meta)
                    await self._snapshotter.pack()
        except (StateError, OSError) as error:  # the spool is a file of its own
            code = error.code if isinstance(error, StateError) else None
            logger.warning("the replica's snapshot could not be written: %s", error, extra={"code": code})

    async def close(self) -> None:
        snapshotting = self._snapshotting
        if snapshotting is not None:
            snapshotting.cancel()
        await self._views.close()
        if snapshotting is not None:
            await asyncio.gather(snapshotting, return_exceptions=True)


async def check_place(primary: Primary, target: Target, settings: Settings) -> None:
    """
    Raises:
        AlreadyExistsError: there is something that is no replica of the primary. Nothing was written.
        CorruptionError: its record is damaged.
        DivergedError: the replica was promoted.
    """
    try:
        stored = await read_floor(target)
    except CorruptionError as error:
        raise CorruptionError(
            f"at {target.url} {error}. If that is a replica of {primary.url}, {ANEW}", key=error.key
        ) from error
    other = (
        []
        if stored
        else [entry async for entry in target.list_keys("") if not entry.key.startswith((LEASES, PROBES))]
    )
    if other:
        stored = await read_floor(target)
        if stored is None:  # else somebody has just begun to make it
            raise taken(target, f"it has {other[0].key}")
    if stored is not None and not stored[0].unfinished:
        await _check_is_ours(primary, target, settings, stored[0])


async def _check_is_ours(primary: Primary, target: Target, settings: Settings, floor: Floor) -> None:
    """
    Raises:
        AlreadyExistsError, DivergedError: it is no replica of the primary.
    """
    where = target.url
    if floor.store != primary.store:
        what = "a replica of another store" if floor.replica_of else "another store"
        raise AlreadyExistsError(
            f"{where} is not empty: it has {what}, {floor.store}, and {primary.url} is {primary.store}; nothing was "
            "written. Mirror to a place where nothing is"
        )
    if floor.replica_of and floor.incarnation == primary.incarnation:
        return
    here, there = await primary.head(), await read_position(target, commit_log(target, settings), floor)
    places = f"{where} is at seq {there.seq} and {primary.url} at seq {here.seq}"
    parted = next((one.seq for one in floor.earlier if one.incarnation == primary.incarnation), None)
    if parted is None:
        kind = "a replica of another incarnation" if floor.replica_of else "no replica"
        raise DivergedError(
            f"{where} holds this store already, and is {kind}: {places}. Nothing was written. "
            + (f"If {primary.url} is the one that counts, {ANEW}" if floor.replica_of else _EMPTY_PLACE)
        )
    if here.seq > parted:
        raise DivergedError(
            f"{where} was promoted at seq {parted}, and both went on: {places}. Nothing was written. Stop writing to "
            f"one of them; statepath history --since {parted} -s {quote(primary.url)} tells what the other one lacks",
            code="split",
        )
    raise DivergedError(
        f"{where} was promoted at seq {parted}, and has everything that {primary.url} has: {places}. Nothing was "
        "written. Use the promoted one, and mirror that to a place where nothing is",
        code="promoted",
    )


async def _check_has_all(
    primary: Primary, target: Target, log: CommitLog, position: Position, damage: CorruptionError
) -> None:
    """`position` is how far a damaged log can be read.

    Raises:
        DivergedError: the primary has not all that the replica had: it is not made anew from that.
        CorruptionError: the log does not tell how far it had come.
    """
    with suppress(HistoryTrimmedError):  # then the primary has more
        await primary.check(position)
    inner = unsealed(log)
    if not isinstance(inner, SupportsNewest):
        raise CorruptionError(
            f"{damage}. The log of {target.url} does not tell whether it had more than {primary.url}. If that is the "
            f"one that counts, {ANEW}",
            key=damage.key,
        ) from damage
    newest, _ = await inner.newest()
    here = await primary.head()
    if newest > here.seq:
        raise DivergedError(lacks(primary.url, f"ends with seq {here.seq}, and that with {newest}"))


async def _keep_state(target: Target) -> None:
    """Keep the snapshot that is about to be replaced: what was promoted meanwhile may need it."""
    with suppress(NotFoundError, CorruptionError):
        meta = await check_snapshot(target, STATE_KEY)
        await target.write(backup_key(meta.time), (await target.read(STATE_KEY)).data)
