"""A portable backup is written: a store in one file, which is read back before it has its name."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import IO, Final
from uuid import uuid4

from statepath.commit import FORMAT as COMMIT_FORMAT
from statepath.commit import Body, encode_commit, seal
from statepath.engine.backups import backup_key
from statepath.engine.documents import parse_untrusted
from statepath.engine.filekeys import FileKey
from statepath.engine.files import Report
from statepath.engine.founding import Origin, Tell
from statepath.engine.portable import (
    COMMITS,
    FORMAT,
    MANIFEST,
    Manifest,
    Member,
    file_errors,
    open_portable,
)
from statepath.engine.replica import Replica
from statepath.engine.snapshot import STATE_KEY, SnapshotStream, newer_format
from statepath.errors import AlreadyExistsError, CorruptionError, InvalidArgumentError
from statepath.threads import in_thread

_NO_SYNC: Final = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems answer that cannot sync a folder."""

_OPEN_FILES: Final = "/proc/self/fd"

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_LATEST: Final = (2107, 12, 31, 23, 59, 58)
"""The times that a zip file can tell."""


@dataclass(frozen=True, slots=True)
class Exported:
    """A portable backup that was written and read back."""

    path: str
    seq: int
    bytes: int
    members: int


async def export(
    origin: Origin, incarnation: str, path: str, tell: Tell, *, key: FileKey | None = None
) -> Exported:
    """Write the origin into a new file, and read it back. With a `key` the file is sealed.

    Raises:
        AlreadyExistsError: there is such a file.
        CorruptionError: a session log or a report is damaged.
        UnsupportedError: only a newer program may go on with the state (`newer_format`).
    """
    if origin.replica.needs > COMMIT_FORMAT:
        raise newer_format(origin.name, origin.replica.needs)
    _check_free(path)
    with file_errors(path):
        fd, temporary, nameless = _create(path)
        try:
            with open(fd, "w+b") as file:  # noqa: ASYNC230 - opened already; what is long runs in a thread
                with nullcontext(file) if key is None else key.writing(file) as content:
                    await _Writer(origin, incarnation, content, tell).run()
                file.flush()
                await in_thread(partial(os.fsync, fd))
                with open_portable(temporary, limit=sys.maxsize, key=key) as written:
                    tell("reading it back")
                    await in_thread(written.check)
                    count = len(written.manifest.members)
                size = os.stat(temporary).st_size
                _check_free(path)
                if nameless:
                    _link(fd, path)
                else:
                    os.rename(temporary, path)
        finally:
            if not nameless:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)
        await in_thread(partial(_sync_folder, os.path.dirname(path) or "."))
    return Exported(path, origin.replica.head, size, count)


def _create(path: str) -> tuple[int, str, bool]:
    """A file that gets the name later, where it can be opened until then, and whether it has none: then nothing is left
    of it if we are killed. Not every system has such files, nor do all file systems, and some let them get no name,
    which an empty one tells."""
    temporary = f"{path}.{uuid4().hex[:12]}.tmp"  # one that was killed may have left its own
    if hasattr(os, "O_TMPFILE") and os.path.isdir(_OPEN_FILES):
        with suppress(OSError):
            folder, flags = os.path.dirname(path) or ".", os.O_RDWR | os.O_TMPFILE
            empty = os.open(folder, flags, 0o600)
            try:
                _link(empty, temporary)
            finally:
                os.close(empty)
            os.unlink(temporary)
            fd = os.open(folder, flags, 0o600)
            return fd, f"{_OPEN_FILES}/{fd}", True
    return os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), temporary, False


def _link(fd: int, path: str) -> None:
    """Give the nameless file a name."""
    # With a folder's descriptor a link is followed, as this one has to be.
    os.link(f"{_OPEN_FILES}/{fd}", path, src_dir_fd=fd)


def _check_free(path: str) -> None:
    if os.path.lexists(path):
        raise AlreadyExistsError(f"{path} exists already; choose another name, or remove it", key=path)


def _sync_folder(folder: str) -> None:
    """Make the file's new name durable, where the system lets us: the file itself is whole."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Writer:
    origin: Origin
    incarnation: str
    file: IO[bytes]
    tell: Tell
    _members: list[Member] = field(default_factory=list)
    _stopped: bool = False

    async def run(self) -> None:
        origin = self.origin
        with zipfile.ZipFile(self.file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as self._zip:
            self.tell("writing the documents")
            await self._snapshot(STATE_KEY, origin.replica)
            async for replica in origin.backups():
                await self._snapshot(backup_key(replica.time), replica)
            if origin.floor <= origin.replica.head:
                await self._commits()
            await self._files()
            async for key, data in origin.archive():
                await self._member(key, iter([data]))
            manifest = Manifest(
                format=FORMAT,
                store=origin.store,
                incarnation=self.incarnation,
                seq=origin.replica.head,
                floor=origin.floor,
                created=datetime.now(UTC).isoformat(),
                members=tuple(self._members),
            )
            await self._member(MANIFEST, iter([bytes(seal(manifest))]))

    _zip: zipfile.ZipFile = field(init=False)

    async def _snapshot(self, name: str, replica: Replica) -> None:
        stream = SnapshotStream(replica.cut(), store=self.origin.store, incarnation=self.incarnation)
        await self._member(name, iter(stream))

    async def _member(self, name: str, chunks: Iterator[bytes]) -> None:
        await self._finished(self._write, name, chunks)

    async def _finished(self, write: Callable[..., object], *arguments: object) -> None:
        """In a thread, and to its end if that is cancelled: what it writes to is closed then."""
        writing = asyncio.ensure_future(in_thread(partial(write, *arguments)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            self._stopped = True
            await asyncio.wait([writing])
            raise

    def _write(self, name: str, chunks: Iterator[bytes]) -> None:
        digest, size = sha256(), 0
        with self._zip.open(_info(name), "w", force_zip64=True) as member:
            for chunk in chunks:
                if self._stopped:
                    return
                member.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if name != MANIFEST:
            self._members.append(Member(name, size, digest.hexdigest()))

    async def _commits(self) -> None:
        """One member for all commits, a line each; and one for each of their bodies."""
        bodies: list[str] = []
        digest, size = sha256(), 0
        with self._zip.open(_info(COMMITS), "w", force_zip64=True) as member:
            async for commit in self.origin.commits(self.origin.floor - 1):
                line = encode_commit(commit)
                await self._finished(member.write, line)
                digest.update(line)
                size += len(line)
                bodies += [one.key for one in commit.transactions if isinstance(one, Body)]
                self.tell(f"commit {commit.last} of {self.origin.replica.head}")
        self._members.append(Member(COMMITS, size, digest.hexdigest()))
        for key in bodies:
            await self._member(key, iter([await self.origin.body(key)]))

    async def _files(self) -> None:
        open_log: IO[bytes] | None = None
        digest, size = sha256(), 0
        try:
            async for piece in self.origin.files():
                if isinstance(piece, Report):
                    self.tell(piece.key)
                    await self._finished(_check, piece)
                    await self._member(piece.key, iter([piece.data]))
                    continue
                if open_log is None:
                    self.tell(piece.key)
                    open_log = self._zip.open(_info(piece.key), "w", force_zip64=True)
                    digest, size = sha256(), 0
                await self._finished(open_log.write, piece.data)
                digest.update(piece.data)
                size += len(piece.data)
                if piece.last:
                    open_log.close()
                    open_log = None
                    self._members.append(Member(piece.key, size, digest.hexdigest()))
        finally:
            if open_log is not None:
                open_log.close()


def _check(report: Report) -> None:
    """That the file is not written with what keeps all of it from being imported.

    Raises:
        CorruptionError: the report is damaged.
    """
    try:
        parse_untrusted(report.data, key=report.key, limit=max(len(report.data), 1))
    except InvalidArgumentError as error:
        raise CorruptionError(
            f"{error}; no import would take it: statepath repair keeps it aside, and writes again what the history "
            "has, or delete_report gives it up",
            key=report.key,
        ) from error


def _info(name: str) -> zipfile.ZipInfo:
    now = datetime.now(UTC).timetuple()[:6]
    info = zipfile.ZipInfo(name, min(max(now, _EARLIEST), _LATEST))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    return info
