"""The folder of one store, walked by descriptors, so that no link can lead out of it.

Names that no key can have are the backend's own: `.tmp+/` holds files on their way in, `lock` is the lock.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count

from statepath.errors import AccessDeniedError, DivergedError, InvalidArgumentError, UnavailableError

from statepath_local.failures import SCHEME
from statepath_local.port import Port

LOCK = "lock"
TEMPORARY = ".tmp+"

_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~%-]+")
_KEY = re.compile(r"[A-Za-z0-9._~%-]+(?:/[A-Za-z0-9._~%-]+)*")
_MAX_KEY = 512
_MOST_DURABLE = 1024
_KNOWN = "."
_UNKNOWN = "-"
"""How a temporary's name says whether it can be known that its handle has ended."""

_TEMPORARY_NAME = re.compile(r"tmp-(?P<token>[0-9a-f]{8})(?P<sign>[-.])[0-9]+")


def is_name(name: str) -> bool:
    """Whether a file of this name can be a part of a key."""
    return _NAME.fullmatch(name) is not None


def split_key(key: str) -> tuple[list[str], str]:
    """The folders and the file's name of a key.

    Raises:
        InvalidArgumentError: it is no key, or names a file of the backend's own.
    """
    if len(key) > _MAX_KEY or _KEY.fullmatch(key) is None:
        raise InvalidArgumentError(f"{key[:80]!r} is not a key", key=key, backend=SCHEME)
    *folders, name = key.split("/")
    if "." in folders or ".." in folders or name in {".", ".."} or (folders or [name])[0] == LOCK:
        raise InvalidArgumentError(f"{key!r} is not a key that a file can have", key=key, backend=SCHEME)
    return folders, name


class Tree:
    """Descriptors into the state path. Blocking; used from worker threads.

    A reader may be there before the folder is: then it is opened once there is one. `token` names the handle, and
    `known` says that others can tell by it whether the handle is there still.
    """

    def __init__(self, port: Port, path: str, root: int | None) -> None:
        self.port = port
        self.path = path
        self._root = root
        self._opening = threading.Lock()
        self._temporary: list[int] = []
        self._durable: set[str] = set()
        self.token = secrets.token_hex(4)
        self.known = False
        self._numbers = count()

    @property
    def root(self) -> int:
        """The descriptor of the state path. `FileNotFoundError` while it does not exist."""
        if self._root is None:
            with self._opening:
                if self._root is None:
                    self._root = self.port.open_root(self.path)
        return self._root

    def check_in_place(self) -> None:
        """
        Raises:
            DivergedError: another folder is at the state path by now.
            UnavailableError: there is none for now.
        """
        if self._root is None:
            return
        try:
            named = self.port.stat_root(self.path)
        except (FileNotFoundError, NotADirectoryError):
            raise UnavailableError(
                f"the folder {self.path} was moved or removed while it was open; put it back", backend=SCHEME
            ) from None
        except PermissionError:
            return  # who gave rights up since still reads what is open
        if not os.path.samestat(named, self.port.fstat(self._root)):
            raise DivergedError(
                f"the folder {self.path} was replaced by another one while it was open; open it again",
                backend=SCHEME,
            )

    def folder(self, parts: Sequence[str], *, create: bool = False, lasting: bool = False) -> int:
        """A descriptor of the folder, which the caller closes. With `create`, missing ones are made, durably; with
        `lasting`, the names of those that were there are durable, too: who made one may have been killed before.

        Raises:
            FileNotFoundError: it does not exist.
            AccessDeniedError: a part of the way is a link.
        """
        port = self.port
        root = fd = self.root
        way = ""
        if lasting and way not in self._durable:
            sync_name(port, root)
            self._remember(way)
        try:
            for part in parts or (".",):
                way = f"{way}/{part}" if parts else ""
                try:
                    below = self._enter(part, fd)
                except (FileNotFoundError, NotADirectoryError) as error:
                    if not create:
                        raise FileNotFoundError(errno.ENOENT, "no such folder", part) from error
                    self._make(part, fd)
                    self._remember(way)
                    below = self._enter(part, fd)
                above, fd = fd, below
                try:
                    if lasting and way not in self._durable:
                        port.fsync_dir(above)
                        self._remember(way)
                finally:
                    if above != root:
                        port.close(above)
        except BaseException:
            if fd != root:
                port.close(fd)
            raise
        return fd

    def settle(self, parts: Sequence[str]) -> None:
        """Make the folder's name durable, unless it is known to be."""
        if not {"", "/".join(("", *parts))} <= self._durable:
            self.port.close(self.folder(parts, create=True, lasting=True))

    def _remember(self, way: str) -> None:
        """Remember that the folder's name is durable. Each large commit has a new folder, so not all can be
        remembered; what is forgotten is synced once more."""
        if len(self._durable) >= _MOST_DURABLE:
            self._durable.clear()
        self._durable.add(way)

    def _make(self, name: str, within: int) -> None:
        # Who was first may not have synced it yet.
        with suppress(FileExistsError):
            self.port.mkdir(name, within=within)
        self.port.fsync_dir(within)

    def _enter(self, name: str, within: int) -> int:
        try:
            return self.port.open_folder(name, within=within)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if stat.S_ISLNK(self.port.stat(name, within=within).st_mode):
                raise AccessDeniedError(
                    f"the folder {name!r} in the state path is a symbolic link, and links there are not "
                    "followed; move the folder itself there, or make the state path the link",
                    backend=SCHEME,
                ) from None
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", name) from None

    def create_temporary(self) -> tuple[int, str, int]:
        """A new file that is never listed: its folder's descriptor, its name, its own descriptor."""
        name = self.temporary_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        if self._temporary:
            try:
                within = self._temporary[-1]
                return within, name, self.port.open(name, flags, within=within)
            except FileNotFoundError:
                # Someone removed the folder. Other threads may use the descriptor: it is closed at the end.
                pass
        within = self.folder([TEMPORARY], create=True)
        self._temporary.append(within)
        return within, name, self.port.open(name, flags, within=within)

    def temporary_name(self) -> str:
        return f"tmp-{self.token}{_KNOWN if self.known else _UNKNOWN}{next(self._numbers)}"

    def discard(self, within: int, name: str) -> None:
        """Remove a temporary file, if that is possible; a later opener removes it otherwise."""
        try:
            self.port.unlink(name, within=within)
        except OSError:
            return

    def lacks(self, *names: str) -> bool:
        """Whether there is nothing of the names."""
        try:
            return not any(entry.name in names for entry in self.port.scandir(self.root))
        except OSError:
            return False

    def remove_stale_temporaries(self, is_over: Callable[[str], bool] | None) -> None:
        """What writers left that were killed: all that is there, if this one holds the lock alone. Where others may
        write, `is_over` tells of a token that its handle has ended; what is of a handle that is not known stays."""
        try:
            within = self.folder([TEMPORARY])
        except FileNotFoundError:
            return
        try:
            for entry in self.port.scandir(within):
                named = _TEMPORARY_NAME.fullmatch(entry.name)
                if named is not None and (
                    is_over is None or (named["sign"] == _KNOWN and is_over(named["token"]))
                ):
                    self.discard(within, entry.name)
        finally:
            self.port.close(within)

    def close(self) -> None:
        for fd in self._temporary:
            self.port.close(fd)
        self._temporary.clear()
        if self._root is not None:
            self.port.close(self._root)
            self._root = -1


def sync_name(port: Port, folder: int) -> None:
    """Make the folder's own name durable, where the one above it can be read. Of a mounted file system there is none to
    lose."""
    try:
        above = port.open_folder("..", within=folder)
    except OSError:
        return
    try:
        if port.fstat(above).st_dev == port.fstat(folder).st_dev:
            port.fsync_dir(above)
    finally:
        port.close(above)
