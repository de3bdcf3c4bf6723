"""The one thread that writes the journal: one pwrite and one data sync a commit, or for several that come at once."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, TypeVar

from statepath.backend import Commit, encode_commit
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HeadMoved,
    InvalidArgumentError,
    OutcomeUnknownError,
    StateError,
)

from statepath_local.failures import FULL, SCHEME, failing, state_error
from statepath_local.lock import WriterLock
from statepath_local.port import read_all, write_all
from statepath_local.repair import Head, repair
from statepath_local.segments import (
    JOURNAL,
    LARGEST,
    SMALLEST,
    Segment,
    Spares,
    create_filled,
    list_segments,
    seal,
    segment_name,
)
from statepath_local.tree import Tree

T = TypeVar("T")
Settle = Callable[[Any, BaseException | None], None]


class Writer:
    """Holds the head of the journal. `append` and `restart` run in its thread, handed over by `submit`."""

    def __init__(
        self, tree: Tree, lock: WriterLock, background: Callable[[Callable[[], None]], object]
    ) -> None:
        self._tree = tree
        self._port = tree.port
        self._lock = lock
        self._spares = Spares(tree, background)
        self._journal = -1
        self._segment: Segment | None = None
        self._refusal: StateError | None = None
        self._opening = threading.Lock()
        self._opened = False
        self._found: Head | None = None
        self._empty = True
        self._durable, self._id = lock.durable, ""
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Settle] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="statepath-journal", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Make the journal end as it should; before it is first read or written, and not before that: what a
        newer program wrote is noticed elsewhere first, and stays as it is."""
        with self._opening:
            if self._opened:
                return
            try:
                with failing(JOURNAL):
                    head = self._found = repair(self._tree, self._lock.durable)
                    self._empty = head is None
                    self._durable, self._id = (0, "") if head is None else (head.seq, head.id)
                    self._lock.publish(self._durable)
            except CorruptionError as error:
                self._refusal = error
            self._opened = True

    def limit(self) -> int | None:
        """The highest seq that may be served; `None` for a damaged journal, which is not written."""
        return None if isinstance(self._refusal, CorruptionError) else self._durable

    def damage(self, after: int) -> CorruptionError | None:
        """Why no commit can follow the seq, although whoever reads behind it may have noticed nothing."""
        if isinstance(self._refusal, CorruptionError):
            return copy.copy(self._refusal)
        if self._empty or self._durable >= after:
            return None
        return CorruptionError(
            f"{JOURNAL} ends with seq {self._durable}, and seq {after} had been durable: its end is missing",
            key=JOURNAL,
            backend=SCHEME,
        )

    def submit(self, call: Callable[[], T], settle: Settle) -> None:
        """Run the call in the writer's thread, which then calls `settle(result, error)`."""
        self._jobs.put((call, settle))

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, settle = job
            result, failure = None, None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits, whatever it is
                failure = error
            if self._lock.durable != self._durable:
                # Before the acknowledgement: who hears of it may look with another handle at once.
                with suppress(OSError):
                    self._lock.publish(self._durable)
            settle(result, failure)

    def append(self, after: int, commits: Sequence[Commit]) -> None:
        self.open()
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        self._check_place(after, commits[0])
        lines = encode_commit(commits[0])
        for commit in commits[1:]:
            lines += encode_commit(commit)
        segment = self._room(commits[0].first, len(lines))
        try:
            write_all(self._port, segment.fd, lines, segment.end)
        except OSError as error:
            if error.errno in FULL and self._take_back(segment):
                raise state_error(error, f"{JOURNAL}/{segment.name}") from error
            raise self._poison(error) from error
        try:
            self._port.fdatasync(segment.fd)
        except OSError as error:
            raise self._poison(error) from error
        segment.end += len(lines)
        self._empty = False
        self._durable, self._id = commits[-1].last, commits[-1].id
        if segment.end > segment.size // 8:
            self._spares.request(segment.next_size())

    def _check_place(self, after: int, commit: Commit) -> None:
        if commit.first != after + 1:
            raise InvalidArgumentError(f"commit {commit.first} does not follow seq {after}", backend=SCHEME)
        if self._empty:
            return
        if after != self._durable:
            raise HeadMoved
        if self._id and commit.prev != self._id:
            raise DivergedError(
                f"commit {commit.first} follows {commit.prev or 'nothing'}, and the log ends with {self._id}",
                backend=SCHEME,
            )

    def _take_back(self, segment: Segment) -> bool:
        """Remove the beginning of a record that found no space."""
        try:
            self._port.ftruncate(segment.fd, segment.end)
        except OSError:
            return False
        segment.size = segment.limit = segment.end
        return True

    def _poison(self, error: OSError) -> StateError:
        """After a failed sync the system may count lost pages as written: that file is not tried again."""
        self._refusal = OutcomeUnknownError(
            f"writing the journal failed ({os.strerror(error.errno or 0)}): whether the last commit is "
            "durable is not known; check the disk, then open the store again to see what holds",
            backend=SCHEME,
        )
        return copy.copy(self._refusal)

    def _room(self, first: int, need: int) -> Segment:
        """A segment with room for the record. An error here means that nothing of it was written."""
        segment = self._segment
        if segment is not None and segment.end + need <= segment.limit:
            return segment
        try:
            if segment is None:
                return self._begin(first)
            spare = self._spares.take()
            if spare is not None:
                return self._install(spare[:3], first, size=spare[3], end=0)
            if segment.end + need <= 2 * LARGEST:
                # Without a spare yet the segment grows: slower to sync, but nobody waits.
                self._spares.request(segment.next_size())
                segment.limit = segment.end + need + SMALLEST
                return segment
            return self._install(create_filled(self._tree, 0), first, size=0, end=0)
        except OSError as error:
            raise state_error(error, JOURNAL) from error

    def _begin(self, first: int) -> Segment:
        """The first segment of this handle. It takes over a small last one: many openings make few files."""
        found = self._found
        carry = b""
        if self._journal < 0:
            self._journal = self._tree.folder([JOURNAL], create=True)
        self._remove_behind(-1 if found is None else found.segment)
        if found is not None and found.end < SMALLEST // 2:
            first = found.segment
            carry = self._read_segment(first, found.end)
        return self._install(create_filled(self._tree, SMALLEST, carry), first, size=SMALLEST, end=len(carry))

    def _remove_behind(self, segment: int) -> None:
        """Segments that were begun behind the head hold no commit, or what a copied tail holds, too."""
        for first in list_segments(self._port, self._journal):
            if first > segment:
                self._port.unlink(segment_name(first), within=self._journal)

    def _read_segment(self, first: int, end: int) -> bytes:
        fd = self._port.open(segment_name(first), os.O_RDONLY, within=self._journal)
        try:
            return read_all(self._port, fd, 0, end)
        finally:
            self._port.close(fd)

    def _install(self, made: tuple[int, str, int], first: int, *, size: int, end: int) -> Segment:
        within, temporary, fd = made
        name = segment_name(first)
        try:
            self._port.rename(temporary, name, within=within, into=self._journal)
        except OSError:
            self._port.close(fd)
            self._tree.discard(within, temporary)
            raise
        last, self._segment = self._segment, Segment(first, name, fd, end, size, size)
        if last is not None:
            self._spares.seal(last)
        try:
            self._port.fsync_dir(self._journal)
        except OSError as error:
            raise self._poison(error) from error
        return self._segment

    def restart(self, after: int) -> list[str]:
        self.open()
        if self._refusal is not None and not isinstance(self._refusal, CorruptionError):
            raise copy.copy(self._refusal)
        if self._segment is not None:
            self._port.close(self._segment.fd)
            self._segment = None
        try:
            kept = self._move_aside()
            self._lock.publish(after)
        except OSError as error:
            raise self._poison(error) from error
        self._refusal = None
        self._found = None
        self._empty = False
        self._durable, self._id = after, ""
        return kept

    def _move_aside(self) -> list[str]:
        if self._journal < 0:
            self._journal = self._tree.folder([JOURNAL], create=True)
        kept: list[str] = []
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        # The newest first: what a crash leaves behind is then the beginning of the log, without a gap.
        for first in reversed(list_segments(self._port, self._journal)):
            name = segment_name(first)
            aside = f"{name}.corrupt.{moment}"
            self._port.rename(name, aside, within=self._journal, into=self._journal)
            kept.append(f"{JOURNAL}/{aside}")
        self._port.fsync_dir(self._journal)
        return kept[::-1]

    def close(self) -> None:
        """Finish what was handed in, cut the segment off where its commits end, and stop. Blocking."""
        self._jobs.put(None)
        self._thread.join()
        self._spares.close()
        segment, self._segment = self._segment, None
        if segment is not None:
            if self._refusal is None and segment.end > 0:
                seal(self._port, segment)
            else:
                self._port.close(segment.fd)
        if self._journal >= 0:
            self._port.close(self._journal)
            self._journal = -1
