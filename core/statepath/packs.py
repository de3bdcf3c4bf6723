"""Packs: many small commits of the portable log in one object, so that a long history is few objects.

A pack holds the lines of consecutive commits as they were written, and its name says which:
`journal/<first seq>-<last seq>.jsonl`. It is written before anything is removed; then the log's own record says up to
which seq commits are packed; then their slots are removed. Up to that seq packs count and slots are nothing, whoever
slept and creates one again; behind it slots count and packs are nothing yet. A slot of several commits is packed whole
or not at all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Final, NamedTuple

import msgspec

from statepath.backend import IF_ABSENT, Backend
from statepath.commit import JOURNAL, Commit, decode_commit, slot_key, unseal
from statepath.errors import AlreadyExistsError, CorruptionError, NotFoundError
from statepath.together import together

_PIECE: Final = re.compile(re.escape(JOURNAL) + r"(\d{20})(?:-(\d{20}))?\.jsonl")
_BYTES: Final = 8 * 1024 * 1024
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


class _Link(msgspec.Struct, frozen=True):
    """As much of a commit as says where it stands."""

    first: int
    last: int
    id: str
    prev: str


class _Slot(NamedTuple):
    """A slot's first and last commit, and all its lines."""

    begin: _Link
    end: _Link
    lines: bytes


_decode_link: Final = msgspec.json.Decoder(_Link).decode


def packed_upto(pieces: Iterable[Piece]) -> int:
    """Up to which seq there are packs: what to go by where the log's own record is lost."""
    return max((piece.last for piece in pieces), default=0)


def current(pieces: Iterable[Piece], floor: int, packed: int) -> list[Piece]:
    """The pieces that count, in order: packs up to `packed`, and behind it slots, from the one on that may hold the
    floor: of that one, the commits that begin at it or above."""
    packs: list[Piece] = []
    slots: list[Piece] = []
    covered = 0
    for piece in sorted(pieces, key=lambda piece: (piece.first, -piece.last)):
        if not piece.is_pack:
            if piece.first <= floor:
                slots.clear()
            if piece.first > packed:
                slots.append(piece)
        elif covered < piece.last <= packed:
            covered = piece.last
            packs.append(piece)
    return packs + slots


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
        commits = [decode_commit(line) for line in data.splitlines() or [data]]
    except CorruptionError as error:
        raise CorruptionError(f"{piece.key}: {error}", key=piece.key) from error
    following = piece.first
    for commit in commits:
        if commit.first != following:
            raise CorruptionError(
                f"{piece.key} holds the commit that begins at {commit.first}, not {following}", key=piece.key
            )
        following = commit.last + 1
    if piece.is_pack and following != piece.last + 1:
        raise CorruptionError(f"{piece.key} ends at {following - 1}", key=piece.key)
    return commits


async def pack(backend: Backend, slots: Sequence[Piece], begin: int, upto: int) -> int:
    """Write packs of the slots from `begin` on whose last seq is `upto` or lower; up to which seq there are packs
    then. Nothing is removed.

    Only what the next slot names as the commit before it is packed. So no slot gets in that a writer who slept created
    where another packer has removed one.
    """
    packed = begin - 1
    first = begin
    lines = bytearray()
    before: _Slot | None = None
    async with aclosing(_whole(backend, slots)) as whole:
        async for slot in whole:
            if before is None:
                if slot.begin.first != begin:
                    break
            else:
                end = before.end
                if end.last > upto or not _continues(end, slot.begin):
                    break
                if lines and len(lines) + len(before.lines) > _BYTES:
                    if not await _write(backend, Piece(first, packed), lines):
                        return first - 1
                    lines, first = bytearray(), before.begin.first
                lines += before.lines
                packed = end.last
            before = slot
    if lines and not await _write(backend, Piece(first, packed), lines):
        return first - 1
    return packed


async def _whole(backend: Backend, slots: Sequence[Piece]) -> AsyncGenerator[_Slot]:
    """What the slots hold, up to the first that is gone or damaged."""
    for start in range(0, len(slots), _PARALLEL):
        batch = slots[start : start + _PARALLEL]
        for found in await together(_read_slot(backend, slot) for slot in batch):
            if found is None:
                return
            yield found


async def _read_slot(backend: Backend, slot: Piece) -> _Slot | None:
    """What the slot holds; `None` if it is gone or damaged."""
    try:
        lines = (await backend.read(slot.key)).data.splitlines()
        links = [_decode_link(unseal(line, "commit record")) for line in lines]
    except (NotFoundError, CorruptionError, msgspec.MsgspecError):
        return None
    whole = bool(links) and links[0].first == slot.first and all(map(_continues, links, links[1:]))
    # The last line end may be missing, and then the next slot's record would stand on the same line.
    return _Slot(links[0], links[-1], b"".join(line + b"\n" for line in lines)) if whole else None


def _continues(one: _Link, following: _Link) -> bool:
    return following.first == one.last + 1 and following.prev == one.id


async def _write(backend: Backend, piece: Piece, lines: bytearray) -> bool:
    """Whether the pack is there with these lines."""
    try:
        await backend.write(piece.key, bytes(lines), when=IF_ABSENT)
    except AlreadyExistsError:
        return (await backend.read(piece.key)).data == lines
    return True
