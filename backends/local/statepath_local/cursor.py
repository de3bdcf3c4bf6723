"""A place in the journal, and the way from there to its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from statepath.backend import Commit
from statepath.errors import CorruptionError, HistoryTrimmedError

from statepath_local.failures import SCHEME, failing
from statepath_local.segments import (
    JOURNAL,
    Record,
    begins_with,
    later_records,
    list_segments,
    open_segment,
    read_records,
    segment_key,
    segment_name,
)
from statepath_local.tree import Tree

_FIRST_READ = 64 * 1024
_LARGEST_READ = 4 * 1024 * 1024

Limit = Callable[[], int | None]
"""The highest seq that may be served now; `None`: whatever is valid."""


@dataclass(frozen=True, slots=True)
class Place:
    """Behind the commit `id`, which ends with `seq`: where in which segment."""

    seq: int
    id: str
    segment: int
    inode: int
    offset: int


@dataclass(frozen=True, slots=True)
class Found:
    """A record and the segment it was read from."""

    segment: int
    record: Record


class Cursor:
    """Reads on from a seq, a batch at a time. Blocking. `close` may come while another thread reads. `known` is the
    place behind that seq, if it is known: then nothing has to be read to find it.

    Segments overlap after a crash (a tail that was copied, and not yet cut off): what was read is skipped.
    """

    def __init__(self, tree: Tree, after: int, limit: Limit, known: Place | None = None) -> None:
        self._tree = tree
        self._port = tree.port
        self._limit = limit
        self._journal = -1
        self._fd = -1
        self._segment = -1
        self._offset = 0
        self._size = _FIRST_READ
        self.last = after
        self.id: str | None = None
        """The id of the commit that ends at `last`, where it was seen."""
        self.behind = False
        """Whether there were segments behind this one when its end was reached."""
        self._known = known
        self._using = threading.Lock()

    def next(self) -> list[Found]:
        """The next commits; empty where the log ends for now.

        Raises:
            HistoryTrimmedError: the log begins later than this place.
        """
        with self._using, failing(JOURNAL):
            self._resume()
            while self._fd >= 0 or self._enter():
                found, moved = self._read()
                if found:
                    return found
                if not moved and not self._enter():
                    break
            return []

    def skip(self, known: Place) -> None:
        """Go on at that place, if it is behind this one and still there."""
        self._known = known

    def _resume(self) -> None:
        """Be at the known place, if it is still there."""
        known, self._known = self._known, None
        if known is None or known.seq < self.last or not self._open_journal():
            return
        if self._fd < 0 or self._segment != known.segment or self._port.fstat(self._fd).st_ino != known.inode:
            try:
                fd = open_segment(self._port, self._journal, known.segment)
            except FileNotFoundError:
                return
            if self._port.fstat(fd).st_ino != known.inode:
                self._port.close(fd)
                return
            if self._fd >= 0:
                self._port.close(self._fd)
            self._fd, self._segment = fd, known.segment
        self._offset, self.last, self.id = known.offset, known.seq, known.id

    @property
    def is_new(self) -> bool:
        """Whether nothing is known of the log up to here."""
        return self._known is None

    def place(self) -> Place | None:
        """Where it has come to."""
        with self._using, failing(JOURNAL):
            if self._fd < 0 or not self.id:
                return None
            inode = self._port.fstat(self._fd).st_ino
            return Place(self.last, self.id, self._segment, inode, self._offset)

    def _read(self) -> tuple[list[Found], bool]:
        with failing(key := segment_key(self._segment), key):
            records = read_records(self._port, self._fd, self._offset, self._size)
        # Asked after the bytes were read: what they hold up to the limit was durable by then.
        limit = self._limit() if records else None
        found: list[Found] = []
        offset = self._offset
        for record in records:
            commit = record.commit
            if commit.last > self.last:
                if not self._continues(record) or (limit is not None and commit.last > limit):
                    break
                found.append(Found(self._segment, record))
                self.last = commit.last
            if commit.last == self.last:
                self.id = commit.id
            self._offset = record.stop
        if self._offset - offset >= self._size // 2:
            self._size = min(2 * self._size, _LARGEST_READ)
        return found, self._offset > offset

    def _continues(self, record: Record) -> bool:
        if self.id is None:
            return record.commit.first <= self.last + 1
        return record.commit.first == self.last + 1 and record.commit.prev == self.id

    def _enter(self) -> bool:
        """Open the segment where the next commit has to be; whether that is another one than before."""
        if not self._open_journal():
            return False
        while True:
            firsts = list_segments(self._port, self._journal)
            here = [first for first in firsts if first <= self.last + 1]
            if not here:
                if firsts:
                    raise self._trimmed(firsts[0])
                return False
            try:
                segment, fd = self._open_last(here)
            except FileNotFoundError:
                continue
            self.behind = firsts[-1] > here[-1]
            if self._is_open(fd):
                self._port.close(fd)
                return False
            if self._fd >= 0:
                self._port.close(self._fd)
            self._fd, self._segment, self._offset = fd, segment, 0
            return True

    def _open_last(self, here: list[int]) -> tuple[int, int]:
        """The last segment that begins as its name says: a copy under another name would hide the one before it."""
        while True:
            fd = open_segment(self._port, self._journal, here[-1])
            try:
                if len(here) == 1 or self._is_open(fd) or begins_with(self._port, fd, here[-1]):
                    return here[-1], fd
            except BaseException:
                self._port.close(fd)
                raise
            self._port.close(fd)
            here = here[:-1]

    def _is_open(self, fd: int) -> bool:
        return self._fd >= 0 and os.path.samestat(self._port.fstat(fd), self._port.fstat(self._fd))

    def _open_journal(self) -> bool:
        if self._journal < 0:
            try:
                self._journal = self._tree.folder([JOURNAL])
            except FileNotFoundError:
                return False
        return True

    def _trimmed(self, first: int) -> HistoryTrimmedError:
        return HistoryTrimmedError(
            f"the log begins at seq {first}; what came before was trimmed",
            floor=first,
            backend=SCHEME,
        )

    def damage(self) -> CorruptionError | None:
        """Why the log may not end here: a later record knows that the next one had been durable.

        A live writer may have rotated since this place was read: it is so only if `next` finds nothing again.
        """
        with self._using, failing(JOURNAL):
            if self._fd < 0 or not self._knows_later(self.last + 1):
                return None
            records = read_records(self._port, self._fd, self._offset, _FIRST_READ)
            if records and self._continues(records[0]):
                return None
        name = segment_name(self._segment)
        return CorruptionError(
            f"{JOURNAL}/{name} is damaged at byte {self._offset}: seq {self.last + 1} had been durable, "
            "and cannot be read",
            key=f"{JOURNAL}/{name}",
            backend=SCHEME,
        )

    def _knows_later(self, missing: int) -> bool:
        """Whether a commit behind this place, wherever it stands, says that the seq had been durable."""
        if _any_durable(later_records(self._port, self._fd, self._offset), missing):
            return True
        for first in list_segments(self._port, self._journal):
            if first > self._segment:
                try:
                    fd = open_segment(self._port, self._journal, first)
                except FileNotFoundError:
                    continue
                try:
                    if _any_durable(later_records(self._port, fd, 0), missing):
                        return True
                finally:
                    self._port.close(fd)
        return False

    def close(self) -> None:
        with self._using:
            for fd in (self._fd, self._journal):
                if fd >= 0:
                    self._port.close(fd)
            self._fd = self._journal = -1


def _any_durable(commits: Iterable[Commit], seq: int) -> bool:
    return any(commit.durable >= seq for commit in commits)
