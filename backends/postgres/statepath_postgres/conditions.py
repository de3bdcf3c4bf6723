"""From a filter to SQL over `documents.data`.

What is found this way is looked at again by the core, so a condition may let more through than the filter, and never
less. Where it lets through exactly what the filter does, it can also be reversed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Final, NamedTuple

from statepath.backend import (
    And,
    Contains,
    Equals,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Ordered,
    Path,
    StartsWith,
)

_INDEX: Final = re.compile(r"-?[0-9]+")
_NO_INDEX: Final = re.compile(r"-?[0-9]{10,}")
"""What `#>` takes for an index, and the core for a name."""

_DEEPEST: Final = 100
"""No document is deeper, and what a longer path would be written as is too deep to be."""

_DATE: Final = re.compile(r"[0-9]{4}-")
_LOOSE: Final = {"<": "<=", "<=": "<=", ">": ">=", ">=": ">="}
_SHORT_LIST: Final = 16
_LONG_LIST: Final = 100
_MOST_ARGUMENTS: Final = 30_000
"""The protocol takes 32,767, and the statement around the condition has some of its own."""

_DIGITS: Final = 1200
_ROUNDING: Final = Decimal("4e-16")
_LEAST: Final = Decimal("5e-324")


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL that is null at most where `data` is, and its arguments. `indexed`: the index leads it to few rows."""

    sql: str
    arguments: tuple[Any, ...]
    indexed: bool


class _Part(NamedTuple):
    sql: str
    exact: bool
    indexed: bool = False


_NOTHING: Final = _Part("false", exact=True, indexed=True)


def condition(where: Filter, *, first: int) -> Condition | None:
    """The condition, with arguments from `$first` on; `None`: nothing of the filter can be said in SQL, or only at too
    great a length."""
    arguments: list[Any] = []
    part = _Writer(arguments, first).write(where)
    if part is None or len(arguments) > _MOST_ARGUMENTS:
        return None
    return Condition(part.sql, tuple(arguments), part.indexed)


class _Writer:
    def __init__(self, arguments: list[Any], first: int) -> None:
        self._arguments = arguments
        self._first = first

    def write(self, where: Filter) -> _Part | None:
        """The part of the condition that the filter is; `None`: SQL cannot say it, and no argument of it is left."""
        before = len(self._arguments)
        part = self._write(where)
        if part is None:
            del self._arguments[before:]
        return part

    def _write(self, where: Filter) -> _Part | None:
        match where:
            case And(filters):
                return _all([self.write(part) for part in filters])
            case Or(filters):
                return _any([self.write(part) for part in filters])
            case Not(inner):
                part = self.write(inner)
                return _Part(f"NOT {part.sql}", exact=True) if part is not None and part.exact else None
            case Equals(path, value) if _sayable(path):
                return self._equals(path, value)
            case In(path, values) if _sayable(path):
                return self._in(path, values) if values else _NOTHING
            case Ordered(path, sign, value) if _sayable(path):
                return self._ordered(path, sign, value)
            case Contains(path, value) if _sayable(path):
                return self._contains(path, value)
            case StartsWith(path, prefix) if _sayable(path):
                if not _storable(prefix):
                    return _NOTHING
                return self._of_text(path, f"starts_with({{text}}, {self._bind(prefix, 'text')})")
            case Exists(path) if _sayable(path):
                return _Part(f"({self._value(path)} IS NOT NULL)", exact=True)
        return None

    def _equals(self, path: Path, value: Any) -> _Part | None:
        if value is None:
            found = self._value(path)
            return _Part(f"({found} IS NULL OR {found} = 'null'::jsonb)", exact=True)
        if isinstance(value, str | bool):
            if isinstance(value, str) and not _storable(value):
                return _NOTHING
            if not any(_INDEX.fullmatch(name) for name in path):
                # Within anything else, such as coalesce, the index would not be looked at.
                return _Part(f"(data @> {self._bind(_nested(path, value), 'jsonb')})", True, True)
            return _Part(
                f"coalesce({self._value(path)} = {self._bind(_json(value), 'jsonb')}, false)", exact=True
            )
        if isinstance(value, int | float):
            return self._of_number(path, "=", value)
        if isinstance(value, list | dict):
            return self._of_kind(path, "array" if isinstance(value, list) else "object")
        return self._of_kind(path, "string")

    def _in(self, path: Path, values: Sequence[Any]) -> _Part | None:
        texts = [value for value in values if isinstance(value, str)]
        if len(texts) <= _SHORT_LIST:
            one_by_one, together = values, []
        else:
            one_by_one = [value for value in values if not isinstance(value, str)]
            together = [text for text in texts if _storable(text)]
        if len(one_by_one) > _LONG_LIST:
            return None
        parts = [self._equals(path, value) for value in one_by_one]
        if together:
            parts.append(self._of_text(path, f"{{text}} = ANY({self._bind(together, 'text[]')})"))
        return _any(parts) if parts else _NOTHING

    def _ordered(self, path: Path, sign: str, value: Any) -> _Part | None:
        if isinstance(value, int | float):
            return self._of_number(path, _LOOSE[sign], value)
        if not isinstance(value, str) or _DATE.match(value) or not _storable(value):
            return self._of_kind(path, "string")
        return self._of_text(path, f'{{text}} COLLATE "C" {sign} {self._bind(value, "text")}')

    def _contains(self, path: Path, value: Any) -> _Part | None:
        if not isinstance(value, str):
            return self._of_kind(path, "array")
        if not _storable(value):
            return _NOTHING
        found, wanted = self._value(path), self._bind(value, "text")
        return _Part(
            f"coalesce(CASE jsonb_typeof({found}) WHEN 'array' THEN {found} @> to_jsonb({wanted})"
            f" WHEN 'string' THEN strpos({found} #>> '{{}}', {wanted}) > 0"
            f" WHEN 'object' THEN {found} ? {wanted} END, false)",
            exact=True,
        )

    def _of_number(self, path: Path, sign: str, value: float) -> _Part:
        found = self._value(path)
        low, high = _around(value)
        bounds = []
        if sign != "<=":
            bounds.append(f"({found})::numeric >= {self._bind(low, 'numeric')}")
        if sign != ">=":
            bounds.append(f"({found})::numeric <= {self._bind(high, 'numeric')}")
        compared = " AND ".join(bounds)
        return _Part(
            f"coalesce(CASE WHEN jsonb_typeof({found}) = 'number' THEN {compared} END, false)", exact=False
        )

    def _of_text(self, path: Path, test: str) -> _Part:
        found = self._value(path)
        compared = test.replace("{text}", f"({found} #>> '{{}}')")
        return _Part(
            f"coalesce(CASE WHEN jsonb_typeof({found}) = 'string' THEN {compared} END, false)", exact=True
        )

    def _of_kind(self, path: Path, kind: str) -> _Part:
        return _Part(f"coalesce(jsonb_typeof({self._value(path)}) = '{kind}', false)", exact=False)

    def _value(self, path: Path) -> str:
        return f"(data #> {self._bind(list(path), 'text[]')})"

    def _bind(self, value: Any, kind: str) -> str:
        self._arguments.append(value)
        return f"${self._first + len(self._arguments) - 1}::{kind}"


def _all(parts: Sequence[_Part | None]) -> _Part | None:
    said = [part for part in parts if part is not None]
    if not said:
        return None
    return _Part(
        "(" + " AND ".join(part.sql for part in said) + ")",
        exact=len(said) == len(parts) and all(part.exact for part in said),
        indexed=any(part.indexed for part in said),
    )


def _any(parts: Sequence[_Part | None]) -> _Part | None:
    said = [part for part in parts if part is not None]
    if len(said) < len(parts):
        return None
    return _Part(
        "(" + " OR ".join(part.sql for part in said) + ")",
        exact=all(part.exact for part in said),
        indexed=len(said) <= _SHORT_LIST and all(part.indexed for part in said),
    )


def _sayable(path: Path) -> bool:
    """Whether SQL takes each name on the path for what it is here: an index only where it looks like one."""
    return len(path) <= _DEEPEST and all(
        _storable(name) and not name[0].isspace() and name[0] != "+" and not _NO_INDEX.fullmatch(name)
        for name in path
    )


def _storable(text: str) -> bool:
    """Whether a jsonb value can hold the text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _around(value: float) -> tuple[Decimal, Decimal]:
    """Between which numbers all those lie that Python may take for this one: it rounds what has a point."""
    with localcontext() as context:
        context.prec = _DIGITS
        middle = Decimal(value)
        slack = abs(middle) * _ROUNDING + _LEAST
        return middle - slack, middle + slack


def _nested(path: Path, value: str | bool) -> str:
    document: Any = value
    for name in reversed(path):
        document = {name: document}
    return _json(document)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
