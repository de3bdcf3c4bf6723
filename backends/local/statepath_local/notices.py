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
