"""How long a change in one process takes to a watcher in another one.

    python tests/benchmarks/watch.py [local|postgresql|seaweed|gcs|azurite] [--changes 100] [--pause 0.1]

From the acknowledgement, when `put` returned, and from its call; both processes are on one machine and share a clock.
Each change comes after a pause, with chance in it. PostgreSQL notifies, and so does a local disk by inotify; an object
store is asked, 20 ms after the last news and then less and less often, up to every 2 s: after a pause p a change waits
for at most half of p.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from benchmarks.writers import server
from crowd.processes import Client

Told = dict[int, float]
"""When something happened to a change, by its seq."""


async def watch(path: str, changes: int) -> Told:
    told: Told = {}
    async with statepath.open(path, autosave=0) as store:
        async for change in store.watch(since=0):
            told[change.seq] = time.monotonic()
            if change.id == "first":
                await store.collection("raw").put({"id": "ready"})
            if len(told) == changes:
                break
    return told


async def measure(path: str, changes: int, pause: float) -> tuple[list[float], list[float]]:
    """The seconds to the watcher from each acknowledgement, and from each call."""
    draw = random.Random(0)
    called: Told = {}
    acknowledged: Told = {}
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "first"})
        watcher = Client(watch, path, changes + 2)
        async with aclosing(store.watch()) as seen:
            async for change in seen:
                if change.id == "ready":
                    break
        for n in range(changes):
            await asyncio.sleep(pause * draw.uniform(0.5, 1.5))
            began = time.monotonic()
            seq = await raw.put({"id": str(n % 10), "n": n})
            acknowledged[seq], called[seq] = time.monotonic(), began
        told = await watcher.result()
    counted = sorted(acknowledged)
    return [told[seq] - acknowledged[seq] for seq in counted], [told[seq] - called[seq] for seq in counted]


def in_a_server(kind: str) -> Callable[[int, float], Awaitable[tuple[list[float], list[float]]]]:
    async def contender(changes: int, pause: float) -> tuple[list[float], list[float]]:
        with server(kind) as template:
            return await measure(template.replace("NAME", uuid4().hex), changes, pause)

    return contender


async def in_a_folder(changes: int, pause: float) -> tuple[list[float], list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        return await measure(f"{folder}/store", changes, pause)


CONTENDERS = {"local": in_a_folder} | {
    kind: in_a_server(kind) for kind in ("postgresql", "seaweed", "gcs", "azurite")
}


def shown(name: str, seconds: list[float]) -> str:
    ordered = sorted(seconds)
    worst = ordered[len(ordered) * 95 // 100]
    return f"{name} p50 {statistics.median(ordered) * 1000:.1f} ms, p95 {worst * 1000:.1f} ms"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", nargs="?", choices=CONTENDERS, default="postgresql")
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between changes, about")
    args = parser.parse_args()
    since_acknowledged, since_called = await CONTENDERS[args.kind](args.changes, args.pause)
    print(
        f"{args.kind}: {shown('from the acknowledgement', since_acknowledged)}; {shown('from the call', since_called)}"
    )


if __name__ == "__main__":
    asyncio.run(main())
