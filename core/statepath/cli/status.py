"""How a store does: `status`."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from statepath.cli.exits import Exit
from statepath.cli.opening import reading
from statepath.cli.options import Json, StatePath
from statepath.cli.output import Output, amount, moment
from statepath.cli.running import asynchronous, command_line, shown
from statepath.engine.health import Status
from statepath.errors import StateError
from statepath.mirroring import reached
from statepath.store import Store

group = typer.Typer()


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
        output.note(f"next: {command_line(state_path, 'verify')}")
        raise typer.Exit(Exit.DAMAGED)
    if not health.healthy or (strict and health.status is not Status.OK):
        raise typer.Exit(Exit.UNHEALTHY)
