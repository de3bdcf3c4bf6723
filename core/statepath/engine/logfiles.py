"""The files of session logs: one that grows or, where none can, an object for each piece."""

from __future__ import annotations

import asyncio
from typing import Final

from statepath.backend import Backend, SupportsAppend
from statepath.engine.ids import log_key

_PARALLEL: Final = 16  # pieces read at once


async def write_log(backend: Backend, id: str, offset: int, data: bytes) -> None:
    """Put a piece of a session log at its place: into one file, or as an object of its own where none can grow."""
    if backend.capabilities.append and isinstance(backend, SupportsAppend):
        await backend.write_at(log_key(id), offset, data)
    else:
        await backend.write(f"{log_key(id)}/{offset:020d}", data)


async def remove_log(backend: Backend, id: str) -> None:
    """Remove the file of a session log, or all the objects that it consists of."""
    await backend.delete(log_key(id))
    if not backend.capabilities.append:
        pieces = [entry.key async for entry in backend.list_keys(f"{log_key(id)}/")]
        # The last first: what is left of an interrupted attempt is a log without a gap.
        for key in reversed(pieces):
            await backend.delete(key)


async def read_log(backend: Backend, id: str) -> bytes:
    """A session log as one piece of bytes.

    Raises:
        NotFoundError: there is none of that id.
    """
    if backend.capabilities.append:
        return (await backend.read(log_key(id))).data
    pieces = [entry.key async for entry in backend.list_keys(f"{log_key(id)}/")]
    if not pieces:
        return (await backend.read(log_key(id))).data
    log = bytearray()
    for part in [pieces[at : at + _PARALLEL] for at in range(0, len(pieces), _PARALLEL)]:
        for key, blob in zip(part, await asyncio.gather(*map(backend.read, part)), strict=True):
            # A piece that was written again after a crash may have been joined with those behind it.
            offset = int(key.rpartition("/")[2])
            log.extend(b"\n" * (offset - len(log)))
            log[offset : offset + len(blob.data)] = blob.data
    return bytes(log)
