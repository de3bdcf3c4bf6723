"""A transaction on its way into the log: from when it is queued until its caller is told what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from statepath.attempts import ATTEMPTS
from statepath.commit import Transaction, size_of
from statepath.engine.replica import Replica
from statepath.engine.validating import FOLLOWS, Read
from statepath.errors import ConflictError


class Decision(msgspec.Struct, frozen=True):
    """A transaction that was made of a state, and what of that must still hold where it is committed, besides what its
    changes are based on."""

    changes: Transaction
    reads: Sequence[Read]


Decide: TypeAlias = Callable[[Replica], Transaction | Decision]
"""Makes a transaction of the state that it is to follow; a bare one depends on all of that state. It is called again
where that does not hold any more."""


Document = tuple[str, str, bytes, type | None]
"""A document to be put: its collection, its id, its bytes, and the model class that knows each of its fields."""


class Pending(msgspec.Struct, frozen=True):
    """One transaction on its way into the log. `put` is the document of one that is a single, unchecked put; `decide`
    makes the changes of one that begins a commit, `undecided` is what one was before they were made, and `overtaken`
    how often that was in vain.

    The garbage collector has to see it: through `done` it leads to an error, whose frames lead back to it.
    """

    changes: Transaction
    size: int
    done: asyncio.Future[int]
    reads: Sequence[Read]
    put: Document | None
    span: Any = None
    decide: Decide | None = None
    undecided: Pending | None = None
    overtaken: int = 0


Refused: TypeAlias = tuple[Pending, Exception | None]
"""A transaction that is not committed, and why; `None`: it changes nothing."""


def decided(pending: Pending, decision: Transaction | Decision, head: int) -> Pending:
    """The transaction with the changes that were made of the state of the seq `head`."""
    if not isinstance(decision, Decision):
        decision = Decision(decision, [(*FOLLOWS, head)])
    size = sum([size_of(one) for one in decision.changes])
    reads = (*pending.reads, *decision.reads)
    return Pending(decision.changes, size, pending.done, reads, None, pending.span, undecided=pending)


def outrun(conflict: Exception | None) -> ConflictError:
    """Why it is decided no more."""
    error = ConflictError(
        f"others commit all the time, and were first in each of {ATTEMPTS} attempts, so nothing was changed; stop what "
        "writes to the store, and try again",
        key=getattr(conflict, "key", None),
    )
    error.__cause__ = conflict
    return error


def decline(refused: list[Refused]) -> None:
    """Tell the callers."""
    for pending, error in refused:
        if pending.done.done():
            continue
        if error is None:
            pending.done.set_result(0)
        else:
            pending.done.set_exception(error)
