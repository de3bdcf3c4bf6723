"""A store taken to another place: `copy`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import statepath
from statepath.cli.opening import warn_if_gone
from statepath.cli.options import History, Json, named
from statepath.cli.output import Output, counted
from statepath.cli.running import asynchronous, shown

group = typer.Typer()


@group.command()
@asynchronous
async def copy(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store.", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="DST", help="A place where nothing is yet.", show_default=False)
    ],
    history: History = False,
    as_json: Json = False,
) -> None:
    """Copy a store to another place, from any backend to any. Run it again if it was interrupted."""
    named(ctx, source, target)
    output = Output(as_json=as_json)
    with output.progress(f"copying to {shown(target)}") as tell:
        made = await statepath.copy(source, target, history=history, progress=tell)
    await warn_if_gone(target)
    told = [
        counted(made.documents, "document"),
        counted(made.logs, "session log"),
        counted(made.reports, "report"),
        *([counted(made.commits, "commit")] if history else []),
    ]
    output.result(asdict(made), f"{made.target} holds seq {made.seq}: {', '.join(told)}")
