"""What a replica on SeaweedFS costs a store on the local disk, and how far it is behind at 2,000 saves a second.

    python tests/benchmarks/mirror.py [--quick] [--dir FOLDER] [--json FILE]

With and without a mirror take turns; each saves documents of 2 KB for as long. The server is one that this starts, on
the same machine, with its files in memory: a replica is not on the store's disk. What it needs of the processor, and
what others on a busy machine need, the store does not have; so it is told, too, which share of a core the mirror itself
takes in the store's process: where nothing else runs, that is what saves lose.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, Popen
from time import perf_counter, process_time

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from object_contenders import SERVICES
from servers.services import Service
from statepath import MirrorLag
from statepath.store import Store

DOCUMENTS = 2_000
SIZE = 2048
SECONDS = 6.0
RATE = 2_000
TICK = 0.01


@dataclass(frozen=True, slots=True)
class Run:
    """Saves a second, and microseconds of the store's process for one."""

    rate: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Pace:
    """Saves that were made a second, the most and the median seconds that the replica was behind, and how long it took
    to have the rest."""

    rate: float
    most: float
    median: float
    rest: float


async def mirrored(store: Store) -> None:
    while store.mirror_lag is not None and store.mirror_lag.seq is None:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.05)


async def full_speed(store: Store, tasks: list[Task], in_flight: int, seconds: float) -> Run:
    put = store.collection("tasks", Task).put
    turns, until = count(), perf_counter() + seconds

    async def work() -> None:
        while perf_counter() < until:
            await put(tasks[next(turns) % len(tasks)])

    before, begun, cpu = store.seq, perf_counter(), process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    saves = store.seq - before
    return Run(saves / (perf_counter() - begun), (process_time() - cpu) / saves * 1e6)


@asynccontextmanager
async def opened(folder: Path, name: str, mirror: str | None) -> AsyncIterator[Store]:
    async with statepath.open(folder / name, mirror=mirror) as store:
        await mirrored(store)
        yield store


async def paced(store: Store, tasks: list[Task], seconds: float) -> Pace:
    """So many saves a second, each on its own; the replica's lag is looked at meanwhile."""
    put = store.collection("tasks", Task).put
    lags: list[float] = []
    begun, made = perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while (passed := perf_counter() - begun) < seconds:
            for _ in range(int(passed * RATE) - made):
                group.create_task(put(tasks[made % len(tasks)]))
                made += 1
            lags.append(_lag(store).seconds)
            await asyncio.sleep(TICK)
    ended = perf_counter()
    while _lag(store).behind:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)
    return Pace(made / (ended - begun), max(lags), median(lags), perf_counter() - ended)


def _lag(store: Store) -> MirrorLag:
    assert store.mirror_lag is not None
    return store.mirror_lag


async def paced_beside(folder: Path, name: str, target: str, tasks: list[Task], seconds: float) -> Pace:
    """The same with the mirror in a process of its own; its lag is how old the newest task in the replica is."""
    put_at: dict[int, float] = {}
    lags: list[float] = []
    async with statepath.open(folder / name) as store:
        put = store.collection("tasks", Task).put
        await put(tasks[0])

        async def one(task: Task) -> None:
            seq = await put(task)
            put_at[seq] = perf_counter()

        with Popen(
            [sys.executable, "-m", "statepath.cli", "mirror", str(folder / name), target], stderr=DEVNULL
        ) as process:
            replica = await _replica(target)
            begun, made = perf_counter(), 0
            try:
                async with asyncio.TaskGroup() as group:
                    while (passed := perf_counter() - begun) < seconds:
                        for _ in range(int(passed * RATE) - made):
                            group.create_task(one(tasks[made % len(tasks)]))
                            made += 1
                        if made % 5 == 0:
                            seen = await replica.sync()
                            missing = min((seq for seq in put_at if seq > seen), default=None)
                            lags.append(0.0 if missing is None else perf_counter() - put_at[missing])
                            for seq in [seq for seq in put_at if seq <= seen]:
                                del put_at[seq]
                        await asyncio.sleep(TICK)
                ended = perf_counter()
                await replica.sync(at_least=store.seq)
                return Pace(made / (ended - begun), max(lags), median(lags), perf_counter() - ended)
            finally:
                process.terminate()
                await replica.aclose()


async def _replica(target: str) -> Store:
    while True:
        try:
            return await statepath.open(target, readonly=True)
        except statepath.StateError:
            await asyncio.sleep(0.2)


def measure(
    folder: Path, service: Service, tasks: list[Task], rounds: int, seconds: float
) -> tuple[dict[str, object], list[Ratio]]:
    names = (f"store-{n}" for n in count())
    runs: dict[str, list[Run]] = {
        f"{n} in flight, {how}": [] for n in (64, 1) for how in ("alone", "mirrored")
    }
    paces: dict[str, list[Pace]] = {"in the store's process": [], "beside it": []}

    async def one(in_flight: int, mirror: bool) -> None:
        name = next(names)
        async with opened(folder, name, service.path(name) if mirror else None) as store:
            await full_speed(store, tasks, in_flight, seconds / 6)
            run = await full_speed(store, tasks, in_flight, seconds)
            runs[f"{in_flight} in flight, {'mirrored' if mirror else 'alone'}"].append(run)

    async def pace() -> None:
        name = next(names)
        async with opened(folder, name, service.path(name)) as store:
            paces["in the store's process"].append(await paced(store, tasks, seconds))
        name = next(names)
        paces["beside it"].append(await paced_beside(folder, name, service.path(name), tasks, seconds))

    for turn in range(rounds):
        for in_flight in (64, 1):
            for mirror in (False, True) if turn % 2 else (True, False):
                asyncio.run(one(in_flight, mirror))
        asyncio.run(pace())
    for what, each in runs.items():
        rate, cpu = median(run.rate for run in each), median(run.cpu for run in each)
        print(f"  {what:<28}{rate:10,.0f} saves/s{cpu:8.1f} µs of CPU")
    for what, made in paces.items():
        rate, usual = median(one.rate for one in made), median(one.median for one in made)
        most, rest = max(one.most for one in made), max(one.rest for one in made)
        told = f"{what:<24}"
        print(
            f"  mirror {told}{rate:7,.0f} saves/s, behind {usual:.2f} s, at most {most:.2f} s; rest in {rest:.2f} s"
        )
    ratios: list[Ratio] = []
    for n in (64, 1):
        alone, with_mirror = runs[f"{n} in flight, alone"], runs[f"{n} in flight, mirrored"]
        each = [one.rate / other.rate for one, other in zip(with_mirror, alone, strict=True)]
        ratios.append(
            Ratio(f"{n} in flight: saves/s with a mirror / without", median(each), 0.9, at_least=True)
        )
        more = median(one.cpu for one in with_mirror) - median(one.cpu for one in alone)
        share = more * median(one.rate for one in with_mirror) / 1e6
        ratios.append(
            Ratio(f"{n} in flight: the mirror's share of a processor core", share, 0.1, at_least=False)
        )
    for what, made in paces.items():
        ratios.append(
            Ratio(
                f"2,000 saves/s, mirror {what}: seconds behind, at most",
                median(one.most for one in made),
                1.0,
                at_least=False,
            )
        )
    results: dict[str, object] = {
        "runs": {what: [asdict(run) for run in each] for what, each in runs.items()},
        "paces": {what: [asdict(one) for one in made] for what, made in paces.items()},
    }
    return results, ratios


def main() -> None:
    options = arguments(ArgumentParser(description="Measures a mirror."))
    for name in [name for name in os.environ if name.startswith(("STATE_", "AWS_"))]:
        del os.environ[name]
    tasks = make_tasks(DOCUMENTS, SIZE)
    gc.collect()
    gc.freeze()
    if os.path.isdir("/dev/shm"):  # noqa: S108 - where the server's files go
        tempfile.tempdir = "/dev/shm"  # noqa: S108
    with workplace(options.dir) as folder, SERVICES["seaweed"].server() as server:
        place = describe(folder)
        results, ratios = measure(
            folder, server, tasks, options.rounds, SECONDS / (6 if options.quick else 1)
        )
    report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
