"""What is wrong with settings, all of it in one error: what is no setting or of another kind than it must be, and what
no store can be opened with.

No message has a value: one of them may be a secret in the wrong place.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from pydantic import SecretStr, ValidationError

from statepath import naming
from statepath.errors import ConfigurationError, StateError
from statepath.masterkey import check_private, is_master_key, parse_master_key
from statepath.schemes import check_scheme
from statepath.settings.archiverules import rules_of
from statepath.settings.kinds import MASTERS, NAMING, PATHS, path_text
from statepath.settings.sources import Layer, values_of
from statepath.url import StateURL

_NOT_BOOL: Final = "this is neither true nor false"
_NO_NUMBER: Final = "this is no whole number: write it in digits"
_EMPTY: Final = "it is empty: leave it out, or say what it is"
_CAUSES: Final = {
    "bool_parsing": _NOT_BOOL,
    "bool_type": _NOT_BOOL,
    "int_parsing": _NO_NUMBER,
    "int_type": _NO_NUMBER,
    "int_from_float": _NO_NUMBER,
    "string_too_short": _EMPTY,
    "too_short": _EMPTY,
}
"""What pydantic tells in words of its own, in ours."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a setting, or with several together."""

    names: tuple[str, ...]
    error: StateError


def of_another_kind(error: ValidationError, known: Collection[str]) -> Iterator[Fault]:
    """What is none of the known settings, or not of its setting's kind."""
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        field = str(problem["loc"][0])
        if problem["type"] == "extra_forbidden":
            near = get_close_matches(field, known, n=1)
            cause = "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
        else:
            cause = _CAUSES.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        yield Fault((field,), ConfigurationError(cause))


def unfit(layers: tuple[Layer, ...]) -> list[Fault]:
    """What is wrong with values of the right kind, as far as it is known without a look at any storage or at a file
    that they name."""
    values = values_of(layers)
    faults: list[Fault] = []

    @contextmanager
    def about(name: str) -> Iterator[None]:
        try:
            yield
        except StateError as error:
            faults.append(Fault((name,), error))

    for name in PATHS:
        path = path_text(values.get(name))
        if isinstance(path, str) and path:
            with about(name):
                url = StateURL.parse(path)
                if name == "path":  # a mirror is nothing to those who only read
                    check_scheme(url.scheme)
    masters = [name for name in MASTERS if values.get(name) is not None]
    if len(masters) > 1:
        several = "a store has one master key: unset all but one"
        faults.append(Fault(tuple(masters), ConfigurationError(several, code="bad_key")))
    key = values.get("encryption_key")
    if isinstance(key, SecretStr):
        key = key.get_secret_value()
    if isinstance(key, str) and key:
        with about("encryption_key"):
            parse_master_key(key, "it")
            _check_kept_private(layers)
    for name in NAMING:
        told = path_text(values.get(name))
        if isinstance(told, str) and is_master_key(told):
            misplaced = "it holds a master key itself, which is for encryption_key to hold"
            faults.append(Fault((name,), ConfigurationError(misplaced, code="bad_key")))
    rules = rules_of(values.get("archive"))
    collections = (
        [(str(rule).split() or [""])[0] for rule in rules] if isinstance(rules, list | tuple) else []
    )
    misnamed = [(place, naming.fault_of(name)) for place, name in enumerate(collections, 1) if name]
    if causes := [f"rule {place} begins with no collection: {cause}" for place, cause in misnamed if cause]:
        faults.append(Fault(("archive",), ConfigurationError("; ".join(causes))))
    return faults


def _check_kept_private(layers: tuple[Layer, ...]) -> None:
    """
    Raises:
        ConfigurationError: the master key stands in a file that is not only this program's (`bad_key`).
    """
    file = next(layer.file for layer in layers if "encryption_key" in layer.values)
    if file is not None:
        check_private(f"{file}, which holds the master key,", file, os.stat(file))


def refusal(faults: list[Fault], layers: tuple[Layer, ...]) -> StateError:
    """One error for all that is wrong. What is wrong alone keeps its class and its code."""
    lines = [
        f"{' and '.join(_place(name, layers) for name in fault.names)}: {fault.error}" for fault in faults
    ]
    if len(faults) > 1:
        return ConfigurationError(
            f"{len(lines)} settings cannot be used:\n" + "\n".join(f"  {line}" for line in lines)
        )
    (fault,) = faults
    fault.error.args = (f"a setting cannot be used: {lines[0]}",)
    return fault.error


def _place(name: str, layers: tuple[Layer, ...]) -> str:
    """The setting, and where its value comes from."""
    layer = next(layer for layer in layers if name in layer.values)
    place = layer.place(name)
    return f"{name} ({layer.origin})" if place is None else f"{name} ({layer.origin}: {place})"
