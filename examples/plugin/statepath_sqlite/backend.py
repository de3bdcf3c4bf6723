"""Bytes under keys, in a table of a SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TypeVar
from urllib.parse import quote

from statepath.backend import ALWAYS, Blob, Capabilities, Entry, ETag, IfAbsent, IfMatch, Span, When
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)

from statepath_sqlite.config import DEFAULT_TIMEOUT, SqliteConfig
from statepath_sqlite.failures import translated

T = TypeVar("T")

# Each write makes a new row, and AUTOINCREMENT never gives a number twice: so `version` is the ETag.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    data BLOB NOT NULL,
    modified INTEGER NOT NULL -- microseconds since 1970
)
"""

_creating = threading.Lock()
"""Held until the descriptor of a new file is closed: another connection of this process would lock it before."""

_PAGE = 200
_PAUSE = 0.01
_LIMIT = 900_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SqliteBackend:
    """A SQLite connection, and the one thread that uses it."""

    capabilities: Capabilities = Capabilities(durable=True, shared=True, max_object_bytes=_LIMIT)

    def __init__(self, config: SqliteConfig, *, readonly: bool) -> None:
        self.url = f"sqlite://{quote(config.path)}"
        self._config = config
        self._readonly = readonly
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="statepath-sqlite")

    async def open(self) -> None:
        """Create the file where it is missing. With `readonly` nothing is done before the first call."""
        if not self._readonly:
            await self._run(None, lambda connection: None)

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        start, length = 0, _LIMIT
        if span is not None:
            start = span.start
            length = _LIMIT if span.stop is None else max(span.stop - span.start, 0)

        def work(connection: sqlite3.Connection) -> Blob:
            # Of an empty value `substr` makes NULL.
            query = "SELECT coalesce(substr(data, ?, ?), x''), version, modified FROM objects WHERE key = ?"
            row = connection.execute(query, (start + 1, length, key)).fetchone()
            if row is None:
                raise self._nothing(key)
            data, version, modified = row
            return Blob(data, ETag(str(version)), _EPOCH + timedelta(microseconds=modified))

        return await self._run(key, work)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        def work(connection: sqlite3.Connection) -> ETag:
            with _transaction(connection):
                _check(connection, key, when)
                cursor = connection.execute(
                    "REPLACE INTO objects (key, data, modified) VALUES (?, ?, ?)",
                    (key, data, time.time_ns() // 1000),
                )
            return ETag(str(cursor.lastrowid))

        self._check_writable(key)
        if len(data) > _LIMIT:
            raise InvalidArgumentError(f"{key} is larger than {_LIMIT} bytes", key=key, backend="sqlite")
        return await self._run(key, work)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        def work(connection: sqlite3.Connection) -> bool:
            with _transaction(connection):
                if _stored(connection, key) is None:
                    return False
                _check(connection, key, when)
                connection.execute("DELETE FROM objects WHERE key = ?", (key,))
            return True

        self._check_writable(key)
        return await self._run(key, work)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        # No character of a key sorts after "~": so this is behind every key that begins with the prefix.
        end = prefix + "\x7f"

        def page(connection: sqlite3.Connection) -> list[tuple[str, int, int]]:
            query = (
                "SELECT key, length(data), modified FROM objects"
                " WHERE key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?"
            )
            return connection.execute(query, (prefix, after, end, _PAGE)).fetchall()

        try:
            while rows := await self._run(prefix, page):
                for key, size, modified in rows:
                    yield Entry(key, size, modified / 1e6)
                after = rows[-1][0]
        except NotFoundError:
            return

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        closing = asyncio.get_running_loop().run_in_executor(self._worker, self._disconnect)
        self._worker.shutdown(wait=False)
        await asyncio.shield(closing)

    async def _run(self, key: str | None, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do the work in the thread. Once begun it is finished there, though nobody may wait any more."""
        self._check_open(key)

        def job() -> T:
            with translated(key, self.url):
                if self._connection is None:
                    self._connection = self._connect(key)
                return work(self._connection)

        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    def _connect(self, key: str | None) -> sqlite3.Connection:
        path = self._config.path
        timeout = DEFAULT_TIMEOUT if self._config.timeout is None else self._config.timeout
        if not self._readonly:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._create(path)
        elif not os.path.exists(path):
            raise self._nothing(key)
        mode = "ro" if self._readonly else "rw"
        location = f"file://{quote(path)}?mode={mode}"
        connection = sqlite3.connect(location, timeout=timeout, isolation_level=None, uri=True)
        try:
            self._prepare(connection, key, timeout)
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, path: str) -> None:
        """Make the file, for its owner only, where it is missing."""
        # One that is there is left to SQLite: to close a descriptor of it ends the locks that this process has on it.
        with _creating:
            if not os.path.isfile(path):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def _prepare(self, connection: sqlite3.Connection, key: str | None, timeout: float) -> None:
        if not self._readonly:
            _use_wal(connection, timeout)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(_SCHEMA)
        elif not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'objects'").fetchone():
            raise self._nothing(key)

    def _nothing(self, key: str | None) -> NotFoundError:
        return NotFoundError(f"there is no object {key} in {self.url}", key=key, backend="sqlite")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _check_open(self, key: str | None) -> None:
        if self._closed:
            raise ClosedError(f"the connection to {self.url} is closed", key=key, backend="sqlite")

    def _check_writable(self, key: str) -> None:
        self._check_open(key)
        if self._readonly:
            raise ReadOnlyError(f"{self.url} was opened for reading only", key=key, backend="sqlite")


def _use_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Have SQLite keep a write-ahead log. Of several that begin this it lets one through, and tells the others that the
    file is locked, however long they would have waited."""
    patience = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _stored(connection: sqlite3.Connection, key: str) -> str | None:
    row = connection.execute("SELECT version FROM objects WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _check(connection: sqlite3.Connection, key: str, when: When) -> None:
    if isinstance(when, IfAbsent) and _stored(connection, key) is not None:
        raise AlreadyExistsError(f"{key} exists already", key=key, backend="sqlite")
    if isinstance(when, IfMatch) and _stored(connection, key) != when.etag:
        raise ConflictError(f"{key} is not the version that was asked for", key=key, backend="sqlite")


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    # IMMEDIATE: what is checked within it cannot change before it is written.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
