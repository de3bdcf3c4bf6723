"""What time it is for whoever removes something because of its age: no clock that is ahead takes anything too early.

What is gone cannot be had back, and a machine's clock may jump while the process runs, or be wrong from the beginning.
So the earliest of the clocks at hand counts; one that is behind keeps things longer.
"""

from __future__ import annotations

import logging
import secrets
import time
from datetime import UTC, datetime
from functools import cache
from typing import Final

from statepath.backend import Backend
from statepath.clock import clock
from statepath.commit import PROBES
from statepath.encryption import storage_of

logger = logging.getLogger("statepath.aging")

_BEGAN: Final = time.time(), clock()

_APART: Final = 60.0
"""Seconds: two clocks that are right may be so far apart, and some storages tell whole seconds only."""

_JUMP: Final = 3600.0
"""Seconds by which a clock that jumped ahead keeps things longer, before that is told."""


def unhurried_now() -> float:
    """Seconds since 1970, as the machine's clock tells them, but no more than went by since this process began."""
    then, began = _BEGAN
    told, passed = time.time(), then + clock() - began + _APART
    if told - passed > _JUMP:
        _tell_of_jump(then)
    return min(told, passed)


@cache  # once in the process
def _tell_of_jump(then: float) -> None:
    logger.warning(
        "the machine's clock has jumped ahead since this process began, at %s by that clock: what is removed because "
        "of its age is kept until so much time has really passed. If the clock is right now, start the program again",
        datetime.fromtimestamp(then, UTC).isoformat(timespec="seconds"),
    )


async def earliest_now(backend: Backend) -> float:
    """As `unhurried_now`, and not later than it is by the clock of the storage, where it has one of its own: an object
    is written and removed again, by which that is told."""
    now = unhurried_now()
    if backend.capabilities.editable:  # files are dated by the machine
        return now
    told = await _written_now(backend)
    return min(now, told + _APART) if told else now


async def storage_now(backend: Backend) -> float:
    """What time it is by the clock that dates what is stored: an object is written and removed again. 0: none does."""
    return unhurried_now() if backend.capabilities.editable else await _written_now(backend)


async def _written_now(backend: Backend) -> float:
    storage, key = storage_of(backend), f"{PROBES}{secrets.token_hex(12)}"
    await storage.write(key, b"")
    try:
        return max([entry.modified async for entry in storage.list_keys(key)], default=0.0)
    finally:
        await storage.delete(key)
