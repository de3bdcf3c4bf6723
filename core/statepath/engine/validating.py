"""Whether a transaction may be committed: what it read, and what its changes were based on, must still hold (rule 4 of
the commit protocol)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pydantic import JsonValue

from statepath.commit import Append, Change, Delete, Put, RemoveLog, RemoveReport, Transaction
from statepath.engine.documents import decode, too_large
from statepath.engine.replica import MEMBERS, Stage
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import ConflictError, LeaseLostError, StateError

Read = tuple[str, str, int]
"""A document that a transaction read, and the version it saw (0: it did not exist)."""

FOLLOWS: Final = ("", "")
"""In place of a document: the transaction follows right behind the seq."""

UNTOUCHED: Final = ""
"""In place of an id: no document of the collection was put or deleted behind the seq."""


def validated(
    changes: Transaction, reads: Sequence[Read], stage: Stage, seq: int, now: int, *, limit: int
) -> Transaction:
    """The changes as they will stand in the log; all of them are staged, or none.

    Parameters:
        stage: the state that the transaction follows. It becomes that behind it.
        limit: the most bytes that a document may grow to.

    Raises:
        ConflictError: something is not what it was based on; says what stands there.
        LeaseLostError: it was made under a lease that its holder does not have any more.
        StateError: a change cannot be made.
    """
    _check_reads(reads, stage, seq)
    trial = Stage(stage)
    done: list[Change] = []
    for change in changes:
        if isinstance(change, Put | Delete | Append) and change.base is not None:
            current = trial.version(change.collection, change.id)
            if current != change.base:
                raise _conflict(trial, change.collection, change.id, change.base, change)
        if isinstance(change, Delete) and trial.get(change.collection, change.id) is None:
            continue
        if isinstance(change, RemoveLog) and not _is_due(change, trial.log_size(change.id)):
            continue
        if isinstance(change, RemoveReport) and _was_written(change, trial.report_seq(change.id)):
            continue
        placed = trial.place(change)
        trial.apply(placed, seq, now)
        if isinstance(change, Append):
            _check_size(trial, change, limit)
        done.append(placed)
    trial.join(stage)
    return tuple(done)


def decisive(changes: Transaction, reads: Sequence[Read]) -> Iterator[tuple[str, str]]:
    """The documents on which it depends what becomes of the transaction."""
    for collection, id, _ in reads:
        if id != UNTOUCHED and collection != MEMBERS:
            yield collection, id
    for change in changes:
        if isinstance(change, Put) and change.base is None:
            continue
        if isinstance(change, Put | Delete | Append) and change.collection != MEMBERS:
            yield change.collection, change.id


def _check_reads(reads: Sequence[Read], stage: Stage, seq: int) -> None:
    for collection, id, version in reads:
        if (collection, id) == FOLLOWS:
            if seq != version + 1:
                raise ConflictError(f"it was to follow seq {version}, and would be seq {seq}")
        elif id == UNTOUCHED:
            if not stage.untouched(collection, version):
                raise ConflictError(
                    f"{collection} has changed since seq {version}; read it again", key=collection
                )
        elif stage.version(collection, id) != version:
            if collection == MEMBERS and id.startswith(LEASE_MEMBERS):
                raise _lost(stage, id.removeprefix(LEASE_MEMBERS), version)
            raise _conflict(stage, collection, id, version, None)


def _check_size(stage: Stage, change: Append, limit: int) -> None:
    """Who puts a document, its size is known before; to which size it grows by appending, only here."""
    entry = stage.get(change.collection, change.id)
    if entry is not None and entry.size > limit:
        raise too_large(f"{change.collection}/{change.id}", entry.size, limit)


def _is_due(change: RemoveLog, size: int) -> bool:
    """Whether the session log is to be removed: there is one, or it is as it was looked at."""
    return size > 0 if change.base is None else size == change.base


def _was_written(change: RemoveReport, seq: int) -> bool:
    """Whether the report was written again, at the seq, since it was looked at."""
    return change.base is not None and seq > change.base


def _lost(stage: Stage, lease: str, epoch: int) -> LeaseLostError:
    entry = stage.get(MEMBERS, f"{LEASE_MEMBERS}{lease}")
    holder = "nobody" if entry is None else f"a holder of epoch {entry.version}"
    return LeaseLostError(
        f"the change was made under the lease {lease!r} of epoch {epoch}, which {holder} has now; nothing was changed",
        key=lease,
    )


def _conflict(
    stage: Stage, collection: str, id: str, base: int, change: Put | Delete | Append | None
) -> ConflictError:
    key = f"{collection}/{id}"
    entry = stage.get(collection, id)
    current = 0 if entry is None else entry.version
    state = f"is at version {current} now" if current else "does not exist now"
    return ConflictError(
        f"{key} {state}, and the change was based on "
        + (f"version {base}" if base else "its absence")
        + "; read it again and repeat the change",
        key=key,
        base=base,
        current=current,
        theirs=None if entry is None else _readable(entry.json()),
        ours=_readable(bytes(change.document)) if isinstance(change, Put) else None,
    )


def _readable(document: bytes) -> JsonValue:
    """Its value, or `None`: what cannot be read does not keep others from being told of a conflict."""
    try:
        return decode(document)
    except StateError:
        return None
