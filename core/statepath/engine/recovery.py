"""What a store's files add up to when it is opened: the recovery ladder.

`state.json` and the journal after it; else the newest good backup and the journal after that; else the journal from
its beginning; else the views, and what the journal still has on top; else an empty store. Recovery only reads: it
says what was found, and the engine writes down what follows from it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

from statepath.backend import Backend, CommitLog, ETag
from statepath.commit import FLOOR_KEY, JOURNAL, Append, Commit, Note, microseconds, slot_key
from statepath.encryption import check_keys, unsealed
from statepath.engine.adoption import Examined, File, examine, read_views, view_id
from statepath.engine.backups import backup_keys, check_shown
from statepath.engine.documents import compact, parse_untrusted, without_halves
from statepath.engine.floor import Earlier, Floor, SnapshotMark, check_plain, read_floor
from statepath.engine.history import next_commit
from statepath.engine.ids import LOGS, document_key, log_id, log_place, long_logs
from statepath.engine.replay import RECOVERY, Beside, Damage, apply_commit, changes_of, is_promotion
from statepath.engine.replica import Entry, Replica, Stage
from statepath.engine.snapshot import STATE_KEY, SnapshotMeta, is_ours, load_snapshot
from statepath.engine.views import View
from statepath.errors import (
    AccessDeniedError,
    ConfigurationError,
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
    UnsupportedError,
)
from statepath.log import PortableCommitLog

_READINGS: Final = 10


@dataclass(slots=True)
class Recovered:
    """The state that was found, where it was found, and what was wrong on the way.

    Attributes:
        source: which step of the ladder gave the state, in words.
        floor: the log's own record, with the version it was read from; `None` where there was none.
        begins: where the log begins, if its own record is lost; `packed` is up to which seq it is packed then.
        state: the snapshot that `state.json` holds, if it is one of this store; `state_etag` is its version, and
            `None` where there is no such file.
        restore: a state that an operator put in the place of `state.json`, to be committed.
        broken: the log cannot be continued; it must begin anew behind `replica.head`.
        imported: the log holds nothing but the import of an original directory, which may not have been finished.
        reached: the incarnation of the head, and `earlier` those that promotions ended on the way there.
        beside: changes to logs and reports that may not have reached their files.
        foreign: a `state.json` that statepath did not write.
        examined: what the documents' own files say, where people may edit them.
    """

    replica: Replica
    store: str = ""
    incarnation: str = ""
    source: str = "nothing"
    floor: tuple[Floor, ETag] | None = None
    begins: int = 1
    packed: int = 0
    state: SnapshotMark | None = None
    state_etag: ETag | None = None
    state_size: int = 0
    journal_bytes: int = 0
    restore: tuple[SnapshotMeta, Replica] | None = None
    broken: bool = False
    imported: bool = False
    reached: str = ""
    earlier: tuple[Earlier, ...] = ()
    beside: list[Beside] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    recovered: list[str] = field(default_factory=list)
    foreign: bytes | None = None
    examined: Examined | None = None

    @property
    def exists(self) -> bool:
        return bool(self.store)

    @property
    def marks(self) -> tuple[SnapshotMark, ...]:
        return self.floor[0].snapshots if self.floor else ()

    @property
    def had_reached(self) -> int:
        """A seq that was durable once, by the log's own record."""
        return self.marks[-1].seq if self.marks else 0


async def recover(
    backend: Backend,
    log: CommitLog,
    *,
    limit: int,
    editable: bool,
    anew: bool = False,
    joined: bool = False,
) -> Recovered:
    """Read what the store holds. `limit` bounds a document's size, in bytes. `editable` says that people may have
    changed the documents' own files, and that no other process writes them now. `anew` gives up what the log holds.
    `joined`: other writers have the store open, and their files may be ahead of what is read here.

    Raises:
        UnsupportedError: a newer program wrote the store (`newer_format`), or it is sealed, and this handle has no
            keys, or nobody has (`encrypted`).
        StateError: the store is being made from another one (`unfinished`).
        CorruptionError: it is sealed with newer keys than its key ring has.
        AccessDeniedError, UnavailableError: the storage could not be read, or was written each time that it was read.
    """
    for _ in range(_READINGS):
        found = await _look(backend, log, limit=limit, editable=editable, anew=anew, joined=joined)
        if found is not None:
            return found
    raise UnavailableError(
        f"another process wrote to the store at {backend.url} each of the {_READINGS} times that it was read; try"
        " again, or end that process first",
        key=FLOOR_KEY,
    )


async def _look(
    backend: Backend, log: CommitLog, *, limit: int, editable: bool, anew: bool, joined: bool
) -> Recovered | None:
    """As `recover`; `None` if a part may have been read before another writer saved, and a part behind it."""
    found = Recovered(Replica())
    try:
        found.floor = await read_floor(backend)
    except CorruptionError as error:
        await check_keys(backend)
        found.damage.append(Damage(FLOOR_KEY, str(error)))
    if found.floor is not None:
        found.store, found.incarnation = found.floor[0].store, found.floor[0].incarnation
        check_finished(backend, found.floor[0])
    with _no_collections():
        base = await _climb_down(backend, log, found, limit)
        _tell_what_is_lost(found)
        if found.exists and found.floor is None:
            if not found.damage and await read_floor(backend) is not None:
                return None  # another writer founded the store since the record was looked for
            await _without_floor(log, found, base)
        if found.exists and (editable or found.damage) and not joined:
            examined = await examine(backend, found.replica, found.store, limit=limit)
            if examined.newer and not found.broken and await _goes_on(log, found.replica):
                return None
            _take_newer(found, examined)
            if editable:
                found.examined = examined
            else:
                found.damage += [Damage(key, reason) for key, reason in examined.broken]
        if found.exists and anew:
            found.broken = True
        usual = found.source.startswith(STATE_KEY) and not found.broken
        if found.exists and not usual and await saved_since(backend, found):
            return None
        if found.broken:
            await measure_logs(backend, found.replica)
            # Snapshots are told apart by their time, and the lost commits may have had the next ones.
            found.replica.time = max(found.replica.time + 1, time.time_ns() // 1000)
    found.damage = list(dict.fromkeys(found.damage))
    return found


async def saved_since(backend: Backend, found: Recovered) -> bool:
    """Whether another writer has written the log's own record since it was read."""
    try:
        now = await read_floor(backend)
    except CorruptionError:
        return False  # as it was
    return now is not None and (found.floor is None or now[1] != found.floor[1])


def check_damaged(error: StateError) -> None:
    """What does not answer, is not for this user to read, or needs a key, a library or a format that this program
    lacks, may be whole: giving it up would be for nothing.

    Raises:
        StateError: the error, which does not tell of damage.
    """
    if is_unread(error) or isinstance(error, ConfigurationError | UnsupportedError):
        raise error


def is_unread(error: StateError) -> bool:
    """Whether the error tells that something could not be read, and so nothing of what it is."""
    return error.retryable or isinstance(error, AccessDeniedError)


async def _goes_on(log: CommitLog, replica: Replica) -> bool:
    """Whether there is a commit that follows the head that was read."""
    try:
        commit = await next_commit(log, replica.head)
    except StateError:
        return False  # nor can it be read now
    return commit is not None and replica.commit in ("", commit.prev)


def check_finished(backend: Backend, floor: Floor) -> None:
    """
    Raises:
        StateError: the store is being made from another one (`unfinished`).
    """
    if floor.unfinished:
        raise StateError(
            f"the store at {backend.url} is not finished: making it from {floor.unfinished} was interrupted; "
            "run that command again to finish it, or empty the place",
            key=FLOOR_KEY,
            code="unfinished",
        )


async def _climb_down(backend: Backend, log: CommitLog, found: Recovered, limit: int) -> int:
    """Find the state; the seq of the snapshot that it is based on."""
    current = await _current_snapshot(backend, found)
    if current is not None and current[0].seq < found.had_reached:
        found.restore, current = current, None
    if current is not None:
        base = current[0].seq
        # A recovery that began the log anew was interrupted: it is not finished before the floor says so.
        meta, floor = current[0], found.floor
        found.broken = floor is not None and not floor[0].continues(meta.incarnation, meta.seq)
        if await _continue(log, backend, found, current, STATE_KEY):
            return base
    async for key, data in _backups(backend, found):
        try:
            backup = load_snapshot(data, key)
        except CorruptionError as error:
            found.damage.append(Damage(key, str(error)))
            continue
        try:
            check_shown(key, backup[0].time)
        except CorruptionError as error:
            # A sound state all the same, which may be the only one.
            found.damage.append(Damage(key, str(error), aside=False))
        base = backup[0].seq
        if _belongs(found, backup[0], key) and await _continue(log, backend, found, backup, key):
            return base
    if await _continue(log, backend, found, None, "the journal"):
        return 0
    if found.restore is not None:
        meta, then = found.restore
        # It may be the last of the backups that was put there: what came behind it is to be had again, too.
        if await _continue(log, backend, found, (meta, Replica.of(then.cut())), STATE_KEY):
            return meta.seq
        found.replica = then
        found.restore, found.broken, found.source = None, True, STATE_KEY
    else:
        await _from_views(backend, log, found, limit)
    return found.replica.head


def _tell_what_is_lost(found: Recovered) -> None:
    """The log does not lead as far as it had."""
    if found.exists and (ends := found.replica.head) < found.had_reached:
        reason = f"the journal ends at seq {ends}, and had reached seq {found.had_reached}"
        found.damage.append(Damage(JOURNAL, reason, aside=False))
        found.broken = True


async def _current_snapshot(backend: Backend, found: Recovered) -> tuple[SnapshotMeta, Replica] | None:
    try:
        blob = await backend.read(STATE_KEY)
    except NotFoundError:
        if found.marks:
            found.damage.append(Damage(STATE_KEY, f"{STATE_KEY} is missing", aside=False))
        return None
    except CorruptionError as error:
        found.damage.append(Damage(STATE_KEY, str(error)))
        return None
    await check_plain(backend, STATE_KEY, blob.data)  # a sealed one is no damaged one
    found.state_etag, found.state_size = blob.etag, len(blob.data)
    if not is_ours(blob.data):
        try:
            parse_untrusted(without_halves(blob.data), key=STATE_KEY, limit=len(blob.data))
        except InvalidArgumentError as error:
            found.damage.append(Damage(STATE_KEY, str(error)))
        else:
            found.foreign = blob.data
        return None
    try:
        meta, replica = load_snapshot(blob.data, STATE_KEY)
    except CorruptionError as error:
        found.damage.append(Damage(STATE_KEY, str(error)))
        return None
    if not _belongs(found, meta, STATE_KEY):
        return None
    found.state = SnapshotMark(meta.seq, meta.digest, meta.time, commit=meta.commit)
    return meta, replica


def _belongs(found: Recovered, meta: SnapshotMeta, key: str) -> bool:
    if not found.store:
        found.store, found.incarnation = meta.store, meta.incarnation
    if meta.store != found.store:
        found.damage.append(Damage(key, f"{key} belongs to another store, {meta.store}"))
        return False
    if found.floor is not None and found.floor[0].strange(meta.incarnation, meta.seq):
        reason = f"{key} shows seq {meta.seq} of the primary, from after this store was promoted"
        found.damage.append(Damage(key, reason))
        return False
    return True


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
    incarnation = "" if base is None else base[0].incarnation
    earlier: list[Earlier] = []
    beside: list[Beside] = []
    lost: list[Damage] = []
    size = 0
    broken = False
    try:
        async for commit in log.read(replica.head):
            incarnation = incarnation or commit.incarnation
            if broken or commit.incarnation != incarnation:
                if commit.writer == RECOVERY:
                    broken = True  # if nothing follows, it was not finished, and is done again
                    continue
                if broken or not is_promotion(commit):
                    broken = True
                    reason = f"the commits from seq {commit.first} on are of another incarnation"
                    found.damage.append(Damage(slot_key(commit.first), reason, aside=False))
                    break
                earlier.append(Earlier(incarnation, commit.first - 1))
                incarnation = commit.incarnation
            if not found.store:
                found.store, found.incarnation = commit.store, commit.incarnation
            size += (await apply_commit(backend, replica, commit, beside, lost))[1]
    except HistoryTrimmedError as error:
        if base is not None:
            found.damage.append(
                Damage(JOURNAL, f"the journal does not reach back to {key}: {error}", aside=False)
            )
        return False
    except DivergedError as error:
        found.damage.append(Damage(JOURNAL if base is None else key, str(error), aside=base is not None))
        return False
    except CorruptionError as error:
        found.damage.append(Damage(error.key or JOURNAL, str(error), aside=False))
        broken = True
    if base is None and replica.head == 0:
        found.broken = found.broken or broken
        return False
    found.damage += lost
    found.broken = found.broken or broken or bool(lost)
    found.replica, found.journal_bytes = replica, size
    found.reached, found.earlier = incarnation, tuple(earlier)
    if found.floor is None and earlier:
        found.incarnation = incarnation
    # Each of its commits has one note.
    found.imported = base is None and 0 < replica.head == sum(map(_is_import, beside))
    found.beside = beside
    found.source = key if base is None or not size else f"{key} and the journal"
    return True


def _is_import(change: Beside) -> bool:
    return isinstance(change, Note) and change.kind == "imported"


async def _without_floor(log: CommitLog, found: Recovered, base: int) -> None:
    """The log's own record is lost: find out again where the log begins, and what of it is packed."""
    if not any(damage.key == FLOOR_KEY for damage in found.damage):
        found.damage.append(Damage(FLOOR_KEY, f"{FLOOR_KEY} is missing", aside=False))
    if isinstance(portable := unsealed(log), PortableCommitLog):
        found.packed = await portable.packed()
    try:
        first = await next_commit(log, 0)
        found.begins = first.first if first is not None else base + 1
    except HistoryTrimmedError as error:
        found.begins = min(error.floor, base + 1)
    except StateError as error:
        check_damaged(error)
        # What is wrong behind the snapshot was seen before; what lies before it is history, and given up.
        found.begins = base + 1


async def _backups(backend: Backend, found: Recovered) -> AsyncIterator[tuple[str, bytes]]:
    for key in reversed(await backup_keys(backend)):
        try:
            data = (await backend.read(key)).data
        except NotFoundError:
            continue
        except CorruptionError as error:
            found.damage.append(Damage(key, str(error)))
            continue
        await check_plain(backend, key, data)
        yield key, data


async def _from_views(backend: Backend, log: CommitLog, found: Recovered, limit: int) -> None:
    """The last step: the documents' own files, and on top of them whatever the journal still has."""
    views = [file async for file in read_views(backend, limit)]
    signed = [file.view for file in views if isinstance(file.view, View) and file.view.store]
    if not found.marks and not signed and not found.broken:
        return  # nothing here was written by statepath
    found.store = found.store or (signed[0].store if signed else uuid4().hex)
    found.incarnation = found.incarnation or uuid4().hex
    replica = Replica()
    head = found.had_reached
    for file in views:
        if isinstance(file.view, View) and file.view.store == found.store:
            _take_view(found, replica, file, file.view)
            head = max(head, file.view.seq)
    try:
        async for commit in _what_is_left(log, found.floor[0].floor - 1 if found.floor else 0):
            await _overlay(backend, replica, commit, found)
            head = max(head, commit.last)
    except StateError as error:
        check_damaged(error)
        found.damage.append(Damage(error.key or JOURNAL, str(error), aside=False))
    replica.head = head
    found.replica, found.broken = replica, True
    found.source = "the documents' own files"


async def _what_is_left(log: CommitLog, after: int) -> AsyncIterator[Commit]:
    """The commits behind the seq, or from where the log begins."""
    try:
        async for commit in log.read(after):
            yield commit
    except HistoryTrimmedError as error:
        async for commit in log.read(error.floor - 1):
            yield commit


def _take_newer(found: Recovered, examined: Examined) -> None:
    """What the log has lost may stand in the documents' own files: take those that show a later version."""
    if not examined.newer:
        return
    for file, view in examined.newer:
        _take_view(found, found.replica, file, view)
    found.replica.head = max(found.replica.head, *(entry.version for _, _, entry in found.replica))
    if not found.broken:
        found.broken = True
        found.damage.append(Damage(JOURNAL, lost_end(len(examined.newer)), aside=False))


def lost_end(newer: int) -> str:
    """What is wrong with a journal behind which there are files of so many documents."""
    return f"{JOURNAL} has lost its end: the files of {newer} documents show later versions"


def _take_view(found: Recovered, replica: Replica, file: File, view: View) -> None:
    document = bytes(view.document)
    id = view_id(file.key, view.texts)
    if id is None or document_key(file.collection, id) != file.key:
        found.damage.append(Damage(file.key, f"{file.key} does not say which document it is"))
        return
    # After a power failure no file's time can be trusted, and none is told.
    modified = file.modified or time.time_ns() // 1000
    replica.set(file.collection, id, Entry(compact(document), view.seq, modified))
    found.recovered.append(f"{file.collection}/{id}")


async def _overlay(backend: Backend, replica: Replica, commit: Commit, found: Recovered) -> None:
    """Apply those changes of a commit that are newer than the documents they meet."""
    time = microseconds(commit.time)
    for seq, transaction in enumerate(commit.transactions, commit.first):
        stage = Stage(replica)
        for change in await changes_of(backend, transaction):
            if isinstance(change, Beside):
                found.beside.append(change)
            elif stage.version(change.collection, change.id) >= seq or (
                isinstance(change, Append) and stage.get(change.collection, change.id) is None
            ):
                continue
            stage.apply(change, seq, time)
        stage.install(replica, commit.last, commit.id, time)


async def measure_logs(backend: Backend, replica: Replica) -> None:
    """The session logs' own files may be ahead of what is left of the log: nothing in them is written over."""
    known = long_logs(replica.logs)
    async for entry in backend.list_keys(LOGS):
        if (place := log_place(entry.key)) is not None and (id := log_id(place[0], known)) is not None:
            offset = place[1]
            replica.logs[id] = max(replica.log_size(id), offset + entry.size)


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
