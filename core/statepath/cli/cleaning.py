"""What is removed for good: `clean`."""

from __future__ import annotations

from typing import Annotated

import typer

from statepath.cli.opening import reading, writing
from statepath.cli.options import DryRun, Json, StatePath, Yes
from statepath.cli.output import Output, amount, confirm
from statepath.cli.running import asynchronous
from statepath.engine.cleaning import Cleaned

group = typer.Typer()


@group.command()
@asynchronous
async def clean(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="DURATION", help="What was kept aside before.")
    ] = "30d",
    yes: Yes = False,
    dry_run: DryRun = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Remove what was kept aside long ago, and session logs and reports beyond their bounds.

    What an archive run did not finish goes, too.
    """
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        plan = await store.clean(older_than=older_than, dry_run=True)
    if not as_json:
        for key, size in plan.objects:
            output.line(f"{key} ({amount(size)})")
    if not dry_run and plan.objects:
        confirm(f"This removes {_told(plan)}.", yes=yes)
        async with writing(state_path) as store:
            plan = await store.clean(older_than=older_than)
    facts = {
        "dry_run": dry_run,
        "bytes": plan.bytes,
        "objects": [{"key": key, "bytes": size} for key, size in plan.objects],
    }
    told = f"{'would free' if dry_run else 'removed'} {_told(plan)}"
    output.result(facts, told if plan.objects else "nothing to remove")


def _told(plan: Cleaned) -> str:
    return f"{len(plan.objects)} objects ({amount(plan.bytes)})"
