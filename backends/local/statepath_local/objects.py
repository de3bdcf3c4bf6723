"""Objects as files: what the methods of the backend do, blocking, in a worker thread.

A file comes in under a temporary name, is synced, and takes its place by `rename` or `link`: no reader sees a
part of it. Conditions are decided and names changed under one lock, and where other handles write, too, under that of
the folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count

from statepath.backend import ALWAYS, Blob, ETag, IfAbsent, IfMatch, LazyWrite, Span, When
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
)

from statepath_local.failures import NO_LINKS, SCHEME, failing, state_error
from statepath_local.listing import modified, sortable
from statepath_local.names import MAX_FILE, odd_name
from statepath_local.port import read_all, write_all
from statepath_local.recycling import Recycler
from statepath_local.tree import TEMPORARY, Tree, split_key

BLOCK = 2 * 1024 * 1024
PAUSE = 0.005
_MOST_BUFFERS = 512
_ATTEMPTS = 100

Keep = Callable[[str, bytes], bool]


class Objects:
    """The objects of one state path."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._port = tree.port
        self._names = threading.Lock()
        self._last_time = 0
        self._numbers = count()
        self._lazily = threading.Lock()
        self._recycler = Recycler(tree)
        self._last_was_new = False
        self.shared = False
        """Whether other handles may write."""

    @contextmanager
    def _deciding(self, folder: int) -> Iterator[None]:
        """While nobody else changes a name in the folder, whose descriptor is this call's own."""
        with self._names:
            if not self.shared:
                yield
                return
            self._port.flock(folder, fcntl.LOCK_EX)
            try:
                yield
            finally:
                self._port.flock(folder, fcntl.LOCK_UN)

    def read(self, key: str, span: Span | None) -> Blob:
        folders, name = split_key(key)
        port = self._port
        with failing(key, key):
            self._tree.check_in_place()
            folder = self._tree.folder(folders)
            try:
                name = self._actual(name, folder)
                for _ in range(_ATTEMPTS):
                    blob = self._read_version(name, folder, key, span or Span(0))
                    if blob is not None:
                        return blob
            finally:
                port.close(folder)
        raise UnavailableError(f"{key} changes while it is read; try again", key=key, backend=SCHEME)

    def _read_version(self, name: str, folder: int, key: str, span: Span) -> Blob | None:
        """The bytes of one version; `None` if another one took its place meanwhile."""
        port = self._port
        # Opening a pipe without O_NONBLOCK would wait for its other end.
        fd = port.open(name, os.O_RDONLY | os.O_NONBLOCK, within=folder)
        try:
            found = port.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise NotFoundError(f"there is no {key}", key=key, backend=SCHEME)
            stop = found.st_size if span.stop is None else min(span.stop, found.st_size)
            data = read_all(port, fd, span.start, stop)
        finally:
            port.close(fd)
        # A person may be writing into the file, and a file that was replaced is used again for another object.
        if _etag(port.stat(name, within=folder)) != _etag(found):
            return None
        return Blob(data, _etag(found), datetime.fromtimestamp(modified(found), UTC))

    def write(self, key: str, chunks: Iterable[bytes], when: When, *, pause: float = 0.0) -> ETag:
        folders, name = split_key(key)
        port = self._port
        with failing(key, key):
            folder = self._tree.folder(folders, create=True)
            try:
                self._settle(name, folder)
                if when is not ALWAYS:
                    self._check(name, folder, when, key)
            finally:
                port.close(folder)
            within, temporary, fd = self._tree.create_temporary()
            try:
                try:
                    _write_chunks(self._tree, fd, _drawn(chunks, key), pause)
                    etag = self._stamp(fd)
                    port.fsync(fd)
                finally:
                    port.close(fd)
                self._place(temporary, within, name, folders, when, key)
            except BaseException:
                self._tree.discard(within, temporary)
                raise
            return etag

    def _place(
        self, temporary: str, within: int, name: str, folders: list[str], when: When, key: str
    ) -> None:
        """Publish the file, durably."""
        for left in reversed(range(_ATTEMPTS)):
            folder = self._tree.folder(folders, create=True, lasting=True)
            try:
                self._settle(name, folder)
                self._publish(temporary, within, name, folder, when, key)
                self._sync_names(folder, key)
                break
            except FileNotFoundError:
                # Whoever deletes the last object of a folder removes it, too.
                if not left:
                    raise
            finally:
                self._port.close(folder)

    def _publish(self, temporary: str, within: int, name: str, folder: int, when: When, key: str) -> None:
        port = self._port
        with self._deciding(folder):
            if when is not ALWAYS:
                self._check(name, folder, when, key)
            if not isinstance(when, IfAbsent):
                port.rename(temporary, name, within=within, into=folder)
                return
            try:
                port.link(temporary, name, within=within, into=folder)
            except FileExistsError:
                raise AlreadyExistsError(f"{key} exists already", key=key, backend=SCHEME) from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                port.rename(temporary, name, within=within, into=folder)
                return
        self._tree.discard(within, temporary)

    def _check(self, name: str, folder: int, when: When, key: str) -> None:
        try:
            found = self._port.stat(name, within=folder)
        except FileNotFoundError:
            if isinstance(when, IfMatch):
                raise ConflictError(f"{key} does not exist", key=key, backend=SCHEME) from None
            return
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
            # It is no object that could be read: who is told that there is one would look for it for ever.
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if isinstance(when, IfAbsent):
            raise AlreadyExistsError(f"{key} exists already", key=key, backend=SCHEME)
        if isinstance(when, IfMatch) and when.etag != _etag(found):
            raise _conflict(key)

    def _stamp(self, fd: int) -> ETag:
        """Give the file a time that no other version has: the system's clock ticks too slowly, and numbers of
        inodes are used again."""
        with self._names:
            self._last_time = moment = max(time.time_ns(), self._last_time + 1)
        self._port.utime(fd, moment)
        return _etag(self._port.fstat(fd))

    def _sync_names(self, folder: int, key: str) -> None:
        try:
            self._port.fsync_dir(folder)
        except OSError as error:
            failure = state_error(error, key, key)
            # The name has changed already: this must not read as "nothing was written".
            failure.code = failure.default_code
            raise failure from error

    def delete(self, key: str, when: When) -> bool:
        if isinstance(when, IfAbsent):
            raise InvalidArgumentError("delete takes ALWAYS or IfMatch", key=key, backend=SCHEME)
        folders, name = split_key(key)
        port = self._port
        try:
            with failing(key, key):
                folder = self._tree.folder(folders)
                try:
                    with self._deciding(folder):
                        name = self._actual(name, folder)
                        found = port.stat(name, within=folder)
                        if stat.S_ISDIR(found.st_mode):
                            return False
                        if isinstance(when, IfMatch) and when.etag != _etag(found):
                            raise _conflict(key)
                        port.unlink(name, within=folder)
                    self._sync_names(folder, key)
                finally:
                    port.close(folder)
        except NotFoundError:
            return False
        if len(folders) > 1:
            self._remove_if_empty(folders)
        return True

    def _remove_if_empty(self, folders: list[str]) -> None:
        try:
            above = self._tree.folder(folders[:-1])
        except (OSError, StateError):
            return
        try:
            self._port.rmdir(folders[-1], within=above)
        except OSError:
            return
        finally:
            self._port.close(above)

    def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        folders, name = split_key(key)
        with failing(key, key):
            folder = self._tree.folder(folders, create=True, lasting=True)
            try:
                self._settle(name, folder)
                for _ in range(_ATTEMPTS):
                    if self._write_at(key, name, folder, offset, data, cut=cut):
                        return
            finally:
                self._port.close(folder)
        raise UnavailableError(f"{key} is replaced while it is written; try again", key=key, backend=SCHEME)

    def _write_at(self, key: str, name: str, folder: int, offset: int, data: bytes, *, cut: bool) -> bool:
        """Write into the file of the name; `False` if another one took its place meanwhile."""
        port = self._port
        shared = None
        fd, created = self._open_to_grow(name, folder)
        try:
            with self._deciding(folder):
                found = port.fstat(fd)
                if not stat.S_ISREG(found.st_mode):
                    raise NotFoundError(f"{key} is not a file", key=key, backend=SCHEME)
                if not self._is_named(name, folder, found):
                    return False
                if found.st_nlink > 1:
                    shared = read_all(port, fd, 0, found.st_size)
                else:
                    self._write_in_place(fd, offset, data, found.st_size, cut=cut)
            if shared is None:
                self._stamp(fd)
                port.fdatasync(fd)
        finally:
            port.close(fd)
        if created:
            self._sync_names(folder, key)
        if shared is None:
            return True
        # A copy shares the file: it must stay as it is.
        behind = b"" if cut else shared[offset + len(data) :]
        try:
            self.write(
                key, [shared[:offset], b"\n" * (offset - len(shared)), data, behind], IfMatch(_etag(found))
            )
        except ConflictError:
            return False
        return True

    def _is_named(self, name: str, folder: int, found: os.stat_result) -> bool:
        try:
            return self._port.stat(name, within=folder).st_ino == found.st_ino
        except FileNotFoundError:
            return False

    def _open_to_grow(self, name: str, folder: int) -> tuple[int, bool]:
        """The file, and whether it was made."""
        port = self._port
        while True:
            try:
                return port.open(name, os.O_RDWR | os.O_NONBLOCK, within=folder), False
            except FileNotFoundError:
                with suppress(FileExistsError):
                    return port.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, within=folder), True

    def _write_in_place(self, fd: int, offset: int, data: bytes, size: int, *, cut: bool) -> None:
        port = self._port
        try:
            for start in range(size, offset, BLOCK):  # somebody may have cut off much
                write_all(port, fd, b"\n" * min(BLOCK, offset - start), start)
            write_all(port, fd, data, offset)
        except OSError:
            if offset >= size:
                with suppress(OSError):
                    port.ftruncate(fd, size)
            raise
        if cut:
            port.ftruncate(fd, offset + len(data))

    def write_lazily(self, items: Iterable[LazyWrite], keep: Keep | None) -> None:
        with self._lazily:
            self._write_lazily(items, keep)

    def _write_lazily(self, items: Iterable[LazyWrite], keep: Keep | None) -> None:
        open_folders: dict[str, int] = {}
        failure: StateError | None = None
        unwritten: list[str] = []
        try:
            for item in items:
                try:
                    self._write_one_lazily(item, keep, open_folders)
                except StateError as error:
                    # The others are in nobody's way.
                    failure = failure or error
                    unwritten.append(item.key)
        finally:
            for folder in open_folders.values():
                self._port.close(folder)
        if failure is not None:
            failure.unwritten = tuple(unwritten)
            raise failure

    def _write_one_lazily(self, item: LazyWrite, keep: Keep | None, open_folders: dict[str, int]) -> None:
        folders, name = split_key(item.key)
        place = "/".join(folders)
        data = item.data
        try:
            folder = open_folders.get(place)
            if folder is None:
                folder = open_folders[place] = self._tree.folder(folders, create=data is not None)
            if data is None:
                with self._deciding(folder):
                    name = self._actual(name, folder)
                    if keep is None or not self._keeps(item, name, folder, keep):
                        self._port.unlink(name, within=folder)
            else:
                self._settle(name, folder)
                self._replace_lazily(name, folder, item, data, keep)
        except OSError as error:
            if data is not None or not isinstance(error, FileNotFoundError):
                raise state_error(error, item.key, item.key) from error

    def _replace_lazily(
        self, name: str, folder: int, item: LazyWrite, data: bytes, keep: Keep | None
    ) -> None:
        port = self._port
        within, temporary, fd, size = self._recycler.take()
        try:
            try:
                write_all(port, fd, data, 0)
                if size > len(data):
                    port.ftruncate(fd, len(data))
                # Below the microsecond a number that differs from write to write, for the ETag.
                port.utime(fd, item.modified * 1000 + next(self._numbers) % 1000)
            finally:
                port.finish(fd)
            with self._deciding(folder):
                kept = keep is not None and self._keeps(item, name, folder, keep)
                replaced = not kept and self._exchange(temporary, name, within, folder)
            if replaced:
                self._recycler.retire(within, temporary)
            elif kept:
                self._tree.discard(within, temporary)
        except BaseException:
            self._tree.discard(within, temporary)
            raise

    def _keeps(self, item: LazyWrite, name: str, folder: int, keep: Keep) -> bool:
        """Whether what is there is later than the item, and stays."""
        try:
            if self._port.stat(name, within=folder).st_mtime_ns // 1000 <= item.modified:
                return False
            blob = self._read_version(name, folder, item.key, Span(0))
        except (FileNotFoundError, NotFoundError):
            return False
        return blob is not None and keep(item.key, blob.data)

    def _exchange(self, temporary: str, name: str, within: int, folder: int) -> bool:
        """Put the file in its place; whether what was there has the temporary name now."""
        port = self._port
        with suppress(FileNotFoundError):
            if self._last_was_new:
                # So may this one be: to ask is cheaper than an exchange that fails.
                port.stat(name, within=folder)
            if port.exchange(temporary, name, within=within, into=folder):
                self._last_was_new = False
                if stat.S_ISDIR(port.stat(temporary, within=within).st_mode):  # a person's
                    port.exchange(temporary, name, within=within, into=folder)
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
                return True
        self._last_was_new = True
        port.rename(temporary, name, within=within, into=folder)
        return False

    def copy(self, source: str, target: str, when: When) -> ETag:
        folders, name = split_key(source)
        port = self._port
        with failing(source, source):
            folder = self._tree.folder(folders)
            try:
                name = self._actual(name, folder)
                fd = port.open(name, os.O_RDONLY | os.O_NONBLOCK, within=folder)
                try:
                    found = port.fstat(fd)
                    if not stat.S_ISREG(found.st_mode):
                        raise NotFoundError(f"there is no {source}", key=source, backend=SCHEME)
                    port.fsync(fd)
                    # Whoever gave it another name may write into it.
                    alone = found.st_nlink == 1
                    etag = self._link(name, folder, source, target, when) if alone else None
                    return etag or self.write(target, self._version(fd, name, folder, source, when), ALWAYS)
                finally:
                    port.close(fd)
            finally:
                port.close(folder)

    def _link(self, name: str, folder: int, source: str, target: str, when: When) -> ETag | None:
        """Give the file the target's name, too; `None` if there are no links here."""
        folders, target_name = split_key(target)
        port = self._port
        within = self._tree.folder([TEMPORARY], create=True)
        temporary = self._tree.temporary_name()
        try:
            try:
                port.link(name, temporary, within=folder, into=within)
            except OSError as error:
                if error.errno in NO_LINKS:
                    return None
                raise
            try:
                # Now that it has a name of its own it is what it stays: nobody can put another file in its place.
                if isinstance(when, IfMatch):
                    self._check(temporary, within, when, source)
                etag = _etag(port.stat(temporary, within=within))
                self._place(temporary, within, target_name, folders, ALWAYS, target)
            finally:
                # A rename between two links of one file does nothing, and leaves both.
                self._tree.discard(within, temporary)
            return etag
        finally:
            port.close(within)

    def _version(self, fd: int, name: str, folder: int, key: str, when: When) -> Iterator[bytes]:
        """What the file holds, if it still is the version that is asked for once all of it is read: one that was
        replaced may be written again, as another object."""
        yield from _blocks(self._tree, fd)
        if isinstance(when, IfMatch):
            self._check(name, folder, when, key)

    def _actual(self, name: str, folder: int) -> str:
        """The name of the file: nobody but a person may have given it one that no key has."""
        if (
            (odd := odd_name(name)) is not None
            and not self._is_file(name, folder)
            and self._is_file(odd, folder)
        ):
            return odd
        if len(name) > MAX_FILE:  # only a listing tells which file is found under it
            return sortable(self._port.scandir(folder), odd=True).get(name, name)
        return name

    def _settle(self, name: str, folder: int) -> None:
        """Give the file the name that keys have for it, before it is changed."""
        if (actual := self._actual(name, folder)) != name:
            self._port.rename(actual, name, within=folder, into=folder)

    def _is_file(self, name: str, folder: int) -> bool:
        try:
            return stat.S_ISREG(self._port.stat(name, within=folder).st_mode)
        except OSError:
            return False

    def close(self) -> None:
        """Remove the temporary files that were kept for use."""
        with self._lazily:
            self._recycler.clear()

    def free_bytes(self) -> int:
        with failing("the state path"):
            space = self._port.statvfs(self._tree.root)
        return space.f_bavail * space.f_frsize


def _conflict(key: str) -> ConflictError:
    return ConflictError(f"{key} is another version than expected", key=key, backend=SCHEME)


def _etag(found: os.stat_result) -> ETag:
    return ETag(f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


def _drawn(chunks: Iterable[bytes], key: str) -> Iterator[bytes]:
    """The chunks. What the system says of their source is not about the file that they go to."""
    try:
        yield from chunks
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UnavailableError(
            f"what was to be written to {key} could not be read: {reason}", key=key, backend=SCHEME
        ) from error


def _write_chunks(tree: Tree, fd: int, chunks: Iterable[bytes], pause: float) -> None:
    port = tree.port
    waiting: list[bytes] = []
    size = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= BLOCK or len(waiting) == _MOST_BUFFERS:
            _write_buffers(tree, fd, waiting)
            if size >= BLOCK and pause:
                port.fdatasync(fd)
                time.sleep(pause)
                size = 0
            waiting.clear()
    _write_buffers(tree, fd, waiting)


def _write_buffers(tree: Tree, fd: int, buffers: list[bytes]) -> None:
    if not buffers:
        return
    written = tree.port.writev(fd, buffers)
    rest = memoryview(b"".join(buffers))[written:] if written < sum(map(len, buffers)) else memoryview(b"")
    while rest:
        rest = rest[tree.port.writev(fd, [rest]) :]


def _blocks(tree: Tree, fd: int) -> Iterator[bytes]:
    offset = 0
    while block := tree.port.pread(fd, BLOCK, offset):
        yield block
        offset += len(block)
