"""How long a change in one process takes to a watcher in another one, in a folder.

python tests/benchmarks/watch_local.py [--changes 200]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from crowd.processes import Client

PAUSE = 0.05


async def watch(path: str, changes: int) -> tuple[list[float], float]:
    """The seconds from each save to its arrival here, and the CPU seconds of this process a second of watching."""
    delays: list[float] = []
    async with statepath.open(path, autosave=0) as store:
        begun, used = time.monotonic(), time.process_time()
        async for change in store.watch(since=0):
            assert isinstance(change.value, dict)
            delays.append(time.monotonic() - float(str(change.value["at"])))
            if len(delays) == changes:
                break
        return delays, (time.process_time() - used) / (time.monotonic() - begun)


async def local(changes: int) -> tuple[list[float], float]:
    """As `watch`, of a new store in a folder that this process saves to, a change every 50 ms."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/store"
        async with statepath.open(path, autosave=0) as store:
            watcher = Client(watch, path, changes)
            raw = store.collection("raw")
            for number in range(changes):
                await asyncio.sleep(PAUSE)
                await raw.put({"id": f"{number % 10}", "at": time.monotonic()})
            return await watcher.result()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=200)
    args = parser.parse_args()
    delays, load = await local(args.changes)
    # Those that were there before the watcher came say nothing.
    delays = sorted(delays[len(delays) // 4 :])
    print(
        f"local: p50 {statistics.median(delays) * 1000:.1f} ms, p95 {delays[len(delays) * 95 // 100] * 1000:.1f} ms; "
        f"the watcher takes {load:.1%} of a core"
    )


if __name__ == "__main__":
    asyncio.run(main())
