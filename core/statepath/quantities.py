"""Durations and sizes as people write them: "15m", "100MiB"."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Final

from statepath.errors import InvalidArgumentError

_UNITS: Final = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZES: Final = {"": 1, "b": 1} | {
    f"{letter}{unit}": base**power
    for power, letter in enumerate("kmgt", 1)
    for unit, base in (("b", 1000), ("ib", 1024))
}
_QUANTITY: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_LONGEST: Final = timedelta(days=36500)
_NO_DURATION: Final = 'this is no duration: write "30s", "15m", "24h", "7d", or a number of seconds'
_TWO_MEANINGS: Final = 'M may be minutes or months: write "6m", or "180d"'
_NO_SIZE: Final = 'this is no size: write "100MiB", "1GB", or a number of bytes'


def to_seconds(value: object) -> float:
    """
    Raises:
        ValueError: it is no duration. Never quotes it.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2].lower() in _UNITS:
        if match[2] == "M":
            raise ValueError(_TWO_MEANINGS)
        value = float(match[1]) * _UNITS[match[2].lower()]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(_NO_DURATION)  # noqa: TRY004 - pydantic collects ValueError only
    if not 0 <= value <= _LONGEST.total_seconds():
        raise ValueError("a duration is from 0 seconds to 100 years")
    return float(value)


def to_duration(value: object) -> timedelta:
    """As `to_seconds`."""
    return timedelta(seconds=to_seconds(value))


def to_bytes(value: object) -> int:
    """
    Raises:
        ValueError: it is no size. Never quotes it.
    """
    if isinstance(value, str) and (match := _QUANTITY.fullmatch(value)) and match[2].lower() in _SIZES:
        value = int(Decimal(match[1]) * _SIZES[match[2].lower()])
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(_NO_SIZE)  # noqa: TRY004 - as above
    if value < 0:
        raise ValueError("a size is not negative")
    return value


def size(text: str) -> int:
    """The bytes that a text such as "100MiB" means.

    Raises:
        InvalidArgumentError: it means none.
    """
    try:
        return to_bytes(int(text) if text.isdecimal() else text)
    except ValueError as error:
        raise InvalidArgumentError(f"{text!r}: {error}") from None


def duration(value: timedelta | str) -> timedelta:
    """The duration that a text such as "30d" means.

    Raises:
        InvalidArgumentError: it means none.
    """
    try:
        return to_duration(value)
    except ValueError as error:
        raise InvalidArgumentError(f"{value!r}: {error}") from None


def duration_text(value: timedelta) -> str:
    """The duration as a text that means it, in the largest unit that fits."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds / _UNITS[unit]:g}{unit}"
    return f"{seconds:g}s"
