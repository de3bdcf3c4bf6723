"""Segments: the journal's files, how they are named, made and filled, and how their lines are checked.

A segment is filled with spaces before it gets its name, so that a commit's sync has no metadata to write. The
commits stand one behind the other from its beginning; the first space or NUL in a line's place ends them.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from statepath.backend import Commit, decode_commit
from statepath.errors import CorruptionError, StateError

from statepath_local.failures import FULL, failing, state_error
from statepath_local.port import Bytes, Port, read_all, write_all
from statepath_local.tree import Tree

JOURNAL = "journal"
SMALLEST = 1024 * 1024
LARGEST = 64 * 1024 * 1024

_NAME = re.compile(r"([0-9]{20})\.jsonl")
_READ = 4 * 1024 * 1024
_FIRST_READ = 64 * 1024
_LONGEST_LINE = 64 * 1024 * 1024
_FILL = b" " * (512 * 1024)
_SHORTEST_PAUSE = 0.005
_LONGEST_PAUSE = 0.5
_SHARE = 3


def segment_name(first: int) -> str:
    return f"{first:020d}.jsonl"


def segment_key(first: int) -> str:
    return f"{JOURNAL}/{segment_name(first)}"


def open_segment(port: Port, journal: int, first: int, flags: int = os.O_RDONLY) -> int:
    """The segment's descriptor. `FileNotFoundError` where there is none.

    Raises:
        StateError: what has its name cannot be opened, or is no file; names it.
    """
    name = segment_name(first)
    try:
        # Opening a pipe without O_NONBLOCK would wait for its other end.
        fd = port.open(name, flags | os.O_NONBLOCK, within=journal)
        if stat.S_ISREG(port.fstat(fd).st_mode):
            return fd
        port.close(fd)
        raise IsADirectoryError(errno.EISDIR, "no file", name)
    except FileNotFoundError:
        raise
    except OSError as error:
        key = segment_key(first)
        raise state_error(error, key, key) from error


def list_segments(port: Port, journal: int) -> list[int]:
    """The first seqs that the segments are named after, in order."""
    matches = (_NAME.fullmatch(entry.name) for entry in port.scandir(journal))
    return sorted(int(match[1]) for match in matches if match is not None)


class Record(NamedTuple):
    """A valid commit record, its line without the line end, and where it stands in its segment."""

    commit: Commit
    line: bytes
    start: int

    @property
    def stop(self) -> int:
        return self.start + len(self.line) + 1


def read_records(port: Port, fd: int, offset: int, size: int) -> list[Record]:
    """The valid records from the offset on, about `size` bytes of them; none at the end of them.

    A record counts only with its line end: without it the write did not finish.
    """
    while True:
        data = read_all(port, fd, offset, offset + size)
        if not data or data[0] in b" \0":
            return []
        end = data.rfind(b"\n") + 1
        if end or len(data) < size or size >= _LONGEST_LINE:
            break
        size *= 4
    records: list[Record] = []
    start = offset
    for line in data[:end].split(b"\n")[:-1]:
        try:
            records.append(Record(decode_commit(line), line, start))
        except CorruptionError:
            break
        start += len(line) + 1
    return records


def begins_with(port: Port, fd: int, first: int) -> bool:
    """Whether the first commit of a segment is that of the seq, or none can be read there."""
    records = read_records(port, fd, 0, _FIRST_READ)
    return not records or records[0].commit.first == first


def later_records(port: Port, fd: int, offset: int) -> Iterator[Commit]:
    """The valid commits anywhere behind the offset, whatever stands between them."""
    rest = b""
    while data := read_all(port, fd, offset, offset + _READ):
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            try:
                yield decode_commit(line.lstrip(b" \0"))
            except CorruptionError:
                continue
        if len(rest) > _LONGEST_LINE or not rest.strip(b" \0"):
            rest = b""


def newest(tree: Tree) -> tuple[int, str]:
    """The last seq of which there is a valid commit, whatever stands before it, and the commit's id."""
    with failing(JOURNAL):
        try:
            journal = tree.folder([JOURNAL])
        except FileNotFoundError:
            return 0, ""
        try:
            for first in reversed(list_segments(tree.port, journal)):
                fd = open_segment(tree.port, journal, first)
                try:
                    found = max(((one.last, one.id) for one in later_records(tree.port, fd, 0)), default=None)
                finally:
                    tree.port.close(fd)
                if found is not None:
                    return found
        finally:
            tree.port.close(journal)
    return 0, ""


@dataclass(slots=True)
class Segment:
    """The segment that commits go into. `end` is behind its last commit; up to `size` it is filled."""

    first: int
    name: str
    fd: int
    end: int
    size: int
    limit: int
    """Up to here it may grow before the next attempt to begin another one."""

    inode: int = 0

    def next_size(self) -> int:
        return min(max(2 * self.size, SMALLEST), LARGEST)


def create_filled(
    tree: Tree, size: int, carry: Bytes = b"", *, stopped: Callable[[], bool] | None = None
) -> tuple[int, str, int]:
    """A synced file off the path: `carry`, then spaces up to the size. Returns as `create_temporary`.

    With `stopped` it is made in the background: paced, and given up when that says so.
    """
    port = tree.port
    within, name, fd = tree.create_temporary()
    try:
        if carry:
            write_all(port, fd, carry, 0)
        if size > len(carry):
            _reserve(port, fd, size)
        for offset in range(len(carry), size, len(_FILL)):
            begun = time.monotonic()
            write_all(port, fd, memoryview(_FILL)[: size - offset], offset)
            if stopped is not None:
                port.fdatasync(fd)
                # However busy the disk is, a quarter of the time is enough; but closing waits for this.
                pause = _SHARE * (time.monotonic() - begun)
                time.sleep(min(max(pause, _SHORTEST_PAUSE), _LONGEST_PAUSE))
                if stopped():
                    break
        port.fsync(fd)
    except BaseException:
        port.close(fd)
        tree.discard(within, name)
        raise
    return within, name, fd


def _reserve(port: Port, fd: int, size: int) -> None:
    """Ask for the space in one piece, where the file system can do that."""
    try:
        port.fallocate(fd, size)
    except OSError as error:
        if error.errno in FULL:
            raise


class Spares:
    """Prepares the next segment in the background, and seals the last one."""

    def __init__(self, tree: Tree, submit: Callable[[Callable[[], None]], object]) -> None:
        self._tree = tree
        self._submit = submit
        self._lock = threading.Lock()
        self._spare: tuple[int, str, int, int] | None = None
        self._busy = False
        self._closed = False

    def request(self, size: int) -> None:
        """Have a spare of the size made, unless there is one or one is on its way."""
        if self._busy or self._spare is not None or self._closed:
            return
        self._busy = True
        try:
            self._submit(lambda: self._make(size))
        except RuntimeError:
            self._busy = False  # the program ends, and Python begins no more work: the segment grows

    def seal(self, segment: Segment) -> None:
        """Cut the segment off behind its last commit, in the background while there is one."""
        try:
            self._submit(lambda: seal(self._tree.port, segment))
        except RuntimeError:
            seal(self._tree.port, segment)

    def _make(self, size: int) -> None:
        made = None
        # Without a spare the segment grows, and the commit that finds no space says so.
        with suppress(OSError, StateError):
            made = create_filled(self._tree, size, stopped=lambda: self._closed)
        with self._lock:
            self._busy = False
            if made is not None and not self._closed:
                self._spare, made = (*made, size), None
        if made is not None:
            self._discard(made)

    def take(self) -> tuple[int, str, int, int] | None:
        """The spare, if it is ready: its folder, name, descriptor and size."""
        with self._lock:
            spare, self._spare = self._spare, None
        return spare

    def close(self) -> None:
        with self._lock:
            self._closed = True
        spare = self.take()
        if spare is not None:
            self._discard(spare[:3])

    def _discard(self, made: tuple[int, str, int]) -> None:
        within, name, fd = made
        self._tree.port.close(fd)
        self._tree.discard(within, name)


def seal(port: Port, segment: Segment) -> None:
    """Cut off what is filled but not used, and close the file. Unsealed it reads the same."""
    with suppress(OSError):
        port.ftruncate(segment.fd, segment.end)
    port.close(segment.fd)
