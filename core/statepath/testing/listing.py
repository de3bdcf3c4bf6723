"""Checks of listings: order, pages, prefixes, `after`, and what happens meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack, aclosing, suppress
from typing import Any, cast

from statepath.backend import Backend
from statepath.errors import ThrottledError
from statepath.testing.meanwhile import meanwhile
from statepath.testing.patience import soon
from statepath.testing.subject import Subject

SORTS_AWKWARDLY = (
    "a%b",
    "a-/x",
    "a-b/x",
    "a.b/x",
    "a./x",
    "a/A",
    "a/_",
    "a/a",
    "a/a.b",
    "a/ac/b/c",
    "a/ab",
    "a/x",
    "a0/x",
    "aB/x",
    "a_b/x",
    "aa/x",
    "a~/x",
    "A/x",
    "B",
    "Z/x",
    "_/x",
    "~/x",
    "%/x",
    "10",
    "9",
    "b",
)
"""Keys that a listing folder by folder, or one that ignores case, puts into another order than the bytes'."""

_LISTINGS = 12


class ListingChecks(Subject):
    async def test_a_listing_is_in_byte_order(self) -> None:
        async with self.connection() as backend:
            await fill(backend, reversed(SORTS_AWKWARDLY))
            assert await keys(backend, "") == sorted(SORTS_AWKWARDLY)

    async def test_an_empty_store_lists_nothing(self) -> None:
        async with self.connection() as backend:
            assert await keys(backend, "") == []
            assert await keys(backend, "tasks/") == []

    async def test_a_prefix_is_compared_byte_by_byte(self) -> None:
        async with self.connection() as backend:
            await fill(backend, SORTS_AWKWARDLY)
            for prefix in (
                "a",
                "a/",
                "a/a",
                "a_",
                "a%",
                "a.",
                "a-",
                "A",
                "A/",
                "9",
                "a/x",
                "a/xx",
                "b/",
                "%",
                "_",
            ):
                expected = sorted(key for key in SORTS_AWKWARDLY if key.startswith(prefix))
                assert await keys(backend, prefix) == expected, f"prefix {prefix!r}"

    async def test_a_listing_begins_after_the_key_that_is_named(self) -> None:
        async with self.connection() as backend:
            await fill(backend, SORTS_AWKWARDLY)
            for prefix in ("", "a", "a/"):
                among = sorted(key for key in SORTS_AWKWARDLY if key.startswith(prefix))
                for after in (*SORTS_AWKWARDLY, "a", "a/", "a/m", "0", "~~"):
                    expected = [key for key in among if key > after]
                    assert await keys(backend, prefix, after) == expected, (
                        f"prefix {prefix!r} after {after!r}"
                    )

    async def test_a_listing_goes_on_across_pages(self) -> None:
        async with self.connection() as backend:
            names = [f"journal/{number:020d}.jsonl" for number in range(2 * self.page + 23)]
            await fill(backend, names)
            assert await keys(backend, "journal/") == names
            assert await keys(backend, "journal/", names[10]) == names[11:]

    async def test_a_listing_goes_on_though_what_it_listed_is_deleted(self) -> None:
        async with self.connection() as backend:
            names = [f"journal/{number:020d}.jsonl" for number in range(self.page + 23)]
            await fill(backend, names)
            listed = []
            async for entry in backend.list_keys("journal/"):
                listed.append(entry.key)
                if len(listed) % 20 == 0:
                    await backend.delete(entry.key)
            assert listed == names

    async def test_an_entry_tells_size_and_time(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"12345")
            await backend.write("b/c", b"")
            entries = [entry async for entry in backend.list_keys("")]
            assert [(entry.key, entry.size) for entry in entries] == [("a", 5), ("b/c", 0)]
            modified = (await backend.read("a")).modified.timestamp()
            assert abs(entries[0].modified - modified) < 2, "a listing and a read tell different times"

    async def test_a_change_has_a_later_time(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"A")
            before = await _time(backend, "a")

            async def change() -> None:
                while await _time(backend, "a") <= before:  # a storage may tell whole seconds
                    await asyncio.sleep(0.05)
                    with suppress(ThrottledError):  # or take one change of an object a second
                        await backend.write("a", b"B")

            await soon(change())

    async def test_a_listing_shows_each_write_and_deletion_before_it(self) -> None:
        async with self.connection() as backend:
            expected: list[str] = []
            for name in ("c", "a", "d", "b"):
                await backend.write(name, b"x")
                expected = sorted([*expected, name])
                assert await keys(backend, "") == expected
            await backend.delete("b")
            assert await keys(backend, "") == ["a", "c", "d"]

    async def test_a_listing_lists_once_what_stays(self) -> None:
        async with self.writers() as (one, other):
            stay = [f"stay/{number:03d}" for number in range(50)]
            await fill(one, stay)

            async def disturb() -> None:
                for number in range(40):
                    await other.write(f"stay/{number:03d}-", b"x")
                    await other.write("stay/025", b"again")
                    await asyncio.sleep(0)
                    await other.delete(f"stay/{number:03d}-")
                    await asyncio.sleep(0)

            async with meanwhile(disturb()) as disturbing:
                while not disturbing.done():
                    listed = await keys(one, "stay/")
                    assert listed == sorted(set(listed))
                    assert [key for key in listed if not key.endswith("-")] == stay
                    await asyncio.sleep(0)

    async def test_listings_at_once_do_not_mix(self) -> None:
        async with self.connection() as backend, AsyncExitStack() as stack:
            names = {
                f"{number:02d}/": [f"{number:02d}/{name}" for name in "abc"] for number in range(_LISTINGS)
            }
            await fill(backend, itertools.chain(*names.values()))
            listings = [
                await stack.enter_async_context(aclosing(cast("Any", backend.list_keys(prefix))))
                for prefix in names
            ]
            found = [[(await soon(anext(listing))).key] for listing in listings]
            await backend.write("meanwhile", b"x")
            for keys, listing in zip(found, listings, strict=True):
                keys += [entry.key async for entry in listing]
            assert found == list(names.values())

    async def test_a_listing_may_be_left_early(self) -> None:
        async with self.connection() as backend:
            await fill(backend, ("a", "b", "c"))
            async with aclosing(cast("Any", backend.list_keys(""))) as listing:
                async for entry in listing:
                    assert entry.key == "a"
                    await backend.delete("c")
                    break
            assert await keys(backend, "") == ["a", "b"]


async def keys(backend: Backend, prefix: str, after: str = "") -> list[str]:
    """The keys that the backend lists."""
    return [entry.key async for entry in backend.list_keys(prefix, after=after)]


async def _time(backend: Backend, key: str) -> float:
    """The time that a listing tells of the object."""
    (entry,) = [entry async for entry in backend.list_keys(key)]
    return entry.modified


async def fill(backend: Backend, names: Any) -> None:
    """Write a small object under each name, some at once."""
    waiting = iter(names)

    async def work() -> None:
        for name in waiting:
            await backend.write(name, b"x")

    await asyncio.gather(*(work() for _ in range(16)))
