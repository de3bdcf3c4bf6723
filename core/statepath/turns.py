"""Taking turns: who has had the log for a while, though others want it, lets one of them go first.

Who has just committed knows where the log ends, and goes on; who has lost reads first, and would lose again. Nobody can
see that others try, but one of them wins now and then, and is known to be there from then on; who never does, asks
(`asking.py`).
"""

from __future__ import annotations

import math
from typing import Final

_TURN: Final = 0.25  # seconds
_LATELY: Final = 10.0  # seconds for which others are expected to want the log, behind a place that was lost
_COMMITS: Final = 5  # how many commits long a rest is
_LONGEST: Final = 0.5  # seconds
_LONGEST_ASKED: Final = 3.0  # seconds


class Turns:
    """Times are those of the event loop."""

    def __init__(self) -> None:
        self._lost = -math.inf
        self._since = math.inf
        self._rest = 0.0

    def lost(self, now: float) -> None:
        """A place went to somebody else, whose turn it is."""
        self._lost = now
        self._since = math.inf

    def won(self, begun: float, now: float) -> None:
        """A commit took a place."""
        self._since = min(self._since, begun)
        if now - self._since > _TURN and now - self._lost < _LATELY:
            self._since = math.inf
            self._rest = max(self._rest, now + min(_COMMITS * (now - begun), _LONGEST))

    def asked(self, now: float, seconds: float) -> None:
        """Somebody who loses again and again needs so many seconds for an attempt of its own."""
        self.lost(now)
        self._rest = max(self._rest, now + min(seconds, _LONGEST_ASKED))

    def rest(self, now: float) -> float:
        """For how many seconds to wait before the next attempt."""
        return max(0.0, self._rest - now)
