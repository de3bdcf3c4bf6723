"""The files of documents, logs and reports, written by the only handle that writes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, TypeVar

from statepath.backend import Backend, LazyWrite, SupportsLazyWrites
from statepath.commit import FileChange, RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.engine.documents import pretty
from statepath.engine.ids import document_key, report_key
from statepath.engine.logfiles import remove_log, write_log
from statepath.engine.replica import Entry, Replica
from statepath.engine.views import render_view
from statepath.errors import StateError

logger = logging.getLogger("statepath.views")

T = TypeVar("T")

_PARALLEL: Final = 16  # documents written at once, where each is a request of its own
_AWAY: Final = 2  # files, one after another, that fail so that it is rather the storage that does


class ViewFiles:
    """Of the store that the replica shows. `pending` tells which changes of a log or a report, named by its key, came
    after those that are being written."""

    def __init__(
        self, replica: Replica, backend: Backend, store: str, pending: Callable[[str], Sequence[FileChange]]
    ) -> None:
        self._replica = replica
        self._backend = backend
        self._store = store
        self._pending = pending

    async def show(self, documents: Sequence[tuple[str, str]]) -> None:
        """Write the files of documents, each named by its collection and id, as they are now."""
        backend, entries = self._backend, self._entries(documents)
        if backend.capabilities.lazy_writes and isinstance(backend, SupportsLazyWrites):
            await backend.write_lazily(self._items(entries, self._replica.time), keep=None)
        else:
            await in_parts(self._write_document, entries)

    def _entries(self, documents: Sequence[tuple[str, str]]) -> dict[str, Entry | None]:
        """The documents, by the keys of their files."""
        entries = {
            document_key(collection, id): self._replica.get(collection, id) for collection, id in documents
        }
        logger.debug("writing the files of %d documents", len(entries), extra={"seq": self._replica.head})
        return entries

    def _items(self, entries: Mapping[str, Entry | None], at: int) -> Iterator[LazyWrite]:
        """What is written under each key; `at` is when those were removed that are no more."""
        for key, entry in entries.items():
            if entry is None:
                yield LazyWrite(key, None, at)
            else:
                yield LazyWrite(key, render_view(entry.json(), self._store, entry.version), entry.modified)

    async def _write_document(self, key: str, entry: Entry | None) -> None:
        if entry is None:
            await self._backend.delete(key)
        else:
            await self._backend.write(key, render_view(entry.json(), self._store, entry.version))

    async def write(self, files: Mapping[str, Sequence[FileChange]]) -> dict[str, StateError]:
        """Write logs and reports, each named by its key, with their changes in the order of the log; why some could not
        be written. Where that is for the storage, the rest is not tried, and comes first."""
        failed: dict[str, StateError] = {}
        away = 0
        waiting = iter(files.items())
        for key, changes in waiting:
            try:
                await self._write_file(key, changes)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others are written
                failed[key] = trouble = trouble_of(error)
                away = away + 1 if trouble.retryable else 0
            else:
                away = 0
            if away == _AWAY:
                return {**{untried: failed[key] for untried, _ in waiting}, **failed}
        return failed

    async def _write_file(self, key: str, changes: Sequence[FileChange]) -> None:
        last = changes[-1]
        if isinstance(last, WriteReport | RemoveReport):
            await self._replace_report(last)
        else:
            await self._write_log(key, last.id, changes)

    async def _replace_report(self, report: WriteReport | RemoveReport) -> None:
        if isinstance(report, WriteReport):
            await self._backend.write(report_key(report.id), pretty(bytes(report.document)))
        else:
            await self._backend.delete(report_key(report.id))

    async def _write_log(self, key: str, id: str, changes: Sequence[FileChange]) -> None:
        """Neighbouring pieces in one write. What was appended before the log was removed is left out."""
        pieces: list[tuple[int, bytearray]] = []
        removed = False
        for change in changes:
            if isinstance(change, RemoveLog):
                pieces, removed = [], True
            elif isinstance(change, WriteLog):
                if pieces and pieces[-1][0] + len(pieces[-1][1]) == change.offset:
                    pieces[-1][1].extend(change.text.encode())
                else:
                    pieces.append((change.offset, bytearray(change.text.encode())))
        if removed:
            await self._remove_log(id, changes)
        if removes(self._pending(key)):
            return  # what others have appended since is not to be covered by what is no more
        for offset, text in pieces:
            await self._write_piece(id, offset, bytes(text))

    async def _remove_log(self, id: str, changes: Sequence[FileChange]) -> None:
        """Remove the session log; `changes` are those that are being written."""
        await remove_log(self._backend, id)

    async def _write_piece(self, id: str, offset: int, data: bytes) -> None:
        await write_log(self._backend, id, offset, data)


def removes(changes: Iterable[FileChange]) -> bool:
    """Whether a session log is removed by them."""
    return any(isinstance(change, RemoveLog) for change in changes)


def trouble_of(error: Exception) -> StateError:
    """What is told of a file that could not be written."""
    return error if isinstance(error, StateError) else StateError(f"a view could not be written: {error!r}")


async def in_parts(write: Callable[[str, T], Awaitable[None]], items: Mapping[str, T]) -> None:
    """Write so many at once, by their keys. Where nothing of them can be written, the rest is not tried.

    Raises:
        StateError: the first that there was; `unwritten` begins with what was not tried.
    """
    failure: StateError | None = None
    unwritten: list[str] = []
    waiting = iter(items.items())
    while part := list(islice(waiting, _PARALLEL)):
        results = await asyncio.gather(*(write(*item) for item in part), return_exceptions=True)
        # Only when all have ended: one that still went on could replace what the next attempt writes.
        failed = [(key, result) for (key, _), result in zip(part, results, strict=True) if result is not None]
        for key, error in failed:
            if not isinstance(error, StateError):
                raise error
            failure = failure or error
            unwritten.append(key)
        if len(failed) == len(part):
            break
    if failure is not None:
        failure.unwritten = (*(key for key, _ in waiting), *unwritten)
        raise failure
