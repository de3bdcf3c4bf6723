"""The port: every call of this backend that touches storage goes through one small class.

A test replaces it to fail the n-th call, or to record all calls and enumerate the states a crash could leave.
Files are created 0600 and folders 0700. Descriptors are not inherited. A name that is a link is not followed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from collections.abc import Sequence
from typing import TypeAlias

Bytes: TypeAlias = bytes | bytearray | memoryview

_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that do not know such a sync: of a folder (VirtualBox), or of the drive (SMB on macOS)."""

_IN_MODIFY = 2
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_renameat2 = getattr(_libc, "renameat2", None)

_RANGE = struct.Struct("hhqqi")
"""`struct flock` of Linux: kind, from where, place, length, process."""

_NEVER_FOLLOW = os.O_CLOEXEC | os.O_NOFOLLOW
_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None) if sys.platform == "darwin" else None


class Port:
    """The operating system's own calls, by descriptor and relative name."""

    def boot_id(self) -> str:
        """What tells one run of the machine from the next; empty where the system does not say."""
        try:
            with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
                return file.read().strip()
        except OSError:
            return ""

    def filesystem(self, fd: int) -> str:
        """The type of the file system that holds the file, as Linux calls it; empty where that is not known."""
        found = os.fstat(fd).st_dev
        device = f"{os.major(found)}:{os.minor(found)}"
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
                for mount in mounts:
                    place, _, rest = mount.partition(" - ")
                    if device in place.split()[2:3]:
                        return rest.split()[0]
        except OSError:
            pass
        return ""

    def lives(self, pid: int) -> bool:
        """Whether there may be a process of this number."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return True

    def open_root(self, path: str) -> int:
        """The state path itself: the one place where a link to a folder is followed."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def stat_root(self, path: str) -> os.stat_result:
        """What stands at the state path now, through a link, too."""
        return os.stat(path)

    def open_folder(self, name: str, *, within: int) -> int:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | _NEVER_FOLLOW, dir_fd=within)

    def open(self, name: str, flags: int, *, within: int) -> int:
        return os.open(name, flags | _NEVER_FOLLOW, 0o600, dir_fd=within)

    def close(self, fd: int) -> None:
        """Give the descriptor back. It is given back whatever the system says of it, and what had to be on the disk was
        synced before."""
        try:
            os.close(fd)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise

    def finish(self, fd: int) -> None:
        """As `close`, of a file that was written and that nobody syncs: some file systems find out only here that there
        is no space for it."""
        os.close(fd)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: Bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def writev(self, fd: int, buffers: Sequence[Bytes]) -> int:
        return os.writev(fd, buffers)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def fallocate(self, fd: int, size: int) -> None:
        if sys.platform != "darwin":
            os.posix_fallocate(fd, 0, size)

    def fsync(self, fd: int) -> None:
        if _FULL_SYNC is not None:
            try:
                fcntl.fcntl(fd, _FULL_SYNC)
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise
            else:
                return
        os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        if sys.platform == "darwin":
            self.fsync(fd)
        else:
            os.fdatasync(fd)

    def fsync_dir(self, fd: int) -> None:
        """Make the names in the folder durable, as far as its file system can do that."""
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def utime(self, fd: int, nanoseconds: int) -> None:
        os.utime(fd, ns=(nanoseconds, nanoseconds))

    def rename(self, source: str, target: str, *, within: int, into: int) -> None:
        os.rename(source, target, src_dir_fd=within, dst_dir_fd=into)

    def exchange(self, source: str, target: str, *, within: int, into: int) -> bool:
        """Swap two files, atomically; `False` where the system has no such call."""
        if _renameat2 is None:
            return False
        if _renameat2(within, os.fsencode(source), into, os.fsencode(target), _RENAME_EXCHANGE) == 0:
            return True
        error = ctypes.get_errno()
        if error in _NO_EXCHANGE:
            return False
        raise OSError(error, os.strerror(error), target)

    def link(self, source: str, target: str, *, within: int, into: int) -> None:
        os.link(source, target, src_dir_fd=within, dst_dir_fd=into, follow_symlinks=False)

    def unlink(self, name: str, *, within: int) -> None:
        os.unlink(name, dir_fd=within)

    def mkdir(self, name: str, *, within: int) -> None:
        os.mkdir(name, 0o700, dir_fd=within)

    def rmdir(self, name: str, *, within: int) -> None:
        os.rmdir(name, dir_fd=within)

    def scandir(self, fd: int) -> list[os.DirEntry[str]]:
        with os.scandir(fd) as entries:
            return list(entries)

    def stat(self, name: str, *, within: int) -> os.stat_result:
        return os.stat(name, dir_fd=within, follow_symlinks=False)

    def fstat(self, fd: int) -> os.stat_result:
        return os.fstat(fd)

    def statvfs(self, fd: int) -> os.statvfs_result:
        return os.statvfs(fd)

    def watch(self, path: str) -> int:
        """A descriptor that can be read when the file was written into; `OSError` where there are no such notices."""
        if _libc is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "no notices", path)
        if _libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
            error = ctypes.get_errno()
            os.close(fd)
            raise OSError(error, os.strerror(error), path)
        return fd

    def read(self, fd: int, size: int) -> bytes:
        return os.read(fd, size)

    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)

    def hold_byte(self, fd: int, place: int) -> None:
        """Lock a byte of the file until the descriptor is closed, and those of forked children; `OSError` if somebody
        else has it, or where there are no such locks."""
        _range_lock(fd, "F_OFD_SETLK", place)

    def is_held(self, fd: int, place: int) -> bool:
        """Whether somebody else has locked the byte; `OSError` where that cannot be told."""
        return _range_lock(fd, "F_OFD_GETLK", place) != fcntl.F_UNLCK


def _range_lock(fd: int, command: str, place: int) -> int:
    """The kind of lock that the system answers with."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    asked = _RANGE.pack(fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    answer = fcntl.fcntl(fd, getattr(fcntl, command), asked)
    kind: int = _RANGE.unpack_from(answer)[0]
    return kind


def write_all(port: Port, fd: int, data: Bytes, offset: int) -> None:
    """Write every byte, however many calls the system takes for it."""
    written = port.pwrite(fd, data, offset)
    if written < len(data):
        rest = memoryview(data)
        while written < len(rest):
            written += port.pwrite(fd, rest[written:], offset + written)


def read_all(port: Port, fd: int, start: int, stop: int) -> bytes:
    """The bytes from `start` to `stop`, or to the end of the file where that comes first."""
    data = port.pread(fd, max(stop - start, 0), start)
    if len(data) in (0, stop - start):
        return data
    parts = [data]
    start += len(data)
    while start < stop and (data := port.pread(fd, stop - start, start)):
        parts.append(data)
        start += len(data)
    return b"".join(parts)
