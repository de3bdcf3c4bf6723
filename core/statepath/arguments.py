"""What callers pass, checked where it enters: of another kind than it must be, it is refused by name, and nothing is
done."""

from __future__ import annotations

import os

from pydantic import ValidationError

from statepath.errors import InvalidArgumentError


def wrong_kind(what: str, wanted: str, value: object, remedy: str = "") -> InvalidArgumentError:
    """The error for an argument of the wrong kind. It tells the type, and not the value, which may be a secret."""
    return InvalidArgumentError(
        f"{what} must be {wanted}, not {type(value).__name__}{f'; {remedy}' if remedy else ''}"
    )


def check_function(value: object, what: str) -> None:
    """
    Raises:
        InvalidArgumentError: it cannot be called.
    """
    if not callable(value):
        raise wrong_kind(what, "a function", value, "pass the function itself")


def path_text(value: object, what: str) -> str:
    """The text of a path, which is a `str` or an `os.PathLike` of one.

    Raises:
        InvalidArgumentError: it is neither.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise wrong_kind(what, "a str or a pathlib.Path", value)
    return text


def faults(error: ValidationError) -> str:
    """What a model does not accept, each fault by its place, without the values, which may be secrets."""
    return "; ".join(
        ": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]]))
        for fault in error.errors(include_input=False)
    )
