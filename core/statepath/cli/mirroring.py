"""Replicas: `mirror`, `mirror promote`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import statepath
from statepath.cli.interrupts import terminable
from statepath.cli.opening import reading, warn_if_gone
from statepath.cli.options import DryRun, Json, Yes, named
from statepath.cli.output import Output, confirm, moment
from statepath.cli.running import asynchronous, shown
from statepath.commit import FLOOR_KEY
from statepath.errors import InvalidArgumentError, NotFoundError, StateError
from statepath.events import Event, Events, MirrorCaughtUp, MirrorFailed, MirrorLagging, MirrorRebased


class _Mirror(TyperGroup):
    """`mirror SRC DST` is short for `mirror run SRC DST`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in (*self.commands, "--help", "-h"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(
    cls=_Mirror,
    help="Ship each commit of a store to a replica: statepath mirror SRC DST.",
    no_args_is_help=True,
)


@group.command()
@asynchronous
async def run(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="The store.", show_default=False)],
    target: Annotated[
        str,
        typer.Argument(
            metavar="DST", help="A place where nothing is yet, or a replica of it.", show_default=False
        ),
    ],
    once: Annotated[
        bool, typer.Option("--once", help="Bring the replica up to now, and end. Default: go on.")
    ] = False,
    reseed: Annotated[
        bool,
        typer.Option(
            "--reseed", help="Make the replica anew first: one that cannot follow this store any more. Asks."
        ),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a replica of a store, and ship each commit there until Ctrl-C or SIGTERM.

    Works beside a running server; run it again if it was interrupted.
    """
    named(ctx, source, target)
    output = Output(as_json=as_json)
    if dry_run and not reseed:
        raise InvalidArgumentError("--dry-run is about --reseed: without that nothing is written over")
    if reseed:
        plan = await _to_be_replaced(source, target)
        if dry_run:
            output.result({"target": shown(target), "dry_run": True}, f"{plan} Nothing was changed.")
            return
        confirm(plan, yes=yes)
    events = Events()

    def tell(event: Event) -> None:
        if isinstance(event, MirrorFailed) and not event.retrying:
            return  # the command ends with it
        if as_json:
            output.json({"event": event.name} | _facts(event))
        elif not once and (text := _told(event)):
            output.note(text)

    for kind in (MirrorCaughtUp, MirrorLagging, MirrorFailed, MirrorRebased):
        events.on(kind, tell)
    with terminable(), output.progress(f"mirroring to {shown(target)}") as progress:
        made = await statepath.mirror(
            source, target, once=once, reseed=reseed, progress=progress, events=events
        )
    await warn_if_gone(target)
    output.result(asdict(made), f"{made.target} has everything up to seq {made.seq}")


async def _to_be_replaced(source: str, target: str) -> str:
    """What a reseed means, in words."""
    async with reading(source) as store:
        anew = f"would be made anew from {shown(source)}, at seq {store.seq}"
    try:
        async with reading(target) as replica:
            seq, primary = replica.seq, replica.replica_of
            unknown = any(damage.key == FLOOR_KEY for damage in replica.damage)
    except NotFoundError:
        return f"Nothing is at {shown(target)} yet."
    except StateError as error:
        if error.code != "unfinished":
            raise
        return f"The replica at {shown(target)} is unfinished, and {anew}."
    if primary is None and not unknown:
        return f"{shown(target)} is no replica, and would be refused."
    plan = (
        f"The replica at {shown(target)}, at seq {seq}, {anew}. Its documents are kept aside there; its session logs, "
        "reports and history are not."
    )
    if unknown:
        plan += (
            f" Its record is damaged, and without that a plain copy of the files of {shown(source)} passes for a "
            "replica: make sure that it is none."
        )
    return plan


def _facts(event: Event) -> dict[str, Any]:
    if isinstance(event, MirrorFailed):
        return {"target": event.target, "error": str(event.error), "retrying": event.retrying}
    return asdict(event)


def _told(event: Event) -> str | None:
    """What people are told; the rest they read as a warning in the log."""
    match event:
        case MirrorCaughtUp(seq=seq):
            return f"the replica has everything up to seq {seq}"
        case MirrorLagging(behind=behind, seconds=seconds):
            return f"the replica is {behind} transactions and {seconds:.0f} s behind"
        case _:
            return None


@group.command()
@asynchronous
async def promote(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(metavar="DST", help="The replica.", show_default=False)],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a replica the store, because the primary is lost. Says what may be missing."""
    named(ctx, target)
    output = Output(as_json=as_json)
    async with reading(target) as store:
        primary, health = store.replica_of, await store.health()
    if primary is not None:
        confirm(
            f"This makes {shown(target)} a store of its own, from seq {health.seq} of {moment(health.last_commit)} on. "
            f"What {primary} has saved since is not there, and it can no longer be mirrored here.",
            yes=yes,
        )
    with output.progress("promoting"):
        made = await statepath.promote(target)
    when = f" of {moment(made.time)}" if made.time is not None else ""
    output.result(
        asdict(made),
        f"{made.url} is a store of its own now, from seq {made.seq}{when} on; what {made.primary} has saved since is "
        "not there",
    )
