"""What a model class says about its documents: under which names its fields stand, and where further models
lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import PurePath
from re import Pattern
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NewType, TypeAlias, Union, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import Raw
from pydantic import AliasChoices, AliasPath, AnyUrl, BaseModel, RootModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from statepath.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """An object of a model class. Its fields are looked up later, since models may contain themselves. Where it is not
    `alone`, there may be an object of another kind in its place, as in `Result | dict[str, Any]`."""

    model: type[BaseModel]
    alone: bool = True


@dataclass(frozen=True, slots=True)
class ListShape:
    element: Shape


@dataclass(frozen=True, slots=True)
class DictShape:
    value: Shape


@dataclass(frozen=True, slots=True)
class ChoiceShape:
    """An object of one of several model classes, which `told_apart` may tell by its members."""

    models: tuple[type[BaseModel], ...]


Shape: TypeAlias = ObjectShape | ListShape | DictShape | ChoiceShape


def shape_of(annotation: Any) -> Shape | None:
    """Where models lie in a value of this type; `None`: nowhere, or it cannot be told which."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if issubclass(annotation, RootModel):
            return shape_of(fields_of(annotation)["root"].annotation)
        return ObjectShape(annotation)
    if (named := _named(annotation)) is not None:
        return None if annotation in types_in(named) else shape_of(named)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (Union, UnionType):
        return _shape_of_one(arguments)
    if not isinstance(origin, type):
        return None
    if issubclass(origin, Mapping):
        value = shape_of(arguments[1])
        return None if value is None else DictShape(value)
    if issubclass(origin, Iterable) and (len(arguments) == 1 or arguments[1:] == (...,)):
        element = shape_of(arguments[0])
        return None if element is None else ListShape(element)
    return None


def types_in(annotation: Any, *, unless: Callable[[Any], bool] = lambda mark: False) -> list[Any]:
    """The type, and those that it is made of; of a type with a name of its own, those behind the name, too. What is
    annotated with a mark of which `unless` is true is left out."""
    found: list[Any] = [annotation]
    for one in found:
        inner = get_args(one)
        if get_origin(one) is Annotated:
            inner = () if any(map(unless, inner[1:])) else inner[:1]
        found += [kind for kind in (*inner, _named(one)) if kind is not None and kind not in found]
    return found


def _named(annotation: Any) -> Any:
    """What a type alias or a `NewType` is the name of: of aliases, typing and typing_extensions each have a class."""
    if isinstance(annotation, type):
        return None
    return (
        annotation.__supertype__
        if isinstance(annotation, NewType)
        else getattr(annotation, "__value__", None)
    )


_PLAIN: Final = (
    *(NoneType, str, bytes, int, float, Decimal, date, time, timedelta, UUID, Enum, PurePath, Pattern),
    *(IPv4Address, IPv6Address, IPv4Network, IPv6Network, AnyUrl, SecretStr, SecretBytes),
)
"""What is neither an object nor a list in JSON."""


def _shape_of_one(kinds: tuple[Any, ...]) -> Shape | None:
    """Where models lie in a value that is of one of these types."""
    shapes = list(dict.fromkeys(shape for kind in kinds if (shape := shape_of(kind)) is not None))
    if not shapes:
        return None
    shape = shapes[0] if len(shapes) == 1 else _choice(shapes)
    if shape is not None and any(shape_of(kind) is None and _rivals(kind, shape) for kind in kinds):
        return _shared(shape)
    return shape


def _choice(shapes: list[Shape]) -> Shape | None:
    models = [shape.model for shape in shapes if isinstance(shape, ObjectShape) and shape.alone]
    return ChoiceShape(tuple(models)) if len(models) == len(shapes) else None


def _rivals(kind: Any, shape: Shape) -> bool:
    """Whether a value of the type may look like one of the shape."""
    if (named := _named(kind)) is not None:
        return kind in types_in(named) or _rivals(named, shape)
    origin = get_origin(kind) or kind
    if origin is Annotated:
        return _rivals(get_args(kind)[0], shape)
    if origin in (Union, UnionType):
        return any(_rivals(one, shape) for one in get_args(kind))
    if origin is Literal:
        return False
    if isinstance(origin, type):
        if issubclass(origin, _PLAIN):
            return False
        if issubclass(origin, Iterable):
            return issubclass(origin, Mapping) is not isinstance(shape, ListShape)
    return True


def _shared(shape: Shape) -> Shape | None:
    match shape:
        case ListShape(element):
            inner = _shared(element)
            return None if inner is None else ListShape(inner)
        case DictShape(value):
            inner = _shared(value)
            return None if inner is None else DictShape(inner)
        case ObjectShape():
            return replace(shape, alone=False)
        case ChoiceShape():
            return None


def models_in(shape: Shape | None) -> tuple[type[BaseModel], ...]:
    """The model classes at the end of the lists and dicts, if nothing else can stand there."""
    match shape:
        case ListShape(inner) | DictShape(inner):
            return models_in(inner)
        case ObjectShape(model, alone):
            return (model,) if alone else ()
        case ChoiceShape(models):
            return models
        case None:
            return ()


def told_apart(models: Iterable[type[BaseModel]], members: Mapping[str, Raw]) -> type[BaseModel] | None:
    """The one of the model classes whose `Literal` fields are as those of the object; `None`: that tells none, or
    several."""
    fitting = [
        model
        for model in models
        if (tags := _tags(model))
        and all(bytes(members.get(name, b"")) in texts for name, texts in tags.items())
    ]
    return fitting[0] if len(fitting) == 1 else None


@lru_cache(maxsize=1024)
def _tags(model: type[BaseModel]) -> Mapping[str, frozenset[bytes]]:
    """What the fields that take certain values only may be, as JSON."""
    return {
        info.serialization_alias or name: frozenset(map(msgspec.json.encode, get_args(info.annotation)))
        for name, info in fields_of(model).items()
        if get_origin(info.annotation) is Literal
    }


def fields_of(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields of the model, also where types are named in it that are defined behind it."""
    if not model.__pydantic_complete__:
        # pydantic does so at the first value, which a query or an append may be before.
        model.model_rebuild(raise_errors=False)
    return model.model_fields


@lru_cache(maxsize=1024)
def stored_fields(model: type[BaseModel]) -> Mapping[str, Shape | None]:
    """The names under which documents are written, which are the aliases, and the shape of each."""
    return {
        info.serialization_alias or name: shape_of(info.annotation) for name, info in fields_of(model).items()
    }


@lru_cache(maxsize=1024)
def certain_fields(model: type[BaseModel]) -> Mapping[str, Shape | None]:
    """As `stored_fields`, without the shapes of what may be something else."""
    return {name: shape if models_in(shape) else None for name, shape in stored_fields(model).items()}


@lru_cache(maxsize=1024)
def known_names(model: type[BaseModel]) -> frozenset[str]:
    """Every name under which a field of the model may stand in a document."""
    names = {*fields_of(model), *stored_fields(model), *model.model_computed_fields}
    for info in fields_of(model).values():
        alias = info.validation_alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            first = choice.path[0] if isinstance(choice, AliasPath) else choice
            if isinstance(first, str):
                names.add(first)
    return frozenset(
        names | {computed.alias for computed in model.model_computed_fields.values() if computed.alias}
    )


def extra(model: type[BaseModel]) -> str:
    """What the model does with fields that it does not know: `ignore`, `allow` or `forbid`."""
    return model.model_config.get("extra") or "ignore"


def stored_path(model: type[BaseModel], path: tuple[str, ...]) -> tuple[str, ...]:
    """The path of a field in stored documents, from one in the names of the model's fields or in aliases.

    Raises:
        InvalidArgumentError: a model on the way has no such field, and takes no others, or excludes it from what is
            stored; or it is within a list, and not within one of its elements.
    """
    shape = shape_of(model)
    stored: list[str] = []
    within_list = False
    for name in path:
        if within_list and not _PLACE.fullmatch(name):
            raise _needs_place(stored, name)
        within_list = False
        match shape:
            case ObjectShape(inner, alone):
                info, fields = _field_named(inner, name), stored_fields(inner)
                written = info.serialization_alias if info and info.serialization_alias else name
                if written not in fields and alone and extra(inner) != "allow":
                    raise _unknown(inner, name)
                if info is not None and info.exclude and alone:
                    raise InvalidArgumentError(
                        f"{inner.__name__} does not store its field {name!r}: it is excluded"
                    )
                shape = fields.get(written)
                stored.append(written)
                within_list = info is not None and _is_list(inner, info)
            case ListShape(inner_shape) | DictShape(inner_shape):
                shape = inner_shape
                stored.append(name)
            case ChoiceShape() | None:
                shape = None
                stored.append(name)
    return tuple(stored)


def _field_named(model: type[BaseModel], name: str) -> FieldInfo | None:
    """The field of that name or, if there is none, alias."""
    fields = fields_of(model)
    return fields.get(name) or next(
        (info for info in fields.values() if info.serialization_alias == name), None
    )


_PLACE: Final = re.compile(r"-?[0-9]+")


def _is_list(model: type[BaseModel], info: FieldInfo) -> bool:
    """Whether the field is a list in JSON, or null, and nothing else; where a serializer writes it, that is open."""
    own = model.__pydantic_decorators__
    return not (
        own.model_serializers or own.field_serializers or model.model_config.get("json_encoders")
    ) and _makes_list(Annotated[info.annotation, None, *info.metadata])


def _makes_list(annotation: Any) -> bool:
    if (named := _named(annotation)) is not None:
        return annotation not in types_in(named) and _makes_list(named)
    origin, arguments = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return not any(map(_has_own_schema, arguments[1:])) and _makes_list(arguments[0])
    if origin in (Union, UnionType):
        return all(kind is NoneType or _makes_list(kind) for kind in arguments)
    return (
        isinstance(origin, type)
        and issubclass(origin, Sequence | Set)
        and not issubclass(origin, str | bytes)
        and not _has_own_schema(origin)
    )


def _has_own_schema(kind: Any) -> bool:
    return hasattr(kind, "__get_pydantic_core_schema__")


def _needs_place(stored: Sequence[str], name: str) -> InvalidArgumentError:
    field = ".".join(stored)
    return InvalidArgumentError(
        f"{field} is a list, and {name!r} no place in it: name an element by its place, such as {field}.0.{name} or "
        f"{field}.-1.{name} for the last; for whatever element it is, look through the documents"
    )


def _unknown(model: type[BaseModel], name: str) -> InvalidArgumentError:
    near = get_close_matches(name, model.model_fields, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(model.model_fields)}"
    return InvalidArgumentError(f"{model.__name__} has no field {name!r}; {hint}")
