"""From the log's commits to the state: what recovery, followers and the past have in common."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from msgspec import UNSET

from statepath.backend import Backend
from statepath.commit import (
    JOURNAL,
    Append,
    Body,
    Change,
    Commit,
    Delete,
    FileChange,
    Note,
    Put,
    RemoveLog,
    Transaction,
    WriteLog,
    decode_changes,
    microseconds,
)
from statepath.engine.ids import log_key, report_key
from statepath.engine.replica import Entry, Replica, Stage
from statepath.errors import CorruptionError, DivergedError, NotFoundError, StateError, UnsupportedError

Beside = FileChange | Note
"""A change that concerns no document."""

RECOVERY: Final = "recovery"
"""Who writes the record by which a recovery takes the place behind the log."""

PROMOTED: Final = "promoted"
"""The kind of note with which a promoted replica begins its own incarnation."""

_CHANGE_BYTES = 128
_OF_DOCUMENTS: Final = (Put, Delete, Append)


def file_key(change: FileChange) -> str:
    """Where the log or the report is kept."""
    return log_key(change.id) if isinstance(change, WriteLog | RemoveLog) else report_key(change.id)


@dataclass(frozen=True, slots=True)
class Damage:
    """Something stored was not what had been written. `aside` says that it should be kept aside."""

    key: str
    reason: str
    aside: bool = True


async def apply_commit(
    backend: Backend,
    replica: Replica,
    commit: Commit,
    beside: list[Beside] | None = None,
    lost: list[Damage] | None = None,
) -> tuple[Stage, int]:
    """Bring the replica to the end of a commit read from the log; what it changed, and how many bytes that is, roughly.

    Parameters:
        beside: takes the changes that concern no document.
        lost: takes what cannot be had any more of a transaction. Without it that is an error.

    Raises:
        DivergedError: the commit does not follow what the replica holds.
        CorruptionError: a body of the commit is missing or altered, or a change does not fit the state.
        UnsupportedError: the commit is sealed, and this handle has no keys (`encrypted`).
    """
    if commit.first != replica.head + 1 or (replica.commit and commit.prev != replica.commit):
        raise DivergedError(
            f"commit {commit.first} follows {commit.prev or 'nothing'}, and the state at hand ends at seq "
            f"{replica.head} with {replica.commit or 'nothing'}: they belong to two histories"
        )
    if commit.sealed is not UNSET:
        raise UnsupportedError(
            f"the store was encrypted while it was open here, at seq {commit.first}: open it again with the master key",
            code="encrypted",
        )
    stage = Stage(replica)
    time = microseconds(commit.time)
    size = 0
    for seq, transaction in enumerate(commit.transactions, commit.first):
        try:
            changes = await changes_of(backend, transaction) if isinstance(transaction, Body) else transaction
        except CorruptionError as error:
            if lost is None:
                raise
            lost.append(Damage(error.key or JOURNAL, f"seq {seq} is lost: {error}"))
            continue
        for change in changes:
            if type(change) is Put:  # by far the most; others' saves are applied by every writer
                document = bytes(change.document)
                size += len(document) + _CHANGE_BYTES
                if replica.holds(change.collection):
                    stage.entries[change.collection, change.id] = Entry(document, seq, time)
                continue
            if isinstance(change, _OF_DOCUMENTS) and not replica.holds(change.collection):
                size += _size(change) + _CHANGE_BYTES
                continue
            try:
                stage.apply(change, seq, time)
            except StateError as error:
                reason = f"seq {seq} cannot be replayed: {error}"
                if not lost:
                    raise CorruptionError(reason, key=error.key) from error
                lost.append(Damage(JOURNAL, reason, aside=False))
                continue
            if isinstance(change, Beside) and beside is not None:
                beside.append(change)
            size += _size(change) + _CHANGE_BYTES
    stage.install(replica, commit.last, commit.id, time)
    replica.needs = max(replica.needs, commit.min_writer)
    return stage, size


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
        raise CorruptionError(
            f"{transaction.key} is missing, and a commit needs it", key=transaction.key
        ) from error
    if sha256(data).hexdigest() != transaction.sha256:
        raise CorruptionError(f"{transaction.key} does not match its digest", key=transaction.key)
    return decode_changes(data)


def is_promotion(commit: Commit) -> bool:
    """Whether the commit begins a new incarnation that continues the one before it."""
    first = commit.transactions[0]
    return not isinstance(first, Body) and any(
        isinstance(one, Note) and one.kind == PROMOTED for one in first
    )


def _size(change: Change) -> int:
    if isinstance(change, Put):
        return len(bytes(change.document))
    return len(bytes(change.value)) if isinstance(change, Append) else 0
