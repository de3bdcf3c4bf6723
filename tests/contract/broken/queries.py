"""Backends that answer queries, and leave out documents that match."""

from __future__ import annotations

from collections.abc import Iterable

from broken.sound import Sound, caught_by
from statepath.backend import Body, Filter, Shown
from statepath.commit import Transaction


@caught_by("test_a_query_finds_all_that_match")
class FindsAllButOne(Sound):
    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        found = await super().find(collection, where, seq)
        return None if found is None else frozenset(sorted(found)[1:])


@caught_by("test_a_query_finds_all_that_match")
class NeverAnswers(Sound):
    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        return None


@caught_by("test_a_query_finds_all_that_match")
class SaysThatItIsBehind(Sound):
    async def settle(self, seq: int) -> bool:
        return False


@caught_by("test_a_query_is_as_of_its_seq")
class FindsTheNewest(Sound):
    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        return await super().find(collection, where, 10**9)


@caught_by("test_an_index_that_the_log_cannot_fill_is_filled_from_what_is_shown")
class LooksIntoTheLogOnly(Sound):
    async def show(self, seq: int, documents: Iterable[Shown]) -> None:
        await super().show(seq, ())


@caught_by("test_a_query_finds_all_that_match")
class OverlooksBodies(Sound):
    async def changes(self, transaction: Transaction | Body) -> Transaction:
        return () if isinstance(transaction, Body) else transaction


@caught_by("test_a_query_finds_all_that_match")
class FindsAThousand(Sound):
    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        found = await super().find(collection, where, seq)
        return None if found is None else frozenset(sorted(found)[:1000])
