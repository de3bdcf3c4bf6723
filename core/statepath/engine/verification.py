"""Verification: what is stored, checked against each other. It only reads, and in pieces."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import cast

from statepath.commit import (
    FLOOR_KEY,
    JOURNAL,
    Body,
    FileChange,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
)
from statepath.encryption import Encrypted, check_keys
from statepath.engine.adoption import examine
from statepath.engine.archiving import ARCHIVE
from statepath.engine.archiving import check as check_archive
from statepath.engine.backups import PRE_MIGRATION_KEY, check_shown, kept_keys, was_reseeded
from statepath.engine.checking import Hash, check_snapshot
from statepath.engine.documents import compact, parse_untrusted
from statepath.engine.engine import Engine
from statepath.engine.files import stored_log
from statepath.engine.floor import Floor, read_floor
from statepath.engine.history import ends_early
from statepath.engine.ids import LOGS, REPORTS, document_key, log_key, log_place, report_key
from statepath.engine.lagging import find_wrong
from statepath.engine.recovery import is_unread, lost_end
from statepath.engine.replay import changes_of
from statepath.engine.snapshot import STATE_KEY, SnapshotFacts, is_ours
from statepath.engine.views import parse_view
from statepath.errors import (
    AccessDeniedError,
    ClosedError,
    ConfigurationError,
    CorruptionError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnsupportedError,
)

_ATTEMPTS = 5
_FILES = frozenset((WriteLog, WriteReport, RemoveLog, RemoveReport))
_ABSENT = b""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something stored that is not as it should be. `severity` is `damage`; `denied`, `unavailable`, or `newer` of a
    newer format, for what could not be read, so that nothing is known of it; or `notice` for what mends itself."""

    key: str
    reason: str
    severity: str = "damage"

    @property
    def unread(self) -> bool:
        return self.severity in ("denied", "unavailable", "newer")


async def verify(engine: Engine) -> list[Finding]:
    """Check the log's own record, the snapshot, the backups, the journal, the session logs, the reports and the
    documents' files, each in itself and against the others. What cannot be read is told, and the rest looked at.

    Raises:
        UnavailableError, ThrottledError: the storage does not answer at all.
        ConfigurationError, UnsupportedError: this program lacks what is needed to read all of it.
    """
    if not engine.store:
        upgrade = f"{STATE_KEY} is the original server's; the store is upgraded when it is opened for writing"
        return [Finding(STATE_KEY, upgrade, "notice")]
    return await _Verification(engine).run()


@dataclass(slots=True)
class _Text:
    """What the history has of a session log: its last bytes, from `start` to `end`."""

    start: int
    end: int
    digest: Hash


@dataclass(slots=True)
class _Verification:
    engine: Engine
    findings: list[Finding] = field(default_factory=list)
    snapshots: dict[str, SnapshotFacts] = field(default_factory=dict)
    texts: dict[str, _Text] = field(default_factory=dict)
    reports: dict[str, list[bytes]] = field(default_factory=dict)
    """Digests of what may stand in a report's file: it has what the snapshot covers, or something later. `_ABSENT`: it
    may be gone."""
    removed: set[str] = field(default_factory=set)
    """Session logs that were removed behind the snapshot: their files are of no account."""
    last: int | None = None
    """The seq up to which the history was read; `None`: it could not be read."""

    async def run(self) -> list[Finding]:
        floor = await self._floor()
        views = self.engine.settings.views
        for part, place in (
            (partial(self._snapshots, floor), STATE_KEY),
            (self._journal, JOURNAL),
            (self._session_logs, LOGS),
            (self._reports, REPORTS),
            (self._archive, ARCHIVE),
        ):
            await self._part(part, place)
        if not self.engine.replica_of:
            if self.engine.backend.capabilities.editable and views is not False:
                await self._part(self._views, "")
            elif views:
                await self._part(self._unedited_views, "")
        await self._part(self._sealed, "")
        return self.findings

    async def _part(self, look: Callable[[], Awaitable[None]], place: str) -> None:
        """One part of the store. What cannot be read is no reason to leave out the others."""
        try:
            await look()
        except StateError as error:
            if not is_unread(error):
                raise
            await self._tell(error.key or place, error)

    async def _tell(self, key: str, error: StateError) -> None:
        """An object is damaged or cannot be read. Where the storage answers to nothing any more, or this program lacks
        the keys, a library or a format, that ends it."""
        if isinstance(error, ClosedError | ConfigurationError | UnsupportedError):
            raise error
        if error.retryable:
            with suppress(CorruptionError, AccessDeniedError):
                await read_floor(self.engine.backend)
            self._found(key, str(error), "unavailable")
        elif is_unread(error):
            self._found(key, str(error), "denied")
        else:
            await check_keys(self.engine.backend)
            self._found(key, str(error))

    def _found(self, key: str, reason: str, severity: str = "damage") -> None:
        self.findings.append(Finding(key, reason, severity))

    async def _floor(self) -> Floor | None:
        try:
            stored = await read_floor(self.engine.backend)
        except StateError as error:
            await self._tell(FLOOR_KEY, error)
            return None
        if stored is None and self.engine.replica.head:
            self._found(FLOOR_KEY, f"{FLOOR_KEY} is missing")
        return stored[0] if stored else None

    async def _snapshots(self, floor: Floor | None) -> None:
        engine = self.engine
        for key in (STATE_KEY, *await kept_keys(engine.backend)):
            try:
                if key.startswith(PRE_MIGRATION_KEY) and not await self._is_snapshot(key):
                    continue
                meta = await check_snapshot(engine.backend, key)
                check_shown(key, meta.time)
            except NotFoundError:
                due = engine.vitals.saved[0] < 0  # this handle knows that it has to be written
                if key == STATE_KEY and floor is not None and floor.snapshots and not due:
                    self._found(key, f"{key} is missing")
                continue
            except StateError as error:
                if key != STATE_KEY and error.code == "newer_format":  # no more than this one
                    self._found(key, str(error), "newer")
                else:
                    await self._tell(key, error)
                continue
            if meta.store != engine.store:
                self._found(key, f"{key} belongs to another store")
            elif not was_reseeded(key) and engine.continues(meta.incarnation, meta.seq):
                self.snapshots[key] = meta
                if key == STATE_KEY and floor is not None and floor.snapshots:
                    self._tell_restore(meta.seq, floor.snapshots[-1].seq)

    def _tell_restore(self, shown: int, saved: int) -> None:
        if shown < saved:
            reason = f"{STATE_KEY} of seq {saved} was replaced by the snapshot of seq {shown}"
            self._found(STATE_KEY, f"{reason}; that is restored when the store is opened next", "notice")

    async def _is_snapshot(self, key: str) -> bool:
        """Whether it is not the `state.json` of an original server, which is kept under the same name."""
        return is_ours((await self.engine.backend.read(key)).data)

    async def _journal(self) -> None:
        """The chain of the commits, their bodies, and that the snapshots show states of this chain."""
        for attempt in range(_ATTEMPTS):
            try:
                stored = await read_floor(self.engine.backend)
                begin = self.engine.floor if stored is None else stored[0].floor
            except StateError:
                begin = self.engine.floor
            self.texts.clear()
            self.reports.clear()
            try:
                await self._chain(begin - 1)
            except HistoryTrimmedError as error:
                # A server beside us may trim it in the middle of the reading.
                if attempt < _ATTEMPTS - 1:
                    continue
                self._found(error.key or JOURNAL, str(error))
            except StateError as error:
                await self._tell(error.key or JOURNAL, error)
                if is_unread(error) and (state := self.snapshots.get(STATE_KEY)) is not None:
                    self.removed.update(state.logs)  # each of them may have been, in what was not read
            else:
                return
            # What was read of it does not say what the files have to have at its end.
            self.texts.clear()
            self.reports.clear()
            self.last = None
            return

    async def _chain(self, last: int) -> None:
        engine = self.engine
        head = engine.replica.head  # what is committed while the journal is read may stand behind its end
        self.last = last
        shown: dict[int, list[tuple[str, str]]] = {}
        for key, meta in self.snapshots.items():
            if meta.seq > last:
                shown.setdefault(meta.seq, []).append((key, meta.commit))
        strangers: list[Finding] = []
        async for commit in engine.log.read(last):
            for seq, transaction in enumerate(commit.transactions, commit.first):
                changes = transaction
                if isinstance(changes, Body):
                    changes = await changes_of(engine.backend, changes)
                for change in changes:
                    if change.__class__ in _FILES:
                        self._note(cast("FileChange", change), seq)
            last = self.last = commit.last
            for key, id in shown.get(last, ()):
                if id != commit.id:
                    strangers.append(
                        Finding(key, f"{key} shows seq {last} of another history than the journal")
                    )
        self.findings += strangers
        head = max([head, *shown])
        if last < head:
            raise ends_early(last, head)

    def _note(self, change: FileChange, seq: int) -> None:
        """Remember what the history has of logs and reports. Before a snapshot is written, their files have everything
        up to it."""
        state = self.snapshots.get(STATE_KEY)
        covered = state is not None and seq <= state.seq
        if isinstance(change, WriteReport):
            digest = sha256(compact(bytes(change.document))).digest()
            if covered:
                self.reports[change.id] = [digest]
            elif change.id in self.reports:
                self.reports[change.id].append(digest)
        elif isinstance(change, RemoveReport):
            if covered:
                self.reports.pop(change.id, None)
            elif change.id in self.reports:
                self.reports[change.id].append(_ABSENT)
        elif isinstance(change, RemoveLog):
            if not covered:
                self.removed.add(change.id)
        elif covered:
            data = change.text.encode()
            text = self.texts.get(change.id)
            if text is None or text.end != change.offset:
                text = self.texts[change.id] = _Text(change.offset, change.offset, sha256())
            text.digest.update(data)
            text.end += len(data)

    async def _session_logs(self) -> None:
        """Their length, and as much of their text as the history has."""
        state = self.snapshots.get(STATE_KEY)
        if state is None or not state.logs:
            return
        ends: dict[str, int] = {}
        async for entry in self.engine.backend.list_keys(LOGS):
            if (place := log_place(entry.key)) is not None:
                log, offset = place
                end = ends.get(log, 0)
                # Behind a gap nothing counts.
                ends[log] = max(end, offset + entry.size) if offset <= end else end
        wrong: dict[str, str] = {}
        for id, size in state.logs.items():
            key = log_key(id)
            if key not in ends:
                wrong[id] = f"{key} is missing, and {STATE_KEY} says that it has {size} bytes"
            elif ends[key] < size:
                wrong[id] = (
                    f"{key} has {ends[key]} bytes without a gap, and {STATE_KEY} says that it has {size}"
                )
            elif id in self.texts and await self._has_text(id, self.texts[id]) is False:
                wrong[id] = f"{key} does not have the text that the history has"
        if wrong.keys() - self.removed:
            # It may have been removed since the history was read.
            await self._read_on()
        for id in [id for id in wrong if id not in self.removed]:
            self._found(log_key(id), wrong[id])

    async def _has_text(self, id: str, text: _Text) -> bool | None:
        """`None`: it cannot be read, and that is told."""
        digest = sha256()
        try:
            async for piece in stored_log(self.engine.backend, log_key(id), text.start, text.end):
                digest.update(piece.data)
        except CorruptionError:
            return False
        except StateError as error:
            if not is_unread(error):
                raise
            await self._tell(error.key or log_key(id), error)
            return None
        return digest.digest() == text.digest.digest()

    async def _reports(self) -> None:
        backend = self.engine.backend
        known = {report_key(id): digests for id, digests in self.reports.items()}
        strange: dict[str, bytes] = {}
        async for entry in backend.list_keys(REPORTS):
            if not entry.key.endswith(".json"):
                continue
            try:
                data = (await backend.read(entry.key)).data
                parse_untrusted(data, key=entry.key, limit=len(data))
            except NotFoundError:
                continue
            except StateError as error:
                await self._tell(entry.key, error)
            else:
                digest = sha256(compact(data)).digest()
                if digest not in known.get(entry.key, [digest]):
                    strange[entry.key] = digest
                    continue
            known.pop(entry.key, None)
        if strange or known:
            # It may have been written or removed since the history was read.
            await self._read_on()
        for key, digests in known.items():
            if key not in strange:
                if _ABSENT not in digests:
                    self._found(key, f"{key} is missing, and the history has it")
            elif strange[key] not in digests:
                self._found(key, f"{key} is not what the history has")

    async def _read_on(self) -> None:
        if self.last is None:
            return
        async for commit in self.engine.log.read(self.last):
            for seq, transaction in enumerate(commit.transactions, commit.first):
                for change in await changes_of(self.engine.backend, transaction):
                    if isinstance(change, WriteReport | RemoveReport | RemoveLog):
                        self._note(change, seq)
            self.last = commit.last

    async def _archive(self) -> None:
        async for key, error in check_archive(self.engine):
            await self._tell(key, error)

    async def _sealed(self) -> None:
        """Whatever was not looked at so far, where a look tells that it was altered."""
        backend = self.engine.backend
        if not isinstance(backend, Encrypted):
            return
        known = {finding.key for finding in self.findings}
        async for key, error in backend.altered():
            if key not in known:
                await self._tell(key, error)

    async def _views(self) -> None:
        engine = self.engine
        examined = await examine(
            engine.backend, engine.replica, engine.store, limit=engine.settings.max_document, thorough=True
        )
        for key, reason in (*examined.broken, *examined.conflicts):
            self._found(key, reason)
        for key, error in examined.unread.items():
            await self._tell(key, error)
        for collection, id in examined.altered:
            key = document_key(collection, id)
            self._found(key, f"{key} is damaged; the document itself is not")
        if examined.newer:
            await self._newer([view.seq for _, view in examined.newer])
        for edit in examined.edits:
            self._found(edit.key, "was edited by hand; it is adopted when the store is opened next", "notice")
        for collection, id in examined.stale:
            key = document_key(collection, id)
            try:
                if await self._shows(collection, id):
                    continue
            except AccessDeniedError as error:  # no more than this one file
                self._found(key, str(error))
                continue
            if await self._is_barred(key):
                self._found(key, f"a folder is where {key} belongs; move it away")
            else:
                self._found(f"{collection}/{id}", "its file is missing or shows another version", "notice")

    async def _newer(self, seqs: list[int]) -> None:
        """Files of later versions than the state has: a server beside us may have committed them meanwhile."""
        if self.last is None:
            return  # the journal is damaged, and told
        await self._read_on()
        if later := sum(seq > self.last for seq in seqs):
            self._found(JOURNAL, lost_end(later))

    async def _unedited_views(self) -> None:
        """Those of a storage where nobody edits files."""
        engine = self.engine
        limit = engine.settings.max_document
        async for one in find_wrong(engine.backend, engine.replica, engine.store, limit=limit):
            if one.unread is not None:
                await self._tell(one.key, one.unread)
            elif one.reason:
                self._found(one.key, f"{one.reason}; the document itself is whole")
            else:
                self._found(
                    f"{one.collection}/{one.id}", "its file is missing or shows another version", "notice"
                )

    async def _shows(self, collection: str, id: str) -> bool:
        """Whether a file whose time says nothing shows the document as it is."""
        engine, key = self.engine, document_key(collection, id)
        entry = engine.replica.get(collection, id)
        try:
            view = parse_view((await engine.backend.read(key)).data, key, engine.settings.max_document)
        except (NotFoundError, InvalidArgumentError):
            return False
        return view.ours and entry is not None and (view.store, view.seq) == (engine.store, entry.version)

    async def _is_barred(self, key: str) -> bool:
        """Whether something below the key keeps a file from being there."""
        return [entry async for entry in self.engine.backend.list_keys(f"{key}/")] != []
