"""The one connection that commits: held, because asking a pool for one each time costs as much as the commit.

A statement is sent from the caller's own task: one more would cost a commit a tenth of its time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import asyncpg
from statepath.errors import ClosedError, UnavailableError

from statepath_postgres.config import SCHEME
from statepath_postgres.connections import IDLE, Connection, Connections, give_up
from statepath_postgres.failures import translated

_CLOSING: Final = 5.0  # seconds


class Held:
    """Makes the connection when it is needed, and anew after anything went wrong on it."""

    def __init__(self, connections: Connections, *, patience: float) -> None:
        self._connections = connections
        self._patience = patience
        self._connection: Connection | None = None
        self._used = 0.0
        self._unconfirmed = False
        self._turn = asyncio.Lock()
        self._connecting: asyncio.Timeout | None = None
        self._left: set[asyncio.Task[None]] = set()
        """Ends of connections: those that were not used for long, or on which a statement was cancelled."""

        self._closed = False

    async def fetchval(self, statement: str, *arguments: object, sending: Callable[[], None]) -> Any:
        """The first value that the statement gives, which is one transaction. `sending` is called before it may have
        any effect. Where the caller is cancelled, so is the statement, if it still can be; until that is decided,
        `close` waits.

        Raises:
            ClosedError: it was not sent, because of `close`.
            UnavailableError: it may be done, and may not: also where it is, and a standby that has to have it, too, was
                not waited for.
        """
        return await self._run(lambda connection: connection.fetchval(statement, *arguments), sending)

    async def fetch(self, statement: str, *arguments: object) -> list[Any]:
        """The rows of a statement that changes nothing. Raises as `fetchval`."""
        rows: list[Any] = await self._run(
            lambda connection: connection.fetch(statement, *arguments), lambda: None
        )
        return rows

    async def _run(self, call: Callable[[Connection], Awaitable[Any]], sending: Callable[[], None]) -> Any:
        async with self._turn:
            connection = self._connection
            if connection is not None and time.monotonic() - self._used > IDLE:
                self._leave(connection)
                connection = None
            if connection is None or connection.is_closed():
                connection = self._connection = await self._connect()
            sending()
            self._unconfirmed = False
            try:
                with translated(self._connections.url):
                    value = await call(connection)
            except asyncio.CancelledError:
                self._leave(connection)
                raise
            except BaseException:
                self._drop()
                raise
            else:
                self._used = time.monotonic()
                if self._unconfirmed:
                    raise UnavailableError(
                        f"the server of {self._connections.url} was told not to wait for its standby",
                        backend=SCHEME,
                    )
                return value

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(None) as limit:
                if not self._closed:
                    self._connecting = limit
                    connection = await self._connections.connect(patience=self._patience)
                    if self._connecting is limit:
                        connection.add_log_listener(self._hear)
                        return connection
                    connection.terminate()  # it has come when `close` had just ceased to wait
        except TimeoutError:
            if not self._closed:
                raise
        finally:
            self._connecting = None
        raise ClosedError(f"the connection to {self._connections.url} is closed", backend=SCHEME)

    async def close(self) -> None:
        """Let what was begun end, for a while, so that whoever comes next finds it done or not done. What waits for a
        connection even then is not sent any more."""
        self._closed = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSING), self._turn:
                    pass
            if self._left:
                await asyncio.wait(self._left)
        finally:
            connecting, self._connecting = self._connecting, None
            if connecting is not None:
                connecting.reschedule(asyncio.get_running_loop().time())
            for end in self._left:
                end.cancel()
            self._drop()

    def _hear(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        # Somebody has cancelled a commit that waited for a standby; the server says that it is done all the same.
        self._unconfirmed |= getattr(message, "server_source_function", None) == "SyncRepWaitForLSN"

    def _leave(self, connection: Connection) -> None:
        self._connection = None
        end = asyncio.create_task(give_up(connection))
        self._left.add(end)
        end.add_done_callback(self._left.discard)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
