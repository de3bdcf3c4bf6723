"""A snapshot on its way from one place to another, whatever its size."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import IO, Final

from statepath.backend import Backend, Blob, ETag, Span
from statepath.encryption import Encrypted
from statepath.engine.checking import check_snapshot
from statepath.engine.filekeys import passing_key
from statepath.engine.snapshot import STATE_KEY, SnapshotFacts
from statepath.errors import ConflictError

_PIECE: Final = 4 * 1024 * 1024
_ATTEMPTS: Final = 5


class Spool:
    """A copy of `state.json` in a file of its own, which is gone when it is closed. It can be drawn more than once.
    That of an encrypted store is sealed, too."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._content: IO[bytes] = self._file
        self.digest = ""
        self.size = 0

    async def fill(self, backend: Backend) -> SnapshotFacts:
        """Read the snapshot that is stored; what it says of itself, once it is known to be whole.

        Raises:
            NotFoundError: there is none.
            CorruptionError: it is damaged.
        """
        for _ in range(_ATTEMPTS):
            if await self._copied(backend):
                meta = await check_snapshot(self, STATE_KEY)
                self.digest = meta.digest
                return meta
        raise ConflictError(f"{STATE_KEY} is replaced again and again", key=STATE_KEY)

    async def _copied(self, backend: Backend) -> bool:
        """Whether all pieces were of one version."""
        self._file.seek(0)
        self._file.truncate()
        self.size, etag = 0, None
        key = passing_key() if isinstance(backend, Encrypted) else None
        with nullcontext(self._file) if key is None else key.writing(self._file) as file:
            while True:
                blob = await backend.read(STATE_KEY, span=Span(self.size, self.size + _PIECE))
                if etag not in (None, blob.etag):
                    return False
                etag = blob.etag
                await asyncio.to_thread(file.write, blob.data)
                self.size += len(blob.data)
                if len(blob.data) < _PIECE:
                    break
        if key is not None:
            self._content = key.reading(self._file, STATE_KEY)
        return True

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        """As `Backend.read`, of the file."""
        start = 0 if span is None else span.start
        stop = self.size if span is None or span.stop is None else min(span.stop, self.size)
        self._content.seek(start)
        data = self._content.read(max(stop - start, 0))
        return Blob(data, ETag(key), datetime.fromtimestamp(0, UTC))

    def __iter__(self) -> Iterator[bytes]:
        self._content.seek(0)
        while piece := self._content.read(_PIECE):
            yield piece

    def close(self) -> None:
        self._content.close()
        self._file.close()
