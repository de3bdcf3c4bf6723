"""The files of session logs: one that grows or, where none can, an object for each piece."""

from __future__ import annotations

from typing import Final

from statepath.backend import Backend, SupportsAppend
from statepath.engine.ids import log_key, log_place
from statepath.together import together

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
        # The last first: what is left of an interrupted attempt is a log without a gap.
        for key, _ in reversed(await log_pieces(backend, id)):
            await backend.delete(key)


async def read_log(backend: Backend, id: str) -> bytes:
    """A session log as one piece of bytes.

    Raises:
        NotFoundError: there is none of that id.
    """
    if backend.capabilities.append:
        return (await backend.read(log_key(id))).data
    pieces = await log_pieces(backend, id)
    if not pieces:
        return (await backend.read(log_key(id))).data
    log = bytearray()
    for part in [pieces[at : at + _PARALLEL] for at in range(0, len(pieces), _PARALLEL)]:
        blobs = await together(backend.read(key) for key, _ in part)
        for (_, offset), blob in zip(part, blobs, strict=True):
            # A piece that was written again after a crash may have been joined with those behind it.
            lay(log, offset, blob.data)
    return bytes(log)


def lay(log: bytearray, offset: int, piece: bytes) -> None:
    """Put a piece at its place in a session log. Line ends fill a gap before it."""
    log.extend(b"\n" * (offset - len(log)))
    log[offset : offset + len(piece)] = piece


async def log_pieces(backend: Backend, id: str) -> list[tuple[str, int]]:
    """The keys of the objects that a session log consists of, and where in the log each begins."""
    found = [(entry.key, log_place(entry.key)) async for entry in backend.list_keys(f"{log_key(id)}/")]
    return [(key, place[1]) for key, place in found if place is not None]
