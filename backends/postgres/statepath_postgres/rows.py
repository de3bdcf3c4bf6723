"""Documents as rows of the view, many to a statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from statepath_postgres.exact import forms

T = TypeVar("T")

STATEMENT_BYTES: Final = 2 * 1024 * 1024
"""About how much one statement brings: `statement_timeout` is for each."""

CHANGE_BYTES: Final = 100
"""What a change costs beside what it brings: many deletions, or small documents, have an end, too."""

# Lists of numbers are written as texts, and collections as places in a list: asyncpg takes its time for each element.
_PUT: Final = """
INSERT INTO statepath.documents (store, collection, id, version, modified, data, exact)
SELECT $1, ($2::text[])[item.place], item.id, item.version,
    'epoch'::timestamptz + item.modified * interval '1 microsecond', item.data, {exact}
FROM unnest($3::text::int[], $4::text[], $5::text::bigint[], $6::text::bigint[], $7::jsonb[] {column})
    AS item (place, id, version, modified, data {name})
ON CONFLICT (store, collection, id) DO UPDATE
SET version = excluded.version, modified = excluded.modified, data = excluded.data, exact = excluded.exact
"""
_PUT_PLAIN: Final = _PUT.format(exact="NULL", column="", name="")
_PUT_EXACTLY: Final = _PUT.format(exact="item.exact", column=", $8::bytea[]", name=", exact")


class _Row(NamedTuple):
    """A row of the view; `modified` in microseconds since 1970, `data` as JSON, `None` where jsonb cannot hold it."""

    collection: str
    id: str
    version: int
    modified: int
    data: str | None


@dataclass(slots=True)
class Rows:
    """Rows to be put; apart from them, each with its bytes, those of documents that jsonb alone does not give back."""

    plain: list[_Row] = field(default_factory=list)
    exact: list[tuple[_Row, bytes]] = field(default_factory=list)

    def add(
        self, collection: str, id: str, version: int, modified: int, document: bytes, *, blank: bool = False
    ) -> None:
        """`blank`: leave out what the database could be asked for."""
        data, exact = (None, document) if blank else forms(document)
        row = _Row(collection, id, version, modified, data)
        if exact is None:
            self.plain.append(row)
        else:
            self.exact.append((row, exact))

    def statements(self) -> Iterator[tuple[str, list[Any]]]:
        """What puts them there, and its arguments behind the number of the store."""
        for part in parts(self.plain, _size):
            yield _PUT_PLAIN, _arguments(part)
        for pairs in parts(self.exact, lambda pair: _size(pair[0]) + len(pair[1])):
            rows, exact = zip(*pairs, strict=True)
            yield _PUT_EXACTLY, [*_arguments(rows), exact]


def parts(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in their order, as many together as one statement brings."""
    part: list[T] = []
    total = 0
    for item in items:
        part.append(item)
        total += size(item)
        if total >= STATEMENT_BYTES:
            yield part
            part, total = [], 0
    if part:
        yield part


def _size(row: _Row) -> int:
    return CHANGE_BYTES + len(row.data or "")


def _arguments(rows: Sequence[_Row]) -> list[Any]:
    """What `_PUT` takes."""
    collections, ids, versions, modified, data = zip(*rows, strict=True)
    places = {collection: place for place, collection in enumerate(dict.fromkeys(collections), 1)}
    return [
        list(places),
        _numbers(map(places.__getitem__, collections)),
        ids,
        _numbers(versions),
        _numbers(modified),
        data,
    ]


def _numbers(numbers: Iterable[int]) -> str:
    """A list as PostgreSQL writes it."""
    return f"{{{','.join(map(str, numbers))}}}"
