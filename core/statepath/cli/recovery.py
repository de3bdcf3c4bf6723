"""Earlier states: `diff`, `restore`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from statepath import Difference, Store
from statepath.cli.opening import reading, warn_if_gone, writing
from statepath.cli.options import DryRun, Json, StatePath, Yes, made_at
from statepath.cli.output import Output, confirm, counted, moment, preview, printable
from statepath.cli.running import asynchronous, command_line, shown
from statepath.errors import InvalidArgumentError
from statepath.undoing import undone_by

group = typer.Typer()

MARKS: Final = {"added": "+", "changed": "~", "removed": "-"}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore would undo: the changes behind a seq or a moment, as far as the log tells them.

    Attributes:
        at: the seq or the moment; head: the seq that the plan was made at.
        changes: how many changes of documents have been made since; documents: of how many documents.
        needed: whether the documents differ at all.
    """

    at: int | datetime
    head: int
    changes: int
    documents: int
    needed: bool

    @property
    def moment(self) -> str:
        return f"seq {self.at}" if isinstance(self.at, int) else moment(self.at)

    def __str__(self) -> str:
        return (
            f"{counted(self.changes, 'change')} of {counted(self.documents, 'document')} since {self.moment}"
        )


@group.command()
@asynchronous
async def diff(
    a: Annotated[str, typer.Argument(metavar="SEQ|TIME", help="The earlier state.", show_default=False)],
    b: Annotated[
        str | None,
        typer.Argument(metavar="SEQ|TIME", help="The later one. Default: that of now.", show_default=False),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Tell which documents differ between two states, and in which fields."""
    output = Output(as_json=as_json)
    before, after = place(a), None if b is None else place(b)
    with output.progress("reading the log"):
        async with reading(state_path) as store:
            found = await store.diff(before, after)
    show_differences(found, output)


def show_differences(found: Sequence[Difference], output: Output, *, quiet: bool = False) -> None:
    """A line a document, and below it one a field; or an object a document."""
    for one in found:
        fields = one.fields()
        if output.as_json:
            output.json({"key": one.key} | asdict(one) | {"fields": [asdict(field) for field in fields]})
            continue
        whole = "" if one.kind == "changed" else f" {preview(one.before if one.after is None else one.after)}"
        output.text(f"{MARKS[one.kind]} {printable(one.key)}{whole}\n")
        for field in fields:
            parts = [f"    {MARKS[field.kind]} {printable(field.path)}:"]
            parts += [preview(field.before)] if field.kind != "added" else []
            parts += ["→"] if field.kind == "changed" else []
            parts += [preview(field.after)] if field.kind != "removed" else []
            output.text(f"{' '.join(parts)}\n")
    if not found and not quiet:
        output.note("no document differs")


@group.command()
@asynchronous
async def restore(
    ctx: typer.Context,
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="SEQ|TIME",
            help="A seq, or a time such as 2024-05-01T12:00:00Z.",
            show_default=False,
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="PATH|URL",
            help="Leave the store as it is, and make a new one there.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make the documents what they were. That is a change like any other, and can be undone."""
    output = Output(as_json=as_json)
    if to is None:
        await restore_to(place(at), state_path, output, yes=yes, dry_run=dry_run)
    else:
        made_at(ctx, to)
        await _restore_elsewhere(place(at), state_path, to, output, dry_run=dry_run)


async def _restore_elsewhere(
    at: int | datetime, state_path: str | None, to: str, output: Output, *, dry_run: bool
) -> None:
    """Make a store of an earlier state at another place. Nothing is destroyed, so nobody is asked."""
    facts: dict[str, Any] = {"at": at, "state_path": shown(to), "dry_run": dry_run}
    with output.progress(f"making {shown(to)}"):
        async with reading(state_path) as store:
            if dry_run:
                await store.diff(at, at)  # looks it up
                output.result(facts | {"restored": False, "seq": None}, f"would make {shown(to)}")
                return
            made = await store.restore(at=at, to=to)
    await warn_if_gone(to)
    output.result(facts | {"restored": True, "seq": made.seq}, f"{shown(to)} begins with seq {made.seq}")


async def restore_to(
    at: int | datetime, state_path: str | None, output: Output, *, yes: bool, dry_run: bool
) -> None:
    """Say what a restore would undo, ask, and do it."""
    with output.progress("reading the log"):
        async with reading(state_path) as store:
            plan = await _plan(store, at)
    facts = {"at": at, "changes": plan.changes, "documents": plan.documents, "dry_run": dry_run}
    if dry_run or not plan.needed:
        output.result(
            facts | {"restored": False, "to": None, "seq": plan.head, "undo": None},
            f"would undo {plan}" if plan.needed else f"the documents are those of {plan.moment} already",
        )
        return
    confirm(f"This undoes {plan}.", yes=yes)
    with output.progress("restoring"):
        async with writing(state_path) as store:
            restored = await store.restore(at=at)
    undo = command_line(state_path, "restore", "--at", str(restored.seq - 1))
    output.result(
        facts | {"restored": True, "to": restored.to, "seq": restored.seq, "undo": undo},
        f"restored seq {restored.to} as seq {restored.seq}; to undo it: {undo}",
    )


async def _plan(store: Store, at: int | datetime) -> Plan:
    found = await undone_by(store, at)
    return Plan(at, store.seq, found.changes, found.documents, found.needed)


def place(text: str) -> int | datetime:
    """The seq or the moment that the text names.

    Raises:
        InvalidArgumentError: it is neither, or a time without its zone.
    """
    try:
        if text.isdecimal():
            return int(text)
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgumentError(
            f"a place in the history is a seq such as 42, or a time such as 2024-05-01T12:00:00Z, not {text[:100]!r}"
        ) from None
    if at.tzinfo is None:
        raise InvalidArgumentError(
            f"the time {text} has no time zone: write {at.isoformat()}Z for UTC, or {at.isoformat()}+02:00"
        )
    return at
