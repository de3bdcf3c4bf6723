"""Session logs and reports as they are at the head of a store: their files, and what the log has for them still."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from statepath.backend import Backend, CommitLog, Span
from statepath.commit import RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.engine.documents import pretty
from statepath.engine.ids import LOGS, REPORTS, decode_id, log_key, log_place, report_key
from statepath.engine.replay import changes_of
from statepath.engine.replica import Replica
from statepath.errors import ConflictError, NotFoundError

PIECE: Final = 4 * 1024 * 1024
"""How much of a session log is held in memory at once, about."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a session log, at its place in bytes. The pieces of one log follow each other without a gap; `last`
    marks its end."""

    id: str
    offset: int
    data: bytes
    last: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A report's file."""

    id: str
    data: bytes


@dataclass(slots=True)
class Files:
    """The logs and reports of one store as of the seq `replica.head`. The files show all up to the seq `since`, and
    perhaps more; the log has the rest."""

    backend: Backend
    log: CommitLog
    replica: Replica
    since: int
    _texts: dict[str, list[WriteLog]] = field(default_factory=dict)
    _documents: dict[str, bytes] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)
    """The keys of what was removed: their files may be there still."""

    async def read(self) -> AsyncIterator[LogPiece | Report]:
        """All of them, logs before reports."""
        await self._overlay()
        async for piece in self._logs():
            yield piece
        async for report in self._reports():
            yield report

    async def _overlay(self) -> None:
        """Find what the files may lack: it was committed behind the last snapshot."""
        head = self.replica.head
        if self.since >= head:
            return
        async for commit in self.log.read(self.since):
            for seq, transaction in enumerate(commit.transactions, commit.first):
                if seq > head:
                    return
                for change in await changes_of(self.backend, transaction):
                    if isinstance(change, WriteLog):
                        self._texts.setdefault(change.id, []).append(change)
                    elif isinstance(change, WriteReport):
                        self._documents[change.id] = pretty(bytes(change.document))
                    elif isinstance(change, RemoveLog):
                        self._texts.pop(change.id, None)
                        self._removed.add(log_key(change.id))
                    elif isinstance(change, RemoveReport):
                        self._documents.pop(change.id, None)
                        self._removed.add(report_key(change.id))

    async def _logs(self) -> AsyncIterator[LogPiece]:
        stored: dict[str, list[str]] = {id: [] for id in (*self.replica.logs, *self._texts)}
        async for entry in self.backend.list_keys(LOGS):
            place = log_place(entry.key)
            if place is not None and log_key(place[0]) not in self._removed:
                stored.setdefault(place[0], []).append(entry.key)
        for id in sorted(stored):
            size = self.replica.log_size(id)
            reading = (
                self._joined(id, stored[id]) if id in self._texts else _stored(self.backend, id, stored[id])
            )
            end = 0
            try:
                async for piece in _regular(id, reading, size or None):
                    yield piece
                    end = piece.offset + len(piece.data)
            except NotFoundError:
                await self._check_not_removed(id)
                raise
            if end < size:
                await self._check_not_removed(id)

    async def _check_not_removed(self, id: str) -> None:
        async for commit in self.log.read(self.replica.head):
            for transaction in commit.transactions:
                for change in await changes_of(self.backend, transaction):
                    if isinstance(change, RemoveLog) and change.id == id:
                        raise ConflictError(
                            f"the log of session {id} was removed while it was read; repeat the command, which goes "
                            "on from where it is",
                            key=log_key(id),
                        )

    async def _joined(self, id: str, keys: list[str]) -> AsyncIterator[tuple[int, bytes]]:
        """The file with the pieces that it may lack. They stand at its end: what comes before is passed on as it is
        read."""
        texts = [(change.offset, change.text.encode()) for change in self._texts[id]]
        begin = min(offset for offset, _ in texts)
        shown, tail = 0, bytearray()

        def lay(offset: int, data: bytes) -> None:
            tail.extend(b"\n" * (offset - begin - len(tail)))
            tail[offset - begin : offset - begin + len(data)] = data

        async for offset, data in _stored(self.backend, id, keys):
            shown = max(shown, offset + len(data))
            if offset < begin:
                yield offset, data[: begin - offset]
            if shown > begin:
                lay(max(offset, begin), data[max(begin - offset, 0) :])
        if shown < begin:
            await self._check_not_removed(id)
        for offset, data in texts:
            lay(offset, data)
        yield begin, bytes(tail)

    async def _reports(self) -> AsyncIterator[Report]:
        for newest, data in sorted(self._documents.items()):
            yield Report(newest, data)
        async for entry in self.backend.list_keys(REPORTS):
            id = decode_id(entry.key.removeprefix(REPORTS).removesuffix(".json"))
            if id is None or report_key(id) != entry.key or id in self._documents:
                continue
            if entry.key in self._removed:
                continue
            try:
                yield Report(id, (await self.backend.read(entry.key)).data)
            except NotFoundError:
                continue


async def stored_log(backend: Backend, id: str, start: int, end: int) -> AsyncIterator[LogPiece]:
    """The bytes from `start` to `end` of a session log, from its file or the objects that it consists of."""
    key = log_key(id)
    keys = [entry.key async for entry in backend.list_keys(key) if entry.key == key]
    keys += [
        entry.key
        async for entry in backend.list_keys(f"{key}/")
        if start < _offset(entry.key) + entry.size and _offset(entry.key) < end
    ]
    async for piece in _regular(id, _stored(backend, id, keys, start, end), end, start):
        yield piece


async def _stored(
    backend: Backend, id: str, keys: list[str], start: int = 0, end: int = sys.maxsize
) -> AsyncIterator[tuple[int, bytes]]:
    for key in keys:
        if key != log_key(id):
            yield _offset(key), (await backend.read(key)).data
            continue
        at = start
        while data := (await backend.read(key, span=Span(at, min(at + PIECE, end)))).data:
            yield at, data
            at += len(data)


def _offset(key: str) -> int:
    return int(key.rpartition("/")[2])


async def _regular(
    id: str, pieces: AsyncIterator[tuple[int, bytes]], size: int | None, at: int = 0
) -> AsyncIterator[LogPiece]:
    """The pieces without overlaps and gaps, neither tiny nor huge, and none behind the size."""
    held = bytearray()
    async for offset, data in pieces:
        if offset > at + len(held):
            held.extend(b"\n" * (offset - at - len(held)))
        skipped = max(at - offset, 0)
        if skipped >= len(data):
            continue
        place = max(offset - at, 0)
        held[place : place + len(data) - skipped] = data[skipped:]
        while len(held) >= 2 * PIECE:
            if size is not None and at + PIECE >= size:
                break
            yield LogPiece(id, at, bytes(held[:PIECE]))
            del held[:PIECE]
            at += PIECE
    rest = bytes(held if size is None else held[: max(size - at, 0)])
    yield LogPiece(id, at, rest, last=True)
