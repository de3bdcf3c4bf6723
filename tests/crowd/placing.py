"""A stand-in for a log that places, as those of local folders and PostgreSQL do: the portable one, which looks for the
place itself."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from statepath.backend import Backend, Commit, microseconds, moved_behind
from statepath.errors import HeadMoved, StateError
from statepath.log import PortableCommitLog


class PlacingLog(PortableCommitLog):
    """`placed` are the ids of the commits that may go behind each other: the storage's, whoever sent them. Who is
    placed is told now and then what stands before it, as `draw` has it."""

    def __init__(self, backend: Backend, placed: set[str], draw: random.Random, **options: Any) -> None:
        super().__init__(backend, **options)
        self._placed = placed
        self._draw = draw

    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        """As `SupportsPlacing.place`."""
        self._placed.add(commit.id)
        before: list[Commit] = []
        while True:
            try:
                await self.append(commit.first - 1, commit)
            except HeadMoved:
                found = await self._behind(commit)
                before += found
                last = found[-1]
                commit = moved_behind(commit, last.last, last.id, microseconds(last.time))
            else:
                return commit, before if self._draw.random() < 0.5 else ()

    async def _behind(self, commit: Commit) -> list[Commit]:
        """The commits that were first, all of which it may go behind."""
        try:
            found = [one async for one in self.read(commit.first - 1)]
        except StateError:
            raise HeadMoved from None
        if not found or found[0].prev != commit.prev or not self._placed.issuperset(one.id for one in found):
            raise HeadMoved
        return found
