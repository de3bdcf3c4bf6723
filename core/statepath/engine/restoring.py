"""The state of another time, and making it the present one again."""

from __future__ import annotations

from datetime import datetime

from statepath.arguments import wrong_kind
from statepath.commit import Note
from statepath.engine.engine import Engine
from statepath.engine.history import Past, difference
from statepath.engine.ids import check_seq
from statepath.engine.migration import versions
from statepath.engine.replica import Replica
from statepath.errors import InvalidArgumentError, UnsupportedError
from statepath.events import StateRestored


async def past(engine: Engine, at: int | datetime) -> Replica:
    """The documents as they were.

    Raises:
        HistoryTrimmedError: it is too long ago.
        InvalidArgumentError: a seq that is not there yet, or a datetime without a time zone.
    """
    engine.check_open()
    if not isinstance(at, datetime):
        if type(at) is not int:
            raise wrong_kind("at", "a seq or an aware datetime", at, "statepath history tells the seqs")
        check_seq(at)
    engine.check_loaded()
    if isinstance(at, int) and at > engine.replica.head:
        raise InvalidArgumentError(f"seq {at} is not there yet: the head is {engine.replica.head}")
    snapshots = engine.record.snapshots
    return await Past(engine.backend, engine.log, engine.store, engine.continues, engine.floor, snapshots).at(
        at
    )


async def present(engine: Engine) -> Replica:
    """The state of now, apart from the replica that goes on; the files of logs and reports show it."""
    engine.check_loaded()
    now = Replica.of(engine.replica.cut())
    now.needs = engine.replica.needs
    await engine.flush_files()
    return now


async def restore(engine: Engine, at: int | datetime) -> tuple[int, int]:
    """Commit what makes the documents those of an earlier seq or moment; that seq, and the commit's.

    Raises:
        UnsupportedError: a migration lies between then and now (`other_schema`); else as `past`.
    """
    then = await past(engine, at)
    before = engine.replica.head
    if versions(then) != versions(engine.replica):
        raise UnsupportedError(
            f"between seq {then.head} and now there was a migration: take it back with statepath migrate rollback, "
            "or restore to another place with --to",
            code="other_schema",
        )
    changes = difference(engine.replica, then)
    if not changes:
        return then.head, before
    seq = await engine.commit([*changes, Note("restored", f"to seq {then.head}")])
    engine.events.emit(StateRestored(then.head, seq, f"statepath restore --at {before}"))
    return then.head, seq
