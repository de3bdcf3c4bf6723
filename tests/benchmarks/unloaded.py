"""Reading from PostgreSQL without holding the documents, beside plain queries and a store that holds them.

    python tests/benchmarks/unloaded.py [--quick] [--tasks N] [--dir FOLDER] [--json FILE]

A server is started for it below the folder. What is compared takes turns in one process, over warm caches, and gives
dicts; the memory of a store is that which opening it adds to a fresh process.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import NamedTuple
from uuid import uuid4

import asyncpg
import msgspec
import statepath
from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from store_size import MB, fresh, resident, run

sys.path.append(str(Path(__file__).parents[1]))

from servers.postgres import running_postgres

SIZE = 2048
FAILED_EVERY = 1000
"""One of so many tasks is found by the query."""

STORE = "(SELECT id FROM statepath.stores WHERE name = $1)"
GET = f"SELECT data FROM statepath.documents WHERE store = {STORE} AND collection = 'tasks' AND id = $2"  # noqa: S608
FIND = f"""
SELECT data FROM statepath.documents
WHERE store = {STORE} AND collection = 'tasks' AND data @> '{{"status": "failed"}}' ORDER BY id
"""  # noqa: S608 - constants


class Cost(NamedTuple):
    """What one read costs: µs until it is there (p50), and µs of this process."""

    wall: float
    processor: float


async def fill(path: str, count: int) -> int:
    """A store of so many tasks, with its snapshot; the bytes of its documents."""
    tasks = make_tasks(count, SIZE)
    for task in tasks[::FAILED_EVERY]:
        task.status = "failed"
    async with statepath.open(path, autosave=0) as store:
        collection = store.collection("tasks", Task)
        for begin in range(0, count, 1000):
            await asyncio.gather(*(collection.put(task) for task in tasks[begin : begin + 1000]))
        await store.snapshot()
        await store.flush()
    return sum(len(task.model_dump_json()) for task in tasks)


async def vacuum(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("VACUUM ANALYZE statepath.documents")
    await connection.close()


async def memory(path: str, load: bool) -> int:
    """The bytes that opening adds, and reading a few documents."""
    before = resident()
    async with statepath.open(path, readonly=True, load=load) as store:
        tasks = store.collection("tasks")
        for n in range(100):
            assert await tasks.get(f"task_{n:08d}") is not None
        gc.collect()
        return resident() - before


async def reads(path: str, dsn: str, name: str, count: int, rounds: int, times: int) -> dict[str, list[Cost]]:
    """Ours and the plain query in turns: a document by its id, and those that a filter finds."""
    chosen = Random(1)
    ids = [f"task_{chosen.randrange(count):08d}" for _ in range(times)]
    costs: dict[str, list[Cost]] = {"get": [], "plain get": [], "find": [], "plain find": []}
    async with (
        statepath.open(path, readonly=True, load=False) as store,
        asyncpg.create_pool(dsn, min_size=1, max_size=10) as pool,
    ):
        tasks = store.collection("tasks")

        async def get(n: int) -> object:
            return await tasks.get(ids[n])

        async def plain_get(n: int) -> object:
            return msgspec.json.decode(await pool.fetchval(GET, name, ids[n]))

        async def find(_: int) -> object:
            return await tasks.find(status="failed").all()

        async def plain_find(_: int) -> object:
            return [msgspec.json.decode(row["data"]) for row in await pool.fetch(FIND, name)]

        assert await get(0) == await plain_get(0)
        assert await find(0) == await plain_find(0)
        for _ in range(rounds):
            costs["get"].append(await cost(get, times))
            costs["plain get"].append(await cost(plain_get, times))
            costs["find"].append(await cost(find, times // 20))
            costs["plain find"].append(await cost(plain_find, times // 20))
    return costs


async def cost(read: Callable[[int], Awaitable[object]], times: int) -> Cost:
    took = []
    began = process_time_ns()
    for n in range(times):
        start = perf_counter_ns()
        await read(n)
        took.append(perf_counter_ns() - start)
    return Cost(median(took) / 1e3, (process_time_ns() - began) / times / 1e3)


def middle(costs: list[Cost]) -> Cost:
    return Cost(median(cost.wall for cost in costs), median(cost.processor for cost in costs))


def main() -> None:
    parser = ArgumentParser(description="Measures reading documents that are not held.")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks in the store (default: 100,000)")
    options = arguments(parser)
    share = 10 if options.quick else 1
    count, times = options.tasks // share, 2000 // share
    name = uuid4().hex
    with ExitStack() as stack:
        folder = stack.enter_context(workplace(options.dir.resolve()))
        os.chmod(folder, 0o755)  # noqa: S103 - the server may run as somebody else
        server = stack.enter_context(running_postgres(folder, shared_buffers="512MB", max_wal_size="4GB"))
        place = describe(folder)
        path = server.url(store=name)
        size = fresh(run, fill, path, count)
        asyncio.run(vacuum(server.url()))
        costs = {
            what: middle(each)
            for what, each in fresh(
                run, reads, path, server.url(), name, count, options.rounds, times
            ).items()
        }
        held = {
            load: median(fresh(run, memory, path, load) for _ in range(options.rounds))
            for load in (False, True)
        }
    print(f"{count:,} tasks, {size / MB:.0f} MB of documents")
    print(f"memory: {held[False] / MB:.1f} MB, of a store that holds them {held[True] / MB:.0f} MB")
    for what, each in costs.items():
        print(f"{what:<12}{each.wall:10.0f} µs (p50) {each.processor:10.0f} µs of this process")

    def ratio(what: str, shown: str, limit: float) -> Ratio:
        value = costs[what].wall / costs[f"plain {what}"].wall
        return Ratio(f"{shown} / a plain query of the same rows (p50)", value, limit, at_least=False)

    ratios = [
        ratio("get", "load=False: get", 2),
        ratio("find", f"load=False: find of one in {FAILED_EVERY:,}", 2),
        Ratio(
            "load=False: memory / a store that holds the documents",
            held[False] / held[True],
            0.1,
            at_least=False,
        ),
    ]
    results = {
        "tasks": count,
        "documents_bytes": size,
        "costs": {what: each._asdict() for what, each in costs.items()},
        "memory": {"load=False": held[False], "load=True": held[True]},
    }
    report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
