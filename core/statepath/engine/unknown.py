"""Fields that a model class does not know survive when a document is replaced by an older program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

import msgspec
from msgspec import Raw
from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, ValidationError
from pydantic_core import PydanticSerializationError

_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, Raw])
_elements = msgspec.json.Decoder(list[Raw])


def keep_unknown(new: bytes, old: bytes, model: type[BaseModel]) -> bytes:
    """`new`, with those fields of `old` that the model class does not know, byte for byte.

    Models inside the model are treated alike, also in lists and dicts. Elements of a list belong together if
    their `id` is the same, else if they are equal as far as the model knows, else by their place in lists of
    one length. Models that keep unknown fields themselves (`extra="allow"`) or refuse them (`extra="forbid"`)
    get none.
    """
    shape = _object_shape(model)
    if not _keeps(model):
        return new
    return _merge(new, old, shape) or new


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of a model class. Its fields are looked up later, since models may contain themselves."""

    model: type[BaseModel]


@dataclass(frozen=True, slots=True)
class _List:
    element: _Shape


@dataclass(frozen=True, slots=True)
class _Dict:
    value: _Shape


_Shape: TypeAlias = _Object | _List | _Dict


def _object_shape(model: type[BaseModel]) -> _Shape | None:
    if issubclass(model, RootModel):
        return _shape(model.model_fields["root"].annotation)
    return _Object(model)


def _shape(annotation: Any) -> _Shape | None:
    """Where models lie in a value of this type; `None`: nowhere, or it cannot be told which."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _object_shape(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0])
    if origin in (Union, UnionType):
        shapes = {shape for argument in arguments if (shape := _shape(argument)) is not None}
        return shapes.pop() if len(shapes) == 1 else None
    if not isinstance(origin, type):
        return None
    if issubclass(origin, Mapping):
        value = _shape(arguments[1])
        return None if value is None else _Dict(value)
    if issubclass(origin, Iterable) and (len(arguments) == 1 or arguments[1:] == (...,)):
        element = _shape(arguments[0])
        return None if element is None else _List(element)
    return None


@cache
def _known(model: type[BaseModel]) -> frozenset[str]:
    """Every name under which a field of the model may stand in a document."""
    names: set[str] = set(model.model_computed_fields)
    for name, info in model.model_fields.items():
        names.add(name)
        for alias in (info.alias, info.validation_alias, info.serialization_alias):
            choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
            for choice in choices:
                first = choice.path[0] if isinstance(choice, AliasPath) else choice
                if isinstance(first, str):
                    names.add(first)
    for computed in model.model_computed_fields.values():
        if computed.alias:
            names.add(computed.alias)
    return frozenset(names)


@cache
def _inner(model: type[BaseModel]) -> Mapping[str, _Shape]:
    """The members of a document in which further models lie."""
    shapes: dict[str, _Shape] = {}
    for name, info in model.model_fields.items():
        shape = _shape(info.annotation)
        if shape is not None and any(_keeps(inner) for inner in _models(shape)):
            shapes[info.serialization_alias or name] = shape
    return shapes


def _models(shape: _Shape) -> tuple[type[BaseModel], ...]:
    match shape:
        case _Object(model):
            return (model,)
        case _List(inner) | _Dict(inner):
            return _models(inner)


def _drops(model: type[BaseModel]) -> bool:
    return model.model_config.get("extra", "ignore") == "ignore"


@cache
def _keeps(model: type[BaseModel]) -> bool:
    """Whether a document of this model may have unknown fields that only `keep_unknown` would keep."""
    seen: set[type[BaseModel]] = set()
    pending = [model]
    while pending:
        model = pending.pop()
        if model in seen:
            continue
        seen.add(model)
        if _drops(model) and not issubclass(model, RootModel):
            return True
        for info in model.model_fields.values():
            shape = _shape(info.annotation)
            if shape is not None:
                pending.extend(_models(shape))
    return False


def _merge(new: bytes, old: bytes, shape: _Shape | None) -> bytes | None:
    """`new` with the unknown fields of `old`; `None`: there are none to add."""
    kinds = (new[:1], old[:1])
    match shape:
        case _Object(model) if kinds == (b"{", b"{"):
            return _merge_members(_members.decode(new), _members.decode(old), model)
        case _Dict(value) if kinds == (b"{", b"{"):
            members, before = _members.decode(new), _members.decode(old)
            changed = False
            for name, member in members.items():
                if name in before:
                    merged = _merge(bytes(member), bytes(before[name]), value)
                    if merged is not None:
                        members[name] = Raw(merged)
                        changed = True
            return _encoder.encode(members) if changed else None
        case _List(element) if kinds == (b"[", b"["):
            return _merge_elements(new, old, element)
        case _:
            return None


def _merge_members(new: dict[str, Raw], old: dict[str, Raw], model: type[BaseModel]) -> bytes | None:
    changed = False
    for name, shape in _inner(model).items():
        if name in new and name in old:
            merged = _merge(bytes(new[name]), bytes(old[name]), shape)
            if merged is not None:
                new[name] = Raw(merged)
                changed = True
    if _drops(model):
        known = _known(model)
        for name, member in old.items():
            if name not in known and name not in new:
                new[name] = member
                changed = True
    return _encoder.encode(new) if changed else None


def _merge_elements(new: bytes, old: bytes, shape: _Shape) -> bytes | None:
    after = [bytes(element) for element in _elements.decode(new)]
    before = [bytes(element) for element in _elements.decode(old)]
    changed = False
    for place, partner in _partners(after, before, shape):
        merged = _merge(after[place], before[partner], shape)
        if merged is not None:
            after[place] = merged
            changed = True
    return b"[%s]" % b",".join(after) if changed else None


def _partners(after: list[bytes], before: list[bytes], shape: _Shape) -> Iterator[tuple[int, int]]:
    """Which element of the new list is which of the old one."""
    left = {place: _identity(element, shape) for place, element in enumerate(before)}
    open_places = []
    for place, element in enumerate(after):
        mine = _identity(element, shape)
        partner = next((other for other, theirs in left.items() if theirs == mine), None)
        if partner is None:
            open_places.append(place)
        else:
            del left[partner]
            yield place, partner
    if len(after) == len(before):
        yield from ((place, place) for place in open_places if place in left)


def _identity(element: bytes, shape: _Shape) -> Any:
    if isinstance(shape, _Object) and element[:1] == b"{":
        model = shape.model
        members = _members.decode(element)
        if "id" in model.model_fields and "id" in members:
            return bytes(members["id"])
        try:
            return model.model_validate_json(element).model_dump_json(
                by_alias=True, round_trip=True, warnings=False
            )
        except (ValidationError, PydanticSerializationError):
            return element
    return element
