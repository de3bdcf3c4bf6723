"""The state of another time, and making it the present one again."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from statepath.arguments import wrong_kind
from statepath.commit import Append, Delete, Note, Put, Transaction
from statepath.engine.archiving import leave_out_lost
from statepath.engine.engine import Engine
from statepath.engine.history import Past, left_by, moment, transactions, way_back
from statepath.engine.ids import check_seq
from statepath.engine.migration import versions
from statepath.engine.replica import MEMBERS, Entry, Replica
from statepath.engine.snapshot import SCHEMA_MEMBER
from statepath.errors import InvalidArgumentError, StateError, UnsupportedError
from statepath.events import StateRestored

_CLOCKS_DIFFER: Final = 60_000_000
"""Microseconds: a moment that is later by no more may be now, on another machine."""


async def past(engine: Engine, at: int | datetime) -> Replica:
    """The documents as they were.

    Raises:
        HistoryTrimmedError: it is too long ago.
        InvalidArgumentError: a seq or a moment that is not there yet, or a datetime without a time zone.
    """
    engine.check_open()
    if not isinstance(at, datetime):
        if type(at) is not int:
            raise wrong_kind("at", "a seq or an aware datetime", at, "statepath history tells the seqs")
        check_seq(at)
    engine.check_loaded()
    if isinstance(at, int) and at > engine.replica.head:
        raise InvalidArgumentError(f"seq {at} is not there yet: the head is {engine.replica.head}")
    if isinstance(at, datetime):
        now = max(time.time_ns() // 1000, engine.replica.time)
        if moment(at) > now + _CLOCKS_DIFFER:
            raise InvalidArgumentError(
                f"{at.isoformat()} is not there yet: give a seq, or a moment that has been"
            )
    floor, snapshots = await engine.look_back(), engine.record.snapshots
    return await Past(
        engine.backend, engine.log, engine.store, engine.continues, engine.replica.head, floor, snapshots
    ).at(at)


async def past_to_take(engine: Engine, at: int | datetime) -> Replica:
    """The documents as they were, as what a present state is made of: it names no segment of the archive that was given
    up since. A seq may be one that another process gave. Raises: as `past`."""
    engine.check_open()
    await engine.catch_up()
    then = await past(engine, at)
    await leave_out_lost(engine, then)
    return then


async def past_document(engine: Engine, collection: str, id: str, seq: int) -> Entry | None:
    """The document as it was as of the seq. Where the documents are not in memory: if it was changed then, and the log
    tells how.

    Raises: as `past`.
    """
    if engine.elsewhere is None:
        return (await past(engine, seq)).get(collection, id)
    engine.check_open()
    if seq > engine.replica.head:
        return None
    return await left_by(engine.backend, engine.log, (collection, id), seq, await engine.look_back())


async def present(engine: Engine) -> Replica:
    """The state of now, apart from the replica that goes on; the files of logs and reports show it.

    Raises:
        UnsupportedError: it is that of a directory of the original server (`not_upgraded`).
    """
    engine.check_loaded()
    if not engine.upgraded:
        raise UnsupportedError(
            f"{engine.backend.url} is a directory of the original server, and no store yet: open it for writing once, "
            "which makes it one in place and keeps its state.json; then repeat the command",
            code="not_upgraded",
        )
    now = Replica.of(engine.replica.cut())
    now.needs = engine.replica.needs
    await engine.flush_files()
    return now


async def restore(engine: Engine, at: int | datetime) -> tuple[int, int]:
    """Commit what makes the documents those of an earlier seq or moment; that seq, and the commit's. What is committed
    meanwhile, by whomever, comes before it and is taken back, too, or behind it.

    Raises:
        UnsupportedError: what was there then was migrated since (`other_schema`); else as `past`.
        ConflictError: other writers were first in each of 32 attempts.
    """
    then = await past_to_take(engine, at)
    back = _Back(then)
    # A handle that changes nothing can tell, at least, that there is nothing to change.
    nothing = engine.readonly and not back.changes(engine.replica)
    seq = 0 if nothing else await engine.decide(back.changes)
    if back.refusal is not None:
        raise back.refusal
    if not seq:
        return then.head, engine.replica.head
    engine.events.emit(StateRestored(then.head, seq, f"statepath restore --at {seq - 1}"))
    return then.head, seq


@dataclass(frozen=True, slots=True)
class Undone:
    """What a restore would undo, as far as the log tells it.

    Attributes:
        to: the seq of the state to go back to.
        changes: how many changes of documents have been made since; documents: of how many documents.
        needed: whether the documents differ at all.
    """

    to: int
    changes: int
    documents: int
    needed: bool


async def undone(engine: Engine, at: int | datetime) -> Undone:
    """What `restore` would undo; changes nothing. Raises: as `restore`."""
    then = await past_to_take(engine, at)
    back = _Back(then)
    needed = bool(back.changes(engine.replica))
    if back.refusal is not None:
        raise back.refusal
    count, keys = 0, set[tuple[str, str]]()
    after = max(then.head, await engine.look_back() - 1)
    async for _, _, changes in transactions(engine.backend, engine.log, after):
        for change in changes:
            if isinstance(change, Put | Delete | Append) and change.collection != MEMBERS:
                count += 1
                keys.add((change.collection, change.id))
    return Undone(then.head, count, len(keys), needed)


class _Back:
    """The way back to the state of another time, from whatever is there when it is committed.

    Attributes:
        refusal: why there was none when it was asked for last.
    """

    def __init__(self, then: Replica) -> None:
        self._then = then
        self.refusal: StateError | None = None

    def changes(self, now: Replica) -> Transaction:
        self.refusal = self._objection(now)
        if self.refusal is not None:
            return ()
        self._then.set(MEMBERS, SCHEMA_MEMBER, now.get(MEMBERS, SCHEMA_MEMBER))  # of which its documents are
        return way_back(now, self._then, Note("restored", f"to seq {self._then.head}"))

    def _objection(self, now: Replica) -> StateError | None:
        then, present = versions(self._then), versions(now)
        held = [name for name, documents in self._then.collections.items() if documents]
        if any(then.get(name, 1) != present.get(name, 1) for name in held):
            return UnsupportedError(
                f"between seq {self._then.head} and now there was a migration: take it back with statepath migrate "
                "rollback, or restore to another place with --to",
                code="other_schema",
            )
        return None
