"""Session logs and reports for who writes no files: what the files lack yet, the log has.

Before a snapshot is written, the files have everything up to it; so only what is committed behind the newest one may
be missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from statepath.backend import Backend, CommitLog
from statepath.commit import FileChange, RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.engine.floor import read_floor
from statepath.engine.replay import Beside, changes_of, file_key
from statepath.errors import CorruptionError, HistoryTrimmedError, StateError

T = TypeVar("T")

_KEPT_BYTES: Final = 16 * 1024 * 1024
_MANY: Final = (
    1000  # logs and reports that were changed, so that it is looked which of them the files have by now
)


@dataclass(frozen=True, slots=True)
class _Last:
    """The last change of a log or a report."""

    seq: int
    id: str
    removed: bool


class Unwritten:
    """What a handle that only reads has met of changes to logs and reports. `head` is the seq that it shows.

    Attributes:
        shown: a seq up to which the files have everything, where the log's own record does not say.
    """

    def __init__(self, backend: Backend, log: CommitLog, head: Callable[[], int]) -> None:
        self.shown = 0
        self._backend = backend
        self._log = log
        self._head = head
        self._changed: dict[str, _Last] = {}
        self._due = _MANY
        # What was read from the log, with the seqs, so that who reads many of them reads it once.
        self._kept: list[tuple[int, FileChange]] = []
        self._upto = 0
        self._reading = asyncio.Lock()

    def note(self, changes: Iterable[Beside], seq: int) -> None:
        """They were committed, the last of them with that seq."""
        for change in changes:
            if isinstance(change, FileChange):
                removed = isinstance(change, RemoveLog | RemoveReport)
                self._changed[file_key(change)] = _Last(seq, change.id, removed)

    def names(self, folder: str, stored: Iterable[str]) -> set[str]:
        """Of which ids there are logs, or reports, in that folder: those that are stored, but for what was changed
        since."""
        names = set(stored)
        for key, last in self._changed.items():
            if key.startswith(folder):
                (names.discard if last.removed else names.add)(last.id)
        return names

    async def read(self, key: str, read: Callable[[], Awaitable[T]]) -> tuple[T, list[FileChange]]:
        """What is stored there, and the changes that may not be in it yet, in their order.

        Raises:
            CorruptionError, HistoryTrimmedError, StateError: as the log's `read`.
        """
        while True:
            shown = await self._shown() if key in self._changed else 0
            if key not in self._changed:
                return await read(), []
            stored = await read()
            try:
                return stored, await self._since(shown, key)
            except HistoryTrimmedError:
                if await self._shown() == shown:
                    raise
                # There is a newer snapshot, and the file has what it lacked.

    async def bound(self) -> None:
        """Forget what the files have, where many were changed: who never reads one would remember all."""
        if len(self._changed) >= self._due:
            with suppress(StateError):  # when there are more it is tried again
                await self._shown()
            self._due = max(_MANY, 2 * len(self._changed))

    async def _shown(self) -> int:
        """The seq of the newest snapshot; what was changed before it is in the files, and forgotten."""
        with suppress(CorruptionError):  # whoever opens the store next mends it
            if (found := await read_floor(self._backend)) is not None:
                marks = found[0].snapshots
                self.shown = marks[-1].seq if marks else found[0].floor - 1
        self._changed = {key: last for key, last in self._changed.items() if last.seq > self.shown}
        return self.shown

    async def _since(self, shown: int, key: str) -> list[FileChange]:
        async with self._reading:
            kept = [one for one in self._kept if one[0] > shown]
            upto = max(self._upto, shown)
            try:
                # To its end: the file may have later changes already, and may be gone.
                async for commit in self._log.read(upto):
                    for transaction in commit.transactions:
                        found = await changes_of(self._backend, transaction)
                        kept += [(commit.last, one) for one in found if isinstance(one, FileChange)]
                    upto = commit.last
            except CorruptionError:
                if upto < self._head():
                    raise
            few = sum(_size(one) for _, one in kept) <= _KEPT_BYTES
            self._kept, self._upto = (kept, upto) if few else ([], 0)
        return [one for _, one in kept if file_key(one) == key]


def _size(change: FileChange) -> int:
    if isinstance(change, WriteReport):
        return len(bytes(change.document))
    return len(change.text) if isinstance(change, WriteLog) else 0
