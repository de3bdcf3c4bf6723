"""Whether what is stored is sound, and what becomes of what is not: `verify`, `repair`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import typer

from statepath.cli.exits import Exit
from statepath.cli.opening import reading
from statepath.cli.options import DryRun, Json, StatePath, Yes
from statepath.cli.output import Output, confirm, counted
from statepath.cli.running import asynchronous, command_line
from statepath.engine.verification import Finding
from statepath.repairing import everything_wrong_with, repair

group = typer.Typer()

NOTICES: Final = 10
"""How many notices people are shown: a server that is busy has many files that lag."""


@group.command()
@asynchronous
async def verify(state_path: StatePath = None, as_json: Json = False) -> None:
    """Check snapshot, journal, backups and files against each other.

    Changes nothing; exits with 6 on damage, and with 8, 9 or 1 if something cannot be read.
    """
    output = Output(as_json=as_json)
    with output.progress("checking"):
        async with reading(state_path) as store:
            found = await everything_wrong_with(store)
            seq = store.seq
    damaged = sum(finding.severity == "damage" for finding in found)
    unread = [finding for finding in found if finding.unread]
    wrong = damaged or unread
    if as_json:
        output.json(
            {"ok": not wrong, "seq": seq, "damage": damaged, "findings": [asdict(one) for one in found]}
        )
    else:
        notices = [one for one in found if one.severity == "notice"]
        for finding in (*(one for one in found if one.severity != "notice"), *notices[:NOTICES]):
            output.line(f"{finding.severity}: {_about(finding)}{finding.reason}")
        if len(notices) > NOTICES:
            output.line(f"and {len(notices) - NOTICES} more notices")
        told = [f"{damaged} damaged"] if damaged else []
        told += [f"{len(unread)} not read"] if unread else []
        output.line(f"{', '.join(told) or 'all is well'}, up to seq {seq}")
    if unread:
        output.note("next: see that what was not read can be, and run this again; it may be whole")
    elif damaged:
        output.note(f"next: {command_line(state_path, 'repair', '--dry-run')}")
    if damaged:
        raise typer.Exit(Exit.DAMAGED)
    if unread:
        kinds = {finding.severity for finding in unread}
        raise typer.Exit(
            Exit.DENIED if "denied" in kinds else Exit.UNAVAILABLE if "unavailable" in kinds else Exit.ERROR
        )


@group.command("repair")
@asynchronous
async def repair_store(
    yes: Yes = False, dry_run: DryRun = False, state_path: StatePath = None, as_json: Json = False
) -> None:
    """Rebuild what can be rebuilt, and keep aside what was damaged. Exits with 6 if something cannot be rebuilt."""
    output = Output(as_json=as_json)
    with output.progress("checking"):
        done = await repair(state_path, dry_run=True)
    damage = [one for one in done.found if one.severity == "damage"]
    if not as_json:
        for finding, remedy in zip(damage, done.remedies, strict=True):
            output.line(f"damage: {_about(finding)}{finding.reason}\n    {remedy}")
    if damage and not dry_run:
        confirm(f"This mends {counted(len(damage), 'damaged object')}.", yes=yes)
        with output.progress("repairing"):
            done = await repair(state_path)
    if as_json:
        output.json(asdict(done) | {"dry_run": dry_run, "ok": done.complete})
    elif not damage:
        output.line(f"all is well, up to seq {done.seq}")
    elif not dry_run:
        for key in done.kept:
            output.line(f"kept aside: {key}")
        for key in done.recovered:
            output.line(f"recovered from its own file: {key}")
        for key in done.lost:
            output.line(f"given up: {key}; the archive goes on without its documents")
        for finding in done.left:
            output.line(f"damaged still: {_about(finding)}{finding.reason}")
        output.line(f"{'mended' if done.complete else 'not all of it could be mended'}, up to seq {done.seq}")
    if not done.complete:
        raise typer.Exit(Exit.DAMAGED)


def _about(finding: Finding) -> str:
    return "" if not finding.key or finding.key in finding.reason else f"{finding.key}: "
