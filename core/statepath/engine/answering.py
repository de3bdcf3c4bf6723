"""When those who wait for a commit are told that it is durable: all of them at once, or half of them a little later.

Who saves one document after another prepares the next one once the last is durable. Where all are told at once, all
prepare at once, and then all wait for their commit: this process and the storage work in turns. Told in halves, one
half prepares while the commit of the other is under way. That needs a storage that does its part outside of this
process (`Capabilities.overlapping`), and pays where a commit takes less time than preparing what is in it: each half is
a commit of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

_FEWEST: Final = 48
_TURNS: Final = 2  # of the loop, until a commit that was begun is on its way


class Answers:
    """Tells what is durable, in the order of the log. `overlapping` is what the storage declares."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, overlapping: bool) -> None:
        self._loop = loop
        self._overlapping = overlapping
        self._later: tuple[Sequence[asyncio.Future[int]], int] = ((), 0)
        self._begun = self._told = 0.0
        self._preparing = 0
        """How many were told while nobody waited: they prepare the next commit."""
        self._preparation = 0.0
        """Seconds that one of them took."""
        self.halved = False
        """Whether one half was told, and the other one waits until these have come back with what they save next."""

    def durable(self, saves: Sequence[asyncio.Future[int]], first: int, *, waiting: int) -> None:
        """They are durable, with the seqs from `first` on, and `waiting` others are in the next commit. Who is not told
        now is told when that one is on its way, or by `finish`."""
        self.finish()
        now = len(saves)
        if self._overlapping and now + waiting >= _FEWEST:
            if waiting >= now / 2:
                now = 0
            elif self._loop.time() - self._begun < self._preparation * now:
                now = (now - waiting) // 2
        tell(saves[:now], first)
        self._later = (saves[now:], first + now)
        self.halved = 0 < now < len(saves)
        if self._overlapping:
            self._told, self._preparing = self._loop.time(), 0 if waiting else now

    def begin(self) -> None:
        """The next commit is begun."""
        if not self._overlapping:
            return
        self._begun = self._loop.time()
        if self._preparing:
            self._preparation = (self._begun - self._told) / self._preparing
        if self._later[0]:
            self._loop.call_soon(self._count_down, _TURNS)

    def finish(self) -> None:
        """Tell those that were not told yet."""
        self.halved = False
        if self._later[0]:
            later, self._later = self._later, ((), 0)
            tell(*later)

    def _count_down(self, turns: int) -> None:
        if turns:
            self._loop.call_soon(self._count_down, turns - 1)
        else:
            self.finish()


def tell(saves: Sequence[asyncio.Future[int]], first: int) -> None:
    """They are durable, with the seqs from `first` on."""
    for seq, done in enumerate(saves, first):
        if not done.done():
            done.set_result(seq)
