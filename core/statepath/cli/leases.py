"""Who holds what: `lease list`, `lease release`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from statepath.cli.opening import reading, writing
from statepath.cli.options import Json, StatePath, Yes, of_a_group
from statepath.cli.output import Output, confirm, moment
from statepath.cli.running import asynchronous, command_line
from statepath.engine.leases import Holder, lease_key
from statepath.errors import LeaseHeldError, NotFoundError

group = typer.Typer(
    help="Leases: who holds them, and how to take one away.", no_args_is_help=True, callback=of_a_group
)


@group.command("list")
@asynchronous
async def list_leases(state_path: StatePath = None, as_json: Json = False) -> None:
    """List the leases and their holders. One whose holder has died is there until somebody takes it."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        holders = await store.leases()
    for holder in holders:
        output.result(
            _facts(holder), f"{moment(holder.since)} {holder.name} {_who(holder)}, ttl {holder.ttl:g} s"
        )
    if not holders:
        output.note("nobody holds a lease")


@group.command()
@asynchronous
async def release(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As lease list has it.", show_default=False)],
    force: Annotated[
        bool, typer.Option("--force", help="Take it away from its holder, whose changes are refused then.")
    ] = False,
    yes: Yes = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Take a lease away from its holder."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        holder = next((one for one in await store.leases() if one.name == name), None)
    if holder is None:
        raise NotFoundError(f"nobody holds the lease {name!r}", key=lease_key(name))
    if not force:
        force_it = command_line(state_path, "lease", "release", name, "--force")
        raise LeaseHeldError(
            f"the lease {name!r} is held by {_who(holder)}; it is free {holder.ttl:g} s after its last sign of life; "
            f"to take it away now: {force_it}",
            key=name,
        )
    confirm(f"This takes the lease {name!r} away from {_who(holder)}.", yes=yes)
    async with writing(state_path) as writer:
        holder = await writer.break_lease(name, holder=holder)
    output.result(_facts(holder), f"took {name} away from {_who(holder)}")


def _who(holder: Holder) -> str:
    return f"{holder.program or 'a process'} (pid {holder.pid} on {holder.host})"


def _facts(holder: Holder) -> dict[str, Any]:
    return {
        "name": holder.name,
        "pid": holder.pid,
        "host": holder.host,
        "program": holder.program,
        "since": holder.since,
        "ttl": holder.ttl,
        "epoch": holder.epoch,
    }
