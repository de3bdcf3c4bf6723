"""The writers' lock: `flock` on the file `lock`, which ends with the process that holds it.

One writer has it exclusively, or several share it. The file's first line is the last durable seq, twice, so that a
reader notices half an update; the second says how the lock is held and where the journal ends; then each holder says
what it is, behind a line that is there while what was not synced before the machine's end is in doubt. The file is
never removed: a lock on a removed file would exclude nobody. Who finds that somebody did so commits nothing more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from statepath.errors import StateError, StoreLockedError, UnavailableError, UnsupportedError

from statepath_local.failures import SCHEME, failing
from statepath_local.mark import CLOSED, DIRTY, EXCLUSIVE, MARK_LINE, OPENING, SHARED, Mark
from statepath_local.port import Port, read_all, write_all
from statepath_local.tree import LOCK, Tree

_LINE = 42
_HEAD = _LINE + MARK_LINE
_MOST = 64 * 1024
_DOUBT = b'"doubtful"\n'
_PATIENCE = 1.0
_STEP = 0.01
_OPENING_PATIENCE = 60.0
"""Seconds for which a writer waits for another one that has the store for itself, and for one that soon will not."""

_NETWORK = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "coda", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2"}
    | {"orangefs", "smb3", "smbfs", "virtiofs", "fuse.ceph", "fuse.curlftpfs", "fuse.davfs", "fuse.gcsfuse"}
    | {"fuse.glusterfs", "fuse.goofys", "fuse.juicefs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"}
)
"""File systems that several machines may write to; none sees at once what another one wrote."""

_ours: set[str] = set()
"""The handles of this process that hold a lock, or are about to."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTSUP)


class WriterLock:
    """A held lock, and the place where its holders publish how far the log is durable.

    `shared`: other writers may be there. `doubtful` says that the machine was started since somebody wrote: what that
    one had not synced may be gone, and nobody has looked at all of it yet.
    """

    def __init__(self, tree: Tree, fd: int, durable: int, *, created: bool, shared: bool) -> None:
        self._tree = tree
        self._port = tree.port
        self._fd = fd
        self._created = created
        self.boot = self._port.boot_id()
        self.handle = tree.token
        _ours.add(self.handle)
        self._me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "program": os.path.basename(sys.argv[0] or sys.executable) if sys.argv else "",
            "boot": self.boot,
            "handle": self.handle,
        }
        self.durable = durable
        self.shared = shared
        self.shareable = shared or self._port.filesystem(tree.root) not in _NETWORK
        self.doubtful = False
        self._left = b""
        tree.known = self.shareable and self._hold_token()

    @classmethod
    def acquire(cls, tree: Tree, unwanted: threading.Event) -> WriterLock:
        """Take the lock, or share it with those who do. Readers hold it for microseconds, and whoever opens a store
        may be about to share it: a refusal is final after a second. Who opens it to share it, lets others in or
        closes it is waited for longer, unless it is `unwanted` by then: the end of a program waits for this thread.

        Raises:
            StoreLockedError: another writer has it for itself.
            UnsupportedError: the file system has no locks (`no_locks`).
        """
        port = tree.port
        begun = time.monotonic()
        while True:
            # Up to this attempt: what is told behind it may be of later.
            waited = time.monotonic() - begun
            fd, created = _open(tree)
            try:
                lock = _attempt(tree, fd, created=created, late=waited >= _PATIENCE)
            except BaseException as error:
                give_back(port, fd)
                if isinstance(error, OSError) and error.errno in _NO_LOCKS:
                    if created:
                        tree.discard(tree.root, LOCK)
                    raise _no_locks(error) from error
                raise
            if lock is not None:
                return lock
            mode, holders = _read_head(port, fd).mode, _read_holders(port, fd)
            give_back(port, fd)
            patience = _PATIENCE if mode in (EXCLUSIVE, b"") else _OPENING_PATIENCE
            if waited >= patience or unwanted.wait(_STEP):
                raise _refusal(port, holders)

    def _hold_token(self) -> bool:
        """Let others find out that this handle is there: a process id tells that to no other container, and is used
        again."""
        try:
            self._port.hold_byte(self._fd, int(self.handle, 16))
        except OSError:
            return False
        return True

    def is_over(self, token: str) -> bool:
        """Whether the handle that held the token has ended."""
        try:
            return token != self.handle and not self._port.is_held(self._fd, int(token, 16))
        except OSError:
            return False

    def introduce(self) -> None:
        """Say who holds the lock, and for itself."""
        port, fd = self._port, self._fd
        self.doubtful = not self._created and (
            _read_boot(port, fd) != self.boot or _read_doubt(port, fd) != b""
        )
        doubt = _DOUBT if self.doubtful else b""
        text = _durable_line(self.durable) + Mark.nowhere(EXCLUSIVE) + doubt + _holder_line(self._me)
        write_all(self._port, self._fd, text, 0)
        self._port.ftruncate(self._fd, len(text))

    def join(self) -> None:
        """Say who shares the lock, too."""
        with self._membership() as holders:
            holders.append(self._me)

    def believe(self) -> None:
        """Say that nothing is in doubt any more."""
        with suppress(OSError):
            with self._membership(doubt=False) as holders:
                holders.append(self._me)
            self.doubtful = False

    @contextmanager
    def _membership(self, *, doubt: bool = True) -> Iterator[list[dict[str, Any]]]:
        """The holders that live, to be changed by one at a time. A `doubt` stays if there is one."""
        port = self._port
        folder = self._tree.folder([])
        try:
            port.flock(folder, fcntl.LOCK_EX)
            holders = [one for one in _read_holders(port, self._fd) if one != self._me and _lives(port, one)]
            yield holders
            kept = _read_doubt(port, self._fd) if doubt else b""
            text = kept + b"".join(map(_holder_line, holders))
            write_all(port, self._fd, text, _HEAD)
            port.ftruncate(self._fd, _HEAD + len(text))
        finally:
            give_back(port, folder)

    def publish(self, seq: int) -> None:
        """Tell readers how far the log is durable. What was true stays true, so it is synced only if it is lowered:
        then the log is another one."""
        self._port.pwrite(self._fd, _durable_line(seq), 0)
        if seq < self.durable:
            self._port.fsync(self._fd)
        self.durable = seq

    def announce(self) -> None:
        """Let those who want to write, too, wait for `share`."""
        with suppress(OSError):
            self._port.pwrite(self._fd, OPENING, _LINE)

    def share(self, mark: Mark) -> None:
        """Let other writers in, who find the journal where the mark says.

        Raises:
            StoreLockedError: another one took the store for itself in this very moment.
        """
        self.leave(mark)
        deadline = time.monotonic() + _OPENING_PATIENCE
        while True:
            try:
                self._port.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # Between giving one kind of lock back and getting the other, an opener may have been first.
                if time.monotonic() >= deadline:
                    raise _refusal(self._port, _read_holders(self._port, self._fd)) from None
                time.sleep(_STEP)
        self.shared = True

    def look(self) -> tuple[int, Mark | None]:
        """The last durable seq, and where the journal ends; `None` if its last writer did not say."""
        head = _read_head(self._port, self._fd)
        return head.durable, head.mark if head.mode == SHARED else None

    def history(self) -> str:
        """Which beginning of the journal this is, as the last one said who told where it ends."""
        mark = _read_head(self._port, self._fd).mark
        return "" if mark is None else mark.history

    def is_alone(self) -> bool:
        """Whether no other holder seems to live."""
        holders = _read_holders(self._port, self._fd)
        return not any(one != self._me and _lives(self._port, one) for one in holders)

    def refusal(self, why: str) -> StoreLockedError:
        """That something needs the store for itself, and who has it, too."""
        others = [one for one in _read_holders(self._port, self._fd) if one != self._me]
        return _refusal(self._port, others, why)

    def is_named(self) -> bool:
        """Whether the file stands under its name still: else others may hold another one, and neither knows.

        Raises:
            DivergedError: another folder is at the state path by now.
        """
        locked = self._port.fstat(self._fd)
        if locked.st_nlink == 0:
            return False
        if _is_reached(self._tree, locked):
            return True
        with suppress(UnavailableError):  # who moved the folder moved all that is there
            self._tree.check_in_place()
        return _is_named(self._tree, locked) or self._is_introduced()

    def _is_introduced(self) -> bool:
        """Whether what stands under the name says that this writer is there: some mounts number a file anew."""
        try:
            fd = self._port.open(LOCK, os.O_RDONLY, within=self._tree.root)
        except FileNotFoundError:
            return False
        try:
            return self._me in _read_holders(self._port, fd)
        finally:
            self._port.close(fd)

    def begin(self) -> None:
        """Say that the journal is being changed: who finds this, and its writer gone, has to look for its end."""
        self._port.pwrite(self._fd, DIRTY, _LINE)

    def leave(self, mark: Mark) -> None:
        """Say where the journal ends, all of it durable."""
        self.durable = mark.seq
        head = _durable_line(mark.seq) + mark.line()
        self._port.pwrite(self._fd, head, 0)
        self._left = head

    def is_as_left(self) -> bool:
        """Whether nobody else said anything since this writer did."""
        return bool(self._left) and self._port.pread(self._fd, _HEAD, 0) == self._left

    def is_last(self) -> bool:
        """Whether nobody shares the lock. It is this writer's alone from then on, or else not held any more."""
        with self._membership():
            pass
        self.shared = False
        try:
            self._port.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        # Readers go by what is there, as they do where nobody ever shared it.
        self._port.pwrite(self._fd, CLOSED, _LINE)
        return True

    def abandon(self, tree: Tree) -> None:
        """Let go, and remove the file if this opener made it: the store did not come to be."""
        if self._created and not self.shared and self._fd >= 0:
            tree.discard(tree.root, LOCK)
        self.release()

    def release(self) -> None:
        """Let go. In a forked child this leaves the parent's lock as it is."""
        _ours.discard(self.handle)
        if self._fd >= 0:
            if os.getpid() == self._me["pid"]:
                give_back(self._port, self._fd)
            else:
                self._port.close(self._fd)
            self._fd = -1

    def end(self) -> None:
        """Say that this writer is none any more, and let go."""
        if self._fd >= 0 and self.shared:
            with suppress(OSError, StateError), self._membership():
                pass
        self.release()


def durable_limit(tree: Tree) -> int | None:
    """How far a reader may serve the log: the durable seq of its live writers, or `None` when there is none."""
    with failing(LOCK, LOCK):
        return _durable_limit(tree)


def _durable_limit(tree: Tree) -> int | None:
    port = tree.port
    try:
        fd = port.open(LOCK, os.O_RDONLY | os.O_NONBLOCK, within=tree.root)
    except FileNotFoundError:
        return None
    try:
        head = _read_head(port, fd)
        if head.is_shared(port.boot_id()):
            # A lock could keep a writer waiting, so it is tried only where none seems to live.
            if any(_lives(port, holder) for holder in _read_holders(port, fd)):
                return head.durable
            return None if _is_free(port, fd) else _read_head(port, fd).durable
        try:
            port.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_head(port, fd).durable
        return None
    finally:
        give_back(port, fd)


def _is_free(port: Port, fd: int) -> bool:
    """Whether no writer has the lock. Another reader may have it in the moment that it takes to find this out."""
    for _ in range(5):
        try:
            port.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.001)
        else:
            return True
    return False


def _attempt(tree: Tree, fd: int, *, created: bool, late: bool) -> WriterLock | None:
    """The lock, if it can be had now. `late`: who has it for so long is no reader."""
    port = tree.port
    shared = False
    try:
        port.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            port.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        # Readers hold a shared lock, too, but not where writers say that they share it.
        if not _read_head(port, fd).is_shared(port.boot_id()):
            return None
        # Nor does it mean anything where all of them were killed; but not every process can be seen from here.
        if not late and not any(_seems_to_live(port, holder) for holder in _read_holders(port, fd)):
            return None
        shared = True
    if not _is_named(tree, port.fstat(fd)):  # someone may have removed it meanwhile
        return None
    lock = WriterLock(tree, fd, _read_head(port, fd).durable, created=created, shared=shared)
    try:
        if shared:
            lock.join()
        else:
            lock.introduce()
    except BaseException:
        _ours.discard(lock.handle)
        if created and not shared:  # else it is another's as well
            tree.discard(tree.root, LOCK)
        raise
    return lock


def give_back(port: Port, fd: int) -> None:
    """Unlock the file, and close it: a child that was forked meanwhile has it open still."""
    with suppress(OSError):
        port.flock(fd, fcntl.LOCK_UN)
    port.close(fd)


def _open(tree: Tree) -> tuple[int, bool]:
    port = tree.port
    while True:
        try:
            return port.open(LOCK, os.O_RDWR, within=tree.root), False
        except FileNotFoundError:
            try:
                return port.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, within=tree.root), True
            except FileExistsError:
                continue


def _is_named(tree: Tree, locked: os.stat_result, name: str = LOCK) -> bool:
    """Whether the locked file is the one under the name."""
    try:
        named = tree.port.stat(name, within=tree.root)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, locked)


def _is_reached(tree: Tree, locked: os.stat_result) -> bool:
    """Whether the state path, as it is now, leads to the locked file."""
    try:
        return _is_named(tree, locked, f"{tree.path}/{LOCK}")
    except OSError:  # whoever gave rights up has the folder open still
        return False


def _durable_line(seq: int) -> bytes:
    return b"%020d %020d\n" % (seq, seq)


class _Head:
    """The first two lines; an older statepath wrote only the first."""

    def __init__(self, data: bytes) -> None:
        first, _, second = data[: _LINE - 1].partition(b" ")
        self.sound = first == second and first.isdigit()
        self.durable = int(first) if self.sound else 0
        self.mode, self.mark = Mark.parse(data[_LINE:_HEAD])

    def is_shared(self, boot: str) -> bool:
        """Whether writers say that they share the store, in this run of the machine."""
        return self.mode in (SHARED, DIRTY) and self.mark is not None and self.mark.boot == boot


def _read_head(port: Port, fd: int) -> _Head:
    head = _Head(port.pread(fd, _HEAD, 0))
    for _ in range(9):
        if head.sound:
            break
        head = _Head(port.pread(fd, _HEAD, 0))
    return head


def _holder_line(holder: dict[str, Any]) -> bytes:
    return json.dumps(holder).encode() + b"\n"


def _read_holders(port: Port, fd: int) -> list[dict[str, Any]]:
    data = read_all(port, fd, _LINE, _MOST)
    if Mark.parse(data[:MARK_LINE])[0]:
        data = data[MARK_LINE:]
    holders: list[dict[str, Any]] = []
    for line in data.splitlines():
        with suppress(ValueError):
            if isinstance(holder := json.loads(line), dict):
                holders.append(holder)
    return holders


def _read_boot(port: Port, fd: int) -> str | None:
    """The run of the machine in which the last holders began."""
    if (mark := _read_head(port, fd).mark) is not None:
        return mark.boot
    holders = _read_holders(port, fd)
    return holders[0].get("boot") if holders else None


def _read_doubt(port: Port, fd: int) -> bytes:
    """The line that says so, if it is there."""
    return _DOUBT if port.pread(fd, len(_DOUBT), _HEAD) == _DOUBT else b""


def _lives(port: Port, holder: dict[str, Any]) -> bool:
    """Whether the process may be there still; of another machine that is not known. In another container one may have
    the number of this one."""
    pid = holder.get("pid")
    return holder.get("host") != socket.gethostname() or not isinstance(pid, int) or port.lives(pid)


def _seems_to_live(port: Port, holder: dict[str, Any]) -> bool:
    """As `_lives`, except that a process of this number is this one, where another one can be told from it a moment
    later: one that was started anew in a container often has the number that the killed one had."""
    if holder.get("pid") == os.getpid() and holder.get("handle") not in _ours:
        return holder.get("host") != socket.gethostname()
    return _lives(port, holder)


def _no_locks(error: OSError) -> UnsupportedError:
    return UnsupportedError(
        f"the file system of the state path has no file locks (flock: {os.strerror(error.errno or 0)}), so writers "
        "could not be kept apart; put the store on a local disk, or open it with readonly=True",
        backend=SCHEME,
        code="no_locks",
    )


def _refusal(port: Port, holders: list[dict[str, Any]], why: str = "") -> StoreLockedError:
    holders = [holder for holder in holders if _lives(port, holder)] or holders
    who = "another process"
    if holders:
        who = " and ".join(
            f"{holder.get('program') or 'a process'} (pid {holder.get('pid')} on {holder.get('host')}, "
            f"since {holder.get('started')})"
            for holder in holders
        )
    return StoreLockedError(
        f"{why + ': ' if why else ''}the store is open for writing in {who}; close it there, "
        "or open this one with readonly=True",
        holder={name: told for name, told in holders[0].items() if name not in ("boot", "handle")}
        if holders
        else {},
        backend=SCHEME,
    )
