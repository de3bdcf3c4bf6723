"""Settings: `config show`."""

from __future__ import annotations

import typer

from statepath.cli.options import Json, StatePath
from statepath.cli.output import Output
from statepath.settings.describing import Setting, describe

group = typer.Typer(help="See how statepath is set up.", no_args_is_help=True)


@group.command()
def show(state_path: StatePath = None, as_json: Json = False) -> None:
    """Show every setting, its value, and where that comes from. Secrets are left out."""
    output = Output(as_json=as_json)
    settings = describe(state_path)
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
                one.variable,
            )
            for one in settings
        ],
    )


def _text(setting: Setting) -> str | int | float:
    if setting.value is None:
        return "none" if setting.name.startswith(("compression", "encryption", "mirror")) else "auto"
    return setting.value
