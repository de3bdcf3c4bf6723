"""What a writer does with the journal before it serves it.

Records behind the highest seq known durable may be in the page cache only: perhaps a failed sync ended the
last writer. They are copied into a new, synced segment before the old one is cut off.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from statepath.errors import StateError

from statepath_local.cursor import Cursor, Found
from statepath_local.segments import JOURNAL, create_filled, list_segments, open_segment, segment_name
from statepath_local.tree import Tree


@dataclass(frozen=True, slots=True)
class Head:
    """Where a journal ends: its last commit, the segment that holds it, and the place behind it."""

    seq: int
    id: str
    segment: int
    end: int


@dataclass(slots=True)
class _Scan:
    head: Found | None
    tail: deque[Found]
    known: int


def repair(tree: Tree, published: int) -> Head | None:
    """Make the journal end behind its last valid record, all of it durable; `None`: it holds no commit.
    `published` is the seq that the last writer had told its readers.

    Raises:
        CorruptionError: a commit that had been durable is damaged near the end. Nothing was changed.
    """
    try:
        journal = tree.folder([JOURNAL])
    except FileNotFoundError:
        return None
    try:
        firsts = list_segments(tree.port, journal)
        scan = _scan_back(tree, firsts, published)
        if scan.head is None:
            return None
        commit = scan.head.record.commit
        if not scan.tail:
            segment, end = scan.head.segment, scan.head.record.stop
            _cut(tree, journal, segment, end)
        else:
            start = scan.tail[0]
            segment, end = _copy_tail(tree, journal, scan.tail)
            if start.segment != segment:
                _cut(tree, journal, start.segment, start.record.start)
        return Head(commit.last, commit.id, segment, end)
    finally:
        tree.port.close(journal)


def _scan_back(tree: Tree, firsts: list[int], published: int) -> _Scan:
    """Read from the last segment, or from as many as hold what is not known to be durable."""
    scan = _Scan(None, deque(), 0)
    for first in reversed(firsts):
        scan = _scan_from(tree, first, published)
        if scan.head is not None and first <= scan.known + 1:
            break
    return scan


def _scan_from(tree: Tree, first: int, published: int) -> _Scan:
    scan = _Scan(None, deque(), first - 1)
    cursor = Cursor(tree, first - 1, lambda: None)
    try:
        while found := cursor.next():
            scan.head = found[-1]
            scan.tail.extend(found)
            _drop_known(scan, max(each.record.commit.durable for each in found))
        damage = cursor.damage()
    finally:
        cursor.close()
    if damage is not None:
        raise damage
    # A seq above the head was published for another history of this folder.
    if scan.head is not None and published <= scan.head.record.commit.last:
        _drop_known(scan, published)
    return scan


def _drop_known(scan: _Scan, durable: int) -> None:
    scan.known = max(scan.known, durable)
    while scan.tail and scan.tail[0].record.commit.last <= scan.known:
        scan.tail.popleft()


def _copy_tail(tree: Tree, journal: int, tail: deque[Found]) -> tuple[int, int]:
    data = b"".join(b"%b\n" % found.record.line for found in tail)
    first = tail[0].record.commit.first
    within, name, fd = create_filled(tree, len(data), data)
    tree.port.close(fd)
    tree.port.rename(name, segment_name(first), within=within, into=journal)
    tree.port.fsync_dir(journal)
    return first, len(data)


def _cut(tree: Tree, journal: int, segment: int, end: int) -> None:
    """Cut a segment off; remove it where nothing is left. If that fails, what is left is skipped by readers."""
    port = tree.port
    with suppress(OSError, StateError):
        if end == 0:
            port.unlink(segment_name(segment), within=journal)
            return
        fd = open_segment(port, journal, segment, os.O_RDWR)
        try:
            if port.fstat(fd).st_size > end:
                port.ftruncate(fd, end)
                port.fsync(fd)
        finally:
            port.close(fd)
