"""The change feed: every change, once, in the order of the log."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple

from pydantic import JsonValue

from statepath.arguments import wrong_kind
from statepath.breath import Breath
from statepath.commit import (
    Append,
    Change,
    Commit,
    Delete,
    Put,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
)
from statepath.engine.documents import decode
from statepath.engine.engine import Engine
from statepath.engine.ids import check_seq
from statepath.engine.replica import MEMBERS, Cut, Entries, Entry
from statepath.engine.unloaded import Drawn
from statepath.errors import DivergedError, HistoryTrimmedError, InvalidArgumentError

logger = logging.getLogger("statepath.watch")

Kind = Literal["put", "delete", "append", "log", "report", "resync"]
_CURSOR: Final = re.compile(r"(?P<incarnation>.*):(?P<seq>\d{1,18})(\.(?P<told>\d{1,18}))?", re.DOTALL)
"""What is told: all of the seq; or so many changes of its transaction, whether or not the watcher wanted them."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of one document, log or report.

    Attributes:
        seq: the transaction that made it; all changes of one transaction follow each other.
        kind: `put` (value: the document), `delete` (value: `None`), `append` (value: the element, field: its list),
            `log` (value: the text), `report` (value: the report); `resync`: forget what you know, the changes behind
            this one put each document that there is (value: how many).
        collection, id: of the document; `logs` or `reports` and the id of one of these.
        key: both, as people write it: `tasks/task_1`.
        time: of the commit. `writer`: the handle that made it.
        cursor: pass it to `watch(since=…)` to go on behind this change, also in the middle of its transaction.
        offset: of a `log`, where in the session's log the text stands, in bytes; else `None`.
        lag: of a change that `watch` tells, how many transactions behind it were there already.
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
    lag: int = dataclasses.field(default=0, compare=False)

    @property
    def key(self) -> str:
        return f"{self.collection}/{self.id}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which changes a watcher wants: of these collections, and of these ids; empty: of all."""

    collections: frozenset[str]
    ids: frozenset[str]

    def has(self, collection: str, id: str) -> bool:
        return (not self.collections or collection in self.collections) and (not self.ids or id in self.ids)


ALL: Final = Wanted(frozenset(), frozenset())


def changes_in(
    commit: Commit, seq: int, transaction: Sequence[Change], behind: int = 0, wanted: Wanted = ALL
) -> list[StateChange]:
    """The changes of one transaction that are wanted, as they are told to callers: those behind so many of it."""
    whole = f"{commit.incarnation}:{seq}"
    told: list[StateChange] = []
    for number, change in enumerate(transaction[behind:], behind + 1):
        kind: Kind
        field, value, offset, stored = None, None, None, None
        if isinstance(change, Put):
            kind, collection, stored = "put", change.collection, change.document
        elif isinstance(change, Delete):
            kind, collection = "delete", change.collection
        elif isinstance(change, Append):
            kind, collection, field, stored = "append", change.collection, change.field, change.value
        elif isinstance(change, WriteLog):
            kind, collection, value, offset = "log", "logs", change.text, change.offset
        elif isinstance(change, WriteReport):
            kind, collection, stored = "report", "reports", change.document
        elif isinstance(change, RemoveLog):
            kind, collection = "delete", "logs"
        elif isinstance(change, RemoveReport):
            kind, collection = "delete", "reports"
        else:
            continue
        if collection == MEMBERS or not wanted.has(collection, change.id):
            continue
        told.append(
            StateChange(
                seq,
                kind,
                collection,
                change.id,
                field,
                value if stored is None else decode(bytes(stored), f"{collection}/{change.id}"),
                commit.time,
                commit.writer,
                f"{whole}.{number}",
                offset,
            )
        )
    if told:  # the rest of the transaction concerns nobody who wants these
        told[-1] = replace(told[-1], cursor=whole)
    return told


class Place(NamedTuple):
    """Where a watcher goes on: behind the seq `after`, and behind so many changes of the transaction that follows.
    `of_ours`: it is known to be a place in this history."""

    after: int
    told: int = 0
    of_ours: bool = False

    @property
    def seq(self) -> int:
        """Of the last transaction of which something was told."""
        return self.after + 1 if self.told else self.after


def position(engine: Engine, since: int | str | None) -> Place:
    """Where to go on: behind a cursor, a seq, or what the handle shows (`None`).

    Raises:
        DivergedError: the cursor is of another history of the store.
        InvalidArgumentError: it is no cursor.
    """
    if since is None:
        return Place(engine.replica.head)
    told, of_ours = 0, isinstance(since, str)
    if isinstance(since, str):
        cursor = _CURSOR.fullmatch(since)
        if cursor is None:
            raise InvalidArgumentError(f"{since!r} is no cursor of a change")
        seq, told = int(cursor["seq"]), int(cursor["told"] or 0)
        if not engine.continues(cursor["incarnation"], seq):
            raise DivergedError(
                "the cursor belongs to another incarnation of the store, which was recovered, imported or promoted "
                "since: read the state anew and watch from there"
            )
        since = seq - 1 if told else seq
    if type(since) is not int:
        raise wrong_kind("since", "the cursor of a change, a seq or None", since)
    check_seq(since)
    return Place(since, told, of_ours)


async def watch(engine: Engine, place: Place, wanted: Wanted, *, resync: bool) -> AsyncGenerator[StateChange]:
    """Every change behind the place that is wanted. `resync`: where the log does not reach back, the state instead.
    A handle that only reads may lag behind a cursor that another one gave, and waits for what comes behind it.

    Raises:
        DivergedError: the place lies in the future of the store.
        HistoryTrimmedError: the log does not reach back to it, or not to what this handle shows.
        CorruptionError: the log is damaged, or ends before what this handle shows.
        UnsupportedError: another event loop runs than the store's (`other_loop`).
    """
    engine.check_loop()  # where it is iterated, which need not be where it was asked for
    if place.seq > engine.replica.head:
        await engine.catch_up()  # the cursor may be one that another handle gave
        if place.seq > engine.replica.head:
            _check_lag(engine, place)
    while True:
        try:
            async with aclosing(_changes(engine, place, wanted)) as changes:
                async for change in changes:
                    yield change
                    place = Place(change.seq)  # the log is trimmed between transactions only
                return
        except HistoryTrimmedError as error:
            await engine.catch_up()  # a handle that is itself behind the log has no state to begin anew with
            if not resync:
                raise HistoryTrimmedError(
                    f"{error}: watch with resync=True to begin from the present state",
                    floor=error.floor,
                    backend=error.backend,
                ) from error
        async with engine.cut() as cut, aclosing(_everything(engine, cut, place.after, wanted)) as changes:
            async for change in changes:
                yield change
        place = Place(cut.seq)


def _check_lag(engine: Engine, place: Place) -> None:
    """
    Raises:
        DivergedError: it is not a handle that lags.
    """
    text = f"the cursor is at seq {place.seq}, and the log ends at {engine.replica.head}"
    if not engine.readonly:
        raise DivergedError(text)
    if not place.of_ours:
        raise DivergedError(
            f"{text}; if {engine.backend.url} only lags, sync(at_least={place.seq}) waits for it"
        )
    logger.warning("%s lags: %s, which is waited for", engine.backend.url, text)


async def _changes(engine: Engine, place: Place, wanted: Wanted) -> AsyncGenerator[StateChange]:
    breath = Breath()
    async with aclosing(engine.stream.follow(place.after)) as commits:
        async for commit, transactions in commits:
            for seq, transaction in enumerate(transactions, commit.first):
                if breath.due(0):  # one commit may hold thousands, and one transaction, too
                    await asyncio.sleep(0)
                if seq <= place.after:
                    continue
                behind = place.told if seq == place.after + 1 else 0
                told = changes_in(commit, seq, transaction, behind, wanted)
                for change in told:
                    if breath.due(0):
                        await asyncio.sleep(0)
                    lag = max(engine.replica.head - seq, 0)
                    yield replace(change, lag=lag) if lag else change


async def _everything(engine: Engine, cut: Cut, after: int, wanted: Wanted) -> AsyncGenerator[StateChange]:
    """The state as changes. Only the last one's cursor goes on behind it: whoever stops before begins again."""
    count = await _count(cut, wanted)
    now = datetime.fromtimestamp(cut.time / 1_000_000, UTC)
    old, new = (f"{engine.incarnation}:{seq}" for seq in (after, cut.seq))
    cursor = old if count else new
    yield StateChange(cut.seq, "resync", "", "", None, count, now, "", cursor)
    place = 0
    async with aclosing(_documents(cut, wanted)) as documents:
        async for collection, id, entry in documents:
            place += 1
            modified = datetime.fromtimestamp(entry.modified / 1_000_000, UTC)
            cursor = new if place == count else old
            value = decode(entry.json(), f"{collection}/{id}")
            yield StateChange(entry.version, "put", collection, id, None, value, modified, "", cursor)


async def _count(cut: Cut, wanted: Wanted) -> int:
    if wanted.ids:
        return len([id async for _, id, _ in _documents(cut, wanted)])
    return sum(len(entries) for _, entries in _collections(cut, wanted))


async def _documents(cut: Cut, wanted: Wanted) -> AsyncGenerator[tuple[str, str, Entry]]:
    for collection, entries in _collections(cut, wanted):
        async with aclosing(_entries(entries)) as held:
            async for id, entry in held:
                if wanted.has(collection, id):
                    yield collection, id, entry


def _collections(cut: Cut, wanted: Wanted) -> list[tuple[str, Entries]]:
    return [
        (name, entries)
        for name, entries in cut.collections.items()
        if name != MEMBERS and (not wanted.collections or name in wanted.collections)
    ]


async def _entries(entries: Entries) -> AsyncGenerator[tuple[str, Entry]]:
    """The documents of a collection, wherever they are."""
    if isinstance(entries, Drawn):
        async with aclosing(entries.parts()) as parts:
            async for part in parts:
                for held in part:
                    yield held
        return
    breath = Breath()
    for id, entry in entries:
        yield id, entry
        if breath.due(entry.size):
            await asyncio.sleep(0)
