"""Backends whose listings leave out, repeat, or mislead."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from broken.sound import Config, Sound, caught_by
from statepath.backend import ALWAYS, Entry, ETag, When
from statepath.errors import NotFoundError, UnavailableError


class Listing(Sound):
    """Lists what `entries` says."""

    def entries(self, prefix: str, after: str) -> list[Entry]:
        return [
            Entry(key, len(blob.data), blob.modified.timestamp())
            for key, blob in sorted(self._objects.items())
            if key.startswith(prefix) and key > after
        ]

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self._check_open(prefix)
        for entry in self.entries(prefix, after):
            yield entry


@caught_by("test_a_listing_is_in_byte_order")
class ByFolder(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return sorted(super().entries(prefix, after), key=lambda entry: entry.key.split("/"))


@caught_by("test_a_listing_is_in_byte_order")
class ByTheAlphabet(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return sorted(super().entries(prefix, after), key=lambda entry: entry.key.lower())


@caught_by("test_a_listing_is_in_byte_order", "test_any_sequence_of_operations_agrees_with_a_dictionary")
class AsTheyCame(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        order = list(self._objects)
        return sorted(super().entries(prefix, after), key=lambda entry: order.index(entry.key))


@caught_by("test_an_empty_store_lists_nothing")
class NoFolder(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        if not self._objects:
            raise NotFoundError("no such folder", key=prefix)
        return super().entries(prefix, after)


@caught_by("test_a_prefix_is_compared_byte_by_byte")
class PrefixAsPattern(Listing):
    """What SQL's LIKE does: it ignores case, `_` is any character, and `%` any number of them."""

    def entries(self, prefix: str, after: str) -> list[Entry]:
        pattern = re.escape(prefix).replace("_", ".").replace("%", ".*")
        entries = super().entries("", after)
        return [entry for entry in entries if re.match(pattern, entry.key, re.IGNORECASE)]


@caught_by("test_a_prefix_is_compared_byte_by_byte")
class PrefixIsAFolder(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        folder = prefix.rpartition("/")[0]
        return [entry for entry in super().entries(prefix, after) if entry.key.rpartition("/")[0] == folder]


@caught_by("test_a_listing_begins_after_the_key_that_is_named")
class FromTheKey(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return [entry for entry in super().entries(prefix, "") if entry.key >= after]


@caught_by("test_a_listing_goes_on_across_pages")
class FirstPage(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return super().entries(prefix, after)[:1000]


@caught_by("test_a_listing_goes_on_across_pages")
class PagesOverlap(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        entries = super().entries(prefix, after)
        return entries[:1000] + entries[999:] if len(entries) > 1000 else entries


@caught_by("test_an_entry_tells_size_and_time")
class NoSizes(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return [replace(entry, size=0) for entry in super().entries(prefix, after)]


@caught_by("test_an_entry_tells_size_and_time")
class Milliseconds(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return [replace(entry, modified=entry.modified * 1000) for entry in super().entries(prefix, after)]


@caught_by("test_a_listing_shows_each_write_and_deletion_before_it")
class ListingsAreCached(Listing):
    def __init__(self, config, *, readonly=False) -> None:  # type: ignore[no-untyped-def]
        super().__init__(config, readonly=readonly)
        self.cache: dict[tuple[str, str], list[Entry]] = {}

    def entries(self, prefix: str, after: str) -> list[Entry]:
        return self.cache.setdefault((prefix, after), super().entries(prefix, after))


@caught_by("test_a_listing_lists_once_what_stays")
class PagesByNumber(Listing):
    """Asks for the tenth to the twentieth, and so on, while others come and go before them."""

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        start = 0
        while page := self.entries(prefix, after)[start : start + 10]:
            for entry in page:
                yield entry
            start += 10
            await asyncio.sleep(0)


@caught_by("test_a_listing_lists_once_what_stays")
class RewritingIsMoving(Listing):
    """An object that is replaced is missing for a moment."""

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        if when == ALWAYS and key in self._objects:
            await self.delete(key)
            await asyncio.sleep(0)
        return await super().write(key, data, when=when)


@caught_by("test_a_listing_may_be_left_early")
class BusyUntilTheEnd(Listing):
    listing = False

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        if self.listing:
            raise UnavailableError("a listing is under way")
        self.listing = True
        for entry in self.entries(prefix, after):
            yield entry
        self.listing = False


@caught_by("test_a_listing_goes_on_across_pages")
class TwoPages(Listing):
    def entries(self, prefix: str, after: str) -> list[Entry]:
        return super().entries(prefix, after)[:2000]


@caught_by("test_a_listing_goes_on_though_what_it_listed_is_deleted")
class LargePagesByNumber(Listing):
    """Asks for the thousandth to the two thousandth, and so on."""

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        start = 0
        while page := self.entries(prefix, after)[start : start + 1000]:
            for entry in page:
                yield entry
            start += 1000


@caught_by("test_a_change_has_a_later_time")
class TellsWhenItWasCreated(Sound):
    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        before = self._objects.get(key)
        etag = await super().write(key, data, when=when)
        if before is not None:
            self.put(key, modified=before.modified)
        return etag


@caught_by("test_listings_at_once_do_not_mix")
class OneCursor(Listing):
    """Goes on with the listing that was begun last."""

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self._check_open(prefix)
        self.cursor = iter(self.entries(prefix, after))
        while (entry := next(self.cursor, None)) is not None:
            yield entry


@caught_by("test_listings_at_once_do_not_mix")
class AConnectionEach(Listing):
    """Holds one of ten connections from its first entry to its last."""

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(config, readonly=readonly)
        self.connections = asyncio.Semaphore(10)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self._check_open(prefix)
        async with self.connections:
            for entry in self.entries(prefix, after):
                yield entry
