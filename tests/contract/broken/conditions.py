"""Backends that do not keep to the condition, or check it at another moment than they write."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import ClassVar

from broken.sound import Sound, caught_by
from statepath.backend import ALWAYS, IF_ABSENT, Blob, ETag, IfAbsent, IfMatch, Span, When
from statepath.errors import AlreadyExistsError, ConflictError


@caught_by("test_create_refuses_what_exists", "test_one_of_many_creates_wins")
class CreateReplaces(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(key, data, when=ALWAYS if when == IF_ABSENT else when)


@caught_by("test_create_takes_the_place_of_what_was_deleted")
class Tombstones(Sound):
    def __init__(self, config, *, readonly=False) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config, readonly=readonly)
        self.deleted: set[str] = set()

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self.deleted.add(key)
        return await super().delete(key, when=when)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if when == IF_ABSENT and key in self.deleted:
            raise AlreadyExistsError("there is a tombstone", key=key)
        return await super().write(key, data, when=when)


@caught_by("test_replace_takes_the_version_that_is_stored")
class NeverMatches(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(
            key, data, when=IfMatch(ETag(f'"{when.etag}"')) if isinstance(when, IfMatch) else when
        )


@caught_by(
    "test_replace_refuses_another_version",
    "test_replace_refuses_what_is_missing",
    "test_one_of_many_replaces_wins",
    "test_no_replace_is_lost",
)
class MatchIgnored(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(key, data, when=ALWAYS if isinstance(when, IfMatch) else when)


@caught_by("test_replace_refuses_what_is_missing")
class MatchesNothing(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if isinstance(when, IfMatch) and key not in self._objects:
            when = ALWAYS
        return await super().write(key, data, when=when)


@caught_by("test_delete_takes_only_the_version_it_names")
class DeletesAnyVersion(Sound):
    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await super().delete(key)


@caught_by("test_a_refused_change_creates_nothing")
class PlaceholderFirst(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if isinstance(when, IfMatch) and key not in self._objects:
            self.put(key)
            raise ConflictError("it is not that version", key=key)
        return await super().write(key, data, when=when)


@caught_by(
    "test_one_of_many_creates_wins",
    "test_one_of_many_replaces_wins",
    "test_no_replace_is_lost",
    "test_who_loses_a_place_takes_the_next",
    "test_one_of_many_appends_wins",
)
class ChecksThenWrites(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self._check_writable(key)
        stored = self._objects.get(key)
        await asyncio.sleep(0)
        if isinstance(when, IfAbsent) and stored is not None:
            raise AlreadyExistsError("it exists", key=key)
        if isinstance(when, IfMatch) and (stored is None or stored.etag != when.etag):
            raise ConflictError("it is not that version", key=key)
        return await super().write(key, data)


@caught_by("test_one_of_many_deletions_wins", "test_a_deletion_and_a_replace_do_not_both_win")
class ChecksThenDeletes(Sound):
    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self._check_writable(key)
        stored = self._objects.get(key)
        if isinstance(when, IfMatch) and stored is not None and stored.etag != when.etag:
            raise ConflictError("it is not that version", key=key)
        await asyncio.sleep(0)
        self._objects.pop(key, None)
        return stored is not None


@caught_by("test_one_of_many_large_writes_wins")
class InPartsUnconditionally(Sound):
    """What is written in parts is put together whatever is there by then."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await super().write(key, data, when=ALWAYS if len(data) > 16 * 1024 * 1024 else when)


@caught_by("test_of_many_writes_at_once_each_is_given_its_own_etag")
class AsksForTheEtag(Sound):
    """Another may have written between the write and the question."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        await super().write(key, data, when=when)
        await asyncio.sleep(0)
        return (await self.read(key)).etag


@caught_by("test_what_a_person_changed_is_read_and_not_replaced")
class RemembersWhatItWrote(Sound):
    """Gives what its process has written itself from memory."""

    capabilities = replace(Sound.capabilities, editable=True)
    written: ClassVar[dict[tuple[str, str], Blob]] = {}

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        etag = await super().write(key, data, when=when)
        self.written[self.config.name, key] = await super().read(key)
        return etag

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        known = self.written.get((self.config.name, key))
        return known if span is None and known is not None else await super().read(key, span=span)


_turn = asyncio.Lock()


@caught_by("test_connections_of_two_event_loops_lose_nothing_of_each_other")
class TakesTurnsInOneLoop(Sound):
    """All connections share a lock, and the lock is the first loop's that had to wait for it."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        async with _turn:
            await asyncio.sleep(0.001)
            return await super().write(key, data, when=when)
