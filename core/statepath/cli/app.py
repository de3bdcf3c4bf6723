"""The commands, put together. Each group has a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from statepath.cli import (
    backups,
    configuration,
    copying,
    diagnosis,
    documents,
    feed,
    keys,
    leases,
    migrating,
    migration,
    mirroring,
    recovery,
    retention,
)
from statepath.cli.demo import command as demo
from statepath.cli.diagnosis import print_version
from statepath.cli.options import Json, StatePath
from statepath.cli.running import Commands, logging_to_stderr

app = typer.Typer(
    name="statepath",
    cls=Commands,
    help="Look after the state of a long-lived server: see it, change it, restore it.",
    epilog="Exit codes and examples: docs/cli.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def statepath(
    ctx: typer.Context,
    state_path: StatePath = None,
    as_json: Json = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Log what happens to stderr, as DEBUG=persistence:* does.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    ctx.with_resource(logging_to_stderr(debug=debug))


for group in (demo, diagnosis, documents, feed, recovery, copying):
    app.add_typer(group.group)
app.add_typer(backups.group, name="backup")
app.add_typer(retention.cleaning)
app.add_typer(retention.group, name="archive")
migrating.group.command()(migration.sql)
app.add_typer(migrating.group, name="migrate")
app.add_typer(leases.group, name="lease")
app.add_typer(keys.group, name="keys")
app.add_typer(mirroring.group, name="mirror")
app.add_typer(configuration.group, name="config")
