"""Following the log while somebody wants to know what other writers commit, and not longer: on some storages each look
has its price."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Final, cast

from statepath.backend import CommitLog
from statepath.commit import Commit
from statepath.errors import StateError

logger = logging.getLogger("statepath.following")

_SOONEST: Final = 0.05
_LATEST: Final = 5.0


class Follower:
    """One task for all who follow. It hands each commit of the log to `take`, but for those that are known (up to
    `head`), and goes on where the storage did not answer for a while. What ends it is its `failure`; `wake` lets those
    look who wait."""

    def __init__(
        self,
        log: CommitLog,
        head: Callable[[], int],
        take: Callable[[Commit], Awaitable[None]],
        wake: Callable[[], None],
    ) -> None:
        self._log = log
        self._head = head
        self._take = take
        self._wake = wake
        self._wanted = 0
        self._task: asyncio.Task[None] | None = None
        self.failure: StateError | None = None

    def join(self, after: int) -> None:
        """Somebody follows from now on; the commits behind the seq are not known yet."""
        self._wanted += 1
        if self._task is None or self._task.done():
            self.failure = None
            self._task = asyncio.get_running_loop().create_task(self._run(after), name="statepath-follower")

    def leave(self) -> None:
        self._wanted -= 1
        if not self._wanted and self._task is not None:
            self._task.cancel()
            self._task = None

    async def stop(self) -> None:
        """End the task, whoever still follows."""
        task = self._task
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self, after: int) -> None:
        pause = _SOONEST
        while True:
            try:
                follow = cast(
                    "AsyncGenerator[Commit]", self._log.follow(max(after, self._head()), self._head)
                )
                async with aclosing(follow) as commits:
                    async for commit in commits:
                        await self._take(commit)
                        after, pause = commit.last, _SOONEST
            except StateError as error:
                if not error.retryable:
                    self.failure = error
                    self._wake()
                    return
                logger.warning("the log cannot be followed for now: %s", error, extra={"code": error.code})
            except Exception as error:
                logger.exception("the log cannot be followed")
                self.failure = StateError(f"the log cannot be followed: {error!r}")
                self._wake()
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATEST)
