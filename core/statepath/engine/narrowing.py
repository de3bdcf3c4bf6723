"""Whether a value is written whole: pydantic writes what a field holds by the field's type, so it leaves out what a
subclass adds, without a word."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from itertools import count
from types import NoneType
from typing import Any, Final, NamedTuple, Protocol

from pydantic import BaseModel

_NOTHING: Final = frozenset({NoneType})
_JSON: Final = frozenset({NoneType, str, int, float, bool})
_LISTS: Final = (list, tuple, set, frozenset, deque)
_KINDS: Final = {kind.__name__: (kind,) for kind in _LISTS}
_ANY: Final = {"type": "any"}


class Narrowed(NamedTuple):
    """A value within another one that would be written as one of another class, without some of its fields."""

    place: str
    held: type
    declared: type
    names: tuple[str, ...]

    def at(self, place: str) -> Narrowed:
        return self._replace(place=place + self.place)

    @property
    def told(self) -> tuple[str, str]:
        """What is wrong, and what can be done about it."""
        held, declared, place = self.held.__name__, self.declared.__name__, self.place.removeprefix(".")
        names = ", ".join(map(repr, self.names))
        return (
            f"the field {place!r} holds a {held} and would be written as {declared}, without {names}",
            f"declare it as {declared} | {held}, or as SerializeAsAny[{declared}] to store what only {held} reads",
        )


class Look(Protocol):
    """Looks through the values of a type.

    Attributes:
        sure: the classes of values that need no look.
    """

    @property
    def sure(self) -> frozenset[type]: ...

    def takes(self, value: object, *, exactly: bool) -> bool:
        """Whether the value is written by this type, where it may be of several."""
        ...

    def narrowed(self, value: Any) -> Narrowed | None:
        """The first part of the value that would not be written whole."""
        ...


@lru_cache(maxsize=1024)
def look_of(model: type) -> Look | None:
    """How to look through values of a class that pydantic writes; `None`: they need none."""
    schema: Any = model.__pydantic_core_schema__  # type: ignore[attr-defined]  # a model, or a dataclass of pydantic's
    look = _Reader().look(schema)
    return None if look is None or model in look.sure else look


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of a class: a model, or a dataclass."""

    kind: type
    inner: Mapping[str, Look]
    extra: Look | None
    keeps_extra: bool
    polymorphic: bool
    sure: frozenset[type]

    def takes(self, value: object, *, exactly: bool) -> bool:
        return type(value) is self.kind if exactly else isinstance(value, self.kind)

    def narrowed(self, value: Any) -> Narrowed | None:
        kind: Any = type(value)
        if kind is not self.kind:
            if self.polymorphic and issubclass(kind, self.kind):
                return _ANYTHING.narrowed(value)
            added = _added(kind, self.kind) or self._beside(value)
            if added:
                return Narrowed("", kind, self.kind, added)
        for name, look in self.inner.items():
            member = getattr(value, name, None)
            if type(member) not in look.sure and (found := look.narrowed(member)) is not None:
                return found.at(f".{name}")
        if self.extra is not None and (more := getattr(value, "__pydantic_extra__", None)):
            return _among(more.values(), self.extra, ".{}", more)
        return None

    def _beside(self, value: Any) -> tuple[str, ...]:
        return () if self.keeps_extra else tuple(getattr(value, "__pydantic_extra__", None) or ())


@dataclass(frozen=True, slots=True)
class _Members:
    """A dict whose members each have a type of their own."""

    inner: Mapping[str, Look]
    names: Collection[str]
    extra: Look | None

    sure = _NOTHING

    def takes(self, value: object, *, exactly: bool) -> bool:
        return isinstance(value, dict) and all(
            look.takes(value[name], exactly=exactly) for name, look in self.inner.items() if name in value
        )

    def narrowed(self, value: Any) -> Narrowed | None:
        if not isinstance(value, dict):
            return None
        for name, look in self.inner.items():
            if (found := look.narrowed(value.get(name))) is not None:
                return found.at(f".{name}")
        if self.extra is None:
            return None
        more = {name: member for name, member in value.items() if name not in self.names}
        return _among(more.values(), self.extra, ".{}", more)


@dataclass(frozen=True, slots=True)
class _Places:
    """A tuple whose elements each have a type of their own."""

    inner: tuple[Look | None, ...]

    sure = _NOTHING

    def takes(self, value: object, *, exactly: bool) -> bool:
        return isinstance(value, tuple) and all(
            look is None or look.takes(element, exactly=exactly)
            for element, look in zip(value, self.inner, strict=False)
        )

    def narrowed(self, value: Any) -> Narrowed | None:
        if isinstance(value, tuple):
            for place, (element, look) in enumerate(zip(value, self.inner, strict=False)):
                if look is not None and (found := look.narrowed(element)) is not None:
                    return found.at(f"[{place}]")
        return None


@dataclass(frozen=True, slots=True)
class _Elements:
    """A list, or what is written as one, or a dict: all that is in it has one type."""

    kinds: tuple[type, ...]
    element: Look

    sure = _NOTHING

    def takes(self, value: Any, *, exactly: bool) -> bool:
        if not self._holds(value):
            return False
        elements = value.values() if isinstance(value, dict) else value
        return all(self.element.takes(element, exactly=exactly) for element in elements)

    def narrowed(self, value: Any) -> Narrowed | None:
        if not self._holds(value):
            return None
        if isinstance(value, dict):
            return _among(value.values(), self.element, ".{}", value)
        return _among(value, self.element, "[{}]", count())

    def _holds(self, value: object) -> bool:
        return isinstance(value, self.kinds)


@dataclass(frozen=True, slots=True)
class _Choice:
    """A value of one of several types: of that which is its class, else of the first that takes it.

    Attributes:
        others: it may be of a type that needs no look, too.
    """

    among: tuple[Look, ...]
    others: bool
    sure: frozenset[type]

    def takes(self, value: object, *, exactly: bool) -> bool:
        return self.others or any(look.takes(value, exactly=exactly) for look in self.among)

    def narrowed(self, value: Any) -> Narrowed | None:
        exact = [look.narrowed(value) for look in self.among if look.takes(value, exactly=True)]
        if exact:
            return None if None in exact else exact[0]
        return next((look.narrowed(value) for look in self.among if look.takes(value, exactly=False)), None)


@dataclass(frozen=True, slots=True)
class _Anything:
    """A value that is written by its own class."""

    sure = _JSON

    def takes(self, value: object, *, exactly: bool) -> bool:
        return True

    def narrowed(self, value: Any) -> Narrowed | None:
        kind: Any = type(value)
        if _are_json((value,)):
            return None
        if isinstance(value, dict):
            return _among(value.values(), self, ".{}", value)
        if isinstance(value, _LISTS):
            return _among(value, self, "[{}]", count())
        if hasattr(kind, "__pydantic_core_schema__"):
            look = look_of(kind)
            return None if look is None else look.narrowed(value)
        if is_dataclass(kind):
            members = {field.name: getattr(value, field.name, None) for field in fields(kind)}
            return _among(members.values(), self, ".{}", members)
        return None


_ANYTHING: Final = _Anything()


@dataclass(frozen=True, slots=True)
class _Own:
    """A value that is written by a serializer which is not pydantic's: one of a class, or whatever it may be."""

    kind: type = object

    sure = _NOTHING

    def takes(self, value: object, *, exactly: bool) -> bool:
        return (
            type(value) is self.kind if exactly and self.kind is not object else isinstance(value, self.kind)
        )

    def narrowed(self, value: Any) -> Narrowed | None:
        return None


@dataclass(slots=True)
class _Later:
    """A type that contains itself."""

    look: Look | None = None

    sure = _NOTHING

    def takes(self, value: object, *, exactly: bool) -> bool:
        return self.look is not None and self.look.takes(value, exactly=exactly)

    def narrowed(self, value: Any) -> Narrowed | None:
        return None if self.look is None else self.look.narrowed(value)


def _among(values: Collection[Any], look: Look, place: str, names: Iterable[object]) -> Narrowed | None:
    if look.sure.issuperset(map(type, values)):
        return None
    for name, value in zip(names, values, strict=False):
        if type(value) not in look.sure and (found := look.narrowed(value)) is not None:
            return found.at(place.format(name))
    return None


def _are_json(values: Iterable[Any]) -> bool:
    """Whether there are but JSON's own types in them, which is quickly told."""
    for value in values:
        kind = type(value)
        if kind in _JSON:
            continue
        if kind is not dict and kind is not list:
            return False
        if not _are_json(value.values() if kind is dict else value):
            return False
    return True


@lru_cache(maxsize=1024)
def _added(kind: type, declared: type) -> tuple[str, ...]:
    """The fields that a subclass writes and its base does not know."""
    known = _fields(declared)
    return tuple(name for name in _fields(kind) if name not in known)


def _fields(kind: type) -> Collection[str]:
    if issubclass(kind, BaseModel):
        return [name for name, info in kind.model_fields.items() if not info.exclude]
    return [field.name for field in fields(kind)] if is_dataclass(kind) else ()


class _Reader:
    """Reads a core schema, which says how pydantic writes each type."""

    def __init__(self) -> None:
        self._schemas: dict[str, Any] = {}
        self._named: dict[str, Look | None] = {}

    def look(self, schema: Any) -> Look | None:
        writer = schema.get("serialization")
        if writer is not None and not _is_pydantics(writer):
            return None
        match writer:
            case {"type": "any"}:
                return _ANYTHING
            case {"function": function, "schema": inner}:
                inner_look = self.look(inner)
                return _elements(_LISTS, inner_look) if _writes_elements(function) else inner_look
        match schema:
            case {"type": "definitions", "definitions": definitions, "schema": inner}:
                self._schemas |= {definition["ref"]: definition for definition in definitions}
                return self.look(inner)
            case {"type": "definition-ref", "schema_ref": name}:
                return self._by_name(name)
            case {"type": "any" | "call"}:
                return _ANYTHING
            case {"type": "model" | "dataclass", "cls": kind, "schema": inner}:
                return self._object(kind, schema, inner)
            case {"type": "typed-dict", "fields": members}:
                looks, extra = self._looks(members), self._extra(schema, schema)
                return _Members(looks, members.keys(), extra) if looks or extra is not None else None
            case {"type": "tuple", "items_schema": items} if "variadic_item_index" not in schema:
                return self._places(items)
            case {"type": "named-tuple", "fields": members}:
                return self._places([member["schema"] for member in members])
            case {"type": "list" | "set" | "frozenset" | "tuple" | "deque" as name}:
                items = schema.get("items_schema", _ANY)
                return _elements(_KINDS[name], self._one_of(items if isinstance(items, list) else [items]))
            case {"type": "dict" | "ordered-dict"}:
                return _elements((dict,), self.look(schema.get("values_schema", _ANY)))
            case {"type": "union", "choices": choices}:
                return self._one_of(choices)
            case {"type": "tagged-union", "choices": choices}:
                return self._one_of(choices.values())
            case {"type": "json-or-python", "python_schema": {"custom_error_type": "invalid-json-value"}}:
                return None  # a `JsonValue`, which holds no objects
            case {"type": "json-or-python", "json_schema": inner} | {"schema": dict() as inner}:
                return self.look(inner)
        return None

    def _by_name(self, name: str) -> Look | None:
        if name not in self._named:
            self._named[name] = later = _Later()
            self._named[name] = later.look = self.look(self._schemas[name])
        return self._named[name]

    def _object(self, kind: type, schema: Any, inner: Any) -> Look | None:
        if schema.get("root_model"):
            inner = {"fields": {"root": {"schema": inner}}}
        while "fields" not in inner and isinstance(inner.get("schema"), dict):
            inner = inner["schema"]
        if "fields" not in inner:
            return None  # the class has a way of its own
        members, config = inner["fields"], schema.get("config") or {}
        if not isinstance(members, dict):
            members = {member["name"]: member for member in members}
        extra = self._extra(schema, inner)
        keeps_extra = _keeps_extra(schema, inner)
        polymorphic = config.get("polymorphic_serialization", False)
        looks = self._looks(members)
        sure = _NOTHING if looks or extra is not None else _NOTHING | {kind}
        return _Object(kind, looks, extra, keeps_extra, polymorphic, sure)

    def _extra(self, schema: Any, inner: Any) -> Look | None:
        return self.look(inner.get("extras_schema", _ANY)) if _keeps_extra(schema, inner) else None

    def _looks(self, members: Mapping[str, Any]) -> dict[str, Look]:
        written = {
            name: member for name, member in members.items() if not member.get("serialization_exclude")
        }
        return {
            name: look
            for name, member in written.items()
            if (look := self.look(member["schema"])) is not None
        }

    def _places(self, schemas: Iterable[Any]) -> Look | None:
        looks = tuple(map(self.look, schemas))
        return _Places(looks) if any(looks) else None

    def _one_of(self, choices: Iterable[Any]) -> Look | None:
        schemas = [choice[0] if isinstance(choice, tuple) else choice for choice in choices]
        schemas = [schema for schema in schemas if isinstance(schema, dict)]
        looks = [self.look(schema) or self._own(schema) for schema in schemas]
        among = tuple(look for look in looks if look is not None)
        if all(isinstance(look, _Own) for look in among):
            return None
        if len(looks) == 1:
            return looks[0]
        return _Choice(among, None in looks, frozenset[type]().union(*(look.sure for look in among)))

    def _own(self, schema: Any) -> Look | None:
        """For a choice that needs no look: what it takes, where it has a serializer of its own."""
        if schema["type"] == "definition-ref":
            schema = self._schemas[schema["schema_ref"]]
        if schema["type"] in ("model", "dataclass"):
            return _Own(schema["cls"])
        writer = schema.get("serialization")
        return None if writer is None or _is_pydantics(writer) else _Own()


def _elements(kinds: tuple[type, ...], element: Look | None) -> Look | None:
    return None if element is None else _Elements(kinds, element)


def _is_pydantics(writer: Any) -> bool:
    function = writer.get("function")
    return function is None or getattr(function, "__module__", "").startswith("pydantic.")


def _writes_elements(function: Any) -> bool:
    return getattr(function, "__name__", "") == "serialize_sequence_via_list"


def _keeps_extra(schema: Any, inner: Any) -> bool:
    behavior = inner.get("extra_behavior") or (schema.get("config") or {}).get("extra_fields_behavior")
    return bool(behavior == "allow")
