"""Connections to the servers of a state path: a pool, and connections of one's own."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import asyncpg
from statepath.errors import (
    ClosedError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
)

from statepath_postgres.config import FILES, SCHEME, PostgresConfig
from statepath_postgres.failures import takes_no_writes, translated, worth_repeating
from statepath_postgres.hosts import connect_to_one
from statepath_postgres.tls import SYSTEM, trusting_the_system

T = TypeVar("T")

Connection: TypeAlias = Any
"""An asyncpg connection, or the pool's stand-in for one."""

POOL: Final = 10
TIMEOUT: Final = 30.0
PATIENCE: Final = 5.0
"""For how many seconds a server is waited for by what may as well fail; a commit insists until its `timeout`."""

CONNECT_TIMEOUT: Final = 10.0
STATEMENT_TIMEOUT: Final = 60.0
LOCK_TIMEOUT: Final = 10.0

_ANSWERED: Final = 0.75
"""Of the time that is waited for an answer: when the server gives up a lock, and says so, which leaves nothing open."""

HOLD: Final = """
set_config('idle_in_transaction_session_timeout', '0', true),
CASE WHEN current_setting('transaction_timeout', true) <> '' THEN set_config('transaction_timeout', '0', true) END
"""
"""For a transaction that takes its time, whatever the server says of those; an older one knows the first only."""

_DATABASE: Final = """
SELECT oid, (SELECT system_identifier FROM pg_control_system()) FROM pg_database WHERE datname = current_database()
"""
"""Which database it is: the same on its standbys, whatever they are called there."""

IDLE: Final = 300.0
"""For how many seconds a connection without use is kept: what stands between may forget it, and tell nobody."""

_SOONEST: Final = 0.02  # seconds
_LATEST: Final = 1.0
_CLOSING: Final = 5.0


class Connections:
    """Makes connections, and keeps those that any call may use. A server that restarts is waited for."""

    def __init__(self, config: PostgresConfig, *, readonly: bool) -> None:
        self.url = config.url
        self.deadline = config.timeout or TIMEOUT
        self.patience = min(self.deadline, PATIENCE)
        self._config = config
        self._readonly = readonly
        self._pool: Any = None
        self._lent = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    async def open(self) -> None:
        """Make the first contact, without patience: what is wrong shows at once."""
        for config in (self._config, self._config.listener):
            if config is not None:
                _check_files(config)
        with translated(self.url):
            pool = asyncpg.create_pool(
                min_size=0,
                max_size=self._config.pool or POOL,
                max_inactive_connection_lifetime=IDLE,
                reset=_nothing,  # no session state is ever left, so a statement less at each release
                connect=connect_to_one,
                **self._arguments(self._config),
            )
            self._pool = await pool
            async with pool.acquire() as connection:
                encoding = getattr(connection.get_settings(), "server_encoding", "UTF8")
        if encoding != "UTF8":
            raise InvalidArgumentError(
                f"the database of {self.url} has the encoding {encoding}, which cannot hold every text: "
                "use one that was created with ENCODING 'UTF8'",
                backend=SCHEME,
            )

    async def connect(self, *, listening: bool = False, patience: float | None = None) -> Connection:
        """A connection of one's own; one for notifications goes past a pooler. One with `patience` waits no longer than
        that for an answer, and hears of a lock before that."""
        self.check_open()
        config = self._config
        if listening and config.listener is not None:
            config = config.listener
        return await connect_to_one(**self._arguments(config, patience))

    @property
    def can_listen(self) -> bool:
        """Whether notifications reach us: not through a pooler that gives each transaction another session."""
        return not self._config.pgbouncer or self._config.listener is not None

    async def check_listener(self, connection: Connection) -> None:
        """
        Raises:
            InvalidArgumentError: the connection is to another database, where nothing of ours is announced.
        """
        if self._config.listener is None:
            return
        there = await self._database_of(connection)
        async with self.use() as ours:
            here = await self._database_of(ours)
        if None not in (here, there) and here != there:
            raise InvalidArgumentError(
                f"listen_dsn names another database than {self.url}, and nothing is announced there; name the same "
                "database, past the pooler",
                backend=SCHEME,
            )

    async def _database_of(self, connection: Connection) -> tuple[Any, ...] | None:
        """Which database the connection is to; `None`: the server does not say. PostgreSQL tells everybody, but who
        manages one may have forbidden it, or have no such function."""
        try:
            with translated(self.url):
                return tuple(await connection.fetchrow(_DATABASE))
        except StateError as error:
            if worth_repeating(error):
                raise
            return None

    @asynccontextmanager
    async def use(
        self, key: str | None = None, *, patience: float | None = None
    ) -> AsyncIterator[Connection]:
        """A connection of the pool. Until there is one nothing was sent, so it is waited for, as `patiently` does."""
        pool = self._pool
        connection = await self.patiently(lambda: self._acquire(key), patience)
        try:
            with translated(self.url, key):
                yield connection
        except StateError as error:
            if isinstance(error.__cause__, TimeoutError) or takes_no_writes(error):
                # Nobody is there, for the pool's other connections either; or they keep what the server was told when
                # they began, and it may take writes again.
                terminate(connection)
                await pool.expire_connections()
            self.check_open(key)
            raise
        finally:
            # One that broke is dropped by the pool, and the caller has its error already.
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await pool.release(connection, timeout=_CLOSING)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Connection]:
        """A connection for as long as the caller likes. Half of the pool is lent so, and then each gets one of its own:
        who holds one and waits for another waits for nobody who does the same."""
        if self._lent >= (self._config.pool or POOL) // 2:
            connection = await self.patiently(self.connect)
            try:
                with translated(self.url):
                    yield connection
            finally:
                await give_up(connection)
            return
        self._lent += 1
        try:
            async with self.use() as connection:
                yield connection
        finally:
            self._lent -= 1

    async def fetch(self, statement: str, *arguments: object, key: str | None = None) -> list[Any]:
        """The rows of a statement that changes nothing; asked again if the connection is lost."""

        async def ask() -> list[Any]:
            async with self.use(key, patience=0) as connection:  # the patience is this call's
                rows: list[Any] = await connection.fetch(statement, *arguments)
                return rows

        return await self.patiently(ask)

    async def change(self, statement: str, *arguments: object, key: str | None = None) -> Any:
        """The first row of a statement that changes something, sent once; `None`: there is none."""
        async with self.use(key) as connection:
            return await connection.fetchrow(statement, *arguments)

    async def patiently(self, call: Callable[[], Awaitable[T]], patience: float | None = None) -> T:
        """Call again, with growing pauses, while the server does not answer and until patience ends: that of who asks,
        else that for what may as well fail."""
        until = time.monotonic() + (self.patience if patience is None else patience)
        pause = _SOONEST
        while True:
            try:
                return await call()
            except (UnavailableError, ThrottledError) as error:
                if not worth_repeating(error) or time.monotonic() + pause > until:
                    raise
            self.check_open()
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause = min(2 * pause, _LATEST)

    def check_open(self, key: str | None = None) -> None:
        if self._closed:
            raise ClosedError(f"the connection to {self.url} is closed", key=key, backend=SCHEME)

    def cut_off(self) -> None:
        """Lose every connection of the pool, whoever uses it."""
        if self._pool is not None:
            self._pool.terminate()

    async def close(self) -> None:
        """Give every connection back; what is still under way is cut off after a while."""
        self._closed = True
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                await asyncio.wait_for(pool.close(), _CLOSING)
            except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    async def _acquire(self, key: str | None) -> Connection:
        self.check_open(key)
        assert self._pool is not None  # noqa: S101 - it is there from `open` to `close`
        with translated(self.url, key):
            try:
                return await self._pool.acquire()
            except asyncpg.InterfaceError:
                self.check_open(key)
                raise

    def _arguments(self, config: PostgresConfig, patience: float | None = None) -> dict[str, Any]:
        tls = {name: _file(value) if name in FILES else value for name, value in config.tls}
        if tls.get("sslrootcert") == SYSTEM:
            with translated(self.url):
                context = trusting_the_system(tls)
            tls = {name: value for name, value in tls.items() if name == "sslnegotiation"}
        else:
            context = None
        statement_timeout = config.statement_timeout or STATEMENT_TIMEOUT
        lock_timeout = config.lock_timeout or LOCK_TIMEOUT
        if patience is not None:
            lock_timeout = min(lock_timeout, _ANSWERED * patience)
        arguments: dict[str, Any] = {
            "hosts": config.hosts,
            "session": self._session(config),
            "url": self.url,
            "dsn": f"{SCHEME}://?{urlencode(tls, quote_via=quote)}" if tls else None,
            "ssl": context,
            "user": config.user or None,
            "password": config.password,
            "passfile": config.passfile and _file(config.passfile),
            "database": config.database or None,
            "timeout": CONNECT_TIMEOUT if config.connect_timeout is None else config.connect_timeout or None,
            "command_timeout": statement_timeout + 5 if patience is None else patience,
        }
        if config.pgbouncer:
            return arguments | {"statement_cache_size": 0}
        settings = {
            "application_name": config.application or "statepath",
            "statement_timeout": str(round(statement_timeout * 1000)),
            "lock_timeout": str(max(1, round(lock_timeout * 1000))),
            "default_transaction_isolation": "read committed",
            "jit": "off",
            "client_min_messages": "warning",
        }
        if self._readonly:
            settings["default_transaction_read_only"] = "on"
        return arguments | {"server_settings": settings}

    def _session(self, config: PostgresConfig) -> str:
        if not self._readonly:
            return config.session or ("read-write" if len(config.hosts) > 1 else "any")
        # No session of ours takes writes, so asyncpg would find no server that does.
        return "primary" if config.session == "read-write" else config.session or "any"


def _check_files(config: PostgresConfig) -> None:
    """
    Raises:
        InvalidArgumentError: a file that TLS needs is missing.
    """
    said = dict(config.tls)
    for name, value in said.items() if said.get("sslmode") != "disable" else ():
        if name in FILES and value != SYSTEM and not os.path.isfile(_file(value)):
            # What a URL says as `sslkey` is taken for a secret, and nobody is shown a message that quotes it.
            file = "a file that" if name == "sslkey" else f"the file {value}, which"
            raise InvalidArgumentError(
                f"{config.url} cannot be used: {name} names {file} does not exist",
                backend=SCHEME,
            )


def _file(name: str) -> str:
    """As a shell has it that was given the name alone, and not in a URL."""
    return os.path.expanduser(name)


@asynccontextmanager
async def in_transaction(connection: Connection, **options: Any) -> AsyncIterator[None]:
    """As `connection.transaction`, which would wait without end for a silent server to roll back: here the connection
    goes then."""
    begun = connection.transaction(**options)
    try:
        await begun.start()
        yield
    except BaseException:
        rolled_back = False
        try:
            with suppress(TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                async with asyncio.timeout(_CLOSING):
                    await begun.rollback()
                rolled_back = True
        finally:
            if not rolled_back:
                terminate(connection)
        raise
    else:
        await begun.commit()


def terminate(connection: Connection) -> None:
    """End a connection; the pool knows no more of one that asyncpg has ended already."""
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


async def give_up(connection: Connection) -> None:
    """Give up a connection of one's own; one that broke is gone already."""
    try:
        # Its own time-out need not count the wait for a cancelled statement.
        async with asyncio.timeout(_CLOSING):
            await connection.close(timeout=_CLOSING)
    except (TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        connection.terminate()


async def _nothing(connection: Connection) -> None:
    """What a connection needs before it goes back into the pool."""
