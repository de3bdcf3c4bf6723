"""Backends that do not keep the bytes, the ETag or the key."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from itertools import count
from urllib.parse import unquote

from broken.sound import EPOCH, Sound, caught_by
from statepath.backend import ALWAYS, Blob, ETag, Span, When
from statepath.errors import NotFoundError
from statepath.memory import MemoryBackend


@caught_by("test_what_is_written_is_read")
class NotBytes(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        return replace(blob, data=bytearray(blob.data))  # type: ignore[arg-type]


@caught_by("test_a_write_replaces_the_whole_object")
class OverwritesInPlace(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        rest = self._objects[key].data[len(data) :] if key in self._objects else b""
        return await super().write(key, data + rest, when=when)


@caught_by("test_an_empty_object_exists")
class EmptyIsMissing(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        if not blob.data:
            raise NotFoundError("nothing there", key=key)
        return blob


@caught_by("test_a_large_object_is_whole")
class OnePartOfMany(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(key, data[: 5 * 1024 * 1024], when=when)


@caught_by("test_an_object_over_the_limit_is_refused")
class LimitByWord(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await MemoryBackend.write(self, key, data, when=when)


@caught_by("test_a_missing_object_is_not_found")
class MissingIsEmpty(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if key not in self._objects:
            return Blob(b"", ETag(""), EPOCH)
        return await super().read(key, span=span)


@caught_by("test_a_missing_object_is_not_found")
class RaisesKeyError(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return self._objects[key]


@caught_by("test_a_span_is_the_slice")
class SpanWithItsStop(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if span is not None and span.stop is not None:
            span = Span(span.start, span.stop + 1)
        return await super().read(key, span=span)


@caught_by("test_a_span_is_the_slice")
class SpanAsAView(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        return blob if span is None else replace(blob, data=memoryview(blob.data))  # type: ignore[arg-type]


@caught_by("test_a_span_is_the_slice")
class SpanLost(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await super().read(key)


@caught_by("test_a_span_of_a_missing_object_is_not_found")
class SpanOfNothing(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if span is not None and key not in self._objects:
            return Blob(b"", ETag(""), EPOCH)
        return await super().read(key, span=span)


@caught_by("test_every_write_has_its_own_etag", "test_replace_refuses_a_version_with_the_same_bytes")
class HashAsEtag(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        await super().write(key, data, when=when)
        self.put(key, etag=ETag(hashlib.sha256(data).hexdigest()))
        return self._objects[key].etag


@caught_by("test_every_write_has_its_own_etag", "test_any_sequence_of_operations_agrees_with_a_dictionary")
class VersionStartsAnew(Sound):
    """A deleted object takes its count of versions with it."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        before = self._objects[key].etag if key in self._objects else ETag("0")
        await super().write(key, data, when=when)
        self.put(key, etag=ETag(str(int(before) + 1)))
        return self._objects[key].etag


@caught_by("test_reading_leaves_the_etag", "test_what_is_written_is_read")
class EtagOfTheAnswer(Sound):
    answers = count()

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        return replace(blob, etag=ETag(f"{blob.etag}-{next(self.answers)}"))


@caught_by("test_modified_is_in_utc")
class NaiveTime(Sound):
    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        return replace(blob, modified=blob.modified.replace(tzinfo=None))


@caught_by("test_delete_tells_whether_there_was_an_object")
class DeletesBlindly(Sound):
    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        await super().delete(key, when=when)
        return True


@caught_by("test_keys_are_kept_as_they_are")
class IgnoresCase(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(key.lower(), data, when=when)

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await super().read(key.lower(), span=span)


@caught_by("test_keys_are_kept_as_they_are")
class DecodesKeys(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(unquote(key), data, when=when)

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await super().read(unquote(key), span=span)


@caught_by("test_modified_is_in_utc")
class LocalTime(Sound):
    """Takes what a clock on the wall shows for UTC."""

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        blob = await super().read(key, span=span)
        return replace(blob, modified=blob.modified + timedelta(hours=1))
