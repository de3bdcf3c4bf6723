"""Opening a store: what recovery found becomes an engine, and what follows from it is committed and written down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import cast
from uuid import uuid4

from msgspec import Raw

from statepath.aside import aside_key
from statepath.backend import (
    IF_ABSENT,
    Backend,
    CommitLog,
    ETag,
    IfMatch,
    Shown,
    Span,
    SupportsCommitLog,
    SupportsCopy,
    SupportsQueries,
    SupportsSharing,
)
from statepath.commit import FLOOR_KEY, Note, Put, Transaction, WriteLog
from statepath.encryption import Encrypted, check_founded_plain, storage_of, unlock, unsealed
from statepath.engine.adoption import Examined
from statepath.engine.archiving import archive_by_rules
from statepath.engine.backups import PRE_MIGRATION_KEY
from statepath.engine.bounding import bound_files
from statepath.engine.engine import Engine, is_replica
from statepath.engine.floor import Floor, write_floor
from statepath.engine.founding import Founded, Founding, Origin, Tell, silent
from statepath.engine.ids import document_key, log_key, long_logs
from statepath.engine.members import make_way
from statepath.engine.migrating import migrate
from statepath.engine.original import Original, read_original
from statepath.engine.recovering import Outrun, begin_anew, cover, restore_replaced, take_next_place
from statepath.engine.recovery import Recovered, recover, saved_since
from statepath.engine.replay import Damage
from statepath.engine.replica import MEMBERS, Cut, Replica, Stage
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.snapshotter import KEEP_SECONDS, Written
from statepath.engine.surveying import survey
from statepath.engine.viewwriter import ViewWriter
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnsupportedError,
)
from statepath.events import (
    CorruptionDetected,
    DocumentRecovered,
    EditAdopted,
    EditConflict,
    Events,
    StateLoaded,
    StoreUpgraded,
)
from statepath.log import PortableCommitLog
from statepath.metering import metered
from statepath.migrations import Migrations
from statepath.retry import RetryingBackend, retrying
from statepath.settings import Settings
from statepath.telemetry import SILENT, Telemetry

logger = logging.getLogger("statepath.opening")


async def open_engine(
    backend: Backend,
    settings: Settings,
    events: Events,
    *,
    readonly: bool = False,
    anew: bool = False,
    alone: bool = False,
    migrations: Migrations | None = None,
    telemetry: Telemetry = SILENT,
) -> Engine:
    """Recover the state and start the engine's tasks. The backend is the engine's from now on.

    Parameters:
        anew: the log is not continued: what it holds is kept aside, and it begins again behind the state.
        alone: keep other writers out, where the storage can do that.
        migrations: those that the program knows; what is due of them is done. `None`: it cares for no schema.
        telemetry: who is told of the engine's work, and of the calls of the backend.

    Raises:
        NotFoundError: read-only, and there is no store.
        UnsupportedError: a newer program wrote the store (`newer_format`).
        ReadOnlyError: it is a replica, and was to be opened for writing (`replica`).
        StoreLockedError: it was to be opened alone, and others write.
    """
    began = time.monotonic()
    backend = await attach(metered(backend, telemetry), settings, readonly=readonly)
    engine = Engine(
        backend,
        commit_log(backend, settings),
        settings,
        events,
        readonly=readonly,
        migrations=migrations,
        telemetry=telemetry,
    )
    try:
        if alone:
            check_alone(backend, "what is damaged is repaired while nobody writes")
        elif engine.sharing is not None and not engine.sharing.joined:
            await engine.sharing.announce()
        with telemetry.operation("load"):
            closed = False
            while True:
                try:
                    source = await _open(engine, anew=anew, closed=closed)
                    break
                except Outrun as outrun:
                    closed = closed or outrun.closed
                    await engine.stop_writing()
                    continue
        if not alone:
            await engine.share()
    except BaseException:
        await engine.release()
        raise
    for damage in engine.damage:
        logger.warning("damage found in %s: %s", backend.url, damage.reason, extra={"key": damage.key})
    replica, took = engine.replica, time.monotonic() - began
    head, documents = replica.head, len(replica) - len(replica.members)
    logger.debug(
        "opened %s at seq %d in %.3f s, from %s",
        backend.url,
        head,
        took,
        source,
        extra={"seq": head, "documents": documents},
    )
    events.emit(StateLoaded(head, documents, source, took))
    return engine


async def attach(backend: Backend, settings: Settings, *, readonly: bool = False) -> Backend:
    """The backend as the engine uses it: with its calls repeated, and sealed where the store is encrypted. Closes it if
    that fails.

    Raises: as `unlock`.
    """
    backend = retrying(backend, deadline=settings.deadline)
    try:
        keys = await unlock(backend, settings, readonly=readonly)
    except BaseException:
        await backend.close()
        raise
    if keys is None:
        return backend
    from statepath.encryption.objects import SealedBackend

    return SealedBackend(backend, keys, packs=settings.compression is not None)


def commit_log(backend: Backend, settings: Settings) -> CommitLog:
    """The backend's own log, or the portable one on top of it; its records are sealed as the objects are."""
    log: CommitLog
    if backend.capabilities.commit_log and isinstance(backend, SupportsCommitLog):
        log = backend.commit_log()
    else:
        below = storage_of(backend)
        once = below.once if isinstance(below, RetryingBackend) else None
        log = PortableCommitLog(backend, deadline=settings.deadline, window=KEEP_SECONDS, once=once)
    return backend.seal_log(log) if isinstance(backend, Encrypted) else log


async def found(origin: Origin, backend: Backend, settings: Settings, tell: Tell = silent) -> Founded:
    """Make a store of the origin at the backend, where nothing is yet; closes the backend.

    Raises:
        AlreadyExistsError: there is something.
    """
    backend = await attach(backend, settings)
    try:
        return await Founding(origin, backend, commit_log(backend, settings), tell).run()
    finally:
        await backend.close()


def check_alone(backend: Backend, why: str) -> None:
    """
    Raises:
        StoreLockedError: the storage could keep other writers out, and there are some; says `why` there may be none.
    """
    sharing = cast("SupportsSharing", backend)
    if backend.capabilities.sharing and sharing.joined:
        raise sharing.refusal(why)


async def _open(engine: Engine, *, anew: bool, closed: bool) -> str:
    """Bring the engine to the state that is found; what it was read from. `closed`: an earlier attempt has taken the
    place behind the log."""
    settings, capabilities = engine.settings, engine.backend.capabilities
    document_views = settings.views if settings.views is not None else capabilities.editable
    if not settings.loads:
        return await _open_unloaded(engine, document_views=document_views)
    found = await recover(
        engine.backend,
        engine.log,
        limit=settings.max_document,
        editable=document_views and capabilities.editable and not engine.readonly and not engine.joined,
        anew=anew,
        joined=engine.joined,
    )
    if found.broken and not engine.readonly:
        check_alone(engine.backend, "the log is damaged, and recovered while nobody writes")
    original: Original | None = None
    unfinished = found.imported and not engine.readonly
    if not found.broken and not found.marks and (unfinished or not found.replica.head):
        original = await read_original(engine.backend, limit=settings.max_document)
    known = {damage.key for damage in found.damage}
    engine.damage = [
        *found.damage,
        *(damage for damage in (original.damage if original else ()) if damage.key not in known),
    ]
    if found.floor is not None:
        found.replica.needs = max(found.replica.needs, found.floor[0].min_writer)
    if engine.readonly:
        if original is not None and not found.exists and await saved_since(engine.backend, found):
            raise Outrun  # what was read as an original directory is a store that somebody made meanwhile
        _show(engine, found, original)
    else:
        if found.floor is not None and found.floor[0].replica_of:
            raise is_replica(engine.backend.url, found.floor[0].replica_of)
        # What an operator put in the place of the state may be there because that is not to be written to.
        then = found.replica if found.restore is None else found.restore[1]
        then.needs = max(then.needs, found.replica.needs)
        engine.check_writable(then)
        await _TakeOver(engine, found, original, closed=closed).run(document_views=document_views)
        await _bring_up(engine)
    return original.source if original and original.source else found.source


async def _open_unloaded(engine: Engine, *, document_views: bool) -> str:
    """Bring the engine to the head of the log, and leave the documents where they are."""
    if document_views:
        raise UnsupportedError(
            "load=False keeps no file of each document: leave out views=True (STATE_VIEWS=auto)",
            code="no_documents",
        )
    if engine.settings.archive and not engine.readonly:
        raise UnsupportedError(
            "load=False archives nothing by itself: leave out archive= (STATE_ARCHIVE), or load the documents",
            code="no_documents",
        )
    if engine.settings.mirror is not None and not engine.readonly:
        raise UnsupportedError(
            "load=False ships nothing to a mirror by itself: leave out mirror= (STATE_MIRROR), and run statepath "
            "mirror SRC DST beside it, where there is memory for the documents",
            code="no_documents",
        )
    found, engine.elsewhere = await survey(engine.backend, engine.log)
    if engine.readonly:
        _show(engine, found, None)
        return found.source
    if found.floor is not None:
        found.replica.needs = max(found.replica.needs, found.floor[0].min_writer)
    engine.check_writable(found.replica)
    await _TakeOver(engine, found, None).run(document_views=False)
    await _bring_up(engine)
    return found.source


async def _bring_up(engine: Engine) -> None:
    """Bring the documents to the versions that the program knows."""
    if engine.migrations is not None:
        engine.migrated = await migrate(engine, engine.migrations, allowed=engine.settings.migrate)
    engine.brought_up()


def _show(engine: Engine, found: Recovered, original: Original | None) -> None:
    """Read-only: show what was found, and say what is wrong with it."""
    if not found.store and (original is None or not original.documents) and not found.replica.head:
        raise NotFoundError(
            f"there is no store at {engine.backend.url}; open it once without readonly to create it",
            key=engine.backend.url,
        )
    if original is not None:
        stage = Stage(found.replica)
        for place, transaction in enumerate(original.transactions):
            for change in transaction:
                stage.apply(change, place, 0)
        stage.install(found.replica, 0, "", 0)
    engine.upgraded = not (original and original.transactions) and not (found.imported and not found.marks)
    engine.whole = not found.broken
    engine.show(
        found.replica,
        found.store,
        found.incarnation,
        found.floor[0] if found.floor else None,
        journal_bytes=found.journal_bytes,
        state_size=found.state_size,
    )
    if engine.unwritten is not None:
        engine.unwritten.note(found.beside, found.replica.head)
        engine.unwritten.shown = found.had_reached or found.begins - 1
    for damage in engine.damage:
        engine.events.emit(CorruptionDetected(damage.key, damage.reason, None))


@dataclass(frozen=True, slots=True)
class _Shown:
    """The documents of a cut, as often as they are asked for."""

    cut: Cut

    def __iter__(self) -> Iterator[Shown]:
        for collection, entries in self.cut.collections.items():
            for id, entry in entries:
                yield Shown(collection, id, entry.version, entry.modified, entry.json())


async def put_aside(backend: Backend, key: str, why: str) -> str:
    """Move an object aside, as `<key>.<why>.<UTC time>`; its new key (empty: it was gone, or replaced meanwhile, or no
    file can have the name)."""
    kept = aside_key(key, why)
    # What is sealed is kept as it is: it may be what cannot be opened.
    stored = storage_of(backend)
    try:
        if stored.capabilities.copy and isinstance(stored, SupportsCopy):
            blob = await stored.read(key, span=Span(0, 0))
            await stored.copy(key, kept, when=IfMatch(blob.etag))
        else:
            blob = await stored.read(key)
            await stored.write(kept, blob.data)
    except (NotFoundError, ConflictError):
        return ""
    except InvalidArgumentError as error:
        logger.warning("%s could not be kept aside, and stays: %s", key, error, extra={"key": key})
        return ""
    try:
        await stored.delete(key, when=IfMatch(blob.etag))
    except ConflictError:
        await stored.delete(kept)
        return ""
    return kept


def _next(place: int, transaction: Transaction, now: Replica) -> Transaction:
    """What makes the first seqs of a store: nothing where it has that one. Who comes second finds what the first one
    has made of them since."""
    return transaction if now.head == place else ()


@dataclass(slots=True)
class _TakeOver:
    """Makes a writer of the engine. Each step may be the last one before a crash: the next opener does it again."""

    engine: Engine
    found: Recovered
    original: Original | None
    closed: bool = False
    told: set[Damage] = field(default_factory=set)

    async def run(self, *, document_views: bool) -> None:
        engine, found = self.engine, self.found
        engine.show(found.replica, found.store or uuid4().hex, found.incarnation or uuid4().hex, None)
        if found.broken:
            # Whatever was lost behind the head, its seqs are not given away again, and those who have seen it find out.
            engine.incarnation = uuid4().hex
            found.replica.head = max(found.replica.head, found.had_reached)
            if isinstance(log := unsealed(engine.log), PortableCommitLog):
                await self._keep_what_bars_the_log()
                await take_next_place(engine, found, log, closed=self.closed)
        await self._keep_what_is_damaged()
        floor, etag = await self._floor()
        written = Written(
            floor,
            etag,
            found.state,
            found.state_etag,
            self._saved(floor),
            found.journal_bytes,
            found.state_size,
        )
        engine.catching_up.met = found.beside
        views = engine.start(written, self._put_aside, document_views=document_views)
        await self._settle(views)
        engine.catching_up.met = None
        if engine.elsewhere is None:
            await self._show()
        engine.start_autosave(partial(archive_by_rules, engine, gathering=True), partial(bound_files, engine))

    async def _show(self) -> None:
        """Tell the storage what queries should find, where it answers any."""
        backend = self.engine.backend
        if backend.capabilities.queries and isinstance(backend, SupportsQueries):
            cut = self.engine.replica.cut()
            await backend.show(cut.seq, _Shown(cut))

    async def _keep_what_bars_the_log(self) -> None:
        """A damaged record of the log's own: without one the log takes commits, and with that it takes none."""
        for damage in self.engine.damage:
            if damage.key == FLOOR_KEY and damage.aside:
                if await saved_since(self.engine.backend, self.found):
                    raise Outrun  # it is another one's by now, and whole
                await self._keep_aside(damage)

    async def _keep_what_is_damaged(self) -> None:
        found, original = self.found, self.original
        for damage in self.engine.damage:
            if damage not in self.told:
                await self._keep_aside(damage)
        if original is not None and (original.transactions or original.state is not None):
            await self._back_up(original)
        elif found.foreign is not None:
            if kept := await self._put_aside(STATE_KEY, "conflict"):
                logger.warning(
                    "%s was replaced by one that statepath did not write; it is kept as %s. To go back to a backup of "
                    "the original server: statepath backup list, then statepath backup restore",
                    STATE_KEY,
                    kept,
                    extra={"key": STATE_KEY},
                )
                self.engine.events.emit(EditConflict(STATE_KEY, kept))
            found.state_etag = None

    async def _keep_aside(self, damage: Damage) -> None:
        kept = await self._put_aside(damage.key, "corrupt") if damage.aside else ""
        if damage.key == STATE_KEY and kept:
            self.found.state = self.found.state_etag = None
        self.told.add(damage)
        self.engine.events.emit(CorruptionDetected(damage.key, damage.reason, kept or None))

    async def _keep_conflict(self, key: str, reason: str) -> None:
        kept = await self._put_aside(key, "conflict")
        if not kept:
            return
        logger.warning("an edit could not be adopted and was kept aside: %s", reason, extra={"key": key})
        self.engine.events.emit(EditConflict(key, kept))

    async def _put_aside(self, key: str, why: str) -> str:
        return await put_aside(self.engine.backend, key, why)

    async def _back_up(self, original: Original) -> None:
        """The pre-migration backup: the `state.json` that was used, as it was. One that the original made of its own
        is kept aside."""
        backend = self.engine.backend
        data = b"{}\n" if original.state is None else original.state
        with suppress(NotFoundError):
            if (await backend.read(PRE_MIGRATION_KEY)).data != data:
                await self._put_aside(PRE_MIGRATION_KEY, "earlier")
        with suppress(AlreadyExistsError):
            await backend.write(PRE_MIGRATION_KEY, data, when=IF_ABSENT)

    async def _floor(self) -> tuple[Floor, ETag | None]:
        """The log's own record as it has to be from now on, and the version of it that is stored."""
        engine, found = self.engine, self.found
        floor, etag = found.floor or (None, None)
        if found.broken:
            # The snapshot is still to be written, and this is stored after it: until then all of it can be done again.
            head = engine.replica.head
            return Floor(store=engine.store, incarnation=engine.incarnation, floor=head + 1), etag
        if floor is None:
            floor = Floor(
                store=engine.store,
                incarnation=engine.incarnation,
                floor=found.begins,
                packed=found.packed,
                snapshots=() if found.state is None else (found.state,),
                earlier=found.earlier,
            )
            try:
                etag = await write_floor(engine.backend, floor, None)
                await check_founded_plain(engine.backend, etag)
            except AlreadyExistsError as error:
                raise Outrun from error
        return floor, etag

    def _saved(self, floor: Floor) -> int:
        """The seq that `state.json` shows; -1 where it has to be written although nothing changes."""
        found = self.found
        if found.broken or found.restore is not None or found.state is None:
            return 0 if not found.broken and not found.replica.head and not len(found.replica) else -1
        return found.state.seq if any(mark.digest == found.state.digest for mark in floor.snapshots) else -1

    async def _settle(self, views: ViewWriter) -> None:
        """Commit what follows from what was found, so that the store is whole before anyone uses it."""
        engine, found, original = self.engine, self.found, self.original
        for change in found.beside:
            if not isinstance(change, Note):
                views.mark_file(change)
        if found.broken:
            await begin_anew(engine, found)
        await cover(engine)
        for key in found.recovered:
            engine.events.emit(DocumentRecovered(key, "its own file"))
        if original is not None and original.transactions:
            await self._import(original, views)
        elif found.examined is not None:
            await self._adopt(found.examined, views)
        elif views.documents and not engine.joined:
            await engine.mark_lagging(views)
        await restore_replaced(engine, found)

    async def _import(self, original: Original, views: ViewWriter) -> None:
        """Make an original directory a store."""
        engine = self.engine
        for key, reason in original.conflicts:
            await self._keep_conflict(key, reason)
        for place, transaction in enumerate(original.transactions):
            await engine.decide(partial(_next, place, transaction))
        for collection, id, _ in engine.replica:
            views.mark(collection, id)
        await engine.flush()
        misnamed = original.misnamed if views.documents else ()  # else nothing would take their place
        for key in misnamed:
            await engine.backend.delete(key)
        # The old names go last: as long as they are there, an import that was interrupted is gone through again.
        renamed = [(old, new, id) for old, new, id in original.renamed if await self._renamed(old, new)]
        await self._know_logs([id for _, new, id in renamed if new == log_key(id)])
        for old, _, _ in renamed:
            await engine.backend.delete(old)
        await engine.snapshot()
        if original.documents:
            engine.events.emit(StoreUpgraded(original.source, original.documents, PRE_MIGRATION_KEY))

    async def _renamed(self, old: str, new: str) -> bool:
        """Whether a file is there under its new name, so that the one of the old name can go."""
        backend = self.engine.backend
        try:
            data = (await backend.read(old)).data
        except NotFoundError:
            return False  # renamed already
        with suppress(AlreadyExistsError):
            await backend.write(new, data, when=IF_ABSENT)
            return True
        if (await backend.read(new)).data == data:
            return True
        logger.warning("%s stays as it is: %s has something else", old, new, extra={"key": old})
        return False

    async def _know_logs(self, ids: list[str]) -> None:
        """Have the state tell the ids of those session logs whose files do not."""
        logs = [
            WriteLog(id, size, "")
            for id in ids
            if long_logs([id]) and (size := await self.engine.log_offset(id))
        ]
        if logs:
            await self.engine.commit([*logs, Note("imported", "session logs")])

    async def _adopt(self, examined: Examined, views: ViewWriter) -> None:
        """Take over what people did to the documents' files."""
        engine = self.engine
        for key, reason in examined.broken:
            kept = await self._put_aside(key, "corrupt")
            engine.damage.append(Damage(key, reason))
            engine.events.emit(CorruptionDetected(key, reason, kept or None))
        for key, reason in examined.conflicts:
            await self._keep_conflict(key, reason)
        for edit in examined.edits:
            put = Put(edit.collection, edit.id, Raw(edit.document), edit.base)
            way = make_way(engine.replica, edit.collection, engine.get(MEMBERS, edit.collection))
            seq = await engine.commit([*way, put, Note("adopted", edit.key)])
            if edit.key != document_key(edit.collection, edit.id):
                await engine.backend.delete(edit.key)
            logger.info("adopted the edited file %s as seq %d", edit.key, seq, extra={"key": edit.key})
            engine.events.emit(EditAdopted(edit.key, seq))
        # Only now: until it is committed, an edit stands nowhere but in the file that is to be rewritten.
        for key in examined.orphans:
            await engine.backend.delete(key)
        for collection, id in examined.stale:
            views.mark(collection, id)
