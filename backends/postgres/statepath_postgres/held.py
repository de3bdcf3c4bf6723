"""The one connection that commits: held, because asking a pool for one each time costs as much as the commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from statepath.errors import ClosedError

from statepath_postgres.config import SCHEME
from statepath_postgres.connections import Connection, Connections
from statepath_postgres.failures import translated

_CLOSING: Final = 5.0  # seconds


class Held:
    """Makes the connection when it is needed, and anew after anything went wrong on it."""

    def __init__(self, connections: Connections, *, patience: float) -> None:
        self._connections = connections
        self._patience = patience
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def fetchval(self, statement: str, *arguments: object, sending: Callable[[], None]) -> Any:
        """The first value that the statement gives, which is one transaction. `sending` is called before it may have
        any effect. Once begun it is finished, though nobody may wait any more.

        Raises:
            ClosedError: `close` could not wait for it.
        """
        task = asyncio.create_task(self._fetchval(statement, arguments, sending))
        self._running.add(task)
        task.add_done_callback(self._finished)
        await asyncio.wait([task])
        if task.cancelled():
            raise ClosedError(f"the connection to {self._connections.url} is closed", backend=SCHEME)
        return task.result()

    async def _fetchval(
        self, statement: str, arguments: tuple[object, ...], sending: Callable[[], None]
    ) -> Any:
        async with self._turn:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = self._connection = await self._connections.connect(patience=self._patience)
            sending()
            try:
                with translated(self._connections.url):
                    return await connection.fetchval(statement, *arguments, timeout=self._patience)
            except BaseException:
                self._drop()
                raise

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # whoever still waits has it

    async def close(self) -> None:
        """Let what was begun end, for a while, so that whoever comes next finds it done or not done. What waits for a
        connection even then is not sent any more."""
        try:
            if self._running:
                _, late = await asyncio.wait(self._running, timeout=_CLOSING)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        finally:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
