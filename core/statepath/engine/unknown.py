"""Fields that a model class does not know survive when a document is replaced by an older program."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Set
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw
from pydantic import BaseModel, RootModel, ValidationError
from pydantic_core import PydanticSerializationError

from statepath.engine.schema import (
    ChoiceShape,
    DictShape,
    ListShape,
    ObjectShape,
    Shape,
    certain_fields,
    extra,
    known_names,
    models_in,
    shape_of,
    told_apart,
)

_encoder = msgspec.json.Encoder()
_members = msgspec.json.Decoder(dict[str, Raw])
_elements = msgspec.json.Decoder(list[Raw])


def keep_unknown(new: bytes, old: bytes, model: type[BaseModel]) -> bytes:
    """`new`, with those fields of `old` that the model class does not know, byte for byte.

    Models inside the model are treated alike, also in lists and dicts, where nothing else can stand in their
    place; one of several models where its `Literal` fields tell which. Elements of a list belong together if
    their `id` is the same, else if they are equal as far as the model knows, else by their place in lists of
    one length, unless their ids tell that they are two. Models that keep unknown fields themselves
    (`extra="allow"`) or refuse them (`extra="forbid"`) get none.
    """
    if not forgets(model) or _knows_all(old, model):
        return new
    return _merge(new, old, shape_of(model)) or new


def _knows_all(document: bytes, model: type[BaseModel]) -> bool:
    """Whether the document certainly has no unknown field, as a strict decoder tells much faster than a search."""
    decoder = _strict_decoder(model)
    if decoder is None:
        return False
    try:
        decoder.decode(document)
    except msgspec.MsgspecError:
        return False
    return True


@lru_cache(maxsize=1024)
def _strict_decoder(model: type[BaseModel]) -> msgspec.json.Decoder[Any] | None:
    """A decoder that takes objects of known fields only; `None` for models that contain themselves or one of
    several."""
    try:
        return msgspec.json.Decoder(_strict_type(ObjectShape(model), {}))
    except (RecursionError, _OnlyByValueError):
        return None


class _OnlyByValueError(Exception):
    """Which fields are known, each object tells."""


def _strict_type(shape: Shape | None, structs: dict[type[BaseModel], Any]) -> Any:
    match shape:
        case ListShape(element):
            return list[_strict_type(element, structs)] | None  # type: ignore[misc]
        case DictShape(value):
            return dict[str, _strict_type(value, structs)] | None  # type: ignore[misc]
        case ObjectShape(model) if forgets(model):
            if model not in structs:
                structs[model] = _strict_struct(model, structs)
            return structs[model] | None
        case ChoiceShape():
            raise _OnlyByValueError
        case _:
            return Raw


def _strict_struct(model: type[BaseModel], structs: dict[type[BaseModel], Any]) -> Any:
    shapes = certain_fields(model)
    names = sorted(known_names(model))
    return msgspec.defstruct(
        model.__name__,
        [(f"f{place}", _strict_type(shapes.get(name), structs), None) for place, name in enumerate(names)],
        rename={f"f{place}": name for place, name in enumerate(names)},
        forbid_unknown_fields=_drops(model),
        gc=False,
    )


@lru_cache(maxsize=1024)
def _inner(model: type[BaseModel]) -> Mapping[str, Shape]:
    """The members of a document in which something may have to be kept."""
    return {
        name: shape
        for name, shape in certain_fields(model).items()
        if shape is not None and any(map(forgets, models_in(shape)))
    }


def _drops(model: type[BaseModel]) -> bool:
    return extra(model) == "ignore" and not issubclass(model, RootModel)


@lru_cache(maxsize=1024)
def forgets(model: type[BaseModel]) -> bool:
    """Whether a document of this model may have unknown fields that only `keep_unknown` would keep."""
    seen: set[type[BaseModel]] = set()
    pending = [model]
    while pending:
        model = pending.pop()
        if _drops(model):
            return True
        if model not in seen:
            seen.add(model)
            pending += [inner for shape in certain_fields(model).values() for inner in models_in(shape)]
    return False


def _merge(new: bytes, old: bytes, shape: Shape | None) -> bytes | None:
    """`new` with the unknown fields of `old`; `None`: there are none to add."""
    kinds = (new[:1], old[:1])
    match shape:
        case ObjectShape() | ChoiceShape() if kinds == (b"{", b"{"):
            members, before = _members.decode(new), _members.decode(old)
            model = _model_of(shape, members)
            if model is None or model is not _model_of(shape, before):
                return None
            return _merge_members(members, before, model)
        case DictShape(value) if kinds == (b"{", b"{"):
            members, before = _members.decode(new), _members.decode(old)
            changed = False
            for name, member in members.items():
                if name in before:
                    merged = _merge(bytes(member), bytes(before[name]), value)
                    if merged is not None:
                        members[name] = Raw(merged)
                        changed = True
            return _encoder.encode(members) if changed else None
        case ListShape(element) if kinds == (b"[", b"["):
            return _merge_elements(new, old, element)
        case _:
            return None


def _model_of(shape: Shape, members: Mapping[str, Raw]) -> type[BaseModel] | None:
    match shape:
        case ObjectShape(model):
            return model
        case ChoiceShape(models):
            return told_apart(models, members)
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
        known = _known_of(old, model)
        for name, member in old.items():
            if name not in known and name not in new:
                new[name] = member
                changed = True
    return _encoder.encode(new) if changed else None


def _known_of(members: dict[str, Raw], model: type[BaseModel]) -> Set[str]:
    """The names in the object that are the model's own: of its fields, or whatever a serializer of its own makes of
    them."""
    known = known_names(model)
    if not model.__pydantic_decorators__.model_serializers:
        return known
    again = _rewritten(_encoder.encode(members), model)
    return known if again is None or again[:1] != b"{" else known | _members.decode(again).keys()


def _merge_elements(new: bytes, old: bytes, shape: Shape) -> bytes | None:
    after = [bytes(element) for element in _elements.decode(new)]
    before = [bytes(element) for element in _elements.decode(old)]
    changed = False
    for place, partner in _partners(after, before, shape):
        merged = _merge(after[place], before[partner], shape)
        if merged is not None:
            after[place] = merged
            changed = True
    return b"[%s]" % b",".join(after) if changed else None


def _partners(after: list[bytes], before: list[bytes], shape: Shape) -> Iterator[tuple[int, int]]:
    """Which element of the new list is which of the old one."""
    left: dict[_Identity, deque[int]] = defaultdict(deque)
    for place, element in enumerate(before):
        left[_identity(element, shape)].append(place)
    open_places = []
    for place, element in enumerate(after):
        mine = _identity(element, shape)
        if partners := left.get(mine):
            yield place, partners.popleft()
        else:
            open_places.append((place, mine))
    if len(after) == len(before):
        theirs = {place: identity for identity, places in left.items() for place in places}
        for place, mine in open_places:
            if place in theirs and not (mine.is_id and theirs[place].is_id):
                yield place, place


class _Identity(NamedTuple):
    """What an element is recognised by: its id, or else all that its model knows of it."""

    is_id: bool
    text: bytes


def _identity(element: bytes, shape: Shape) -> _Identity:
    whole = _Identity(False, element)
    if element[:1] != b"{":
        return whole
    members = _members.decode(element)
    model = _model_of(shape, members)
    if model is None:
        return whole
    if "id" in model.model_fields and "id" in members:
        return _Identity(True, bytes(members["id"]))
    known = _rewritten(element, model)
    return whole if known is None else _Identity(False, known)


def _rewritten(stored: bytes, model: type[BaseModel]) -> bytes | None:
    """What the model would write of it again; `None`: it does not read it."""
    try:
        value = model.model_validate_json(stored)
        return value.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()
    except (ValidationError, PydanticSerializationError):
        return None
