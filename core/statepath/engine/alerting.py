"""Alerts: what fails is told once, and once again when it is well; not at every turn in between.

An alert is raised when a check fails, and cleared when it is ok again and has not failed for a while: what comes and
goes stays raised. What this handle knows by itself is looked at as soon as an event tells of a failure, and from time
to time; then the storage is asked, too, for as little as will do, since each request is somebody's bill.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from statepath.engine.backups import backup_time
from statepath.engine.engine import Engine
from statepath.engine.health import Check, Seen, Status, answers, examine, free_space, kept, look
from statepath.engine.replay import Damage
from statepath.events import (
    AlertCleared,
    AlertRaised,
    BackupError,
    CorruptionDetected,
    DiskLow,
    Event,
    SaveError,
)

logger = logging.getLogger("statepath.alerts")

_QUIET: Final = 2
"""An alert is cleared when its check has not failed for so many times the interval between two looks."""


@dataclass(slots=True)
class _Alert:
    """One that is raised: since when, when its check failed last, and at what value."""

    raised: float
    failed: float
    value: float | None


class Alerts:
    """What tells of a writer's failures, from its opening to its end."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._events = engine.events
        self._interval = engine.settings.alert_interval
        self._raised: dict[str, _Alert] = {}
        self._seen = Seen()
        self._loop = asyncio.get_running_loop()
        self._stops: list[Callable[[], object]] = [
            self._events.on(SaveError, self._soon),
            self._events.on(BackupError, self._soon),
            self._events.on(DiskLow, self._soon),
            self._events.on(CorruptionDetected, self._damaged),
        ]
        self._task = self._loop.create_task(self._run(), name="statepath-alerts")

    @property
    def raised(self) -> tuple[str, ...]:
        """The alerts that are raised."""
        return tuple(self._raised)

    async def aclose(self) -> None:
        """Tell what there is to tell, and then nothing more."""
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
            await asyncio.sleep(0)  # what is to be looked at soon
        finally:
            for stop in self._stops:
                stop()

    async def _run(self) -> None:
        questions = [free_space]  # what has just been opened has answered the others
        while True:
            try:
                seen = await look(self._engine, questions)
                # Without the log's record: beside backups of an earlier look some would seem to be missing.
                backups = self._seen.backups if seen.backups is None else seen.backups
                self._seen = replace(seen, floor=None, backups=backups)
                self._look()
            except Exception:
                logger.exception("the checks could not be looked at; they are again in %g s", self._interval)
            await asyncio.sleep(self._interval)
            questions = [answers, free_space, kept] if self._asks_for_backups() else [answers, free_space]

    def _asks_for_backups(self) -> bool:
        """Only where the newest one that is known of would not do."""
        limit, known = self._engine.settings.backup_age, self._seen.backups
        return limit is not None and (not known or datetime.now(UTC) - backup_time(known[-1]) > limit / 2)

    def _soon(self, event: Event) -> None:
        """Look when the event has been heard by everyone: what follows from it is told behind it."""
        if isinstance(event, DiskLow):
            self._seen = replace(self._seen, free=event.free)
        self._loop.call_soon(self._look)

    def _damaged(self, event: CorruptionDetected) -> None:
        engine = self._engine
        if all(damage.key != event.key for damage in engine.damage):
            engine.damage.append(Damage(event.key, event.reason))
        engine.verified = False
        self._soon(event)

    def _look(self) -> None:
        now = time.monotonic()
        for check in examine(self._engine, self._seen):
            alert = self._raised.get(check.name)
            if _is_failure(check):
                self._failed(check, alert, now)
            elif (
                alert is not None
                and check.status is Status.OK
                and now - alert.failed >= _QUIET * self._interval
            ):
                self._clear(check, now - alert.raised)

    def _failed(self, check: Check, alert: _Alert | None, now: float) -> None:
        if alert is not None:
            more = check.name == "damage" and check.value != alert.value
            alert.failed, alert.value = now, check.value
            if not more:
                return
        else:
            self._raised[check.name] = _Alert(now, now, check.value)
        logger.error("alert: %s: %s", check.name, check.summary, extra={"alert": check.name})
        self._events.emit(AlertRaised(check.name, str(check.status), check.summary, check.value, check.limit))

    def _clear(self, check: Check, seconds: float) -> None:
        del self._raised[check.name]
        logger.warning("alert over: %s: %s", check.name, check.summary, extra={"alert": check.name})
        self._events.emit(AlertCleared(check.name, check.summary, seconds))


def _is_failure(check: Check) -> bool:
    # What was found damaged has been mended, so the handle is well; somebody should know all the same.
    return check.status is Status.FAIL or (check.name == "damage" and check.status is Status.WARN)
