"""The archive: documents that are done leave the live state for compressed segments that nothing changes any more.

A segment and its index are written and read back first; then one commit deletes the documents and names the segment, in
a member of `state.json`. So a document is live or archived, never neither; and a restore to before brings it back. What
an interrupted run has written has the same name when it is written again.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final

import msgspec
from msgspec import Raw
from pydantic import JsonValue

from statepath.backend import Backend
from statepath.commit import Change, Delete, Note, Put, Transaction, seal, unseal
from statepath.engine.adoption import view_id
from statepath.engine.aging import unhurried_now
from statepath.engine.backups import kept_keys
from statepath.engine.documents import decode, parse_untrusted
from statepath.engine.engine import Engine
from statepath.engine.history import Past, transactions
from statepath.engine.ids import document_key
from statepath.engine.members import make_way
from statepath.engine.migration import migrated, versions
from statepath.engine.replica import MEMBERS, Entry, Replica
from statepath.engine.snapshot import ARCHIVE_MEMBER, STATE_KEY, load_snapshot
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from statepath.events import DocumentsArchived
from statepath.filters import And, F, reader
from statepath.threads import in_thread

ARCHIVE: Final = "archive/"

_LOST: Final = "lost"
"""The kind of the note that tells which segment was given up."""

_DOCUMENTS: Final = 10_000
_BYTES: Final = 16 * 1024 * 1024
_SHARE: Final = 24
"""By this part of its age what is to be archived may be later, while more comes: each run writes a segment, and the
list of all of them anew."""

_LONGEST: Final = 24 * 3600.0
"""Seconds: the most of that."""

_ATTEMPTS: Final = 8
_TURN: Final = 256
_GZIP: Final = 31
_PIECE: Final = 1024 * 1024
_MOST: Final = 256 * 1024 * 1024
"""What a segment may be unpacked: it holds less, but for a single document of that size."""


class Segment(msgspec.Struct, frozen=True):
    """A segment, as the state names it.

    Attributes:
        name: a digest of the index and the bytes; sha256: that of the bytes.
        version: the schema version of the documents.
        newest: the time of the last change of any of them, in microseconds since 1970.
    """

    name: str
    collection: str
    sha256: str
    bytes: int
    documents: int
    version: int
    newest: int

    @property
    def key(self) -> str:
        return f"{ARCHIVE}{self.name}.jsonl.gz"

    @property
    def index_key(self) -> str:
        return f"{ARCHIVE}{self.name}.index.json"

    @property
    def keys(self) -> tuple[str, str]:
        return self.key, self.index_key


class Place(msgspec.Struct, array_like=True, frozen=True):
    """One document in a segment's index: its version, when it was changed last, and where it stands unpacked."""

    id: str
    version: int
    modified: int
    start: int
    length: int


class _Index(msgspec.Struct, frozen=True):
    documents: tuple[Place, ...]


_segments = msgspec.json.Decoder(tuple[Segment, ...])
_index = msgspec.json.Decoder(_Index)

Chosen = list[tuple[str, Entry]]


@dataclass(frozen=True, slots=True)
class Archived:
    """What was, or would be, archived: documents, their bytes, and the segments that they are in, with their bytes."""

    documents: int
    bytes: int
    segments: tuple[str, ...]
    compressed: int


def decode_segments(data: bytes) -> tuple[Segment, ...]:
    """The segments that the member of a state names."""
    return _segments.decode(data)


async def named(engine: Engine) -> set[Segment]:
    """The segments of every state to which there is a way back, by the history or by a state that is kept."""
    await engine.catch_up()  # the log may begin behind what this handle has seen
    kept = await named_by(engine.backend, (STATE_KEY, *await kept_keys(engine.backend)))
    return {*segments(engine.replica), *kept, *await committed(engine)}


async def named_by(backend: Backend, keys: Iterable[str]) -> set[Segment]:
    """The segments that the states under the keys name, as far as these can be read."""
    held: set[Segment] = set()
    for key in keys:
        try:
            held.update(segments(load_snapshot((await backend.read(key)).data, key)[1]))
        except (NotFoundError, CorruptionError):
            continue
    return held


async def committed(engine: Engine) -> set[Segment]:
    """The segments that the commits of the log name."""
    held: set[Segment] = set()
    async for _, _, changes in transactions(engine.backend, engine.log, await engine.look_back() - 1):
        for change in changes:
            if isinstance(change, Put) and (change.collection, change.id) == (MEMBERS, ARCHIVE_MEMBER):
                held.update(decode_segments(bytes(change.document)))
    return held


def segments(replica: Replica) -> tuple[Segment, ...]:
    """The segments that the state names, oldest first."""
    entry = replica.get(MEMBERS, ARCHIVE_MEMBER)
    return () if entry is None else decode_segments(entry.json())


async def choose(
    replica: Replica, collection: str, before: int, matches: Callable[[JsonValue], bool]
) -> Chosen:
    """The documents that match and were changed last before the time, in microseconds since 1970."""
    chosen: Chosen = []
    old = [
        (id, entry)
        for id, entry in replica.collections.get(collection, {}).items()
        if entry.modified < before
    ]
    for n, (id, entry) in enumerate(old):
        if n % _TURN == 0:
            await asyncio.sleep(0)  # saves go on meanwhile
        if matches(decode(entry.json(), f"{collection}/{id}")):
            chosen.append((id, entry))
    return chosen


async def archive(engine: Engine, collection: str, chosen: Chosen) -> Archived:
    """Move the documents into segments, a commit each. One that changes meanwhile stays live."""
    documents = size = compressed = 0
    names: list[str] = []
    for part in _parts(chosen):
        segment, moved = await _archive_part(engine, collection, part)
        if segment is not None:
            documents += len(moved)
            size += sum(entry.size for _, entry in moved)
            compressed += segment.bytes
            names.append(segment.key)
    return Archived(documents, size, tuple(names), compressed)


async def archive_by_rules(
    engine: Engine, *, dry_run: bool = False, gathering: bool = False
) -> list[Archived]:
    """What the settings say, rule by rule. `gathering`: what would make a small segment waits for more, as long as
    it may."""
    done: list[Archived] = []
    for rule in engine.settings.archive_rules:
        age = rule.older_than.total_seconds()
        before = round((unhurried_now() - age) * 1_000_000)
        matches = And(tuple(F(name) == value for name, value in rule.fields)).compile(reader)
        chosen = await choose(engine.replica, rule.collection, before, matches)
        late = before - round(min(age / _SHARE, _LONGEST) * 1_000_000)
        if gathering and len(_parts(chosen)) == 1 and all(entry.modified > late for _, entry in chosen):
            continue
        size = sum(entry.size for _, entry in chosen)
        done.append(
            Archived(len(chosen), size, (), 0) if dry_run else await archive(engine, rule.collection, chosen)
        )
    return done


def _parts(chosen: Chosen) -> list[Chosen]:
    parts: list[Chosen] = []
    held = _BYTES
    for id, entry in chosen:
        if held + entry.size > _BYTES or len(parts[-1]) >= _DOCUMENTS:
            parts.append([])
            held = 0
        parts[-1].append((id, entry))
        held += entry.size
    return parts


async def _archive_part(engine: Engine, collection: str, part: Chosen) -> tuple[Segment | None, Chosen]:
    for _ in range(_ATTEMPTS):
        replica = engine.replica
        part = [(id, entry) for id, entry in part if _is_still(replica, collection, id, entry)]
        if not part:
            break
        known = replica.get(MEMBERS, ARCHIVE_MEMBER)
        version = versions(replica).get(collection, 1)
        segment = await _write(engine.backend, collection, version, part)
        named = msgspec.json.encode((*segments(replica), segment))
        changes: list[Change] = [Delete(collection, id, entry.version) for id, entry in part]
        changes += [
            Put(MEMBERS, ARCHIVE_MEMBER, Raw(named), 0 if known is None else known.version),
            Note("archived", segment.key),
        ]
        try:
            seq = await engine.commit(changes)
        except ConflictError:
            continue
        engine.events.emit(DocumentsArchived(collection, len(part), segment.key, seq))
        return segment, part
    return None, []


def _is_still(replica: Replica, collection: str, id: str, entry: Entry) -> bool:
    now = replica.get(collection, id)
    return now is not None and now.version == entry.version


async def _write(backend: Backend, collection: str, version: int, part: Chosen) -> Segment:
    """Store a segment and its index, and read them back. What an interrupted run wrote long ago is written again, so
    that nobody cleans it away meanwhile."""
    data, index = await in_thread(partial(_pack, part))
    segment = Segment(
        _name(data, index),
        collection,
        sha256(data).hexdigest(),
        len(data),
        len(part),
        version,
        max(entry.modified for _, entry in part),
    )
    for key, content in ((segment.key, data), (segment.index_key, index)):
        await backend.write(key, content)
        if (await backend.read(key)).data != content:
            raise CorruptionError(f"{key} is not what had been written; the documents stay live", key=key)
    return segment


def _pack(part: Chosen) -> tuple[bytes, bytes]:
    """A segment of the documents, and its index."""
    packing = zlib.compressobj(6, zlib.DEFLATED, _GZIP)
    packed: list[bytes] = []
    places: list[Place] = []
    at = 0
    for id, entry in part:
        document = entry.json()
        places.append(Place(id, entry.version, entry.modified, at, len(document)))
        packed.append(packing.compress(document + b"\n"))
        at += len(document) + 1
    packed.append(packing.flush())
    return b"".join(packed), bytes(seal(_Index(tuple(places))))


def _name(data: bytes, index: bytes) -> str:
    return sha256(index + data).hexdigest()


async def read_index(backend: Backend, segment: Segment) -> tuple[Place, ...]:
    """What a segment holds.

    Raises:
        CorruptionError: the index is missing or altered.
    """
    return (await _index_of(backend, segment))[1]


async def _index_of(backend: Backend, segment: Segment) -> tuple[bytes, tuple[Place, ...]]:
    key = segment.index_key
    try:
        data = (await backend.read(key)).data
    except NotFoundError as error:
        raise CorruptionError(f"{key} is missing, and the state names it", key=key) from error
    except CorruptionError as error:
        raise CorruptionError(f"{key} is damaged: {error}", key=key) from error
    places = decode_index(data, key)
    if len(places) != segment.documents:
        raise CorruptionError(f"{key} is of another segment", key=key)
    return data, places


def decode_index(data: bytes, key: str) -> tuple[Place, ...]:
    """What an index says, whoever wrote it.

    Raises:
        CorruptionError: it was altered, or what it names is not what a segment has, one document behind the other.
    """
    try:
        places = _index.decode(unseal(data, "index")).documents
    except (CorruptionError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptionError(f"{key} is damaged: {error}", key=key) from error
    end = 0
    for place in places:
        if place.start != end or place.length < 0:
            raise CorruptionError(
                f"{key} is of no segment: {place.id!r} is not where it ought to be", key=key
            )
        end += place.length + 1
    if len(places) > 1 and end > _MOST:
        raise CorruptionError(f"{key} is of no segment: none holds {end:,} bytes", key=key)
    return places


async def read_segment(backend: Backend, segment: Segment) -> bytes:
    """A segment's bytes.

    Raises:
        CorruptionError: it is missing or altered.
    """
    try:
        data = (await backend.read(segment.key)).data
    except NotFoundError as error:
        raise CorruptionError(f"{segment.key} is missing, and the state names it", key=segment.key) from error
    if sha256(data).hexdigest() != segment.sha256:
        raise CorruptionError(f"{segment.key} does not match its digest", key=segment.key)
    return data


async def read_whole(backend: Backend, segment: Segment) -> tuple[tuple[str, bytes], ...]:
    """A segment and its index as they are stored, by key: what their name is made of.

    Raises:
        CorruptionError: one is missing or altered.
    """
    data = await read_segment(backend, segment)
    index, _ = await _index_of(backend, segment)
    return (segment.key, data), (segment.index_key, index)


async def documents(engine: Engine, collection: str | None = None) -> AsyncIterator[tuple[Segment, Place]]:
    """What is archived, the latest segment first. A document that was archived again is in several."""
    for segment in reversed(segments(engine.replica)):
        if collection is None or segment.collection == collection:
            for place in await read_index(engine.backend, segment):
                yield segment, place


async def find(engine: Engine, collection: str, id: str) -> tuple[Segment, bytes]:
    """A document of the archive, as it was last.

    Raises:
        NotFoundError: there is none of that name.
        CorruptionError: its segment is missing or altered.
        InvalidArgumentError: it is larger than documents may be.
    """
    for segment in reversed(segments(engine.replica)):
        if segment.collection != collection:
            continue
        for place in await read_index(engine.backend, segment):
            if place.id == id:
                data = await read_segment(engine.backend, segment)
                limit = engine.settings.max_document
                return segment, await in_thread(partial(_unpack, data, segment, place, limit))
    raise NotFoundError(f"the archive has no {collection}/{id}", key=f"archive/{collection}/{id}")


def _unpack(data: bytes, segment: Segment, place: Place, limit: int) -> bytes:
    """A document of a segment that anyone may have written: no more is held than the document."""
    key = f"{segment.collection}/{place.id}"
    if place.length > limit:
        raise InvalidArgumentError(
            f"{key} has {place.length:,} bytes in the archive, and the limit is {limit:,}; raise STATE_MAX_DOCUMENT",
            key=key,
        )
    document = bytearray()
    at, end = 0, place.start + place.length
    try:
        for piece in _pieces(data):
            document += piece[max(place.start - at, 0) : end - at]
            at += len(piece)
            if at >= end:
                break
    except zlib.error as error:
        raise CorruptionError(f"{segment.key} cannot be unpacked: {error}", key=segment.key) from error
    try:
        value = parse_untrusted(bytes(document), key=key, limit=limit)
    except InvalidArgumentError as error:
        raise CorruptionError(f"{segment.key}: {error}", key=segment.key) from error
    if not isinstance(value, dict) or view_id(document_key(segment.collection, place.id), value) != place.id:
        raise CorruptionError(
            f"{segment.key}: what stands there as {key} is not that document", key=segment.key
        )
    return bytes(document)


def _pieces(data: bytes) -> Iterator[bytes]:
    """What is packed, piece by piece, however much it is."""
    unpacking = zlib.decompressobj(_GZIP)
    for at in range(0, len(data), _PIECE):
        rest = data[at : at + _PIECE]
        while rest and not unpacking.eof:
            yield unpacking.decompress(rest, _PIECE)
            rest = unpacking.unconsumed_tail
    yield unpacking.flush()


async def bring_back(engine: Engine, collection: str, id: str) -> int:
    """Make a document of the archive live again, in the schema version of now; the seq. The archive keeps it, too.

    Raises:
        NotFoundError: the archive has none of that name.
        AlreadyExistsError: there is a live one.
        InvalidArgumentError: as `make_way`.
    """
    await engine.catch_up()  # another handle may have archived it, or deleted the live one
    segment, document = await find(engine, collection, id)
    now = versions(engine.replica).get(collection, 1)
    if segment.version != now:
        if engine.migrations is None or segment.version > now or engine.migrations.target(collection) != now:
            raise UnsupportedError(
                f"{collection}/{id} was archived in schema version {segment.version}, and the documents are of version "
                f"{now}: register the migrations between them",
                code="other_schema",
            )
        steps = engine.migrations.chain(collection, segment.version)
        document = migrated(collection, id, document, steps, engine.settings.max_document) or document
    if engine.replica.get(collection, id) is not None:
        raise AlreadyExistsError(f"{collection}/{id} is live; delete it first", key=f"{collection}/{id}")
    way = make_way(engine.replica, collection, engine.get(MEMBERS, collection))
    try:
        return await engine.commit([*way, Put(collection, id, Raw(document), 0)])
    except ConflictError as error:
        raise AlreadyExistsError(
            f"{collection}/{id} is live; delete it first", key=f"{collection}/{id}"
        ) from error


async def rebuild(engine: Engine, damaged: frozenset[str]) -> tuple[Segment, ...]:
    """Write those segments again that have a damaged key, from the states of right before they were archived, as far as
    the history has these. The others are returned, and the state names them no more: else nobody could copy it."""
    wanted = {
        segment.key: segment for segment in segments(engine.replica) if not damaged.isdisjoint(segment.keys)
    }
    floor, marks = await engine.look_back(), engine.record.snapshots
    head = engine.replica.head
    past = Past(engine.backend, engine.log, engine.store, engine.continues, head, floor, marks)
    async for _, seq, changes in transactions(engine.backend, engine.log, floor - 1):
        for change in changes:
            segment = wanted.get(change.text) if isinstance(change, Note) else None
            if segment is None:
                continue
            try:
                then = await past.at(seq - 1)
            except (HistoryTrimmedError, CorruptionError):
                continue  # there is no way back to it, so it is given up
            gone = [one for one in changes if isinstance(one, Delete)]
            part = [
                (one.id, entry) for one in gone if (entry := then.get(one.collection, one.id)) is not None
            ]
            data, index = await in_thread(partial(_pack, part))
            if _name(data, index) == segment.name:
                await engine.backend.write(segment.key, data)
                await engine.backend.write(segment.index_key, index)
                del wanted[segment.key]
    lost = tuple(wanted.values())
    if lost:
        await engine.decide(partial(_without, lost))
    return lost


def _without(lost: Sequence[Segment], replica: Replica) -> Transaction:
    named = segments(replica)
    left = [segment for segment in named if segment not in lost]
    if len(left) == len(named):
        return ()
    notes = [Note(_LOST, segment.key) for segment in lost]
    return (Put(MEMBERS, ARCHIVE_MEMBER, Raw(msgspec.json.encode(left))), *notes)


async def leave_out_lost(engine: Engine, then: Replica) -> None:
    """Let a state of before name no segment that was given up since, unless somebody has put it back."""
    entry = then.get(MEMBERS, ARCHIVE_MEMBER)
    named = segments(then)
    if entry is None or not named:
        return
    after = max(then.head, await engine.look_back() - 1)
    given_up = {
        change.text
        async for _, _, changes in transactions(engine.backend, engine.log, after)
        for change in changes
        if isinstance(change, Note) and change.kind == _LOST
    }
    left = [one for one in named if one.key not in given_up or await _is_whole(engine.backend, one)]
    if len(left) < len(named):
        then.set(MEMBERS, ARCHIVE_MEMBER, Entry(msgspec.json.encode(left), entry.version, entry.modified))


async def _is_whole(backend: Backend, segment: Segment) -> bool:
    try:
        await read_whole(backend, segment)
    except CorruptionError:
        return False
    return True


async def check(engine: Engine) -> AsyncIterator[tuple[str, StateError]]:
    """What is wrong with the archive, or cannot be read: keys and reasons."""
    for segment in segments(engine.replica):
        try:
            await read_index(engine.backend, segment)
            await read_segment(engine.backend, segment)
        except StateError as error:
            yield error.key or segment.key, error
