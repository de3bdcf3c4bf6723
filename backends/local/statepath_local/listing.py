"""Which objects there are: the files below a folder, in the order of their keys.

A folder is read when its turn comes, and what vanishes meanwhile is not told.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Generator, Iterable, Iterator
from datetime import UTC, datetime
from heapq import merge
from itertools import islice

from statepath.backend import Entry
from statepath.errors import NotFoundError

from statepath_local.failures import failing, state_error
from statepath_local.names import key_part
from statepath_local.tree import LOCK, Tree, is_name

logger = logging.getLogger("statepath.local")

_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_FOLDER_OF_STORE = re.compile(r"[a-z][a-z0-9_]*")
"""What a folder of a store is named, that of a collection included."""

_LATEST = datetime.max.replace(microsecond=0, tzinfo=UTC).timestamp()

_RUN = 2000
"""So many names are sorted at once."""


class Listing:
    """The keys of one state path.

    `doubtful`: the machine was started since the objects were written, and the store is being opened. Then no times are
    told, as a lazily written file may have kept its time and lost its content, and the clock may have gone back;
    whoever goes by the time reads such a file.
    """

    def __init__(self, tree: Tree, *, doubtful: bool) -> None:
        self._tree = tree
        self._port = tree.port
        self.doubtful = doubtful
        self._skipped: set[str] = set()

    def entries(self, prefix: str, after: str) -> Generator[Entry, None, None]:
        """The objects whose keys begin so, behind the key `after`."""
        folders = prefix.split("/")[:-1]
        if not all(is_name(part) for part in folders) or folders[:1] == [LOCK]:
            return
        try:
            with failing(prefix, prefix):
                folder = self._tree.folder(folders)
        except NotFoundError:
            return
        yield from self._entries(folder, "".join(f"{part}/" for part in folders), prefix, after)

    def _entries(self, folder: int, base: str, prefix: str, after: str) -> Iterator[Entry]:
        port = self._port
        try:
            with failing(base, base):
                names = sortable(port.scandir(folder), odd=bool(base))
            for part in _in_order(names):
                name = names[part]
                key = base + part
                is_folder = part.endswith("/")
                if not key.startswith(prefix) and not (is_folder and prefix.startswith(key)):
                    continue
                if not is_folder:
                    if key > after and key != LOCK and (entry := self._entry(name, folder, key)) is not None:
                        yield entry
                elif key > after or after.startswith(key):
                    try:
                        below = port.open_folder(name, within=folder)
                    except OSError as error:
                        if error.errno in _NO_FOLDER:  # not any more
                            continue
                        if not self._is_anothers(error, name, folder, key):
                            raise state_error(error, key, key) from error
                        self._skip(key, error)
                        continue
                    yield from self._entries(below, key, prefix, after)
        finally:
            port.close(folder)

    def _is_anothers(self, error: OSError, name: str, folder: int, key: str) -> bool:
        """Whether the folder that cannot be opened is another user's, where nothing of the store is missed."""
        if error.errno not in (errno.EACCES, errno.EPERM) or _FOLDER_OF_STORE.fullmatch(
            key.partition("/")[0]
        ):
            return False
        try:
            return self._port.stat(name, within=folder).st_uid != os.geteuid()
        except OSError:
            return False

    def _skip(self, key: str, error: OSError) -> None:
        if key not in self._skipped:
            self._skipped.add(key)
            logger.warning(
                "%s is another user's and is left out: %s",
                key,
                os.strerror(error.errno or 0),
                extra={"key": key},
            )

    def _entry(self, name: str, folder: int, key: str) -> Entry | None:
        try:
            found = self._port.stat(name, within=folder)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise state_error(error, key, key) from error
        return Entry(key, found.st_size, 0.0 if self.doubtful else modified(found))


def modified(found: os.stat_result) -> float:
    """When the file was changed, in seconds since 1970, exact to the microsecond. Anyone may have set any time: of one
    that no date can have it is the nearest."""
    return min(max(found.st_mtime_ns // 1000 / 1e6, 0.0), _LATEST)


def sortable(entries: Iterable[os.DirEntry[str]], *, odd: bool) -> dict[str, str]:
    """The names of a folder's files and folders, by how they stand in the keys of what is there or below. `odd`:
    with those files whose names no key has."""
    names: dict[str, str] = {}
    for entry in entries:
        name = entry.name
        if not is_name(name):
            if odd and entry.is_file(follow_symlinks=False):
                names.setdefault(key_part(name), name)
        elif entry.is_file(follow_symlinks=False):
            names[name] = name
        elif entry.is_dir(follow_symlinks=False):
            names[f"{name}/"] = name
    return names


def _in_order(parts: Iterable[str]) -> Iterator[str]:
    """The parts, sorted a run at a time: to sort those of a large folder at once keeps every other thread waiting."""
    rest = iter(parts)
    runs = []
    while run := sorted(islice(rest, _RUN)):
        runs.append(run)
    return merge(*runs)
