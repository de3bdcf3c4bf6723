"""What the lists of a model class take: an element is checked where it is appended, without the list before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from statepath.engine.rereading import loss_of, names_read
from statepath.engine.schema import fields_of, stored_path
from statepath.errors import InvalidArgumentError


def stored_list(model: type[BaseModel], field: str, element: bytes, key: str) -> str:
    """The name under which the field is stored, if the model reads its list again with this JSON at the end.

    What the model says of the whole list (its length, a validator of the field) is not asked: that would cost the more
    the longer the list is.

    Parameters:
        field: as the model names it, or as it is stored.
        key: the document's name, for messages.

    Raises:
        InvalidArgumentError: there is no such field, it holds no list, or none with this element, or the model does not
            read again what it writes; says why.
    """
    if (loss := loss_of(model)) is not None:
        raise InvalidArgumentError(f"{key}: {loss.cause}; {loss.remedy}", key=key)
    stored, readers = _field(model, field)
    refused: ValidationError | None = None
    for reader in readers:
        try:
            # In a list of its own: to a bare model the settings of another one could not be given.
            reader.validate_json(b"[[%s]]" % element)
        except ValidationError as error:
            refused = refused or error
        else:
            return stored
    if refused is not None:
        raise _refusal(refused, model, field, key)
    return stored


@lru_cache(maxsize=1024)
def earlier_names(model: type[BaseModel], stored: str) -> frozenset[str]:
    """Under which names the model reads the field that it stores under this one, too."""
    return frozenset(
        other
        for name, info in fields_of(model).items()
        if stored == (info.serialization_alias or name)
        for other in names_read(model, name, info)
    ) - {stored}


@lru_cache(maxsize=1024)
def _field(model: type[BaseModel], field: str) -> tuple[str, tuple[TypeAdapter[Any], ...]]:
    """The name under which the field is stored, and what tells whether it may hold a list of one element, by each type
    that it may have. None: the model leaves it open, or only a validator of its own knows."""
    (stored,) = stored_path(model, (field,))
    for name, info in fields_of(model).items():
        if stored == (info.serialization_alias or name):
            try:
                readers = [
                    TypeAdapter(list[kind], config=model.model_config)  # type: ignore[valid-type]
                    for kind in _kinds(info.annotation)
                ]
            except PydanticSchemaGenerationError:
                break
            return stored, tuple(readers)
    return stored, ()


def _refusal(error: ValidationError, model: type[BaseModel], field: str, key: str) -> InvalidArgumentError:
    faults = [(fault["loc"][1:], fault["msg"]) for fault in error.errors(include_input=False)]
    if any(not place for place, _ in faults):
        cause = f"{key}: field {field!r} does not hold a list, says {model.__name__}, so nothing can be appended to it"
        return InvalidArgumentError(cause, key=key)
    told = "; ".join(
        f"{'.'.join(map(str, place[1:]))}: {message}" if place[1:] else message for place, message in faults
    )
    return InvalidArgumentError(
        f"{key}: {model.__name__} does not take this element in {field!r}: {told}; append one that it takes",
        key=key,
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types of a field, each without what it says of a whole list; lists first."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin in (Union, UnionType):
        kinds: list[Any] = [kind for argument in arguments for kind in _kinds(argument)]
        yield from sorted(kinds, key=_is_no_list)
    elif (
        isinstance(origin, type)
        and issubclass(origin, Iterable)
        and not issubclass(origin, Mapping)
        and (len(arguments) == 1 or arguments[1:] == (...,))
    ):
        yield list[arguments[0]]  # type: ignore[valid-type]
    elif annotation is not NoneType:
        yield annotation


def _is_no_list(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is not list
