"""What wakes the followers of a log: the commits of this handle, and the notifications of all others."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from statepath.errors import StateError, ThrottledError, UnavailableError

from statepath_postgres.connections import Connection, Connections
from statepath_postgres.failures import takes_no_writes, translated

_log = logging.getLogger("statepath.postgres")

_AUDIENCE: Final = 0x6865_6172 << 32
_SOONEST: Final = 0.02  # seconds
_LATEST: Final = 2.0
_NET: Final = 5.0
"""How often a follower looks although notifications arrive: one may have been lost."""

_PULSE: Final = 60.0
"""How often the server is asked whether it is still there: a connection may end without a word."""

_ANSWER: Final = 10.0  # seconds


def channel(store: int) -> str:
    """Where the commits of a store are announced, by their last seq alone."""
    return f"statepath_{store}"


def audience(store: int) -> int:
    """The advisory lock that all who listen share. Who finds it free announces nothing: an announcement has a lock of
    the whole server until its commit is on the disk, so the commits of all stores would go one after another."""
    return _AUDIENCE + store


class Listener:
    """Listens on a connection of its own, from the first time that somebody waits until it is closed."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._task: asyncio.Task[None] | None = None
        self._listening = False
        self._pause = _SOONEST
        self._news: asyncio.Event | None = None

    @property
    def news(self) -> asyncio.Event:
        """Set at the next news. To be taken before the look that it follows."""
        if self._news is None:
            self._news = asyncio.Event()
        return self._news

    def tell(self) -> None:
        """Wake everybody who waits."""
        self._pause = _SOONEST
        news, self._news = self._news, None
        if news is not None:
            news.set()

    async def wait(self, news: asyncio.Event, store: int | None) -> None:
        """Until there are news, or it is time to look without."""
        self._connections.check_open()
        if self._task is None and store is not None and self._connections.can_listen:
            self._task = asyncio.create_task(self._listen(store), name="statepath-listener")
        pause = _NET if self._listening else self._pause
        self._pause = min(1.5 * self._pause, _LATEST)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await news.wait()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        self.tell()

    async def _listen(self, store: int) -> None:
        pause = _SOONEST
        while True:
            try:
                connection = await self._connections.connect(listening=True)
                try:
                    await self._connections.check_listener(connection)
                    await self._hear(connection, store)
                    pause = _SOONEST
                finally:
                    connection.terminate()
            except StateError as error:
                # Nobody listens on a standby.
                if takes_no_writes(error) or not isinstance(error, UnavailableError | ThrottledError):
                    _log.warning("no notifications, so the log is polled: %s", error)
                    return
                _log.debug("no notifications for now: %s", error)
            finally:
                self._listening = False
                self.tell()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LATEST)

    async def _hear(self, connection: Connection, store: int) -> None:
        """Pass on what is announced until the connection ends."""
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        with translated(self._connections.url):
            await connection.add_listener(channel(store), lambda *_: self.tell())
            # It waits for the commit that has just found nobody here.
            await connection.fetchval("SELECT pg_advisory_lock_shared($1)", audience(store))
        self._listening = True
        # What came before we listened was announced to nobody.
        self.tell()
        while not ended.is_set():
            try:
                async with asyncio.timeout(_PULSE):
                    await ended.wait()
            except TimeoutError:
                with translated(self._connections.url):
                    await connection.fetchval("SELECT 1", timeout=_ANSWER)
