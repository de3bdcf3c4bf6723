"""Backends whose optional methods are missing, undeclared, or different from what the core expects."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from broken.sound import Keep, Sound, caught_by
from statepath.backend import ALWAYS, ETag, LazyWrite, When


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
    async def copy(self, source: str, target: str) -> None:
        self._objects[target] = self._objects[source]


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
    async def copy(self, source: str, target: str) -> None:
        await super().copy(source, target)
        self.follows = source, target

    follows = ("", "")

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        etag = await super().write(key, data, when=when)
        if key == self.follows[0]:
            await super().write(self.follows[1], data)
        return etag


@caught_by("test_a_copy_is_an_object_of_its_own")
class CopiesNothing(Sound):
    async def copy(self, source: str, target: str) -> None:
        await self.write(target, self._objects[source].data if source in self._objects else b"")


@caught_by("test_free_space_is_a_number_of_bytes")
class FreeShare(Sound):
    async def free_bytes(self) -> int:
        return 0.75  # type: ignore[return-value]
