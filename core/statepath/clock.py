"""The clock by which it is told how long somebody has been silent, or something has not been looked at."""

from __future__ import annotations

import time
from typing import Final

_BOOTTIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


def clock() -> float:
    """Seconds, on a clock that goes on while the machine sleeps, where there is one."""
    return time.monotonic() if _BOOTTIME is None else time.clock_gettime(_BOOTTIME)
