"""Several processes write to one store at once, each its own documents, beside one that does it alone.

    python tests/benchmarks/writers.py [local|postgresql|seaweed|gcs|azurite] [--rounds 3] [--seconds 3]

The contenders take turns. Each process has 16 saves of 2 KB in flight. A round's number is the saves a second of all
processes together.
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
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from crowd.processes import begin, together
from servers import azure, gcs, s3
from servers.services import path_at

IN_FLIGHT = 16
PROCESSES = (1, 2, 4)


async def save(start: float, number: int, path: str, seconds: float) -> float:
    """How many saves a second this process got done, from when all should be there, or it is."""
    done = 0
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")

        async def lane(place: int) -> None:
            nonlocal done
            while time.monotonic() < until:
                await raw.put({"id": f"{number}-{place}", "text": "x" * 2000})
                done += 1

        await begin(start)
        begun = time.monotonic()
        until = begun + seconds
        await asyncio.gather(*(lane(place) for place in range(IN_FLIGHT)))
        return done / (time.monotonic() - begun)


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
    rates: dict[int, list[float]] = {number: [] for number in PROCESSES}
    with server(args.kind) as template:
        for _ in range(args.rounds):
            for number in PROCESSES:
                done = await together(number, save, template.replace("NAME", uuid4().hex), args.seconds)
                rates[number].append(sum(done))
    alone = statistics.median(rates[1])
    for number, each in rates.items():
        rate = statistics.median(each)
        print(
            f"{args.kind}: {number} processes {rate:8.0f} saves/s together, {rate / alone:.2f} of one alone"
        )


if __name__ == "__main__":
    asyncio.run(main())
