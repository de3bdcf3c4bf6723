"""Backends whose optional methods are missing, undeclared, or different from what the core expects."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from broken.sound import Keep, Sound, caught_by
from statepath.backend import ALWAYS, IF_ABSENT, ETag, IfMatch, LazyWrite, When
from statepath.errors import AlreadyExistsError, ConflictError


@caught_by("test_what_is_declared_is_implemented")
class CopiesByWord(Sound):
    copy = None  # type: ignore[assignment]


@caught_by("test_what_is_not_declared_is_refused", "test_a_copy_is_an_object_of_its_own")
class CopiesInSecret(Sound):
    capabilities = replace(Sound.capabilities, copy=False)


@caught_by("test_what_is_not_declared_is_refused")
class LogsInSecret(Sound):
    capabilities = replace(Sound.capabilities, commit_log=False)


@caught_by("test_accelerators_keep_to_readonly_and_close")
class CopiesForReaders(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        self._objects[target] = self._objects[source]
        return self._objects[source].etag


@caught_by("test_a_stream_is_written_as_one_object")
class StreamsUnconditionally(Sound):
    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await super().write_stream(key, chunks)


@caught_by("test_a_stream_is_written_as_one_object")
class LastChunk(Sound):
    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await super().write_stream(key, list(chunks)[-1:], when=when)


@caught_by("test_write_at_cuts_off_and_fills_gaps")
class KeepsWhatFollows(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        rest = self._objects[key].data[offset + len(data) :] if key in self._objects else b""
        await super().write_at(key, offset, data + rest, cut=cut)


@caught_by("test_write_at_cuts_off_and_fills_gaps")
class FillsWithZeros(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        stored = self._objects[key].data if key in self._objects else b""
        await super().write_at(key, offset, data)
        self.put(key, data=stored[:offset].ljust(offset, b"\0") + data)


@caught_by("test_write_at_changes_the_etag")
class KeepsTheEtag(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        etag = self._objects[key].etag
        await super().write_at(key, offset, data)
        self.put(key, etag=etag)


@caught_by("test_lazy_writes_replace_and_remove")
class NeverRemoves(Sound):
    async def write_lazily(self, items: Iterable[LazyWrite], *, keep: Keep | None = None) -> None:
        await super().write_lazily((item for item in items if item.data is not None), keep=keep)


@caught_by("test_a_lazy_write_has_the_time_it_was_given")
class TimeOfItsOwn(Sound):
    async def write_lazily(self, items: Iterable[LazyWrite], *, keep: Keep | None = None) -> None:
        for key, data, _ in items:
            await self.write(key, data or b"")


@caught_by("test_a_lazy_write_leaves_what_is_later_and_to_be_kept")
class AsksNobody(Sound):
    async def write_lazily(self, items: Iterable[LazyWrite], *, keep: Keep | None = None) -> None:
        await super().write_lazily(items)


@caught_by("test_write_at_leaves_what_follows_if_asked_to")
class AlwaysCuts(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        await super().write_at(key, offset, data)


@caught_by("test_a_copy_is_an_object_of_its_own")
class CopyFollows(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        self.follows = source, target
        return await super().copy(source, target, when=when)

    follows = ("", "")

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        etag = await super().write(key, data, when=when)
        if key == self.follows[0]:
            await super().write(self.follows[1], data)
        return etag


@caught_by("test_a_copy_is_an_object_of_its_own")
class CopiesNothing(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await self.write(target, self._objects[source].data if source in self._objects else b"")


@caught_by("test_a_copy_is_an_object_of_its_own")
class TellsTheSource(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        await super().copy(source, target, when=when)
        return self._objects[source].etag


@caught_by("test_a_copy_is_of_the_version_that_was_asked_for")
class CopiesUnconditionally(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await super().copy(source, target)


@caught_by("test_what_is_replaced_meanwhile_is_not_copied")
class LooksThenCopies(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        if isinstance(when, IfMatch) and (await self.read(source)).etag != when.etag:
            raise ConflictError("it is another version", key=source)
        await asyncio.sleep(0)
        return await super().copy(source, target)


@caught_by("test_free_space_is_a_number_of_bytes")
class FreeShare(Sound):
    async def free_bytes(self) -> int:
        return 0.75  # type: ignore[return-value]


@caught_by("test_a_stream_is_written_as_one_object")
class FirstParts(Sound):
    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await self.write(key, b"".join(chunks)[: 16 * 1024 * 1024], when=when)


@caught_by("test_one_of_many_streams_wins")
class LooksThenStreams(Sound):
    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        stored = self._objects.get(key)
        if when == IF_ABSENT and stored is not None:
            raise AlreadyExistsError("it exists", key=key)
        if isinstance(when, IfMatch) and (stored is None or stored.etag != when.etag):
            raise ConflictError("it is another version", key=key)
        await asyncio.sleep(0)
        return await super().write_stream(key, chunks)


@caught_by("test_what_several_write_at_once_is_all_there")
class ReadsThenWrites(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        stored = self._objects[key].data if key in self._objects else b""
        await asyncio.sleep(0)
        behind = b"" if cut else stored[offset + len(data) :]
        await self.write(key, stored[:offset].ljust(offset, b"\n") + data + behind)


@caught_by("test_many_lazy_writes_are_all_made")
class OneBatch(Sound):
    async def write_lazily(self, items: Iterable[LazyWrite], *, keep: Keep | None = None) -> None:
        await super().write_lazily(islice(items, 1000), keep=keep)


@caught_by("test_a_copy_is_an_object_of_its_own")
class CopiesTheFirstPart(Sound):
    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await self.write(target, (await self.read(source)).data[: 16 * 1024 * 1024])


@caught_by("test_write_at_cuts_off_and_fills_gaps")
class OneBuffer(Sound):
    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        await super().write_at(key, offset, data[: 1024 * 1024], cut=cut)
