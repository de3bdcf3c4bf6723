"""Session logs and reports as they are at the head of a store: their files, and what the log has for them still."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from statepath.backend import Backend, CommitLog, Span
from statepath.commit import RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.engine.documents import pretty
from statepath.engine.ids import LOGS, REPORTS, is_name, log_key, log_place, report_key
from statepath.engine.logfiles import lay
from statepath.engine.replay import changes_of
from statepath.engine.replica import Replica
from statepath.errors import ConflictError, CorruptionError, HistoryTrimmedError, NotFoundError

PIECE: Final = 4 * 1024 * 1024
"""How much of a session log is held in memory at once, about."""

_LOOK: Final = 1.0
"""Seconds between two looks at whether the logs that were read are still what they were."""

_TOGETHER: Final = 256
"""How many reports at the most are read between two looks at the log."""


@dataclass(frozen=True, slots=True)
class LogPiece:
    """A piece of a session log, at its place in bytes. The pieces of one log follow each other without a gap; `last`
    marks its end. It is named by its key, which does not always tell the session."""

    key: str
    offset: int
    data: bytes
    last: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """A report's file, named by its key, which does not always tell the id."""

    key: str
    data: bytes


@dataclass(slots=True)
class Files:
    """The logs and reports of one store as of the seq `replica.head`. The files show all up to the seq `since`, and
    perhaps more; the log has the rest.

    With `begin` the log is taken along from that seq on, and a report has to be what it says: one that is written again
    or removed meanwhile is taken from there.
    """

    backend: Backend
    log: CommitLog
    replica: Replica
    since: int
    begin: int | None = None
    _texts: dict[str, list[WriteLog]] = field(default_factory=dict)
    _documents: dict[str, bytes] = field(default_factory=dict)
    _removed: set[str] = field(default_factory=set)
    """The keys of what was removed: their files may be there still."""
    _met: int = 0
    _changing: set[str] = field(default_factory=set)
    """The keys of reports that were changed behind the head, up to the seq `_met`."""
    _gone: set[str] = field(default_factory=set)
    """The keys of logs that were removed there."""

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
                        self._texts.setdefault(log_key(change.id), []).append(change)
                    elif isinstance(change, WriteReport):
                        self._documents[report_key(change.id)] = pretty(bytes(change.document))
                    elif isinstance(change, RemoveLog):
                        self._texts.pop(log_key(change.id), None)
                        self._removed.add(log_key(change.id))
                    elif isinstance(change, RemoveReport):
                        self._documents.pop(report_key(change.id), None)
                        self._removed.add(report_key(change.id))

    async def _logs(self) -> AsyncIterator[LogPiece]:
        sizes = {log_key(id): size for id, size in self.replica.logs.items()}
        stored: dict[str, list[str]] = {key: [] for key in (*sizes, *self._texts)}
        async for entry in self.backend.list_keys(LOGS):
            place = log_place(entry.key)
            if place is not None and place[0] not in self._removed:
                stored.setdefault(place[0], []).append(entry.key)
        last = max(stored, default="")
        unsure, looked = list[str](), time.monotonic()
        for key in sorted(stored):
            size = sizes.get(key, 0)
            reading = _stored(self.backend, key, stored[key])
            if key in self._texts:
                reading = self._joined(key, reading)
            try:
                async for piece in _regular(key, self._whole(key, size, reading), size or None):
                    yield piece
            except NotFoundError:
                await self._check_not_removed(key)
                raise
            unsure.append(key)
            if key == last or time.monotonic() - looked >= _LOOK:
                with suppress(HistoryTrimmedError):  # then nothing tells
                    await self._check_not_removed(*unsure)
                unsure, looked = [], time.monotonic()

    async def _whole(
        self, key: str, size: int, pieces: AsyncIterator[tuple[int, bytes]]
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The pieces of a log that has so many bytes at the least.

        Raises:
            CorruptionError: some are missing.
        """
        end = 0
        async for offset, data in pieces:
            if end < min(offset, size):
                break
            yield offset, data
            end = max(end, offset + len(data))
        if end < size:
            await self._check_not_removed(key)
            raise CorruptionError(
                f"{key} has {end} bytes without a gap, and the state says that it has {size}: run statepath repair, "
                "which writes again what the history has; what it has not any more, only a copy of the file can give "
                "back, or delete_log gives the log up",
                key=key,
            )

    async def _check_not_removed(self, *keys: str) -> None:
        """That what was read of the logs is what they were: none was removed, and perhaps begun anew."""
        await self._look_behind()
        for key in keys:
            if key in self._gone:
                raise ConflictError(
                    f"{key} was removed while it was read; repeat the command, which goes on from where it is",
                    key=key,
                )

    async def _joined(
        self, key: str, stored: AsyncIterator[tuple[int, bytes]]
    ) -> AsyncIterator[tuple[int, bytes]]:
        """The file with the pieces that it may lack, which go on where it has all. They stand at its end: what comes
        before is passed on as it is read."""
        texts = [(change.offset, change.text.encode()) for change in self._texts[key]]
        begin, tail = min(offset for offset, _ in texts), bytearray()
        async for offset, data in self._whole(key, begin, stored):
            if offset < begin:
                yield offset, data[: begin - offset]
            if offset + len(data) > begin:
                lay(tail, max(offset - begin, 0), data[max(begin - offset, 0) :])
        for offset, data in texts:
            lay(tail, offset - begin, data)
        yield begin, bytes(tail)

    async def _reports(self) -> AsyncIterator[Report]:
        for newest, data in sorted(self._documents.items()):
            yield Report(newest, data)
        told: set[str] = set()
        async for some in self._stored_reports():
            # After they were read: the log has what a file shows before the file does.
            changing = set[str]() if self.begin is None else await self._look_behind()
            for report in some:
                if report.key not in changing:
                    told.add(report.key)
                    yield report
        if self.begin is not None:
            missing = await self._look_behind() - told - self._documents.keys() - self._removed
            for report in await self._as_logged(missing) if missing else ():
                yield report

    async def _stored_reports(self) -> AsyncIterator[list[Report]]:
        some: list[Report] = []
        async for entry in self.backend.list_keys(REPORTS):
            name = entry.key.removeprefix(REPORTS)
            if not name.endswith(".json") or not is_name(name.removesuffix(".json")):
                continue
            if entry.key in self._documents or entry.key in self._removed:
                continue
            with suppress(NotFoundError):
                some.append(Report(entry.key, (await self.backend.read(entry.key)).data))
            if self.begin is None or sum(len(one.data) for one in some) >= PIECE or len(some) >= _TOGETHER:
                yield some
                some = []
        if some:
            yield some

    async def _look_behind(self) -> set[str]:
        """Note what was changed behind the head up to now; the keys of reports that were."""
        self._met = max(self._met, self.replica.head)
        async for commit in self.log.read(self._met):
            for transaction in commit.transactions:
                for change in await changes_of(self.backend, transaction):
                    if isinstance(change, WriteReport | RemoveReport):
                        self._changing.add(report_key(change.id))
                    elif isinstance(change, RemoveLog):
                        self._gone.add(log_key(change.id))
            self._met = commit.last
        return self._changing

    async def _as_logged(self, keys: set[str]) -> list[Report]:
        """The reports as the log has them as of the head; those of which it has nothing, as their files are.

        Raises:
            HistoryTrimmedError: it was trimmed since it was asked where it begins, and may have had one of them there.
        """
        after, trimmed = (self.begin or 1) - 1, None
        found: dict[str, bytes | None] | None = None
        while found is None:
            try:
                found = await self._logged(keys, after)
            except HistoryTrimmedError as error:
                if error.floor <= after + 1:
                    raise
                after, trimmed = error.floor - 1, error
        for key in keys - found.keys():
            if trimmed is not None:
                raise trimmed
            with suppress(NotFoundError):
                found[key] = (await self.backend.read(key)).data
        return [Report(key, data) for key, data in sorted(found.items()) if data is not None]

    async def _logged(self, keys: set[str], after: int) -> dict[str, bytes | None]:
        """What the log has of the reports behind the seq `after` and up to the head; `None` for those removed there."""
        found: dict[str, bytes | None] = {}
        async for commit in self.log.read(after):
            if commit.first > self.since:
                break
            for transaction in commit.transactions:
                for change in await changes_of(self.backend, transaction):
                    if isinstance(change, WriteReport) and report_key(change.id) in keys:
                        found[report_key(change.id)] = pretty(bytes(change.document))
                    elif isinstance(change, RemoveReport) and report_key(change.id) in keys:
                        found[report_key(change.id)] = None
        return found


async def stored_log(backend: Backend, key: str, start: int, end: int) -> AsyncIterator[LogPiece]:
    """The bytes from `start` to `end` of a session log, from its file or the objects that it consists of."""
    keys = [entry.key async for entry in backend.list_keys(key) if entry.key == key]
    keys += [
        entry.key
        async for entry in backend.list_keys(f"{key}/")
        if (place := log_place(entry.key)) is not None and start < place[1] + entry.size and place[1] < end
    ]
    async for piece in _regular(key, _stored(backend, key, keys, start, end), end, start):
        yield piece


async def _stored(
    backend: Backend, log: str, keys: list[str], start: int = 0, end: int = sys.maxsize
) -> AsyncIterator[tuple[int, bytes]]:
    for key in keys:
        if key != log:
            yield _offset(key), (await backend.read(key)).data
            continue
        at = start
        while data := (await backend.read(key, span=Span(at, min(at + PIECE, end)))).data:
            yield at, data
            at += len(data)


def _offset(key: str) -> int:
    return int(key.rpartition("/")[2])


async def _regular(
    key: str, pieces: AsyncIterator[tuple[int, bytes]], size: int | None, at: int = 0
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
            yield LogPiece(key, at, bytes(held[:PIECE]))
            del held[:PIECE]
            at += PIECE
    rest = bytes(held if size is None else held[: max(size - at, 0)])
    yield LogPiece(key, at, rest, last=True)
