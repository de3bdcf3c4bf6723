"""The documents, read from their rows: for handles that do not hold them in memory.

Each answer is as of the one seq that the view shows in the transaction that gives it, and no earlier than the caller
asks for: a writer brings the view up to date first, a reader waits for the writers to do so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from statepath.backend import Filter, Moment, Part, Shown, Tally, microseconds
from statepath.errors import UnavailableError, UnsupportedError

from statepath_postgres.conditions import condition
from statepath_postgres.config import SCHEME
from statepath_postgres.connections import HOLD, Connection, Connections, in_transaction
from statepath_postgres.documents import PATIENCE, Documents
from statepath_postgres.schema import version_of

_LOOK: Final = 0.1  # seconds between two looks at what the view shows
_PART_BYTES: Final = 1024 * 1024
_FIRST_ROWS: Final = 20
_MOST_ROWS: Final = 5000
_SINCE: Final = 3
"""The version of the schema that keeps each document so that it can be given back."""

_SHOWN: Final = "SELECT coalesce((SELECT shown FROM statepath.views WHERE store = $1), 0)"
_HELD: Final = f"{_SHOWN}, {HOLD}"
_BEHIND: Final = """
SELECT coalesce((SELECT shown FROM statepath.views WHERE store = $1), 0) AS shown, floor
FROM statepath.stores WHERE id = $1
"""
_COLUMNS: Final = """
d.collection, d.id, d.version, d.modified, coalesce(d.exact, convert_to(d.data::text, 'UTF8')) AS document
"""
_READ: Final = """
SELECT coalesce((SELECT shown FROM statepath.views WHERE store = $1), 0) AS shown, {columns}
FROM (VALUES (1)) one LEFT JOIN (
    unnest($2::text[], $3::text[]) AS wanted (collection, id)
    JOIN statepath.documents d ON d.store = $1 AND d.collection = wanted.collection AND d.id = wanted.id
) ON true
""".replace("{columns}", _COLUMNS)
_SCAN: Final = """
DECLARE {name} NO SCROLL CURSOR FOR SELECT {columns} FROM statepath.documents d
WHERE store = $1 AND collection = $2 AND id > $3 AND (data IS NULL OR {condition}) ORDER BY id
""".replace("{columns}", _COLUMNS)
_TALLY: Final = """
SELECT collection, count(*) AS documents, sum(pg_column_size(data) + coalesce(pg_column_size(exact), 0)) AS bytes
FROM statepath.documents WHERE store = $1 AND ($2::text IS NULL OR collection = $2)
GROUP BY collection ORDER BY collection
"""


class Reading:
    """Reads the documents of one store. `documents` is what brings the view up to date, where the handle may."""

    def __init__(self, connections: Connections, documents: Documents, *, readonly: bool) -> None:
        self._connections = connections
        self._documents = documents
        self._readonly = readonly

    async def serve(self, store: int, seq: int) -> None:
        """See to it that the view shows the seq, and goes on.

        Raises:
            UnsupportedError: it cannot be brought up to date from the log, or the schema is too old.
        """
        async with self._connections.use() as connection:
            schema = await version_of(connection)
            behind = await connection.fetchrow(_BEHIND, store) if schema >= _SINCE else None
        if behind is None or behind["shown"] < 0 or behind["shown"] + 1 < behind["floor"]:
            raise self._needs_filling()
        if not self._readonly:
            self._documents.start(store)
        await self._reach(store, seq, _until())

    async def read(self, store: int, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        collections, ids = [collection for collection, _ in keys], [id for _, id in keys]
        until = _until()
        while True:
            rows = await self._connections.fetch(_READ, store, collections, ids)
            shown = rows[0]["shown"]
            if shown >= at_least:
                return Part(shown, [_document(row) for row in rows if row["id"] is not None])
            await self._reach(store, at_least, until, shown)

    @asynccontextmanager
    async def moment(self, store: int, at_least: int) -> AsyncIterator[Moment]:
        until = _until()
        await self._reach(store, at_least, until)
        while True:
            async with self._connections.borrow() as connection, _unchanging(connection):
                shown = await connection.fetchval(_HELD, store)
                if shown >= at_least:
                    yield _Moment(connection, store, shown)
                    return
            await self._reach(store, at_least, until, shown)

    async def _reach(self, store: int, seq: int, until: float, shown: int | None = None) -> None:
        """Wait until the view shows the seq. `shown`: what it was seen to show, which is less; of several servers that
        are read, one may be behind the others.

        Raises:
            UnavailableError: it does not soon.
            UnsupportedError: it never will, as it is.
        """
        if shown is not None:
            self._documents.doubt(shown)
            if time.monotonic() > until:
                raise self._is_behind(shown, seq)
        if not self._readonly:
            if not await self._documents.settle(seq):
                if self._documents.stuck:
                    raise self._needs_filling()
                raise self._is_behind(await self._shown(store), seq)
            return
        if shown is None:
            shown = await self._shown(store)
        while shown < seq:
            if time.monotonic() > until:
                raise self._is_behind(shown, seq)
            await asyncio.sleep(_LOOK)
            shown = await self._shown(store)

    async def _shown(self, store: int) -> int:
        return int((await self._connections.fetch(_SHOWN, store))[0][0])

    def _needs_filling(self) -> UnsupportedError:
        return UnsupportedError(
            f"the documents in {self._connections.url} cannot be brought up to date from the log alone: open the "
            "store once for writing without load=False (STATE_LOAD=true), which makes them anew",
            backend=SCHEME,
            code="needs_recovery",
        )

    def _is_behind(self, shown: int, seq: int) -> UnavailableError:
        if self._readonly:
            cause = "is a writer running? one that opens the store brings them up to date"
        elif failure := self._documents.failure:
            cause = f"the last attempt to write them failed: {failure}"
        else:
            cause = "they are being written: try again"
        return UnavailableError(
            f"the documents in {self._connections.url} show seq {shown}, and seq {seq} is needed; {cause}",
            backend=SCHEME,
        )


def _until() -> float:
    return time.monotonic() + PATIENCE


class _Moment:
    """What a transaction sees."""

    def __init__(self, connection: Connection, store: int, seq: int) -> None:
        self.seq = seq
        self._connection = connection
        self._store = store
        self._scans = 0

    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        said = None if where is None else condition(where, first=4)
        self._scans += 1
        name = f"scan_{self._scans}"
        statement = _SCAN.replace("{name}", name).replace("{condition}", "true" if said is None else said.sql)
        arguments = () if said is None else said.arguments
        await self._connection.execute(statement, self._store, collection, after, *arguments)
        count = _FIRST_ROWS
        while True:
            rows = await self._connection.fetch(f"FETCH {count} FROM {name}")
            if rows:
                yield [_document(row) for row in rows]
            if len(rows) < count:
                return
            count = _next_count(rows)

    async def tally(self, *, collection: str | None = None) -> dict[str, Tally]:
        rows = await self._connection.fetch(_TALLY, self._store, collection)
        return {row["collection"]: Tally(row["documents"], int(row["bytes"] or 0)) for row in rows}


def _unchanging(connection: Connection) -> Any:
    """A transaction in which every statement sees the same state."""
    return in_transaction(connection, isolation="repeatable_read", readonly=True)


def _next_count(rows: Sequence[Any]) -> int:
    """How many rows make a part of about the size that is meant, if they are like these."""
    size = sum([len(row["document"]) for row in rows])
    return max(1, min(_MOST_ROWS, _PART_BYTES * len(rows) // max(size, 1)))


def _document(row: Any) -> Shown:
    modified = microseconds(row["modified"])
    return Shown(row["collection"], row["id"], row["version"], modified, row["document"])
