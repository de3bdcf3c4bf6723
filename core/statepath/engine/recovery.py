"""What a store's files add up to when it is opened: the recovery ladder.

`state.json` and the journal after it; else the newest good backup and the journal after that; else the journal from
its beginning; else the views, and what the journal still has on top; else an empty store. Recovery only reads: it
says what was found, and the engine writes down what follows from it.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final

from statepath.backend import Backend, CommitLog, ETag
from statepath.commit import (
    FORMAT,
    JOURNAL,
    Append,
    Body,
    Commit,
    Delete,
    Note,
    Put,
    Transaction,
    WriteLog,
    WriteReport,
    decode_changes,
)
from statepath.engine.documents import compact, decode
from statepath.engine.floor import Floor, read_floor
from statepath.engine.ids import decode_id, encode_id, is_collection, is_id
from statepath.engine.replica import Entry, Replica, Stage
from statepath.engine.snapshot import STATE_KEY, SnapshotMeta, is_ours, load_snapshot, newer_format
from statepath.engine.views import View, parse_view
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
)

logger = logging.getLogger("statepath.recovery")

BACKUP: Final = re.compile(r"state\.backup\.(\d{8}T\d{6}\.\d{6}Z)\.json")
"""Our backups. The original server's have milliseconds since 1970 in that place."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Something stored was not what had been written. `aside` says that it should be kept aside."""

    key: str
    reason: str
    aside: bool = True


@dataclass(slots=True)
class Recovered:
    """The state that was found, where it was found, and what was wrong on the way.

    Attributes:
        source: which step of the ladder gave the state, in words.
        floor: the log's own record, with the version it was read from; `None` where there was none.
        state_etag: the version of `state.json` that was read; `None` where there was none.
        restore: a state that an operator put in the place of `state.json`, to be committed.
        broken: the log cannot be continued; it must begin anew behind `replica.head`.
        files: changes to logs and reports that may not have reached their files.
        foreign: a `state.json` that statepath did not write.
    """

    replica: Replica
    store: str = ""
    incarnation: str = ""
    source: str = "nothing"
    floor: tuple[Floor, ETag] | None = None
    state_etag: ETag | None = None
    state_digest: str = ""
    journal_bytes: int = 0
    restore: tuple[SnapshotMeta, Replica] | None = None
    broken: bool = False
    files: list[WriteLog | WriteReport] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    foreign: bytes | None = None

    @property
    def exists(self) -> bool:
        return bool(self.store)


async def recover(backend: Backend, log: CommitLog, *, limit: int) -> Recovered:
    """Read what the store holds. `limit` bounds a document's size, in bytes.

    Raises:
        UnsupportedError: a newer program wrote the store (`newer_format`).
        AccessDeniedError, UnavailableError: the storage could not be read.
    """
    found = Recovered(Replica())
    try:
        found.floor = await read_floor(backend)
    except CorruptionError as error:
        found.damage.append(Damage(error.key or "", str(error)))
    if found.floor is not None:
        found.store, found.incarnation = found.floor[0].store, found.floor[0].incarnation
    with _no_collections():
        await _climb_down(backend, log, found, limit)
        if found.broken and not found.recovered:
            await _from_newer_views(backend, found, limit)
    return found


async def _climb_down(backend: Backend, log: CommitLog, found: Recovered, limit: int) -> None:
    marks = found.floor[0].snapshots if found.floor else ()
    current = await _current_snapshot(backend, found)
    if current is not None and marks and current[0].seq < marks[-1].seq:
        found.restore, current = current, None
    if current is not None and await _continue(log, backend, found, current, STATE_KEY):
        return
    async for key, data in _backups(backend):
        try:
            backup = load_snapshot(data, key)
        except CorruptionError as error:
            found.damage.append(Damage(key, str(error)))
            continue
        if _belongs(found, backup[0], key) and await _continue(log, backend, found, backup, key):
            return
    if await _continue(log, backend, found, None, "the journal"):
        return
    if found.restore is not None:
        meta, found.replica = found.restore
        found.restore, found.broken, found.source = None, True, STATE_KEY
        found.replica.head = max(meta.seq, marks[-1].seq)
        return
    await _from_views(backend, log, found, limit)


async def _current_snapshot(backend: Backend, found: Recovered) -> tuple[SnapshotMeta, Replica] | None:
    try:
        blob = await backend.read(STATE_KEY)
    except NotFoundError:
        if found.floor is not None and found.floor[0].snapshots:
            found.damage.append(Damage(STATE_KEY, f"{STATE_KEY} is missing", aside=False))
        return None
    found.state_etag = blob.etag
    if not is_ours(blob.data):
        found.foreign = blob.data
        return None
    try:
        snapshot = load_snapshot(blob.data, STATE_KEY)
    except CorruptionError as error:
        found.damage.append(Damage(STATE_KEY, str(error)))
        return None
    found.state_digest = snapshot[0].digest
    return snapshot if _belongs(found, snapshot[0], STATE_KEY) else None


def _belongs(found: Recovered, meta: SnapshotMeta, key: str) -> bool:
    if not found.store:
        found.store, found.incarnation = meta.store, meta.incarnation
    if meta.store == found.store:
        return True
    found.damage.append(Damage(key, f"{key} belongs to another store, {meta.store}"))
    return False


async def _continue(
    log: CommitLog,
    backend: Backend,
    found: Recovered,
    base: tuple[SnapshotMeta, Replica] | None,
    key: str,
) -> bool:
    """Replay the journal on the base; whether that gave a state. Without a base, from the very beginning."""
    replica = Replica() if base is None else base[1]
    if found.floor is not None and found.floor[0].floor > replica.head + 1:
        if base is not None:
            found.damage.append(Damage(JOURNAL, f"the journal does not reach back to {key}", aside=False))
        return False
    files: list[WriteLog | WriteReport] = []
    size = 0
    try:
        async for commit in log.read(replica.head):
            if not found.store:
                found.store, found.incarnation = commit.store, commit.incarnation
            size += await apply_commit(backend, replica, commit, files)
    except HistoryTrimmedError as error:
        if base is not None:
            found.damage.append(Damage(JOURNAL, f"the journal does not reach back to {key}: {error}", aside=False))
        return False
    except DivergedError as error:
        found.damage.append(Damage(key, str(error)))
        return False
    except CorruptionError as error:
        if base is None and replica.head == 0:
            return False
        found.damage.append(Damage(error.key or JOURNAL, str(error), aside=False))
        found.broken = True
    if base is None and replica.head == 0:
        return False
    found.replica, found.files, found.journal_bytes = replica, files, size
    found.source = key if base is None or not size else f"{key} and the journal"
    return True


async def apply_commit(
    backend: Backend, replica: Replica, commit: Commit, files: list[WriteLog | WriteReport] | None = None
) -> int:
    """Bring the replica to the end of a commit read from the log; the bytes of its changes, roughly.

    Raises:
        DivergedError: the commit does not follow what the replica holds.
        CorruptionError: a body of the commit is missing or altered.
        UnsupportedError: a newer program wrote it (`newer_format`).
    """
    if commit.min_reader > FORMAT:
        raise newer_format(f"commit {commit.first}", commit.min_reader)
    if commit.first != replica.head + 1 or (replica.commit and commit.prev != replica.commit):
        raise DivergedError(
            f"commit {commit.first} follows {commit.prev or 'nothing'}, and the state at hand ends at seq "
            f"{replica.head} with {replica.commit or 'nothing'}: they belong to two histories"
        )
    stage = Stage(replica)
    time = microseconds(commit.time)
    size = 0
    for seq, transaction in enumerate(commit.transactions, commit.first):
        for change in await changes_of(backend, transaction):
            try:
                stage.apply(change, seq, time)
            except StateError as error:
                raise CorruptionError(f"commit {commit.first} cannot be replayed: {error}") from error
            if isinstance(change, Put):
                size += len(bytes(change.document))
            elif isinstance(change, Append):
                size += len(bytes(change.value))
            elif isinstance(change, WriteLog | WriteReport) and files is not None:
                files.append(change)
            size += 128
    stage.install(replica, commit.last, commit.id, time)
    return size


async def changes_of(backend: Backend, transaction: Transaction | Body) -> Transaction:
    """The changes of a transaction, from the commit itself or from its body.

    Raises:
        CorruptionError: the body is missing or altered.
    """
    if not isinstance(transaction, Body):
        return transaction
    try:
        data = (await backend.read(transaction.key)).data
    except NotFoundError as error:
        raise CorruptionError(f"{transaction.key} is missing, and a commit needs it", key=transaction.key) from error
    if sha256(data).hexdigest() != transaction.sha256:
        raise CorruptionError(f"{transaction.key} does not match its digest", key=transaction.key)
    return decode_changes(data)


def microseconds(time: datetime) -> int:
    """A commit's time as whole microseconds since 1970."""
    return int(time.timestamp()) * 1_000_000 + time.microsecond


async def backup_keys(backend: Backend) -> list[str]:
    """The keys of our backups, oldest first."""
    return [
        entry.key async for entry in backend.list_keys("state.backup.") if BACKUP.fullmatch(entry.key) is not None
    ]


async def _backups(backend: Backend) -> AsyncIterator[tuple[str, bytes]]:
    for key in reversed(await backup_keys(backend)):
        try:
            data = (await backend.read(key)).data
        except NotFoundError:
            continue
        yield key, data


async def read_views(backend: Backend, limit: int) -> AsyncIterator[tuple[str, str, View | InvalidArgumentError]]:
    """Every file that lies where a document's view would: its collection, its key, and what it says."""
    async for entry in backend.list_keys(""):
        collection, _, name = entry.key.partition("/")
        if not name.endswith(".json") or "/" in name or not is_collection(collection):
            continue
        try:
            data = (await backend.read(entry.key)).data
        except NotFoundError:
            continue
        try:
            yield collection, entry.key, parse_view(data, entry.key, limit)
        except InvalidArgumentError as error:
            yield collection, entry.key, error


def view_id(key: str, document: dict[str, Any]) -> str | None:
    """The id of the document that a file holds: the member that gave the file its name, else the name itself."""
    name = key.rpartition("/")[2].removesuffix(".json")
    for value in (document.get("id"), *document.values()):
        if isinstance(value, str) and is_id(value) and encode_id(value) == name:
            return value
    return decode_id(name)


async def _from_views(backend: Backend, log: CommitLog, found: Recovered, limit: int) -> None:
    """The last step: the documents' own files, and on top of them whatever the journal still has."""
    views: list[tuple[str, str, View]] = []
    damage: list[Damage] = []
    async for collection, key, view in read_views(backend, limit):
        if isinstance(view, InvalidArgumentError):
            damage.append(Damage(key, str(view)))
        else:
            views.append((collection, key, view))
    marks = found.floor[0].snapshots if found.floor else ()
    if not marks and not any(view.store for _, _, view in views):
        return  # nothing here was written by statepath
    found.damage += damage
    replica = Replica()
    for collection, key, view in views:
        _take_view(found, replica, collection, key, view)
    head = max((marks[-1].seq if marks else 0, *(view.seq for _, _, view in views)))
    try:
        async for commit in log.read(found.floor[0].floor - 1 if found.floor else 0):
            found.store = found.store or commit.store
            await _overlay(backend, replica, commit)
            head = max(head, commit.last)
    except StateError as error:
        found.damage.append(Damage(error.key or JOURNAL, str(error), aside=False))
    replica.head = head
    found.replica, found.broken = replica, True
    found.source = "the documents' own files"


async def _from_newer_views(backend: Backend, found: Recovered, limit: int) -> None:
    """What a damaged journal lost may stand in the views: take those that show a later version."""
    async for collection, key, view in read_views(backend, limit):
        if isinstance(view, View) and view.store == found.store and view.seq > found.replica.head:
            _take_view(found, found.replica, collection, key, view)
    found.replica.head = max(found.replica.head, *(entry.version for _, _, entry in found.replica), 0)


def _take_view(found: Recovered, replica: Replica, collection: str, key: str, view: View) -> None:
    document = bytes(view.document)
    id = view_id(key, decode(document))
    if id is None:
        found.damage.append(Damage(key, f"{key} does not say which document it is"))
        return
    found.store = found.store or view.store
    replica.set(collection, id, Entry(compact(document), view.seq, 0))
    found.recovered.append(f"{collection}/{id}")


async def _overlay(backend: Backend, replica: Replica, commit: Commit) -> None:
    """Apply those changes of a commit that are newer than the documents they meet."""
    time = microseconds(commit.time)
    for seq, transaction in enumerate(commit.transactions, commit.first):
        stage = Stage(replica)
        for change in await changes_of(backend, transaction):
            if isinstance(change, Note | WriteReport):
                continue
            if isinstance(change, Put | Delete | Append) and (
                stage.version(change.collection, change.id) >= seq
                or (isinstance(change, Append) and stage.get(change.collection, change.id) is None)
            ):
                continue
            stage.apply(change, seq, time)
        stage.install(replica, commit.last, commit.id, time)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Loading makes many objects that all live on: looking for garbage among them takes most of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
