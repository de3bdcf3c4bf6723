"""Snapshots written and read in pieces, and found to be what was written, whatever their size."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from typing import Final, Protocol

from statepath.backend import ALWAYS, Backend, Blob, ETag, Span, SupportsStreams, When
from statepath.engine.snapshot import MARK, SnapshotFacts, SnapshotStream, read_split
from statepath.errors import CorruptionError
from statepath.threads import in_thread

_PIECE: Final = 16 * 1024 * 1024
_ATTEMPTS: Final = 3
_LAST_LINES: Final = 3


class Readable(Protocol):
    """What can be read as a backend can."""

    async def read(self, key: str, *, span: Span | None = None) -> Blob: ...


class Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


async def write_snapshot(backend: Backend, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
    """Write a snapshot, piece by piece where that is possible.

    Raises:
        AlreadyExistsError, ConflictError: not `when`.
    """
    if backend.capabilities.streams and isinstance(backend, SupportsStreams):
        return await backend.write_stream(key, chunks, when=when)
    return await backend.write(key, await in_thread(lambda: b"".join(chunks)), when=when)


async def keep_snapshot(backend: Backend, key: str, stream: SnapshotStream, *, when: When = ALWAYS) -> None:
    """As `write_snapshot`, and read it back.

    Raises:
        CorruptionError: what was written is not what was read back.
    """
    await write_snapshot(backend, key, stream, when=when)
    if (await check_snapshot(backend, key)).digest != stream.digest:
        raise CorruptionError(f"{key} is not what had been written", key=key)


async def check_snapshot(backend: Readable, key: str) -> SnapshotFacts:
    """What the stored snapshot says of itself, once its bytes are known to be what was written.

    Raises:
        NotFoundError: there is none.
        CorruptionError: the bytes are cut or altered; says where that was noticed.
        UnsupportedError: a newer program wrote it (`newer_format`).
    """
    for _ in range(_ATTEMPTS):
        meta = await _in_pieces(backend, key)
        if meta is not None:
            return meta
    # It is replaced again and again: one response is of one version.
    return check_bytes((await backend.read(key)).data, key)


def check_bytes(data: bytes, key: str) -> SnapshotFacts:
    """As `check_snapshot`, of bytes that were read from the key."""
    mark = max(data.rfind(MARK), 0)
    return read_split(data[mark:], sha256(memoryview(data)[:mark]).hexdigest(), key)


async def _in_pieces(backend: Readable, key: str) -> SnapshotFacts | None:
    """As `check_snapshot`; `None` if it was replaced meanwhile."""
    digest = sha256()
    etag, at = None, 0
    rest = bytearray()
    carry = b""
    hashing: asyncio.Task[None] | None = None
    try:
        while True:
            blob = await backend.read(key, span=Span(at, at + _PIECE))
            if etag is not None and blob.etag != etag:
                return None
            etag, data = blob.etag, blob.data
            at += len(data)
            if rest:
                rest += data
            else:
                body, carry = _before_mark(carry, data, rest)
                if hashing is not None:
                    await hashing
                # While one piece is hashed the next one is read.
                hashing = asyncio.create_task(in_thread(partial(_update, digest, body)))
            if len(data) < _PIECE:
                break
    finally:
        if hashing is not None:
            await hashing
    if not rest:
        raise CorruptionError(f"{key} is cut: its last member, _statepath, is missing", key=key)
    return await in_thread(lambda: read_split(bytes(rest), digest.hexdigest(), key))


def _before_mark(carry: bytes, data: bytes, rest: bytearray) -> tuple[tuple[bytes | memoryview, ...], bytes]:
    """What of a piece is hashed, and what is carried on: the mark may lie across two pieces. What begins with the mark
    goes to `rest`; in a document no line begins like it."""
    reach = len(MARK) - 1
    seam = carry + data[:reach]
    if (at := seam.find(MARK)) >= 0:
        rest += seam[at:]
        rest += data[reach:]
        return (seam[:at],), b""
    if (at := _find_mark(data)) >= 0:
        rest += data[at:]
        return (carry, memoryview(data)[:at]), b""
    return (carry, memoryview(data)[: max(len(data) - reach, 0)]), data[max(len(data) - reach, 0) :]


def _find_mark(data: bytes) -> int:
    """Where the mark is, or -1. Behind its line there are two braces, a line each: so the last lines tell, and a search
    through all of the piece, which takes half as long as hashing it, is spared."""
    at = len(data)
    for _ in range(_LAST_LINES):
        at = data.rfind(b"\n", 0, at)
        if at < 0 or data.startswith(MARK, at):
            return at
    return -1


def _update(digest: Hash, parts: tuple[bytes | memoryview, ...]) -> None:
    for part in parts:
        digest.update(part)
