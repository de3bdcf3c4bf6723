"""The commit record: what one line of the journal says, and how it is checked.

A line is one JSON object. Its last member is `crc`, the CRC-32 (as zlib computes it, eight hex digits) of every
byte before the comma in front of it; so a reader can check a line without parsing it, and `jq` can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from zlib import crc32

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from statepath.errors import CorruptionError, InvalidArgumentError, UnsupportedError

FORMAT: Final = 1
"""The version of the journal's and the snapshot's format that this program writes."""

MAX_COMMIT_BYTES: Final = 8 * 1024 * 1024
"""A larger transaction writes its changes as an immutable body first, and commits the body's digest."""

JOURNAL: Final = "journal/"
FLOOR_KEY: Final = "journal/floor"
BODIES: Final = "bodies/"
PROBES: Final = "probe/"
"""Here objects are made to see what a storage can do, and removed again: they are nothing of a store."""


class Put(msgspec.Struct, frozen=True, tag_field="op", tag="put", omit_defaults=True, gc=False):
    """A document as it is from now on. `base` is the version it was checked against (0: did not exist)."""

    collection: str
    id: str
    document: Raw
    base: int | None = None


class Delete(msgspec.Struct, frozen=True, tag_field="op", tag="delete", omit_defaults=True, gc=False):
    """A document that no longer exists."""

    collection: str
    id: str
    base: int | None = None


class Append(msgspec.Struct, frozen=True, tag_field="op", tag="append", omit_defaults=True, gc=False):
    """One more element at the end of the list in a document's field."""

    collection: str
    id: str
    field: str
    value: Raw
    base: int | None = None


_object = msgspec.json.Decoder(dict[str, Raw])
_json = msgspec.json.Encoder()


def append_items(document: bytes, field: str, values: Sequence[bytes]) -> bytes:
    """The document with more elements at the end of a list; all other values stay byte for byte. A field that
    is missing or null becomes a list.

    Raises:
        InvalidArgumentError: the field is something else than a list.
    """
    members = _object.decode(document)
    held = members.get(field)
    old = b"[]" if held is None or bytes(held) == b"null" else bytes(held)
    if old[0] != 0x5B:
        raise InvalidArgumentError(f"the field {field!r} is not a list: nothing can be appended to it")
    body = old[1:-1].strip()
    members[field] = Raw(b"[%s]" % b",".join((body, *values) if body else values))
    return _json.encode(members)


class WriteLog(msgspec.Struct, frozen=True, tag_field="op", tag="log"):
    """Text of a session log, at an offset in bytes: writing it twice does no harm."""

    id: str
    offset: int
    text: str


class WriteReport(msgspec.Struct, frozen=True, tag_field="op", tag="report"):
    """A report, replaced as a whole."""

    id: str
    document: Raw


class RemoveLog(msgspec.Struct, frozen=True, tag_field="op", tag="unlog", omit_defaults=True):
    """A session log that no longer exists; what is appended later begins a new one. `base` is the size in bytes that it
    was checked against."""

    id: str
    base: int | None = None


class RemoveReport(msgspec.Struct, frozen=True, tag_field="op", tag="unreport", omit_defaults=True):
    """A report that no longer exists. `base` is the seq that it was looked at: one that was written later stays."""

    id: str
    base: int | None = None


class Note(msgspec.Struct, frozen=True, tag_field="op", tag="note"):
    """What the log should remember beside the documents. `kind` is `imported`, `restored`, `adopted`, `migrated`,
    `promoted`, `recovered`, `rotated`, `encrypted`, `decrypted`, `lost`, or one that a later program knows."""

    kind: str
    text: str


FileChange = WriteLog | WriteReport | RemoveLog | RemoveReport
"""A change of a session log or a report, which live in files of their own."""

Change = Put | Delete | Append | FileChange | Note


class Body(msgspec.Struct, frozen=True):
    """Stands in a commit for a transaction that is too large for it: the changes are the object `key`."""

    key: str
    size: int
    sha256: str


Transaction = tuple[Change, ...]


class Sealed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stands in a commit of an encrypted store for all its transactions. `key` is the id of the data key, `salt` the
    writer's own, and `count` how many records it had sealed with that salt before. `packed`: they were compressed."""

    key: str
    salt: bytes
    count: int
    data: bytes
    packed: bool = False


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """One durable log record: whole transactions, the first of which has the seq `first`.

    `prev` is the id of the commit before it (empty for the first of a store); `durable` is the highest seq known
    durable when it was written; `time` never decreases along the log. In an encrypted store the stored record has
    `sealed` in place of its transactions.
    """

    first: int
    last: int
    id: str
    prev: str
    writer: str
    store: str
    incarnation: str
    time: Annotated[datetime, Meta(tz=True)]
    durable: int
    min_reader: int = FORMAT
    min_writer: int = FORMAT
    transactions: tuple[Transaction | Body, ...]
    sealed: Sealed | UnsetType = UNSET


class _Needs(msgspec.Struct):
    """What any later format keeps to, so that an older program knows that it is one."""

    min_reader: int = FORMAT


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Commit)
_changes = msgspec.json.Decoder(Transaction)
_needs = msgspec.json.Decoder(_Needs)

_UNFIT: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What comes of bytes that are not what is decoded."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CRC = b',"crc":"'
_CHANGE_BYTES: Final = 128
_TAIL = len(_CRC) + 8 + len(b'"}')


def encode_commit(commit: Commit) -> bytearray:
    """The line of a commit, with its line end."""
    return seal(commit)


def microseconds(time: datetime) -> int:
    """A commit's time as whole microseconds since 1970."""
    return int(time.timestamp()) * 1_000_000 + time.microsecond


def moved_behind(commit: Commit, seq: int, id: str, time: int) -> Commit:
    """The commit as it is right behind another one, which ends with the seq, is durable, has the id and was made at
    that time, in microseconds since 1970."""
    earliest = _EPOCH + timedelta(microseconds=time + 1)
    return msgspec.structs.replace(
        commit,
        first=seq + 1,
        last=seq + 1 + commit.last - commit.first,
        prev=id,
        durable=seq,
        time=max(commit.time, earliest),
    )


def decode_commit(line: bytes | bytearray | memoryview) -> Commit:
    """The commit of a line, with or without its line end.

    Raises:
        CorruptionError: the line is cut, altered, or no commit record.
        UnsupportedError: it is whole, and needs a newer program (`newer_format`).
    """
    line = unseal(line, "commit record")
    try:
        commit = _decoder.decode(line)
    except _UNFIT as error:
        _check_format(line)
        raise CorruptionError(f"the commit record is not one of format {FORMAT}: {error}") from error
    if commit.min_reader > FORMAT:
        _check_format(line)
    count = commit.last - commit.first + 1
    if len(commit.transactions) != (count if commit.sealed is UNSET else 0):
        raise CorruptionError(f"commit {commit.first} says it ends at {commit.last}, and does not")
    return commit


def seal(record: object) -> bytearray:
    """The record as a line of JSON whose last member is its checksum."""
    line = bytearray()
    _encoder.encode_into(record, line)
    del line[-1:]
    check = crc32(line)
    line += b'%s%08x"}\n' % (_CRC, check)
    return line


def unseal(line: bytes | bytearray | memoryview, what: str) -> memoryview:
    """The line without its line end, once it is known to be what was written. `what` names it in messages.

    Raises:
        CorruptionError: it is cut or altered.
    """
    line = memoryview(line)
    if line and line[-1] == 0x0A:
        line = line[:-1]
    tail = bytes(line[-_TAIL:])
    if len(tail) < _TAIL or not tail.startswith(_CRC) or not tail.endswith(b'"}'):
        raise CorruptionError(f"this is not a whole {what}: its checksum is missing")
    if b"%08x" % crc32(line[:-_TAIL]) != tail[len(_CRC) : -2]:
        raise CorruptionError(f"the {what} does not match its checksum")
    return line


def _check_format(line: memoryview) -> None:
    try:
        needed = _needs.decode(line).min_reader
    except _UNFIT:
        return
    if needed > FORMAT:
        raise UnsupportedError(
            f"the journal needs a program that reads format {needed}, and this one reads {FORMAT}; update statepath",
            code="newer_format",
        )


def encode_changes(changes: Transaction) -> bytes:
    """The changes of one transaction as JSON: what stands in a commit, or in a body."""
    return _encoder.encode(changes)


def decode_changes(data: bytes) -> Transaction:
    """The changes that a body holds.

    Raises:
        CorruptionError: the bytes are not a list of changes.
    """
    try:
        return _changes.decode(data)
    except _UNFIT as error:
        raise CorruptionError(f"the body does not hold changes: {error}") from error


def slot_key(first: int) -> str:
    """The key of the journal object that begins with this seq."""
    return f"{JOURNAL}{first:020d}.jsonl"


def size_of(change: Change) -> int:
    """The bytes of a change in a commit record, roughly, and rather too many."""
    if isinstance(change, Put | WriteReport):
        return _CHANGE_BYTES + len(bytes(change.document))
    if isinstance(change, WriteLog | Note):
        return _CHANGE_BYTES + 4 * len(change.text)
    return _CHANGE_BYTES + len(change.id) + (len(bytes(change.value)) if isinstance(change, Append) else 0)


def commit_size(commit: Commit) -> int:
    """The bytes of a commit record, as `size_of`: without what it has beside itself."""
    return sum(
        size_of(change)
        for transaction in commit.transactions
        if isinstance(transaction, tuple)
        for change in transaction
    )
