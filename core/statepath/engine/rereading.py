"""Whether a model class reads again what it writes. Where it does not, a put would lose a value without a word."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Final, NamedTuple, get_args, get_origin

from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    WrapSerializer,
)
from pydantic.fields import FieldInfo

from statepath.engine.schema import fields_of, types_in

_SECRETS: Final = (Secret, SecretStr, SecretBytes)
_SERIALIZERS: Final = (PlainSerializer, WrapSerializer)


class Loss(NamedTuple):
    """Why a value would be lost, and what can be done about it."""

    cause: str
    remedy: str


@cache
def loss_of(model: type[BaseModel]) -> Loss | None:
    """The first field of the model, or of one in it, that is lost between writing and reading. What a class does with
    serializers and validators of its own is left to it."""
    models = [model]
    for one in models:
        for loss in _losses(one):
            return loss
        for info in fields_of(one).values():
            models += [
                kind
                for kind in types_in(info.annotation)
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in models
            ]
    return None


def _losses(model: type[BaseModel]) -> Iterator[Loss]:
    own = model.__pydantic_decorators__
    if (
        own.model_serializers
        or own.root_validators
        or model.model_config.get("json_encoders")
        or any(validator.info.mode != "after" for validator in own.model_validators.values())
    ):
        return
    config: dict[str, Any] = {**model.model_config}
    written, read = (config.get(f"{way}_json_bytes", "utf8") for way in ("ser", "val"))
    if written != read and any(bytes in types_in(info.annotation) for info in fields_of(model).values()):
        yield Loss(
            f"{model.__name__} writes bytes as {written} and reads them as {read}, so they would be others",
            "set ser_json_bytes and val_json_bytes alike",
        )
    serialized = {name for serializer in own.field_serializers.values() for name in serializer.info.fields}
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
        if not serialized & {name, "*"} and _is_masked(info):
            yield Loss(
                f"{model.__name__} writes asterisks for its field {name!r}, which is a secret",
                "give it a field_serializer that writes the value, if it may be stored, or exclude it",
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


def _is_masked(info: FieldInfo) -> bool:
    """Whether a secret is in the field, and nothing there says how it is written."""
    if any(isinstance(one, _SERIALIZERS) for one in info.metadata):
        return False
    pending: list[Any] = [info.annotation]
    for annotation in pending:
        kind = get_origin(annotation) or annotation
        if isinstance(kind, type) and issubclass(kind, _SECRETS):
            return True
        arguments = get_args(annotation)
        if kind is not Annotated:
            pending += arguments
        elif not any(isinstance(one, _SERIALIZERS) for one in arguments[1:]):
            pending.append(arguments[0])
    return False
