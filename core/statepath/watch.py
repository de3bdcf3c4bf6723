"""The change feed: every change, once, in the order of the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from pydantic import JsonValue

from statepath.arguments import wrong_kind
from statepath.commit import Append, Change, Commit, Delete, Put, WriteLog, WriteReport
from statepath.engine.documents import decode
from statepath.engine.engine import Engine
from statepath.engine.ids import check_seq
from statepath.engine.replica import MEMBERS
from statepath.errors import DivergedError, InvalidArgumentError

Kind = Literal["put", "delete", "append", "log", "report"]
_SEPARATOR: Final = ":"


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of one document, log or report.

    Attributes:
        seq: the transaction that made it; all changes of one transaction follow each other.
        kind: `put` (value: the document), `delete` (value: `None`), `append` (value: the element, field: its list),
            `log` (value: the text), `report` (value: the report).
        collection, id: of the document; `logs` or `reports` and the id of one of these.
        key: both, as people write it: `tasks/task_1`.
        time: of the commit. `writer`: the handle that made it.
        cursor: pass it to `watch(since=…)` to go on behind this change's transaction.
        offset: of a `log`, where in the session's log the text stands, in bytes; else `None`.
    """

    seq: int
    kind: Kind
    collection: str
    id: str
    field: str | None
    value: JsonValue
    time: datetime
    writer: str
    cursor: str
    offset: int | None = None

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.id}"


def changes_in(commit: Commit, seq: int, transaction: Sequence[Change]) -> list[StateChange]:
    """The changes of one transaction, as they are told to callers."""
    cursor = f"{commit.incarnation}{_SEPARATOR}{seq}"
    told: list[StateChange] = []
    for change in transaction:
        kind: Kind
        collection, field, value, offset = "", None, None, None
        if isinstance(change, Put):
            kind, collection, value = "put", change.collection, decode(bytes(change.document))
        elif isinstance(change, Delete):
            kind, collection = "delete", change.collection
        elif isinstance(change, Append):
            kind, collection, field, value = (
                "append",
                change.collection,
                change.field,
                decode(bytes(change.value)),
            )
        elif isinstance(change, WriteLog):
            kind, collection, value, offset = "log", "logs", change.text, change.offset
        elif isinstance(change, WriteReport):
            kind, collection, value = "report", "reports", decode(bytes(change.document))
        else:
            continue
        if collection == MEMBERS:
            continue
        told.append(
            StateChange(
                seq, kind, collection, change.id, field, value, commit.time, commit.writer, cursor, offset
            )
        )
    return told


def position(engine: Engine, since: int | str | None) -> int:
    """The seq behind which to go on: of a cursor, a seq, or the present (`None`).

    Raises:
        DivergedError: the cursor is of another history of the store, or lies in this one's future.
        InvalidArgumentError: it is no cursor.
    """
    if since is None:
        return engine.replica.head
    if isinstance(since, str):
        incarnation, separator, number = since.rpartition(_SEPARATOR)
        if not separator or not number.isdecimal():
            raise InvalidArgumentError(f"{since!r} is no cursor of a change")
        if not engine.continues(incarnation, int(number)):
            raise DivergedError(
                "the cursor belongs to another incarnation of the store, which was recovered, imported or promoted "
                "since: read the state anew and watch from there"
            )
        since = int(number)
    if type(since) is not int:
        raise wrong_kind("since", "the cursor of a change, a seq or None", since)
    check_seq(since)
    if since > engine.replica.head:
        raise DivergedError(f"the cursor is at seq {since}, and the log ends at {engine.replica.head}")
    return since


async def watch(engine: Engine, after: int, only: frozenset[str]) -> AsyncGenerator[StateChange]:
    """Every change behind `after`; of the named collections only, if any are named."""
    async with aclosing(engine.follow(after)) as commits:
        async for commit, transactions in commits:
            for seq, transaction in enumerate(transactions, commit.first):
                if seq <= after:
                    continue
                for change in changes_in(commit, seq, transaction):
                    if not only or change.collection in only:
                        yield change
