"""What is found of a store that is opened without loading it: the head of its log, and what no document says.

Nothing is recovered this way: where something is damaged, the store has to be opened with its documents once.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from statepath.backend import Backend, CommitLog, Span
from statepath.commit import Commit, microseconds
from statepath.engine.checking import check_snapshot
from statepath.engine.floor import Floor, SnapshotMark, read_floor
from statepath.engine.recovery import Recovered, check_finished, measure_logs
from statepath.engine.replay import apply_commit
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.unloaded import Elsewhere, Unloaded, documents_of
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    NotFoundError,
    UnsupportedError,
)

_END: Final = 256
"""Where in a snapshot its digest stands, from the end."""


async def survey(backend: Backend, log: CommitLog) -> tuple[Recovered, Elsewhere]:
    """What the store holds beside the documents, and where these are.

    Raises:
        UnsupportedError: the storage has no documents to read (`no_documents`), or something has to be recovered
            first (`needs_recovery`).
    """
    storage = documents_of(backend)
    replica = Unloaded()
    try:
        found = await _survey(backend, log, replica)
    except (CorruptionError, DivergedError, HistoryTrimmedError) as error:
        raise _needs_recovery(backend, str(error)) from error
    await storage.serve(replica.head)
    elsewhere = Elsewhere(storage, replica)
    async with aclosing(elsewhere.scan(MEMBERS)) as parts:
        async for _, members in parts:
            for name, entry in members:
                replica.set(MEMBERS, name, entry)
    return found, elsewhere


async def _survey(backend: Backend, log: CommitLog, replica: Unloaded) -> Recovered:
    found = Recovered(replica, floor=await read_floor(backend))
    if found.floor is None:
        try:
            await _check_new(backend, log)
        except UnsupportedError:
            # Who founded the store meanwhile left a record.
            found.floor = await read_floor(backend)
            if found.floor is None:
                raise
        else:
            return found
    floor = found.floor[0]
    check_finished(backend, floor)
    found.store, found.incarnation, found.source = floor.store, floor.incarnation, "the storage's documents"
    await _see_state(backend, found, floor)
    await measure_logs(backend, replica)
    base = max(floor.snapshots[-1].seq if floor.snapshots else 0, floor.floor - 1)
    # The commit that ends at the base, if the log still has it, tells what the next one follows.
    async for commit in log.read(base - 1 if base >= floor.floor else base):
        _check_incarnation(backend, floor, commit)
        if commit.last <= base:
            replica.head, replica.commit, replica.time = commit.last, commit.id, microseconds(commit.time)
            continue
        replica.head = replica.head or base
        found.journal_bytes += (await apply_commit(backend, replica, commit, found.beside))[1]
    if replica.head < base:
        await _take_from_snapshot(backend, replica, base)
    return found


async def _check_new(backend: Backend, log: CommitLog) -> None:
    """
    Raises:
        UnsupportedError: there is something, but not what the log should say of itself.
    """
    async for entry in backend.list_keys(""):
        raise _needs_recovery(backend, f"there is {entry.key}, and no record of where the log begins")
    async for commit in log.read(0):
        raise _needs_recovery(
            backend, f"there is a commit {commit.first}, and no record of where the log begins"
        )


async def _see_state(backend: Backend, found: Recovered, floor: Floor) -> None:
    """Which snapshot `state.json` is: the last one that the log knows, or a later one of an attempt that was
    interrupted. The former is told by its end alone."""
    mark = floor.snapshots[-1] if floor.snapshots else None
    size = 0
    async for entry in backend.list_keys(STATE_KEY):
        if entry.key == STATE_KEY:
            size = entry.size
    if not size:
        if mark is not None:
            raise _needs_recovery(backend, f"{STATE_KEY} is missing")
        return
    blob = await backend.read(STATE_KEY, span=Span(max(0, size - _END)))
    found.state_etag, found.state_size = blob.etag, size
    if mark is not None and mark.digest.encode() in blob.data:
        found.state = mark
        return
    meta = await check_snapshot(backend, STATE_KEY)
    if (meta.store, meta.incarnation) != (floor.store, floor.incarnation) or (mark and meta.seq < mark.seq):
        raise _needs_recovery(backend, f"{STATE_KEY} is another snapshot than the log says")
    found.state = SnapshotMark(meta.seq, meta.digest, meta.time)


def _check_incarnation(backend: Backend, floor: Floor, commit: Commit) -> None:
    if (commit.store, commit.incarnation) != (floor.store, floor.incarnation):
        raise _needs_recovery(backend, f"commit {commit.first} belongs to another history of the store")


async def _take_from_snapshot(backend: Backend, replica: Unloaded, base: int) -> None:
    """The log has nothing that ends at the base: the snapshot itself tells what the next commit follows."""
    try:
        meta = await check_snapshot(backend, STATE_KEY)
    except NotFoundError as error:
        raise _needs_recovery(backend, str(error)) from error
    if meta.seq != base:
        raise _needs_recovery(backend, f"{STATE_KEY} shows seq {meta.seq}, and the log begins behind {base}")
    replica.head, replica.commit, replica.time = meta.seq, meta.commit, meta.time


def _needs_recovery(backend: Backend, reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"{backend.url} has to be recovered, which load=False cannot do: {reason}; open it once without load=False "
        "(STATE_LOAD=true), where there is memory for its documents",
        code="needs_recovery",
    )
