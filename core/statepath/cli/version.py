"""Which statepath this is: `version`, `--version`."""

from __future__ import annotations

import msgspec
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
        # No command runs yet: whoever calls all of them tells of an output that cannot be written, as of help.
        told = {"version": statepath.__version__}
        typer.echo(
            msgspec.json.encode(told) if given(ctx, "as_json") else f"statepath {statepath.__version__}"
        )
        raise typer.Exit
