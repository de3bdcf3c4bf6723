"""Bytes under keys, in the tables `objects` and `pieces`."""

# ruff: noqa: S608 - what is put into the statements are constants

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, Final

from statepath.backend import Always, Blob, Entry, ETag, IfAbsent, IfMatch, Span, When
from statepath.errors import AlreadyExistsError, ConflictError, CorruptionError, NotFoundError

from statepath_postgres.config import SCHEME
from statepath_postgres.connections import HOLD, Connections, in_transaction

PIECE: Final = 4 * 1024 * 1024
"""How many bytes of an object stand in one value."""

_MOST: Final = 2**31 - 1
"""The largest number that `substring` takes, for the end of a part, too."""

_PAGE: Final = 1000
_COPIED: Final = 16
"""How many pieces one statement copies: `statement_timeout` is for each."""


# A fail-over may take back what was drawn from `versions`, and draw it again; but not at the same moment.
_ETAG: Final = "version || '-' || (extract(epoch FROM modified) * 1000000)::bigint"
_READ: Final = f"""
SELECT {_ETAG} AS etag, version, modified, size, substring(data FROM $3 FOR $4) AS data
FROM statepath.objects WHERE store = $1 AND key = $2
"""
# With the object itself, as of the same moment: pieces that are missing then were not replaced, but lost.
_PIECES: Final = """
SELECT p.data FROM statepath.objects o
LEFT JOIN statepath.pieces p ON p.version = o.version AND p.place >= $4 AND p.place < $5
WHERE o.store = $1 AND o.key = $2 AND o.version = $3 ORDER BY p.place
"""
_LIST: Final = """
SELECT key, size, modified FROM statepath.objects
WHERE store = $1 AND key > $2 AND key >= $3 AND key < $4 ORDER BY key LIMIT $5
"""
_VERSION: Final = f"SELECT nextval('statepath.versions'), {HOLD}"
_ADD_PIECE: Final = "INSERT INTO statepath.pieces (version, place, data) VALUES ($1, $2, $3)"
_PUT: Final = f"""
INSERT INTO statepath.objects AS o (store, key, version, size, data)
VALUES ($1, $2, coalesce($3, nextval('statepath.versions')), $4, $5)
ON CONFLICT (store, key) DO UPDATE
SET version = excluded.version, size = excluded.size, modified = excluded.modified, data = excluded.data
RETURNING {_ETAG}
"""
_CREATE: Final = f"""
INSERT INTO statepath.objects (store, key, version, size, data)
VALUES ($1, $2, coalesce($3, nextval('statepath.versions')), $4, $5)
ON CONFLICT (store, key) DO NOTHING
RETURNING {_ETAG}
"""
_REPLACE: Final = f"""
UPDATE statepath.objects
SET version = coalesce($3, nextval('statepath.versions')), size = $4, modified = clock_timestamp(), data = $5
WHERE store = $1 AND key = $2 AND {_ETAG} = $6
RETURNING {_ETAG}
"""
_DELETE: Final = "DELETE FROM statepath.objects WHERE store = $1 AND key = $2 RETURNING version"
_DELETE_VERSION: Final = f"""
DELETE FROM statepath.objects WHERE store = $1 AND key = $2 AND {_ETAG} = $3 RETURNING version
"""
_COPY: Final = f"""
INSERT INTO statepath.objects (store, key, version, size, data)
SELECT store, $3, coalesce($4, nextval('statepath.versions')), size, data
FROM statepath.objects WHERE store = $1 AND key = $2
ON CONFLICT (store, key) DO UPDATE
SET version = excluded.version, size = excluded.size, modified = excluded.modified, data = excluded.data
RETURNING {_ETAG}
"""
_LOCKED: Final = f"""
SELECT {_ETAG} AS etag, version, size, data IS NULL AS cut FROM statepath.objects
WHERE store = $1 AND key = $2 FOR SHARE
"""
_COPY_PIECES: Final = """
INSERT INTO statepath.pieces (version, place, data)
SELECT $2, place, data FROM statepath.pieces WHERE version = $1 AND place >= $3 AND place < $4
"""


class Objects:
    """The objects of one store. What is checked and what is written is one statement."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def read(self, store: int, key: str, span: Span | None) -> Blob:
        start, stop = (0, None) if span is None else (span.start, span.stop)
        # Of a value that is not cut into pieces: also of a record that was set aside, and is longer than one. What
        # reaches past its end is no error.
        first = min(start, _MOST - 1) + 1
        length = _MOST - first if stop is None else min(max(stop - start, 0), _MOST - first)
        while True:
            rows = await self._connections.fetch(_READ, store, key, first, length, key=key)
            if not rows:
                raise self.missing(key)
            row = rows[0]
            data = row["data"]
            if data is None:
                end = row["size"] if stop is None else min(stop, row["size"])
                data = await self._joined(store, key, row["version"], min(start, end), end)
            if data is not None:
                return Blob(data, ETag(row["etag"]), row["modified"])

    async def _joined(self, store: int, key: str, version: int, start: int, end: int) -> bytes | None:
        """The bytes of a version that is cut into pieces; `None`: it was replaced meanwhile.

        Raises:
            CorruptionError: a piece is missing, or not whole.
        """
        begin = start // PIECE
        place = begin, -(-end // PIECE)
        rows = await self._connections.fetch(_PIECES, store, key, version, *place, key=key)
        if not rows:
            return None
        data = b"".join([row["data"] for row in rows if row["data"] is not None])
        data = data[start - begin * PIECE : end - begin * PIECE]
        if len(data) != end - start:
            raise CorruptionError(
                f"{key} is damaged: the database has lost a piece of it", key=key, backend=SCHEME
            )
        return data

    async def write(self, store: int, key: str, chunks: Iterable[bytes], when: When) -> ETag:
        """The chunks are drawn in a worker thread, unless they are at hand."""
        pieces = _pieces(chunks)
        first = (
            next(pieces, b"") if isinstance(chunks, tuple) else await asyncio.to_thread(_next, pieces)
        ) or b""
        second = await asyncio.to_thread(_next, pieces) if len(first) == PIECE else None
        if second is None:
            statement, *arguments = _statement(store, key, None, len(first), first, when)
            row = await self._connections.change(statement, *arguments, key=key)
            return self._written(row, key, when)
        async with self._connections.use(key) as connection, in_transaction(connection):
            version = await connection.fetchval(_VERSION)
            await connection.execute(_ADD_PIECE, version, 0, first)
            place, size = 1, len(first)
            piece: bytes | None = second
            while piece is not None:
                await connection.execute(_ADD_PIECE, version, place, piece)
                place, size = place + 1, size + len(piece)
                piece = await asyncio.to_thread(_next, pieces)
            row = await connection.fetchrow(*_statement(store, key, version, size, None, when))
            # Raised within, so that the pieces go as well.
            return self._written(row, key, when)

    async def delete(self, store: int, key: str, when: When) -> bool:
        change = self._connections.change
        if isinstance(when, Always):
            return await change(_DELETE, store, key, key=key) is not None
        assert isinstance(when, IfMatch)  # noqa: S101 - the protocol has no other deletion
        if await change(_DELETE_VERSION, store, key, when.etag, key=key) is not None:
            return True
        if await self._connections.fetch(_READ, store, key, 1, 0, key=key):
            raise _conflict(key)
        return False

    async def list_keys(self, store: int, prefix: str, after: str) -> AsyncIterator[Entry]:
        # No character of a key sorts after "~": so this is behind every key that begins with the prefix.
        end = prefix + "\x7f"
        while rows := await self._connections.fetch(_LIST, store, after, prefix, end, _PAGE, key=prefix):
            for row in rows:
                yield Entry(row["key"], row["size"], row["modified"].timestamp())
            after = rows[-1]["key"]

    async def copy(self, store: int, source: str, target: str, when: When) -> ETag:
        async with self._connections.use(source) as connection, in_transaction(connection):
            # Locked: it is not replaced, and its pieces not dropped, before they are copied.
            stored = await connection.fetchrow(_LOCKED, store, source)
            if stored is None:
                raise self.missing(source)
            if isinstance(when, IfMatch) and stored["etag"] != when.etag:
                raise _conflict(source)
            version = None
            if stored["cut"]:
                version = await connection.fetchval(_VERSION)
                for place in range(0, -(-stored["size"] // PIECE), _COPIED):
                    await connection.execute(_COPY_PIECES, stored["version"], version, place, place + _COPIED)
            return ETag(await connection.fetchval(_COPY, store, source, target, version))

    def _written(self, row: Any, key: str, when: When) -> ETag:
        if row is not None:
            return ETag(row[0])
        if isinstance(when, IfAbsent):
            raise AlreadyExistsError(f"{key} exists already", key=key, backend=SCHEME)
        raise _conflict(key)

    def missing(self, key: str) -> NotFoundError:
        return NotFoundError(f"there is no object {key} in {self._connections.url}", key=key, backend=SCHEME)


def _statement(
    store: int, key: str, version: int | None, size: int, data: bytes | None, when: When
) -> tuple[Any, ...]:
    """The statement that writes the object if the condition holds, with its arguments."""
    arguments = (store, key, version, size, data)
    if isinstance(when, IfMatch):
        return _REPLACE, *arguments, when.etag
    return (_CREATE if isinstance(when, IfAbsent) else _PUT), *arguments


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of the chunks, cut anew."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) > PIECE:
            yield bytes(buffer[:PIECE])
            del buffer[:PIECE]
    if buffer:
        yield bytes(buffer)


def _next(pieces: Iterator[bytes]) -> bytes | None:
    return next(pieces, None)


def _conflict(key: str) -> ConflictError:
    return ConflictError(f"{key} is not the version that was asked for", key=key, backend=SCHEME)
