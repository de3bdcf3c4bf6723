"""The state path's own folder: opened, made where it is missing, and taken back when opening fails."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from statepath.errors import AccessDeniedError, InvalidArgumentError, NotFoundError, StateError

from statepath_local.failures import SCHEME, state_error
from statepath_local.port import Port
from statepath_local.tree import sync_name


class Root:
    """Opens the folder at an absolute path, and remembers which folders it made for that."""

    def __init__(self, port: Port, path: str) -> None:
        self._port = port
        self._path = path
        self._made: list[str] = []

    def open(self, *, create: bool) -> int:
        """A descriptor of the folder, which may be reached by a link.

        Raises:
            NotFoundError: it does not exist, and is not to be created.
            InvalidArgumentError: the path, or one above it, is a file, or a link that leads nowhere; or no folder can
                be made there.
            AccessDeniedError: it may not be entered, or not be created.
            UnavailableError: there is no space for it, or the disk failed.
        """
        try:
            return self._make() if create else self._port.open_root(self._path)
        except OSError as error:
            self.take_back()
            raise self._explain(error, create=create) from error

    def _make(self) -> int:
        path, missing = self._path, list[str]()
        while (fd := self._find(path)) is None:
            missing.append(path)
            path = os.path.split(path)[0]
        if missing:
            try:
                # Who made the one that is there may have been killed before it did.
                sync_name(self._port, fd)
            except BaseException:
                self._port.close(fd)
                raise
        for path in reversed(missing):
            try:
                # Where something has the name, and yet cannot be opened, the next attempt says so.
                with suppress(FileExistsError):
                    self._port.mkdir(os.path.split(path)[1], within=fd)
                    self._made.append(path)
                self._port.fsync_dir(fd)
            finally:
                self._port.close(fd)
            fd = self._port.open_root(path)
        return fd

    def _find(self, path: str) -> int | None:
        try:
            return self._port.open_root(path)
        except FileNotFoundError:
            return None

    def _explain(self, error: OSError, *, create: bool) -> StateError:
        path = self._path
        if error.errno == errno.ENOTDIR:
            return InvalidArgumentError(
                f"the state path {path} is a file, or leads through one; give a folder",
                backend=SCHEME,
                code="not_a_folder",
            )
        if error.errno == errno.ELOOP or (error.errno == errno.ENOENT and self._has_name(path)):
            return InvalidArgumentError(
                f"the state path {path} is a link that leads nowhere; make the folder it names, or remove it",
                backend=SCHEME,
                code="dangling_link",
            )
        if error.errno == errno.ENOENT and create:
            return InvalidArgumentError(
                f"the state path {path} cannot be made: its file system takes no folders there; give another one",
                backend=SCHEME,
                code="not_a_folder",
            )
        if error.errno == errno.ENOENT:
            return NotFoundError(f"there is no store at {path}: the folder does not exist", backend=SCHEME)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return AccessDeniedError(
                f"the state path {path} cannot be opened: {os.strerror(error.errno)}; check its owner and "
                "permissions, and those of the folders above it",
                backend=SCHEME,
            )
        return state_error(error, path)

    def _has_name(self, path: str) -> bool:
        """Whether something is there, though it could not be opened."""
        above, name = os.path.split(path)
        try:
            within = self._port.open_root(above)
            try:
                self._port.stat(name, within=within)
            finally:
                self._port.close(within)
        except OSError:
            return False
        return True

    def take_back(self) -> None:
        """Remove the folders that were made."""
        for path in reversed(self._made):
            above, name = os.path.split(path)
            with suppress(OSError):
                within = self._port.open_root(above)
                try:
                    self._port.rmdir(name, within=within)
                finally:
                    self._port.close(within)
        self._made.clear()
