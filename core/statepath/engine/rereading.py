"""Whether a model class reads again what it writes. Where it does not, a put would lose a value without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple, get_origin

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    Secret,
    SecretBytes,
    SecretStr,
    WrapSerializer,
    WrapValidator,
)
from pydantic.fields import FieldInfo

from statepath.engine.schema import fields_of, types_in

_SECRETS: Final = (Secret, SecretStr, SecretBytes)
_WRITERS: Final = (PlainSerializer, WrapSerializer)
_READERS: Final = (BeforeValidator, PlainValidator, WrapValidator)


class Loss(NamedTuple):
    """Why a value would be lost, and what can be done about it."""

    cause: str
    remedy: str


@lru_cache(maxsize=1024)
def loss_of(model: type[BaseModel]) -> Loss | None:
    """The first field of the model, or of one in it, that is lost between writing and reading. What a class does with
    serializers and validators of its own is left to it."""
    models = [model]
    for one in models:
        if one.__pydantic_decorators__.model_serializers:
            continue
        for loss in _losses(one):
            return loss
        encoded = one.model_config.get("json_encoders") or {}
        for name, info in fields_of(one).items():
            models += [
                kind
                for kind in _written(one, name, info)
                if isinstance(kind, type)
                and issubclass(kind, BaseModel)
                and kind not in models
                and kind not in encoded
            ]
    return None


def _losses(model: type[BaseModel]) -> Iterator[Loss]:
    own = model.__pydantic_decorators__
    if (
        own.root_validators
        or model.model_config.get("json_encoders")
        or any(validator.info.mode != "after" for validator in own.model_validators.values())
    ):
        return
    config: dict[str, Any] = {**model.model_config}
    bytes_written, bytes_read = (config.get(f"{way}_json_bytes", "utf8") for way in ("ser", "val"))
    for name, info in fields_of(model).items():
        if info.exclude:
            if info.is_required():
                yield Loss(
                    f"{model.__name__} leaves out its field {name!r} and is not read without it",
                    "give it a default",
                )
            continue
        written, read = info.serialization_alias or name, names_read(model, name, info)
        if written not in read:
            yield Loss(
                f"{model.__name__} writes its field {name!r} as {written!r} and reads it as "
                f"{' or '.join(map(repr, read)) or 'a part of something else'}, so it would be lost",
                "give it one name with alias=, or read it by its name, too, with populate_by_name=True",
            )
        if any(map(_is_masked, _written(model, name, info))):
            yield Loss(
                f"{model.__name__} writes asterisks for its field {name!r}, which is a secret",
                "give it a field_serializer that writes the value, if it may be stored, or exclude it",
            )
        if bytes_written != bytes_read and _holds_bytes(model, name, info):
            yield Loss(
                f"{model.__name__} writes bytes as {bytes_written} and reads them as {bytes_read}, so they would be "
                "others",
                "set ser_json_bytes and val_json_bytes alike",
            )


def names_read(model: type[BaseModel], name: str, info: FieldInfo) -> list[str]:
    """The members of an object that the field is read from."""
    config: dict[str, Any] = {**model.model_config}
    alias = info.validation_alias
    by_name = alias is None or config.get("populate_by_name") or config.get("validate_by_name")
    names = [name] if by_name else []
    if config.get("validate_by_alias", True):
        for choice in alias.choices if isinstance(alias, AliasChoices) else [alias]:
            path = choice.path if isinstance(choice, AliasPath) else [choice]
            if len(path) == 1 and isinstance(path[0], str):
                names.append(path[0])
    return names


def _written(model: type[BaseModel], name: str, info: FieldInfo) -> list[Any]:
    """The types in the field that are written as pydantic writes them."""
    if info.exclude or _is_among(name, model.__pydantic_decorators__.field_serializers.values()):
        return []
    return types_in(_annotation(info), unless=_is_writer)


def _holds_bytes(model: type[BaseModel], name: str, info: FieldInfo) -> bool:
    """Whether bytes in the field are written and read as pydantic does."""
    own = model.__pydantic_decorators__
    readers: list[Any] = [*own.validators.values(), *own.field_validators.values()]
    if _is_among(name, (reader for reader in readers if reader.info.mode != "after")):
        return False
    return bytes in _written(model, name, info) and bytes in types_in(_annotation(info), unless=_is_reader)


def _annotation(info: FieldInfo) -> Any:
    """As it stands in the class: pydantic takes it apart."""
    return Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation


def _is_among(name: str, decorators: Iterable[Any]) -> bool:
    """Whether one of the serializers or validators is for the field."""
    return any(not {name, "*"}.isdisjoint(one.info.fields) for one in decorators)


def _is_writer(mark: Any) -> bool:
    return isinstance(mark, _WRITERS) or _has_schema_of_its_own(mark)


def _is_reader(mark: Any) -> bool:
    return isinstance(mark, _READERS) or _has_schema_of_its_own(mark)


def _has_schema_of_its_own(kind: Any) -> bool:
    """Whether somebody else than pydantic says how values of the type, or of one with this mark, are read and
    written."""
    make = getattr(kind, "__get_pydantic_core_schema__", None)
    return make is not None and not make.__module__.startswith("pydantic.")


def _is_masked(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, _SECRETS) and not _has_schema_of_its_own(origin)
