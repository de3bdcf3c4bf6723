"""The kinds of value that settings have, and how each is read from what a source holds. What is `None` has a word:
"auto", "off" or "none".

A value may be a secret in the wrong place: no message quotes it.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, SecretStr

from statepath.quantities import to_bytes, to_duration, to_seconds
from statepath.settings.archiverules import check_rules
from statepath.settings.webhookurl import check_webhook

PATHS: Final = ("path", "mirror")
"""The settings that are state paths."""

MASTERS: Final = ("encryption_key_file", "encryption_key", "encryption_provider")
"""The settings that tell a master key, of which a store has one."""

NAMING: Final = ("encryption_key_file", "encryption_provider")
"""Those of them that say where it is kept, and may hold it itself by mistake."""


def _stripped(value: object) -> object:
    """As numbers are read: a file with the line ends of Windows leaves one behind each value."""
    return value.strip() if isinstance(value, str) else value


def _auto(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "auto" else value


def _compression(value: object) -> object:
    word = _stripped(value)
    return None if isinstance(word, str) and word.lower() in ("none", "off", "false") else word


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "off" else value


def _bool_or_auto(value: object) -> object:
    return _auto(_stripped(value))


def _size_or_auto(value: object) -> int | None:
    value = _auto(value)
    return None if value is None else to_bytes(value)


def _duration_or_auto(value: object) -> timedelta | None:
    value = _auto(value)
    return None if value is None else to_duration(value)


def _size_or_off(value: object) -> int | None:
    value = _off(value)
    return None if value is None else to_bytes(value)


def _duration_or_off(value: object) -> timedelta | None:
    value = _off(value)
    return None if value is None else to_duration(value)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("this is no whole number: write it in digits")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _number_or_off(value: object) -> object:
    return _number(_off(value))


def _key_file(value: object) -> object:
    """No shell has read what stands in a file, and a state path may begin so, too."""
    text = path_text(value)
    return os.path.expanduser(text) if isinstance(text, str) else text


def _path_text_or_off(value: object) -> object:
    """A `Path` is a folder, whatever its name: it has no `./` to tell it from the word."""
    return path_text(_off(value))


def _webhook_or_off(value: object) -> SecretStr | None:
    value = _off(value)
    return None if value is None else check_webhook(value)


def _names(value: object) -> object:
    return (
        tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
    )


def path_text(value: object) -> object:
    """The text of a path."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


PathText: TypeAlias = Annotated[str, BeforeValidator(path_text)]
KeyFile: TypeAlias = Annotated[str | None, BeforeValidator(_key_file)]
PathTextOrOff: TypeAlias = Annotated[str | None, BeforeValidator(_path_text_or_off)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(to_seconds)]
Duration: TypeAlias = Annotated[timedelta, BeforeValidator(to_duration)]
DurationOrAuto: TypeAlias = Annotated[timedelta | None, BeforeValidator(_duration_or_auto)]
DurationOrOff: TypeAlias = Annotated[timedelta | None, BeforeValidator(_duration_or_off)]
Size: TypeAlias = Annotated[int, BeforeValidator(to_bytes)]
SizeOrAuto: TypeAlias = Annotated[int | None, BeforeValidator(_size_or_auto)]
SizeOrOff: TypeAlias = Annotated[int | None, BeforeValidator(_size_or_off)]
Number: TypeAlias = Annotated[int, BeforeValidator(_number)]
NumberOrOff: TypeAlias = Annotated[int | None, BeforeValidator(_number_or_off)]
Bool: TypeAlias = Annotated[bool, BeforeValidator(_stripped)]
BoolOrAuto: TypeAlias = Annotated[bool | None, BeforeValidator(_bool_or_auto)]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_names)]
Rules: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(check_rules)]
WebhookOrOff: TypeAlias = Annotated[SecretStr | None, BeforeValidator(_webhook_or_off)]
Compression: TypeAlias = Annotated[Literal["zstd"] | None, BeforeValidator(_compression)]
