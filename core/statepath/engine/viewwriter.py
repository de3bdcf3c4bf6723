"""When views are written: `tasks/<id>.json` and the files of logs and reports, behind the commits.

Document views may lag and are rebuilt from the log; they are coalesced and paced, so that saves do not wait for them.
Logs and reports live in their files alone once the journal is trimmed: these are written durably, in order.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from statepath.backend import Backend
from statepath.commit import FileChange, RemoveLog, WriteLog, WriteReport
from statepath.engine.ids import document_key
from statepath.engine.lasting import ENDINGS, LastingTask
from statepath.engine.replay import file_key
from statepath.engine.replica import MEMBERS, Replica, Stage
from statepath.engine.sharedviewfiles import SharedViewFiles
from statepath.engine.trouble import Trouble
from statepath.engine.viewfiles import ViewFiles, trouble_of
from statepath.errors import ClosedError, StateError

logger = logging.getLogger("statepath.views")

_BATCH: Final = 256
_BATCH_BYTES: Final = 1024 * 1024
_LARGE: Final = 64 * 1024
_LARGE_RATE: Final = 2 * 1024 * 1024
_REST: Final = 4.0
_RETRY: Final = 1.0
_LOOK: Final = 0.1  # so often it is looked for others while those that could not be written rest
_LEFT_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt failed, and how often `flush` had been called when it began. `whole`: nothing was written."""

    flushes: int
    error: StateError
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _FileFailures:
    """The same of logs and reports, by their keys."""

    flushes: int = -1
    errors: Mapping[str, StateError] = field(default_factory=dict)


@dataclass(slots=True)
class _Owed:
    """What a log or a report lacks, in the order of the log, and how often `flush` had been called when it was marked
    first."""

    flushes: int
    changes: list[FileChange] = field(default_factory=list)
    removes: bool = False
    """Whether one of the changes removes a log."""


class ViewWriter:
    """Writes what commits have made out of date. `busy` tells whether commits are under way, so that it keeps out of
    their way; `documents=False` leaves document views out.

    Unless it is `alone`, others write the same objects; then `catch_up` tells whether there is something newer. What
    other handles committed is `left` to them while they do: in a snapshot that covers it, its files are, too, and so
    whoever writes a snapshot has to write what was left before.
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
        alone: bool,
        catch_up: Callable[[], Awaitable[None]],
    ) -> None:
        self._left: deque[tuple[int, FileChange]] = deque()
        self._left_bytes = 0
        self._replica = replica
        self.documents = documents
        self._interval = interval
        self._engine_busy = busy
        self._failed = failed
        self._flushes = 0
        # Each with how often `flush` had been called when it was marked first, in that order.
        self._dirty: dict[tuple[str, str], int] = {}
        self._showing: dict[tuple[str, str], int] = {}
        # What could not be written, so that it is in no others' way; what was tried last comes last.
        self._unwritten: dict[tuple[str, str], int] = {}
        self._again = 0.0
        self._resting: dict[tuple[str, str], float] = {}
        # Logs and reports by their keys: what is to be written, is being written, and could not be.
        self._files: dict[str, _Owed] = {}
        self._writing: dict[str, _Owed] = {}
        self._unwritten_files: dict[str, _Owed] = {}
        self._view_files = (
            ViewFiles(replica, backend, store, self._pending)
            if alone
            else SharedViewFiles(replica, backend, store, self._pending, catch_up)
        )
        self._urgent = 0
        self._ended: ClosedError | None = None
        self._file_failures = _FileFailures()
        self._document_failure: _Failure | None = None
        self.trouble: Trouble | None = None
        self._work = asyncio.Event()
        self._turn = asyncio.Condition()
        self._task = LastingTask(
            self._run, lambda: self._urgent > 0 and self._ended is None, "statepath-views"
        )

    @property
    def lag(self) -> int:
        """How many documents, logs and reports are ahead of their files."""
        return len(self._dirty) + len(self._unwritten) + len(self._files) + len(self._unwritten_files)

    @property
    def owed(self) -> frozenset[str]:
        """The keys of the logs and reports whose files lack something."""
        return frozenset((*self._files, *self._writing, *self._unwritten_files))

    @property
    def failures(self) -> list[StateError]:
        """Why logs and reports could not be written that still are not."""
        errors = self._file_failures.errors
        return [errors[key] for key in self._unwritten_files if key in errors]

    def mark(self, collection: str, id: str) -> None:
        """The document's view is out of date."""
        if self.documents and collection != MEMBERS:
            self._mark((collection, id))
            if not self._work.is_set():
                self._work.set()

    def mark_all(self, stage: Stage) -> None:
        """What was staged is visible now."""
        if self.documents:
            for key in stage.entries:
                if key[0] != MEMBERS:
                    self._mark(key)
            if not self._work.is_set():
                self._work.set()
        for change in stage.files:
            self.mark_file(change)

    def _mark(self, key: tuple[str, str]) -> None:
        if key not in self._unwritten:
            self._dirty.setdefault(key, self._flushes)

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
        key = file_key(change)
        if isinstance(change, WriteLog | RemoveLog):
            # What follows a removal is written again: ours may come later than theirs.
            return self.removes(key)
        return bool(self._owed(key))

    def _owed(self, key: str) -> list[_Owed]:
        """What the log or the report lacks."""
        places = (self._writing, self._unwritten_files, self._files)
        return [place[key] for place in places if key in place]

    def _pending(self, key: str) -> list[FileChange]:
        """The changes of the log or the report behind those that are being written."""
        return self._files[key].changes if key in self._files else []

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
        key = file_key(change)
        place = self._unwritten_files if key in self._unwritten_files else self._files
        owed = place.setdefault(key, _Owed(self._flushes))
        if not isinstance(change, WriteLog):
            owed.changes.clear()  # it says all that the file is to have
        owed.changes.append(change)
        owed.removes = owed.removes or isinstance(change, RemoveLog)
        self._work.set()

    @property
    def removing(self) -> bool:
        """Whether there may be files still of session logs that were removed."""
        places = (self._writing, self._unwritten_files, self._files)
        return any(owed.removes for place in places for owed in place.values())

    def removes(self, key: str) -> bool:
        """Whether there may be the file still, of that key, of a session log that was removed."""
        return any(owed.removes for owed in self._owed(key))

    async def flush(self, *, files_only: bool = False) -> None:
        """Wait until every file shows what is committed now, whatever else is committed meanwhile; with `files_only`,
        those of logs and reports.

        Raises:
            ClosedError: the writer was closed before such a file was written.
            StateError: such a file could not be written; it is tried again in the background.
        """
        call = self._call()

        def failure() -> StateError | None:
            document = self._document_failure
            if files_only or (document is not None and not document.whole and self._waits(call)):
                document = None
            # One that had begun before the call says nothing about the attempts from here on.
            if document is not None and document.flushes < call:
                document = None
            if document is not None:
                return self._ended or document.error
            # What keeps a log or a report from being written keeps no document from it.
            waits = not files_only and self._waits(call)
            return self._ended or (None if waits else next(iter(self._failed_since(call).values()), None))

        def written() -> bool:
            return self._files_show(call) and (files_only or self._shows(call))

        await self._reach(written, failure)

    async def flush_file(self, key: str) -> None:
        """As `flush`, for a log or a report alone."""
        call = self._call()
        await self._reach(
            lambda: all(owed.flushes >= call for owed in self._owed(key)),
            lambda: self._ended or self._failed_since(call).get(key),
        )

    def _call(self) -> int:
        self._flushes += 1
        return self._flushes

    def _failed_since(self, call: int) -> Mapping[str, StateError]:
        """Why logs and reports could not be written in an attempt that began behind that call."""
        failures = self._file_failures
        return failures.errors if failures.flushes >= call else {}

    async def _reach(self, written: Callable[[], bool], failure: Callable[[], StateError | None]) -> None:
        """Wait for it, without a rest for those who write."""
        self._urgent += 1
        self._work.set()
        self._task.attend()
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
        try:
            await self._task.stop()
        finally:
            await self._tell()

    def _shows(self, call: int) -> bool:
        """Whether the documents' files show what was marked before that call of `flush`."""
        return not self._waits(call) and min(self._unwritten.values(), default=call) >= call

    def _files_show(self, call: int) -> bool:
        """The same of logs and reports."""
        owed = chain(self._files.values(), self._writing.values(), self._unwritten_files.values())
        return all(one.flushes >= call for one in owed)

    def _waits(self, call: int) -> bool:
        """Whether something of it is still to be tried."""
        return (
            min(self._showing.values(), default=call) < call or next(iter(self._dirty.values()), call) < call
        )

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            if not self._urgent:
                await self._rest(self._interval)
            began = time.monotonic()
            try:
                again = bool(self._urgent) or time.monotonic() >= self._again
                unwritten = again and bool(self._unwritten)
                # Who waits for documents is no reason to try those again that have just failed.
                failed = self._file_failures.flushes == self._flushes and began < self._again
                files_stuck = await self._next_files(again=again and not failed)
                stuck = await self._next_documents(self._dirty)
                if unwritten:
                    await self._next_documents(self._unwritten)
            except ENDINGS:
                await self._cut_off()
                raise
            if not self._unwritten_files and not self._unwritten:
                self.trouble = None
            if not self.lag:
                self._work.clear()
            elif files_stuck or stuck:
                await self._rest(_RETRY)
            elif not self._dirty and not self._files:
                await self._rest(min(_LOOK, max(0.0, self._again - time.monotonic())))
            elif self._engine_busy() and not self._urgent:
                await self._rest((time.monotonic() - began) * _REST)

    async def _cut_off(self) -> None:
        """Write no more: what was cut off may still go on, and nothing later is to be replaced by that."""
        self._ended = self._ended or ClosedError(
            "the task that writes the files was ended, as asyncio.run does with all at its end; they are written when "
            "the store is opened again"
        )
        await self._tell()

    async def _next_files(self, *, again: bool) -> bool:
        """Write the files that are out of date, and `again` what could not be written; whether none that was due could
        be."""
        due, again_due = self._files, self._unwritten_files if again else {}
        if not due and not again_due:
            return False
        self._files, self._writing = {}, {**due, **again_due}
        self._unwritten_files = {} if again else self._unwritten_files
        flushes = self._flushes
        errors = await self._view_files.write({key: owed.changes for key, owed in self._writing.items()})
        written, self._writing = self._writing, {}
        for key in errors:
            self._keep(key, written.pop(key))
        for key, owed in written.items():
            # One that was removed, before it was written or after, has the right file only once the rest is written.
            if key in self._files and (owed.removes or self._files[key].removes):
                self._files[key].flushes = min(owed.flushes, self._files[key].flushes)
        if errors or again:
            others = {} if again else self._file_failures.errors
            self._file_failures = _FileFailures(flushes, {**others, **errors})
        if errors:
            self._again = time.monotonic() + _RETRY
            new = [error for key, error in errors.items() if key not in again_due]
            for error in dict.fromkeys(new or [*errors.values()][:1]):
                self._note(error)
        await self._tell()
        return bool(due) and due.keys() <= errors.keys()

    def _keep(self, key: str, owed: _Owed) -> None:
        """It could not be written: what has come since is written behind it."""
        if (since := self._files.pop(key, None)) is not None:
            if not isinstance(since.changes[0], WriteLog):
                owed.changes.clear()
            owed.changes += since.changes
            owed.removes = owed.removes or since.removes
        self._unwritten_files[key] = owed

    async def _next_documents(self, marks: dict[tuple[str, str], int]) -> bool:
        """Write files of some of those documents; whether none that was due could be."""
        again = marks is self._unwritten
        self._showing = batch = self._batch(marks, at_once=again or bool(self._urgent))
        flushes = self._flushes
        error = await self._attempt(self._show(list(batch)))
        whole = False
        if error is not None:
            keys = {document_key(*document): document for document in batch}
            # Whoever does not say which may have written none.
            failed = [keys[key] for key in error.unwritten if key in keys] or list(batch)
            for document in failed:
                self._dirty.pop(document, None)
                self._unwritten[document] = batch[document]
            whole = not again and len(failed) == len(batch)
            self._document_failure = _Failure(flushes, error, whole)
            self._again = time.monotonic() + _RETRY
        self._showing = {}
        await self._tell()
        return whole

    async def _tell(self) -> None:
        """Let those who wait for the files see how far they are, before anything else begins."""
        async with self._turn:
            self._turn.notify_all()
        await asyncio.sleep(0)

    async def _attempt(self, writing: Awaitable[None]) -> StateError | None:
        """Why something could not be written, if so. Whatever it is, the views go on."""
        try:
            await writing
        except Exception as error:  # noqa: BLE001 - the one who waits for the files is told
            trouble = trouble_of(error)
            self._note(trouble)
            return trouble
        return None

    def _note(self, trouble: StateError) -> None:
        facts = {"key": trouble.key, "code": trouble.code}
        logger.warning("a view could not be written: %s", trouble, extra=facts)
        self.trouble = Trouble(trouble)
        self._failed(trouble)

    async def _rest(self, seconds: float) -> None:
        """Leave the machine to the commits, unless someone waits for the files."""
        async with self._turn:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._turn.wait_for(lambda: bool(self._urgent))

    def _batch(self, marks: dict[tuple[str, str], int], *, at_once: bool) -> dict[tuple[str, str], int]:
        """The next documents, the longest waiting first; a large one waits in proportion to its size."""
        now = time.monotonic()
        batch: list[tuple[str, str]] = []
        size = 0
        for key in marks:
            if self._resting and not at_once and self._resting.get(key, 0.0) > now:
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
        return {key: marks.pop(key) for key in batch}

    async def _show(self, batch: list[tuple[str, str]]) -> None:
        if batch:
            await self._view_files.show(batch)
        elif self._dirty:
            await self._rest(self._interval)
