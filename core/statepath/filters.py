"""Filters: which documents a query is for, as values that can be joined, shown, and read by a backend.

`F("result.tests_passed") == False` is true for documents in which that field is `false`. The rules, which a
backend that answers queries itself has to keep:

- A missing field counts as null. Only `exists` tells the two apart.
- `==` compares values of one kind; of different kinds (a number and a text, `1` and `true`) they differ.
  `!=` is its opposite, and so true for missing fields, too.
- `< <= > >=` order numbers by value and texts by code point. Between different kinds, and for null, booleans,
  lists and objects, they are false.
- A `datetime`, a `date` (its midnight) and, for `< <= > >=`, a text that is an ISO 8601 date with a time
  stand for an instant, in UTC where they name no zone. They are compared with texts that are ISO 8601; for
  all others `==` and the four are false.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from operator import ge, gt, le, lt
from typing import Any, Final, Literal, TypeAlias

from msgspec import UNSET
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, SchemaSerializer, core_schema, to_jsonable_python

from statepath.arguments import wrong_kind
from statepath.errors import InvalidArgumentError

__all__ = [
    "And",
    "Contains",
    "Equals",
    "Exists",
    "F",
    "Filter",
    "In",
    "Not",
    "Or",
    "Ordered",
    "Path",
    "StartsWith",
    "check_depth",
    "order_key",
    "parse_path",
    "reader",
    "renamed",
]

Path: TypeAlias = tuple[str, ...]
Value: TypeAlias = JsonValue | datetime
Getter: TypeAlias = Callable[[Any], Any]
"""Gets the value at a path out of a document; `UNSET` where there is none."""
Test: TypeAlias = Callable[[Any], bool]
Sign: TypeAlias = Literal["<", "<=", ">", ">="]

_SIGNS: Final[dict[Sign, Callable[[Any, Any], bool]]] = {"<": lt, "<=": le, ">": gt, ">=": ge}


class F:
    """A field of a document, to be compared.

    Parameters:
        path: the names on the way to it, joined by dots (`result.tests_passed`), or as a sequence where a name
            contains a dot. A whole number takes an element of a list, counted from 0, or from the end with -1.
    """

    __slots__ = ("_path",)
    __hash__ = None  # type: ignore[assignment]  # `==` builds a filter

    def __init__(self, path: str | Sequence[str]) -> None:
        self._path = parse_path(path)

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]
        return _equals(self._path, _forms(value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Not(_equals(self._path, _forms(value)))

    def __lt__(self, value: object) -> Filter:
        return Ordered(self._path, "<", _orderable(value))

    def __le__(self, value: object) -> Filter:
        return Ordered(self._path, "<=", _orderable(value))

    def __gt__(self, value: object) -> Filter:
        return Ordered(self._path, ">", _orderable(value))

    def __ge__(self, value: object) -> Filter:
        return Ordered(self._path, ">=", _orderable(value))

    def in_(self, values: Iterable[object]) -> Filter:
        """Whether the field equals one of the values."""
        if isinstance(values, str | bytes):
            raise InvalidArgumentError("in_ takes a list of values; to look into a text use contains")
        if not isinstance(values, Iterable):
            raise wrong_kind("what in_ takes", "a list of values", values, "for one value use ==")
        return In(self._path, tuple(form for value in values for form in _forms(value)))

    def contains(self, value: object) -> Filter:
        """Whether the field is a list with an element that equals the value, a text that the value is a part
        of, or an object that has a member of that name."""
        first, *others = (Contains(self._path, form) for form in _forms(value))
        return Or((first, *others)) if others else first

    def startswith(self, prefix: str) -> Filter:
        """Whether the field is a text that begins so."""
        if not isinstance(prefix, str):
            raise InvalidArgumentError(f"startswith takes a str, not {type(prefix).__name__}")
        return StartsWith(self._path, prefix)

    def exists(self) -> Filter:
        """Whether the document has the field, be it null."""
        return Exists(self._path)

    def __bool__(self) -> bool:
        raise InvalidArgumentError("a field is neither true nor false; compare it, such as F('done') == True")

    def __repr__(self) -> str:
        return f"F({_written(self._path)!r})"


class Filter(ABC):
    """A condition on documents. Filters are joined by `&` and `|`, and reversed by `~`."""

    __slots__ = ()

    @abstractmethod
    def paths(self) -> Iterator[Path]:
        """The fields that the filter looks at."""

    @abstractmethod
    def compile(self, read: Callable[[Path], Getter]) -> Test:
        """The filter as a function of whatever `read` makes getters for."""

    def matches(self, document: JsonValue) -> bool:
        """Whether the document fulfils the condition."""
        return self.compile(reader)(document)

    def __and__(self, other: object) -> Filter:
        if not isinstance(other, Filter):
            return NotImplemented
        return And((*_joined(And, self), *_joined(And, other)))

    def __or__(self, other: object) -> Filter:
        if not isinstance(other, Filter):
            return NotImplemented
        return Or((*_joined(Or, self), *_joined(Or, other)))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise InvalidArgumentError("filters are joined by & and |, and reversed by ~, not by and, or, not")


@dataclass(frozen=True, slots=True)
class _OfField(Filter):
    path: Path

    def paths(self) -> Iterator[Path]:
        yield self.path


@dataclass(frozen=True, slots=True)
class Equals(_OfField):
    value: Value

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get, equal = read(self.path), _equal_to(self.value)
        return lambda document: equal(get(document))


@dataclass(frozen=True, slots=True)
class Ordered(_OfField):
    sign: Sign
    value: str | int | float | datetime

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get, compare, wanted = read(self.path), _SIGNS[self.sign], self.value
        if isinstance(wanted, str):
            instant = _instant(wanted) if _DATE_AND_TIME.match(wanted) else None
            if instant is None:

                def test_text(document: Any) -> bool:
                    value = get(document)
                    return type(value) is str and compare(value, wanted)

                return test_text
            wanted = instant
        if isinstance(wanted, datetime):

            def test_instant(document: Any) -> bool:
                value = _instant(get(document))
                return value is not None and compare(value, wanted)

            return test_instant

        def test_number(document: Any) -> bool:
            value = get(document)
            return (type(value) is int or type(value) is float) and compare(value, wanted)

        return test_number


@dataclass(frozen=True, slots=True)
class In(_OfField):
    values: tuple[Value, ...]

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get = read(self.path)
        texts = frozenset(value for value in self.values if isinstance(value, str))
        others = [_equal_to(value) for value in self.values if not isinstance(value, str)]

        def test(document: Any) -> bool:
            value = get(document)
            if type(value) is str and value in texts:
                return True
            return any(equal(value) for equal in others)

        return test


@dataclass(frozen=True, slots=True)
class Contains(_OfField):
    value: Value

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get, wanted, equal = read(self.path), self.value, _equal_to(self.value)

        def test(document: Any) -> bool:
            value = get(document)
            if type(value) is list:
                return any(equal(element) for element in value)
            return (type(value) is str or type(value) is dict) and isinstance(wanted, str) and wanted in value

        return test


@dataclass(frozen=True, slots=True)
class StartsWith(_OfField):
    prefix: str

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get, prefix = read(self.path), self.prefix

        def test(document: Any) -> bool:
            value = get(document)
            return type(value) is str and value.startswith(prefix)

        return test


@dataclass(frozen=True, slots=True)
class Exists(_OfField):
    def compile(self, read: Callable[[Path], Getter]) -> Test:
        get = read(self.path)
        return lambda document: get(document) is not UNSET


@dataclass(frozen=True, slots=True)
class _OfFilters(Filter):
    filters: tuple[Filter, ...]

    def paths(self) -> Iterator[Path]:
        for part in self.filters:
            yield from part.paths()

    def tests(self, read: Callable[[Path], Getter]) -> list[Test]:
        return [part.compile(read) for part in self.filters]


@dataclass(frozen=True, slots=True)
class And(_OfFilters):
    def compile(self, read: Callable[[Path], Getter]) -> Test:
        tests = self.tests(read)
        return lambda document: all(test(document) for test in tests)


@dataclass(frozen=True, slots=True)
class Or(_OfFilters):
    def compile(self, read: Callable[[Path], Getter]) -> Test:
        tests = self.tests(read)
        return lambda document: any(test(document) for test in tests)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    filter: Filter

    def paths(self) -> Iterator[Path]:
        return self.filter.paths()

    def compile(self, read: Callable[[Path], Getter]) -> Test:
        test = self.filter.compile(read)
        return lambda document: not test(document)


def _joined(kind: type[And | Or], where: Filter) -> tuple[Filter, ...]:
    """What is joined already, or the filter alone: however many are joined, none lies in another one."""
    return where.filters if isinstance(where, kind) else (where,)


_DEEPEST: Final = 100


def check_depth(where: Filter) -> None:
    """
    Raises:
        InvalidArgumentError: more filters lie in each other than can be looked through for each document.
    """
    level = [where]
    for _ in range(_DEEPEST):
        level = [part for outer in level for part in _within(outer)]
        if not level:
            return
    raise InvalidArgumentError(
        f"the filter has others within it, {_DEEPEST} deep or more: what & and | join by turns, and ~ reverses, lies "
        "in each other; join all & or all | of a group at once, or use in_ for many values"
    )


def _within(where: Filter) -> Sequence[Filter]:
    match where:
        case And(filters) | Or(filters):
            return filters
        case Not(inner):
            return (inner,)
    return ()


def renamed(where: Filter, paths: Mapping[Path, Path]) -> Filter:
    """The filter on the fields that the mapping gives for its own."""
    match where:
        case And(filters) | Or(filters):
            return type(where)(tuple(renamed(part, paths) for part in filters))
        case Not(inner):
            return Not(renamed(inner, paths))
        case _OfField():
            return replace(where, path=paths[where.path])
    return where


def parse_path(path: str | Sequence[str]) -> Path:
    """The names of a path that is written with dots, or as a sequence.

    Raises:
        InvalidArgumentError: it is empty, or one of its names is, or none that UTF-8 can hold.
    """
    given: Any = path
    names = given.split(".") if isinstance(given, str) else given
    if not (isinstance(names, list | tuple) and names and all(map(_is_name, names))):
        raise InvalidArgumentError(
            f"{path!r} is no path of a field: write names joined by dots, such as result.score"
        )
    return tuple(names)


def _is_name(name: object) -> bool:
    """Whether a member of a document can have it: no text in JSON holds half a character."""
    if not isinstance(name, str) or not name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _written(path: Path) -> str | Path:
    return path if any("." in name for name in path) else ".".join(path)


_INDEX: Final = re.compile(r"-?[0-9]{1,9}")


def reader(path: Path) -> Getter:
    """Gets the value at the path out of a JSON value."""
    steps = [(name, int(name) if _INDEX.fullmatch(name) else None) for name in path]

    def get(value: Any) -> Any:
        for name, index in steps:
            if type(value) is dict:
                value = value.get(name, UNSET)
            elif index is not None and type(value) is list and -len(value) <= index < len(value):
                value = value[index]
            else:
                return UNSET
        return value

    return get


def _operand(value: object) -> Value:
    """What the value would be in a document; dates and times stay such."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, datetime):
        try:
            return _aware(value)
        except OverflowError:
            raise InvalidArgumentError(f"{value} is no date in UTC") from None
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"no document holds the number {value}: JSON does not have it")
    if isinstance(value, F | Filter):
        raise InvalidArgumentError("a field is compared with a value, not with another field or a filter")
    try:
        plain: Value = to_jsonable_python(value, round_trip=True)
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidArgumentError(
            f"a field cannot be compared with {type(value).__name__}: no JSON value is like it"
        ) from error
    return plain


_any: Final = SchemaSerializer(core_schema.any_schema(), core_schema.CoreConfig(ser_json_inf_nan="constants"))


def _forms(value: object) -> tuple[Value, ...]:
    """The operand as documents may have it: in those whose class leaves out what is unset (`__omit_unset__`), models in
    a field are without that, too."""
    whole = _operand(value)
    if not isinstance(whole, dict | list):
        return (whole,)
    given: Value = _any.to_python(value, mode="json", by_alias=True, exclude_unset=True, round_trip=True)
    return (whole,) if given == whole else (whole, given)


def _equals(path: Path, forms: tuple[Value, ...]) -> Filter:
    return Equals(path, *forms) if len(forms) == 1 else In(path, forms)


_OTHERWISE_ORDERED: Final = (Decimal, timedelta, IPv4Address, IPv6Address, IPv4Network, IPv6Network)
"""What is a text in a document, whose order as a text is not its own."""


def _orderable(value: object) -> str | int | float | datetime:
    plain = _operand(value)
    if (
        isinstance(value.value if isinstance(value, Enum) else value, _OTHERWISE_ORDERED)
        or isinstance(plain, bool)
        or not isinstance(plain, str | int | float | datetime)
    ):
        raise InvalidArgumentError(
            f"< <= > >= compare numbers, texts and dates; use == or in_ with {type(value).__name__}"
        )
    return plain


def _equal_to(wanted: Value) -> Test:
    if wanted is None:
        return lambda value: value is None or value is UNSET
    if isinstance(wanted, bool):
        return lambda value: value is wanted
    if isinstance(wanted, str):
        return lambda value: type(value) is str and value == wanted
    if isinstance(wanted, int | float):
        return lambda value: (type(value) is int or type(value) is float) and value == wanted
    if isinstance(wanted, datetime):
        return lambda value: _instant(value) == wanted
    return lambda value: _same(value, wanted)


def _same(left: Any, right: Any) -> bool:
    """Equality in which `true` is not 1."""
    if type(left) is list and type(right) is list:
        return len(left) == len(right) and all(map(_same, left, right))
    if type(left) is dict and type(right) is dict:
        return left.keys() == right.keys() and all(_same(value, right[name]) for name, value in left.items())
    return isinstance(left, bool) is isinstance(right, bool) and bool(left == right)


_DATE_AND_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}")


def order_key(value: Any) -> tuple[int, Any]:
    """The kind of a value, as a number, and what orders it among its kind.

    The kinds in their order: booleans, numbers, texts that are ISO 8601 dates with a time, other texts, lists
    and objects (which have no order), null and missing.
    """
    kind = type(value)
    if kind is str:
        if _DATE_AND_TIME.match(value):
            instant = _instant(value)
            if instant is not None:
                since = instant - _EPOCH
                return 2, (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
        return 3, value
    if kind is int or kind is float:
        return 1, value
    if kind is bool:
        return 0, int(value)
    return (5 if value is None or value is UNSET else 4), 0


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(value: Any) -> datetime | None:
    if type(value) is not str:
        return None
    try:
        return _aware(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None


def _aware(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
