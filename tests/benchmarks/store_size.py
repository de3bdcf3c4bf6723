"""What a large store costs: to open it, to save into it, to append to a long document, and its memory.

    python tests/benchmarks/store_size.py [--quick] [--tasks N] [--dir FOLDER] [--json FILE]

Every measurement runs in a fresh process; what is compared is measured in turns. The garbage collector is off
where a store is opened or its snapshot parsed.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import TypeVar

import msgspec
import statepath
from documents import Task, make_entry, make_task, make_tasks
from measure import Ratio, arguments, describe, report, workplace

SIZE = 2048
ENTRIES = 10_000
NONE, MANY = "append to no entries", f"append to {ENTRIES:,} entries"
MB = 1_000_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening:
    """A store that was opened in a fresh process: seconds, and bytes of memory afterwards and at most."""

    seconds: float
    memory: int
    peak: int


@dataclass(frozen=True, slots=True)
class Cost:
    """What a change costs, in µs: the median latency alone, and the share of one among 64 in flight."""

    alone: float
    together: float


async def fill(folder: str, count: int) -> int:
    """A store of so many tasks, with its snapshot; the bytes of its documents."""
    tasks = make_tasks(count, SIZE)
    turns = iter(tasks)

    async with statepath.open(folder) as store:
        collection = store.collection("tasks", Task)

        async def save_in_turn() -> None:
            for task in turns:
                await collection.put(task)

        async with asyncio.TaskGroup() as group:
            for _ in range(512):
                group.create_task(save_in_turn())
        await store.snapshot()
    return sum(len(task.model_dump_json()) for task in tasks)


async def open_store(folder: str, count: int) -> Opening:
    gc.disable()
    start = perf_counter_ns()
    async with statepath.open(folder) as store:
        seconds = (perf_counter_ns() - start) / 1e9
        memory = resident()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        assert await store.collection("tasks").find().count() == count
    return Opening(seconds, memory, peak)


def parse_snapshot(folder: str) -> float:
    gc.disable()
    data = Path(folder, "state.json").read_bytes()
    start = perf_counter_ns()
    msgspec.json.decode(data)
    return (perf_counter_ns() - start) / 1e9


async def save(folder: str, count: int, saves: int) -> Cost:
    """Saves of tasks that lie evenly among those of a store that has `count`."""
    distinct = saves // 4
    tasks = [make_task(f"task_{n * count // distinct:08d}", SIZE, n) for n in range(distinct)]
    gc.collect()
    gc.freeze()
    async with statepath.open(folder) as store:
        collection = store.collection("tasks", Task)

        async def one(n: int) -> None:
            task = tasks[n % len(tasks)]
            task.attempt += 1
            await collection.put(task)

        await together(one, saves // 10)
        return Cost(await alone(one, saves // 10), await together(one, saves))


async def append(folder: str, rounds: int, appends: int) -> dict[str, Cost]:
    """Appends to the log of a task that has none, and of one that has many entries, in turns."""
    entries = [make_entry(n, 100) for n in range(ENTRIES)]
    costs: dict[str, list[Cost]] = {NONE: [], MANY: []}
    async with statepath.open(folder) as store:
        tasks = store.collection("tasks", Task)
        for turn in range(rounds):
            for kind, logs in ((NONE, []), (MANY, entries)):
                task = make_task(f"{kind} {turn}", SIZE).model_copy(update={"logs": logs})
                await tasks.put(task)
                await store.flush()

                async def one(n: int, id: str = task.id) -> None:
                    await tasks.append(id, "logs", entries[n % ENTRIES])

                costs[kind].append(Cost(await alone(one, appends // 4), await together(one, appends)))
    return {kind: middle(each) for kind, each in costs.items()}


async def alone(one: Callable[[int], Awaitable[object]], times: int) -> float:
    took = []
    for n in range(times):
        start = perf_counter_ns()
        await one(n)
        took.append(perf_counter_ns() - start)
    return median(took) / 1e3


async def together(one: Callable[[int], Awaitable[object]], times: int) -> float:
    turns = iter(range(times))

    async def work() -> None:
        for n in turns:
            await one(n)

    start = perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(64):
            group.create_task(work())
    return (perf_counter_ns() - start) / times / 1e3


def middle(costs: list[Cost]) -> Cost:
    return Cost(median(cost.alone for cost in costs), median(cost.together for cost in costs))


def resident() -> int:
    """The memory of this process that is in use, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def fresh(function: Callable[..., T], *args: object) -> T:
    """The result of the function, called in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def run(function: Callable[..., Awaitable[T]], *args: object) -> T:
    async def call() -> T:
        return await function(*args)

    return asyncio.run(call())


def main() -> None:
    parser = ArgumentParser(description="Measures what a large store costs.")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks in the store (default: 100,000)")
    options = arguments(parser)
    share = 10 if options.quick else 1
    count, saves = options.tasks // share, 20_000 // share
    openings, parses, into_large, into_empty = [], [], [], []
    with workplace(options.dir) as folder:
        place = describe(folder)
        large = str(folder / "large")
        size = fresh(run, fill, large, count)
        for _ in range(options.rounds):
            os.sync()
            parses.append(fresh(parse_snapshot, large))
            openings.append(fresh(run, open_store, large, count))
        for turn in range(options.rounds):
            into_large.append(fresh(run, save, large, count, saves))
            into_empty.append(fresh(run, save, str(folder / f"empty-{turn}"), count, saves))
        appends = fresh(run, append, str(folder / "appends"), options.rounds, saves // 10)

    opening, parse = median(each.seconds for each in openings), median(parses)
    memory, peak = median(each.memory for each in openings) / MB, max(each.peak for each in openings) / MB
    costs = {"empty store": middle(into_empty), "large store": middle(into_large)} | appends
    print(
        f"{count:,} tasks, {size / MB:.0f} MB of documents, {memory:.0f} MB of memory, at most {peak:.0f} MB"
    )
    print(f"open {opening:.3f} s, parse {parse:.3f} s")
    for what, cost in costs.items():
        print(f"{what:<28}{cost.alone:8.0f} µs alone (p50) {cost.together:8.1f} µs among 64")
    print(flush=True)

    def ratio(what: str, of: str, to: str, limit: float) -> list[Ratio]:
        one, other = costs[of], costs[to]
        return [
            Ratio(f"{what}, 1 in flight", one.alone / other.alone, limit, at_least=False),
            Ratio(f"{what}, 64 in flight", one.together / other.together, limit, at_least=False),
        ]

    ratios = [
        Ratio("open / parse of the snapshot", opening / parse, 2, at_least=False),
        Ratio("memory / (twice the documents + 100 MB)", memory / (2 * size / MB + 100), 1, at_least=False),
        *ratio("save into the large store / into an empty one", "large store", "empty store", 1.2),
        *ratio("append to a long log / to none", MANY, NONE, 1.5),
    ]
    results = {
        "tasks": count,
        "documents_bytes": size,
        "openings": [asdict(each) for each in openings],
        "parses": parses,
        "costs": {what: asdict(cost) for what, cost in costs.items()},
    }
    report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
