"""The command: run the trial, show what came of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from statepath.backend import Entry
from statepath.cli.demo.trial import Outcome, Trial
from statepath.cli.exits import Exit
from statepath.cli.options import Json, about, inherited
from statepath.cli.output import Output, amount, harmless
from statepath.cli.running import asynchronous, command_line, shown
from statepath.cli.temporary import temporary_files
from statepath.commit import PROBES
from statepath.discovery import connect
from statepath.errors import AlreadyExistsError, NotFoundError, UnsupportedError

group = typer.Typer()


@group.command()
@asynchronous
async def demo(
    ctx: typer.Context,
    tasks: Annotated[
        int, typer.Option("--tasks", min=1, help="How many tasks the server begins, at least.")
    ] = 600,
    kills: Annotated[
        int, typer.Option("--kills", "--rounds", min=1, help="How often the server is killed.")
    ] = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary store.")] = False,
    state_path: Annotated[
        str | None,
        typer.Option(
            "--state-path",
            "-s",
            metavar="PATH|URL",
            help="Where nothing is yet. Default: a temporary folder, never STATE_PATH.",
            callback=inherited,
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Kill a server in mid-write, open what it left, and show that nothing acknowledged is lost."""
    output = Output(as_json=as_json)
    async with _place(state_path, keep=keep) as path:
        about(ctx, path)
        trial = Trial(path)
        began = time.perf_counter()
        for number in range(kills):
            with output.progress(f"server {number + 1} of {kills} works until it is killed"):
                await trial.round(-(-tasks // kills))
        seconds = time.perf_counter() - began
        layout = await _layout(path)
        kept = keep or state_path is not None
        if as_json:
            output.json(_facts(trial, seconds, kept=kept))
        else:
            _show(output, trial, layout, seconds)
            if kept:
                output.text(f"\nThe store is kept. Look around: {command_line(path, 'status')}\n")
    if not all(outcome.well for outcome in trial.outcomes):
        raise typer.Exit(Exit.ERROR)


@asynccontextmanager
async def _place(path: str | None, *, keep: bool) -> AsyncIterator[str]:
    if path is not None:
        await _check_empty(path)
        yield path
    elif keep:
        with temporary_files():
            folder = tempfile.mkdtemp(prefix="statepath-demo-")
        yield folder
    else:
        with temporary_files():
            passing = tempfile.TemporaryDirectory(prefix="statepath-demo-")
        with passing as folder:
            yield folder


async def _check_empty(path: str) -> None:
    try:
        backend = await connect(path, readonly=True)
    except NotFoundError:
        return
    try:
        if not backend.capabilities.shared:
            raise UnsupportedError(f"{backend.url} is seen by this process only; the demo needs two")
        async for entry in backend.list_keys(""):
            if not entry.key.startswith(PROBES):
                raise AlreadyExistsError(
                    f"{backend.url} is not empty, it holds {entry.key}; the demo wants a place of its own",
                    key=backend.url,
                )
    finally:
        await backend.close()


async def _layout(path: str) -> list[Entry]:
    backend = await connect(path, readonly=True)
    try:
        return [entry async for entry in backend.list_keys("")]
    finally:
        await backend.close()


def _facts(trial: Trial, seconds: float, *, kept: bool) -> dict[str, Any]:
    last = trial.outcomes[-1]
    return {
        "acknowledged": last.acknowledged,
        "recovered": last.recovered,
        "lost": last.lost,
        "kills": len(trial.outcomes),
        "ahead": last.ahead,
        "partial": last.partial,
        "damage": last.damage,
        "tasks": last.tasks,
        "seq": last.seq,
        "recovery_seconds": max(outcome.seconds for outcome in trial.outcomes),
        "seconds": seconds,
        "path": shown(trial.path),
        "kept": kept,
        "rounds": [asdict(outcome) | {"lost": outcome.lost} for outcome in trial.outcomes],
    }


def _show(output: Output, trial: Trial, layout: list[Entry], seconds: float) -> None:
    output.show(_tree(trial.path, layout))
    output.text("\n")
    output.table(
        ("KILL#", "ACKNOWLEDGED#", "RECOVERED#", "LOST#", "AHEAD#", "PARTIAL#", "RECOVERY#"),
        [
            (
                number,
                outcome.acknowledged,
                outcome.recovered,
                Text(str(outcome.lost), style="bold red" if outcome.lost else "bold green"),
                outcome.ahead,
                len(outcome.partial),
                f"{outcome.seconds * 1000:.0f} ms",
            )
            for number, outcome in enumerate(trial.outcomes, 1)
        ],
    )
    for sentence in _troubles(trial.outcomes):
        output.note(sentence)
    last = trial.outcomes[-1]
    output.text(
        f"\nKilled {len(trial.outcomes)} times with SIGKILL in mid-write: {last.acknowledged:,} saves acknowledged, "
        f"{last.recovered:,} recovered, {last.lost:,} lost ({last.tasks:,} tasks, {seconds:.1f} s).\n"
        "Ahead: durable when the server was killed, before it could be told so.\n"
    )


def _troubles(outcomes: list[Outcome]) -> list[str]:
    return list(dict.fromkeys(one for outcome in outcomes for one in (*outcome.partial, *outcome.damage)))[
        :20
    ]


def _tree(path: str, layout: list[Entry]) -> Tree:
    """The layout on storage: of each folder the first entries, and how many more there are."""
    tree = Tree(harmless(f"{shown(path).removesuffix('/')}/"))
    folders: dict[str, list[Entry]] = {}
    for entry in layout:
        folder, slash, _ = entry.key.rpartition("/")
        folders.setdefault(folder + slash, []).append(entry)
    for folder, entries in folders.items():
        branch = tree.add(folder) if folder else tree
        first = entries if not folder or len(entries) <= 4 else entries[:3]
        for entry in first:
            branch.add(f"{entry.key.removeprefix(folder)}  {amount(entry.size)}")
        if more := entries[len(first) :]:
            branch.add(f"… {len(more):,} more  {amount(sum(entry.size for entry in more))}")
    return tree
