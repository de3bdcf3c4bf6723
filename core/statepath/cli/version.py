"""Which statepath this is: `version`, `--version`."""

from __future__ import annotations

import typer

import statepath
from statepath.cli.options import Json, given
from statepath.cli.output import Output

group = typer.Typer()


@group.command()
def version(as_json: Json = False) -> None:
    """Show the version."""
    Output(as_json=as_json).result({"version": statepath.__version__}, f"statepath {statepath.__version__}")


def print_version(ctx: typer.Context, value: bool) -> None:
    if value:
        version(as_json=bool(given(ctx, "as_json")))
        raise typer.Exit
