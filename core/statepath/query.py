"""Queries: the documents of a collection that match, in order, as of one seq."""

from __future__ import annotations

import base64
import binascii
import sys
from asyncio import sleep
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache, partial
from heapq import merge
from itertools import islice
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET
from pydantic import BaseModel

from statepath.breath import Breath
from statepath.engine.documents import unreadable
from statepath.engine.schema import stored_path
from statepath.errors import InvalidArgumentError
from statepath.filters import (
    And,
    F,
    Filter,
    Getter,
    Path,
    check_depth,
    order_key,
    parse_path,
    reader,
    renamed,
)

__all__ = ["Page", "Query", "Source"]

T = TypeVar("T")

DEFAULT_PAGE: Final = 100

MANY: Final = 5_000
"""So many documents are worth asking the storage which of them to look at."""


class Source(Protocol):
    """Where a query finds its documents."""

    def rows(self) -> tuple[int, list[tuple[str, Any]]]:
        """The seq, and all ids with their rows, of one moment. The `json()` of a row is the stored document."""
        ...


Scan: TypeAlias = Callable[[Filter | None, str], AsyncGenerator[tuple[int, list[tuple[str, Any]]]]]
"""The documents that may match, behind an id: by id, in parts that are all as of one seq, which each tells."""

Narrow: TypeAlias = Callable[[Filter, int], Awaitable[frozenset[str] | None]]
"""Asks the storage which documents may match as of a seq. `None`: it cannot tell."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of the documents that match.

    Attributes:
        next: the cursor to pass as `after` for the following page; `None`: there is none.
        seq: the seq that the page is as of. A later page may be as of a later one.
    """

    items: list[T]
    next: str | None
    seq: int


_Kinds: TypeAlias = tuple[tuple[int, Any], ...]
_NULL: Final = order_key(None)[0]
_TEXT: Final = order_key("")[0]


class _Hit(NamedTuple):
    """A document that matches. Hits compare by their place and id, which differ always."""

    place: tuple[Any, ...]
    id: str
    kinds: _Kinds
    row: Any


@dataclass(frozen=True, slots=True)
class _Held:
    """The documents of one moment, all at hand."""

    seq: int
    rows: list[tuple[str, Any]]
    narrow: Callable[[int], Awaitable[frozenset[str] | None]] | None

    by_id = False

    async def parts(self) -> AsyncGenerator[list[tuple[str, Any]]]:
        if self.narrow is None or len(self.rows) < MANY:
            yield self.rows
            return
        ids = await self.narrow(self.seq)
        yield self.rows if ids is None else [row for row in self.rows if row[0] in ids]


@dataclass(slots=True)
class _Scanned:
    """The documents of one moment, which come by id from where they are kept; then `seq` is known."""

    scan: AsyncGenerator[tuple[int, list[tuple[str, Any]]]]
    seq: int = 0

    by_id = True

    async def parts(self) -> AsyncGenerator[list[tuple[str, Any]]]:
        async with aclosing(self.scan) as parts:
            async for self.seq, rows in parts:
                yield rows


_Look: TypeAlias = _Held | _Scanned


class _Reversed:
    """A text that sorts the other way round."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: _Reversed) -> bool:
        return other.text < self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]  # only compared


@dataclass(frozen=True, slots=True)
class _Order:
    """The fields that a query is ordered by, and whether each descends."""

    fields: tuple[tuple[Path, bool], ...]

    @classmethod
    def parse(cls, text: str | None) -> _Order:
        if text is None:
            return cls(())
        if not isinstance(text, str):
            raise InvalidArgumentError(
                f"order_by is a text such as '-updated_at,id', not {type(text).__name__}"
            )
        names = [name.strip() for name in text.split(",")]
        return cls(
            tuple((parse_path(name.removeprefix("-").lstrip()), name.startswith("-")) for name in names)
        )

    def place(self, kinds: _Kinds) -> tuple[Any, ...]:
        """What sorts documents so: null and missing last, whichever the direction."""
        return tuple(
            [_place(kind, value, falls) for (kind, value), (_, falls) in zip(kinds, self.fields, strict=True)]
        )

    def cursor(self, hit: _Hit) -> str:
        """The place of a document, as text that a caller can keep."""
        return (
            base64.urlsafe_b64encode(msgspec.json.encode((self._text(), hit.kinds, hit.id)))
            .decode()
            .rstrip("=")
        )

    def read_cursor(self, text: str) -> tuple[tuple[Any, ...], str]:
        """The place that a cursor stands for.

        Raises:
            InvalidArgumentError: it is no cursor, or one of a query in another order.
        """
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            order, kinds, id = _cursors.decode(data)
            if order == self._text():
                return self.place(_checked(kinds)), id
        except (TypeError, ValueError, binascii.Error, msgspec.MsgspecError):
            raise InvalidArgumentError("after is not a cursor: pass the next of an earlier page") from None
        raise InvalidArgumentError(
            f"after is a cursor of a query with order_by={order!r}; pages need one order"
        )

    def _text(self) -> str:
        return ",".join(f"{'-' if falls else ''}{'.'.join(path)}" for path, falls in self.fields)


_cursors = msgspec.json.Decoder(tuple[str, tuple[tuple[int, int | float | str], ...], str])


async def _first(runs: list[list[_Hit]], limit: int) -> list[_Hit]:
    """The first hits of runs that are sorted each."""
    breath, found = Breath(), []
    for hit in islice(merge(*runs), min(limit, sys.maxsize)):
        found.append(hit)
        if breath.due(0):
            await sleep(0)
    return found


def _checked(kinds: _Kinds) -> _Kinds:
    """The values, each of its kind: so they can be compared with those of documents."""
    for kind, value in kinds:
        if not 0 <= kind <= _NULL or isinstance(value, str) != (kind == _TEXT):
            raise ValueError("no document has such a value")
    return kinds


def _place(kind: int, value: Any, falls: bool) -> tuple[Any, ...]:
    if kind == _NULL:
        return (True,)
    if not falls:
        return False, kind, value
    return False, -kind, _Reversed(value) if isinstance(value, str) else -value


class _Projection:
    """Decodes of each document only the members that the query looks at."""

    def __init__(self, names: set[str]) -> None:
        self._slots = {name: f"f{place}" for place, name in enumerate(sorted(names))}
        self.decode = _decoder(tuple(self._slots))

    def reader(self, path: Path) -> Getter:
        get = attrgetter(self._slots[path[0]])
        if len(path) == 1:
            return get
        inner = reader(path[1:])
        return lambda document: inner(get(document))


@lru_cache(maxsize=128)
def _decoder(names: tuple[str, ...]) -> Callable[[bytes], Any]:
    """Into attributes `f0`, `f1`, … in the order of the names; `UNSET` where the document has no such
    member."""
    slots = [f"f{place}" for place in range(len(names))]
    try:
        struct = msgspec.defstruct(
            "Projection", [(slot, Any, UNSET) for slot in slots], rename=dict(zip(slots, names, strict=True))
        )
    except ValueError:
        # msgspec takes no quotes, backslashes or control characters in a name.
        decode = msgspec.json.Decoder(dict[str, Any]).decode

        def select(data: bytes) -> SimpleNamespace:
            document = decode(data)
            return SimpleNamespace(
                **{slot: document.get(name, UNSET) for slot, name in zip(slots, names, strict=True)}
            )

        return select
    return msgspec.json.Decoder(struct).decode


class Query(Generic[T]):
    """Documents that match. Nothing is read before it is iterated, or one of its methods is awaited; each of
    these sees the documents as of one seq. Long ones let other tasks run meanwhile.

    Parameters:
        source: where the documents are; `decode` makes the value of one that matches.
        collection: what they are called, for messages.
        model: the class of the documents, whose field names are checked; `None`: any field.
        where: a filter; `equals` are further fields that must have these values.
        order_by: fields joined by commas, `-` before those in descending order. Null and missing come last. Ties, and
            a query without it, are in the order of ids.
        limit: the most documents to give.
        after: the cursor of a page: documents behind it only.
        narrow: how to find out which documents need not be looked at.
        scan: how to get the documents, where the source does not have them.

    Raises:
        InvalidArgumentError: a field that the model does not know, or an argument that cannot be used.
    """

    def __init__(
        self,
        source: Source,
        decode: Callable[[str, Any], T],
        *,
        collection: str,
        model: type[BaseModel] | None = None,
        where: Filter | None = None,
        order_by: str | None = None,
        limit: int | None = None,
        after: str | None = None,
        equals: Mapping[str, object] | None = None,
        narrow: Narrow | None = None,
        scan: Scan | None = None,
    ) -> None:
        if where is not None and not isinstance(where, Filter):
            raise InvalidArgumentError(
                f"find takes a filter such as F('status') == 'done', not {type(where).__name__}"
            )
        if where is not None:
            check_depth(where)
        if limit is not None and (type(limit) is not int or limit < 1):
            raise InvalidArgumentError("limit is a whole number from 1, or None")
        filters = [] if where is None else [where]
        filters += [F((name,)) == value for name, value in (equals or {}).items()]
        self._source = source
        self._collection = collection
        self._decode = decode
        self._limit = limit
        self._order = _Order.parse(order_by)
        self._after = None if after is None else self._order.read_cursor(after)
        paths = {path for part in filters for path in part.paths()} | {path for path, _ in self._order.fields}
        stored = {path: path if model is None else stored_path(model, path) for path in paths}
        self._where = And(tuple(renamed(part, stored) for part in filters)) if filters else None
        self._narrow = None if narrow is None or self._where is None else partial(narrow, self._where)
        self._scan = scan
        projection = _Projection({path[0] for path in stored.values()})
        self._project = projection.decode
        self._tests = [part.compile(lambda path: projection.reader(stored[path])) for part in filters]
        self._keys = [projection.reader(stored[path]) for path, _ in self._order.fields]

    def __aiter__(self) -> AsyncIterator[T]:
        return self._values(self._look())

    async def all(self) -> list[T]:
        """All of them, in order.

        Raises:
            InvalidArgumentError: a stored document does not fit the model (`model_mismatch`).
        """
        return [value async for value in self]

    async def first(self) -> T | None:
        """The first one in order, or `None` if none matches."""
        for hit in await self._best(self._look(), 1):
            return self._decode(hit.id, hit.row)
        return None

    async def count(self) -> int:
        """How many `all` would give."""
        count = 0
        async with aclosing(self._hits(self._look())) as parts:
            async for hits in parts:
                count += len(hits)
                if self._limit is not None and count >= self._limit:
                    return self._limit
        return count

    async def page(self) -> Page[T]:
        """At most `limit` (if there is none, 100) of them, and the cursor behind which the next page
        begins."""
        limit = self._limit or DEFAULT_PAGE
        look = self._look()
        hits = await self._best(look, limit + 1)
        items = [self._decode(hit.id, hit.row) for hit in hits[:limit]]
        return Page(items, self._order.cursor(hits[limit - 1]) if len(hits) > limit else None, look.seq)

    def _look(self) -> _Look:
        """The documents that may match, at this moment."""
        if self._scan is None:
            return _Held(*self._source.rows(), self._narrow)
        behind = self._after[1] if self._after is not None and not self._order.fields else ""
        return _Scanned(self._scan(self._where, behind))

    async def _values(self, look: _Look) -> AsyncIterator[T]:
        if self._limit is None and look.by_id and not self._order.fields:
            async with aclosing(self._hits(look)) as parts:
                async for hits in parts:
                    for hit in hits:
                        yield self._decode(hit.id, hit.row)
            return
        if self._limit is None:
            runs = [sorted(hits) async for hits in self._hits(look)]
            found: Iterable[_Hit] = merge(*runs)
        else:
            found = await self._best(look, self._limit)
        breath = Breath()
        for hit in found:
            yield self._decode(hit.id, hit.row)
            if breath.due(len(hit.row.json())):
                await sleep(0)

    async def _best(self, look: _Look, limit: int) -> list[_Hit]:
        """The first documents that match, in order."""
        runs: list[list[_Hit]] = []
        held, last = 0, None
        async with aclosing(self._hits(look)) as parts:
            async for hits in parts:
                runs.append(sorted(hits if last is None else [hit for hit in hits if hit < last]))
                held += len(runs[-1])
                if look.by_id and not self._order.fields and held >= limit:
                    break
                if held >= 2 * limit:  # not before: what a part costs is not to grow with the limit
                    runs = [best := await _first(runs, limit)]
                    held, last = limit, best[-1]
        return await _first(runs, limit)

    async def _hits(self, look: _Look) -> AsyncGenerator[list[_Hit], None]:
        """The documents that match, in parts, between which other tasks run."""
        reads = bool(self._tests or self._keys)
        breath, hits = Breath(), []
        async with aclosing(look.parts()) as parts:
            async for rows in parts:
                for id, row in rows:
                    document, size = None, row.size if look.by_id else 0
                    if reads:
                        data = row.json()
                        try:
                            document, size = self._project(data), len(data)
                        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                            raise unreadable(f"{self._collection}/{id}", error) from error
                    if all(test(document) for test in self._tests):
                        kinds = tuple([order_key(get(document)) for get in self._keys])
                        place = self._order.place(kinds)
                        if self._after is None or (place, id) > self._after:
                            hits.append(_Hit(place, id, kinds, row))
                    if breath.due(size):
                        yield hits
                        hits = []
                        await sleep(0)
        yield hits
