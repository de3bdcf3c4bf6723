"""JSON in and out: documents as bytes, checked where they enter.

A document is stored as compact UTF-8 JSON. What `encode_*` and `parse_untrusted` let through is valid JSON
with text keys, finite numbers and bounded depth and size, so nothing behind them needs to check again.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import Raw
from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticSerializationError

from statepath.engine.scope import MARK, Scope, scope_of
from statepath.errors import CorruptionError, InvalidArgumentError

MAX_DEPTH: Final = 100
"""Levels of objects and lists in a document. pydantic's JSON parser gives up near 200."""

MAX_BYTES: Final = 64 * 1024 * 1024
"""The size of a document, where the settings do not say."""

MAX_DIGITS: Final = 4300
"""Of an integer: what Python and msgspec read, since reading takes quadratic time."""

BOM: Final = b"\xef\xbb\xbf"
"""The byte order mark, with which some editors begin a file."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_members = msgspec.json.Decoder(dict[str, Raw])
_raw = msgspec.json.Decoder(Raw)
_text = msgspec.json.Decoder(str)


def encode_mapping(value: Mapping[str, Any], *, key: str, limit: int = MAX_BYTES) -> bytes:
    """A mapping of JSON values (`dict list tuple str int float bool None`) as a document.

    Parameters:
        key: the document's name, for messages.
        limit: the most bytes it may have.

    Raises:
        InvalidArgumentError: a value is of another type, a key is not a `str`, a float is not finite, a member has the
            name that is the store's own, or the document is too deep or too large. The message names the place.
    """
    if not isinstance(value, dict):
        if not isinstance(value, Mapping):
            raise _refuse(
                key, f"a document is a JSON object, not {type(value).__name__}", "pass a dict or a model"
            )
        value = dict(value)
    return _unmarked(_bounded(_encode_json(value, key), key, limit), key)


def encode_model(model: BaseModel, *, key: str, limit: int = MAX_BYTES) -> bytes:
    """A pydantic model as a document: by alias, without computed fields, so that it can be validated again.

    Parameters and errors: as `encode_mapping`; a value that is not of its field's type is refused, too, one of a
    subclass with fields of its own, and a model that would not read a field again as it is written.
    """
    scope = scope_of(type(model))
    if scope.loss is not None:
        raise _refuse(key, *scope.loss)
    data = _write_model(model, scope, key)
    if data[0] != 0x7B:
        raise _refuse(
            key, f"{type(model).__name__} is not stored as a JSON object", "wrap its value in a field"
        )
    if scope.known and len(data) <= limit and _holds_little(model, scope):
        return data
    _check_finite(model, scope, data, key)
    return _unmarked(_bounded(data, key, limit), key)


def encode_value(value: object, *, key: str, limit: int = MAX_BYTES, depth: int = MAX_DEPTH) -> bytes:
    """Any JSON value, or a pydantic model, as JSON: an element of a list, or a report.

    Parameters and errors: as `encode_mapping`; `depth` is the most levels that it may have.
    """
    if isinstance(value, BaseModel):
        scope = scope_of(type(value))
        data = _write_model(value, scope, key)
        _check_finite(value, scope, data, key)
        return _bounded(data, key, limit, depth)
    if isinstance(value, Mapping) and not isinstance(value, dict):
        value = dict(value)
    return _bounded(_encode_json(value, key), key, limit, depth)


def decode(data: bytes | memoryview, key: str | None = None) -> JsonValue:
    """The value of JSON that `encode_*` or `parse_untrusted` has let through.

    Raises:
        CorruptionError: it is something else: it was damaged, or has an integer of more digits than are read.
    """
    try:
        value: JsonValue = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise unreadable(key, error) from error
    return value


def unreadable(key: str | None, error: Exception) -> CorruptionError:
    return CorruptionError(
        f"{key or 'a stored document'} cannot be read as JSON: {error}; "
        "delete it, or write it again without a model, and see `statepath repair --dry-run`",
        key=key,
    )


def texts(document: bytes) -> dict[str, str]:
    """The members of a document that are texts, whatever the others hold; none if it cannot be read."""
    try:
        members = _members.decode(document)
        return {name: _text.decode(member) for name, member in members.items() if bytes(member)[:1] == b'"'}
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def parse_untrusted(text: bytes, *, key: str, limit: int) -> JsonValue:
    """The value of JSON that somebody else has written: a file edited by hand, standard input, an import.

    A byte order mark is skipped. `limit` is the most bytes that it may have.

    Raises:
        InvalidArgumentError: it is not UTF-8 or not JSON, has a key twice in one object, a number that is not
            finite or has too many digits, or is too deep or too large. The message names the line or the key.
    """
    if len(text) > limit:
        raise too_large(key, len(text), limit)
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refuse(key, f"byte {error.start + 1} is not UTF-8", "save it as UTF-8") from None
    if _depth(text) > MAX_DEPTH:
        raise _too_deep(key)
    reader = _Reader(key)
    try:
        value: JsonValue = json.loads(
            decoded,
            object_pairs_hook=reader.members,
            parse_constant=reader.constant,
            parse_float=reader.decimal,
        )
    except json.JSONDecodeError as error:
        raise _refuse(
            key, f"it is not JSON: {error.msg}, line {error.lineno}, column {error.colno}", "correct it there"
        ) from None
    except InvalidArgumentError:
        raise
    except ValueError:
        # The one other ValueError is Python's limit on the digits of an int, which stops quadratic parsing.
        raise _too_many_digits(key) from None
    # JSON can escape half a surrogate pair, which no UTF-8 file can hold.
    if _SURROGATE.search(text):
        _check_json(value, key, "")
    return value


_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def without_halves(data: bytes) -> bytes:
    """The JSON with U+FFFD for each half of a character, which JavaScript leaves where it cuts a text."""
    return _ESCAPE.sub(lambda match: rb"\ufffd" if match["half"] else match[0], data)


_ESCAPE: Final = re.compile(
    rb"""\\(?:
        u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}  # both halves of a character
        | u(?P<half>[dD][89a-fA-F][0-9a-fA-F]{2})
        | .
    )""",
    re.DOTALL | re.VERBOSE,
)


class _Reader:
    """What `json.loads` asks about the parts that JSON leaves open."""

    def __init__(self, key: str) -> None:
        self.key = key

    def members(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in members if names.count(name) > 1)
            raise _refuse(self.key, f"the key {twice!r} occurs twice in one object", "remove one of them")
        return members

    def constant(self, name: str) -> float:
        raise _refuse(
            self.key, f"it has the number {name}, which JSON does not have", "write null, or leave it out"
        )

    def decimal(self, text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise _refuse(self.key, f"the number {text[:40]} is too large for a float", "write it as text")
        return value


def list_fields(document: bytes) -> dict[str, bool]:
    """The document's members, and of each whether something can be appended to it: it is a list, or null."""
    return {
        name: (first := bytes(value)[:1]) == b"[" or first == b"n"
        for name, value in _members.decode(document).items()
    }


def compact(data: bytes) -> bytes:
    """The same JSON without white space between its parts, and without a byte order mark. Numbers keep their text."""
    return msgspec.json.format(data.removeprefix(BOM), indent=-1)


def pretty(data: bytes) -> bytes:
    """The same JSON for people: a member a line, indented, with a line end. Numbers keep their text."""
    return msgspec.json.format(data, indent=2) + b"\n"


def _encode_json(value: object, key: str) -> bytes:
    try:
        # What msgspec gives keeps the room that it grew in, up to a half more; a copy has its own.
        data = bytes(memoryview(_encoder.encode(value)))
    except RecursionError:
        raise _too_deep(key) from None
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError):
        _check_json(value, key, "")
        # What remains are subclasses of str, int and float, such as numpy's, which count as what they are.
        try:
            data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        except ValueError:
            raise _too_many_digits(key) from None
        return _with_short_integers(data, key)
    # msgspec also writes what JSON does not have: sets, bytes, dates, keys that are numbers. Its plain copy
    # of such a value differs from the value, which is told faster than by a walk. NaN and Infinity it writes
    # as null.
    if (b"null" in data and _may_hide_nonfinite(value)) or msgspec.to_builtins(value, str_keys=True) != value:
        _check_json(value, key, "")
    return _with_short_integers(data, key)


def _check_json(value: object, key: str, path: str, depth: int = 0) -> None:
    """Refuse the first part of the value that JSON does not have."""
    kind = type(value)
    if kind is str:
        try:
            value.encode()  # type: ignore[attr-defined]  # narrowed by `kind`
        except UnicodeEncodeError:
            raise _refuse(
                key, f"the text{_at(path)} has a lone surrogate", "remove it, or store the bytes as base64"
            ) from None
    elif isinstance(value, dict):
        if depth == MAX_DEPTH:
            raise _too_deep(key)
        for name, member in value.items():
            if not isinstance(name, str):
                raise _refuse(
                    key,
                    f"the key {name!r}{_at(path)} is {type(name).__name__}, and JSON keys are text",
                    "use a str",
                )
            _check_json(name, key, path)
            _check_json(member, key, f"{path}.{name}" if path else name, depth + 1)
    elif isinstance(value, list | tuple):
        if depth == MAX_DEPTH:
            raise _too_deep(key)
        for place, element in enumerate(value):
            _check_json(element, key, f"{path}[{place}]", depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _refuse(
                key,
                f"the number{_at(path)} is {value}, which JSON does not have",
                "store null, or leave it out",
            )
    elif value is not None and not isinstance(value, str | int):
        raise _refuse(
            key,
            f"the value{_at(path)} is of type {kind.__name__}, which JSON does not have",
            "convert it, or use a model",
        )


def _write_model(model: BaseModel, scope: Scope, key: str) -> bytes:
    try:
        data = model.__pydantic_serializer__.to_json(
            model, by_alias=True, exclude_unset=scope.omits_unset, round_trip=True, warnings="error"
        )
    except (PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
        raise _refuse(key, _unserializable(error), "assign a value of the field's type") from error
    if scope.look is not None and (narrowed := scope.look.narrowed(model)) is not None:
        raise _refuse(key, *narrowed.told)
    return _with_short_integers(data, key)


def _with_short_integers(data: bytes, key: str) -> bytes:
    if len(data) > MAX_DIGITS and _has_long_integer(data):
        raise _too_many_digits(key)
    return data


def _samples(stride: int) -> tuple[int, re.Pattern[bytes]]:
    return stride, re.compile(rb"[0-9]{%d}" % (MAX_DIGITS // stride))


_SAMPLES: Final = (_samples(509), _samples(31))
# msgspec counts the sign.
_TOO_MANY_DIGITS: Final = re.compile(rb"-[0-9]{%d}|(?<![0-9])[0-9]{%d}" % (MAX_DIGITS, MAX_DIGITS + 1))


def _has_long_integer(data: bytes) -> bool:
    # A long run of digits is one in every 509th byte, too, which costs next to nothing to look at.
    for stride, digits in _SAMPLES:
        if digits.search(data[::stride]) is None:
            return False
    return (
        _TOO_MANY_DIGITS.search(data) is not None
        and _TOO_MANY_DIGITS.search(_STRING.sub(b"", data)) is not None
    )


_BUDGET: Final = 32
_FINITE: Final = frozenset({str, int, bool, type(None)})


def _holds_little(model: BaseModel, scope: Scope) -> bool:
    """Whether a quick look tells that the model's open fields hold few values, and no number that may be NaN or
    infinite. False says nothing."""
    held = model.__dict__
    return _holds_finite_only([held.get(name) for name in scope.open_fields])


def _check_finite(model: BaseModel, scope: Scope, data: bytes, key: str) -> None:
    """Refuse numbers that are not finite: pydantic writes null in their place or, if it is told so, NaN."""
    if not _surely_finite(model, scope) and b"null" in data and _may_hide_nonfinite(model):
        check_numbers(_as_python(model), key, "")
    if scope.writes_constants and (b"NaN" in data or b"Infinity" in data):
        try:
            _raw.decode(data)
        except msgspec.MsgspecError:
            check_numbers(_as_python(model), key, "")
            raise _refuse(
                key, f"{type(model).__name__} does not write valid JSON", "check its serializers"
            ) from None


def _surely_finite(model: BaseModel, scope: Scope) -> bool:
    """Whether a quick look tells that no number in the model is NaN or infinite: most fields cannot hold one, and those
    that can mostly hold little. False says nothing."""
    held = model.__dict__
    open_values: list[Any] = []
    for name in scope.open_fields:
        value = held.get(name)
        kind = type(value)
        if kind is dict or kind is list:
            open_values.append(value)
        elif kind not in _FINITE:
            return False
    if model.__pydantic_extra__:
        open_values.append(model.__pydantic_extra__)
    return not open_values or _writes_no_null(open_values) or _holds_finite_only(open_values)


def _writes_no_null(values: list[Any]) -> bool:
    """Whether nothing in the values is None, NaN or infinite: msgspec writes null for each."""
    try:
        return b"null" not in _encoder.encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False


def _holds_finite_only(stack: list[Any]) -> bool:
    budget = _BUDGET
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind is dict:
            stack.extend(value.values())
        elif kind is list:
            stack.extend(value)
        elif kind not in _FINITE:
            return False
        budget -= 1
        if budget < 0:
            return False
    return True


def _as_python(model: BaseModel) -> object:
    return model.__pydantic_serializer__.to_python(
        model, mode="python", by_alias=True, round_trip=True, warnings=False
    )


def _may_hide_nonfinite(root: object) -> bool:
    """Whether a null in the JSON of the value may stand for a number that is not finite; False is certain."""
    stack: list[Iterable[Any]] = [(root,)]
    for values in stack:
        for value in values:
            kind = type(value)
            if kind is str or value is None or kind is int or kind is bool:
                continue
            if kind is float:
                if not math.isfinite(value):
                    return True
            elif kind is dict:
                stack.append(value.values())
            elif kind is list or kind is tuple or kind is set:
                stack.append(value)
            elif isinstance(value, BaseModel):
                stack.append(vars(value).values())
                if value.__pydantic_extra__:
                    stack.append(value.__pydantic_extra__.values())
            elif isinstance(value, Enum):
                stack.append((value.value,))
            elif kind.__module__ not in _SCALAR_MODULES:
                return True
    return False


_SCALAR_MODULES: Final = frozenset({"datetime", "uuid", "decimal", "pathlib", "ipaddress", "re"})


def check_numbers(value: object, key: str, path: str = "") -> None:
    """Refuse numbers that are not finite, for which pydantic writes null."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float) and not math.isfinite(value):
        raise _refuse(
            key, f"the number{_at(path)} is {value}, which JSON does not have", "store None, or leave it out"
        )
    if isinstance(value, dict):
        for name, member in value.items():
            check_numbers(member, key, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for place, element in enumerate(value):
            check_numbers(element, key, f"{path}[{place}]")


_UNEXPECTED = re.compile(r"Expected `([^`]+)`.*?\[field_name='([^']*)', .*input_type=([^\]]+)\]", re.DOTALL)


def _unserializable(error: Exception) -> str:
    """pydantic's own words, without the value that they quote."""
    text = str(error)
    if match := _UNEXPECTED.search(text):
        return f"the field {match[2]!r} holds a value of type {match[3]}, and is declared as {match[1]}"
    if "surrogates not allowed" in text:
        return "a text has a lone surrogate, which UTF-8 cannot hold"
    if "input_value" in text:
        return "a field holds a value of another type than it is declared as"
    return (
        "it cannot be written as JSON: " + text.removeprefix("Error serializing to JSON: ").partition("\n")[0]
    )


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ONE_KIND = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _bounded(data: bytes, key: str, limit: int, depth: int = MAX_DEPTH) -> bytes:
    size = len(data)
    if size > limit:
        raise too_large(key, size, limit)
    # Shorter by its opening brackets: `replace` finds single bytes several times faster than `count` does.
    if size - len(data.replace(b"{", b"").replace(b"[", b"")) > depth and _depth(data) > depth:
        raise _too_deep(key)
    return data


_MARKED: Final = b'"%s":' % MARK.encode()


def _unmarked(data: bytes, key: str) -> bytes:
    if _MARKED in data and MARK in _members.decode(data):
        raise _refuse(
            key, f"the member {MARK!r} is the store's own in a document's file", "leave it out or rename it"
        )
    return data


def _depth(data: bytes) -> int:
    """How deep objects and lists lie in each other: exact for valid JSON, never too low for other text."""
    brackets = _STRING.sub(b"", data).translate(_ONE_KIND, _NO_BRACKETS)
    depth = 0
    while depth <= MAX_DEPTH and b"{}" in brackets:
        brackets = brackets.replace(b"{}", b"")
        depth += 1
    return depth + brackets.count(b"{")


def _at(path: str) -> str:
    return f" at {path}" if path else ""


def _refuse(key: str, cause: str, remedy: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{key}: {cause}; {remedy}", key=key)


def too_large(key: str, size: int, limit: int) -> InvalidArgumentError:
    return _refuse(
        key, f"it has {size:,} bytes, and the limit is {limit:,}", "split it, or raise STATE_MAX_DOCUMENT"
    )


def _too_many_digits(key: str) -> InvalidArgumentError:
    return _refuse(key, "an integer has too many digits", "write it as text")


def _too_deep(key: str) -> InvalidArgumentError:
    return _refuse(key, f"it is deeper than {MAX_DEPTH} levels, or contains itself", "flatten it")
