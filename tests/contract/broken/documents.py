"""Backends that give documents one by one, and not those that the log has."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing

import msgspec
from broken.sound import Sound, caught_by
from statepath.backend import Append, Filter, Part, Put, Shown, Tally


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


@caught_by("test_a_scan_gives_a_collection_in_the_order_of_ids")
class ScansInNoOrder(Sound):
    async def scan(
        self, collection: str, where: Filter | None, at_least: int, *, after: str = ""
    ) -> AsyncGenerator[Part]:
        async with aclosing(super().scan(collection, where, at_least, after=after)) as parts:
            async for seq, documents in parts:
                yield Part(seq, sorted(documents, key=lambda shown: shown.id.casefold()))


@caught_by("test_a_scan_misses_nothing_that_matches")
class ScansForExactTypes(Sound):
    """As a storage does to which 1 and 1.0 are not the same."""

    async def scan(
        self, collection: str, where: Filter | None, at_least: int, *, after: str = ""
    ) -> AsyncGenerator[Part]:
        async with aclosing(super().scan(collection, where, at_least, after=after)) as parts:
            async for seq, documents in parts:
                yield Part(
                    seq, [shown for shown in documents if where is None or b".0" not in shown.document]
                )


@caught_by("test_a_tally_counts_each_collection")
class CountsAll(Sound):
    async def tally(self, at_least: int, *, collection: str | None = None) -> Mapping[str, Tally]:
        return await super().tally(at_least)
