"""How a store does: a list of checks, each with a threshold from the settings.

A check fails beyond its threshold, and warns from half of it on (of what should be much: below twice as much). What
reads the storage is bounded by `health_timeout`; nothing is written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from statepath.commit import FLOOR_KEY
from statepath.encryption import Encrypted
from statepath.engine.autosave import free_bytes
from statepath.engine.backups import backup_key, backup_keys, backup_time
from statepath.engine.companion import MirrorLag
from statepath.engine.engine import Engine
from statepath.engine.floor import Floor, SnapshotMark, read_floor
from statepath.engine.history import next_commit
from statepath.engine.trouble import Trouble
from statepath.errors import AccessDeniedError, DivergedError, HistoryTrimmedError, NotFoundError, StateError

_RECENT: Final = 60.0
_SNAPSHOTS_LATE: Final = 4
_JOURNAL_SNAPSHOTS: Final = 4
_JOURNAL_LEAST: Final = 4 * 1024**3
_LOOKS: Final = 5
_BEHIND: Final = 0.2
"""Seconds until a log that ends before what is shown is read again, at most."""

Unit = Literal["seconds", "bytes", "files", "objects"]


class Status(StrEnum):
    """How a check ended: all is well, it should be looked at, or it must be."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: `reachable`, `writable`, `access`, `space`, `saved`, `backups`, `journal`, `views`, `mirror`, `key`,
            `damage`.
        summary: what was found, in a sentence.
        value: the number that was compared, where there is one; `limit`: beyond it the check fails.
        unit: that of both.
    """

    name: str
    status: Status
    summary: str
    value: float | None = None
    limit: float | None = None
    unit: Unit | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the storage answered. Where it was not asked, the handle's own knowledge has to do.

    Attributes:
        seconds: how long the first answer took; `None`: there was none. `trouble`: why not.
        floor: the log's own record as it is stored now.
        backups: the keys of the backups, oldest first.
        unsaved: when the first change behind the snapshot was committed, in seconds since 1970.
        lost: what the log lacks that a reader shows, if so.
    """

    seconds: float | None = None
    trouble: str | None = None
    floor: Floor | None = None
    backups: tuple[str, ...] | None = None
    free: int | None = None
    unsaved: float | None = None
    denied: StateError | None = None
    lost: str | None = None


Examination = Callable[[Engine, Seen], Check | None]


async def answers(engine: Engine, seen: Seen) -> Seen:
    """Whether it answers at all, and has the store still: one small object is read."""
    began = time.perf_counter()
    stored = await read_floor(engine.backend)
    seconds, floor = time.perf_counter() - began, stored[0] if stored else None
    _check_still_there(engine, floor)
    return replace(seen, seconds=seconds, floor=floor)


def _check_still_there(engine: Engine, floor: Floor | None) -> None:
    """
    Raises:
        NotFoundError: the log's own record, which the handle has found or made, is gone.
        DivergedError: it is that of another store or incarnation.
    """
    known, url = engine.record, engine.backend.url
    if not known.store:
        return
    if floor is None:
        raise NotFoundError(
            f"{FLOOR_KEY} is gone: somebody removed the store at {url}, or a part of it; end the program, and see what "
            "is left with: statepath verify",
            key=FLOOR_KEY,
        )
    if (floor.store, floor.incarnation) != (known.store, known.incarnation):
        raise DivergedError(
            f"{FLOOR_KEY} is that of another store or incarnation: {url} was promoted, recovered or replaced while it "
            "was open; end the program, see what is there with: statepath verify, and open it again"
        )


async def free_space(engine: Engine, seen: Seen) -> Seen:
    """How much may still be written, where it can tell."""
    return replace(seen, free=await free_bytes(engine.backend))


async def kept(engine: Engine, seen: Seen) -> Seen:
    """Which backups there are: one listing."""
    return replace(seen, backups=tuple(await backup_keys(engine.backend)))


async def _unsaved(engine: Engine, seen: Seen) -> Seen:
    saved = seen.floor.snapshots[-1].seq if seen.floor and seen.floor.snapshots else 0
    if not engine.readonly or engine.replica.head <= saved:
        return seen
    commit = await next_commit(engine.log, saved)
    return seen if commit is None else replace(seen, unsaved=commit.time.timestamp())


async def _end(engine: Engine, seen: Seen) -> Seen:
    """Whether the log leads up to what a reader shows. A writer finds out by itself, and mends it."""
    head = engine.replica.head
    if not engine.readonly or seen.floor is None or seen.floor.floor > head:
        return seen
    pause = min(_BEHIND, engine.settings.health_timeout / (2 * _LOOKS))
    for look in range(_LOOKS):
        if look:  # a standby may be behind the server that was read before it
            await asyncio.sleep(pause)
        try:
            if await next_commit(engine.log, head - 1) is not None:
                return seen
        except HistoryTrimmedError:
            return seen
    return replace(seen, lost=f"the journal ends before seq {head}, which the state shows")


Question = Callable[[Engine, Seen], Awaitable[Seen]]
_QUESTIONS: Final[tuple[Question, ...]] = (answers, free_space, kept, _unsaved, _end)


async def look(engine: Engine, questions: Sequence[Question] = _QUESTIONS) -> Seen:
    """Ask the storage, within `health_timeout`. The first question that it does not answer is the last one."""
    seen = Seen()
    limit = engine.settings.health_timeout
    try:
        async with asyncio.timeout(limit):
            for question in questions:
                seen = await question(engine, seen)
    except TimeoutError:
        return replace(seen, trouble=f"the storage did not answer within {limit:g} s")
    except AccessDeniedError as error:
        return replace(seen, trouble=str(error), denied=error)
    except StateError as error:
        return replace(seen, trouble=str(error))
    return seen


def checks(engine: Engine, seen: Seen) -> tuple[Check, ...]:
    """All checks that can be made of this handle."""
    if engine.closed:
        return (Check("reachable", Status.FAIL, "the store is closed"),)
    return examine(engine, seen)


def examine(engine: Engine, seen: Seen) -> tuple[Check, ...]:
    """The checks of a handle that is open, or about to end."""
    return tuple(check for one in CHECKS if (check := one(engine, seen)) is not None)


def _reachable(engine: Engine, seen: Seen) -> Check | None:
    limit = engine.settings.health_timeout
    if seen.trouble is not None:
        return Check("reachable", Status.FAIL, seen.trouble, seen.seconds, limit, "seconds")
    if seen.seconds is None:
        return None
    summary = f"the storage answered in {seen.seconds * 1000:.1f} ms"
    return Check("reachable", _level(seen.seconds, limit), summary, seen.seconds, limit, "seconds")


def _writable(engine: Engine, seen: Seen) -> Check | None:
    """A handle that was stopped fails. One whose last save failed fails while that is fresh: nobody may have tried
    since, and a server that is given no work for it would never find out."""
    if engine.readonly:
        return None
    if engine.failure is not None:
        return Check("writable", Status.FAIL, str(engine.failure))
    trouble = engine.vitals.save_trouble
    if trouble is None:
        return Check("writable", Status.OK, "saves are taken")
    ago = max(0.0, time.time() - trouble.at)  # the clock may have been set back since
    status = Status.FAIL if ago < _RECENT else Status.WARN
    return Check("writable", status, f"the last save failed {_ago(ago)} ago: {trouble.error}")


def _access(engine: Engine, seen: Seen) -> Check | None:
    errors = [trouble.error for trouble in _troubles(engine)] + ([seen.denied] if seen.denied else [])
    refused = next((error for error in errors if isinstance(error, AccessDeniedError)), None)
    if refused is not None:
        return Check("access", Status.FAIL, f"the storage refused: {refused}")
    return Check("access", Status.OK, "the storage refused nothing")


def _space(engine: Engine, seen: Seen) -> Check | None:
    free, limit = seen.free, engine.settings.disk_low
    if free is None:
        return None
    status = Status.FAIL if free < limit else Status.WARN if free < 2 * limit else Status.OK
    summary = f"{free:,} bytes are free" + (f", less than {limit:,}" if free < limit else "")
    return Check("space", status, summary, free, limit, "bytes")


def _saved(engine: Engine, seen: Seen) -> Check | None:
    settings = engine.settings
    waiting = _waiting(engine, seen)
    late = settings.save_late or _SNAPSHOTS_LATE * settings.snapshot_age
    limit = late.total_seconds()
    trouble = engine.vitals.snapshot_trouble
    if trouble is not None:
        summary = f"the last snapshot could not be written: {trouble.error}"
        return Check("saved", Status.FAIL, summary, waiting, limit, "seconds")
    if waiting is None:
        return Check("saved", Status.OK, "everything is in the snapshot", 0.0, limit, "seconds")
    status = _level(waiting, limit) if settings.autosave else Status.OK
    summary = f"changes wait for a snapshot since {_ago(waiting)}"
    if engine.vitals.autosave_trouble is not None:
        summary += f": {engine.vitals.autosave_trouble.error}"
    return Check("saved", status, summary, waiting, limit, "seconds")


def _waiting(engine: Engine, seen: Seen) -> float | None:
    """For how many seconds the oldest change behind the snapshot has waited; `None`: there is none."""
    if not engine.readonly:
        return engine.vitals.unsaved_seconds
    return None if seen.unsaved is None else max(0.0, time.time() - seen.unsaved)


def _backups(engine: Engine, seen: Seen) -> Check | None:
    age = engine.settings.backup_age
    limit = None if age is None else age.total_seconds()
    trouble = engine.vitals.backup_trouble
    if trouble is not None:
        summary = f"the last backup could not be written: {trouble.error}"
        return Check("backups", Status.FAIL, summary, None, limit, "seconds")
    keys = seen.backups
    if keys is None:
        return None if engine.readonly else Check("backups", Status.OK, "none has failed")
    missing = _not_kept(seen.floor, keys, engine.settings.snapshot_age)
    if not keys:
        missed = _without_backup(engine, seen)
        status = Status.OK if limit is None or missed is None else _level(missed, limit)
        summary = "there is no backup yet: the first snapshot that is replaced becomes one"
        if missing is not None:
            status = _worse(status, Status.WARN)
            summary = f"there is no backup: the snapshot of seq {missing.seq} was not kept as one"
        return Check("backups", status, summary, missed, limit, "seconds")
    seconds = max(0.0, (datetime.now(UTC) - backup_time(keys[-1])).total_seconds())
    summary = f"{len(keys)}, the newest shows the state of {_ago(seconds)} ago"
    status = Status.OK if limit is None else _level(seconds, limit)
    if missing is not None:
        status = _worse(status, Status.WARN)
        summary += f"; the snapshot of seq {missing.seq} was not kept as one"
    return Check("backups", status, summary, seconds, limit, "seconds")


def _without_backup(engine: Engine, seen: Seen) -> float | None:
    """For how many seconds there could have been a backup: since the state of the oldest snapshot, or since the first
    change of all; `None`: there was none."""
    marks = (seen.floor or engine.vitals.record).snapshots
    return max(0.0, time.time() - marks[0].time / 1_000_000) if marks else _waiting(engine, seen)


def _not_kept(floor: Floor | None, keys: tuple[str, ...], soon: timedelta) -> SnapshotMark | None:
    """The snapshot before the present one, if it should be a backup and is none: then backups fail, or somebody removed
    it. One that was replaced at the end of a program, soon after a backup, need not be one."""
    marks = floor.snapshots if floor is not None else ()
    if len(marks) < 2 or backup_key(marks[-2].time) in keys:
        return None
    shown = datetime.fromtimestamp(marks[-2].time / 1_000_000, UTC)
    return None if keys and shown - backup_time(keys[-1]) < soon else marks[-2]


def _journal(engine: Engine, seen: Seen) -> Check | None:
    size = engine.vitals.journal_behind(seen.floor)
    limit = engine.settings.journal_lag
    if limit is None:
        limit = max(_JOURNAL_LEAST, _JOURNAL_SNAPSHOTS * engine.vitals.snapshot_size)
    summary = f"{size:,} bytes of commits are behind the snapshot"
    status = _level(size, limit)
    if (trouble := engine.vitals.trim_trouble) is not None:
        status = _worse(status, Status.WARN)
        summary += f"; what the history need not keep could not be trimmed: {trouble.error}"
    return Check("journal", status, summary, size, limit, "bytes")


def _views(engine: Engine, seen: Seen) -> Check | None:
    if engine.readonly:
        return None
    lag, limit = engine.vitals.view_lag, engine.settings.view_lag
    if engine.vitals.view_trouble is not None:
        summary = f"a view could not be written: {engine.vitals.view_trouble.error}"
        return Check("views", Status.FAIL, summary, lag, limit, "files")
    return Check("views", _level(lag, limit), f"{lag:,} files are behind the log", lag, limit, "files")


def _mirror(engine: Engine, seen: Seen) -> Check | None:
    """A replica that lags or is down makes no store unhealthy: the store has everything."""
    lag, limit = engine.vitals.mirror_lag, engine.settings.mirror_lag.total_seconds()
    if lag is None:
        return None
    status = Status.WARN if lag.failure is not None or lag.seconds > limit else Status.OK
    summary = f"{lag.target} is {lag.behind:,} transactions behind"
    if lag.elsewhere:
        summary = f"another process ships to {lag.target}"
    if lag.failure is not None:
        summary += f": {lag.failure}"
    return Check("mirror", status, summary, lag.seconds, limit, "seconds")


def _key(engine: Engine, seen: Seen) -> Check | None:
    age = engine.settings.key_age
    if not isinstance(engine.backend, Encrypted) or engine.replica_of:
        return None  # a replica's key cannot be exchanged
    limit = None if age is None else age.total_seconds()
    seconds = max(0.0, time.time() - engine.backend.keys.ring.keys[-1].created)
    status = Status.OK if limit is None else _level(seconds, limit)
    summary = f"the key that is sealed with was made {_ago(seconds)} ago"
    if status is not Status.OK:
        summary += "; `statepath keys rotate` makes a new one"
    return Check("key", status, summary, seconds, limit, "seconds")


def _damage(engine: Engine, seen: Seen) -> Check | None:
    """What a writer found is mended or kept aside already; verification settles it. A reader mends nothing."""
    found = _damaged(engine, seen)
    if not found:
        return Check("damage", Status.OK, "none was found", 0, None, "objects")
    summary = "; ".join(found)
    if engine.verified and seen.lost is None:
        return Check("damage", Status.OK, f"verified since: {summary}", 0, None, "objects")
    status = Status.FAIL if engine.readonly else Status.WARN
    return Check("damage", status, summary, len(found), None, "objects")


def _damaged(engine: Engine, seen: Seen) -> tuple[str, ...]:
    """What was found damaged, a sentence each."""
    found = tuple(damage.reason for damage in engine.damage)
    return found if seen.lost is None else (*found, seen.lost)


CHECKS: Final[tuple[Examination, ...]] = (
    _reachable,
    _writable,
    _access,
    _space,
    _saved,
    _backups,
    _journal,
    _views,
    _mirror,
    _key,
    _damage,
)
"""What is looked at, in this order; one that does not apply to a handle gives nothing."""


def _troubles(engine: Engine) -> list[Trouble]:
    troubles = (
        engine.vitals.save_trouble,
        engine.vitals.autosave_trouble,
        engine.vitals.snapshot_trouble,
        engine.vitals.backup_trouble,
        engine.vitals.view_trouble,
    )
    return [trouble for trouble in troubles if trouble is not None]


def _worse(*found: Status) -> Status:
    return max(found, key=list(Status).index, default=Status.OK)


def _level(value: float, limit: float) -> Status:
    if value > limit:
        return Status.FAIL
    return Status.WARN if value > limit / 2 else Status.OK


def _ago(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True, slots=True)
class Health:
    """How a store does.

    Attributes:
        healthy: no check fails. `status`: the worst of the checks.
        checks: what was looked at, one by one.
        writable: it takes commits.
        problems: what the checks that fail found, a sentence each.
        last_saved: when the last snapshot was written; `last_commit`: when the last commit was made.
        last_backup: the time of the state that the newest backup shows.
        view_lag: files behind the log. `journal_bytes`: committed since the last snapshot.
        free_bytes: space on the storage, where it can tell.
        damage: what was found damaged, a sentence each.
        mirror: how far the replica is behind, where there is one.
    """

    healthy: bool
    writable: bool
    problems: tuple[str, ...]
    seq: int
    snapshot_seq: int
    last_saved: datetime | None
    last_commit: datetime | None
    backups: int
    view_lag: int
    journal_bytes: int
    free_bytes: int | None
    damage: tuple[str, ...]
    last_backup: datetime | None = None
    mirror: MirrorLag | None = None
    status: Status = Status.OK
    checks: tuple[Check, ...] = field(default=())


async def health(engine: Engine) -> Health:
    """Look at everything, and write nothing."""
    engine.check_loop()
    seen = Seen() if engine.closed else await look(engine)
    found = checks(engine, seen)
    failing = tuple(check.summary for check in found if check.status is Status.FAIL)
    marks = seen.floor.snapshots if seen.floor is not None else ()
    snapshot_seq, saved_at = engine.vitals.saved
    if engine.readonly and marks:
        snapshot_seq, saved_at = marks[-1].seq, marks[-1].time / 1_000_000
    backups = seen.backups or ()
    return Health(
        healthy=not failing,
        writable=not engine.closed and not engine.readonly and engine.failure is None,
        problems=failing,
        seq=engine.replica.head,
        snapshot_seq=snapshot_seq,
        last_saved=_moment(saved_at),
        last_commit=_moment(engine.last_commit_at),
        backups=len(backups),
        view_lag=engine.vitals.view_lag,
        journal_bytes=engine.vitals.journal_behind(seen.floor),
        free_bytes=seen.free,
        damage=_damaged(engine, seen),
        last_backup=backup_time(backups[-1]) if backups else None,
        mirror=engine.vitals.mirror_lag,
        status=worst(found),
        checks=found,
    )


def worst(found: tuple[Check, ...]) -> Status:
    """The worst status of the checks."""
    return _worse(*(check.status for check in found))


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
