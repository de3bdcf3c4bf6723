"""Where settings come from, the strongest source first: arguments, environment variables (`STATE_…`), the `.env` of the
working directory, and the file `statepath.toml` or the one that `STATE_CONFIG` names.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from io import StringIO
from typing import Any, Final, Literal, TypeAlias

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from statepath.errors import ConfigurationError

logger = logging.getLogger("statepath.settings")

PREFIX: Final = "STATE_"
CONFIG_VARIABLE: Final = "STATE_CONFIG"
CONFIG_FILE: Final = "statepath.toml"
ENV_FILE: Final = ".env"

_OF_BACKENDS: Final = ("STATE_S3_", "STATE_GCS_", "STATE_AZURE_", "STATE_POSTGRES_")
_MISSPELT: Final = 0.8
"""So alike a variable is to a setting that it cannot be another program's."""

Origin: TypeAlias = Literal["argument", "environment", ".env", "file", "default"]


@dataclass(frozen=True, slots=True)
class Layer:
    """The values of one source."""

    origin: Origin
    values: Mapping[str, Any]
    file: str | None = None

    def place(self, name: str) -> str | None:
        """The variable or the file that holds a setting's value; `None` for an argument."""
        if self.origin == "argument":
            return None
        return self.file if self.origin == "file" else variable_of(name)


class LayerSource(PydanticBaseSettingsSource):
    """A layer, as pydantic-settings wants it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._values = layer.values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(self._values)


def variable_of(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def layers_over(arguments: Mapping[str, Any], names: Collection[str]) -> tuple[Layer, ...]:
    """The sources of the settings that have these names, the strongest first.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    env_file = _read_env_file()
    _check_letters(env_file, names)
    config = os.environ.get(CONFIG_VARIABLE) or env_file.get(CONFIG_VARIABLE)
    file = config or CONFIG_FILE
    return (
        Layer("argument", arguments),
        Layer("environment", _among(os.environ, names)),
        Layer(".env", _among(env_file, names) | _misspelt(env_file, names), ENV_FILE),
        Layer("file", _read_toml(file, required=config is not None), file),
    )


def values_of(layers: tuple[Layer, ...]) -> dict[str, Any]:
    """What the sources say together; the strongest first."""
    return {name: value for layer in reversed(layers) for name, value in layer.values.items()}


def _among(variables: Mapping[str, str | None], names: Collection[str]) -> dict[str, Any]:
    """The settings among the variables. An empty variable is one that is not set."""
    found = {name: variables.get(variable_of(name)) for name in names}
    return {name: value for name, value in found.items() if value}


def _check_letters(variables: Mapping[str, str | None], names: Collection[str]) -> None:
    """
    Raises:
        ConfigurationError: a variable is a setting's, or `STATE_CONFIG`, but for capital letters.
    """
    ours = {CONFIG_VARIABLE, *map(variable_of, names)}
    for variable, value in variables.items():
        if value and variable.upper() in ours and variable not in ours:
            raise ConfigurationError(
                f"{variable} in {ENV_FILE} has no effect: write {variable.upper()}, in capital letters"
            )


def _misspelt(variables: Mapping[str, str | None], names: Collection[str]) -> dict[str, Any]:
    """What is meant to be a setting and is none. The environment may hold anybody's variables; a file of ours that is
    passed over in silence may leave a store without its key."""
    return {
        field: value
        for variable, value in variables.items()
        if value and variable.startswith(PREFIX) and not variable.startswith(_OF_BACKENDS)
        if (field := variable.removeprefix(PREFIX).lower()) not in names
        if get_close_matches(field, names, n=1, cutoff=_MISSPELT)
    }


def warn_of_no_effect(names: Collection[str]) -> None:
    """Tell which variables of backends stand in `.env`, as no backend reads that; but for those that somebody has
    exported from it. And which of the environment seems to be meant for a master key, and is none of the settings of
    these names: without it a new store is a plain one."""
    for field in _misspelt(os.environ, names):
        (meant,) = get_close_matches(field, names, n=1, cutoff=_MISSPELT)
        if meant.startswith("encryption"):
            _warn(
                f"{variable_of(field)} in the environment has no effect; did you mean {variable_of(meant)}?"
            )
    for name in _read_env_file():
        if name.startswith(_OF_BACKENDS) and name not in os.environ:
            _warn(
                f"{name} in {ENV_FILE} has no effect: what a backend reads has to be in the environment itself, "
                "or in the state path"
            )


@cache
def _warn(message: str) -> None:
    """Say it once, however often the settings are read."""
    logger.warning(message)


def _read_env_file() -> dict[str, str | None]:
    if not os.path.isfile(ENV_FILE):
        return {}
    try:
        with open(ENV_FILE, encoding="utf-8-sig") as stream:
            text = stream.read()
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{ENV_FILE} in {os.getcwd()} cannot be read: {_plain(error)}") from None
    for statement in parse_stream(StringIO(text)):
        # Passed over, it would leave a store without its key, or in another place.
        if statement.error and re.search(rf"\b{PREFIX}", statement.original.string):
            raise ConfigurationError(
                f"{ENV_FILE} in {os.getcwd()} cannot be read: what begins in line {statement.original.line} holds "
                f"settings and is no {PREFIX}NAME=value; close its quotes"
            )
    return dotenv_values(stream=StringIO(text))


def _read_toml(file: str, *, required: bool) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            return tomllib.loads(stream.read())
    except FileNotFoundError:
        if required:
            raise ConfigurationError(
                f"{CONFIG_VARIABLE} names the file {file}, which does not exist"
            ) from None
        return {}
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file} is not valid TOML: {error}") from None
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {_plain(error)}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(
            f"{file} cannot be read: a number in it is too long, or it is nested too deep"
        ) from None


def _plain(error: OSError | UnicodeError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeError) else error.strerror or type(error).__name__
