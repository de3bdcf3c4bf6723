"""What happens and what happened: `logs`, `watch`, `history`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from statepath import StateChange, Store
from statepath.cli.interrupts import terminable
from statepath.cli.opening import reading
from statepath.cli.options import Json, StatePath
from statepath.cli.output import Output, moment, preview
from statepath.cli.running import asynchronous
from statepath.engine.ids import check_id, parse_ref
from statepath.errors import InvalidArgumentError, NotFoundError
from statepath.naming import check_told

group = typer.Typer()


@group.command()
@asynchronous
async def logs(
    session: Annotated[
        str | None, typer.Argument(help="The session; without one: list them.", show_default=False)
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is added, until Ctrl-C or SIGTERM.")
    ] = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Show the log of a session."""
    output = Output(as_json=as_json)
    if follow and session is None:
        raise InvalidArgumentError(
            "--follow goes on with the log of one session: name it, or use watch --collection logs for all"
        )
    async with reading(state_path) as store:
        if session is None:
            for id in await store.logs():
                output.result({"id": id}, id)
            return
        tail = Tail(store, check_id(session), output)
        await tail.show(required=not follow)
        if follow:
            with terminable():
                await tail.follow()


class Tail:
    """A session's log, each piece once and in order: from its file, and from the log of commits where the file lags."""

    def __init__(self, store: Store, id: str, output: Output) -> None:
        self._store = store
        self._id = id
        self._output = output
        self._since = store.seq
        self._shown = 0
        self._removed = 0

    async def show(self, *, required: bool) -> None:
        """All there is.

        Raises:
            NotFoundError: there is no such log, and it is required.
        """
        # Before each snapshot the files are brought up to date: what they lack was committed behind the last one.
        since = (await self._store.health()).snapshot_seq
        missing: NotFoundError | None = None
        text = ""
        try:
            text = await self._store.read_log(self._id)
        except NotFoundError as error:
            missing = error
        changes = await self._store.history(f"logs/{self._id}", since=since)
        if not any(change.kind == "delete" for change in changes):
            self._tell(0, text)
        else:
            # Whether the file shows the log of before or of after the removal cannot be told.
            while changes[0].kind != "delete" or any(one.kind == "delete" for one in changes[1:]):
                del changes[0]
        for change in changes:
            self._add(change)
        if required and missing is not None and not self._shown:
            raise missing

    async def follow(self) -> None:
        """What is added, as it becomes durable."""
        async for change in self._store.watch(since=self._since, collections=("logs",)):
            if change.id == self._id:
                self._add(change)

    def _add(self, change: StateChange) -> None:
        if change.seq <= self._removed:
            return
        if change.kind == "delete":
            self._removed, self._shown = change.seq, 0
            return
        self._tell(change.offset or 0, str(change.value))

    def _tell(self, offset: int, text: str) -> None:
        data = text.encode()
        fresh = data[max(self._shown - offset, 0) :]
        if offset + len(data) <= self._shown:
            return
        self._shown = offset + len(data)
        new = fresh.decode(errors="replace")
        if self._output.as_json:
            self._output.json({"id": self._id, "offset": self._shown - len(fresh), "text": new})
        else:
            self._output.text(new)


@group.command()
@asynchronous
async def watch(
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="CURSOR|SEQ", help="Begin behind it. Default: from now on.", show_default=False
        ),
    ] = None,
    collection: Annotated[
        list[str] | None,
        typer.Option("--collection", "-c", help="Changes of this one only. May be repeated."),
    ] = None,
    id: Annotated[
        list[str] | None,
        typer.Option("--id", help="Changes of the document, log or report of this id only. May be repeated."),
    ] = None,
    resync: Annotated[
        bool,
        typer.Option(
            "--resync", help="Where the log does not reach back to --since, tell what there is instead."
        ),
    ] = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Tell every change as it becomes durable, until Ctrl-C or SIGTERM."""
    output = Output(as_json=as_json)
    names = tuple(map(check_told, collection or ()))
    async with reading(state_path) as store:
        # What has more digits than a seq is told to be no cursor.
        position = int(since) if since is not None and since.isdecimal() and len(since) <= 18 else since
        ids = tuple(map(check_id, id or ()))
        with terminable():
            async for change in store.watch(since=position, collections=names, ids=ids, resync=resync):
                output.result(_facts(change), _line(change))


@group.command()
@asynchronous
async def history(
    document: Annotated[
        str | None,
        typer.Argument(
            metavar="COLLECTION/ID",
            help="One document, log or report; without one: all.",
            show_default=False,
        ),
    ] = None,
    since: Annotated[int, typer.Option("--since", min=0, metavar="SEQ", help="Only behind this seq.")] = 0,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="Only so many of the newest.", show_default=False),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Tell what happened, oldest first, as far as the log reaches back."""
    output = Output(as_json=as_json)
    if document is not None and not document.startswith(("logs/", "reports/")):
        parse_ref(document)
    async with reading(state_path) as store:
        with output.progress("reading the log"):
            changes = await store.history(document, since=since, limit=limit)
    for change in changes:
        output.result(_facts(change), _line(change))
    if not changes:
        output.note("the log has no such change")


def _facts(change: StateChange) -> dict[str, Any]:
    return {"key": change.key} | asdict(change)


def _line(change: StateChange) -> str:
    if change.kind == "resync":
        return f"{change.seq:>8} {moment(change.time)} resync: the {change.value} documents that there are"
    field = "" if change.field is None else f" {change.field}"
    value = "" if change.kind == "delete" else f" {preview(change.value)}"
    return f"{change.seq:>8} {moment(change.time)} {change.kind:<6} {change.key}{field}{value}"
