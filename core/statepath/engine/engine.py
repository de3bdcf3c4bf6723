"""One open store: committing to it, reading it, and closing it. It knows no storage and no models."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from functools import partial
from shlex import quote
from typing import Final, TypeVar, cast

from statepath.backend import Backend, CommitLog, Span, SupportsQueries, SupportsSharing
from statepath.commit import FORMAT, Change, Commit, FileChange, Note, Transaction, size_of
from statepath.engine.autosave import Autosave, try_snapshot
from statepath.engine.catching_up import CatchingUp
from statepath.engine.committer import Committer
from statepath.engine.companion import Companion
from statepath.engine.floor import Floor, read_floor
from statepath.engine.ids import check_seq, log_key
from statepath.engine.lagging import find_lagging
from statepath.engine.leases import Leases
from statepath.engine.maintenance import Maintenance
from statepath.engine.migration import Migrated, check_known, check_reached
from statepath.engine.pending import Decide
from statepath.engine.replay import Damage, file_key
from statepath.engine.replica import Cut, Entry, Replica, Stage
from statepath.engine.snapshotter import PutAside, Snapshotter, Written
from statepath.engine.stream import Stream
from statepath.engine.unloaded import Elsewhere, needs_documents
from statepath.engine.unwritten import Unwritten
from statepath.engine.validating import Read
from statepath.engine.viewwriter import ViewWriter
from statepath.engine.vitals import Vitals
from statepath.errors import (
    ClosedError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    ReadOnlyError,
    StateError,
    UnsupportedError,
)
from statepath.events import Events, SaveError
from statepath.migrations import Migrations
from statepath.settings import Settings
from statepath.telemetry import SILENT, Telemetry

logger = logging.getLogger("statepath.engine")

_JUST_NOW: Final = 0.05
_MAINTAINER_TTL: Final = 15.0
_SAVES: Final = 5

T = TypeVar("T")

_open_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _disown_after_fork() -> None:
    for engine in _open_engines:
        engine.disown()


os.register_at_fork(after_in_child=_disown_after_fork)


class Engine:
    """The replica of a store and, unless it is read-only, the tasks that commit, snapshot and write views. What goes on
    `beside` it, and only listens, ends after it.

    Attributes:
        upgraded: whether what is shown is a store, and no directory of the original server that is still to become one.
        whole: whether the log leads to what is shown without a loss that nobody has put up with yet.
    """

    def __init__(
        self,
        backend: Backend,
        log: CommitLog,
        settings: Settings,
        events: Events,
        *,
        readonly: bool,
        migrations: Migrations | None = None,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self.telemetry = telemetry
        self.backend = backend
        self.log = log
        self.settings = settings
        self.events = events
        self.readonly = readonly
        self.replica = Replica()
        self.store = ""
        self.incarnation = ""
        self.damage: list[Damage] = []
        self.upgraded = True
        self.whole = True
        self.verified = False
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self.migrations = migrations
        self.migrated: Migrated | None = None
        self._brought_up = False
        self.elsewhere: Elsewhere | None = None
        self.last_commit_at: float | None = None
        self._busy_until = 0.0
        self.beside = AsyncExitStack()
        self.vitals = Vitals(self.replica)
        self._committer: Committer | None = None
        self._views: ViewWriter | None = None
        self._snapshotter: Snapshotter | None = None
        self._autosave: Autosave | None = None
        self._companion: Companion | None = None
        self.unwritten = Unwritten(backend, log, lambda: self.replica.head) if readonly else None
        self._disowned = False
        self._closing = asyncio.Lock()
        self._released = False
        self._log_turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        can = backend.capabilities
        self.sharing = cast("SupportsSharing", backend) if can.sharing and not readonly else None
        self._alone = can.exclusive and not can.sharing and not readonly
        self.catching_up = CatchingUp(self, alone=self._alone)
        self.leases = Leases(backend)
        self.beats: set[asyncio.Task[None]] = set()
        self._maintenance = Maintenance(
            self.leases,
            ttl=max(_MAINTAINER_TTL, 3 * settings.autosave),
            alone=self._alone,
            claim=None if self.sharing is None else self.sharing.maintain,
        )
        self.stream = Stream(
            backend,
            log,
            alone=self._alone,
            head=lambda: self.replica.head,
            closed=lambda: self.closed,
            take=self.catching_up.take,
            begin=self.look_back,
            patience=settings.deadline,
        )
        self._took_over = self._alone
        _open_engines.add(self)

    # Starting, which `opening` does

    def show(
        self,
        replica: Replica,
        store: str,
        incarnation: str,
        floor: Floor | None,
        *,
        journal_bytes: int = 0,
        state_size: int = 0,
    ) -> None:
        """Have what was found for reading: so many bytes of commits behind a snapshot of that size."""
        self.replica, self.store, self.incarnation = replica, store, incarnation
        self.vitals = Vitals(
            replica,
            floor,
            journal_bytes=journal_bytes,
            snapshot_size=state_size,
            loads=self.settings.loads,
        )
        self.last_commit_at = replica.time / 1_000_000 or None

    def start(self, written: Written, put_aside: PutAside, *, document_views: bool) -> ViewWriter:
        """Start the tasks that commit and write; what follows from recovery is committed through them."""
        self._views = views = ViewWriter(
            self.replica,
            self.backend,
            store=self.store,
            documents=document_views,
            interval=self.settings.view_interval,
            alone=self._alone,
            busy=self.is_busy,
            catch_up=self.catch_up,
            failed=self._tell_failure,
        )
        self._snapshotter = Snapshotter(
            self.backend,
            self.log,
            self.replica,
            views,
            self.events,
            written,
            self.settings,
            put_aside=put_aside,
            cut=self.cut,
            telemetry=self.telemetry,
        )
        self._committer = Committer(
            self.replica,
            self.log,
            self.backend,
            store=self.store,
            incarnation=self.incarnation,
            advancing=self.catching_up.advancing,
            alone=self._alone,
            committed=self._appended,
            lost_to=self.catching_up.lost_to,
            behind=self.catching_up.come_behind,
            failed=self._tell_failure,
            deadline=self.settings.deadline,
            max_document=self.settings.max_document,
            telemetry=self.telemetry,
            elsewhere=self.elsewhere,
        )
        self.vitals.writing(self._committer, views, self._snapshotter)
        return views

    def start_autosave(
        self, archive: Callable[[], Awaitable[object]], bound_files: Callable[[], Awaitable[object]]
    ) -> None:
        """Begin to save by time, and to `archive` and `bound_files` where the settings have rules for it."""
        self._autosave = self.vitals.autosave = Autosave(
            self, self._writing_snapshotter(), archive, bound_files
        )

    def is_busy(self) -> bool:
        """Whether saves are going on: a commit is under way, or the last one was just now."""
        if self._committer is not None and self._committer.busy:
            return True
        return time.monotonic() < self._busy_until

    def _tell_failure(self, error: StateError) -> None:
        self.events.emit(SaveError(error, error.key))

    # Changing

    @property
    def committer(self) -> Committer:
        """What takes changes.

        Raises:
            ReadOnlyError, ClosedError: the handle takes none.
            UnsupportedError: as `check_loop`.
        """
        committer = self._committer
        if committer is None:
            raise self._cannot_write()
        self.check_loop()
        return committer

    async def commit(self, changes: Sequence[Change], reads: Sequence[Read] = ()) -> int:
        """Commit one transaction, all or nothing; its seq."""
        committer = self.committer
        if committer.crowded:
            await committer.room()
        return await committer.submit(tuple(changes), sum(size_of(change) for change in changes), reads)

    async def decide(self, decide: Decide) -> int:
        """Commit one transaction that is made of the state that it follows; its seq, or 0: it changes nothing.

        Raises:
            ConflictError: others were first in each of 32 attempts.
        """
        committer = self.committer
        if committer.crowded:
            await committer.room()
        return await committer.decide(decide)

    async def commit_file(self, change: FileChange) -> int:
        """Commit a change of a log or report, and wait until its file shows it; the seq."""
        seq = await self.commit([change])
        # It is durable, even if the handle was closed meanwhile: who closes it, or opens it next, writes the file.
        with suppress(ClosedError):
            await self.flush_file(file_key(change))
        return seq

    def _cannot_write(self) -> StateError:
        if self._disowned:
            return _disowned(self.backend.url)
        if self.closed:
            return ClosedError("the store is closed; open it again to save")
        if self.replica_of:
            return is_replica(self.backend.url, self.replica_of)
        return ReadOnlyError(f"{self.backend.url} was opened with readonly=True: this handle changes nothing")

    def disown(self) -> None:
        """This process was forked from the one that opened the store: the handle is of no use here."""
        self._disowned = self.closed = True
        self._committer = None

    def _appended(
        self, commit: Commit, transactions: Sequence[Transaction], stage: Stage, size: int, begun: float
    ) -> None:
        """Note a commit of this handle: all that was durable when it was begun is visible now."""
        self.catching_up.seen = begun
        self._committed(commit, transactions, stage, size)

    def _committed(
        self, commit: Commit, transactions: Sequence[Transaction], stage: Stage, size: int
    ) -> None:
        """Note what follows from a commit that is visible now, whoever made it."""
        if self._views is not None:
            if self._maintenance.ours or (self._committer and commit.writer == self._committer.writer):
                self._views.mark_all(stage)
            else:
                self._views.leave(stage, commit.last)
                self._took_over = False  # whoever committed it may leave the documents' files behind
        if self.unwritten is not None:
            self.unwritten.note(stage.files, commit.last)
        self.last_commit_at = time.time()
        self._busy_until = time.monotonic() + _JUST_NOW
        self.vitals.committed(size)
        self.stream.tell(commit, transactions, size)

    async def catch_up(self) -> None:
        """As `CatchingUp.catch_up`."""
        await self.catching_up.catch_up()

    def caught_up(self, commit: Commit, transactions: Sequence[Transaction], stage: Stage, size: int) -> None:
        """Note another writer's commit that is visible now.

        Raises:
            UnsupportedError: as `check_writable`, unless the handle only reads.
        """
        self._committed(commit, transactions, stage, size)
        if self.readonly:
            return
        try:
            self.check_writable(self.replica)
        except UnsupportedError as error:
            # Whoever has met it: the next save would not meet it again.
            if self._committer is not None:
                self._committer.stop(error)
            raise

    async def bound(self) -> None:
        """Remember no more than is needed of others' logs and reports."""
        if self.unwritten is not None:
            await self.unwritten.bound()

    async def maintain(self) -> bool:
        """Whether this handle is the one that saves by time. It knows what the others did, then."""
        snapshotter = self._writing_snapshotter()
        self._took_over = self._took_over and self._maintenance.ours
        if not await self._maintenance.attempt():
            await snapshotter.refresh()
            return False
        await self._take_over()
        return True

    async def look_beside(self) -> None:
        """Where the storage itself tells who saves by time: if it is this handle, though it does nothing itself, or the
        one before has ended, know what the others do."""
        if self.sharing is not None and (self._maintenance.ours or await self._maintenance.attempt()):
            await self._take_over()

    async def _take_over(self) -> None:
        """Know what the others did, and have the files written that they may have left before this handle was the one
        that saves by time."""
        await self.catch_up()
        views, snapshotter = self._views, self._snapshotter
        if self._took_over or views is None or snapshotter is None:
            return
        await snapshotter.refresh()
        views.take_left()
        if views.documents:
            await self.mark_lagging(views)
        self._took_over = True  # only now: what fails is done at the next turn

    async def mark_lagging(self, views: ViewWriter) -> None:
        """Have the documents' files written that do not show them as they are."""
        limit = self.settings.max_document
        for collection, id in await find_lagging(self.backend, self.replica, self.store, limit=limit):
            views.mark(collection, id)

    async def share(self) -> None:
        """The store is whole: let other writers in. The first one that saves by time is the maintainer."""
        if self.sharing is not None:
            self._took_over = not self.sharing.joined  # who comes first has looked at all files
            if self.settings.autosave and not self.sharing.joined:
                await self._maintenance.attempt()
            await self.sharing.share()

    @property
    def joined(self) -> bool:
        """Whether others had the store open for writing, and so whole, when this handle came."""
        return self.sharing is not None and self.sharing.joined

    def check_writable(self, replica: Replica) -> None:
        """
        Raises:
            UnsupportedError: only a newer program may go on with this state (`newer_format`, `newer_schema`), or one
                that brings it up again (`older_schema`).
        """
        if replica.needs > FORMAT:
            raise UnsupportedError(
                f"{self.backend.url} is written in format {replica.needs} now, and this program writes {FORMAT}: "
                "install a newer statepath (pip install --upgrade statepath); read-only it can be opened",
                code="newer_format",
            )
        if self.migrations is not None:
            check_known(replica, self.migrations)
            if self._brought_up:
                check_reached(replica, self.migrations)

    def brought_up(self) -> None:
        """The documents are of the versions that the program knows: from now on it writes to no others.

        Raises:
            UnsupportedError: they were taken back meanwhile (`older_schema`).
        """
        self._brought_up = True
        self.check_writable(self.replica)

    # Reading beside the replica

    def get(self, collection: str, id: str) -> Entry | None:
        if self.closed:
            self.check_open()
        return self.replica.get(collection, id)

    def in_memory(self, collection: str, id: str) -> Entry | None:
        """As `get`; `None` also where documents stay in the storage."""
        return None if self.elsewhere is not None else self.get(collection, id)

    async def entry(self, collection: str, id: str) -> Entry | None:
        """As `get`, of a document that may be in the storage only."""
        if self.elsewhere is None:
            return self.get(collection, id)
        self.check_open()
        return await self.elsewhere.get(collection, id)

    def check_loaded(self) -> None:
        """
        Raises:
            UnsupportedError: the handle does not hold the documents (`not_loaded`).
        """
        if self.elsewhere is not None:
            raise needs_documents()

    def check_open(self) -> None:
        """
        Raises:
            ClosedError: the handle is closed, or belongs to the process that this one was forked from.
            UnsupportedError: as `check_loop`.
        """
        if self._disowned:
            raise _disowned(self.backend.url)
        if self.closed:
            raise ClosedError("the store is closed; open it again")
        self.check_loop()

    def check_loop(self) -> None:
        """
        Raises:
            UnsupportedError: another event loop runs than the one that the store was opened in (`other_loop`).
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return  # nothing is awaited
        if running is not self._loop and not (self._released or self._disowned):
            raise UnsupportedError(
                f"this handle on {self.backend.url} was opened in "
                + (
                    "an event loop that has ended: close this handle, and open the store in this one"
                    if self._loop.is_closed()
                    else "another event loop: open the store in this one, send the call there "
                    "(asyncio.run_coroutine_threadsafe), or use statepath.open_sync, made for any thread"
                ),
                code="other_loop",
            )

    @property
    def gone(self) -> bool:
        """Whether the storage was given back, or is the parent's: a handle that is closed may still be at work."""
        return self._released or self._disowned

    @property
    def outlived(self) -> bool:
        """Whether the event loop has ended that the store was opened in: then it can only be closed, in any other."""
        return self._loop.is_closed() and not self._disowned

    async def sync(self, at_least: int | None = None) -> int:
        """Bring the replica up to the head of the log, and wait until it shows the seq `at_least`; its seq."""
        if at_least is not None:
            check_seq(at_least)
        self.check_open()
        if self._committer is not None:
            await self._committer.drain()
        await self.catch_up()
        if at_least is not None and self.replica.head < at_least:
            async with aclosing(self.stream.follow(self.replica.head)) as commits:
                async for commit, _ in commits:
                    if commit.last >= at_least:
                        break
            self.check_open()
        return self.replica.head

    def attach(self, companion: Companion) -> None:
        """Have it run until the store is closed."""
        self._companion = self.vitals.companion = companion

    # Snapshots, views, restore

    async def flush(self) -> None:
        """Wait until everything submitted is durable and every view shows it."""
        self.check_open()
        if self._committer is not None:
            await self._committer.drain()
        if self._views is not None:
            self._views.take_left()
            await self._show(self._views)
        if self._committer is not None and self.backend.capabilities.queries:
            await cast("SupportsQueries", self.backend).settle(self.replica.head)

    async def _show(self, views: ViewWriter) -> None:
        await views.flush()
        if self.sharing is not None and views.documents:
            await self.sharing.believe()

    async def flush_files(self) -> None:
        """Wait until the files of logs and reports have everything that is committed."""
        self.check_open()
        if self._views is not None:
            self._views.take_left()
            await self._views.flush(files_only=True)

    async def flush_most_files(self) -> frozenset[str]:
        """As `flush_files`, but for those that cannot be written: their keys."""
        try:
            await self.flush_files()
        except StateError as error:
            if self._views is None or isinstance(error, ClosedError):
                raise
            return self._views.owed
        return frozenset()

    async def flush_file(self, key: str) -> None:
        """Wait until that file, of a log or a report, has everything that is committed."""
        self.check_open()
        if self._views is not None:
            self._views.take_left()
            await self._views.flush_file(key)

    async def snapshot(self) -> int:
        """Bring `state.json` up to now; the seq that it shows."""
        return await self._beside_others(self._writing_snapshotter().snapshot)

    async def cover(self, kind: str, text: str) -> None:
        """Make a snapshot of now and, behind a note of that kind, another one: the log can be trimmed up to here once
        the history need not keep it."""
        await self.snapshot()
        await self.commit([Note(kind, text)])
        await self.snapshot()

    async def trim(self) -> None:
        """Trim the log as far as history need not keep it."""
        snapshotter = self._writing_snapshotter()
        await snapshotter.refresh()
        await snapshotter.trim()

    async def snapshot_as_is(self) -> int:
        """As `snapshot`, of what this handle has: without a look at a log that cannot be continued."""
        self.catching_up.off = True
        try:
            return await self._writing_snapshotter().snapshot()
        finally:
            self.catching_up.off = False

    @contextmanager
    def ending(self) -> Iterator[None]:
        """While it is saved because the program ends, which is no reason for a backup each time."""
        snapshotter = self._writing_snapshotter()
        snapshotter.ending = True
        try:
            yield
        finally:
            snapshotter.ending = False

    async def backup(self) -> str:
        """Write a snapshot, and keep it as a backup as well; the backup's key."""
        return await self._beside_others(self._writing_snapshotter().backup)

    async def _beside_others(self, save: Callable[[], Awaitable[T]]) -> T:
        """Save, again where another handle saved a later state meanwhile."""
        for _ in range(_SAVES - 1):
            await self.catch_up()
            with suppress(ConflictError):
                return await save()
        await self.catch_up()
        return await save()

    def _writing_snapshotter(self) -> Snapshotter:
        if self._snapshotter is None or self.closed or self._disowned:
            raise self._cannot_write()
        self.check_loop()
        return self._snapshotter

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[Cut]:
        """The whole state as of one seq, whether or not the documents are in memory."""
        if self.elsewhere is None:
            yield self.replica.cut()
            return
        async with self.elsewhere.cut(self.log, self.catch_up) as cut:
            yield cut

    @property
    def record(self) -> Floor:
        """The log's own record, as this handle knows it."""
        return self.vitals.record

    def continues(self, incarnation: str, seq: int) -> bool:
        """Whether the state of that seq, in that incarnation, is of this history."""
        return incarnation == self.incarnation or self.record.continues(incarnation, seq)

    @property
    def replica_of(self) -> str:
        """Where the primary is, if this is a replica; else empty."""
        return self.record.replica_of

    @property
    def views(self) -> ViewWriter | None:
        """What writes the files; `None` for a handle that writes nothing."""
        return self._views

    def log_turn(self, id: str) -> asyncio.Lock:
        """What is held while a piece of a session log is put behind those that came first."""
        return self._log_turns.setdefault(id, asyncio.Lock())

    async def log_offset(self, id: str) -> int:
        """Where the next piece of a session log goes at the least: behind a file that the log does not know."""
        if self._knows_log(id) or not self.backend.capabilities.editable:
            return 0
        await self.catch_up()  # the file may be one that others have written, or removed, meanwhile
        if not self._knows_log(id):
            key = log_key(id)
            with suppress(NotFoundError):
                # Most often there is none, and listing takes longer.
                await self.backend.read(key, span=Span(0, 1))
                return sum([entry.size async for entry in self.backend.list_keys(key) if entry.key == key])
        return 0

    def _knows_log(self, id: str) -> bool:
        return self.replica.log_size(id) > 0 or (self._views is not None and self._views.removes(log_key(id)))

    @property
    def seq(self) -> int:
        return self.replica.head

    @property
    def floor(self) -> int:
        """The lowest seq that the log still had when this handle learnt of it last."""
        return self.record.floor

    async def look_back(self) -> int:
        """The lowest seq that the log still has: other handles may have saved and trimmed it since this one looked."""
        stored = None
        if not self._alone:
            with suppress(CorruptionError):  # whoever opens the store next mends it
                stored = await read_floor(self.backend)
        if stored is None or stored[0].incarnation != self.incarnation:
            return self.floor
        self.vitals.learn(stored[0])
        return max(self.floor, stored[0].floor)

    @property
    def failure(self) -> StateError | None:
        """Why the handle takes no further commits, if so."""
        return self.vitals.failure

    async def close(self) -> None:
        """Commit what is queued, write the views and a snapshot of what changed, and release the storage.

        Closing never fails for a view or a snapshot: the journal has everything, and the failure is told by an event.
        """
        if self.outlived:
            await self._leave()
            return
        self.check_loop()
        self.closed = True
        if self._disowned:
            return
        async with self._closing:
            if not self._released:
                try:
                    await self._finish()
                finally:
                    try:
                        await self.release()
                    finally:
                        await self.beside.aclose()
                logger.debug("closed %s", self.backend.url, extra={"seq": self.replica.head})

    async def _leave(self) -> None:
        """Give the storage back where the event loop has ended, and with it all that would write: the journal has
        everything, as after a crash."""
        self.closed = True
        if self._released:
            return
        self._released, self._committer = True, None
        for give_back in (self.backend.close, self.beside.aclose):
            try:
                await give_back()
            except Exception as error:  # noqa: BLE001 - a connection of that loop has ended with it
                logger.debug(
                    "not all of %s could be given back in another event loop: %r", self.backend.url, error
                )
        logger.warning("%s was closed without a last save: its event loop had ended", self.backend.url)

    async def _finish(self) -> None:
        if self._committer is None or self._views is None:
            return
        async with AsyncExitStack() as ending:  # what others wait for, though the rest failed
            ending.push_async_callback(self._maintenance.release)
            ending.push_async_exit(self._let_companion_finish)
            await self._write_at_last(self._committer, self._views)

    async def _write_at_last(self, committer: Committer, views: ViewWriter) -> None:
        await committer.close()
        if self.backend.capabilities.queries and committer.failure is None:
            await cast("SupportsQueries", self.backend).settle(self.replica.head)
        with suppress(StateError):  # the log has it
            await self.look_beside()
        try:
            await self._show(views)
            while views.removing:  # what ours may have brought back, if others removed it meanwhile
                await views.flush()
        except StateError as error:
            for each in dict.fromkeys((error, *views.failures)):
                self.events.emit(SaveError(each, each.key))
        snapshotter = self._snapshotter
        if self.sharing is not None and snapshotter is not None and snapshotter.changed:
            with suppress(StateError):  # where nobody can be the one who does it, the snapshot tells why
                await self._maintenance.attempt()
        if snapshotter is not None and snapshotter.changed and not self._maintenance.elsewhere:
            snapshotter.ending = True
            await try_snapshot(partial(self._snapshot_at_last, snapshotter), self.events)

    async def _let_companion_finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Who is cancelled does not wait for it."""
        if self._companion is not None and (kind is None or issubclass(kind, Exception)):
            self.stream.wake()
            await self._companion.finish()

    async def _snapshot_at_last(self, snapshotter: Snapshotter) -> None:
        """A snapshot of what the log goes on from."""
        with suppress(CorruptionError):  # a log that is damaged needs the snapshot most
            await self.catch_up()
        await snapshotter.snapshot()

    async def release(self) -> None:
        """End the tasks and give the storage back, whatever is left to be done."""
        self.closed = self._released = True
        self.stream.wake()
        # From the last to the first, and each of them though another one failed or was cut off.
        async with AsyncExitStack() as ending:
            ending.push_async_callback(self.backend.close)
            ending.push_async_callback(self.stop_writing)
            if self._autosave is not None:
                ending.push_async_callback(self._autosave.stop)
            for beat in tuple(self.beats):
                ending.callback(beat.cancel)
            ending.push_async_callback(self.stream.stop)
            if self._companion is not None:
                ending.push_async_callback(self._companion.stop)

    async def stop_writing(self) -> None:
        """End the tasks that `start` has started."""
        async with AsyncExitStack() as ending:
            if self._views is not None:
                ending.push_async_callback(self._views.close)
            if self._committer is not None:
                ending.push_async_callback(self._committer.abandon)


def is_replica(url: str, primary: str) -> ReadOnlyError:
    """Why a replica takes no changes, and what to do."""
    return ReadOnlyError(
        f"{url} is a replica of {primary}: write there; if that is lost, go on here after "
        f"statepath mirror promote {quote(url)}",
        code="replica",
    )


def _disowned(url: str) -> ClosedError:
    return ClosedError(
        f"this handle on {url} belongs to the process that this one was forked from; open the store again here"
    )
