"""Snapshots, and the trimming and packing of the journal: behind, at a cost that does not grow with use.

A snapshot is due at each interval, but of a large store only once the journal has grown by a fair share of its size
or the oldest change in it is old enough. Unchanged state makes neither snapshot nor backup.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec.structs import replace

from statepath.backend import (
    IF_ABSENT,
    Backend,
    CommitLog,
    ETag,
    IfMatch,
    Span,
    When,
)
from statepath.commit import BODIES, FLOOR_KEY, Body
from statepath.encryption import Encrypted, storage_of, unsealed
from statepath.engine.aging import earliest_now, storage_now, unhurried_now
from statepath.engine.backing_up import Backups
from statepath.engine.backups import backup_key, backup_keys
from statepath.engine.checking import check_snapshot, write_snapshot
from statepath.engine.committer import KEEP_BODIES
from statepath.engine.floor import Floor, SnapshotMark, read_floor, write_floor
from statepath.engine.readback import read_back
from statepath.engine.replica import Cut, Replica
from statepath.engine.snapshot import STATE_KEY, SnapshotFacts, SnapshotStream
from statepath.engine.trouble import Trouble
from statepath.engine.viewwriter import ViewWriter
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    DivergedError,
    NotFoundError,
    StateError,
)
from statepath.events import CorruptionDetected, EditConflict, Events, HistoryTrimmed, StateSaved
from statepath.log import PortableCommitLog
from statepath.settings import Settings
from statepath.telemetry import SILENT, Telemetry

logger = logging.getLogger("statepath.snapshots")

_SMALL: Final = 4 * 1024 * 1024
_SHARE: Final = 0.5
_HISTORY_SNAPSHOTS: Final = 4
_HISTORY_LEAST: Final = 1024**3
_MARKS: Final = 64
_RUNGS: Final = 4
KEEP_SECONDS: Final = 60.0
"""No commit younger than this is ever trimmed or packed; the portable log relies on it."""

_PACK: Final = 256  # so many slots make a pack; of a day with a commit a second about as many packs are left


PutAside = Callable[[str, str], Awaitable[str]]
"""Moves an object aside, as `<key>.<why>.<UTC time>`, and returns its new key (empty: it was gone, or was replaced
meanwhile)."""


class Stream(Protocol):
    """The chunks of a snapshot. Once they have been drawn, it tells their digest and size."""

    @property
    def digest(self) -> str: ...

    @property
    def size(self) -> int: ...

    def __iter__(self) -> Iterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Written:
    """What the storage holds when a handle takes the store over.

    Attributes:
        floor: the log's own record, and `floor_etag` the version of it that is stored.
        state: the snapshot in `state.json`, `state_etag` its version, `size` about its bytes.
        saved: the seq that it shows; -1 makes the next snapshot due although nothing changes.
        journal_bytes: what was committed behind it.
    """

    floor: Floor
    floor_etag: ETag | None
    state: SnapshotMark | None
    state_etag: ETag | None
    saved: int
    journal_bytes: int
    size: int


class Snapshotter:
    """Writes `state.json` for one handle, keeps `backups` of it, and trims the journal behind them.

    `ending` says that the program ends, which is a reason to make fewer backups.
    """

    def __init__(
        self,
        backend: Backend,
        log: CommitLog,
        replica: Replica,
        views: ViewWriter,
        events: Events,
        written: Written,
        settings: Settings,
        *,
        put_aside: PutAside,
        cut: Callable[[], AbstractAsyncContextManager[Cut]],
        telemetry: Telemetry = SILENT,
    ) -> None:
        self._telemetry = telemetry
        self._backend = backend
        self._log = log
        self._replica = replica
        self._views = views
        self._events = events
        self.floor = floor = written.floor
        self._floor_etag = written.floor_etag
        self._state = written.state
        self._state_etag = written.state_etag
        self.backups = Backups(backend, floor.store, events, settings)
        self._history = settings.history
        self._history_bytes = settings.history_bytes
        self._max_age = settings.snapshot_age.total_seconds()
        self._put_aside = put_aside
        self._cut = cut
        self._lock = asyncio.Lock()
        self.ending = False
        self.saved = written.saved
        self.saved_at: float | None = None
        self.trouble: Trouble | None = None
        self.trim_trouble: Trouble | None = None
        self._size = written.size
        self._since = written.journal_bytes
        self._total = (floor.snapshots[-1].journal_bytes if floor.snapshots else 0) + self._since
        self._oldest_change: float | None = time.monotonic() if self._since else None
        self._covered = 0
        self._untrimmed = ""  # why the floor was raised, as long as not all below it is deleted
        self._unpacked = _PACK  # commits that may not be packed; how many there were before is not known

    @property
    def since(self) -> int:
        """The bytes that were committed since the last snapshot."""
        return self._since

    @property
    def size(self) -> int:
        """The bytes of the last snapshot, roughly."""
        return self._size

    @property
    def waiting(self) -> float | None:
        """The seconds that the oldest change has waited for a snapshot; `None`: there is none."""
        return None if self._oldest_change is None else time.monotonic() - self._oldest_change

    def committed(self, size: int) -> None:
        self._since += size
        self._total += size
        self._unpacked += 1
        if self._oldest_change is None:
            self._oldest_change = time.monotonic()

    @property
    def changed(self) -> bool:
        return self._replica.head > self.saved

    @property
    def due(self) -> bool:
        """Whether a snapshot now is worth what it costs."""
        if not self.changed:
            return False
        if self.saved < 0 or self._size <= _SMALL or self._since >= _SHARE * self._size:
            return True
        return self._oldest_change is not None and time.monotonic() - self._oldest_change >= self._max_age

    async def snapshot(self) -> int:
        """Write `state.json` as of now, keep the one before it as a backup, and trim; the seq that it shows.

        Raises:
            StateError: it could not be written, or was not what had been written when it was read back. The journal
                still has everything.
        """
        try:
            seq = await self._snapshot()
        except StateError as error:
            self.trouble = Trouble(error)
            raise
        self.trouble = None
        return seq

    async def _snapshot(self) -> int:
        async with self._lock:
            if not self.changed:
                return self.saved
            with self._telemetry.operation("snapshot"):
                async with self._cut() as cut:
                    began = time.monotonic()
                    since = self._since
                    self._views.take_left()
                    await self._views.flush(files_only=True)
                    stream = SnapshotStream(cut, store=self.floor.store, incarnation=self.floor.incarnation)
                    await self._save(stream, cut.seq, cut.time, cut.commit, since)
                    self._events.emit(
                        StateSaved(cut.seq, cut.documents, stream.size, time.monotonic() - began)
                    )
                    return cut.seq

    async def take(self, stream: Stream, meta: SnapshotFacts) -> None:
        """Make a snapshot that was written elsewhere this store's own; the log at hand reaches at least as far.

        Raises:
            StateError: as `snapshot`.
        """
        async with self._lock:
            if meta.seq <= self.saved:
                return
            since = self._since
            self._views.take_left()
            await self._views.flush(files_only=True)
            await self._save(stream, meta.seq, meta.time, meta.commit, since)

    async def _save(self, stream: Stream, seq: int, at: int, commit: str, since: int) -> None:
        """Write the snapshot, read it back, and do what follows from it."""
        if self._state is not None:
            self._state_etag = await self.backups.keep_replaced(
                self._state, self._state_etag, ending=self.ending
            )
        await self._write(stream, seq)
        # Until it was read back it is no snapshot, and will not become a backup.
        self._state = None
        await read_back(self._backend, STATE_KEY, store=self.floor.store, digest=stream.digest, seq=seq)
        mark = SnapshotMark(seq, stream.digest, at, self._total - self._since + since, commit)
        self._state = mark
        await self._mark(mark)
        self._size = stream.size
        self._since -= since
        self._oldest_change = None if self._since <= 0 else time.monotonic()
        self.saved, self.saved_at = seq, time.time()
        logger.debug("wrote the snapshot of seq %d", seq, extra={"seq": seq, "bytes": stream.size})
        await self.backups.prune(self._needed)
        try:
            await self._trim()
        except DivergedError:
            raise
        except StateError as error:  # the state is saved
            logger.warning("the log could not be trimmed: %s", error, extra={"code": error.code})

    async def backup(self) -> str:
        """Keep the present state as a backup; the backup's key. A state that is kept already is not kept twice."""
        await self.snapshot()
        async with self._lock:
            state = self._state
            if state is None:
                raise NotFoundError("the store is empty, so there is nothing to keep", key=STATE_KEY)
            key = await self.backups.keep(state, self._state_etag)
            await self.backups.prune(self._needed)
            return key

    async def _write(self, stream: Stream, seq: int) -> None:
        for _ in range(5):
            when: When = IF_ABSENT if self._state_etag is None else IfMatch(self._state_etag)
            if when is IF_ABSENT:
                await self._check_marks(seq)
            try:
                self._state_etag = await write_snapshot(self._backend, STATE_KEY, stream, when=when)
            except (ConflictError, AlreadyExistsError):
                await self._see_state(seq)
            else:
                return
        raise ConflictError(f"{STATE_KEY} is changed all the time by someone else", key=STATE_KEY)

    async def _check_marks(self, seq: int) -> None:
        """Where no snapshot is known of, one may have been removed that others have marked: an older one in its place
        would pass for one that was put there to go back to it.

        Raises:
            ConflictError: a later one is marked.
            DivergedError: the store is in another incarnation by now.
        """
        stored = await self._news()
        if stored is None:
            return
        if stored[0].snapshots and (marked := stored[0].snapshots[-1].seq) > seq:
            raise ConflictError(f"a snapshot shows seq {marked} already, later than {seq}", key=STATE_KEY)

    async def _see_state(self, seq: int) -> None:
        """Someone else wrote `state.json`: keep theirs aside if it says anything, and learn its version.

        Raises:
            ConflictError: it shows a later state.
            DivergedError: it is of the incarnation that another handle began.
            CorruptionError, ConfigurationError: it cannot be opened, nor can the store: it was decrypted, or its key
                ring is missing.
        """
        meta: SnapshotFacts | None = None
        altered = ""
        try:
            etag = (await storage_of(self._backend).read(STATE_KEY, span=Span(0, 0))).etag
            try:
                meta = await check_snapshot(self._backend, STATE_KEY)
            except CorruptionError as error:
                # What is sealed nobody edits. But it may be sound, of a store that is not ours any more.
                if isinstance(self._backend, Encrypted):
                    await self._backend.keys.check_ours()
                    await self._news()
                    altered = str(error)
        except NotFoundError:
            self._state_etag = None
            return
        floor = self.floor
        if meta is not None and (meta.store != floor.store or floor.strange(meta.incarnation, meta.seq)):
            meta = None
        if meta is not None and meta.seq > seq:
            raise ConflictError(f"{STATE_KEY} shows seq {meta.seq} already, later than {seq}", key=STATE_KEY)
        if meta is not None and not floor.continues(meta.incarnation, meta.seq):
            await self._news()
        # An attempt of ours whose outcome stayed open shows a later state than the last one that is marked.
        marked = floor.snapshots[-1].seq if floor.snapshots else 0
        why = "corrupt" if altered else "conflict"
        if (meta is None or meta.seq < marked) and (kept := await self._put_aside(STATE_KEY, why)):
            self._events.emit(
                CorruptionDetected(STATE_KEY, altered, kept) if altered else EditConflict(STATE_KEY, kept)
            )
        self._state_etag = etag

    async def _mark(self, mark: SnapshotMark) -> None:
        marks = (*(m for m in self.floor.snapshots if m.seq < mark.seq), mark)
        if len(marks) > _MARKS:
            # Thin out the older half: a mark an hour is enough to trim by.
            half = len(marks) // 2
            bases = self._needed(await backup_keys(self._backend))
            marks = (
                *(m for n, m in enumerate(marks[:half]) if n % 2 == 0 or m in bases),
                *marks[half:],
            )
        await self.save_floor(snapshots=marks)

    async def save_floor(self, **changes: object) -> None:
        """Replace the log's own record; its numbers only rise, and the snapshots that others marked stay.

        Raises:
            DivergedError: it is the record of another incarnation by now: its seqs are not ours.
        """
        floor, etag = replace(self.floor, **changes), self._floor_etag
        while True:
            try:
                written = await write_floor(self._backend, floor, etag)
            except (ConflictError, AlreadyExistsError):
                stored = await read_floor(self._backend)
                if stored is not None and stored[0].store != floor.store:
                    raise
                if stored is not None:
                    self._check_incarnation(stored[0])
                    marks = {mark.seq: mark for mark in (*stored[0].snapshots, *floor.snapshots)}
                    floor = replace(
                        floor,
                        floor=max(floor.floor, stored[0].floor),
                        packed=max(floor.packed, stored[0].packed),
                        snapshots=tuple(marks[seq] for seq in sorted(marks)),
                    )
                etag = stored[1] if stored else None
            else:
                # Both at once: an attempt that fails must not leave an older record with the version of a newer one.
                self.floor, self._floor_etag = floor, written
                return

    async def _news(self) -> tuple[Floor, ETag] | None:
        """The log's own record, if another handle of the store has written it.

        Raises:
            DivergedError: in another incarnation: its seqs are not ours.
        """
        stored = await read_floor(self._backend)
        if stored is None or stored[1] == self._floor_etag or stored[0].store != self.floor.store:
            return None
        self._check_incarnation(stored[0])
        return stored

    def _check_incarnation(self, stored: Floor) -> None:
        if stored.incarnation != self.floor.incarnation:
            raise DivergedError(
                f"{self._backend.url} was recovered or replaced by another writer; open it again",
                key=FLOOR_KEY,
            )

    async def refresh(self) -> None:
        """Learn what other handles have saved since this one last looked.

        Raises:
            DivergedError: in another incarnation.
        """
        async with self._lock:
            stored = await self._news()
            if stored is None:
                return
            self.floor, self._floor_etag = stored
            marks = self.floor.snapshots
            if not marks or marks[-1].seq <= self.saved:
                return
            # It may be a later one by now, that is not marked yet: whoever writes has to look.
            self._state_etag = None
            behind = max(self._replica.head - marks[-1].seq, 0)
            self._since = self._since * behind // (self._replica.head - self.saved) if behind else 0  # about
            self._oldest_change = time.monotonic() if behind else None
            self._state, self.saved = marks[-1], marks[-1].seq
            self.trouble = None
            self._total = max(self._total, marks[-1].journal_bytes)
            self._views.forget(self.saved)

    async def pack(self) -> None:
        """Put what two snapshots cover of the portable log into packs, where many commits are not.

        Each step may be the last one before a crash. The packs come first, and count when the log's own record says so;
        the slots that are nothing then go when something is packed or trimmed the next time, too.
        """
        log = unsealed(self._log)
        if not isinstance(log, PortableCommitLog) or self._unpacked < _PACK:
            return
        oldest = (time.time() - KEEP_SECONDS) * 1_000_000
        ripe = [
            mark.seq for mark in self.floor.snapshots if mark.seq <= self._covered and mark.time <= oldest
        ]
        written = await self._written() if ripe else {}
        aged = self._aged(written, written.get(STATE_KEY, 0.0))
        ripe = [seq for seq in ripe if seq <= aged]
        if not ripe or ripe[-1] <= self.floor.packed:
            return
        self._unpacked = 0
        packed = await log.pack(ripe[-1], least=_PACK)
        async with self._lock:
            if packed > self.floor.packed:
                await self.save_floor(packed=packed)
        await log.trim(self.floor.floor - 1)

    def _needed(self, keys: list[str]) -> list[SnapshotMark]:
        """Those backups from which the commits are replayed: the one right before the floor, and so many behind it that
        the floor can be raised to one of them in time."""
        kept = set(keys)
        marks = [mark for mark in self.floor.snapshots if backup_key(mark.time) in kept]
        bases = [mark for mark in marks if mark.seq == self.floor.floor - 1]
        at, size = (bases[0].time, bases[0].journal_bytes) if bases else (self.floor.snapshots[0].time, 0)
        for mark in marks:
            apart = _RUNGS * (mark.time - at) / 1_000_000
            much = _RUNGS * (mark.journal_bytes - size) >= self._most
            if (
                mark.seq >= self.floor.floor
                and apart >= KEEP_SECONDS
                and (much or apart >= self._history.total_seconds())
            ):
                bases.append(mark)
                at, size = mark.time, mark.journal_bytes
        return bases

    @property
    def _most(self) -> int:
        """How many bytes of the log are kept."""
        if self._history_bytes is not None:
            return self._history_bytes
        return max(_HISTORY_LEAST, _HISTORY_SNAPSHOTS * self._size)

    async def trim(self) -> None:
        """Let the log go as far as history need not keep it, without waiting for the next snapshot."""
        async with self._lock:
            if self.floor.snapshots:
                await self._trim()

    async def _trim(self) -> None:
        """As `_let_go`; what keeps it from that is a trouble until it succeeds."""
        try:
            await self._let_go()
        except DivergedError:
            raise
        except StateError as error:
            self.trim_trouble = Trouble(error)
            raise
        self.trim_trouble = None

    async def _let_go(self) -> None:
        """Raise the floor to what two snapshots cover and history need not keep, and right behind one of them, so that
        there is a way back to all that is left; then delete below it. A slot of several commits in which it stands
        stays whole; those of them that are below are nothing."""
        marks = self.floor.snapshots
        kept = set(await backup_keys(self._backend))
        self._covered = covered = max(
            (mark.seq for mark in marks[:-1] if backup_key(mark.time) in kept), default=0
        )
        floor, reason = self.floor.floor, ""
        written = await self._written()
        steps = [mark for mark in marks if floor <= mark.seq <= covered and backup_key(mark.time) in kept]
        now, shown = unhurried_now(), written.get(STATE_KEY, 0.0)
        aged = self._aged(written, shown)
        late = 0 < shown < now - KEEP_SECONDS
        if late and any(mark.seq > aged and self._is_old(mark, now) for mark in steps):
            # Nobody has saved for a while: the snapshot does not tell how late it is.
            aged = self._aged(written, await storage_now(self._backend))
        steps = [mark for mark in steps if mark.seq <= aged]
        if any(self._is_old(mark, now) for mark in steps):
            # By the storage's clock it is later than when the last snapshot was written, which mostly is enough.
            now = min(now, shown)
            if not any(self._is_old(mark, now) for mark in steps):
                now = await earliest_now(self._backend)
        for mark in steps:
            if self._is_old(mark, now):
                floor, reason = mark.seq + 1, "age"
            elif self._total - mark.journal_bytes > self._most:
                floor, reason = mark.seq + 1, "bytes"
        if floor > self.floor.floor:
            await self.save_floor(floor=floor)
            self._untrimmed = reason
        if not self._untrimmed:
            return
        floor, reason = self.floor.floor, self._untrimmed
        await self._log.trim(floor - 1)
        await self._collect_bodies()
        self._untrimmed = ""
        logger.debug("trimmed the log, which begins at seq %d now", floor, extra={"reason": reason})
        self._events.emit(HistoryTrimmed(floor, reason))

    def _is_old(self, mark: SnapshotMark, now: float) -> bool:
        return now - mark.time / 1_000_000 > self._history.total_seconds()

    async def _written(self) -> dict[str, float]:
        """When the snapshot and its backups were written, by the storage's clock."""
        return {entry.key: entry.modified async for entry in self._backend.list_keys("state.")}

    def _aged(self, written: Mapping[str, float], now: float) -> int:
        """Up to which seq commits have been in the log for as long as a writer relies on it. That is told by the
        storage's clock: this handle's may be wrong, and so may those by which commits are dated."""
        kept = ((mark.seq, written.get(backup_key(mark.time), now)) for mark in self.floor.snapshots)
        return max((seq for seq, at in kept if now - at >= KEEP_SECONDS), default=0)

    async def _collect_bodies(self) -> None:
        """Delete the bodies that no commit in the log names any more, unless they are about to be committed: by the
        storage's clock, as it was when the last snapshot was written."""
        now = max([entry.modified async for entry in self._backend.list_keys(STATE_KEY)], default=0.0)
        bodies = [
            entry.key async for entry in self._backend.list_keys(BODIES) if now - entry.modified > KEEP_BODIES
        ]
        if not bodies:
            return
        named: set[str] = set()
        async for commit in self._log.read(self.floor.floor - 1):
            named.update(body.key for body in commit.transactions if isinstance(body, Body))
        for key in bodies:
            if key not in named:
                await self._backend.delete(key)
