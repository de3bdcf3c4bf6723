"""Settings: `config show`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from typing import Final

import typer

from statepath.backend import Parameter, StateURL
from statepath.cli.options import Json, StatePath, of_a_group
from statepath.cli.output import Output
from statepath.discovery import parameters, refused
from statepath.errors import StateError
from statepath.settings import read, setting_names
from statepath.settings.describing import Setting, describe
from statepath.settings.sources import warn_of_no_effect

_HIDDEN: Final = "(secret)"
_UNFIT: Final = "(not valid)"
_TELLING: Final = re.compile(
    r"@|%40|-----BEGIN|(?:key|secret|token|pass|cred|sig)[^/?&;=]*(?:=|%3D)", re.IGNORECASE
)
"""What is in credentials, in a file that should only be named, or in a query or a connection string with a secret."""

group = typer.Typer(help="See how statepath is set up.", no_args_is_help=True, callback=of_a_group)


@group.command()
def show(state_path: StatePath = None, as_json: Json = False) -> None:
    """Show every setting, and what the backend reads: the value, and where that comes from. Secrets are left out."""
    output = Output(as_json=as_json)
    settings = [*describe(state_path), *_of_backends(state_path, output)]
    warn_of_no_effect(setting_names())
    if as_json:
        output.json(
            {
                one.name: {
                    "value": one.value,
                    "variable": one.variable,
                    "origin": one.origin,
                    "source": one.source,
                }
                for one in settings
            }
        )
        return
    output.table(
        ("SETTING", "VALUE", "ORIGIN", "VARIABLE"),
        [
            (
                one.name,
                _text(one),
                one.origin if one.source in (None, one.variable) else f"{one.origin}: {one.source}",
                one.variable or "",
            )
            for one in settings
        ],
    )


def _of_backends(state_path: str | None, output: Output) -> Iterator[Setting]:
    """What the backends of the store and of its mirror read beside: `path.timeout`, `mirror.region`."""
    found, _, _ = read(state_path, {})
    for name, place in (("path", found.path), ("mirror", found.mirror)):
        if place is None:
            continue
        try:
            told = parameters(place)
            unfit = refused(place, [variable for one in told for variable in one.variables]) if told else ()
        except StateError as error:
            output.note(f"what the backend of {name} reads is not shown: {error}")
        else:
            yield from (_setting(name, one, unfit) for one in told)


def _setting(of: str, one: Parameter, unfit: Collection[str]) -> Setting:
    name = f"{of}.{one.name}"
    usual = one.variables[0] if one.variables else None
    given = next((variable for variable in one.variables if os.environ.get(variable)), None)
    if one.said is not None:
        return Setting(name, usual, _shown(one, one.said), "state path")
    if given is not None:
        value = _shown(one, os.environ[given])
        if given in unfit and value != _HIDDEN:
            value = _UNFIT
        return Setting(name, usual, value, "environment", given)
    return Setting(name, usual, one.default, "default")


def _shown(one: Parameter, value: str) -> str:
    """The value without what may be secret of it, also where that stands in the wrong place."""
    if one.secret or _TELLING.search(value):
        return _HIDDEN
    if not value.casefold().startswith(("http://", "https://")):
        return value
    try:
        return StateURL.parse(value).redacted()
    except StateError:
        return _UNFIT


def _text(setting: Setting) -> str | int | float:
    if setting.value is None:
        unset = setting.name.startswith(("compression", "encryption")) or "." in setting.name
        return "none" if unset else "auto"
    return setting.value
