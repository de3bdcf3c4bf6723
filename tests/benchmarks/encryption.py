"""What encryption costs: saves of 2 KB, 64 and 1 in flight, beside those of a plain store; and saves in a rotation.

    python tests/benchmarks/encryption.py [--quick] [--dir FOLDER] [--json FILE]

Both stores keep no files of documents, which an encrypted one has only where it is asked for. They take turns.
"""

from __future__ import annotations

import asyncio
import gc
from argparse import ArgumentParser
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from secrets import token_bytes
from statistics import median
from time import perf_counter
from typing import Any, ClassVar

import statepath
from contenders import Statepath
from documents import SHAPES, Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace
from saves import Entrant, Load, compete

DOCUMENTS = 20_000
ROTATED = 100_000
KEY = b64encode(token_bytes(32)).decode()


class Plain(Statepath):
    name = "plain"
    options: ClassVar[dict[str, Any]] = {"views": False}

    async def open(self, folder: Path) -> None:
        self.context = statepath.open(str(folder), **self.options)
        self.store = await self.context.__aenter__()
        self.tasks = self.store.collection("tasks", Task)


class Encrypted(Plain):
    name = "encrypted"
    options: ClassVar[dict[str, Any]] = {"views": False, "encryption_key": KEY}


LOADS = (
    Load(2048, 64, (Entrant(Plain, 200_000), Entrant(Encrypted, 200_000))),
    Load(2048, 1, (Entrant(Plain, 5_000), Entrant(Encrypted, 5_000))),
)


async def rotate(folder: Path, documents: int) -> tuple[list[float], list[float]]:
    """How long saves take, in ms, in a rotation of so many documents' files; and the same saves without one.

    As with a server that has been started since the documents were made. The tasks are made one by one: so many models
    kept in memory would stop everything now and then, for as long as Python's collector looks at them.
    """
    folder.mkdir()
    shapes = make_tasks(SHAPES, 2048)

    def task(n: int) -> Task:
        return shapes[n % SHAPES].model_copy(update={"id": f"task_{n % documents:08d}"})

    async with statepath.open(folder, encryption_key=KEY, views=True) as store:
        tasks = store.collection("tasks", Task)
        for at in range(0, documents, 1000):
            await asyncio.gather(*(tasks.put(task(n)) for n in range(at, at + 1000)))
        await store.flush()
    async with statepath.open(folder, encryption_key=KEY, views=True) as store:
        tasks = store.collection("tasks", Task)
        rotating = asyncio.create_task(store.rotate_key())
        meanwhile = [took async for took in saves(tasks, task, lambda _: rotating.done())]
        print(f"  {(await rotating).resealed:,} objects sealed anew, {len(meanwhile):,} saves meanwhile")
        await store.flush()
        without = [took async for took in saves(tasks, task, lambda n: n == len(meanwhile))]
        return meanwhile, without


async def saves(tasks: Any, task: Callable[[int], Task], over: Callable[[int], bool]) -> AsyncIterator[float]:
    """How long each of the saves takes that are made one after the other, until it is over."""
    n = 0
    while not over(n):
        yield await timed(tasks.put(task(n)))
        n += 1
        await asyncio.sleep(0.001)


async def timed(saving: Any) -> float:
    start = perf_counter()
    await saving
    return (perf_counter() - start) * 1000


def main() -> None:
    options = arguments(ArgumentParser(description="Measures what encryption costs."))
    share = 10 if options.quick else 1
    results: list[Any] = []
    ratios: list[Ratio] = []
    with workplace(options.dir) as folder:
        place = describe(folder)
        for load in LOADS:
            entrants = tuple(Entrant(one.contender, one.saves // share) for one in load.entrants)
            runs, _ = compete(
                Load(load.size, load.in_flight, entrants), options.rounds, folder, DOCUMENTS // share
            )
            results += [{"in_flight": load.in_flight} | asdict(run) for run in runs.values()]
            plain, encrypted = runs[Plain.name], runs[Encrypted.name]
            if load.in_flight == 1:
                what, value = "2 KB, 1 in flight: encrypted / plain (p50)", encrypted.p50 / plain.p50
                ratios.append(Ratio(what, value, 1.5, at_least=False))
            else:
                what, value = "2 KB, 64 in flight: encrypted / plain (saves/s)", encrypted.rate / plain.rate
                ratios.append(Ratio(what, value, 0.75, at_least=True))
        print(f"\nA rotation of {ROTATED // share:,} documents")
        gc.collect()
        gc.freeze()
        meanwhile, without = asyncio.run(rotate(folder / "rotated", ROTATED // share))
        for what, took in (("in it", meanwhile), ("without it", without)):
            late = sum(one > 100 for one in took)
            print(
                f"  {what:<10} the longest save took {max(took):.1f} ms, the median {median(took):.1f}; {late} over 100"
            )
            results.append({"rotated": ROTATED // share, "when": what, "longest_ms": max(took), "late": late})
        ratios.append(
            Ratio("the longest save in a rotation / 100 ms", max(meanwhile) / 100, 1, at_least=False)
        )
        ratios.append(
            Ratio("the same saves without a rotation / 100 ms", max(without) / 100, 1, at_least=False)
        )
        report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
