"""A store: everything under one state path, open in this process."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from pydantic import BaseModel, JsonValue

from statepath import archive, reports, sessionlogs
from statepath.archive import ArchivedDocument
from statepath.arguments import check_function, path_text, wrong_kind
from statepath.attempts import Turns, until_committed
from statepath.collection import Collection, Json
from statepath.diff import Difference, differences
from statepath.discovery import Location, connect
from statepath.encryption import Encrypted, KeyInfo, Retired, Rotated
from statepath.engine import breaking, restoring
from statepath.engine.archiving import Archived, bring_back, find
from statepath.engine.backups import backup_keys
from statepath.engine.cleaning import Cleaned, clean
from statepath.engine.companion import MirrorLag
from statepath.engine.documents import decode
from statepath.engine.engine import Engine
from statepath.engine.exporting import Exported, export
from statepath.engine.filekeys import new_file_key
from statepath.engine.founding import silent
from statepath.engine.health import Health, health
from statepath.engine.ids import check_id
from statepath.engine.leases import Holder
from statepath.engine.migration import versions
from statepath.engine.opening import found
from statepath.engine.origin import StoreOrigin, present
from statepath.engine.replay import Damage
from statepath.engine.replica import MEMBERS
from statepath.engine.restoring import past, restore
from statepath.engine.snapshot import is_own_member
from statepath.engine.verification import Finding, verify
from statepath.errors import ClosedError, InvalidArgumentError, StateError, UnsupportedError
from statepath.events import Events, StoreCopied
from statepath.filters import Filter
from statepath.history import history
from statepath.lease import Lease, claim_name
from statepath.merging import OnConflict
from statepath.naming import check_collection, check_told
from statepath.quantities import duration
from statepath.settings import Settings
from statepath.stats import Stats, stats
from statepath.transaction import Transaction
from statepath.watch import StateChange, Wanted, position, watch

if TYPE_CHECKING:
    from statepath.encryption.journal import SealedCommitLog
    from statepath.encryption.objects import SealedBackend

M = TypeVar("M", bound=BaseModel)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore: the seq whose state is the present one again, and the seq of the commit that made it so. In another
    place there is no such commit, and both are the seq."""

    to: int
    seq: int


class Store:
    """One store. Get one from `statepath.open`; every method may be called from many tasks of its event loop at once.

    A change is durable when its `await` returns. Reads come from memory (with `load=False` from the storage) and show
    durable changes only.

    Any change may end in one of these, too. Nothing was changed, except where the outcome is unknown:
        ReadOnlyError, ClosedError: the handle takes no changes, or is of no use any more.
        AccessDeniedError, ThrottledError, UnavailableError: the storage did not take it (`code` `disk_full`: no space).
        OutcomeUnknownError: whether it is durable could not be found out. The handle takes no further changes.
        UnsupportedError, DivergedError: a newer program, or another history of the store, has taken over.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        events: Events | None = None,
        owns_events: bool = False,
        location: Location | None = None,
    ) -> None:
        self._engine = engine
        self._location = location
        self._events = engine.events if events is None else events
        self._owns_events = owns_events
        self._turns = Turns()

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
        and `get(…, fresh=True)` bring it up to now, and so does every change that this handle makes; being told of
        one by `watch` does not: more may be there behind it. 0 where there are no other writers."""
        return self._engine.catching_up.staleness

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
        return self._engine.vitals.mirror_lag

    @property
    def closed(self) -> bool:
        """Whether the handle is closed, or belongs to the process that this one was forked from."""
        return self._engine.closed

    @property
    def events(self) -> Events:
        """The bus on which the store tells what it does: the one that was passed to `open`, or its own."""
        return self._events

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
        return Collection(self._engine, check_collection(name), model, id, on_conflict, self._turns)

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
        return None if entry is None else decode(entry.json(), name)

    async def members(self) -> dict[str, JsonValue]:
        """All members of `state.json` that are no collections."""
        self._engine.check_open()
        held = self._engine.replica.members
        return {name: decode(entry.json(), name) for name, entry in held.items() if not is_own_member(name)}

    @property
    def schema_versions(self) -> dict[str, int]:
        """The schema version of each collection whose documents are not of version 1."""
        return versions(self._engine.replica)

    async def append_log(self, id: str, text: str) -> int:
        """Add text to the end of a session's log, as it is; the seq, when it is durable. What several calls add at once
        comes in the order of the calls.

        Raises:
            InvalidArgumentError: what it got is no id, or no text that UTF-8 can hold.
        """
        return await sessionlogs.append(self._engine, id, text)

    async def read_log(self, id: str) -> str:
        """A session's log.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await sessionlogs.read(self._engine, id)

    async def logs(self) -> list[str]:
        """The sessions that have a log, sorted."""
        return await sessionlogs.names(self._engine)

    async def delete_log(self, id: str) -> bool:
        """Remove a session's log; whether there was one. What is appended later begins a new one. A restore does not
        bring it back: its text is in the history only, as far as that reaches back.

        Raises:
            InvalidArgumentError: it is no id.
            StateError: the file could not be removed. It is tried again; the log is removed all the same.
        """
        return await sessionlogs.delete(self._engine, id)

    async def save_report(self, id: str, data: object) -> str:
        """Store a report, a JSON value or a pydantic model, in the place of an earlier one, and write its file; where
        that is: `<url>/reports/<id>.json`, the id percent-encoded.

        Raises:
            InvalidArgumentError: it is no id, or the data is not JSON, too deep or too large.
            StateError: the file could not be written. It is tried again; the report is in the log all the same.
        """
        return f"{self.url}/{await reports.save(self._engine, id, data)}"

    async def read_report(self, id: str) -> JsonValue:
        """A report.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await reports.read(self._engine, id)

    async def reports(self) -> list[str]:
        """The ids of the reports, sorted; those whose names do not tell their ids are left out."""
        return await reports.names(self._engine)

    async def delete_report(self, id: str) -> bool:
        """Remove a report; whether there was one. A restore does not bring it back.

        Raises:
            InvalidArgumentError: it is no id.
            StateError: the file could not be removed. It is tried again; the report is removed all the same.
        """
        return await reports.delete(self._engine, id)

    def watch(
        self,
        *,
        since: int | str | None = None,
        collections: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        resync: bool = False,
    ) -> AsyncGenerator[StateChange]:
        """Every change of every writer, once, in order, as it becomes durable, until the iterator or the store is
        closed, or a wait for the next one is cancelled. Whoever reads slowly misses nothing; each change says how far
        it `lag`s.

        Parameters:
            since: a change's cursor or a seq: begin behind it. `None`: behind what this handle shows. What others
                committed since it last looked is told, too; `sync` before brings it up to now.
            collections: tell changes of these only; `logs` and `reports` tell those of session logs and of reports.
            ids: of the documents, logs and reports of these ids only.
            resync: where the log does not reach back to `since`, tell a change of the kind `resync`, then each
                document as it is, and go on from there.

        Raises:
            HistoryTrimmedError: the log does not reach back to `since`, or not to what this handle shows: then open
                the store again.
            CorruptionError: the log is damaged, or has ended for `deadline` seconds before what this handle shows.
            DivergedError: `since` belongs to another history of the store.
            InvalidArgumentError: `since` is no cursor, or nothing can have one of the names.
        """
        self._engine.check_open()
        wanted = Wanted(_checked("collections", collections, check_told), _checked("ids", ids, check_id))
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

    async def break_lease(self, name: str, *, holder: Holder | None = None) -> Holder:
        """Take a lease away from its holder, whose changes are refused from then on; who it was.

        Parameters:
            holder: only from this one, as `leases` named it.

        Raises:
            NotFoundError: nobody holds it.
            LeaseHeldError: another one than `holder` has it by now; names that one.
        """
        return await breaking.break_lease(self._engine, check_id(name), holder)

    async def history(
        self, key: str | None = None, *, since: int = 0, limit: int | None = None
    ) -> list[StateChange]:
        """What happened to one document (`tasks/task_1`), or to all, as far as the log reaches back; oldest first.

        Parameters:
            since: only behind this seq. `limit`: only so many of the newest.

        Raises:
            InvalidArgumentError: a negative limit, what is no seq, or no document's name.
        """
        return await history(self._engine, key, since=since, limit=limit)

    async def diff(self, a: int | datetime, b: int | datetime | None = None) -> list[Difference]:
        """The documents that differ between two seqs or moments, by collection and id; without `b`, between then and
        now.

        Raises:
            HistoryTrimmedError: one of them is too long ago, or before the first commit.
            InvalidArgumentError: a seq or a moment that is not there yet, or a datetime without a time zone.
        """
        engine = self._engine
        engine.check_open()
        await engine.catch_up()
        before = await past(engine, a)
        return differences(before, engine.replica if b is None else await past(engine, b))

    async def restore(self, *, at: int | datetime, to: str | os.PathLike[str] | None = None) -> Restored:
        """Make the documents those of an earlier seq, or of a moment by the commits' times. That is a commit, too: it
        can be undone by a restore to the seq before it. It follows what it takes back: whatever was committed before
        it, by whomever, is as it was then. Logs and reports stay as they are.

        Parameters:
            to: leave this store as it is, and make a new one of the earlier state at this state path, where nothing is
                yet. It gets the logs and reports of now. An attempt that was interrupted can be repeated.

        Raises:
            HistoryTrimmedError: it is too long ago, or before the first commit. The seq 0 is the empty store.
            InvalidArgumentError: a seq or a moment that is not there yet, a datetime without a time zone, or a place
                within the store.
            UnsupportedError: what was there then was migrated since (`other_schema`); with `to`, this is a directory of
                the original server, and no store yet (`not_upgraded`).
            ConflictError: other writers commit all the time, and were first in each of 32 attempts.
            AlreadyExistsError: there is something at `to`.
        """
        if to is None:
            return Restored(*await restore(self._engine, at))
        engine = self._engine
        place = Location.of(path_text(to, "to="))
        if self._location is not None:
            place.check_outside(self._location)
        then, now = await restoring.past_to_take(engine, at), await restoring.present(engine)
        then.logs = now.logs
        backend = await connect(to, deadline=engine.settings.deadline)
        founded = await found(StoreOrigin(engine, then, now), backend, engine.settings)
        engine.events.emit(StoreCopied(backend.url, founded.seq, founded.documents))
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
            UnsupportedError: it is a directory of the original server, and no store yet (`not_upgraded`).
            HistoryTrimmedError: with `history`, the log does not reach back any more to what this handle shows.
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
        return await archive.archive(
            self._engine, collection, where, equals, older_than=older_than, dry_run=dry_run
        )

    async def archive_by_rules(self, *, dry_run: bool = False) -> Archived:
        """Archive what the setting `archive` says, as a running server does each hour. `dry_run` only tells what would
        be archived."""
        return await archive.archive_by_rules(self._engine, dry_run=dry_run)

    async def clean(self, *, older_than: timedelta | str = "30d", dry_run: bool = False) -> Cleaned:
        """Remove what was kept aside before that (`*.corrupt.*`, `*.conflict.*`, the states of before a rollback),
        what an archive run has written and not finished, and the session logs and reports that the settings
        `log_age`, `log_bytes`, `report_age` and `report_bytes` do not allow, whatever `older_than`; and so is what a
        probe of the storage left more than a day ago, the leases of holders that gave no sign of life for a day
        longer than they had to, and what the state has of leases that nobody holds. What any way back needs stays.

        Parameters:
            older_than: a `timedelta`, or a text such as "30d" or "12h".
            dry_run: only tell what would be removed.
        """
        self._engine.check_open()
        return await clean(self._engine, duration(older_than), dry_run=dry_run)

    def archived(self, collection: str | None = None) -> AsyncGenerator[ArchivedDocument]:
        """What is in the archive, of one collection or of all, the latest first."""
        return archive.archived(self._engine, collection)

    async def read_archived(self, collection: str, id: str) -> JsonValue:
        """A document of the archive, as it was when it was archived last.

        Raises:
            NotFoundError: the archive has none of that name.
        """
        self._engine.check_open()
        document = (await find(self._engine, check_collection(collection), check_id(id)))[1]
        return decode(document, f"{collection}/{id}")

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
        What is found is told, and not mended: `statepath repair` does that. So is what cannot be read.

        Raises:
            UnavailableError, ThrottledError: the storage does not answer.
            ConfigurationError, UnsupportedError: this program lacks what is needed to read all of it (`wrong_key`: the
                master key was exchanged).
        """
        self._engine.check_open()
        behind: list[Finding] = []
        try:
            await self.flush()
        except StateError as error:
            # What is in a file's place is a finding; what does not answer cannot be verified.
            if error.retryable or isinstance(error, ClosedError):
                raise
            behind.append(Finding(error.key or "", f"a file is behind the log: {error}", "notice"))
        found = behind + await verify(self._engine)
        self._engine.verified = all(finding.severity == "notice" for finding in found)
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
        backend, log = self._sealed()
        from statepath.encryption.rotation import describe

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
            InvalidArgumentError: `master` is no path.
            UnsupportedError: the store is not encrypted (`not_encrypted`).
            ConfigurationError: the file cannot be used (`bad_key`).
        """
        backend, log = self._sealed()
        from statepath.encryption.rotation import rotate

        file = None if master is None else path_text(master, "the file of the master key")
        engine = self._engine
        return await rotate(
            backend,
            log.inner,
            engine.floor,
            progress,
            partial(engine.cover, "rotated"),
            file,
            rewrapped=self._opens_with,
        )

    def _opens_with(self, master: str) -> None:
        """The ring can be opened with the master key in that file only: so use it for whatever comes."""
        self._engine.settings = self._engine.settings.with_master(master)

    async def retire_keys(self, *ids: str, progress: Callable[[str], None] = silent) -> Retired:
        """Forget these keys, or all but the primary, as far as nothing needs them any more: what they sealed, wherever
        a copy of it is, can be opened by nobody then. The journal is trimmed before, as far as it may be.

        Raises:
            NotFoundError: there is no such key. InvalidArgumentError: it is the primary.
            UnsupportedError: the store is not encrypted (`not_encrypted`).
        """
        backend, log = self._sealed()
        from statepath.encryption.rotation import retire

        engine = self._engine
        await engine.trim()
        settings = engine.settings
        return await retire(
            backend, log.inner, engine.floor, ids, progress, settings.history, settings.deadline
        )

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
        return await stats(self._engine)

    async def aclose(self) -> None:
        """Commit what is queued, bring files and snapshot up to date, and release the storage. May be called twice.

        Streams of `events` end, unless the bus was passed to `open`: then it is the caller's.

        Where the event loop that it was opened in has ended, any other one may release the storage: files and snapshot
        are brought up to date by whoever opens the store next.

        Raises:
            UnsupportedError: another event loop runs than the one that the store was opened in (`other_loop`).
        """
        if not self._engine.outlived:
            self._engine.check_loop()
        try:
            await self._engine.close()
        finally:
            if self._events is not self._engine.events:
                await self._engine.events.aclose()
            if self._owns_events:
                await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _checked(what: str, given: object, check: Callable[[object], str]) -> frozenset[str]:
    """
    Raises:
        InvalidArgumentError: it is no collection of what passes the check.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise wrong_kind(what, "a tuple of names", given)
    return frozenset(map(check, given))


def _is_model(model: object) -> bool:
    return isinstance(model, type) and issubclass(model, BaseModel)
