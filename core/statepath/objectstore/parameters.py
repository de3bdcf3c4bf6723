"""What a URL and the environment say of an object store beside its place: parameters, and how each is understood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, replace
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar
from urllib.parse import urlsplit

from statepath.backend import Parameter
from statepath.errors import InvalidArgumentError


class _Config(Protocol):
    """Any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


ConfigT = TypeVar("ConfigT", bound=_Config)

Understand: TypeAlias = Callable[[str, str], object]
"""Makes the value of a parameter from its text; what it is called where it was found is for messages."""


class Parameters:
    """The names of one service's parameters, each of them a field of its configuration: `None` where nothing is said.

    Parameters:
        variables: what their variables in the environment begin with, `STATE_S3_` for one.
        understood: how the text of each is understood.
    """

    def __init__(self, variables: str, **understood: Understand) -> None:
        self._variables = variables
        self._understood = understood

    def __iter__(self) -> Iterator[str]:
        return iter(self._understood)

    def said(self, config: ConfigT, query: Mapping[str, str]) -> ConfigT:
        """The configuration with what a URL says.

        Raises:
            InvalidArgumentError: something is not understood.
        """
        values = {name: self._understood[name](name, text) for name, text in query.items()}
        return replace(config, **values)

    def completed(self, config: ConfigT, env: Mapping[str, str]) -> ConfigT:
        """The configuration with what the environment says, where the URL is silent.

        Raises: as `said`.
        """
        values: dict[str, object] = {}
        for name, understand in self._understood.items():
            variable = self._variable(name)
            if getattr(config, name) is None and (text := env.get(variable)):
                values[name] = understand(variable, text)
        return replace(config, **values)

    def listed(self, said: Mapping[str, str], defaults: Mapping[str, str]) -> list[Parameter]:
        """All of them for people, with what a URL says, and what holds where nobody says anything."""
        return [
            Parameter(name, (self._variable(name),), said.get(name), defaults.get(name))
            for name in self._understood
        ]

    def _variable(self, name: str) -> str:
        return f"{self._variables}{name.upper()}"


def text(name: str, text: str) -> str:
    """A parameter that is any text."""
    return text


def endpoint(name: str, text: str, *, form: str, secrets: str) -> str:
    """A parameter that is a service's address.

    Parameters:
        form: how the address is written, and `secrets` what belongs elsewhere and where, for messages.

    Raises:
        InvalidArgumentError: it is none, or holds more than an address.
    """
    try:
        parts = urlsplit(text)
        # As the resolver will: each part of a name has 1 to 63 letters.
        host = (parts.hostname or "").encode("idna")
        usable = parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    except ValueError:
        usable = False
        parts = urlsplit("")
    if not usable:
        raise InvalidArgumentError(f"{name} is no URL of a service; write https://host or {form}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidArgumentError(f"{name} holds more than an address; set {secrets}")
    return text.rstrip("/")


def seconds(name: str, text: str) -> float:
    """A parameter that is a duration.

    Raises:
        InvalidArgumentError: it is none, or not between 0 and an hour.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise InvalidArgumentError(f"{name} is {text!r}; give seconds, more than 0 and at most 3600")
    return value


def flag(name: str, text: str) -> bool:
    """A parameter that is `true` or `false`.

    Raises:
        InvalidArgumentError: it is neither.
    """
    if text.lower() not in ("true", "false"):
        raise InvalidArgumentError(f"{name} is {text!r}; write true or false")
    return text.lower() == "true"
