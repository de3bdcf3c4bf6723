"""Schema versions: `migrate up`, `migrate rollback`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

import statepath
from statepath.cli.opening import reading
from statepath.cli.options import DryRun, Json, StatePath, Yes, of_a_group
from statepath.cli.output import Output, confirm, counted
from statepath.cli.recovery import show_differences
from statepath.cli.running import asynchronous

group = typer.Typer(
    help="Bring documents to another schema version, and back.", no_args_is_help=True, callback=of_a_group
)


@group.command()
@asynchronous
async def up(dry_run: DryRun = False, state_path: StatePath = None, as_json: Json = False) -> None:
    """Do the migrations that are due, after a backup; with --dry-run tell what each document would be."""
    output = Output(as_json=as_json)
    async with reading(state_path):
        pass  # a missing store is not to be created by its migration
    if dry_run:
        with output.progress("trying the migrations"):
            plan = await statepath.plan_migration(state_path)
        if as_json:
            output.json({"dry_run": True, **_facts(plan.versions), "documents": len(plan.differences)})
        show_differences(plan.differences, output, quiet=not plan.versions)
        if not as_json:
            output.text(f"would migrate {_text(plan.versions)}\n" if plan.versions else "nothing is due\n")
        return
    with output.progress("migrating"):
        done = await statepath.migrate(state_path)
    if done is None:
        output.result({"dry_run": False, **_facts({}), "seq": None}, "nothing is due")
        return
    changed = sum(done.documents.values())
    told = f"migrated {_text(done.versions)} as seq {done.seq}: {changed} documents changed"
    if done.backup:
        told += f"; before: {done.backup}"
    output.result({"dry_run": False} | asdict(done) | _facts(done.versions), told)


@group.command()
@asynchronous
async def rollback(
    yes: Yes = False, dry_run: DryRun = False, state_path: StatePath = None, as_json: Json = False
) -> None:
    """Go back to the state of before the last migration. What was written since is kept aside."""
    output = Output(as_json=as_json)
    plan, found = await statepath.plan_rollback(state_path)
    if dry_run:
        if as_json:
            output.json({"dry_run": True, "to": plan.to, **_facts(plan.versions), "documents": len(found)})
        show_differences(found, output)
        if not as_json:
            output.text(f"would go back to seq {plan.to}: {_text(plan.versions)}\n")
        return
    confirm(f"This takes {counted(len(found), 'document')} back to seq {plan.to}.", yes=yes)
    with output.progress("going back"):
        done = await statepath.rollback(state_path)
    output.result(
        {"dry_run": False} | asdict(done) | _facts(done.versions),
        f"back to seq {done.to} as seq {done.seq}: {_text(done.versions)}; kept aside: {done.kept}",
    )


def _facts(versions: dict[str, tuple[int, int]]) -> dict[str, Any]:
    return {"versions": {name: {"from": old, "to": new} for name, (old, new) in versions.items()}}


def _text(versions: dict[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} from {old} to {new}" for name, (old, new) in versions.items())
