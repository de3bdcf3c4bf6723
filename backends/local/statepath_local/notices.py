"""Notices of what other processes commit, for who follows the log: from the system where it gives any (inotify), and
otherwise by a look now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from statepath_local.tree import LOCK, Tree

_SHORTEST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.5
_LULL: Final = 0.005
"""Seconds between two looks: where commits come faster than that, one look sees several."""
_OWN_LULL: Final = 0.02
"""The same where this handle commits: what others do it meets itself, with its next commit."""


class Notices:
    """Sets the event when a commit was told, unless it is `expected`: then somebody else sets it. How long to wait for
    it at the most, `pause` says."""

    def __init__(self, tree: Tree, event: asyncio.Event, expected: Callable[[], bool]) -> None:
        self._port = tree.port
        self._path = f"{tree.path}/{LOCK}"
        self._event = event
        self._expected = expected
        self._pause = _SHORTEST_POLL
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._looked = 0.0
        self._begin()

    def _begin(self) -> None:
        # Each commit is told in the file `lock`. A system without notices, or without one to spare, is asked instead.
        with suppress(OSError, NotImplementedError):
            fd = self._port.watch(self._path)
            try:
                self._loop.add_reader(fd, self._noticed)
            except BaseException:
                self._port.close(fd)
                raise
            self._fd = fd

    async def lull(self, *, own: bool) -> None:
        """Wait until another look is worth its price; what is noticed meanwhile, that look sees. `own`: what there is
        to see is this handle's, as far as is known."""
        pause = self._looked + (_OWN_LULL if own else _LULL) - self._loop.time()
        if pause > 0:
            if self._fd >= 0:
                self._loop.remove_reader(self._fd)
            try:
                await asyncio.sleep(pause)
            finally:
                if self._fd >= 0:
                    self._loop.add_reader(self._fd, self._noticed)
        self._looked = self._loop.time()

    def _noticed(self) -> None:
        with suppress(BlockingIOError):
            self._port.read(self._fd, 65536)
        if not self._expected():
            self._event.set()

    def met(self) -> None:
        """There was something new."""
        self._pause = _SHORTEST_POLL

    def pause(self) -> float:
        """Seconds after which it is worth to look, whatever was noticed."""
        if self._fd < 0:
            self._begin()
        if self._fd >= 0:
            return _LONGEST_POLL
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_POLL)
        return pause

    def end(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._port.close(fd)
