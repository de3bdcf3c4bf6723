"""A backend whose objects are sealed: a wrapper over any backend.

All but two kinds of objects are: the key ring, whose keys are wrapped already, and the slots of the journal, whose
records are sealed by `seal_log`. What a storage could do with the content itself (find documents, append to a
file, let people edit one) it cannot do with what is sealed, and the wrapper does not offer it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Final, TypeVar, cast

from statepath.aside import key_before, why_aside
from statepath.backend import (
    ALWAYS,
    Backend,
    Blob,
    CommitLog,
    Entry,
    ETag,
    IfMatch,
    LazyWrite,
    Span,
    SupportsCommitLog,
    SupportsCopy,
    SupportsLazyWrites,
    SupportsSpace,
    SupportsStreams,
    When,
)
from statepath.commit import FLOOR_KEY, JOURNAL
from statepath.compression import pack, pack_all, unpack
from statepath.encryption import RING_KEY
from statepath.encryption.journal import seal_log
from statepath.encryption.keyring import Keys
from statepath.encryption.sealing import (
    HEADER,
    SEGMENT,
    STORED,
    DataKey,
    Sealing,
    content_size,
    key_of,
    open_all,
    open_from,
    seal_all,
)
from statepath.errors import ConflictError, CorruptionError, NotFoundError, StateError, UnsupportedError
from statepath.layout import is_document, is_ours
from statepath.sharing import PassesSharing
from statepath.threads import in_thread

T = TypeVar("T")

_AS_THEY_ARE: Final = ("logs/", "archive/", JOURNAL)
_MOST: Final = 16 * 1024**3
"""What a compressed object may hold."""

_LARGE: Final = 512 * 1024
"""More bytes than these are sealed and opened in a worker thread."""

_NEVER: Final = (ETag(""), ETag(""))
_PIECE: Final = 64 * SEGMENT


def is_sealed_key(key: str) -> bool:
    """Whether the object of that key is sealed as a whole."""
    return key != RING_KEY and (key == FLOOR_KEY or not key.startswith(JOURNAL))


def is_of_store(key: str, sealed_with: str | None, ids: Collection[str]) -> bool:
    """Whether an object is one of the encrypted store with the keys of these ids. Where a document's file would be, it
    is one only if they sealed it: the rest may be anybody's, or of a store in a folder of this one."""
    return sealed_with in ids if is_document(key) else is_ours(key)


def place_of(key: str) -> str:
    """What the object is, which is sealed with it. `state.json` and its backups are one place, since they are copied
    over each other; an object that was kept aside is what it was."""
    key = key_before(key)
    return "state" if key.startswith("state.") and key.endswith(".json") else key


class SealedBackend(PassesSharing):
    """The backend with its objects sealed.

    Parameters:
        backend: keeps them.
        keys: those of the store.
        packs: whether new objects are compressed before. Those that are there are read, whichever they are.
    """

    def __init__(self, backend: Backend, keys: Keys, *, packs: bool = False) -> None:
        can = backend.capabilities
        largest = can.max_object_bytes
        self.capabilities = replace(
            can,
            editable=False,
            append=False,
            queries=False,
            documents=False,
            copy=True,
            max_object_bytes=None if largest is None else content_size(largest),
        )
        self.url = backend.url
        self.keys = keys
        self._backend = backend
        self._packs = packs
        self._unpacked: tuple[str, ETag, bytes] | None = None
        self._recent: tuple[str, ETag, Sealing] | None = None
        self._resealed: dict[str, tuple[ETag, ETag]] = {}

    @property
    def inner(self) -> Backend:
        """The backend as it is below the sealing."""
        return self._backend

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        """As `Backend.read`.

        Raises:
            CorruptionError: the object is not sealed, or not what was written there.
        """
        if not is_sealed_key(key):
            return await self._backend.read(key, span=span)
        if span is not None:
            blob, packed = await self._read_span(key, span.start, span.stop)
            return self._shown(key, await self._of_packed(key, blob, span) if packed else blob)
        blob = await self._backend.read(key)
        return self._shown(key, replace(blob, data=await self._content(key, blob.data)))

    async def look(self, key: str) -> tuple[bytes | None, ETag]:
        """As `Encrypted.look`."""
        blob = await self._backend.read(key)
        shown = self._shown(key, blob).etag
        try:
            return (await self._content(key, blob.data) if is_sealed_key(key) else blob.data), shown
        except CorruptionError:
            await self.check_keys()
            return None, shown

    async def check_keys(self) -> None:
        """As `Encrypted.check_keys`."""
        await self.keys.check_ours()
        try:
            ids = {await self.key_of(key) for key in (FLOOR_KEY, "state.json")}
        except NotFoundError:
            return
        if len(ids) > 1 or (id := ids.pop()) is None:
            return
        # No damage makes two objects name the same other key.
        try:
            await self.keys.find(id, FLOOR_KEY)
        except CorruptionError as error:
            raise CorruptionError(
                f"{RING_KEY} does not have the key {id[:8]}…, which {FLOOR_KEY} and state.json were both sealed with: "
                "it is an older copy or another store's, or those two are copies from before that key was retired; "
                "nothing was changed: put back the newest copy of it that has the key",
                key=RING_KEY,
            ) from error

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if not is_sealed_key(key):
            return await self._backend.write(key, data, when=when)
        sealing = await self._new_sealing(key)
        sealed = await _beside(len(data), lambda: _sealed(sealing, data))
        return await self._written(key, self._backend.write(key, sealed, when=self._meant(key, when)))

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        gone = await self._backend.delete(key, when=self._meant(key, when))
        self._resealed.pop(key, None)
        return gone

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        """As `Backend.list_keys`; the key ring is not one of the store's objects. The size of one that is compressed is
        that of what is sealed."""
        async for entry in self._backend.list_keys(prefix, after=after):
            if is_sealed_key(entry.key):
                yield replace(entry, size=content_size(entry.size))
            elif entry.key != RING_KEY:
                yield entry

    async def close(self) -> None:
        try:
            await self.keys.close()
        finally:
            await self._backend.close()

    # What may be declared beside; the flags in `capabilities` say what is.

    def commit_log(self) -> CommitLog:
        """The native log, whose records are not sealed by this wrapper."""
        return cast("SupportsCommitLog", self._able("commit_log")).commit_log()

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        backend = cast("SupportsStreams", self._able("streams"))
        sealing = await self._new_sealing(key)
        sealed = seal_all(sealing, pack_all(chunks) if sealing.packed else chunks)
        return await self._written(key, backend.write_stream(key, sealed, when=self._meant(key, when)))

    async def write_lazily(
        self, items: Iterable[LazyWrite], *, keep: Callable[[str, bytes], bool] | None = None
    ) -> None:
        """As `SupportsLazyWrites.write_lazily`. What cannot be opened is not kept."""
        backend = cast("SupportsLazyWrites", self._able("lazy_writes"))
        key = await self.keys.primary()

        def sealed() -> Iterator[LazyWrite]:
            for item in items:
                data = item.data
                if data is not None:
                    data = _sealed(self._sealing_with(key, item.key, packed=self._is_packed(item.key)), data)
                yield item._replace(data=data)

        def kept(key: str, data: bytes) -> bool:
            assert keep is not None  # noqa: S101 - or this is not asked
            id = key_of(data)
            data_key = None if id is None else self.keys.known(id)
            if data_key is None:
                return id is not None  # a newer key than this handle knows
            try:
                sealing = Sealing.of(data_key, self.keys.store, place_of(key), data[:HEADER])
                return keep(key, _opened(sealing, data))
            except CorruptionError:
                return False

        await backend.write_lazily(sealed(), keep=None if keep is None else kept)

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        """As `SupportsCopy.copy`: within one place the sealed bytes as they are, which need not be sound."""
        backend = self._backend
        if place_of(source) != place_of(target):
            return await self.write(target, _wanted(source, await self.read(source), when))
        when = self._meant(source, when)
        if backend.capabilities.copy and isinstance(backend, SupportsCopy):
            copying = backend.copy(source, target, when=when)
        else:
            copying = backend.write(target, _wanted(source, await backend.read(source), when))
        return await self._written(target, copying)

    async def free_bytes(self) -> int:
        return await cast("SupportsSpace", self._able("space")).free_bytes()

    async def key_of(self, key: str) -> str | None:
        """The id of the data key that an object is sealed with; `None`: it is plain."""
        return key_of((await self._backend.read(key, span=Span(0, HEADER))).data)

    async def reseal(self, key: str) -> None:
        """Seal an object anew, with the primary key, unless it is replaced meanwhile. For the users of this handle it
        stays the version that it was.

        Raises:
            ConflictError: it was replaced meanwhile. CorruptionError: it is not what was written.
        """
        backend = self._backend
        first, packed = await self._read_span(key, 0, _PIECE)
        sealing = self._sealing_with(await self.keys.primary(), key, packed=packed)
        when = IfMatch(first.etag)
        if len(first.data) < _PIECE:
            etag = await backend.write(key, b"".join(seal_all(sealing, (first.data,))), when=when)
        elif backend.capabilities.streams and isinstance(backend, SupportsStreams):
            chunks = self._drawn(key, first, asyncio.get_running_loop())
            etag = await backend.write_stream(key, seal_all(sealing, chunks), when=when)
        else:
            whole, _ = await self._read_span(key, 0, None)
            sealed = await in_thread(lambda: b"".join(seal_all(sealing, (whole.data,))))
            etag = await backend.write(key, sealed, when=when)
        shown = self._shown(key, first).etag
        self._resealed[key] = (etag, shown)

    async def altered(self) -> AsyncIterator[tuple[str, StateError]]:
        """As `Encrypted.altered`. What was kept aside because it is damaged is not told again."""
        async for entry in self._backend.list_keys(""):
            key, at = entry.key, 0
            if not is_sealed_key(key) or why_aside(key) == "corrupt":
                continue
            try:
                id = await self.key_of(key) if is_document(key) else None
                if not is_of_store(key, id, self.keys.ring.ids):
                    continue
                while (await self._read_span(key, at, at + _PIECE))[0].data:
                    at += _PIECE
            except NotFoundError:
                continue
            except StateError as error:
                yield key, error

    def seal_log(self, log: CommitLog) -> CommitLog:
        """As `Encrypted.seal_log`."""
        return seal_log(log, self.keys, packs=self._packs)

    def seal_beside(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """As `Encrypted.seal_beside`: with the primary key as it was known last, since the storage may be gone."""
        return seal_all(self._sealing_with(self.keys.newest, "state.json"), chunks)

    def _able(self, what: str) -> Backend:
        """The backend below, if it declares that it can do this."""
        if not getattr(self.capabilities, what):
            raise UnsupportedError(f"the backend of {self.url} has no {what.replace('_', ' ')}")
        return self._backend

    def _drawn(self, key: str, first: Blob, loop: asyncio.AbstractEventLoop) -> Iterator[bytes]:
        """The content of an object, a piece at a time; in a worker thread."""
        yield first.data
        at = len(first.data)
        while True:
            reading = asyncio.run_coroutine_threadsafe(self._read_span(key, at, at + _PIECE), loop)
            piece, _ = reading.result()
            if piece.etag != first.etag:
                return  # it was replaced, and the condition of the write will say so
            if not piece.data:
                return
            yield piece.data
            at += len(piece.data)

    async def _of_packed(self, key: str, part: Blob, span: Span) -> Blob:
        """A part of an object that is compressed, and so read as a whole; it is kept until its end was asked for."""
        held = self._unpacked
        if held is None or held[:2] != (key, part.etag):
            whole, _ = await self._read_span(key, 0, None)
            data = await _beside(len(whole.data), lambda: _checked(key, lambda: unpack(whole.data, _MOST)))
            held = self._unpacked = key, whole.etag, data
        if span.stop is None or span.stop >= len(held[2]):
            self._unpacked = None
        return Blob(held[2][span.start : span.stop], held[1], part.modified)

    async def _read_span(self, key: str, start: int, stop: int | None) -> tuple[Blob, bool]:
        """A part of what is sealed, and whether that is compressed."""
        number, end = start // SEGMENT, None if stop is None else -(-max(stop, start + 1) // SEGMENT)
        begin = HEADER + number * STORED
        # One byte more tells whether the object ends there.
        span = Span(begin, None if end is None else HEADER + end * STORED + 1)
        while True:
            etag, sealing = await self._recent_sealing(key)
            blob = await self._backend.read(key, span=span)
            if blob.etag == etag:
                break
            self._recent = None
        data = blob.data
        if not data and number:
            return Blob(b"", blob.etag, blob.modified), sealing.packed
        whole = end is None or len(data) <= (end - number) * STORED
        content = await _beside(
            len(data), lambda: _checked(key, lambda: open_from(sealing, number, data, whole=whole))
        )
        offset = number * SEGMENT
        content = content[start - offset : None if stop is None else max(stop, start) - offset]
        return Blob(content, blob.etag, blob.modified), sealing.packed

    async def _content(self, key: str, stored: bytes) -> bytes:
        """What a whole object holds."""
        sealing = await self._sealing(key, stored[:HEADER])
        return await _beside(len(stored), lambda: _checked(key, lambda: _opened(sealing, stored)))

    async def _recent_sealing(self, key: str) -> tuple[ETag, Sealing]:
        """A version of the object, and its sealing: mostly of what was read last; else its header is read first."""
        recent = self._recent
        if recent is None or recent[0] != key:
            header = await self._backend.read(key, span=Span(0, HEADER))
            recent = self._recent = key, header.etag, await self._sealing(key, header.data)
        return recent[1:]

    async def _sealing(self, key: str, header: bytes) -> Sealing:
        id = key_of(header)
        if id is None:
            raise CorruptionError(
                f"{key} is not sealed, and this store is encrypted: it was cut or altered, or put there by another",
                key=key,
            )
        data_key = await self.keys.find(id, key)
        return _checked(key, lambda: Sealing.of(data_key, self.keys.store, place_of(key), header))

    async def _new_sealing(self, key: str) -> Sealing:
        return self._sealing_with(await self.keys.primary(), key, packed=self._is_packed(key))

    def _sealing_with(self, key: DataKey, where: str, *, packed: bool = False) -> Sealing:
        return Sealing.new(key, self.keys.store, place_of(where), packed=packed)

    def _is_packed(self, key: str) -> bool:
        """Whether a new object is compressed. Listings have to tell the sizes of logs, and segments are packed."""
        return self._packs and not key.startswith(_AS_THEY_ARE)

    def _shown(self, key: str, blob: Blob) -> Blob:
        stored, shown = self._resealed.get(key, _NEVER)
        return replace(blob, etag=shown) if blob.etag == stored else blob

    def _meant(self, key: str, when: When) -> When:
        """The condition in terms of what is stored."""
        if isinstance(when, IfMatch):
            stored, shown = self._resealed.get(key, _NEVER)
            return IfMatch(stored) if when.etag == shown else when
        return when

    async def _written(self, key: str, writing: Awaitable[ETag]) -> ETag:
        etag = await writing
        self._resealed.pop(key, None)
        return etag


def _wanted(key: str, blob: Blob, when: When) -> bytes:
    """What was read, if it is the version that was asked for."""
    if isinstance(when, IfMatch) and blob.etag != when.etag:
        raise ConflictError(f"{key} is not the version that was asked for", key=key)
    return blob.data


def _sealed(sealing: Sealing, data: bytes) -> bytes:
    return b"".join(seal_all(sealing, (pack(data) if sealing.packed else data,)))


def _opened(sealing: Sealing, data: bytes) -> bytes:
    content = open_all(sealing, data)
    return unpack(content, _MOST) if sealing.packed else content


def _checked(key: str, opening: Callable[[], T]) -> T:
    try:
        return opening()
    except CorruptionError as error:
        raise CorruptionError(f"{key} cannot be opened: {error}", key=key) from error


async def _beside(size: int, work: Callable[[], T]) -> T:
    return await in_thread(work) if size > _LARGE else work()
