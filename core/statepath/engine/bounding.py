"""Bounds for session logs and reports: those that nothing was written to for long, and the longest untouched where
there are too many bytes of them, are removed whole.

A removal is a commit that says what it had looked at: what is written to meanwhile stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

from statepath.commit import RemoveLog, RemoveReport
from statepath.engine.aging import earliest_now, unhurried_now
from statepath.engine.engine import Engine
from statepath.engine.ids import LOGS, REPORTS, decode_id, log_id, log_place, long_logs, report_key
from statepath.engine.replay import file_key
from statepath.errors import ClosedError
from statepath.events import LogsRemoved, ReportsRemoved

_TOGETHER: Final = 256


@dataclass(slots=True)
class Kept:
    """A session log or a report as it is stored: its objects with their bytes, when it was last written to, in seconds
    since 1970, and what removes it as it is."""

    id: str
    removal: RemoveLog | RemoveReport
    touched: float = 0.0
    objects: list[tuple[str, int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.objects)


@dataclass(frozen=True, slots=True)
class _Bounds:
    """How old they may be, and how many bytes they may have together; what finds them, and tells what went."""

    age: timedelta | None
    bytes: int | None
    stored: Callable[[Engine], AsyncIterator[Kept]]
    told: Callable[[tuple[str, ...], int], LogsRemoved | ReportsRemoved]


async def bound_files(engine: Engine, *, dry_run: bool = False) -> list[Kept]:
    """Remove what the settings `log_age`, `log_bytes`, `report_age` and `report_bytes` do not allow; what was removed.
    `dry_run` only tells it. What an interrupted run left is removed by the next one."""
    of = engine.settings
    removed: list[Kept] = []
    for bounds in (
        _Bounds(of.log_age, of.log_bytes, _logs, LogsRemoved),
        _Bounds(of.report_age, of.report_bytes, _reports, ReportsRemoved),
    ):
        if bounds.age is not None or bounds.bytes is not None:
            due = await _due(engine, bounds)
            removed += due if dry_run else await _remove(engine, due, bounds)
    return removed


async def _remove(engine: Engine, due: list[Kept], bounds: _Bounds) -> list[Kept]:
    removed: list[Kept] = []
    failures: list[BaseException] = []
    waiting = iter(due)
    while some := list(islice(waiting, _TOGETHER)):
        commits = (engine.commit([one.removal]) for one in some)
        seqs = await asyncio.gather(*commits, return_exceptions=True)
        failures += [seq for seq in seqs if isinstance(seq, BaseException)]
        removed += [
            one for one, seq in zip(some, seqs, strict=True) if seq and not isinstance(seq, BaseException)
        ]
        if failures:
            break
    try:
        if due:
            # What was removed is, even if the handle was closed meanwhile: who closes it, or opens it next, does the
            # rest.
            with suppress(ClosedError):
                for one in due:
                    await engine.flush_file(file_key(one.removal))
    finally:
        if removed:
            engine.events.emit(
                bounds.told(tuple(one.id for one in removed), sum(one.bytes for one in removed))
            )
    if failures:
        raise failures[0]
    return removed


async def _due(engine: Engine, bounds: _Bounds) -> list[Kept]:
    """What the bounds do not allow, the longest untouched first."""
    stored = sorted([one async for one in bounds.stored(engine)], key=lambda one: (one.touched, one.id))
    due = _beyond(bounds, stored, unhurried_now())
    if due and bounds.age is not None and not engine.readonly:
        due = _beyond(bounds, stored, await earliest_now(engine.backend))
    return due


def _beyond(bounds: _Bounds, stored: list[Kept], now: float) -> list[Kept]:
    too_old = float("-inf") if bounds.age is None else now - bounds.age.total_seconds()
    total = sum(one.bytes for one in stored)
    due: list[Kept] = []
    for one in stored:
        if one.touched >= too_old and (bounds.bytes is None or total <= bounds.bytes):
            break
        due.append(one)
        total -= one.bytes
    return due


async def _logs(engine: Engine) -> AsyncIterator[Kept]:
    # First what the files have to show, then the files: what is appended in between is seen by the removal.
    known = dict(engine.replica.logs)
    shortened = long_logs(known)
    owed = await engine.flush_most_files()
    now = time.time()
    found: dict[str, Kept] = {}
    async for entry in engine.backend.list_keys(LOGS):
        place = log_place(entry.key)
        if place is None or place[0] in owed:
            continue
        if (id := log_id(place[0], shortened)) is not None:
            log = found.setdefault(id, Kept(id, RemoveLog(id, known.get(id, 0))))
            log.objects.append((entry.key, entry.size))
            # A time that the storage does not know is no reason to remove anything.
            log.touched = max(log.touched, entry.modified or now)
    for log in found.values():
        yield log


async def _reports(engine: Engine) -> AsyncIterator[Kept]:
    seq = engine.replica.head
    owed = await engine.flush_most_files()
    now = time.time()
    async for entry in engine.backend.list_keys(REPORTS):
        id = decode_id(entry.key.removeprefix(REPORTS).removesuffix(".json"))
        if id is not None and report_key(id) == entry.key and entry.key not in owed:
            yield Kept(id, RemoveReport(id, seq), entry.modified or now, [(entry.key, entry.size)])
