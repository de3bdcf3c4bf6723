"""What a model class can write at all, told by its schema: what that rules out is not looked for in each document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel

from statepath.engine.narrowing import Look, look_of
from statepath.engine.rereading import Loss, loss_of

MARK: Final = "_statepath"
"""The member of a document's file that is the store's own. No document has one of that name."""

_TYPE = re.compile(r"'type': '([a-z-]+)'")
_CONTAINERS: Final = frozenset({"list", "tuple", "set", "frozenset", "dict", "model"})
_CLOSED: Final = _CONTAINERS | {
    "str",
    "int",
    "bool",
    "none",
    "bytes",
    "date",
    "time",
    "datetime",
    "timedelta",
    "uuid",
    "url",
    "literal",
    "enum",
    "default",
    "nullable",
    "model-fields",
    "model-field",
}
_MOST_CONTAINERS: Final = 50
_OPEN: Final = ("'serialization'", "'allow'")
"""What is in a schema that lets something else be written than the types of the fields say."""
_DUCK_TYPED: Final = ("'serialization': {'type': 'any'", "'polymorphic_serialization': True")


@dataclass(frozen=True, slots=True)
class Scope:
    """
    Attributes:
        open_fields: those that can hold a float, or anything. What the others hold is finite.
        known: nothing is written but the fields, each by its type: without `open_fields` no document is deep, and none
            has a member of the store's own name.
        writes_constants: NaN and Infinity may be written as such.
        duck_typed: a field may be written as a subclass of its type would be, with fields that the model does not know.
        loss: what would be lost between writing and reading, if anything.
        look: how to look for what is not written whole, where a field can hold such.
        omits_unset: what was never given is not written, not even as null (`__omit_unset__`).
    """

    open_fields: tuple[str, ...]
    known: bool
    writes_constants: bool
    duck_typed: bool
    loss: Loss | None
    look: Look | None
    omits_unset: bool


@lru_cache(maxsize=1024)
def scope_of(model: type[BaseModel]) -> Scope:
    schema: dict[str, Any] = model.__pydantic_core_schema__  # type: ignore[assignment]
    whole = repr(schema)
    while "fields" not in schema and isinstance(inner := schema.get("schema"), dict):
        schema = inner
    fields = schema.get("fields")
    found = isinstance(fields, dict)
    open_fields = (
        tuple(name for name, field in fields.items() if not _is_closed(repr(field)))
        if isinstance(fields, dict)
        else tuple(model.model_fields)
    )
    depth = sum(kind in _CONTAINERS for kind in _TYPE.findall(whole))
    return Scope(
        open_fields,
        known=found and depth <= _MOST_CONTAINERS and not any(word in whole for word in (*_OPEN, MARK)),
        writes_constants=any(word in whole for word in ("ser_json_inf_nan", "'any'", *_OPEN)),
        duck_typed=any(word in whole for word in _DUCK_TYPED),
        loss=loss_of(model),
        look=look_of(model),
        omits_unset=bool(getattr(model, "__omit_unset__", False)),
    )


def _is_closed(field: str) -> bool:
    return set(_TYPE.findall(field)) <= _CLOSED and not any(word in field for word in _OPEN)
