"""The commands, put together. Each group has a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from statepath.cli import (
    archive,
    backups,
    cleaning,
    configuration,
    copying,
    doctor,
    documents,
    feed,
    keys,
    leases,
    migrating,
    migration,
    mirroring,
    recovery,
    repairing,
    status,
    version,
)
from statepath.cli.demo import command as demo
from statepath.cli.options import Json, StatePath
from statepath.cli.running import Commands, logging_to_stderr
from statepath.cli.version import print_version

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
        bool, typer.Option("--version", help="Show the version.", callback=print_version)
    ] = False,
) -> None:
    ctx.with_resource(logging_to_stderr(debug=debug))


for group in (demo, status, doctor, version, documents, feed, recovery, repairing, copying):
    app.add_typer(group.group)
app.add_typer(backups.group, name="backup")
app.add_typer(cleaning.group)
app.add_typer(archive.group, name="archive")
migrating.group.command()(migration.sql)
app.add_typer(migrating.group, name="migrate")
app.add_typer(leases.group, name="lease")
app.add_typer(keys.group, name="keys")
app.add_typer(mirroring.group, name="mirror")
app.add_typer(configuration.group, name="config")
