"""A task that is needed until its store is closed, though others end it: `asyncio.run` cancels all tasks at its end,
and whoever closes a store then, or saves at last, waits for those of the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final

logger = logging.getLogger("statepath.lasting")

ENDINGS: Final = (asyncio.CancelledError, SystemExit, KeyboardInterrupt)
"""What ends a task that nobody has stopped: who cancels all, a listener that ends the program, or Ctrl-C."""


class LastingTask:
    """Runs until `stop`. Ended by somebody else it begins again, but only while it is `wanted`: where nobody closes
    the store, nothing of it is left running.

    Attributes:
        stopped: whether `stop` was called.
        again: whether somebody else has ended it before: then it does what is wanted, and waits for nothing further.
    """

    def __init__(
        self, run: Callable[[], Coroutine[Any, Any, None]], wanted: Callable[[], bool], name: str
    ) -> None:
        self._run = run
        self._wanted = wanted
        self._name = name
        self.stopped = self.again = False
        self._begin()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            logger.error("%s failed unexpectedly", self._name, exc_info=error)
        if task is self._task:
            self.attend()

    def attend(self) -> None:
        """It may be wanted again."""
        if self._task.done() and self._was_ended() and not self.stopped and self._wanted():
            self.again = True
            self._begin()

    def _was_ended(self) -> bool:
        return self._task.cancelled() or isinstance(self._task.exception(), ENDINGS)

    async def join(self) -> None:
        """Wait until it ends by itself, or is not wanted any more."""
        self.attend()
        while not self._task.done():
            await asyncio.wait([self._task])
            self.attend()

    async def stop(self) -> None:
        """End it, and wait for that."""
        self.stopped = True
        self._task.cancel()
        await asyncio.wait([self._task])
