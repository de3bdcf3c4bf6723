"""Backends that give documents one by one, and not those that the log has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

import msgspec
from broken.sound import Sound, Still, caught_by
from statepath.backend import Append, Body, Delete, Filter, Part, Put, Shown, Tally
from statepath.commit import Transaction


@caught_by("test_documents_are_read_as_the_log_has_them")
class RoundsNumbers(Sound):
    """As a storage does that knows one kind of zero."""

    def row(self, change: Put | Append, seq: int, document: bytes) -> Shown:
        return super().row(change, seq, document.replace(b"-0.0", b"0.0"))


@caught_by("test_documents_are_read_as_the_log_has_them")
class ForgetsAppends(Sound):
    def row(self, change: Put | Append, seq: int, document: bytes) -> Shown:
        if isinstance(change, Append):
            document = msgspec.json.encode(msgspec.json.decode(document) | {"list": []})
        return super().row(change, seq, document)


@caught_by("test_documents_are_read_as_the_log_has_them")
class TellsAnEarlierSeq(Sound):
    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        part = await super().read_documents(keys, at_least)
        return Part(part.seq - 1, part.documents)


class InNoOrder(Still):
    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        async for documents in super().scan(collection, where, after=after):
            yield sorted(documents, key=lambda shown: shown.id.casefold())


@caught_by("test_a_scan_gives_a_collection_in_the_order_of_ids")
class ScansInNoOrder(Sound):
    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return InNoOrder(seq, documents)


class ForExactTypes(Still):
    """As a storage does to which 1 and 1.0 are not the same."""

    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        async for documents in super().scan(collection, where, after=after):
            yield [shown for shown in documents if where is None or b".0" not in shown.document]


@caught_by("test_a_scan_misses_nothing_that_matches")
class ScansForExactTypes(Sound):
    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return ForExactTypes(seq, documents)


class Moving(Still):
    """It finds what is there when it looks."""

    def __init__(self, backend: Sound, seq: int) -> None:
        super().__init__(seq, {})
        self.backend = backend

    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        self.documents = (await self.backend.replayed())[1]
        async for documents in super().scan(collection, where, after=after):
            yield documents


@caught_by("test_a_moment_stands_still")
class ScansTheNewest(Sound):
    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return Moving(self, seq)


class OfAll(Still):
    async def tally(self, *, collection: str | None = None) -> Mapping[str, Tally]:
        return await super().tally()


@caught_by("test_a_tally_counts_each_collection")
class CountsAll(Sound):
    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return OfAll(seq, documents)


@caught_by(
    "test_documents_are_read_as_the_log_has_them", "test_a_scan_gives_a_collection_in_the_order_of_ids"
)
class KnowsNoBodies(Sound):
    async def changes(self, transaction: Transaction | Body) -> Transaction:
        return () if isinstance(transaction, Body) else transaction


@caught_by("test_documents_are_read_as_the_log_has_them")
class DeletesLast(Sound):
    """As a storage does that is given what is put and what is deleted apart."""

    async def changes(self, transaction: Transaction | Body) -> Transaction:
        changes = await super().changes(transaction)
        gone = [change for change in changes if isinstance(change, Delete)]
        return (*(change for change in changes if not isinstance(change, Delete)), *gone)


@caught_by("test_documents_are_read_as_the_log_has_them")
class ReadsAThousand(Sound):
    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        return await super().read_documents(keys[:1000], at_least)


class FirstPart(Still):
    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        async for documents in super().scan(collection, where, after=after):
            yield documents[:1000]


@caught_by("test_a_scan_gives_a_collection_in_the_order_of_ids")
class ScansAThousand(Sound):
    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return FirstPart(seq, documents)
