"""Packs: many small commits of the portable log in one object, so that a long history is few objects.

A pack holds the lines of consecutive commits as they were written, and its name says which:
`journal/<first seq>-<last seq>.jsonl`. It is written before anything is removed; then the log's own record says up to
which seq commits are packed; then their slots are removed. From there on a slot at or below that seq is nothing: a
writer that slept may create one again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from statepath.backend import IF_ABSENT, Backend
from statepath.commit import JOURNAL, Commit, decode_commit, slot_key
from statepath.errors import AlreadyExistsError, CorruptionError, NotFoundError

_PIECE: Final = re.compile(re.escape(JOURNAL) + r"(\d{20})(?:-(\d{20}))?\.jsonl")
_BYTES: Final = 4 * 1024 * 1024
_COMMITS: Final = 1024
_PARALLEL: Final = 8


class Piece(NamedTuple):
    """An object of the log: a slot (`last` is 0: only its content tells where it ends), or a pack."""

    first: int
    last: int = 0

    @property
    def is_pack(self) -> bool:
        return self.last > 0

    @property
    def key(self) -> str:
        slot = slot_key(self.first)
        return f"{slot.removesuffix('.jsonl')}-{self.last:020d}.jsonl" if self.is_pack else slot

    @classmethod
    def of(cls, key: str) -> Piece | None:
        """The piece that lies under the key; `None` for any other object."""
        match = _PIECE.fullmatch(key)
        return None if match is None else cls(int(match[1]), int(match[2] or 0))


def current(pieces: Iterable[Piece], packed: int) -> list[Piece]:
    """The pieces that count, in order: no slot at or below `packed`, and none of what a pack holds already."""
    kept: list[Piece] = []
    covered = 0
    for piece in sorted(pieces, key=lambda piece: (piece.first, -piece.last)):
        if piece.is_pack:
            if piece.last <= covered:
                continue
            covered = piece.last
        elif piece.first <= max(covered, packed):
            continue
        kept.append(piece)
    return kept


def covers(pieces: Sequence[Piece], after: int, packed: int) -> bool:
    """Whether the packs among the pieces hold every seq behind `after` up to `packed`."""
    for piece in pieces:
        if piece.is_pack and piece.first <= after + 1:
            after = max(after, piece.last)
    return after >= packed


async def read_piece(backend: Backend, piece: Piece) -> list[Commit] | None:
    """The commits of a piece, in order; `None` if it is gone.

    Raises:
        CorruptionError: it does not hold what its name says.
    """
    try:
        data = (await backend.read(piece.key)).data
    except NotFoundError:
        return None
    try:
        lines = data.splitlines() if piece.is_pack else [data]
        commits = [decode_commit(line) for line in lines]
    except CorruptionError as error:
        raise CorruptionError(f"{piece.key}: {error}", key=piece.key) from error
    first = commits[0].first if commits else 0
    if first != piece.first or (piece.is_pack and commits[-1].last != piece.last):
        raise CorruptionError(f"{piece.key} holds the commit that begins at {first}", key=piece.key)
    return commits


async def pack(backend: Backend, pieces: Sequence[Piece], packed: int, least: int) -> int:
    """Pack the slots of these consecutive pieces, if there are at least so many; up to which seq commits are packed
    then. Nothing is removed.

    Parameters:
        pieces: those that count, up to where packing may go.
        packed: up to which seq commits are packed already.
    """
    for piece in pieces:
        if piece.is_pack and piece.first <= packed + 1:
            packed = max(packed, piece.last)  # written before a crash
    slots = [piece for piece in pieces if not piece.is_pack and piece.first > packed]
    if len(slots) < least:
        return packed
    lines = bytearray()
    count = first = 0
    for start in range(0, len(slots), _PARALLEL):
        batch = slots[start : start + _PARALLEL]
        for piece, commits in zip(
            batch, await asyncio.gather(*(_checked(backend, piece) for piece in batch)), strict=True
        ):
            if commits is None or piece.first != packed + 1:
                return await _write(backend, first, packed, lines)
            commit, line = commits
            first = first or commit.first
            lines += line
            count += 1
            packed = commit.last
            if len(lines) >= _BYTES or count >= _COMMITS:
                await _write(backend, first, packed, lines)
                lines, count, first = bytearray(), 0, 0
    return await _write(backend, first, packed, lines)


async def sweep(backend: Backend, pieces: Sequence[Piece], packed: int) -> None:
    """Remove the slots at or below `packed`. The log's own record says so by now."""
    gone = [piece.key for piece in pieces if not piece.is_pack and piece.first <= packed]
    for start in range(0, len(gone), _PARALLEL):
        await asyncio.gather(*map(backend.delete, gone[start : start + _PARALLEL]))


async def _checked(backend: Backend, piece: Piece) -> tuple[Commit, bytes] | None:
    """A slot's commit and its line; `None` if it is gone or damaged: packing ends before it."""
    try:
        data = (await backend.read(piece.key)).data
        commit = decode_commit(data)
    except (NotFoundError, CorruptionError):
        return None
    return (commit, data) if commit.first == piece.first else None


async def _write(backend: Backend, first: int, last: int, lines: bytearray) -> int:
    if lines:
        with suppress(AlreadyExistsError):  # another packer wrote the same lines
            await backend.write(Piece(first, last).key, bytes(lines), when=IF_ABSENT)
    return last
