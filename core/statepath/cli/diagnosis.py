"""How a store and the installation do: `status`, `doctor`, `version`."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Annotated, Any, Final

import typer

import statepath
from statepath.backend import Capabilities
from statepath.cli.exits import Exit
from statepath.cli.opening import reading
from statepath.cli.options import Json, StatePath, about
from statepath.cli.output import Output, amount, moment
from statepath.cli.running import asynchronous, shown
from statepath.discovery import backends, connect
from statepath.engine.health import Status
from statepath.errors import NotFoundError, StateError
from statepath.mirroring import reached
from statepath.settings import Settings
from statepath.store import Store

group = typer.Typer()

PACKAGES: Final = (
    "statepath",
    "anyio",
    "msgspec",
    "pydantic",
    "pydantic-settings",
    "rich",
    "tenacity",
    "typer",
)


@dataclass(frozen=True, slots=True)
class Replica:
    """How far the replica is that the setting `mirror` names, or why that is not known."""

    target: str
    seq: int | None
    behind: int | None
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.target}: {self.error}"
        return f"{self.target}, at seq {self.seq}" + (f", {self.behind} behind" if self.behind else "")


async def _replica(store: Store) -> Replica | None:
    target, limit = store.settings.mirror, store.settings.health_timeout
    if target is None or store.replica_of is not None:
        return None
    try:
        async with asyncio.timeout(limit):
            found = await reached(target, settings=store.settings)
    except TimeoutError:
        return Replica(shown(target), None, None, f"it did not answer within {limit:g} s")
    except StateError as error:
        return Replica(shown(target), None, None, str(error))
    return Replica(found.target, found.seq, max(store.seq - found.seq, 0))


@group.command()
@asynchronous
async def status(
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 11 on a warning, too.")] = False,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Tell how the store does. Exits with 0 if no check fails, with 6 on damage, with 11 if it is unhealthy."""
    output = Output(as_json=as_json)
    async with reading(state_path) as store:
        health, stats = await store.health(), await store.stats()
        kept, logs = await store.backups(), len(await store.logs())
        url, id, incarnation = store.url, store.id, store.incarnation
        primary = store.replica_of
        replica = await _replica(store)
    well = health.healthy and not health.damage
    remarks = [check for check in health.checks if check.status is not Status.OK]
    if as_json:
        output.json(
            {
                "ok": well,
                "status": health.status,
                "url": url,
                "id": id,
                "incarnation": incarnation,
                "replica_of": primary,
                "mirror": None if replica is None else asdict(replica),
                "seq": health.seq,
                "floor": stats.floor,
                "snapshot_seq": health.snapshot_seq,
                "last_saved": health.last_saved,
                "last_commit": health.last_commit,
                "last_backup": health.last_backup,
                "documents": stats.documents,
                "bytes": stats.bytes,
                "logs": logs,
                "backups": len(kept),
                "free_bytes": health.free_bytes,
                "journal_bytes": health.journal_bytes,
                "problems": health.problems,
                "damage": health.damage,
                "checks": [asdict(check) for check in health.checks],
            }
        )
    else:
        held = ", ".join(f"{count} {name}" for name, count in sorted(stats.documents.items())) or "none"
        output.facts(
            [
                ("store", url),
                (
                    "id",
                    id or "none yet: the original server's folder, upgraded when it is opened for writing",
                ),
                *([("replica of", primary)] if primary else []),
                *([("replica", str(replica))] if replica else []),
                ("health", "well" if not remarks else str(health.status)),
                *((f"  {check.name}", f"{check.status}: {check.summary}") for check in remarks),
                ("head", f"seq {health.seq}, {moment(health.last_commit)}"),
                (
                    "snapshot",
                    f"seq {health.snapshot_seq}, {moment(health.last_saved)}"
                    if health.snapshot_seq
                    else "none yet",
                ),
                ("backups", f"{len(kept)}{f', the newest {kept[-1]}' if kept else ''}"),
                ("history", f"from seq {stats.floor}"),
                ("documents", f"{held} ({amount(sum(stats.bytes.values()))})"),
                ("logs", logs),
                ("free space", amount(health.free_bytes)),
            ]
        )
    if health.damage:
        output.note("next: statepath verify")
        raise typer.Exit(Exit.DAMAGED)
    if not health.healthy or (strict and health.status is not Status.OK):
        raise typer.Exit(Exit.UNHEALTHY)


@dataclass(frozen=True, slots=True)
class Examination:
    """What `doctor` found out about one state path. `conditions` is whether a service across a network keeps
    conditional writes, which was tried."""

    state_path: str
    capabilities: Capabilities | None = None
    store: str = "unknown"
    seq: int | None = None
    error: StateError | None = None
    conditions: str | None = None


@group.command()
@asynchronous
async def doctor(
    ctx: typer.Context,
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="A state path to examine instead.", show_default=False),
    ] = None,
    state_path: StatePath = None,
    as_json: Json = False,
) -> None:
    """Examine the installation and the state path. Nothing of the store is changed; in an object store an object is
    written beside it and removed again, to see that the service keeps conditions."""
    output = Output(as_json=as_json)
    if url is not None:
        about(ctx, url)
    found = await _examine(url if url is not None else state_path)
    versions = {name: _version(name) for name in PACKAGES}
    system = {"python": platform.python_version(), "platform": platform.platform()}
    if as_json:
        output.json(
            {
                "ok": found.error is None,
                "state_path": found.state_path,
                "store": found.store,
                "seq": found.seq,
                "conditions": found.conditions,
                "capabilities": None if found.capabilities is None else asdict(found.capabilities),
                "backends": [asdict(info) for info in backends()],
                "versions": versions,
                **system,
            }
        )
    else:
        output.facts([*system.items(), *versions.items()])
        output.text("\n")
        output.table(
            ("SCHEME", "DISTRIBUTION", "VERSION", "FACTORY"),
            [(info.scheme, info.distribution, info.version, info.target) for info in backends()],
        )
        output.text("\n")
        output.facts(
            [
                ("state path", found.state_path),
                ("store", found.store),
                *([("conditional writes", found.conditions)] if found.conditions else []),
                *_abilities(found.capabilities),
            ]
        )
    if found.error is not None:
        raise found.error


async def _examine(path: str | None) -> Examination:
    place = "unknown" if path is None else shown(path)
    try:
        settings = Settings.load(path)
        place = shown(settings.path)
        backend = await connect(settings.path, readonly=True)
    except NotFoundError:
        return Examination(place, store="none yet: the first save creates it")
    except StateError as error:
        return Examination(place, error=error)
    capabilities = backend.capabilities
    await backend.close()
    conditions = None
    try:
        if capabilities.remote:
            await (await connect(settings.path)).close()
            conditions = "kept"
        async with reading(path) as store:
            return Examination(
                place, capabilities, f"{store.id}, at seq {store.seq}", store.seq, conditions=conditions
            )
    except NotFoundError:
        return Examination(place, capabilities, "none yet: the first save creates it", conditions=conditions)
    except StateError as error:
        return Examination(place, capabilities, error=error, conditions=conditions)


def _abilities(capabilities: Capabilities | None) -> list[tuple[str, Any]]:
    if capabilities is None:
        return []
    return [
        (name.replace("_", " "), {True: "yes", False: "no", None: "no limit"}.get(value, value))
        for name, value in asdict(capabilities).items()
    ]


def _version(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"


@group.command()
def version(as_json: Json = False) -> None:
    """Show the version."""
    Output(as_json=as_json).result({"version": statepath.__version__}, f"statepath {statepath.__version__}")


def print_version(ctx: typer.Context, value: bool) -> None:
    if value:
        typer.echo(f"statepath {statepath.__version__}")
        raise typer.Exit
