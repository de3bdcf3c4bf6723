"""What a model class says about its documents: under which names its fields stand, and where further models
lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel

from statepath.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """An object of a model class. Its fields are looked up later, since models may contain themselves."""

    model: type[BaseModel]


@dataclass(frozen=True, slots=True)
class ListShape:
    element: Shape


@dataclass(frozen=True, slots=True)
class DictShape:
    value: Shape


Shape: TypeAlias = ObjectShape | ListShape | DictShape


def shape_of(annotation: Any) -> Shape | None:
    """Where models lie in a value of this type; `None`: nowhere, or it cannot be told which."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if issubclass(annotation, RootModel):
            return shape_of(annotation.model_fields["root"].annotation)
        return ObjectShape(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shape_of(arguments[0])
    if origin in (Union, UnionType):
        shapes = {shape for argument in arguments if (shape := shape_of(argument)) is not None}
        return shapes.pop() if len(shapes) == 1 else None
    if not isinstance(origin, type):
        return None
    if issubclass(origin, Mapping):
        value = shape_of(arguments[1])
        return None if value is None else DictShape(value)
    if issubclass(origin, Iterable) and (len(arguments) == 1 or arguments[1:] == (...,)):
        element = shape_of(arguments[0])
        return None if element is None else ListShape(element)
    return None


def models_in(shape: Shape) -> type[BaseModel]:
    """The model class at the end of the lists and dicts."""
    while not isinstance(shape, ObjectShape):
        shape = shape.element if isinstance(shape, ListShape) else shape.value
    return shape.model


@cache
def stored_fields(model: type[BaseModel]) -> Mapping[str, Shape | None]:
    """The names under which documents are written, which are the aliases, and the shape of each."""
    return {
        info.serialization_alias or name: shape_of(info.annotation)
        for name, info in model.model_fields.items()
    }


@cache
def known_names(model: type[BaseModel]) -> frozenset[str]:
    """Every name under which a field of the model may stand in a document."""
    names = {*model.model_fields, *stored_fields(model), *model.model_computed_fields}
    for info in model.model_fields.values():
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
        InvalidArgumentError: a model on the way has no such field, and takes no others.
    """
    shape, stored = shape_of(model), []
    for name in path:
        match shape:
            case ObjectShape(inner):
                info, fields = inner.model_fields.get(name), stored_fields(inner)
                written = info.serialization_alias if info and info.serialization_alias else name
                if written not in fields and extra(inner) != "allow":
                    raise _unknown(inner, name)
                shape = fields.get(written)
                stored.append(written)
            case ListShape(inner_shape) | DictShape(inner_shape):
                shape = inner_shape
                stored.append(name)
            case None:
                stored.append(name)
    return tuple(stored)


def _unknown(model: type[BaseModel], name: str) -> InvalidArgumentError:
    near = get_close_matches(name, model.model_fields, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(model.model_fields)}"
    return InvalidArgumentError(f"{model.__name__} has no field {name!r}; {hint}")
