"""Session logs and reports as they are at the head of a store: their files, and what the log has for them still."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from statepath.backend import Backend, CommitLog, Span
from statepath.commit import WriteLog, WriteReport
from statepath.engine.documents import pretty
from statepath.engine.ids import decode_id, log_key, report_key
from statepath.engine.replay import changes_of
from statepath.engine.replica import Replica
from statepath.engine.views import read_log
from statepath.errors import NotFoundError

PIECE: Final = 4 * 1024 * 1024
"""How much of a session log is held in memory at once, about."""

_LOGS: Final = "logs/session_"
_REPORTS: Final = "reports/"


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

    async def _logs(self) -> AsyncIterator[LogPiece]:
        stored: dict[str, list[str]] = {id: [] for id in (*self.replica.logs, *self._texts)}
        async for entry in self.backend.list_keys(_LOGS):
            name, _, offset = entry.key.removeprefix(_LOGS).partition("/")
            owner = decode_id(name.removesuffix(".log"))
            if owner is not None and name.endswith(".log") and (not offset or offset.isdigit()):
                stored.setdefault(owner, []).append(entry.key)
        for id in sorted(stored):
            size = self.replica.log_size(id)
            reading = self._joined(id) if id in self._texts else _stored(self.backend, id, stored[id])
            async for piece in _regular(id, reading, size or None):
                yield piece

    async def _joined(self, id: str) -> AsyncIterator[tuple[int, bytes]]:
        """The file with the pieces that it may lack."""
        try:
            text = bytearray(await read_log(self.backend, id))
        except NotFoundError:
            text = bytearray()
        for change in self._texts[id]:
            data = change.text.encode()
            text.extend(b"\n" * (change.offset - len(text)))
            text[change.offset : change.offset + len(data)] = data
        yield 0, bytes(text)

    async def _reports(self) -> AsyncIterator[Report]:
        for newest, data in sorted(self._documents.items()):
            yield Report(newest, data)
        async for entry in self.backend.list_keys(_REPORTS):
            id = decode_id(entry.key.removeprefix(_REPORTS).removesuffix(".json"))
            if id is None or report_key(id) != entry.key or id in self._documents:
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
