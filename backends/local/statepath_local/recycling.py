"""Replaced files, used again.

Replacing a file by rename makes the file system free one inode and find another, which takes many times longer than
writing into a file that is there; so a replaced file becomes the next but some new one. In between lies a while in
which whoever had just opened the old file can read it to its end.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque

from statepath_local.tree import Tree

_REST = 0.05
_MOST = 8192


class Recycler:
    """Temporary files for one writer of many small files. Its calls come from one thread at a time."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._retired: deque[tuple[float, int, str]] = deque()

    def take(self) -> tuple[int, str, int, int]:
        """A file to be written from its beginning: its folder's descriptor, its name, its own descriptor, its size."""
        retired = self._retired
        port = self._tree.port
        while retired and retired[0][0] <= time.monotonic():
            _, within, name = retired.popleft()
            try:
                fd = port.open(name, os.O_RDWR, within=within)
            except OSError:
                continue  # it is gone, or was no file
            # A file that someone linked has to stay as it is, and one that someone made may be open to others.
            found = port.fstat(fd)
            if found.st_nlink == 1 and stat.S_IMODE(found.st_mode) == 0o600:
                return within, name, fd, found.st_size
            port.close(fd)
            self._tree.discard(within, name)
        return *self._tree.create_temporary(), 0

    def retire(self, within: int, name: str) -> None:
        """Keep a file that was replaced."""
        if len(self._retired) < _MOST:
            self._retired.append((time.monotonic() + _REST, within, name))
        else:
            self._tree.discard(within, name)

    def clear(self) -> None:
        """Remove what is kept."""
        for _, within, name in self._retired:
            self._tree.discard(within, name)
        self._retired.clear()
