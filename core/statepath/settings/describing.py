"""Every setting with its value and where that comes from, for `config show`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from typing_extensions import Unpack

from statepath.settings import SettingsArgs, read, setting_names
from statepath.settings.masking import shown
from statepath.settings.sources import Origin, variable_of


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it may be shown.

    Attributes:
        name: the field, and `variable` its environment variable.
        value: as it would be written in a file, `None` for "auto". A state path has no credentials here.
        origin: what kind of source won; of a backend's parameter it may be the state path.
        source: the variable or the file that won, where it is one.
    """

    name: str
    variable: str | None
    value: str | int | float | bool | None
    origin: Origin | Literal["state path"]
    source: str | None = None


def describe(
    path: str | os.PathLike[str] | None = None, **overrides: Unpack[SettingsArgs]
) -> tuple[Setting, ...]:
    """Every setting with its value and where that comes from, also where no store can be opened with them: a state path
    that leads nowhere is shown.

    Parameters: as `Settings.load`.

    Raises:
        ConfigurationError: a value is not of its setting's kind; names all that is wrong.
    """
    settings, _, layers = read(path, overrides)
    lines = []
    for name, field in setting_names().items():
        layer = next((layer for layer in layers if name in layer.values), None)
        lines.append(
            Setting(
                name=name,
                variable=variable_of(name),
                value=shown(name, getattr(settings, field)),
                origin="default" if layer is None else layer.origin,
                source=None if layer is None else layer.place(name),
            )
        )
    return tuple(lines)
