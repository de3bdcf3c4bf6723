"""Several processes write to one store at once, each its own documents, beside one that does it alone.

    python tests/benchmarks/writers.py [local|postgresql|seaweed|gcs|azurite] [--rounds 3] [--seconds 3]

The contenders take turns. Each process has 16 saves of 2 KB in flight; two more contenders have 64: one alone, which is
as many as four processes with 16 have together, and four. A round's number is the saves a second of all processes
together. Beside it: how many saves a commit has, how many places in the log were tried for each commit, and the
clients' processor time for each save: on a machine whose processors are all busy that, and the server's, is what bounds
the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from crowd.processes import begin, together
from servers import azure, gcs, s3
from servers.services import path_at

CONTENDERS = ((1, 16), (2, 16), (4, 16), (1, 64), (4, 64))
"""Each: so many processes, and so many saves in flight in each."""


@dataclass(frozen=True)
class Done:
    """What one process, or all together, got done: saves a second, and over all the time commits that stand, places
    that were tried, saves, and seconds of processor time."""

    rate: float
    commits: int
    attempts: int
    saves: int
    processor: float


async def save(start: float, number: int, path: str, seconds: float, in_flight: int) -> Done:
    """What this process got done from when all should be there, or it is."""
    done = commits = attempts = 0
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        log: Any = store._engine.log

        def counted(attempt: Any) -> Any:
            async def counting(after: int, commit: Any) -> Any:
                nonlocal commits, attempts
                attempts += 1
                stands = await attempt(after, commit)
                commits += 1
                return stands

            return counting

        for way in ("append", "place"):
            if hasattr(log, way):
                setattr(log, way, counted(getattr(log, way)))

        async def lane(place: int) -> None:
            nonlocal done
            while time.monotonic() < until:
                await raw.put({"id": f"{number}-{place}", "text": "x" * 2000})
                done += 1

        await begin(start)
        begun, used = time.monotonic(), time.process_time()
        until = begun + seconds
        await asyncio.gather(*(lane(place) for place in range(in_flight)))
        rate = done / (time.monotonic() - begun)
        return Done(rate, commits, attempts, done, time.process_time() - used)


def summed(all_of: list[Done]) -> Done:
    return Done(
        sum(one.rate for one in all_of),
        sum(one.commits for one in all_of),
        sum(one.attempts for one in all_of),
        sum(one.saves for one in all_of),
        sum(one.processor for one in all_of),
    )


@contextmanager
def server(kind: str) -> Iterator[str]:
    """The state path of a new store for each name that is put into it."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": s3.KEY,
        "AWS_SECRET_ACCESS_KEY": s3.SECRET,
        "AZURE_STORAGE_ACCOUNT_NAME": azure.ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": azure.KEY,
    }
    if kind == "local":
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/NAME"
        return
    if kind == "postgresql":
        from servers.postgres import running_postgres

        with running_postgres() as running:
            yield running.url(store="NAME")
        return
    started = {"seaweed": s3.seaweed, "gcs": gcs.complete, "azurite": azure.azurite}[kind]
    with started() as endpoint:
        yield path_at(kind, endpoint, "NAME")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", default="postgresql")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    args = parser.parse_args()
    rounds: dict[tuple[int, int], list[Done]] = {contender: [] for contender in CONTENDERS}
    with server(args.kind) as template:
        for _ in range(args.rounds):
            for processes, in_flight in CONTENDERS:
                path = template.replace("NAME", uuid4().hex)
                each = await together(processes, save, path, args.seconds, in_flight)
                rounds[processes, in_flight].append(summed(each))
    rates = {contender: statistics.median(one.rate for one in each) for contender, each in rounds.items()}
    for (processes, in_flight), each in rounds.items():
        rate, all_of = rates[processes, in_flight], summed(each)
        print(
            f"{args.kind}: {processes} x {in_flight} in flight {rate:8.0f} saves/s together, "
            f"{rate / rates[1, 16]:.2f} of 1 x 16, {rate / rates[1, 64]:.2f} of 1 x 64; "
            f"{all_of.saves / max(all_of.commits, 1):5.1f} saves a commit, "
            f"{all_of.attempts / max(all_of.commits, 1):.2f} places tried for each, "
            f"{all_of.processor / max(all_of.saves, 1) * 1e6:5.0f} us of the clients' processors a save"
        )


if __name__ == "__main__":
    asyncio.run(main())
