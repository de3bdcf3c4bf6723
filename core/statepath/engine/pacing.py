"""How fast a mirror ships in the process that saves: what it takes of the machine, the saves do not have."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

BUSY: Final = 5 * 1024 * 1024
"""Bytes a second that are shipped at most while saves are under way."""

FLOODED: Final = BUSY / 2
"""And where they come so fast that no replica could keep up with them."""

_WINDOW: Final = 1.0


class Pace:
    """The limit for shipping, by how many bytes a second are saved.

    A replica keeps up with `BUSY`. Where more is saved it falls behind in any case, and makes up for it afterwards:
    then the saves come first.

    Parameters:
        saved: how many bytes were saved so far.
        clock: seconds.
    """

    def __init__(self, saved: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._saved = saved
        self._clock = clock
        self._looked, self._seen = clock(), saved()
        self._limit = float(BUSY)

    @property
    def limit(self) -> float:
        """Bytes a second."""
        passed = self._clock() - self._looked
        if passed >= _WINDOW:
            rate = (self._saved() - self._seen) / passed
            self._looked, self._seen = self._clock(), self._saved()
            # Between the two it falls bit by bit: a little more that is saved does not make a large difference.
            self._limit = max(FLOODED, min(BUSY, 2 * BUSY - rate))
        return self._limit
