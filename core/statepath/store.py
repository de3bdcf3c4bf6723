"""A store: everything under one state path, open in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast, overload

from msgspec import Raw
from pydantic import BaseModel, JsonValue
from typing_extensions import Unpack

from statepath.arguments import check_function, path_text, wrong_kind
from statepath.attempts import until_committed
from statepath.backend import Backend, Tally
from statepath.collection import Collection, Json
from statepath.commit import RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.debug import enable_debug
from statepath.diff import Difference, differences
from statepath.discovery import check_apart, check_not_within, connect
from statepath.encryption import Encrypted, KeyInfo, Retired, Rotated
from statepath.engine.alerting import Alerts
from statepath.engine.archiving import (
    Archived,
    archive,
    archive_by_rules,
    bring_back,
    choose,
    documents,
    find,
)
from statepath.engine.backups import backup_keys
from statepath.engine.cleaning import Cleaned, clean
from statepath.engine.companion import MirrorLag
from statepath.engine.documents import decode, encode_value
from statepath.engine.engine import Engine
from statepath.engine.filekeys import new_file_key
from statepath.engine.founding import silent
from statepath.engine.health import Health, health
from statepath.engine.history import transactions
from statepath.engine.ids import check_collection, check_id, check_seq, decode_id, report_key
from statepath.engine.leases import Holder
from statepath.engine.migration import versions
from statepath.engine.mirror import Mirror
from statepath.engine.opening import found, open_engine
from statepath.engine.origin import StoreOrigin, present
from statepath.engine.portable import Exported, export
from statepath.engine.primary import OpenPrimary
from statepath.engine.replay import Damage
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import is_own_member
from statepath.engine.verification import Finding, verify
from statepath.engine.views import read_log
from statepath.errors import (
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedError,
)
from statepath.events import Events, StoreCopied
from statepath.filters import F, Filter
from statepath.lease import Lease, claim_name
from statepath.measuring import MetricsPort, measured
from statepath.merging import OnConflict
from statepath.migrations import load_migrations
from statepath.settings import Settings, SettingsArgs, duration
from statepath.transaction import Transaction
from statepath.url import StateURL
from statepath.watch import StateChange, Wanted, changes_in, position, watch
from statepath.webhook import Webhook

if TYPE_CHECKING:
    from statepath.encryption.journal import SealedCommitLog
    from statepath.encryption.objects import SealedBackend

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")
H = TypeVar("H", bound=AbstractAsyncContextManager[Any, None])

_LOG_PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds.

    Attributes:
        documents: how many, by collection; `bytes`: of their JSON, with `load=False` those that the storage takes.
        logs: how many session logs.
        seq: the head. `floor`: the lowest seq that the log still has.
    """

    documents: dict[str, int]
    bytes: dict[str, int]
    logs: int
    seq: int
    floor: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore: the seq whose state is the present one again, and the seq of the commit that made it so. In another
    place there is no such commit, and both are the seq."""

    to: int
    seq: int


@dataclass(frozen=True, slots=True)
class ArchivedDocument:
    """A document in the archive: the version that it had, when it was changed last, and the segment that it is in."""

    collection: str
    id: str
    version: int
    modified: datetime
    segment: str

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.id}"


class Store:
    """One store. Get one from `statepath.open`; every method may be called from many tasks at once.

    A change is durable when its `await` returns. Reads come from memory (with `load=False` from the storage) and show
    durable changes only.

    Any change may end in one of these, too. Nothing was changed, except where the outcome is unknown:
        ReadOnlyError, ClosedError: the handle takes no changes, or is of no use any more.
        AccessDeniedError, ThrottledError, UnavailableError: the storage did not take it (`code` `disk_full`: no space).
        OutcomeUnknownError: whether it is durable could not be found out. The handle takes no further changes.
        UnsupportedError, DivergedError: a newer program, or another history of the store, has taken over.
    """

    def __init__(self, engine: Engine, *, owns_events: bool = False) -> None:
        self._engine = engine
        self._owns_events = owns_events

    @property
    def url(self) -> str:
        """The state path, without credentials."""
        return self._engine.backend.url

    @property
    def id(self) -> str:
        """The store's own name, made with it and kept by its copies. With `incarnation` it names one history."""
        return self._engine.store

    @property
    def incarnation(self) -> str:
        """Renewed when the store's history was cut: by a recovery that lost commits, an import or a promotion."""
        return self._engine.incarnation

    @property
    def seq(self) -> int:
        """The head: the seq of the newest transaction that this handle knows to be durable."""
        return self._engine.replica.head

    @property
    def staleness(self) -> float:
        """For how many seconds, at most, changes of other writers may be missing from what this handle reads. `sync`
        and `get(…, fresh=True)` bring it up to now, and so does every change. 0 where there are no other writers."""
        return self._engine.staleness

    @property
    def readonly(self) -> bool:
        """Whether the handle was opened with `readonly=True`, and changes nothing."""
        return self._engine.readonly

    @property
    def replica_of(self) -> str | None:
        """Where the primary is, if this is a replica: then it is read-only, until `statepath.promote`."""
        return self._engine.replica_of or None

    @property
    def mirror_lag(self) -> MirrorLag | None:
        """How far the replica is behind that the setting `mirror` names; `None` without one."""
        return self._engine.mirror_lag

    @property
    def closed(self) -> bool:
        """Whether the handle is closed, or belongs to the process that this one was forked from."""
        return self._engine.closed

    @property
    def events(self) -> Events:
        """The bus on which the store tells what it does: the one that was passed to `open`, or its own."""
        return self._engine.events

    @property
    def settings(self) -> Settings:
        """How the store is kept; fixed when it was opened."""
        return self._engine.settings

    @overload
    def collection(
        self, name: str, model: type[M], *, id: str = "id", on_conflict: OnConflict = "raise"
    ) -> Collection[M]: ...

    @overload
    def collection(
        self, name: str, model: None = None, *, id: str = "id", on_conflict: OnConflict = "raise"
    ) -> Collection[Json]: ...

    def collection(
        self,
        name: str,
        model: type[Any] | None = None,
        *,
        id: str = "id",
        on_conflict: OnConflict = "raise",
    ) -> Collection[Any]:
        """A collection of documents; it exists once it holds one.

        Parameters:
            name: `[a-z][a-z0-9_]*`.
            model: the pydantic model of its documents; without one they are plain dicts.
            id: the field that holds the document's id.
            on_conflict: what becomes of a put that was checked, by its version or by what its transaction had read, and
                met another one. `"raise"`: it is refused. `"last_write_wins"`: it replaces that one. `"merge"`: the
                changes of both sides are kept, elements that both appended to a list, too, unless they changed the same
                place. A function of the document that the change was based on, the stored one and the refused one: what
                it returns.

        Raises:
            InvalidArgumentError: the name cannot be used, the model has no such field or is no pydantic model.
        """
        if model is not None and not _is_model(model):
            raise InvalidArgumentError(f"{model!r} is not a pydantic model class")
        if not isinstance(id, str):
            raise wrong_kind("id=", "the name of the field that holds the id", id)
        return Collection(self._engine, check_collection(name), model, id, on_conflict)

    def collections(self) -> tuple[str, ...]:
        """The names of the collections that hold documents.

        Raises:
            UnsupportedError: the documents are not in memory (`not_loaded`); `stats` tells of them, too.
        """
        self._engine.check_open()
        replica = self._engine.replica
        return tuple(sorted(name for name, held in replica.collections.items() if held and name != MEMBERS))

    def transaction(self) -> Transaction:
        """A transaction, for `async with`: its changes are committed together at the end, all or none.

        Raises (at the end):
            ConflictError: a document that it had read was changed meanwhile.
        """
        self._engine.check_open()
        return Transaction(self._engine)

    async def transact(self, fn: Callable[[Transaction], Awaitable[R]]) -> R:
        """Call `fn` with a transaction and commit it; after a conflict, again with a new one. What `fn` returned.

        Raises:
            ConflictError: there was a conflict in each of 32 attempts.
        """
        check_function(fn, "what transact calls")

        async def attempt() -> R:
            async with self.transaction() as tx:
                waiting = fn(tx)
                if not isawaitable(waiting):
                    raise wrong_kind("what transact calls", "an async function", fn)
                return await waiting

        return await until_committed(attempt)

    async def get_member(self, name: str) -> JsonValue | None:
        """A member of `state.json` that is no collection, such as `metrics`; `None` if there is none."""
        entry = self._engine.get(MEMBERS, check_id(name))
        return None if entry is None else decode(entry.json())

    async def members(self) -> dict[str, JsonValue]:
        """All members of `state.json` that are no collections."""
        self._engine.check_open()
        held = self._engine.replica.members
        return {name: decode(entry.json()) for name, entry in held.items() if not is_own_member(name)}

    @property
    def schema_versions(self) -> dict[str, int]:
        """The schema version of each collection whose documents are not of version 1."""
        return versions(self._engine.replica)

    async def append_log(self, id: str, text: str) -> int:
        """Add text to the end of a session's log, as it is; the seq, when it is durable.

        Raises:
            InvalidArgumentError: what it got is no id, or no text that UTF-8 can hold.
        """
        check_id(id)
        if not isinstance(text, str):
            raise wrong_kind(f"the text for the log of {id}", "a str", text, "decode or format it first")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"the text for the log of {id} has a lone surrogate", key=f"logs/{id}"
            ) from None
        if not text:
            return self.seq
        offset = await self._engine.log_offset(id)
        pieces = range(0, len(text), _LOG_PIECE)
        return await self._engine.commit([WriteLog(id, offset, text[at : at + _LOG_PIECE]) for at in pieces])

    async def read_log(self, id: str) -> str:
        """A session's log.

        Raises:
            NotFoundError: there is none of that id.
        """
        check_id(id)
        await self._flush_files()
        try:
            return (await read_log(self._engine.backend, id)).decode(errors="replace")
        except NotFoundError:
            raise NotFoundError(f"there is no log of session {id}", key=f"logs/{id}") from None

    async def logs(self) -> list[str]:
        """The sessions that have a log, sorted."""
        await self._flush_files()
        found: set[str] = set()
        async for entry in self._engine.backend.list_keys("logs/session_"):
            name = entry.key.removeprefix("logs/session_").partition("/")[0]
            if name.endswith(".log") and (id := decode_id(name.removesuffix(".log"))) is not None:
                found.add(id)
        return sorted(found | set(self._engine.replica.logs))

    async def delete_log(self, id: str) -> bool:
        """Remove a session's log; whether there was one. What is appended later begins a new one. A restore does not
        bring it back: its text is in the history only, as far as that reaches back.

        Raises:
            InvalidArgumentError: it is no id.
            StateError: the file could not be removed. It is tried again; the log is removed all the same.
        """
        engine, known = self._engine, self._engine.replica.log_size(check_id(id))
        if not known and id not in await self.logs():
            return False
        seq = await engine.commit([RemoveLog(id, None if known else 0)])
        await self._flush_files()
        return bool(seq)

    async def save_report(self, id: str, data: object) -> str:
        """Store a report, a JSON value or a pydantic model, in the place of an earlier one, and write its file; where
        that is: `<url>/reports/<id>.json`, the id percent-encoded.

        Raises:
            InvalidArgumentError: it is no id, or the data is not JSON, too deep or too large.
            StateError: the file could not be written. It is tried again; the report is in the log all the same.
        """
        key = report_key(check_id(id))
        document = encode_value(data, key=f"reports/{id}")
        await self._engine.commit([WriteReport(id, Raw(document))])
        await self._flush_files()
        return f"{self.url}/{key}"

    async def read_report(self, id: str) -> JsonValue:
        """A report.

        Raises:
            NotFoundError: there is none of that id.
        """
        await self._flush_files()
        try:
            return decode((await self._engine.backend.read(report_key(check_id(id)))).data)
        except NotFoundError:
            raise NotFoundError(f"there is no report {id}", key=f"reports/{id}") from None

    async def reports(self) -> list[str]:
        """The ids of the reports, sorted; those whose names do not tell their ids are left out."""
        await self._flush_files()
        found = [
            decode_id(entry.key.removeprefix("reports/").removesuffix(".json"))
            async for entry in self._engine.backend.list_keys("reports/")
            if entry.key.endswith(".json")
        ]
        return sorted(id for id in found if id is not None)

    async def delete_report(self, id: str) -> bool:
        """Remove a report; whether there was one. A restore does not bring it back.

        Raises:
            InvalidArgumentError: it is no id.
            StateError: the file could not be removed. It is tried again; the report is removed all the same.
        """
        key = report_key(check_id(id))
        await self._flush_files()
        if key not in [entry.key async for entry in self._engine.backend.list_keys(key)]:
            return False
        await self._engine.commit([RemoveReport(id)])
        await self._flush_files()
        return True

    def watch(
        self,
        *,
        since: int | str | None = None,
        collections: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        resync: bool = False,
    ) -> AsyncGenerator[StateChange]:
        """Every change of every writer, once, in order, as it becomes durable, until the iterator or the store is
        closed. Whoever reads slowly misses nothing; each change says how far it `lag`s.

        Parameters:
            since: a change's cursor or a seq: begin behind it. `None`: from now on.
            collections: tell changes of these only. `ids`: of the documents, logs and reports of these ids only.
            resync: where the log does not reach back to `since`, tell a change of the kind `resync`, then each
                document as it is, and go on from there.

        Raises:
            HistoryTrimmedError: the log does not reach back to `since`.
            DivergedError: `since` belongs to another history of the store.
        """
        self._engine.check_open()
        for what, names in (("collections", collections), ("ids", ids)):
            given: object = names
            if isinstance(given, str) or not isinstance(given, Iterable):
                raise wrong_kind(what, "a tuple of names", given)
        wanted = Wanted(frozenset(collections), frozenset(ids))
        return watch(self._engine, position(self._engine, since), wanted, resync=resync)

    def lease(self, name: str, *, ttl: float = 15.0, wait: float | None = None) -> Lease:
        """A lease, for `async with`: one holder at a time, over all processes that write to the store. What is
        changed in the block is refused with `LeaseLostError` once somebody else has the lease.

        Parameters:
            name: a text of at most 180 bytes.
            ttl: after so many seconds without a sign of life of its holder, the lease is free. A holder that sleeps
                longer has lost it.
            wait: for how many seconds to wait for it; `None`: as long as it takes.

        Raises (when it is entered):
            LeaseHeldError: somebody else had it for all that time; names the holder.
        """
        self._engine.check_open()
        return Lease(self._engine, name, ttl, wait)

    def claim(self, task_id: str, *, ttl: float = 15.0, wait: float | None = 0.0) -> Lease:
        """A claim to a task, for `async with`: of several workers one has it, until it is done or its worker gives no
        sign of life for `ttl` seconds. It is a lease of the name `claim/<task id>`.

        Raises (when it is entered):
            LeaseHeldError: another worker has it.
        """
        self._engine.check_open()
        return Lease(self._engine, claim_name(task_id), ttl, wait)

    async def leases(self) -> list[Holder]:
        """Who holds which lease. One whose holder has died is there until somebody takes it."""
        self._engine.check_open()
        return await self._engine.leases.holders()

    async def break_lease(self, name: str) -> Holder:
        """Take a lease away from its holder, whose changes are refused from then on; who it was.

        Raises:
            NotFoundError: nobody holds it.
        """
        return await self._engine.break_lease(check_id(name))

    async def history(
        self, key: str | None = None, *, since: int = 0, limit: int | None = None
    ) -> list[StateChange]:
        """What happened to one document (`tasks/task_1`), or to all, as far as the log reaches back; oldest first.

        Parameters:
            since: only behind this seq. `limit`: only so many of the newest.

        Raises:
            InvalidArgumentError: a negative limit, what is no seq, or no document's name.
        """
        if key is not None and not isinstance(key, str):
            raise wrong_kind("the document", "a str such as 'tasks/task_1'", key)
        check_seq(since)
        if limit is not None and (type(limit) is not int or limit < 0):
            raise InvalidArgumentError(f"limit is how many changes to tell, 0 or more, not {limit!r}")
        engine = self._engine
        engine.check_open()
        found: list[StateChange] = []
        async for commit, seq, transaction in transactions(
            engine.backend, engine.log, max(since, engine.floor - 1)
        ):
            found += [
                change for change in changes_in(commit, seq, transaction) if key is None or change.key == key
            ]
            if limit is not None and len(found) > 2 * limit:
                del found[: len(found) - limit]
        return found if limit is None else found[len(found) - min(limit, len(found)) :]

    async def diff(self, a: int | datetime, b: int | datetime | None = None) -> list[Difference]:
        """The documents that differ between two seqs or moments, by collection and id; without `b`, between then and
        now.

        Raises:
            HistoryTrimmedError: one of them is too long ago.
            InvalidArgumentError: a seq that is not there yet, or a datetime without a time zone.
        """
        before = await self._engine.past(a)
        return differences(before, self._engine.replica if b is None else await self._engine.past(b))

    async def restore(self, *, at: int | datetime, to: str | os.PathLike[str] | None = None) -> Restored:
        """Make the documents those of an earlier seq, or of a moment by the commits' times. That is a commit, too: it
        can be undone by a restore to the seq before it. Logs and reports stay as they are.

        Parameters:
            to: leave this store as it is, and make a new one of the earlier state at this state path, where nothing is
                yet. It gets the logs and reports of now. An attempt that was interrupted can be repeated.

        Raises:
            HistoryTrimmedError: it is too long ago.
            InvalidArgumentError: a seq that is not there yet, a datetime without a time zone, or a place within the
                store.
            UnsupportedError: a migration lies between then and now (`other_schema`).
            AlreadyExistsError: there is something at `to`.
        """
        if to is None:
            return Restored(*await self._engine.restore(at))
        engine = self._engine
        check_not_within(StateURL.parse(engine.backend.url), StateURL.parse(path_text(to, "to=")))
        then, now = await engine.past(at), await engine.present()
        then.logs = now.logs
        backend = await connect(to)
        founded = await found(StoreOrigin(engine, then, now), backend, engine.settings)
        self.events.emit(StoreCopied(backend.url, founded.seq, founded.documents))
        return Restored(founded.seq, founded.seq)

    async def snapshot(self) -> int:
        """Bring `state.json` up to now; the seq that it shows. The one before it becomes a backup. Where nothing has
        changed since, nothing is written.

        Raises:
            StateError: it could not be written, or was not what had been written when it was read back. The journal
                has everything.
        """
        return await self._engine.snapshot()

    async def backup(self) -> str:
        """Bring `state.json` up to now and keep a backup of it; the backup's key. A state that is kept already is not
        kept twice.

        Raises:
            NotFoundError: the store is empty.
            StateError: as `snapshot`.
        """
        return await self._engine.backup()

    async def backups(self) -> list[str]:
        """The keys of the backups, oldest first: `state.backup.<UTC time>.json`, after the last commit that they show.
        Those that the original server made are not among them."""
        self._engine.check_open()
        return await backup_keys(self._engine.backend)

    async def export(
        self,
        path: str | os.PathLike[str],
        *,
        history: bool = False,
        progress: Callable[[str], None] = silent,
    ) -> Exported:
        """Write the state of now, the session logs and the reports into one file, which `import_backup` takes to any
        backend. It is read back before it gets its name. That of an encrypted store is encrypted.

        Parameters:
            history: the commits and the backups, too.
            progress: is told in words what is being done.

        Raises:
            AlreadyExistsError: there is such a file.
            CorruptionError: what it was read from, or the file itself, is not what had been written.
        """
        engine, file = self._engine, path_text(path, "the file to export to")
        origin, key = await present(engine, history=history), await new_file_key(engine.settings)
        return await export(origin, engine.incarnation, file, progress, key=key)

    async def archive(
        self,
        collection: str,
        where: Filter | None = None,
        *,
        older_than: timedelta | str,
        dry_run: bool = False,
        **equals: Any,
    ) -> Archived:
        """Move documents that are done from the live state into the archive: compressed segments, which cost nothing
        when the store is opened. A restore to before brings them back, and so does `unarchive`. A document that changes
        meanwhile stays live. A run that was interrupted can be repeated.

        Parameters:
            where, equals: which documents, as for `find`.
            older_than: only those that were not changed for so long: a `timedelta`, or a text such as "30d" or "12h".
            dry_run: only tell what would be archived; its segments are not named.

        Raises:
            InvalidArgumentError: it is no collection, filter or duration.
        """
        engine = self._engine
        engine.check_open()
        if where is not None and not isinstance(where, Filter):
            raise wrong_kind("where", "a filter made with F", where)
        wanted = where
        for field, value in equals.items():
            one = F(field) == value
            wanted = one if wanted is None else wanted & one
        before = round((datetime.now(UTC) - duration(older_than)).timestamp() * 1_000_000)
        matches = (lambda document: True) if wanted is None else wanted.matches
        chosen = await choose(engine.replica, check_collection(collection), before, matches)
        if dry_run:
            return Archived(len(chosen), sum(entry.size for _, entry in chosen), (), 0)
        return await archive(engine, collection, chosen)

    async def archive_by_rules(self, *, dry_run: bool = False) -> Archived:
        """Archive what the setting `archive` says, as a running server does each hour. `dry_run` only tells what would
        be archived."""
        self._engine.check_open()
        done = await archive_by_rules(self._engine, dry_run=dry_run)
        return Archived(
            sum(one.documents for one in done),
            sum(one.bytes for one in done),
            tuple(name for one in done for name in one.segments),
            sum(one.compressed for one in done),
        )

    async def clean(self, *, older_than: timedelta | str = "30d", dry_run: bool = False) -> Cleaned:
        """Remove what was kept aside before that (`*.corrupt.*`, `*.conflict.*`, the states of before a rollback),
        what an archive run has written and not finished, and the session logs that the settings `log_age` and
        `log_bytes` do not allow, whatever `older_than`. What any way back needs stays.

        Parameters:
            older_than: a `timedelta`, or a text such as "30d" or "12h".
            dry_run: only tell what would be removed.
        """
        self._engine.check_open()
        return await clean(self._engine, duration(older_than), dry_run=dry_run)

    async def archived(self, collection: str | None = None) -> AsyncGenerator[ArchivedDocument]:
        """What is in the archive, of one collection or of all, the latest first."""
        self._engine.check_open()
        if collection is not None:
            check_collection(collection)
        async for segment, place in documents(self._engine, collection):
            modified = datetime.fromtimestamp(place.modified / 1_000_000, UTC)
            yield ArchivedDocument(segment.collection, place.id, place.version, modified, segment.key)

    async def read_archived(self, collection: str, id: str) -> JsonValue:
        """A document of the archive, as it was when it was archived last.

        Raises:
            NotFoundError: the archive has none of that name.
        """
        self._engine.check_open()
        return decode((await find(self._engine, check_collection(collection), check_id(id)))[1])

    async def unarchive(self, collection: str, id: str) -> int:
        """Make a document of the archive live again; the seq. The archive keeps it, too.

        Raises:
            NotFoundError: the archive has none of that name.
            AlreadyExistsError: there is a live one.
        """
        self._engine.check_open()
        return await bring_back(self._engine, check_collection(collection), check_id(id))

    async def flush(self) -> None:
        """Wait until everything saved so far is durable and the files that people read show it.

        Raises:
            StateError: a file could not be written. It is tried again; what was saved is durable all the same.
        """
        await self._engine.flush()

    async def sync(self, *, at_least: int | None = None) -> int:
        """Bring reads up to the head of the log; the seq that they show then.

        Parameters:
            at_least: a seq that reads have to show, such as one that another process got for its save. One that no
                commit has reached is waited for until one does, however long: `asyncio.timeout` bounds that.

        Raises:
            ClosedError: the handle was closed meanwhile.
            InvalidArgumentError: it is no seq.
        """
        return await self._engine.sync(at_least)

    async def verify(self) -> list[Finding]:
        """Check snapshot, journal, backups and views against each other, after a `flush`. An empty list: all is well.
        What is found is told, and not mended: `statepath repair` does that."""
        await self.flush()
        found = await verify(self._engine)
        self._engine.verified = not any(finding.severity == "damage" for finding in found)
        return found

    @property
    def encrypted(self) -> bool:
        """Whether what is stored is sealed."""
        return isinstance(self._engine.backend, Encrypted)

    async def data_keys(self) -> list[KeyInfo]:
        """The keys that what is stored is sealed with, the oldest first; the last one is the primary.

        Raises:
            UnsupportedError: the store is not encrypted (`not_encrypted`).
        """
        from statepath.encryption.rotation import describe

        backend, log = self._sealed()
        await backend.keys.refresh()
        return await describe(
            backend.inner, log.inner, backend.keys.ring, self._engine.settings.history, self._engine.floor
        )

    async def rotate_key(
        self, *, master: str | os.PathLike[str] | None = None, progress: Callable[[str], None] = silent
    ) -> Rotated:
        """Seal with a new key from now on, and then, behind the saves, what is stored. An interrupted rotation is
        finished by the same call. Records that are in the journal keep their key until it is trimmed; two snapshots
        behind them see to it that this is as soon as the history need not keep them (`STATE_HISTORY`).

        Parameters:
            master: a file for a new master key, which is made where it is missing; the store is opened with it from
                now on.
            progress: is told in words how far it is.

        Raises:
            UnsupportedError: the store is not encrypted (`not_encrypted`).
            ConfigurationError: the file cannot be used (`bad_key`).
        """
        from statepath.encryption.rotation import rotate

        backend, log = self._sealed()
        file = None if master is None else os.fspath(master)
        engine = self._engine
        return await rotate(
            backend, log.inner, engine.floor, progress, partial(engine.cover, "rotated"), file
        )

    async def retire_keys(self, *ids: str, progress: Callable[[str], None] = silent) -> Retired:
        """Forget these keys, or all but the primary, as far as nothing needs them any more: what they sealed, wherever
        a copy of it is, can be opened by nobody then. The journal is trimmed before, as far as it may be.

        Raises:
            NotFoundError: there is no such key. InvalidArgumentError: it is the primary.
            UnsupportedError: the store is not encrypted (`not_encrypted`).
        """
        from statepath.encryption.rotation import retire

        backend, log = self._sealed()
        engine = self._engine
        await engine.trim()
        return await retire(backend, log.inner, engine.floor, ids, progress, engine.settings.history)

    def _sealed(self) -> tuple[SealedBackend, SealedCommitLog]:
        engine = self._engine
        engine.check_open()
        if not self.encrypted:
            raise UnsupportedError(
                f"the store at {self.url} is not encrypted; to encrypt it: statepath keys encrypt",
                code="not_encrypted",
            )
        return cast("SealedBackend", engine.backend), cast("SealedCommitLog", engine.log)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """What was found damaged when the store was opened, each with its key and the reason."""
        return tuple(self._engine.damage)

    async def health(self) -> Health:
        """How the store does: a list of checks, each with a threshold from the settings. Nothing is written, and the
        storage is asked within `health_timeout`."""
        return await health(self._engine)

    async def stats(self) -> Stats:
        """What the store holds."""
        self._engine.check_open()
        replica = self._engine.replica
        if self._engine.elsewhere is not None:
            held = await self._engine.elsewhere.tally()
        else:
            held = {
                name: Tally(len(documents), sum(entry.size for entry in documents.values()))
                for name, documents in replica.collections.items()
                if documents and name != MEMBERS
            }
        return Stats(
            documents={name: tally.documents for name, tally in held.items()},
            bytes={name: tally.bytes for name, tally in held.items()},
            logs=len(replica.logs),
            seq=replica.head,
            floor=self._engine.floor,
        )

    async def aclose(self) -> None:
        """Commit what is queued, bring files and snapshot up to date, and release the storage. May be called twice.

        Streams of `events` end, unless the bus was passed to `open`: then it is the caller's.
        """
        await self._engine.close()
        if self._owns_events:
            await self.events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _flush_files(self) -> None:
        await self._engine.flush_files()


class Opening(Generic[H]):
    """What `open` returns: `async with` it, or `await` it for the same and close that yourself."""

    def __init__(self, opened: Callable[[], Awaitable[H]]) -> None:
        self._opened = opened
        self._handle: H | None = None

    def __await__(self) -> Generator[Any, None, H]:
        return self._opened().__await__()

    async def __aenter__(self) -> H:
        self._handle = await self._opened()
        return self._handle

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            await self._handle.__aexit__(kind, error, traceback)


def open(
    path: str | os.PathLike[str] | None = None,
    *,
    readonly: bool = False,
    settings: Settings | None = None,
    events: Events | None = None,
    **overrides: Unpack[SettingsArgs],
) -> Opening[Store]:
    """Open a store: `async with statepath.open() as store: …`.

    Parameters:
        path: a folder or a URL. Default: `STATE_PATH`, else `./coding-agent-state`.
        readonly: take no lock and write nothing; works beside a running server. A replica is always opened so.
        load (one of the overrides): with `load=False` the documents stay in the database, each is read when it is asked
             for, and what looks at all of them at once raises `UnsupportedError` (`not_loaded`).
        settings: instead of those from the environment and the configuration files; not together with overrides.
        events: the bus to tell events on, to hear those of opening, too.
        overrides: settings by name, such as `autosave=5`.

    With `DEBUG=persistence:*` in the environment, what happens is logged to stderr.

    Raises (when it is entered or awaited):
        ConfigurationError: a setting cannot be used, or no backend is found (`UnknownSchemeError`,
            `BackendNotInstalledError`, `DuplicateSchemeError`).
        StoreLockedError: another process writes to the store; names it.
        NotFoundError: read-only, and there is no store.
        UnsupportedError: a newer program wrote the store (`newer_format`, `newer_schema`), or a migration is due and
            `migrate` is off (`migration_pending`); or with `load=False` the backend keeps no documents that can be
            read one by one (`no_documents`), or the store has to be recovered first (`needs_recovery`).
        MigrationError: a migration failed; nothing was changed.
    """

    async def opened() -> Store:
        enable_debug()
        if settings is not None and overrides:
            raise InvalidArgumentError(
                f"give either settings= or {', '.join(overrides)}: settings= would leave the latter without effect"
            )
        if settings is not None and not isinstance(settings, Settings):
            raise wrong_kind("settings=", "statepath.Settings", settings)
        if events is not None and not isinstance(events, Events):
            raise wrong_kind("events=", "statepath.Events", events)
        used = settings if settings is not None else Settings.load(path, **overrides)
        state_path = used.path if path is None else path
        if used.mirror is not None and not readonly:
            check_apart(state_path, used.mirror)
        migrations = load_migrations(used.migrations)
        bus = Events() if events is None else events
        async with AsyncExitStack() as beside:
            webhook = provider = None
            if used.alert_webhook is not None and not readonly:
                webhook = Webhook(used.alert_webhook, timeout=used.alert_timeout, events=bus)
                beside.push_async_callback(webhook.aclose)
            if used.metrics_port is not None and not readonly:
                port = await asyncio.to_thread(MetricsPort, used.metrics_host, used.metrics_port)
                beside.push_async_callback(port.aclose)
                provider = port.provider

            async def engine_of(*, readonly: bool) -> Engine:
                backend: Backend = await connect(state_path, readonly=readonly)
                beside.push_async_callback(backend.close)
                if webhook is not None:
                    webhook.store = backend.url
                telemetry = measured(backend, StateURL.parse(os.fspath(state_path)).scheme, provider)
                engine = await open_engine(
                    backend, used, bus, readonly=readonly, migrations=migrations, telemetry=telemetry
                )
                telemetry.watch(engine, bus)
                beside.callback(telemetry.close)
                return engine

            try:
                engine = await engine_of(readonly=readonly)
            except ReadOnlyError as error:
                if error.code != "replica":
                    raise
                engine = await engine_of(readonly=True)
            if not engine.readonly:
                beside.push_async_callback(Alerts(engine).aclose)
                if used.mirror is not None:
                    place = StateURL.parse(used.mirror).redacted()
                    mirror = Mirror(OpenPrimary(engine), place, partial(connect, used.mirror), used, bus)
                    engine.attach(mirror)
                    mirror.start()
            engine.beside.push_async_exit(beside.pop_all())
        return Store(engine, owns_events=events is None)

    return Opening(opened)


def _is_model(model: object) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel)


__all__ = ["ArchivedDocument", "Opening", "Restored", "Stats", "Store", "open"]
