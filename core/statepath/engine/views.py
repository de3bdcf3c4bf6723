"""Views: `tasks/<id>.json` and the files of logs and reports, written behind the commits.

Document views may lag and are rebuilt from the log; they are coalesced and paced, so that saves do not wait for them.
Logs and reports live in their files alone once the journal is trimmed: these are written durably, in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Final, cast

import msgspec
from pydantic import JsonValue

from statepath.backend import (
    IF_ABSENT,
    Backend,
    IfAbsent,
    IfMatch,
    LazyWrite,
    SupportsAppend,
    SupportsLazyWrites,
)
from statepath.commit import FileChange, RemoveLog, RemoveReport, WriteLog, WriteReport
from statepath.engine.documents import MARK, decode, parse_untrusted, pretty, texts
from statepath.engine.ids import document_key, log_key, report_key
from statepath.engine.removing import remove_beside_others
from statepath.engine.replica import MEMBERS, Replica, Stage
from statepath.engine.trouble import Trouble
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
)

logger = logging.getLogger("statepath.views")

_MARK: Final = b',\n  "%s": ' % MARK.encode()
_DIGEST: Final = 32
_BATCH: Final = 256
_BATCH_BYTES: Final = 1024 * 1024
_PARALLEL: Final = 16  # documents written at once, where each is a request of its own
_LARGE: Final = 64 * 1024
_LARGE_RATE: Final = 2 * 1024 * 1024
_REST: Final = 4.0
_RETRY: Final = 1.0
_LEFT_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class View:
    """What a view's file says. `ours` means that nobody changed it; `seq` is the version that it shows or, where a
    person changed it, the version that the change was based on."""

    document: msgspec.Raw
    store: str
    seq: int
    ours: bool

    @property
    def texts(self) -> dict[str, str]:
        """The members that are texts; one of them is the id."""
        return texts(bytes(self.document))

    def decode(self, key: str) -> dict[str, JsonValue]:
        """
        Raises:
            CorruptionError: it cannot be read; names the key of the file.
        """
        return cast("dict[str, JsonValue]", decode(bytes(self.document), key))


class _Mark(msgspec.Struct, frozen=True):
    store: str
    seq: int
    digest: str


_mark = msgspec.json.Decoder(_Mark)


def render_view(document: bytes, store: str, seq: int) -> bytes:
    """The file of one document: pretty-printed, and signed with the store, the seq and a digest."""
    shown = pretty(document)[:-3]
    mark = msgspec.json.encode(_Mark(store, seq, _digest(shown)))
    return b"%s%s%s\n}\n" % (shown, _MARK, mark)


def is_file_of(store: str, data: bytes, key: str, limit: int) -> bool:
    """Whether a file shows a document of that store, or did before a person edited it."""
    try:
        return parse_view(data, key, limit).store == store
    except InvalidArgumentError:
        return False


def least_size(document: int, store: str) -> int:
    """The fewest bytes of the file of a document that has so many."""
    return document + len(_MARK) + len(store) + 2 * _DIGEST


def parse_view(data: bytes, key: str, limit: int) -> View:
    """What the file of a document says, whoever wrote it.

    Raises:
        InvalidArgumentError: it is not one JSON object that the store could hold; says why.
    """
    at = data.rfind(_MARK)
    if at > 0 and data.endswith(b"\n}\n"):
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            mark = _mark.decode(data[at + len(_MARK) : -3])
            if mark.digest == _digest(data[:at]):
                return View(msgspec.Raw(data[:at] + b"\n}"), mark.store, mark.seq, ours=True)
    document = parse_untrusted(data, key=key, limit=limit)
    if not isinstance(document, dict):
        raise InvalidArgumentError(f"{key} holds no JSON object", key=key)
    store, seq = "", 0
    with suppress(msgspec.MsgspecError):
        found = msgspec.convert(document.pop(MARK, None), _Mark)
        store, seq = found.store, found.seq
    return View(msgspec.Raw(msgspec.json.encode(document)), store, seq, ours=False)


def _digest(shown: bytes) -> str:
    return sha256(shown).hexdigest()[:_DIGEST]


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt failed, and how often `flush` had been called when it began."""

    flushes: int
    error: StateError


class ViewWriter:
    """Writes what commits have made out of date. `busy` tells whether commits are under way, so that it keeps out of
    their way; `documents=False` leaves document views out.

    Unless it is `alone`, others write the same objects: then each is compared-and-swapped, after `catch_up` has told
    whether there is something newer. What other handles committed is `left` to them while they do: in a snapshot that
    covers it, its files are, too, and so whoever writes a snapshot has to write what was left before.
    """

    def __init__(
        self,
        replica: Replica,
        backend: Backend,
        *,
        store: str,
        documents: bool,
        interval: float,
        busy: Callable[[], bool],
        failed: Callable[[StateError], None],
        alone: bool = True,
        catch_up: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._alone = alone
        self._catch_up = catch_up or _nothing
        self._left: deque[tuple[int, FileChange]] = deque()
        self._left_bytes = 0
        self._reporting: frozenset[str] = frozenset()
        self._replica = replica
        self._backend = backend
        self._store = store
        self.documents = documents
        self._interval = interval
        self._engine_busy = busy
        self._failed = failed
        self._flushes = 0
        # Each with how often `flush` had been called when it was marked first, in that order.
        self._dirty: dict[tuple[str, str], int] = {}
        self._showing: dict[tuple[str, str], int] = {}
        self._resting: dict[tuple[str, str], float] = {}
        self._files: list[FileChange] = []
        self._removing: set[str] = set()
        self._begun = self._written = 0  # of the changes of files, all that there ever were
        self._urgent = 0
        self._ended: ClosedError | None = None
        self._file_failure: _Failure | None = None
        self._document_failure: _Failure | None = None
        self.trouble: Trouble | None = None
        self._work = asyncio.Event()
        self._turn = asyncio.Condition()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="statepath-views")

    @property
    def lag(self) -> int:
        """How many documents, logs and reports are ahead of their files."""
        return len(self._dirty) + len(self._files)

    def mark(self, collection: str, id: str) -> None:
        """The document's view is out of date."""
        if self.documents and collection != MEMBERS:
            self._dirty.setdefault((collection, id), self._flushes)
            if not self._work.is_set():
                self._work.set()

    def mark_all(self, stage: Stage) -> None:
        """What was staged is visible now."""
        if self.documents:
            for key in stage.entries:
                if key[0] != MEMBERS:
                    self._dirty.setdefault(key, self._flushes)
            if not self._work.is_set():
                self._work.set()
        for change in stage.files:
            self.mark_file(change)

    def leave(self, stage: Stage, seq: int) -> None:
        """What was staged is visible now, up to the seq, and another handle committed it: it writes the files, too."""
        for change in stage.files:
            if isinstance(change, RemoveLog) or self._owes(change):
                # An earlier one of ours may be written after theirs.
                self.mark_file(change)
                continue
            self._left.append((seq, change))
            if isinstance(change, WriteLog):
                self._left_bytes += len(change.text)
            elif isinstance(change, WriteReport):
                self._left_bytes += len(bytes(change.document))
        if self._left_bytes > _LEFT_BYTES:
            self.take_left()

    def _owes(self, change: FileChange) -> bool:
        if isinstance(change, WriteLog | RemoveLog):
            # What follows a removal is written again: ours may come later than theirs.
            return change.id in self._removing
        return change.id in self._reporting or any(
            isinstance(one, WriteReport | RemoveReport) and one.id == change.id for one in self._files
        )

    def take_left(self) -> None:
        """Write also what was left to other handles."""
        left, self._left, self._left_bytes = self._left, deque(), 0
        for _, change in left:
            self.mark_file(change)

    def forget(self, upto: int) -> None:
        """Others have written what was left to them up to the seq."""
        while self._left and self._left[0][0] <= upto:
            self._left.popleft()
        if not self._left:
            self._left_bytes = 0

    def mark_file(self, change: FileChange) -> None:
        """The change has to reach its file; it is later than all that came before it."""
        if self._left and not isinstance(change, WriteLog):
            of_logs = isinstance(change, RemoveLog)
            self._left = deque(
                one
                for one in self._left
                if one[1].id != change.id or isinstance(one[1], WriteLog | RemoveLog) != of_logs
            )
        self._files.append(change)
        if isinstance(change, RemoveLog):
            self._removing.add(change.id)
        self._work.set()

    @property
    def removing(self) -> bool:
        """Whether there may be files still of session logs that were removed."""
        return bool(self._removing)

    def removes(self, id: str) -> bool:
        """Whether there may be the file still of a session log that was removed."""
        return id in self._removing

    async def flush(self, *, files_only: bool = False) -> None:
        """Wait until every file shows what is committed now, whatever else is committed meanwhile; with `files_only`,
        those of logs and reports.

        Raises:
            ClosedError: the writer was closed before such a file was written.
            StateError: such a file could not be written; it is tried again in the background.
        """
        self._flushes += 1
        call, files = self._flushes, self._begun + len(self._files)

        def failure() -> StateError | None:
            failures = (self._file_failure, None if files_only else self._document_failure)
            # One that had begun before the call says nothing about the attempts from here on.
            told = (one.error for one in failures if one is not None and one.flushes >= call)
            return self._ended or next(told, None)

        def written() -> bool:
            return self._written >= files and (files_only or self._shows(call))

        self._urgent += 1
        self._work.set()
        try:
            async with self._turn:
                self._turn.notify_all()
                await self._turn.wait_for(lambda: failure() is not None or written())
        finally:
            self._urgent -= 1
        if (error := failure()) is not None:
            raise error

    async def close(self) -> None:
        """Write no more. Whoever waits for files is told."""
        self._ended = ClosedError(
            "the store was closed before its files were written; they are when it is opened again"
        )
        self._task.cancel()
        try:
            await asyncio.wait([self._task])
        finally:
            await self._tell()

    def _shows(self, call: int) -> bool:
        """Whether the documents' files show what was marked before that call of `flush`."""
        return all(next(iter(marks.values()), call) >= call for marks in (self._showing, self._dirty))

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            if not self._urgent:
                await self._rest(self._interval)
            began = time.monotonic()
            file_error = await self._next_files()
            document_error = await self._next_documents()
            if file_error is None and document_error is None:
                self.trouble = None
            if not self._dirty and not self._files:
                self._work.clear()
            elif file_error is not None or document_error is not None:
                await self._rest(_RETRY)
            elif self._engine_busy() and not self._urgent:
                await self._rest((time.monotonic() - began) * _REST)

    async def _next_files(self) -> StateError | None:
        files, self._files = self._files, []
        self._reporting = frozenset(
            change.id for change in files if isinstance(change, WriteReport | RemoveReport)
        )
        self._begun += len(files)
        flushes = self._flushes
        error = await self._attempt(self._write_files(files))
        if error is not None:
            self._files[:0] = files
            self._begun -= len(files)
            self._file_failure = _Failure(flushes, error)
        else:
            # A log that was removed, before it was written or after, has the right file only once the rest is written.
            if not (self._removing and self._removing & _logs(files) & _logs(self._files)):
                self._written = self._begun
            self._removing = {change.id for change in self._files if isinstance(change, RemoveLog)}
        self._reporting = frozenset()
        await self._tell()
        return error

    async def _next_documents(self) -> StateError | None:
        self._showing = batch = self._batch()
        flushes = self._flushes
        error = await self._attempt(self._write_documents(list(batch)))
        if error is not None:
            for key, marked in self._dirty.items():
                batch.setdefault(key, marked)
            self._dirty = batch
            self._document_failure = _Failure(flushes, error)
        self._showing = {}
        await self._tell()
        return error

    async def _tell(self) -> None:
        """Let those who wait for the files see how far they are, before anything else begins."""
        async with self._turn:
            self._turn.notify_all()
        await asyncio.sleep(0)

    async def _attempt(self, writing: Awaitable[None]) -> StateError | None:
        """Why something could not be written, if so. Whatever it is, the views go on."""
        try:
            await writing
        except StateError as error:
            trouble = error
        except Exception as error:  # noqa: BLE001 - the one who waits for the files is told
            trouble = StateError(f"a view could not be written: {error!r}")
        else:
            return None
        facts = {"key": trouble.key, "code": trouble.code}
        logger.warning("a view could not be written: %s", trouble, extra=facts)
        self.trouble = Trouble(trouble)
        self._failed(trouble)
        return trouble

    async def _rest(self, seconds: float) -> None:
        """Leave the machine to the commits, unless someone waits for the files."""
        async with self._turn:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._turn.wait_for(lambda: bool(self._urgent))

    def _batch(self) -> dict[tuple[str, str], int]:
        """The next documents, the longest waiting first; a large one waits in proportion to its size."""
        now = time.monotonic()
        batch: list[tuple[str, str]] = []
        size = 0
        for key in self._dirty:
            if self._resting and not self._urgent and self._resting.get(key, 0.0) > now:
                continue
            batch.append(key)
            entry = self._replica.get(*key)
            if entry is None:
                self._resting.pop(key, None)
            else:
                size += entry.size
                if entry.size > _LARGE:
                    self._resting[key] = now + entry.size / _LARGE_RATE
                elif self._resting:
                    self._resting.pop(key, None)
            if len(batch) == _BATCH or size > _BATCH_BYTES:
                break
        return {key: self._dirty.pop(key) for key in batch}

    async def _write_documents(self, batch: list[tuple[str, str]]) -> None:
        if not batch:
            if self._dirty:
                await self._rest(self._interval)
            return
        backend = self._backend
        lazily = backend.capabilities.lazy_writes and isinstance(backend, SupportsLazyWrites)
        if not self._alone:
            if not lazily:
                await self._show_beside_others(batch)
                return
            await self._catch_up()
        entries = [
            (document_key(collection, id), self._replica.get(collection, id)) for collection, id in batch
        ]
        head, at = self._replica.head, self._replica.time
        logger.debug("writing the files of %d documents", len(entries), extra={"seq": head})

        def items() -> Iterator[LazyWrite]:
            for key, entry in entries:
                if entry is None:
                    yield LazyWrite(key, None, at)
                else:
                    yield LazyWrite(
                        key, render_view(entry.json(), self._store, entry.version), entry.modified
                    )

        if lazily:
            versions = {key: head if entry is None else entry.version for key, entry in entries}

            def is_later(key: str, data: bytes) -> bool:
                return _shows_later(data, key, self._store, versions[key])

            await cast("SupportsLazyWrites", backend).write_lazily(
                items(), keep=None if self._alone else is_later
            )
            return
        drawn = items()
        while part := list(islice(drawn, _PARALLEL)):
            results = await asyncio.gather(*map(self._write_document, part), return_exceptions=True)
            # Only when all have ended: one that still went on could replace what the next attempt writes.
            for failure in filter(None, results):
                raise failure

    async def _write_document(self, item: LazyWrite) -> None:
        if item.data is None:
            await self._backend.delete(item.key)
        else:
            await self._backend.write(item.key, item.data)

    async def _write_files(self, files: list[FileChange]) -> None:
        """Logs and reports, in the order of the log; neighbouring pieces of one log in one write. What was written to
        one before it was removed is left out."""
        reports: dict[str, WriteReport | RemoveReport] = {}
        logs: dict[str, list[tuple[int, bytearray]]] = {}
        removed: dict[str, None] = {}
        for change in files:
            if isinstance(change, WriteReport | RemoveReport):
                reports[change.id] = change
                continue
            if isinstance(change, RemoveLog):
                logs.pop(change.id, None)
                removed[change.id] = None
                continue
            text = change.text.encode()
            pieces = logs.setdefault(change.id, [])
            if pieces and pieces[-1][0] + len(pieces[-1][1]) == change.offset:
                pieces[-1][1].extend(text)
            else:
                pieces.append((change.offset, bytearray(text)))
        for id, report in reports.items():
            if not self._alone:
                await self._replace_report(report)
            elif isinstance(report, WriteReport):
                await self._backend.write(report_key(id), pretty(bytes(report.document)))
            else:
                await self._backend.delete(report_key(id))
        grows = self._backend.capabilities.append
        for id in removed:
            if self._alone or grows:
                await remove_log(self._backend, id)
            else:
                since = partial(self._text_since, id, files)
                await remove_beside_others(self._backend, id, self._catch_up, since)
        if (removed or logs) and not self._alone:
            # What others appended before the file went is met while it is still owed, and so written again.
            await self._catch_up()
        begun_anew = self._begun_anew()
        for id, pieces in logs.items():
            if id in begun_anew:
                continue  # what others have appended since is not to be covered by what is no more
            for offset, text_bytes in pieces:
                if self._alone:
                    await write_log(self._backend, id, offset, bytes(text_bytes))
                elif grows:
                    appending = cast("SupportsAppend", self._backend)
                    await appending.write_at(log_key(id), offset, bytes(text_bytes), cut=False)
                else:
                    await self._write_piece(id, offset, bytes(text_bytes))

    async def _write_piece(self, id: str, offset: int, data: bytes) -> None:
        """Write a piece of a session log beside others, who may write the same piece, or one that begins there and is
        longer; or have begun the log anew."""
        key = f"{log_key(id)}/{offset:020d}"
        when: IfAbsent | IfMatch = IF_ABSENT
        while True:
            with suppress(AlreadyExistsError, ConflictError):
                await self._backend.write(key, data, when=when)
                return
            when, stored = await self._stored(key)
            if stored is not None and len(stored) >= len(data):
                return
            await self._catch_up()
            if id in self._begun_anew():
                return

    def _begun_anew(self) -> set[str]:
        """The session logs that have been removed since what is being written was appended."""
        return {change.id for change in self._files if isinstance(change, RemoveLog)}

    def _text_since(self, id: str, files: list[FileChange]) -> bytes:
        """What was appended to the session log since it was removed last."""
        text = bytearray()
        for change in (*files, *self._files):
            if isinstance(change, RemoveLog) and change.id == id:
                text.clear()
            elif isinstance(change, WriteLog) and change.id == id:
                text.extend(b"\n" * (change.offset - len(text)))
                data = change.text.encode()
                text[change.offset : change.offset + len(data)] = data
        return bytes(text)

    async def _replace_report(self, report: WriteReport | RemoveReport) -> None:
        """Write the report, or remove it, as the latest change that is known has it.

        The stored version is read first, then what was committed up to now: so whoever commits a later report finds
        this one, or has replaced what was read.
        """
        key = report_key(report.id)
        while True:
            when, stored = await self._stored(key)
            await self._catch_up()
            for one in self._files:
                if isinstance(one, WriteReport | RemoveReport) and one.id == report.id:
                    report = one
            data = pretty(bytes(report.document)) if isinstance(report, WriteReport) else None
            # The same content is written, too: when a report was last written is what its file tells.
            if stored is data is None:
                return
            with suppress(AlreadyExistsError, ConflictError):
                if data is None:
                    await self._backend.delete(key, when=when)
                else:
                    await self._backend.write(key, data, when=when)
                return

    async def _stored(self, key: str) -> tuple[IfAbsent | IfMatch, bytes | None]:
        try:
            blob = await self._backend.read(key)
        except NotFoundError:
            return IF_ABSENT, None
        return IfMatch(blob.etag), blob.data

    async def _show_beside_others(self, batch: list[tuple[str, str]]) -> None:
        """Write the views of documents unless they show later versions."""
        await self._catch_up()
        waiting = iter(batch)
        while part := list(islice(waiting, _PARALLEL)):
            results = await asyncio.gather(
                *(self._show(collection, id) for collection, id in part), return_exceptions=True
            )
            for failure in filter(None, results):
                raise failure

    async def _show(self, collection: str, id: str) -> None:
        key = document_key(collection, id)
        while True:
            when, stored = await self._stored(key)
            entry = self._replica.get(collection, id)
            version = self._replica.head if entry is None else entry.version
            if stored is not None and _shows_later(stored, key, self._store, version):
                return
            if entry is None and stored is None:
                return
            with suppress(AlreadyExistsError, ConflictError):
                if entry is None:
                    await self._backend.delete(key, when=when)
                else:
                    await self._backend.write(
                        key, render_view(entry.json(), self._store, entry.version), when=when
                    )
                return


def _logs(changes: list[FileChange]) -> set[str]:
    return {change.id for change in changes if isinstance(change, WriteLog | RemoveLog)}


def _shows_later(data: bytes, key: str, store: str, version: int) -> bool:
    try:
        view = parse_view(data, key, len(data))
    except InvalidArgumentError:
        return False
    return view.ours and view.store == store and view.seq > version


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
