"""Backups: `backup create`, `backup list`, `backup restore`, `backup export`, `backup import`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from statepath import import_backup
from statepath.backend import Backend
from statepath.cli.opening import reading, warn_if_gone, writing
from statepath.cli.options import DryRun, History, Json, StatePath, Yes, of_a_group
from statepath.cli.original import described, is_original, restore_original
from statepath.cli.output import Output, amount, moment
from statepath.cli.recovery import restore_to
from statepath.cli.running import asynchronous, command_line
from statepath.discovery import connect
from statepath.engine.floor import read_floor
from statepath.engine.opening import attach
from statepath.engine.original import State, read_backup
from statepath.engine.original import backup_keys as original_keys
from statepath.engine.snapshot import SnapshotMeta, read_meta
from statepath.errors import CorruptionError, DivergedError, NotFoundError, UnsupportedError
from statepath.quantities import size
from statepath.settings import Settings

group = typer.Typer(
    help="Keep the state of now, and go back to one that was kept.", no_args_is_help=True, callback=of_a_group
)


@group.command()
@asynchronous
async def create(state_path: StatePath = None, as_json: Json = False) -> None:
    """Bring state.json up to now and keep it as a backup."""
    output = Output(as_json=as_json)
    async with reading(state_path):
        pass  # a missing store is not to be created by its backup
    with output.progress("writing the backup"):
        async with writing(state_path) as store:
            key = await store.backup()
            seq = store.seq
    output.result({"key": key, "seq": seq}, f"{key} shows seq {seq}")


@group.command("list")
@asynchronous
async def list_backups(state_path: StatePath = None, as_json: Json = False) -> None:
    """List the backups, oldest first."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        keys = await store.backups()
    with output.progress("reading the backups"):
        async with _objects(state_path) as backend:
            described = [await _described(backend, key) for key in (*await original_keys(backend), *keys)]
    rows = [row for row in described if row is not None]
    if as_json:
        for row in rows:
            output.json(row)
    elif rows:
        output.table(
            ("KEY", "SEQ#", "LAST CHANGE", "DOCUMENTS#", "SIZE#"),
            [
                (row["key"], "unusable", "", "", amount(row["size"]))
                if row["damage"]
                else (
                    row["key"],
                    "original" if row["seq"] is None else row["seq"],
                    moment(row["last_change"]),
                    row["documents"],
                    amount(row["size"]),
                )
                for row in rows
            ],
        )
        for row in rows:
            if row["damage"]:
                output.note(row["damage"])
    else:
        output.note(f"there are no backups; to make one: {command_line(state_path, 'backup', 'create')}")


@group.command()
@asynchronous
async def restore(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `backup list` names it.", show_default=False)],
    yes: Yes = False,
    dry_run: DryRun = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make the documents those of a backup, one of the original server's, too.

    That is a change like any other, and can be undone.
    """
    output = Output(as_json=as_json)
    if is_original(key):
        with output.progress("reading the backup"):
            kept = await _read_original(key, state_path)
        await restore_original(key, kept, state_path, output, yes=yes, dry_run=dry_run)
        return
    with output.progress("reading the backup"):
        meta = await _read(key, state_path)
    await restore_to(meta.seq, state_path, output, yes=yes, dry_run=dry_run)


@group.command()
@asynchronous
async def export(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file.", show_default=False)],
    history: History = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Write the store into one file, which `backup import` takes to any backend. Works beside a running server."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        with output.progress("writing the file") as tell:
            made = await store.export(file, history=history, progress=tell)
    output.result(asdict(made), f"{made.path} holds seq {made.seq}, {amount(made.bytes)}")


@group.command("import")
@asynchronous
async def import_file(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="As `backup export` wrote it.", show_default=False)
    ],
    max_size: Annotated[
        str, typer.Option("--max-size", metavar="SIZE", help="The most that it may hold, unpacked.")
    ] = "4GiB",
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make a store of a file, where nothing is yet. The file is checked before anything is written."""
    output = Output(as_json=as_json)
    with output.progress("checking the file") as tell:
        made = await import_backup(file, state_path, limit=size(max_size), progress=tell)
    await warn_if_gone(Settings.load(state_path).path)
    output.result(asdict(made), f"{made.target} begins with seq {made.seq} and {made.documents} documents")


@asynccontextmanager
async def _objects(state_path: str | None) -> AsyncIterator[Backend]:
    """What is stored, below the store."""
    settings = Settings.load(state_path)
    backend = await attach(await connect(settings.path, readonly=True), settings, readonly=True)
    try:
        yield backend
    finally:
        await backend.close()


async def _read(key: str, state_path: str | None) -> SnapshotMeta:
    """What the backup says of itself, once it is known to be whole and of this history."""
    async with reading(state_path) as store:
        kept = await store.backups()
    if key not in kept:
        raise NotFoundError(
            f"there is no backup {key}", key=key if key.startswith("state.backup.") else "state.backup."
        )
    async with _objects(state_path) as backend:
        meta = read_meta((await backend.read(key)).data, key)
        stored = await read_floor(backend)
    if stored is not None and not stored[0].continues(meta.incarnation, meta.seq):
        raise DivergedError(
            f"{key} is of another incarnation of the store, before a recovery that lost commits: "
            "its seq means something else now. To use it, close the store and copy it over state.json",
            key=key,
        )
    return meta


async def _read_original(key: str, state_path: str | None) -> State:
    async with reading(state_path):
        pass  # the error of a store that is missing
    async with _objects(state_path) as backend:
        if key not in await original_keys(backend):
            raise NotFoundError(f"there is no backup {key}", key=key)
        return await read_backup(backend, key)


async def _described(backend: Backend, key: str) -> dict[str, Any] | None:
    """The row of a backup; `None`: a server has removed it meanwhile."""
    row: dict[str, Any] = {"key": key, "size": None, "damage": None}
    try:
        data = (await backend.read(key)).data
        row["size"] = len(data)
        if is_original(key):
            return described(key, len(data), await read_backup(backend, key))
        meta = read_meta(data, key)
    except NotFoundError:
        return None
    except (CorruptionError, UnsupportedError) as error:
        return row | {"seq": None, "last_change": None, "documents": None, "damage": str(error)}
    return row | {
        "seq": meta.seq,
        "last_change": datetime.fromtimestamp(meta.time / 1_000_000, UTC),
        "documents": sum(len(index.documents) for name, index in meta.collections.items() if "/" not in name),
    }
