"""Encryption at rest: `keys init|list|rotate|retire|encrypt|decrypt`."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from shlex import quote
from typing import Annotated, Any, Final

import typer

from statepath import Settings
from statepath.cli.exits import Exit
from statepath.cli.opening import reading, warn_if_gone, writing
from statepath.cli.options import Json, StatePath, Yes, of_a_group
from statepath.cli.output import Output, confirm, moment
from statepath.cli.running import asynchronous, command_line
from statepath.encryption import KeyInfo
from statepath.errors import ConfigurationError
from statepath.keys import Converted, KeyRing, check_convertible, decrypt, encrypt, init_keys, read_keys

_NAMED: Final = 5

group = typer.Typer(
    help="Encrypt what is stored, and exchange the keys.", no_args_is_help=True, callback=of_a_group
)


@group.command()
@asynchronous
async def init(
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key", help="Make a master key, in the file that STATE_ENCRYPTION_KEY_FILE names."
        ),
    ] = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make a key ring where nothing is yet: what is saved there is encrypted."""
    output = Output(as_json=as_json)
    ring = await init_keys(state_path, new_key=new_key)
    await warn_if_gone(Settings.load(state_path).path)
    (key,) = ring.keys
    output.result(_facts(key), f"made the key {key.id}, wrapped by {key.wrapped_by}")
    if new_key:
        output.note("Keep a copy of the master key elsewhere: without it nobody can read the store.")


@group.command("list")
@asynchronous
async def list_keys(state_path: StatePath = None, as_json: Json = False) -> None:
    """Show the keys of a store, and how much is sealed with each. Needs no master key."""
    output = Output(as_json=as_json)
    ring = await read_keys(state_path)
    if as_json:
        for key in ring.keys:
            output.json(_facts(key))
        return
    rows = [
        (
            key.id,
            "primary" if key.primary else "reads",
            moment(_time(key.created)),
            key.objects,
            key.records,
            key.wrapped_by,
        )
        for key in ring.keys
    ]
    output.table(("KEY", "USE", "CREATED", "OBJECTS#", "COMMITS#", "WRAPPED BY"), rows)
    _remark(ring, output, state_path)


def _facts(key: KeyInfo) -> dict[str, Any]:
    return asdict(key) | {
        "created": _time(key.created),
        "until": None if key.until is None else _time(key.until),
    }


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _remark(ring: KeyRing, output: Output, state_path: str | None) -> None:
    for key in ring.keys[:-1]:
        if key.until is not None:
            until = moment(_time(key.until))
            output.note(
                f"{key.id} is needed for commits that the history keeps until {until} (STATE_HISTORY)"
            )
    if ring.converting:
        again = command_line(state_path, "keys", ring.converting)
        output.note(f"The store is half converted; finish it with: {again}")
    elif ring.rotating:
        again = command_line(state_path, "keys", "rotate")
        output.note(f"A rotation is not finished; finish it with: {again}")
    elif len(ring.keys) > 1:
        forget = command_line(state_path, "keys", "retire")
        output.note(f"Keys that nothing needs any more are forgotten by: {forget}")


@group.command()
@asynchronous
async def rotate(
    new_master: Annotated[
        str | None,
        typer.Option(
            "--new-master",
            metavar="FILE",
            help="Wrap the keys by another master key, too: the one in this file, which is made if it is missing.",
            show_default=False,
        ),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make a new key, and seal everything with it. Run it again if it was interrupted."""
    output = Output(as_json=as_json)
    settings = await _opening(state_path, new_master)
    if new_master is not None:
        output.note(f"Keep {new_master}, also if this is interrupted: the store is soon opened with it alone")
    with output.progress("sealing with a new key") as tell:
        async with writing(state_path, settings) as store:
            done = await store.rotate_key(master=new_master, progress=tell)
    if new_master is not None:
        output.note(f"From now on the store is opened with STATE_ENCRYPTION_KEY_FILE={quote(new_master)}")
    for key in done.unreadable:
        output.note(f"could not be opened, and was left as it is: {key}")
    output.result(asdict(done), f"the primary key is {done.key}; {done.resealed} objects were sealed anew")
    if done.unreadable:
        output.note(f"next: {command_line(state_path, 'verify')}")
        raise typer.Exit(Exit.DAMAGED)


async def _opening(state_path: str | None, new_master: str | None) -> Settings:
    """The settings with which the store can be opened: an interrupted run may have given it the new master key."""
    settings = Settings.load(state_path)
    try:
        async with reading(state_path, settings):
            return settings
    except ConfigurationError as error:
        if error.code != "wrong_key" or new_master is None or not os.path.exists(new_master):  # noqa: ASYNC240 - once
            raise
    return settings.with_master(new_master)


@group.command()
@asynchronous
async def retire(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY", help="Which. Default: all but the primary.", show_default=False),
    ] = None,
    yes: Yes = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Forget old keys, as far as nothing in the store needs them."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        asks = store.encrypted and not yes  # of a plain store there is nothing to forget, which is told below
    confirm(
        "Copies of the store that were made before the last rotation can be read by nobody then.",
        yes=not asks,
    )
    with output.progress("looking for what the keys are needed for") as tell:
        async with writing(state_path) as store:
            done = await store.retire_keys(*(keys or ()), progress=tell)
    for key, reason in done.kept.items():
        output.note(f"{key} stays: {reason}")
    output.result(asdict(done), f"forgot {len(done.keys)} keys" if done.keys else "no key was forgotten")


@group.command("encrypt")
@asynchronous
async def encrypt_store(yes: Yes = False, state_path: StatePath = None, as_json: Json = False) -> None:
    """Encrypt a store in place, its backups included. End its server before; run it again if it was interrupted."""
    output = Output(as_json=as_json)
    await check_convertible(state_path, "encrypt")
    confirm("The history begins anew with the state of now; the backups stay.", yes=yes)
    with output.progress("encrypting") as tell:
        done = await encrypt(state_path, progress=tell)
    output.result(asdict(done), f"encrypted seq {done.seq}: {done.objects} objects; no plain one is left")
    _tell_left(done, output)


@group.command("decrypt")
@asynchronous
async def decrypt_store(yes: Yes = False, state_path: StatePath = None, as_json: Json = False) -> None:
    """Make a plain store of an encrypted one, in place. End its server before."""
    output = Output(as_json=as_json)
    await check_convertible(state_path, "decrypt")
    confirm("Whoever can read the storage can read the store then.", yes=yes)
    with output.progress("decrypting") as tell:
        done = await decrypt(state_path, progress=tell)
    output.result(
        asdict(done),
        f"decrypted seq {done.seq}: {done.objects} objects; unset the master key before you open it",
    )
    _tell_left(done, output)


def _tell_left(done: Converted, output: Output) -> None:
    if done.left:
        some = ", ".join([*done.left[:_NAMED], *("…" for _ in done.left[_NAMED : _NAMED + 1])])
        output.note(f"not the store's, and left as they are: {len(done.left)} objects ({some})")
