"""Bounds for session logs: those that nothing was appended to for long, and the longest untouched where there are too
many bytes of them, are removed whole.

A removal is a commit that says how much the log held when it was looked at: one that grows meanwhile stays.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from statepath.commit import RemoveLog
from statepath.engine.engine import Engine
from statepath.engine.ids import LOGS, log_place
from statepath.events import LogsRemoved

_TOGETHER: Final = 256


@dataclass(slots=True)
class SessionLog:
    """A session log as it is stored: its objects with their bytes, how much the state says that it holds, and when it
    was last appended to, in seconds since 1970."""

    id: str
    known: int
    touched: float = 0.0
    objects: list[tuple[str, int]] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.objects)


async def bound_logs(engine: Engine, *, dry_run: bool = False) -> list[SessionLog]:
    """Remove what the settings `log_age` and `log_bytes` do not allow; those removed. `dry_run` only tells them. What
    an interrupted run left is removed by the next one."""
    settings = engine.settings
    if settings.log_age is None and settings.log_bytes is None:
        return []
    due = await _due(engine)
    if dry_run or not due:
        return due
    removed: list[SessionLog] = []
    waiting = iter(due)
    while some := list(islice(waiting, _TOGETHER)):
        seqs = await asyncio.gather(*(engine.commit([RemoveLog(log.id, log.known)]) for log in some))
        removed += [log for log, seq in zip(some, seqs, strict=True) if seq]
    await engine.flush_files()
    if removed:
        total = sum(log.bytes for log in removed)
        engine.events.emit(LogsRemoved(tuple(log.id for log in removed), total))
    return removed


async def _due(engine: Engine) -> list[SessionLog]:
    """The logs that the bounds do not allow, the longest untouched first."""
    age, most = engine.settings.log_age, engine.settings.log_bytes
    logs = sorted([log async for log in _stored(engine)], key=lambda log: (log.touched, log.id))
    too_old = float("-inf") if age is None else time.time() - age.total_seconds()
    total = sum(log.bytes for log in logs)
    due: list[SessionLog] = []
    for log in logs:
        if log.touched >= too_old and (most is None or total <= most):
            break
        due.append(log)
        total -= log.bytes
    return due


async def _stored(engine: Engine) -> AsyncIterator[SessionLog]:
    # First what the files have to show, then the files: what is appended in between is seen by the removal.
    known = dict(engine.replica.logs)
    await engine.flush_files()
    now = time.time()
    found: dict[str, SessionLog] = {}
    async for entry in engine.backend.list_keys(LOGS):
        if (place := log_place(entry.key)) is not None:
            log = found.setdefault(place[0], SessionLog(place[0], known.get(place[0], 0)))
            log.objects.append((entry.key, entry.size))
            # A time that the storage does not know is no reason to remove anything.
            log.touched = max(log.touched, entry.modified or now)
    for log in found.values():
        yield log
