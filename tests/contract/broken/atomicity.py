"""Backends that show parts, forget, remember too long, or mix up their callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from broken.sound import Config, Sound, caught_by
from statepath.backend import ALWAYS, Blob, Entry, ETag, IfMatch, Span, When
from statepath.errors import UnavailableError

_cache: dict[tuple[str, str], Blob] = {}


@caught_by(
    "test_a_connection_sees_what_another_wrote", "test_any_sequence_of_operations_agrees_with_a_dictionary"
)
class ReadsAreCached(Sound):
    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.cache: dict[tuple[str, Span | None], Blob] = {}

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if (key, span) not in self.cache:
            self.cache[key, span] = await super().read(key, span=span)
        return self.cache[key, span]


@caught_by("test_a_finished_write_is_in_the_storage", "test_a_connection_sees_what_another_wrote")
class WritesAtTheEnd(Sound):
    """Keeps what is written to itself until it is closed."""

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.shared = self._objects
        if not readonly:
            self._objects = type(self.shared)()
            self._objects.update(self.shared)

    async def close(self) -> None:
        if not self.readonly and not self._closed:
            self.shared.clear()
            self.shared.update(self._objects)
        await super().close()


@caught_by("test_what_is_in_the_storage_is_read")
class RemembersForGood(Sound):
    """Knows what it wrote to a state path, and need not look."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        etag = await super().write(key, data, when=when)
        _cache[self.url, key] = self._objects[key]
        return etag

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if span is None and (self.url, key) in _cache:
            return _cache[self.url, key]
        return await super().read(key, span=span)


@caught_by("test_an_object_outlives_the_connection", "test_commits_outlive_the_connection")
class CleansUp(Sound):
    async def close(self) -> None:
        await super().close()
        self._objects.clear()


@caught_by(
    "test_no_reader_sees_a_part_of_a_write",
    "test_a_write_that_is_abandoned_is_whole_or_absent",
    "test_a_stream_that_breaks_leaves_what_was_there",
)
class InTwoSteps(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if len(data) < 2:
            return await super().write(key, data, when=when)
        etag = await super().write(key, data[: len(data) // 2], when=when)
        await asyncio.sleep(0)
        return await super().write(key, data, when=IfMatch(etag))

    async def write_stream(self, key, chunks, *, when=ALWAYS) -> ETag:  # type: ignore[no-untyped-def]
        etag = await super().write(key, b"", when=when)
        whole = b""
        for chunk in chunks:
            whole += chunk
            etag = await super().write(key, whole)
        return etag


@caught_by("test_a_read_that_is_abandoned_harms_no_other")
class BusyForEver(Sound):
    busy = False

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if self.busy:
            raise UnavailableError("a read is under way", key=key)
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return await super().read(key, span=span)


@caught_by("test_calls_at_once_do_not_mix")
class OneAtATime(Sound):
    key = ""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self.key = key
        await asyncio.sleep(0)
        return await super().write(self.key, data, when=when)


@caught_by("test_a_replace_after_an_abandoned_one_is_decided")
class EtagFirst(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if isinstance(when, IfMatch):
            when = IfMatch(await super().write(key, self._objects[key].data, when=when))
            await asyncio.sleep(0)
        return await super().write(key, data, when=when)


@caught_by("test_a_listing_shows_each_write_and_deletion_before_it", "test_a_listing_may_be_left_early")
class ListedSoon(Sound):
    """New objects are found at once, and listed a little later."""

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        newest = max((blob.modified for blob in self._objects.values()), default=None)
        with suppress(StopAsyncIteration):
            async for entry in super().list_keys(prefix, after=after):
                if self._objects[entry.key].modified != newest:
                    yield entry


@caught_by("test_no_reader_sees_a_part_of_a_write")
class SpanOfAnotherVersion(Sound):
    """Asks for the version, and then for the bytes."""

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        if span is None:
            return await super().read(key)
        etag = (await super().read(key)).etag
        await asyncio.sleep(0)
        return replace(await super().read(key, span=span), etag=etag)
