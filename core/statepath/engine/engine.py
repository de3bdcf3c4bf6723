"""One open store: opening it, committing, and closing it. It knows no storage and no models."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from msgspec import Raw

from statepath.backend import IF_ABSENT, Backend, CommitLog, ETag, SupportsCommitLog, SupportsSpace
from statepath.commit import Change, Commit, Delete, Note, Put, Transaction, WriteLog, WriteReport
from statepath.engine.adoption import Examined
from statepath.engine.committer import Committer, Read
from statepath.engine.floor import Floor, write_floor
from statepath.engine.history import difference, state_at
from statepath.engine.ids import document_key, log_key
from statepath.engine.original import PRE_MIGRATION_KEY, Original, read_original
from statepath.engine.recovery import Recovered, recover
from statepath.engine.replay import Damage, apply_commit, changes_of
from statepath.engine.replica import Entry, Replica, Stage
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.snapshotter import KEEP_SECONDS, Snapshotter
from statepath.engine.views import ViewWriter
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    StateError,
)
from statepath.events import (
    AutosaveTriggered,
    CorruptionDetected,
    DiskLow,
    DiskOk,
    DocumentRecovered,
    EditAdopted,
    EditConflict,
    Events,
    SaveError,
    StateLoaded,
    StateRestored,
    StoreUpgraded,
)
from statepath.log import PortableCommitLog
from statepath.settings import Settings

logger = logging.getLogger("statepath.engine")

_RECENT_BYTES: Final = 8 * 1024 * 1024
_SPACE_OK: Final = 1.1
_MANY: Final = 10_000
_CHANGE_BYTES: Final = 128
_FILES: Final = (WriteLog, WriteReport)

_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _disown_after_fork() -> None:
    for engine in _open_engines:
        engine.disown()


os.register_at_fork(after_in_child=_disown_after_fork)


class Engine:
    """The replica of a store and, unless it is read-only, the tasks that commit, snapshot and write views."""

    def __init__(
        self, backend: Backend, log: CommitLog, settings: Settings, events: Events, *, readonly: bool
    ) -> None:
        self.backend = backend
        self.log = log
        self.settings = settings
        self.events = events
        self.readonly = readonly
        self.replica = Replica()
        self.store = ""
        self.incarnation = ""
        self.source = ""
        self.damage: list[Damage] = []
        self.closed = False
        self.last_commit_at: float | None = None
        self._found_floor = Floor(store="", incarnation="")
        self.disk_low = False
        self._committer: Committer | None = None
        self._views: ViewWriter | None = None
        self._snapshotter: Snapshotter | None = None
        self._autosave: asyncio.Task[None] | None = None
        self._disowned = False
        self._closing = asyncio.Lock()
        self._released = False
        self._document_views = False
        self._recent: deque[tuple[Commit, Sequence[Transaction], int]] = deque()
        self._recent_bytes = 0
        self._watchers = 0
        self._catching_up = asyncio.Lock()
        self._news = asyncio.Event()

    @classmethod
    async def open(
        cls, backend: Backend, settings: Settings, events: Events, *, readonly: bool = False
    ) -> Engine:
        """Recover the state and start the engine's tasks. The backend is the engine's from now on.

        Raises:
            NotFoundError: read-only, and there is no store.
            UnsupportedError: a newer program wrote the store (`newer_format`).
        """
        log: CommitLog
        if backend.capabilities.commit_log and isinstance(backend, SupportsCommitLog):
            log = backend.commit_log()
        else:
            log = PortableCommitLog(backend, deadline=settings.deadline, window=KEEP_SECONDS)
        engine = cls(backend, log, settings, events, readonly=readonly)
        try:
            await engine._open()
        except BaseException:
            await engine._release()
            raise
        return engine

    async def _open(self) -> None:
        began = time.monotonic()
        _open_engines.add(self)
        settings, capabilities = self.settings, self.backend.capabilities
        self._document_views = settings.views if settings.views is not None else capabilities.editable
        found = await recover(
            self.backend,
            self.log,
            limit=settings.max_document,
            editable=self._document_views and capabilities.editable and not self.readonly,
        )
        original: Original | None = None
        unfinished = found.imported and not self.readonly
        if not found.broken and not found.marks and (unfinished or not found.replica.head):
            original = await read_original(self.backend, limit=settings.max_document)
        self.replica = found.replica
        known = {damage.key for damage in found.damage}
        self.damage = [
            *found.damage,
            *(damage for damage in (original.damage if original else ()) if damage.key not in known),
        ]
        self.source = original.source if original and original.source else found.source
        if self.readonly:
            self._show(found, original)
        else:
            await self._take_over(found, original)
        if len(self.replica) >= _MANY:
            gc.freeze()  # so many objects that live on need not be looked at by each full collection
        for damage in self.damage:
            logger.warning("damage found: %s", damage.reason, extra={"key": damage.key})
        self.events.emit(
            StateLoaded(self.replica.head, len(self.replica), self.source, time.monotonic() - began)
        )

    def _show(self, found: Recovered, original: Original | None) -> None:
        """Read-only: show what was found, and say what is wrong with it."""
        if not found.store and (original is None or not original.documents) and not found.replica.head:
            raise NotFoundError(
                f"there is no store at {self.backend.url}; open it once without readonly to create it",
                key=self.backend.url,
            )
        self.store, self.incarnation = found.store, found.incarnation
        if found.floor is not None:
            self._found_floor = found.floor[0]
        self.last_commit_at = self.replica.time / 1_000_000 or None
        if original is not None:
            stage = Stage(self.replica)
            for change in original.changes:
                stage.apply(change, 0, 0)
            stage.install(self.replica, 0, "", 0)
        for damage in self.damage:
            self.events.emit(CorruptionDetected(damage.key, damage.reason, None))

    async def _take_over(self, found: Recovered, original: Original | None) -> None:
        settings, backend = self.settings, self.backend
        self.store = found.store or uuid4().hex
        self.incarnation = found.incarnation or uuid4().hex
        for damage in self.damage:
            kept = await self._put_aside(damage.key, "corrupt") if damage.aside else ""
            if damage.key == STATE_KEY and kept:
                found.state = found.state_etag = None
            self.events.emit(CorruptionDetected(damage.key, damage.reason, kept or None))
        if original is not None and (original.changes or original.state is not None):
            await self._back_up_original(original)
        elif found.foreign is not None:
            if kept := await self._put_aside(STATE_KEY, "conflict"):
                self.events.emit(EditConflict(STATE_KEY, kept))
            found.state_etag = None
        floor, etag = await self._floor(found)
        self._views = ViewWriter(
            self.replica,
            backend,
            store=self.store,
            documents=self._document_views,
            interval=settings.view_interval,
            busy=lambda: self._committer is not None and self._committer.busy,
            failed=lambda error: self.events.emit(SaveError(error, error.key)),
        )
        self._snapshotter = Snapshotter(
            backend,
            self.log,
            self.replica,
            self._views,
            self.events,
            floor=floor,
            floor_etag=etag,
            state=found.state,
            state_etag=found.state_etag,
            saved=self._saved_seq(found, floor),
            backups=settings.backups,
            history=settings.history,
            history_bytes=settings.history_bytes,
            max_age=settings.snapshot_age,
            journal_bytes=found.journal_bytes,
            put_aside=self._put_aside,
        )
        self._committer = Committer(
            self.replica,
            self.log,
            backend,
            store=self.store,
            incarnation=self.incarnation,
            committed=self._committed,
            catch_up=self._catch_up,
            failed=lambda error: self.events.emit(SaveError(error)),
        )
        await self._settle(found, original, self._views)
        self._autosave = asyncio.get_running_loop().create_task(
            self._save_regularly(), name="statepath-autosave"
        )

    async def _floor(self, found: Recovered) -> tuple[Floor, ETag | None]:
        """The log's own record as it has to be from now on, and the version of it that is stored."""
        floor, etag = found.floor or (None, None)
        if found.broken:
            # Whatever was lost behind the head, its seqs are not given away again in this incarnation. The snapshot
            # is still to be written, and this is stored after it: until then all of it can be done again.
            self.incarnation = uuid4().hex
            return Floor(store=self.store, incarnation=self.incarnation, floor=self.replica.head + 1), etag
        if floor is None:
            floor = Floor(
                store=self.store,
                incarnation=self.incarnation,
                floor=found.begins,
                snapshots=() if found.state is None else (found.state,),
            )
            etag = await write_floor(self.backend, floor, None)
        return floor, etag

    def _saved_seq(self, found: Recovered, floor: Floor) -> int:
        """The seq that `state.json` shows; -1 makes the next snapshot due although nothing changes."""
        if found.broken or found.restore is not None or found.state is None:
            return 0 if not found.broken and not self.replica.head and not len(self.replica) else -1
        return found.state.seq if any(mark.digest == found.state.digest for mark in floor.snapshots) else -1

    async def _settle(self, found: Recovered, original: Original | None, views: ViewWriter) -> None:
        """Commit what follows from what was found, so that the store is whole before anyone uses it."""
        for change in found.beside:
            if not isinstance(change, Note):
                views.mark_file(change)
        if found.broken:
            await self.snapshot()
            await self.log.restart(self.replica.head)
        for key in found.recovered:
            self.events.emit(DocumentRecovered(key, "its own file"))
        if original is not None and original.changes:
            await self._import(original, views)
        elif found.examined is not None:
            await self._adopt_edits(found.examined, views)
        if found.restore is not None:
            await self._restore_snapshot(found)

    async def _import(self, original: Original, views: ViewWriter) -> None:
        """Make an original directory a store. Each step may be the last one before a crash: then it is done again."""
        if missing := original.missing_in(self.replica):
            await self.commit(missing)
        for collection, id, _ in self.replica:
            views.mark(collection, id)
        await self.flush()
        for key in original.misnamed:
            await self.backend.delete(key)
        await self.snapshot()
        if original.documents:
            self.events.emit(StoreUpgraded(original.source, original.documents, PRE_MIGRATION_KEY))

    async def _back_up_original(self, original: Original) -> None:
        """The pre-migration backup: the `state.json` that was used, as it was. An earlier one is never replaced."""
        with suppress(AlreadyExistsError, NotFoundError):
            data = original.state
            if data is None:
                data = b"{}\n"
            await self.backend.write(PRE_MIGRATION_KEY, data, when=IF_ABSENT)

    async def _restore_snapshot(self, found: Recovered) -> None:
        """An operator put an older snapshot in the place of `state.json`: that is a restore, which can be undone."""
        assert found.restore is not None
        meta, then = found.restore
        before = self.replica.head
        changes = difference(self.replica, then)
        if changes:
            note = Note("restored", f"{STATE_KEY} was replaced by the snapshot of seq {meta.seq}")
            seq = await self.commit([*changes, note])
            undo = f"statepath restore --at {before}"
            logger.warning(
                "%s was replaced by the snapshot of seq %d: restored as seq %d; to undo it: %s",
                STATE_KEY,
                meta.seq,
                seq,
                undo,
            )
            self.events.emit(StateRestored(meta.seq, seq, undo))
        await self.snapshot()

    async def _adopt_edits(self, examined: Examined, views: ViewWriter) -> None:
        for key, reason in examined.broken:
            kept = await self._put_aside(key, "corrupt")
            self.damage.append(Damage(key, reason))
            logger.warning("a file is not valid JSON and was kept aside: %s", reason, extra={"key": key})
            self.events.emit(CorruptionDetected(key, reason, kept))
        for key, reason in examined.conflicts:
            kept = await self._put_aside(key, "conflict")
            logger.warning("an edit could not be adopted and was kept aside: %s", reason, extra={"key": key})
            self.events.emit(EditConflict(key, kept))
        for key in examined.orphans:
            await self.backend.delete(key)
        for collection, id in examined.stale:
            views.mark(collection, id)
        for edit in examined.edits:
            put = Put(edit.collection, edit.id, Raw(edit.document), edit.base)
            seq = await self.commit([put, Note("adopted", edit.key)])
            if edit.key != document_key(edit.collection, edit.id):
                await self.backend.delete(edit.key)
            logger.info("adopted the edited file %s as seq %d", edit.key, seq, extra={"key": edit.key})
            self.events.emit(EditAdopted(edit.key, seq))

    async def _put_aside(self, key: str, why: str) -> str:
        """Copy the object to `<key>.<why>.<UTC time>` and remove it; the new key, or an empty text if it is gone."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        try:
            blob = await self.backend.read(key)
        except NotFoundError:
            return ""
        kept = f"{key}.{why}.{moment}"
        await self.backend.write(kept, blob.data)
        await self.backend.delete(key)
        return kept

    # Changing

    @property
    def committer(self) -> Committer:
        """What takes changes.

        Raises:
            ReadOnlyError, ClosedError: the handle takes none.
        """
        committer = self._committer
        if committer is None:
            raise self._cannot_write()
        return committer

    async def commit(self, changes: Sequence[Change], reads: Sequence[Read] = ()) -> int:
        """Commit one transaction, all or nothing; its seq."""
        committer = self.committer
        if committer.crowded:
            await committer.room()
        return await committer.submit(tuple(changes), sum(_size(change) for change in changes), reads)

    def _cannot_write(self) -> StateError:
        if self._disowned:
            return _disowned(self.backend.url)
        if self.closed:
            return ClosedError("the store is closed; open it again to save")
        return ReadOnlyError(f"{self.backend.url} was opened with readonly=True: this handle changes nothing")

    def disown(self) -> None:
        """This process was forked from the one that opened the store: the handle is of no use here."""
        self._disowned = self.closed = True
        self._committer = None

    def _committed(self, commit: Commit, transactions: Sequence[Transaction], size: int) -> None:
        views = self._views
        assert views is not None
        for transaction in transactions:
            for change in transaction:
                if isinstance(change, _FILES):
                    views.mark_file(change)
                elif not isinstance(change, Note):
                    views.mark(change.collection, change.id)
        self.last_commit_at = time.time()
        if self._snapshotter is not None:
            self._snapshotter.committed(size)
        self._tell_watchers(commit, transactions, size)

    def _tell_watchers(self, commit: Commit, transactions: Sequence[Transaction], size: int) -> None:
        if not self._watchers:
            return
        self._recent.append((commit, transactions, size))
        self._recent_bytes += size
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= self._recent.popleft()[2]
        self._news.set()
        self._news = asyncio.Event()

    async def _catch_up(self) -> None:
        """Apply what other writers committed behind the head."""
        async with self._catching_up:
            async for commit in self.log.read(self.replica.head):
                if commit.store != self.store or commit.incarnation != self.incarnation:
                    raise DivergedError(
                        f"{self.backend.url} was promoted, imported or replaced while it was open; open it again"
                    )
                # Read first: nothing may come between applying the commit and telling of it.
                transactions = [await changes_of(self.backend, one) for one in commit.transactions]
                size = await apply_commit(self.backend, self.replica, commit)
                if self._views is not None:
                    self._committed(commit, transactions, size)
                else:
                    self._tell_watchers(commit, transactions, size)

    # Reading beside the replica

    def get(self, collection: str, id: str) -> Entry | None:
        if self.closed:
            self.check_open()
        return self.replica.get(collection, id)

    def check_open(self) -> None:
        """
        Raises:
            ClosedError: the handle is closed, or belongs to the process that this one was forked from.
        """
        if self._disowned:
            raise _disowned(self.backend.url)
        if self.closed:
            raise ClosedError("the store is closed; open it again")

    async def sync(self, at_least: int | None = None) -> int:
        """Bring the replica up to the head of the log; its seq. A writer's own replica is there already."""
        self.check_open()
        if self._committer is not None:
            await self._committer.drain()
        else:
            await self._catch_up()
            while at_least is not None and self.replica.head < at_least:
                async for _ in self.log.follow(self.replica.head):
                    await self._catch_up()
                    break
        return self.replica.head

    async def follow(self, after: int) -> AsyncGenerator[tuple[Commit, Sequence[Transaction]]]:
        """Every commit behind the seq `after`, from the log and then as they become visible to this handle.

        Raises:
            HistoryTrimmedError: the log begins later.
        """
        self._watchers += 1
        try:
            while True:
                recent = list(self._recent)
                if recent and recent[0][0].first <= after + 1:
                    for commit, transactions, _ in recent:
                        if commit.last > after:
                            yield commit, transactions
                            after = commit.last
                elif self.replica.head > after:
                    head = self.replica.head
                    async for commit in self.log.read(after):
                        if commit.last > head:
                            break
                        yield commit, [await changes_of(self.backend, one) for one in commit.transactions]
                        after = commit.last
                if self.closed:
                    return
                if self.replica.head <= after:
                    await self._wait_for_news(after)
        except ClosedError:
            if not self.closed:
                raise
        finally:
            self._watchers -= 1
            if not self._watchers:
                self._recent.clear()
                self._recent_bytes = 0

    async def _wait_for_news(self, after: int) -> None:
        if self._committer is not None:
            await self._news.wait()
            return
        news = asyncio.ensure_future(self._news.wait())
        arrival = asyncio.ensure_future(anext(self.log.follow(after)))
        try:
            await asyncio.wait((news, arrival), return_when=asyncio.FIRST_COMPLETED)
            if arrival.done():
                arrival.result()
                await self._catch_up()
        finally:
            news.cancel()
            arrival.cancel()

    # Snapshots, views, restore

    async def flush(self) -> None:
        """Wait until everything submitted is durable and every view shows it."""
        self.check_open()
        if self._committer is not None:
            await self._committer.drain()
        if self._views is not None:
            await self._views.flush()

    async def flush_files(self) -> None:
        """Wait until the files of logs and reports have everything that is committed."""
        self.check_open()
        if self._views is not None:
            await self._views.flush(files_only=True)

    async def snapshot(self) -> int:
        """Bring `state.json` up to now; the seq that it shows."""
        return await self._writing_snapshotter().snapshot()

    async def backup(self) -> str:
        """Write a snapshot, and keep it as a backup as well; the backup's key."""
        return await self._writing_snapshotter().backup()

    def _writing_snapshotter(self) -> Snapshotter:
        if self._snapshotter is None or self.closed or self._disowned:
            raise self._cannot_write()
        return self._snapshotter

    async def restore(self, at: int | datetime) -> tuple[int, int]:
        """Commit what makes the documents those of an earlier seq or moment; that seq, and the commit's.

        Raises:
            HistoryTrimmedError: it is too long ago.
            InvalidArgumentError: a seq that is not there yet, or a datetime without a time zone.
        """
        then = await self.past(at)
        before = self.replica.head
        changes = difference(self.replica, then)
        if not changes:
            return then.head, before
        seq = await self.commit([*changes, Note("restored", f"to seq {then.head}")])
        self.events.emit(StateRestored(then.head, seq, f"statepath restore --at {before}"))
        return then.head, seq

    async def past(self, at: int | datetime) -> Replica:
        """The documents as they were."""
        self.check_open()
        if isinstance(at, int) and at > self.replica.head:
            raise InvalidArgumentError(f"seq {at} is not there yet: the head is {self.replica.head}")
        return await state_at(self.backend, self.log, at)

    async def log_offset(self, id: str) -> int:
        """Where the next piece of a session log goes: behind a file that the log does not know, too."""
        size = self.replica.log_size(id)
        if not size and self.backend.capabilities.editable:
            with suppress(NotFoundError):
                return len((await self.backend.read(log_key(id))).data)
        return size

    @property
    def view_lag(self) -> int:
        """How many files are behind the log."""
        return 0 if self._views is None else self._views.lag

    @property
    def journal_bytes(self) -> int:
        """The bytes that were committed since the last snapshot, roughly."""
        return 0 if self._snapshotter is None else self._snapshotter.since

    @property
    def saved(self) -> tuple[int, float | None]:
        """The seq of the last snapshot and when this handle wrote it, in seconds since 1970; of one that was found, the
        time of its last commit."""
        if self._snapshotter is not None:
            return self._snapshotter.saved, self._snapshotter.saved_at
        marks = self._found_floor.snapshots
        return (marks[-1].seq, marks[-1].time / 1_000_000) if marks else (0, None)

    @property
    def floor(self) -> int:
        """The lowest seq that the log still has."""
        return self._found_floor.floor if self._snapshotter is None else self._snapshotter.floor.floor

    @property
    def failure(self) -> StateError | None:
        """Why the handle takes no further commits, if so."""
        return None if self._committer is None else self._committer.failure

    async def free_bytes(self) -> int | None:
        """How much may still be written, where the backend can tell."""
        if self.backend.capabilities.space and isinstance(self.backend, SupportsSpace):
            return await self.backend.free_bytes()
        return None

    async def _save_regularly(self) -> None:
        interval = self.settings.autosave
        while True:
            await self._check_space()
            await asyncio.sleep(interval or 30.0)
            if not interval or self._snapshotter is None or not self._snapshotter.changed:
                continue
            self.events.emit(AutosaveTriggered(self.replica.head))
            await asyncio.sleep(0)  # what a listener saves now belongs into this snapshot
            await self.committer.drain()
            if self._snapshotter.due:
                await self._try_snapshot()

    async def _try_snapshot(self) -> None:
        assert self._snapshotter is not None
        try:
            await self._snapshotter.snapshot()
        except StateError as error:
            logger.exception("the snapshot could not be written", extra={"code": error.code})
            self.events.emit(SaveError(error, error.key))

    async def _check_space(self) -> None:
        try:
            free = await self.free_bytes()
        except StateError as error:
            logger.warning("the free space could not be read: %s", error, extra={"code": error.code})
            return
        limit = self.settings.disk_low
        if free is None:
            return
        if free < limit and not self.disk_low:
            self.disk_low = True
            logger.warning("%d bytes are free at %s, less than %d", free, self.backend.url, limit)
            self.events.emit(DiskLow(free, limit))
        elif self.disk_low and free >= limit * _SPACE_OK:
            self.disk_low = False
            self.events.emit(DiskOk(free))

    async def close(self) -> None:
        """Commit what is queued, write the views and a snapshot of what changed, and release the storage.

        Closing never fails for a view or a snapshot: the journal has everything, and the failure is told by an event.
        """
        self.closed = True
        if self._disowned:
            return
        async with self._closing:
            if not self._released:
                try:
                    await self._finish()
                finally:
                    await self._release()

    async def _finish(self) -> None:
        if self._committer is None or self._views is None:
            return
        await self._committer.close()
        try:
            await self._views.flush()
        except StateError as error:
            self.events.emit(SaveError(error, error.key))
        if self._snapshotter is not None and self._snapshotter.changed:
            await self._try_snapshot()

    async def _release(self) -> None:
        self.closed = self._released = True
        self._news.set()
        if self._autosave is not None:
            self._autosave.cancel()
            with suppress(asyncio.CancelledError):
                await self._autosave
        if self._committer is not None:
            await self._committer.abandon()
        if self._views is not None:
            await self._views.close()
        await self.backend.close()


def _disowned(url: str) -> ClosedError:
    return ClosedError(
        f"this handle on {url} belongs to the process that this one was forked from; open the store again here"
    )


def _size(change: Change) -> int:
    """The bytes of a change in a commit record, roughly, and rather too many."""
    if isinstance(change, Put | WriteReport):
        return _CHANGE_BYTES + len(bytes(change.document))
    if isinstance(change, WriteLog | Note):
        return _CHANGE_BYTES + 4 * len(change.text)
    return _CHANGE_BYTES + len(change.id) + (0 if isinstance(change, Delete) else len(bytes(change.value)))
