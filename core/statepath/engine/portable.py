"""A portable backup: one file that holds a store, for any backend. It is a zip file, which any program can look into.

Its member `manifest.json` names every other member with its size and its SHA-256. Whoever reads one does not trust it:
nothing is unpacked to where a name says; each member has to be one that the manifest names and that a store can have,
whole and of the size that was said, and all of it is checked before anything is written.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import IO, Final, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from statepath.commit import (
    Append,
    Body,
    Change,
    Commit,
    Delete,
    Put,
    RemoveLog,
    RemoveReport,
    Transaction,
    WriteLog,
    WriteReport,
    decode_changes,
    decode_commit,
    microseconds,
    unseal,
)
from statepath.engine.archiving import ARCHIVE, decode_index, decode_segments, segments
from statepath.engine.backups import is_backup
from statepath.engine.documents import compact, parse_untrusted
from statepath.engine.filekeys import FileKey
from statepath.engine.files import PIECE, LogPiece, Report
from statepath.engine.ids import check_id, is_id, is_name, log_id, long_logs
from statepath.engine.migration import decode_versions
from statepath.engine.replica import MEMBERS, Entry, Replica
from statepath.engine.snapshot import (
    OWN_MEMBERS,
    SCHEMA_MEMBER,
    SNAPSHOT_MEMBERS,
    STATE_KEY,
    SnapshotMeta,
    load_snapshot,
)
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
    UnsupportedError,
)
from statepath.naming import check_collection

T = TypeVar("T")

MAX_BYTES: Final = 4 * 1024**3
"""What a portable backup may hold, unless the one who imports it says otherwise."""

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
COMMITS: Final = "journal/commits.jsonl"

_MANIFEST_BYTES: Final = 1024 * 1024
_ENTRY_BYTES: Final = 1024
"""What a manifest has of itself, and of each member, at the most."""

_DEFLATE: Final = 1032
"""Deflate makes nothing smaller than by this; whoever claims more lets members share their bytes."""

_UNFIT: Final = (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError)
"""What comes of bytes that are no zip file."""

_LATEST: Final = microseconds(datetime(9000, 1, 1, tzinfo=UTC))
"""However far ahead a clock was, what it dated is taken: but what is saved next has to be later still."""

_SEQS: Final = 2**62
"""No log has as many: a longer number would fit into no name of a slot, and into no column of a database."""

_LINE: Final = 64 * 1024 * 1024
_BODY: Final = re.compile(r"bodies/[0-9a-f]{1,64}/[0-9]{1,9}")
_SEGMENT: Final = re.compile(r"archive/([0-9a-f]{64})\.(?:jsonl\.gz|index\.json)")
_LOG: Final = re.compile(r"logs/session_([^/]+)\.log")
_REPORT: Final = re.compile(r"reports/([^/]+)\.json")


class Member(msgspec.Struct, frozen=True):
    """One member of the file, as the manifest has it."""

    name: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the file says of itself."""

    format: int
    store: str
    incarnation: str
    seq: int
    floor: int
    created: str
    members: tuple[Member, ...]


_manifest = msgspec.json.Decoder(Manifest)


@contextmanager
def file_errors(path: str) -> Iterator[None]:
    """What the system says of the file, as errors of ours."""
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExistsError(f"{path} exists already", key=path) from error
    except IsADirectoryError as error:
        raise InvalidArgumentError(f"{path} is a folder; name a file", key=path) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path}: {error.strerror}; check the path", key=path, code="no_file") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise AccessDeniedError(
                f"{path}: {error.strerror}; check its owner and permissions", key=path, code="file_denied"
            ) from error
        raise UnavailableError(f"{path}: {error.strerror or error}", key=path, code="file_failed") from error


def open_portable(path: str, *, limit: int = MAX_BYTES, key: FileKey | None = None) -> Portable:
    """The file, once its manifest and the names and sizes of its members are sound. `key` is that of a sealed one.

    Raises:
        NotFoundError, AccessDeniedError: the file cannot be read.
        CorruptionError: it is cut short, altered, or not what a portable backup can be.
        InvalidArgumentError: it holds more than `limit` bytes.
        UnsupportedError: a newer program wrote it (`newer_format`).
    """
    with file_errors(path):
        size = os.stat(path).st_size
        stored: IO[bytes] = open(path, "rb")  # noqa: SIM115 - closed with its content
        try:
            content = stored if key is None else key.reading(stored, path)
            file = zipfile.ZipFile(content)
        except BaseException as error:
            stored.close()
            if not isinstance(error, _UNFIT):
                raise
            raise _bad(path, f"it was cut short, or is no portable backup ({error})") from error
    try:
        return Portable(path, content, file, _read_manifest(path, file, size, limit))
    except BaseException:
        file.close()
        content.close()
        raise


def _read_manifest(path: str, file: zipfile.ZipFile, size: int, limit: int) -> Manifest:
    infos = file.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise _bad(path, "it has two members of one name")
    if MANIFEST not in names:
        raise _bad(path, f"it has no {MANIFEST}")
    for info in infos:
        if stat.S_ISLNK(info.external_attr >> 16) or info.is_dir():
            raise _bad(path, f"its member {info.filename!r} is a link or a folder")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _bad(path, f"its member {info.filename!r} is encrypted, or packed in an unknown way")
    total = sum(info.file_size for info in infos)
    if total > _DEFLATE * size:
        raise _bad(path, f"it claims to hold {total:,} bytes in {size:,}, which is not possible")
    if total > limit:
        raise InvalidArgumentError(
            f"{path} holds {total:,} bytes, more than the limit of {limit:,}; "
            "if you trust it, say so with a higher one (--max-size)",
            key=path,
        )
    if file.getinfo(MANIFEST).file_size > _MANIFEST_BYTES + _ENTRY_BYTES * len(names):
        raise _bad(path, f"its {MANIFEST} is too large")
    packed = b"".join(_chunks(path, file, MANIFEST))
    try:
        line = unseal(packed, "manifest")
    except CorruptionError as error:
        raise _bad(path, f"{MANIFEST}: {error}") from error
    try:
        if (needed := msgspec.json.decode(line, type=dict[str, Raw]).get("format")) is None:
            raise _bad(path, f"its {MANIFEST} does not say its format")
        if bytes(needed).isdigit() and int(bytes(needed)) > FORMAT:
            raise UnsupportedError(
                f"{path} is of format {int(bytes(needed))}, and this program reads format {FORMAT}; update statepath",
                key=path,
                code="newer_format",
            )
        manifest = _manifest.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _bad(path, f"its {MANIFEST} cannot be read: {error}") from error
    named = {member.name: member.size for member in manifest.members}
    if len(named) < len(manifest.members) or set(named) != set(names) - {MANIFEST}:
        raise _bad(path, f"its members are not those that its {MANIFEST} names")
    for name, expected in named.items():
        if not _is_ours(name):
            raise _bad(path, f"no store has anything of the name {name!r}")
        if file.getinfo(name).file_size != expected:
            raise _bad(path, f"{name} has not the size that its {MANIFEST} says")
    if STATE_KEY not in named:
        raise _bad(path, f"it has no {STATE_KEY}")
    if manifest.seq >= _SEQS:
        raise _bad(path, f"no log is as long as its seq {manifest.seq} says")
    if not 1 <= manifest.floor <= manifest.seq + 1:
        raise _bad(path, f"its log cannot begin at {manifest.floor}, where it shows seq {manifest.seq}")
    if manifest.floor <= manifest.seq and COMMITS not in named:
        raise _bad(path, "the commits are missing that it says to have")
    return manifest


def _is_ours(name: str) -> bool:
    if name in (STATE_KEY, COMMITS) or is_backup(name) or _BODY.fullmatch(name) or _SEGMENT.fullmatch(name):
        return True
    match = _LOG.fullmatch(name) or _REPORT.fullmatch(name)
    return match is not None and is_name(match[1])


def _chunks(path: str, file: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    try:
        with file.open(name) as member:
            while chunk := member.read(PIECE):
                yield chunk
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, OSError) as error:
        raise _bad(path, f"{name} was cut short or altered ({error})") from error
    except Exception as error:
        if type(error).__module__ == "zlib":
            raise _bad(path, f"{name} was altered ({error})") from error
        raise


def _bad(path: str, reason: str) -> CorruptionError:
    return CorruptionError(
        f"{path} cannot be imported: {reason}; nothing was written", key=path, code="bad_file"
    )


class Portable:
    """A portable backup that is read. It is an `Origin` once `load` was called."""

    def __init__(self, path: str, content: IO[bytes], file: zipfile.ZipFile, manifest: Manifest) -> None:
        self.path = path
        self._content = content
        self.manifest = manifest
        self._names = frozenset(member.name for member in manifest.members)
        self.replica = Replica()
        self._file = file

    def __enter__(self) -> Portable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._content.close()

    @property
    def name(self) -> str:
        return f"seq {self.manifest.seq} of {self.path}"

    @property
    def store(self) -> str:
        return self.manifest.store

    @property
    def floor(self) -> int:
        return self.manifest.floor

    def check(self) -> None:
        """Read everything, and compare it with the manifest.

        Raises:
            CorruptionError: it is not what was written.
        """
        for member in self.manifest.members:
            digest, size = sha256(), 0
            for chunk in _chunks(self.path, self._file, member.name):
                digest.update(chunk)
                size += len(chunk)
            if size != member.size or digest.hexdigest() != member.sha256:
                raise _bad(self.path, f"{member.name} does not match its digest")

    def load(self) -> None:
        """Check everything, and take the documents from it, each as if a stranger had sent it."""
        self.check()
        meta, self.replica = self._snapshot(STATE_KEY)
        self._check_archive()
        for name in self._named(_REPORT):
            self._report(name)
        for member in self.manifest.members:
            if is_backup(member.name):
                self._snapshot(member.name)
        if meta.seq != self.manifest.seq:
            raise _bad(
                self.path, f"{STATE_KEY} shows seq {meta.seq}, and the manifest says {self.manifest.seq}"
            )
        sizes = {member.name: member.size for member in self.manifest.members}
        # Of a shortened name only the state knows the session.
        known = long_logs(filter(is_id, self.replica.logs))
        self.replica.logs = {
            id: sizes[name] for name in self._named(_LOG) if (id := log_id(name, known)) is not None
        }
        last, previous = self.manifest.floor - 1, ""
        written: dict[str, tuple[int, int]] = {}
        for commit in self._lines():
            if commit.first != last + 1 or (previous and commit.prev != previous):
                raise _bad(self.path, f"commit {commit.first} does not follow the one before it")
            for transaction in commit.transactions:
                changes = self._body(transaction) if isinstance(transaction, Body) else transaction
                _note_ends(changes, written)
            last, previous = commit.last, commit.id
        for id, (end, offset) in written.items():
            if end > self.replica.log_size(id):
                raise _bad(self.path, f"{COMMITS}: logs/{id} is written at {offset}, where it is not")
        if COMMITS in sizes and (last, previous) != (meta.seq, meta.commit):
            raise _bad(self.path, f"its commits end at seq {last}, and do not lead to {STATE_KEY}")

    async def files(self) -> AsyncIterator[LogPiece | Report]:
        for name in self._named(_LOG):
            at = 0
            chunks = _chunks(self.path, self._file, name)
            piece = await asyncio.to_thread(next, chunks, b"")
            while piece:
                following = await asyncio.to_thread(next, chunks, b"")
                yield LogPiece(name, at, piece, last=not following)
                at += len(piece)
                piece = following
        for name in self._named(_REPORT):
            yield Report(name, await asyncio.to_thread(self._report, name))

    async def archive(self) -> AsyncIterator[tuple[str, bytes]]:
        for member in self.manifest.members:
            if _SEGMENT.fullmatch(member.name):
                yield member.name, await asyncio.to_thread(self._whole, member.name)

    async def backups(self) -> AsyncIterator[Replica]:
        for member in self.manifest.members:
            if is_backup(member.name):
                yield (await asyncio.to_thread(self._snapshot, member.name))[1]

    async def commits(self, after: int) -> AsyncIterator[Commit]:
        for commit in self._lines():
            if commit.last > after:
                yield commit
                await asyncio.sleep(0)

    async def body(self, key: str) -> bytes:
        return await asyncio.to_thread(self._whole, key)

    def _check_archive(self) -> None:
        digests = {member.name: member.sha256 for member in self.manifest.members}
        for segment in segments(self.replica):
            if segment.index_key not in digests or digests.get(segment.key) != segment.sha256:
                raise _bad(self.path, f"{segment.key} is not what {STATE_KEY} names")
        for digest in {match[1] for name in digests if (match := _SEGMENT.fullmatch(name))}:
            self._check_segment(digest)

    def _check_segment(self, digest: str) -> None:
        """Its name is made of both parts, and its index may not lead where a segment does not reach."""
        key, index_key = f"{ARCHIVE}{digest}.jsonl.gz", f"{ARCHIVE}{digest}.index.json"
        index = self._whole(index_key)
        found = sha256(index)
        for chunk in self._pieces(key):
            found.update(chunk)
        if found.hexdigest() != digest:
            raise _bad(self.path, f"{key} and its index are not what their name says")
        try:
            for place in decode_index(index, index_key):
                check_id(place.id)
                self._check_time(place.modified, f"{index_key}: {place.id!r}")
        except (CorruptionError, InvalidArgumentError) as error:
            raise _bad(self.path, str(error)) from error

    def _body(self, body: Body) -> Transaction:
        data = self._whole(body.key)
        if sha256(data).hexdigest() != body.sha256:
            raise _bad(self.path, f"{body.key} is not what its commit names")
        return self._checked(self._decoded(decode_changes, data, body.key))

    def _report(self, name: str) -> bytes:
        data = self._whole(name)
        try:
            parse_untrusted(data, key=name, limit=max(len(data), 1))
        except StateError as error:
            raise _bad(self.path, str(error)) from error
        return data

    def _named(self, pattern: re.Pattern[str]) -> Iterator[str]:
        for member in self.manifest.members:
            if pattern.fullmatch(member.name):
                yield member.name

    def _whole(self, name: str) -> bytes:
        return b"".join(self._pieces(name))

    def _pieces(self, name: str) -> Iterator[bytes]:
        if name not in self._names:
            raise _bad(self.path, f"{name} is missing")
        return _chunks(self.path, self._file, name)

    def _snapshot(self, name: str) -> tuple[SnapshotMeta, Replica]:
        data = self._whole(name)
        try:
            meta, replica = load_snapshot(data, name)
        except CorruptionError as error:
            raise _bad(self.path, str(error)) from error
        if meta.store != self.manifest.store or meta.seq > self.manifest.seq:
            raise _bad(self.path, f"{name} is of another store than the manifest")
        for collection, id, entry in list(replica):
            try:
                _check_name(collection, id)
                data = self._document(entry.json(), f"{collection}/{id}", member=collection == MEMBERS)
            except StateError as error:
                raise _bad(self.path, f"{name}: {error}") from error
            if not 0 <= entry.version <= meta.seq or not 0 <= entry.modified <= _LATEST:
                raise _bad(self.path, f"{name}: {collection}/{id} is later than the state that it is of")
            replica.set(collection, id, Entry(data, entry.version, entry.modified))
        if any(not 0 <= seq <= meta.seq for seq in meta.changed.values()):
            raise _bad(self.path, f"{name}: a collection was changed later than the state that it is of")
        self._check_time(meta.time, name)
        for member in OWN_MEMBERS:
            if (own := replica.get(MEMBERS, member)) is not None:
                self._check_own(member, own.json(), name)
        return meta, replica

    def _check_own(self, member: str, data: bytes, what: str) -> None:
        """A member that only the core writes is read without suspicion everywhere else."""
        try:
            if member == SCHEMA_MEMBER:
                decode_versions(data)
                return
            strange = [one.key for one in decode_segments(data) if not _SEGMENT.fullmatch(one.key)]
        except (CorruptionError, msgspec.MsgspecError) as error:
            raise _bad(self.path, f"{what}: {member} is not what a store has there: {error}") from error
        if strange:
            raise _bad(self.path, f"{what}: {member} names {strange[0]!r}")

    def _check_time(self, time: int, what: str) -> None:
        if not 0 <= time <= _LATEST:
            raise _bad(
                self.path, f"{what} is of a time that has not come, and behind which nothing can be saved"
            )

    def _lines(self) -> Iterator[Commit]:
        if COMMITS not in self._names:
            return
        rest = b""
        for chunk in _chunks(self.path, self._file, COMMITS):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE:
                raise _bad(self.path, f"{COMMITS} has a line of more than {_LINE:,} bytes")
            for line in lines:
                commit = self._decoded(decode_commit, line, COMMITS)
                self._check_time(microseconds(commit.time), f"commit {commit.first}")
                transactions = tuple(
                    one if isinstance(one, Body) else self._checked(one) for one in commit.transactions
                )
                yield replace(commit, transactions=transactions)
        if rest:
            raise _bad(self.path, f"{COMMITS} ends in the middle of a line")

    def _decoded(self, decode: Callable[[bytes], T], data: bytes, name: str) -> T:
        try:
            return decode(data)
        except CorruptionError as error:
            raise _bad(self.path, f"{name}: {error}") from error

    def _checked(self, changes: Transaction) -> Transaction:
        try:
            return tuple(self._change(change) for change in changes)
        except StateError as error:
            raise _bad(self.path, f"{COMMITS}: {error}") from error

    def _change(self, change: Change) -> Change:
        if isinstance(change, Put | Delete | Append):
            _check_name(change.collection, change.id)
            key = f"{change.collection}/{change.id}"
            if isinstance(change, Put):
                data = self._document(bytes(change.document), key, member=change.collection == MEMBERS)
                if change.collection == MEMBERS and change.id in OWN_MEMBERS:
                    self._check_own(change.id, data, COMMITS)
                return replace(change, document=Raw(data))
            if isinstance(change, Append):
                return replace(change, value=Raw(self._document(bytes(change.value), key, member=True)))
        elif isinstance(change, WriteLog):
            check_id(change.id)
            if change.offset < 0:
                raise InvalidArgumentError(f"logs/{change.id} is written at {change.offset}, where it is not")
        elif isinstance(change, RemoveLog | RemoveReport):
            check_id(change.id)
        elif isinstance(change, WriteReport):
            check_id(change.id)
            data = self._document(bytes(change.document), f"reports/{change.id}", member=True)
            return replace(change, document=Raw(data))
        return change

    def _document(self, data: bytes, key: str, *, member: bool) -> bytes:
        """The document as it may be stored. `member`: any JSON value will do."""
        value = parse_untrusted(data, key=key, limit=max(len(data), 1))
        if not member and not isinstance(value, dict):
            raise InvalidArgumentError(f"{key} is no JSON object", key=key)
        return compact(data)


def _note_ends(changes: Transaction, written: dict[str, tuple[int, int]]) -> None:
    """Remember up to where, and from where, the session logs are written that nothing removes later."""
    for change in changes:
        if isinstance(change, WriteLog):
            place = change.offset + len(change.text.encode()), change.offset
            written[change.id] = max(place, written.get(change.id, place))
        elif isinstance(change, RemoveLog):
            written.pop(change.id, None)


def _check_name(collection: str, id: str) -> None:
    check_id(id)
    if collection != MEMBERS:
        check_collection(collection)
    elif id in SNAPSHOT_MEMBERS:
        raise InvalidArgumentError(f"{id!r} is a part of {STATE_KEY} itself")
