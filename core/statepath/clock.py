"""The clock by which it is told how long somebody has been silent, or something has not been looked at."""

from __future__ import annotations

import sys
import time
from typing import Final

# On macOS `time.monotonic` stands still while the machine sleeps, and the system's own monotonic clock does not.
_COUNTS_SLEEP: Final[int | None] = getattr(
    time, "CLOCK_MONOTONIC" if sys.platform == "darwin" else "CLOCK_BOOTTIME", None
)


def clock() -> float:
    """Seconds, on a clock that goes on while the machine sleeps, where there is one."""
    return time.monotonic() if _COUNTS_SLEEP is None else time.clock_gettime(_COUNTS_SLEEP)
