"""The writer's lock: `flock` on the file `lock`, which ends with the process that holds it.

The file's first line is the last durable seq, twice, so that a reader notices half an update;
then what the holder says of itself. The file is never removed: a lock on a removed file would exclude nobody.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from datetime import UTC, datetime
from typing import Any

from statepath.errors import StoreLockedError

from statepath_local.failures import SCHEME
from statepath_local.port import Port, write_all
from statepath_local.tree import LOCK, Tree

_LINE = 42
_MOST = 4096
_PATIENCE = 0.2
_STEP = 0.01


class WriterLock:
    """A held lock, and the place where its holder publishes how far the log is durable.

    `rebooted` says that the machine was started since the last holder: what that one had not synced may be gone.
    """

    def __init__(self, port: Port, fd: int, durable: int, *, created: bool) -> None:
        self._port = port
        self._fd = fd
        self._created = created
        self.durable = durable
        self.rebooted = False

    @classmethod
    def acquire(cls, tree: Tree) -> WriterLock:
        """Take the lock. Readers hold it for microseconds, so a refusal is final only after 200 ms.

        Raises:
            StoreLockedError: another writer has it.
        """
        port = tree.port
        deadline = time.monotonic() + _PATIENCE
        while True:
            fd, created = _open(tree)
            try:
                port.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_current(tree, fd):
                    lock = cls(port, fd, _read_durable(port, fd), created=created)
                    lock._introduce()
                    return lock
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = _read_holder(port, fd)
                    port.close(fd)
                    raise _refusal(holder) from None
            except BaseException:
                if created:
                    tree.discard(tree.root, LOCK)
                port.close(fd)
                raise
            port.close(fd)
            time.sleep(_STEP)

    def _introduce(self) -> None:
        boot = self._port.boot_id()
        self.rebooted = not self._created and _read_holder(self._port, self._fd).get("boot") != boot
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "program": os.path.basename(sys.argv[0] or sys.executable) if sys.argv else "",
            "boot": boot,
        }
        text = _durable_line(self.durable) + json.dumps(holder).encode() + b"\n"
        write_all(self._port, self._fd, text, 0)
        self._port.ftruncate(self._fd, len(text))

    def publish(self, seq: int) -> None:
        """Tell readers how far the log is durable. What was true stays true, so it is synced only if it is lowered:
        then the log is another one."""
        before, self.durable = self.durable, seq
        self._port.pwrite(self._fd, _durable_line(seq), 0)
        if seq < before:
            self._port.fsync(self._fd)

    def abandon(self, tree: Tree) -> None:
        """Let go, and remove the file if this opener made it: the store did not come to be."""
        if self._created:
            tree.discard(tree.root, LOCK)
        self.release()

    def release(self) -> None:
        """Let go. In a forked child this leaves the parent's lock as it is."""
        if self._fd >= 0:
            self._port.close(self._fd)
            self._fd = -1


def durable_limit(tree: Tree) -> int | None:
    """How far a reader may serve the log: a live writer's durable seq, or `None` when there is no writer."""
    port = tree.port
    try:
        fd = port.open(LOCK, os.O_RDONLY, within=tree.root)
    except FileNotFoundError:
        return None
    try:
        try:
            port.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read_durable(port, fd)
        return None
    finally:
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


def _is_current(tree: Tree, fd: int) -> bool:
    """Whether the locked file is still the one under its name; someone may have removed it meanwhile."""
    try:
        named = tree.port.stat(LOCK, within=tree.root)
    except FileNotFoundError:
        return False
    locked = tree.port.fstat(fd)
    return (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino)


def _durable_line(seq: int) -> bytes:
    return b"%020d %020d\n" % (seq, seq)


def _read_durable(port: Port, fd: int) -> int:
    for _ in range(10):
        first, _, second = port.pread(fd, _LINE, 0)[: _LINE - 1].partition(b" ")
        if first == second and first.isdigit():
            return int(first)
    return 0


def _read_holder(port: Port, fd: int) -> dict[str, Any]:
    text = port.pread(fd, _MOST, 0)[_LINE:]
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _refusal(holder: dict[str, Any]) -> StoreLockedError:
    who = "another process"
    if holder:
        who = (
            f"{holder.get('program') or 'a process'} (pid {holder.get('pid')} on {holder.get('host')}, "
            f"since {holder.get('started')})"
        )
    holder.pop("boot", None)
    return StoreLockedError(
        f"the store is open for writing in {who}; close it there, or open this one with readonly=True",
        holder=holder,
        backend=SCHEME,
    )
