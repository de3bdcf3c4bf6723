"""What leaves the live state, and comes back: `archive run|list|show|restore`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

import statepath
from statepath.cli.documents import filter_of
from statepath.cli.opening import reading, writing
from statepath.cli.options import DryRun, Json, Reference, StatePath, Yes, of_a_group
from statepath.cli.output import Output, amount, confirm, counted, moment
from statepath.cli.running import asynchronous
from statepath.engine.ids import parse_ref
from statepath.errors import InvalidArgumentError

group = typer.Typer(
    help="Documents that are done: out of the live state, and back.",
    no_args_is_help=True,
    callback=of_a_group,
)


@group.command()
@asynchronous
async def run(
    collection: Annotated[
        str | None,
        typer.Argument(
            metavar="COLLECTION", help="Default: what the setting archive says.", show_default=False
        ),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="DURATION",
            help="Not changed for so long, such as 30d.",
            show_default=False,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="FIELD=VALUE", help="With this value. May be repeated: all must hold."
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Move documents that are done into the archive. A restore to before brings them back."""
    if (collection is None) != (older_than is None) or (collection is None and where):
        raise InvalidArgumentError(
            "name a collection with --older-than (and --where), or neither: then the setting archive says what is done"
        )
    output = Output(as_json=as_json)
    wanted = filter_of(where or [])

    async def archived(store: statepath.Store, *, tried: bool) -> statepath.Archived:
        if collection is None or older_than is None:
            return await store.archive_by_rules(dry_run=tried)
        return await store.archive(collection, wanted, older_than=older_than, dry_run=tried)

    async with reading(state_path) as store:
        plan = await archived(store, tried=True)
    told = f"{counted(plan.documents, 'document')} ({amount(plan.bytes)})"
    if dry_run or not plan.documents:
        output.result(
            {"dry_run": dry_run} | asdict(plan),
            f"would archive {told}" if plan.documents else "nothing to archive",
        )
        return
    confirm(f"This archives {told}.", yes=yes)
    with output.progress("archiving"):
        async with writing(state_path) as store:
            done = await archived(store, tried=False)
    output.result(
        {"dry_run": False} | asdict(done),
        f"archived {counted(done.documents, 'document')}: {amount(done.bytes)} became {amount(done.compressed)}",
    )


@group.command("list")
@asynchronous
async def list_archive(
    collection: Annotated[str | None, typer.Argument(metavar="COLLECTION", show_default=False)] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """List what is in the archive, the latest first."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        empty = True
        async for one in store.archived(collection):
            empty = False
            output.result({"key": one.key} | asdict(one), f"{moment(one.modified)} {one.key}")
    if empty:
        output.note(
            "the archive is empty"
            if collection is None
            else f"the archive holds no documents of {collection}"
        )


@group.command()
@asynchronous
async def show(document: Reference, state_path: StatePath = None, as_json: Json = False) -> None:
    """Show a document of the archive, as it was when it was archived last."""
    output = Output(as_json=as_json)
    collection, id = parse_ref(document)
    async with reading(state_path) as store:
        value = await store.read_archived(collection, id)
    if as_json:
        output.json({"collection": collection, "id": id, "value": value})
    else:
        output.document(value)


@group.command()
@asynchronous
async def restore(document: Reference, state_path: StatePath = None, as_json: Json = False) -> None:
    """Make a document of the archive live again."""
    output = Output(as_json=as_json)
    collection, id = parse_ref(document)
    async with reading(state_path):
        pass  # a missing store is not to be created
    async with writing(state_path) as store:
        seq = await store.unarchive(collection, id)
    output.result({"key": document, "seq": seq}, f"{document} is live again, as seq {seq}")
