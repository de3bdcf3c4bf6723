"""Durable saves of 2 KB documents on an object store, beside an object a save; and opening, beside reading them singly.

    python tests/benchmarks/objectstores.py [SERVICE ...] [--quick] [--json FILE]

Each service is a server that this starts, new in each round. The contenders take turns. A save counts when the service
has stored it. Slow contenders save less often; what is compared is the rate.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

import statepath
from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from object_contenders import SERVICES, Objects, Suite
from statepath.discovery import connect

DOCUMENTS = 20_000
SIZE = 2048
SINGLE = 2_000
ALONE = 200
IN_FLIGHT = 64
READERS = 32

Save = Callable[[Task], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did in one round: saves a second at 64 in flight, and the median latency alone in ms."""

    rate: float
    alone: float


@dataclass(frozen=True, slots=True)
class Opening:
    """Seconds to open the store, and to read as many documents singly, from the rate of a tenth of them."""

    store: float
    singly: float


async def together(save: Save, tasks: list[Task], count: int, in_flight: int = IN_FLIGHT) -> float:
    turns = iter(range(count))

    async def work() -> None:
        for n in turns:
            await save(tasks[n * 7919 % len(tasks)])

    start = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(work())
    return count / (perf_counter() - start)


async def alone(save: Save, tasks: list[Task], count: int) -> float:
    took = []
    for task in tasks[:count]:
        start = perf_counter()
        await save(task)
        took.append(perf_counter() - start)
    return median(took) * 1000


async def measure_statepath(path: str, tasks: list[Task], saves: int) -> tuple[Run, float]:
    """Its run, and how many requests each save took."""
    async with statepath.open(path) as store:
        put = store.collection("tasks", Task).put
        await together(put, tasks, saves // 10)
        rate = await together(put, tasks, saves)
        commits = await count_commits(path)
        requests = commits / store.seq
        return Run(rate, await alone(put, tasks, ALONE)), requests


async def count_commits(path: str) -> int:
    backend = await connect(path, readonly=True)
    try:
        return len([entry async for entry in backend.list_keys("journal/") if entry.key[8] == "0"])
    finally:
        await backend.close()


async def measure_objects(objects: Objects, tasks: list[Task], saves: int) -> Run:
    async with objects as open_objects:
        await together(open_objects.save, tasks, saves // 10)
        rate = await together(open_objects.save, tasks, saves)
        return Run(rate, await alone(open_objects.save, tasks, ALONE))


async def measure_opening(path: str, objects: Objects, tasks: list[Task], share: int) -> Opening:
    async with statepath.open(path) as store:
        await together(store.collection("tasks", Task).put, tasks, len(tasks), 512)
        await store.snapshot()
    part = tasks[:: 10 * share]
    async with objects as open_objects:
        for task in part:
            await open_objects.save(task)
        start = perf_counter()
        ids = iter([task.id for task in part])

        async def read() -> None:
            for id in ids:
                await open_objects.read(id)

        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(read())
        singly = (perf_counter() - start) * len(tasks) / len(part)
    gc.collect()
    start = perf_counter()
    async with statepath.open(path, readonly=True) as store:
        took = perf_counter() - start
        assert await store.collection("tasks").find().count() == len(tasks)
    return Opening(took, singly)


def measure(
    suite: Suite, tasks: list[Task], rounds: int, share: int
) -> tuple[dict[str, object], list[Ratio]]:
    runs: dict[str, list[Run]] = {"statepath": [], **{objects.name: [] for objects in suite.contenders}}
    openings, requests = [], []
    for _ in range(rounds):
        with suite.server() as server:
            run, asked = asyncio.run(measure_statepath(server.path("saves"), tasks, DOCUMENTS // share))
            runs["statepath"].append(run)
            requests.append(asked)
            for kind in suite.contenders:
                runs[kind.name].append(asyncio.run(measure_objects(kind(server), tasks, SINGLE // share)))
            opening = measure_opening(server.path("opening"), suite.contenders[0](server), tasks, share)
            openings.append(asyncio.run(opening))
    rates = {name: median(run.rate for run in each) for name, each in runs.items()}
    singles = {name: median(run.alone for run in each) for name, each in runs.items()}
    print(f"{suite.name:<34}{'saves/s':>10}{'alone, ms':>12}")
    for name in runs:
        print(f"  {name:<32}{rates[name]:10,.0f}{singles[name]:12.2f}")
    store, singly = median(each.store for each in openings), median(each.singly for each in openings)
    print(
        f"  requests a save {median(requests):.3f}; opening {store:.2f} s, singly {singly:.1f} s\n",
        flush=True,
    )
    ratios = [
        Ratio(
            f"{suite.name}, 64 in flight: statepath / {name}", rates["statepath"] / rates[name], limit, True
        )
        for name, limit in suite.limits.items()
    ]
    raw = suite.contenders[0].name
    ratios.append(
        Ratio(
            f"{suite.name}, 1 in flight: statepath / {raw}", singles["statepath"] / singles[raw], 1.3, False
        )
    )
    ratios.append(Ratio(f"{suite.name}: opening / reading singly", store / singly, 0.1, False))
    results = {
        "runs": {name: [asdict(run) for run in each] for name, each in runs.items()},
        "openings": [asdict(each) for each in openings],
        "requests_a_save": requests,
    }
    return results, ratios


def main() -> None:
    parser = ArgumentParser(description="Measures durable saves on object stores.")
    parser.add_argument(
        "services", nargs="*", metavar="SERVICE", help=f"of {', '.join(SERVICES)} (default: all)"
    )
    options = arguments(parser)
    share = 10 if options.quick else 1
    for name in [name for name in os.environ if name.startswith(("STATE_", "AWS_", "AZURE_"))]:
        del os.environ[name]
    tasks = make_tasks(DOCUMENTS // share, SIZE)
    gc.collect()
    gc.freeze()
    results: dict[str, object] = {}
    ratios: list[Ratio] = []
    with workplace(options.dir) as folder:
        place = describe(folder)
    for name in options.services or SERVICES:
        results[name], more = measure(SERVICES[name], tasks, options.rounds, share)
        ratios += more
    report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
