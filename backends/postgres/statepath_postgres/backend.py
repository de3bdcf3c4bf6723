"""A store in a PostgreSQL database: its log, its objects and its documents are rows."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Final

from statepath.backend import (
    ALWAYS,
    Blob,
    Capabilities,
    Commit,
    Entry,
    ETag,
    Filter,
    Moment,
    Part,
    Shown,
    Span,
    When,
)
from statepath.errors import AccessDeniedError, NotFoundError, ReadOnlyError

from statepath_postgres.config import SCHEME, PostgresConfig
from statepath_postgres.connections import Connections
from statepath_postgres.documents import Documents
from statepath_postgres.log import PostgresCommitLog
from statepath_postgres.objects import Objects
from statepath_postgres.reading import Reading
from statepath_postgres.schema import upgrade, version_of

_log = logging.getLogger("statepath.postgres")

_FIND: Final = "SELECT id FROM statepath.stores WHERE name = $1"
_MAKE: Final = "INSERT INTO statepath.stores (name) VALUES ($1) ON CONFLICT (name) DO NOTHING"
_SETTINGS: Final = (
    "SELECT current_setting('default_transaction_read_only') = 'on', current_setting('fsync') = 'on', "
    "current_setting('synchronous_commit')"
)


class PostgresBackend:
    """One store of a database, over a pool of connections."""

    def __init__(self, config: PostgresConfig, *, readonly: bool) -> None:
        self.url = config.url
        self.capabilities = Capabilities(
            durable=True,
            shared=True,
            overlapping=True,
            commit_log=True,
            streams=True,
            copy=True,
            queries=True,
            documents=True,
        )
        self._name = config.store
        self._readonly = readonly
        self._store: int | None = None
        self._connections = Connections(config, readonly=readonly)
        self._objects = Objects(self._connections)
        self._documents = Documents(self._connections, read=self._read_log, body=self._body)
        self._reading = Reading(self._connections, self._documents, readonly=readonly)
        self._log = PostgresCommitLog(
            self._connections,
            self.store,
            readonly=readonly,
            committed=self._documents.committed,
            met=self._documents.met,
        )

    async def open(self) -> None:
        """Make the first contact. A writer makes what is missing."""
        await self._connections.open()
        if self._readonly:
            await self.store()
            return
        await self._check_settings()
        await upgrade(self._connections)
        if await self.store() is None:
            # Twice does no harm; where transactions are isolated more, who comes second is refused once.
            await self._connections.patiently(lambda: self._connections.change(_MAKE, self._name))
            await self.store()

    async def store(self) -> int | None:
        """The number of the store; `None`: it is not there, and this handle makes none."""
        self._connections.check_open()
        if self._store is None:
            async with self._connections.use() as connection:
                if await version_of(connection):
                    self._store = await connection.fetchval(_FIND, self._name)
        return self._store

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self._connections.check_open(key)
        store = await self.store()
        if store is None:
            raise self._objects.missing(key)
        return await self._objects.read(store, key, span)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._objects.write(await self._writable(key), key, (data,), when)

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await self._objects.write(await self._writable(key), key, chunks, when)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._objects.delete(await self._writable(key), key, when)

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await self._objects.copy(await self._writable(target), source, target, when)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        store = await self.store()
        if store is not None:
            async for entry in self._objects.list_keys(store, prefix, after):
                yield entry

    async def show(self, seq: int, documents: Iterable[Shown]) -> None:
        self._documents.show(seq, documents)
        self._documents.start(await self._writable(""))

    async def settle(self, seq: int) -> bool:
        return await self._documents.settle(seq)

    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        store = await self.store()
        if store is None:
            return None
        return await self._documents.find(store, collection, where, seq, readonly=self._readonly)

    async def serve(self, seq: int) -> None:
        await self._reading.serve(await self._served(), seq)

    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        return await self._reading.read(await self._served(), keys, at_least)

    @asynccontextmanager
    async def moment(self, at_least: int) -> AsyncIterator[Moment]:
        async with self._reading.moment(await self._served(), at_least) as moment:
            yield moment

    def commit_log(self) -> PostgresCommitLog:
        return self._log

    async def close(self) -> None:
        # From the last to the first, and each whatever becomes of the others.
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._connections.close)
            stack.push_async_callback(self._log.close)
            stack.push_async_callback(self._documents.close)

    def _read_log(self, after: int) -> AsyncIterator[Commit]:
        return self._log.read(after)

    async def _body(self, key: str) -> bytes:
        return (await self.read(key)).data

    async def _served(self) -> int:
        store = await self.store()
        if store is None:
            raise NotFoundError(f"there is no store at {self.url}", key=self.url, backend=SCHEME)
        return store

    async def _writable(self, key: str) -> int:
        self._connections.check_open(key)
        if self._readonly:
            raise ReadOnlyError(f"{self.url} was opened for reading only", key=key, backend=SCHEME)
        store = await self.store()
        assert store is not None  # noqa: S101 - a writer made it
        return store

    async def _check_settings(self) -> None:
        """
        Raises:
            AccessDeniedError: every change would be refused.
        """
        async with self._connections.use() as connection:
            reads_only, fsync, synchronous = await connection.fetchrow(_SETTINGS)
        if reads_only:
            raise AccessDeniedError(
                f"default_transaction_read_only is on in {self.url}, so nothing can be saved; turn it off for this "
                "role (ALTER ROLE … SET default_transaction_read_only = off), make room where a service has turned it "
                "on because the disk is nearly full, or open the store with readonly=True",
                backend=SCHEME,
            )
        if fsync and synchronous != "off":
            return
        setting = "synchronous_commit" if fsync else "fsync"
        _log.warning(
            "%s is off in %s: a crash of the server loses changes that were acknowledged; turn it on, or give "
            "this role its own setting: ALTER ROLE … SET synchronous_commit = on",
            setting,
            self.url,
        )
        self.capabilities = replace(self.capabilities, durable=False)
