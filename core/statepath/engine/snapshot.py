"""The format of a snapshot: the whole state as one JSON object that people, `jq` and the original server can read.

Each document stands on a line of its own. The last member, `_statepath`, is ours: it says where each document is, so
that opening a store slices the file and does not parse it, and it carries the SHA-256 of every byte before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from zlib import crc32

import msgspec

from statepath.commit import FORMAT
from statepath.engine.backups import check_shown
from statepath.engine.replica import MEMBERS, Cut, Entry, Replica
from statepath.errors import CorruptionError, UnsupportedError
from statepath.threads import handed

STATE_KEY: Final = "state.json"
VERSION: Final = "1.0.0"
SEED_COLLECTIONS: Final = ("tasks", "sessions")
"""Collections that stand in every snapshot, even empty ones."""

SNAPSHOT_MEMBERS: Final = frozenset({"version", "seq", "last_saved", "_statepath", *SEED_COLLECTIONS})
"""Members that every snapshot has."""

SCHEMA_MEMBER: Final = "schema_versions"
"""The member that tells the schema version of each collection, where it is not 1."""

ARCHIVE_MEMBER: Final = "archive_segments"
"""The member that names the segments of the archive."""

LEASE_MEMBERS: Final = "lease/"
"""Members whose names begin so tell who took which lease last; the version of each is the lease's epoch."""

OWN_MEMBERS: Final = frozenset({SCHEMA_MEMBER, ARCHIVE_MEMBER})
"""Members that only the core changes, beside those of the leases."""


def is_own_member(name: str) -> bool:
    """Whether only the core changes the member."""
    return name in OWN_MEMBERS or name.startswith(LEASE_MEMBERS)


_BEGINNING = b'{\n"version":"'
MARK: Final = b'\n"_statepath":'
"""Where the documents end."""

_CHUNK = 2 * 1024 * 1024
_RUN = 2000


class _Place(msgspec.Struct, array_like=True, frozen=True, gc=False):
    id: str
    version: int
    modified: int
    length: int


class _Index(msgspec.Struct, frozen=True):
    start: int
    documents: tuple[_Place, ...]


class _EncodedIndex(msgspec.Struct, frozen=True):
    """As `_Index`, with the places encoded."""

    start: int
    documents: msgspec.Raw


class SnapshotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself, without the places of the documents, of which there are many."""

    store: str
    incarnation: str
    seq: int
    commit: str
    time: int
    min_reader: int = FORMAT
    min_writer: int = FORMAT
    logs: dict[str, int]
    changed: dict[str, int] = {}
    digest: str


class SnapshotMeta(SnapshotFacts, frozen=True, kw_only=True):
    """All that a snapshot says of itself."""

    collections: dict[str, _Index]


class _EncodedMeta(SnapshotFacts, frozen=True, kw_only=True):
    """As `SnapshotMeta`, with the places encoded."""

    collections: dict[str, _EncodedIndex]


_meta_decoder = msgspec.json.Decoder(SnapshotMeta)
_facts_decoder = msgspec.json.Decoder(SnapshotFacts)
_least_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class SnapshotStream:
    """The chunks of a snapshot of one cut. When they have been drawn, `digest` is that of the first `body_size` bytes,
    and `end` is what follows them."""

    def __init__(self, cut: Cut, *, store: str, incarnation: str) -> None:
        self._cut = cut
        self._store = store
        self._incarnation = incarnation
        self.digest = ""
        self.body_size = 0
        self.end = b""

    @property
    def size(self) -> int:
        return self.body_size + len(self.end)

    def __iter__(self) -> Iterator[bytes]:
        digest = sha256()
        part: list[bytes] = []
        held = 0
        at = 0
        for piece in self._pieces():
            part.append(piece)
            held += len(piece)
            if held >= _CHUNK:
                chunk = b"".join(part)
                digest.update(chunk)
                at += held
                yield chunk
                part.clear()
                held = 0
        chunk = b"".join(part)
        digest.update(chunk)
        self.digest = digest.hexdigest()
        self.body_size = at + held
        self.end = self._end()
        yield chunk + self.end

    def _pieces(self) -> Iterator[bytes]:
        cut = self._cut
        self._collections: dict[str, _EncodedIndex] = {}
        saved = datetime.fromtimestamp(cut.time / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
        head = b'%s%s",\n"seq":%d,\n"last_saved":"%s"' % (
            _BEGINNING,
            VERSION.encode(),
            cut.seq,
            saved.encode(),
        )
        yield head
        at = len(head)
        for name in dict.fromkeys((*SEED_COLLECTIONS, *sorted(cut.collections))):
            if name == MEMBERS:
                continue
            opening = b',\n"%s":[\n' % name.encode()
            yield opening
            at += len(opening)
            start, places, separator = at, _Places(), b""
            for id, entry in cut.collections.get(name, ()):
                document = entry.json()
                yield separator + document
                places.add(id, entry, len(document))
                at += len(separator) + len(document)
                separator = b",\n"
            yield b"\n]"
            at += 2
            self._collections[name] = _EncodedIndex(start, places.encoded())
        for id, entry in cut.collections.get(MEMBERS, ()):
            name_piece = b",\n%s:" % msgspec.json.encode(id)
            document = entry.json()
            yield name_piece + document
            at += len(name_piece)
            place = _Places()
            place.add(id, entry, len(document))
            self._collections[f"{MEMBERS}/{id}"] = _EncodedIndex(at, place.encoded())
            at += len(document)
        yield b","

    def _end(self) -> bytes:
        cut = self._cut
        meta = msgspec.json.encode(
            _EncodedMeta(
                store=self._store,
                incarnation=self._incarnation,
                seq=cut.seq,
                commit=cut.commit,
                time=cut.time,
                logs=cut.logs,
                changed=cut.changed,
                collections=self._collections,
                digest=self.digest,
            )
        )[:-1]
        return b'%s%s,"crc":"%08x"}\n}\n' % (MARK, meta, crc32(meta))


class _Places:
    """Where the documents of a collection are, encoded a run at a time: at once, every other thread would wait."""

    def __init__(self) -> None:
        self._run: list[_Place] = []
        self._encoded: list[bytes] = []

    def add(self, id: str, entry: Entry, length: int) -> None:
        self._run.append(_Place(id, entry.version, entry.modified, length))
        if len(self._run) == _RUN:
            self._encode()

    def encoded(self) -> msgspec.Raw:
        if self._run:
            self._encode()
        return msgspec.Raw(b"[%s]" % b",".join(self._encoded))

    def _encode(self) -> None:
        self._encoded.append(msgspec.json.encode(self._run)[1:-1])
        self._run.clear()


def is_ours(data: bytes) -> bool:
    """Whether these bytes claim to be a snapshot written by statepath, whole or not."""
    return data.startswith(_BEGINNING) or MARK in data


def read_meta(data: bytes, key: str) -> SnapshotMeta:
    """What the snapshot says of itself, once its bytes are known to be what was written.

    Raises:
        CorruptionError: the bytes are cut or altered, or a backup's name says that it shows another state; says where
            that was noticed.
        UnsupportedError: a newer program wrote it (`newer_format`).
    """
    meta, body = _split(data, key)
    _compare(meta, sha256(body).hexdigest(), key)
    check_shown(key, meta.time)
    return meta


def read_split(end: bytes, digest: str, key: str) -> SnapshotFacts:
    """As `read_meta`, of a snapshot's end from the mark on, and the digest of what came before; whatever its name."""
    meta, more = _end(end, key)
    if more:
        raise CorruptionError(f"{key} is damaged: it ends twice", key=key)
    with _as_damage(key):
        try:
            facts = _facts_decoder.decode(meta)
        except msgspec.MsgspecError:
            _check_format(meta, key)
            raise
    if facts.min_reader > FORMAT:
        raise newer_format(key, facts.min_reader)
    _compare(facts, digest, key)
    return facts


def load_snapshot(data: bytes, key: str) -> tuple[SnapshotMeta, Replica]:
    """The state that a snapshot holds, whatever its name says: which state that is, it tells itself.

    Raises:
        CorruptionError, UnsupportedError: as `read_meta`.
    """
    meta, body = _split(data, key)

    def digest() -> str:
        return sha256(body).hexdigest()

    with ThreadPoolExecutor(1) as beside:
        try:
            told: Callable[[], str] = handed(beside.submit, digest).result
        except RuntimeError:  # as in `in_thread`
            told = digest
        replica = _slice(data, meta)
        _compare(meta, told(), key)
    return meta, replica


def _split(data: bytes, key: str) -> tuple[SnapshotMeta, memoryview]:
    """The last member, checked, and the bytes that its digest is of."""
    meta, body = _end(data, key)
    with _as_damage(key):
        _check_format(meta, key)
        return _meta_decoder.decode(meta), body


@contextmanager
def _as_damage(key: str) -> Iterator[None]:
    """A last member that has its checksum is not always one of ours: whoever made it may have summed anything."""
    try:
        yield
    except (msgspec.MsgspecError, KeyError, ValueError, RecursionError) as error:
        raise CorruptionError(
            f"{key} is damaged: its last member is not what a snapshot has there: {error}", key=key
        ) from error


def _check_format(meta: bytes, key: str) -> None:
    if (needed := int(bytes(_least_decoder.decode(meta)["min_reader"]))) > FORMAT:
        raise newer_format(key, needed)


def _end(data: bytes, key: str) -> tuple[bytes, memoryview]:
    """The last member's bytes, once they match their checksum, and those that its digest is of."""
    mark = data.rfind(MARK)
    if mark < 0:
        raise CorruptionError(f"{key} is cut: its last member, _statepath, is missing", key=key)
    line = data[mark + len(MARK) :]
    meta, comma, check = line.rpartition(b',"crc":"')
    if not comma or check != b'%08x"}\n}\n' % crc32(meta):
        raise CorruptionError(f"{key} is damaged: its last member does not match its checksum", key=key)
    return meta + b"}", memoryview(data)[:mark]


def _compare(meta: SnapshotFacts, digest: str, key: str) -> None:
    if digest != meta.digest:
        raise CorruptionError(f"{key} is damaged: its documents do not match its digest", key=key)


def _slice(data: bytes, meta: SnapshotMeta) -> Replica:
    replica = Replica()
    replica.head, replica.commit, replica.time = meta.seq, meta.commit, meta.time
    replica.logs = dict(meta.logs)
    replica.changed = dict(meta.changed)
    replica.needs = meta.min_writer
    for name, index in meta.collections.items():
        at = index.start
        if name.startswith(f"{MEMBERS}/"):
            documents = replica.collections.setdefault(MEMBERS, {})
        else:
            documents = replica.collections.setdefault(name, {})
        for place in index.documents:
            end = at + place.length
            documents[place.id] = Entry(data[at:end], place.version, place.modified)
            at = end + 2
    return replica


def newer_format(key: str, needed: int) -> UnsupportedError:
    return UnsupportedError(
        f"{key} needs format {needed} and this program knows format {FORMAT}: "
        "install a newer statepath (pip install --upgrade statepath); nothing was changed",
        key=key,
        code="newer_format",
    )
