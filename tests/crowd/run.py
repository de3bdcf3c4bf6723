"""A crowd of processes on one store, all of whose troubles come at once; what came of it is checked.

    python tests/crowd/run.py --backend postgresql|seaweed|gcs|azurite [--operations 2000] [--seed 0]

Each of 6 processes does so many operations on 5 keys: compare-and-swap, unchecked changes and reads, changes under a
lease. Processes are killed and replaced, stopped for longer than the lease lives (also by themselves, while they hold
it), their clocks are hours or days off and jump, and the network between them and the storage fails. It ends with 1 if
a promise was broken.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote
from uuid import uuid4

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from crowd import work
from crowd.processes import Client
from crowd.verdict import paired, violations
from servers import azure, gcs, s3
from servers.postgres import PostgresServer, running_postgres
from servers.postgres_proxy import PostgresProxy, What, postgres_proxy
from servers.proxy import Does, Proxy, Request
from servers.services import path_at

OBJECT_STORES = {"seaweed": s3.seaweed, "gcs": gcs.complete, "azurite": azure.azurite}
FAULTS = (
    Does.RESET_BEFORE,
    Does.RESET_AFTER,
    Does.FAIL_BEFORE,
    Does.FAIL_AFTER,
    Does.CUT_ANSWER,
    Does.TWICE,
    Does.LATE,
)
CUTS: tuple[What, ...] = ("before", "during", "after", "hung", "late")
APPEND = "INSERT INTO statepath.log"
FOREVER = 10**9
EACH_BYTES = (2_000, 15_000)
"""After how much more has been noted somebody is killed or stopped; an operation is about 300."""


def of_the_log(request: Request) -> bool:
    """Whether it reads or writes a commit."""
    return "/journal/0" in unquote(request.target) or b"/journal/0" in request.body[:2000]


@dataclass
class Outcome:
    """What was done to the crowd, and what is wrong, a sentence each."""

    wrong: list[str] = field(default_factory=list)
    operations: int = 0
    kills: int = 0
    stops: int = 0
    faults: int = 0


@asynccontextmanager
async def failing(
    kind: str, server: PostgresServer | str, name: str, draw: random.Random, chance: float
) -> AsyncIterator[tuple[str, str, list[asyncio.Event]]]:
    """The state path of a new store past a network that fails, the one over it, and what tells which faults were
    met."""
    if kind == "local":
        yield f"{server}/{name}", f"{server}/{name}", []  # there is no network that could fail
        return
    if isinstance(server, PostgresServer):
        async with postgres_proxy(server) as cutting:
            cuts = [
                cutting.arm(
                    "INSERT INTO statepath.log", cut, times=FOREVER, chance=lambda: draw.random() < chance
                )
                for cut in CUTS
            ]
            releasing = asyncio.create_task(_release(cutting))
            try:
                yield server.url(store=name), cutting.url(name, timeout=3), [cut.happened for cut in cuts]
            finally:
                releasing.cancel()
        return
    async with Proxy(server).running() as proxy:
        faults = [
            proxy.fault(does, lambda one: of_the_log(one) and draw.random() < chance, times=FOREVER)
            for does in FAULTS
        ]
        straight, over = path_at(kind, server, name), path_at(kind, proxy.url, name)
        yield straight, over, [fault.met for fault in faults]


async def _release(proxy: PostgresProxy) -> None:
    """Let late statements arrive in the end."""
    while True:
        await asyncio.sleep(1)
        await proxy.release()


async def crowd(
    kind: str,
    server: PostgresServer | str,
    folder: Path,
    *,
    operations: int,
    seed: int = 0,
    processes: int = 6,
    keys: int = 5,
    chance: float = 0.005,
) -> Outcome:
    """Have so many processes do so many operations each."""
    draw, outcome = random.Random(f"{kind} {seed}"), Outcome()
    async with failing(kind, server, uuid4().hex, draw, chance) as (straight, over, met):
        async with statepath.open(straight, autosave=0):
            pass
        clients: dict[int, Client] = {}

        async def occupy(number: int) -> None:
            """Have a process there until all is done; who dies or gives up is replaced."""
            done, life = 0, 0
            while done < operations:
                life += 1
                file = folder / f"{number}.{life}"
                clients[number] = client = Client(
                    work.everything, over, number, keys, done, operations - done, str(file), life
                )
                try:
                    await client.result()
                except EOFError:
                    await client.ended()
                if file.exists():
                    done = max((int(begun["n"]) + 1 for begun, _ in paired(file)), default=done)

        try:
            # Without who wakes the stopped ones nothing would ever end: one that fails ends the rest.
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(_disturb(clients, folder, draw, outcome)),
                    group.create_task(_wake(clients, draw)),
                ]
                await asyncio.gather(*(occupy(number) for number in range(processes)))
                for task in beside:
                    task.cancel()
        finally:
            for client in clients.values():
                client.send(signal.SIGKILL)
        outcome.faults = sum(event.is_set() for event in met)
        outcome.operations = len(paired(folder))
        outcome.wrong = await violations(straight, folder)
    return outcome


async def _disturb(clients: dict[int, Client], folder: Path, draw: random.Random, outcome: Outcome) -> None:
    """Kill or stop one after another, whenever some dozens of operations more have been noted: so a slow machine gets
    on, too."""
    due = draw.uniform(*EACH_BYTES)
    while True:
        await asyncio.sleep(0.05)
        noted = sum(file.stat().st_size for file in folder.iterdir())
        if noted < due:
            continue
        due = noted + draw.uniform(*EACH_BYTES)
        client = draw.choice(list(clients.values()))
        if draw.random() < 0.5:
            client.send(signal.SIGKILL)
            outcome.kills += 1
        else:
            client.send(signal.SIGSTOP)
            outcome.stops += 1


async def _wake(clients: dict[int, Client], draw: random.Random) -> None:
    """Let those who are stopped go on, most of them when their lease has passed."""
    due: dict[Client, float] = {}
    while True:
        await asyncio.sleep(0.1)
        now = time.monotonic()
        for client in list(clients.values()):
            if not client.stopped:
                due.pop(client, None)
            elif due.setdefault(client, now + work.LEASE * draw.uniform(0.2, 2.5)) < now:
                client.send(signal.SIGCONT)


@contextmanager
def running(kind: str) -> Iterator[PostgresServer | str]:
    os.environ |= {
        "AWS_ACCESS_KEY_ID": s3.KEY,
        "AWS_SECRET_ACCESS_KEY": s3.SECRET,
        "AZURE_STORAGE_ACCOUNT_NAME": azure.ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": azure.KEY,
    }
    if kind == "postgresql":
        with running_postgres() as server:
            yield server
    elif kind == "local":
        with tempfile.TemporaryDirectory() as folder:
            yield folder
    else:
        with OBJECT_STORES[kind]() as endpoint:
            yield endpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["local", "postgresql", *OBJECT_STORES], required=True)
    parser.add_argument("--operations", type=int, default=2000, help="of each process")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    with running(args.backend) as server, tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(
            crowd(args.backend, server, Path(folder), operations=args.operations, seed=args.seed)
        )
    print(
        f"{args.backend}: {outcome.operations} operations, {outcome.kills} kills, {outcome.stops} stops, "
        f"{outcome.faults} kinds of faults met, {len(outcome.wrong)} violations, in "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    for sentence in outcome.wrong:
        print(sentence)
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
