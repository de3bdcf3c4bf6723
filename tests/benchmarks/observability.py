"""What metrics and traces cost a save: where nobody reads them, where Prometheus does, and where each save is traced.

    python tests/benchmarks/observability.py [--quick] [--dir FOLDER] [--json FILE]

What nobody reads is compared within one process, in which two stores take turns, one opened before the program set a
meter provider and one after it: so small a difference is less than that between two processes. The other ways are a
process each. What is compared is the processor time of a save, which a busy machine disturbs less. No files and
snapshots are written behind: they would hide a part of the cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import urllib.request
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace

SAVES = {64: 100_000, 1: 3_000}
DOCUMENTS = 20_000
SIZE = 2048
LIMIT = 0.97
TURNS = 400
TURN = {64: 640, 1: 20}
"""Saves in flight, and the saves that a store does before it is the other one's turn."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one process did: saves a second, and a second of processor time."""

    way: str
    rate: float
    cpu_rate: float


async def save(
    folder: Path, in_flight: int, saves: int, port: int | None, *, traced: bool
) -> tuple[float, float]:
    """The seconds that the saves took, and those of the processor."""
    import statepath

    tasks = make_tasks(DOCUMENTS, SIZE)
    turns = iter(range(saves))
    async with statepath.open(str(folder), autosave=0, views=False, metrics_port=port) as store:
        collection = store.collection("tasks", Task)

        async def save_in_turn() -> None:
            with ExitStack() as request:
                if traced:
                    from opentelemetry import trace

                    request.enter_context(trace.get_tracer("benchmark").start_as_current_span("request"))
                for n in turns:
                    task = tasks[n % len(tasks)]
                    task.attempt += 1
                    await collection.put(task)

        async def scrape() -> None:
            while port is not None:
                await asyncio.to_thread(
                    lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read()
                )
                await asyncio.sleep(1)

        scraping = asyncio.ensure_future(scrape())
        began, cpu = perf_counter(), process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(save_in_turn())
        took = perf_counter() - began, process_time() - cpu
        scraping.cancel()
        await asyncio.wait([scraping])
    return took


async def side_by_side(folder: Path, in_flight: int, turns: int) -> list[tuple[float, float]]:
    """The processor seconds of so many turns, of a store that tells nobody and of one whose metrics nobody reads."""
    import statepath
    from opentelemetry.metrics import set_meter_provider
    from opentelemetry.sdk.metrics import MeterProvider

    silent = statepath.open(str(folder / "silent"), autosave=0, views=False)
    unread = statepath.open(str(folder / "unread"), autosave=0, views=False)
    took: list[tuple[float, float]] = []
    async with silent as first:
        set_meter_provider(MeterProvider())
        async with unread as second:
            stores = first.collection("tasks", Task), second.collection("tasks", Task)
            for turn in range(-2, turns):
                seconds = [0.0, 0.0]
                for which in (0, 1) if turn % 2 else (1, 0):
                    seconds[which] = await save_all(stores[which], in_flight, TURN[in_flight])
                if turn >= 0:  # before that the stores warm up
                    took.append((seconds[0], seconds[1]))
    return took


async def save_all(collection: Any, in_flight: int, saves: int) -> float:
    """The processor seconds of so many saves."""
    tasks = make_tasks(saves, SIZE)
    turns = iter(tasks)

    async def save_in_turn(turns: Iterator[Task]) -> None:
        for task in turns:
            await collection.put(task)

    began = process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(save_in_turn(turns))
    return process_time() - began


def work(way: str, folder: Path, in_flight: int, saves: int) -> None:
    """The process of one run."""
    port = None
    if way == SIDE_BY_SIDE:
        print(json.dumps(asyncio.run(side_by_side(folder, in_flight, saves))))
        return
    if way == "read":
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
    if way == "traced":
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.trace import set_tracer_provider

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(InMemorySpanExporter()))
        set_tracer_provider(provider)
    wall, cpu = asyncio.run(save(folder, in_flight, saves, port, traced=way == "traced"))
    print(json.dumps([wall, cpu]))


SIDE_BY_SIDE = "side-by-side"
WAYS = {
    "nothing": "no OpenTelemetry",
    "read": "Prometheus reads each second",
    "traced": "every save is traced",
}


def process(way: str, folder: Path, in_flight: int, saves: int) -> Any:
    """What the process of one run says."""
    done = subprocess.run(
        [sys.executable, __file__, "--work", way, "--dir", folder, str(in_flight), str(saves)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def measured(way: str, folder: Path, in_flight: int, saves: int) -> Run:
    wall, cpu = process(way, folder, in_flight, saves)
    return Run(way, saves / wall, saves / cpu)


def compete(folder: Path, in_flight: int, saves: int, rounds: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for turn in range(rounds):
        # Each round begins with another one, so that none always follows the same.
        order = list(WAYS)[turn % len(WAYS) :] + list(WAYS)[: turn % len(WAYS)]
        for way in order:
            place = folder / f"{in_flight}-{turn}-{way}"
            os.sync()
            runs[way].append(measured(way, place, in_flight, saves))
    print(f"2 KB, {in_flight} in flight, {saves} saves" + " " * 13 + "saves/s   saves/s of CPU")
    for way, each in runs.items():
        rate, cpu = median(run.rate for run in each), median(run.cpu_rate for run in each)
        print(f"  {WAYS[way]:<38}{rate:>12,.0f}{cpu:>12,.0f}", flush=True)
    return runs


def unread(folder: Path, in_flight: int, turns: int) -> float:
    """What a save costs without OpenTelemetry / with metrics that nobody reads: medians over the turns."""
    (folder / f"{in_flight}").mkdir()
    took = process(SIDE_BY_SIDE, folder / f"{in_flight}", in_flight, turns)
    silent, told = (1e6 * median(times) / TURN[in_flight] for times in zip(*took, strict=True))
    print(
        f"2 KB, {in_flight} in flight, in turns: a save takes {silent:.1f} µs of the processor, and {told:.1f} µs"
    )
    print("with metrics that nobody reads (medians)\n", flush=True)
    return silent / told


def main() -> None:
    parser = ArgumentParser(description="Compares saves with and without metrics and traces.")
    parser.add_argument("--work", choices=(*WAYS, SIDE_BY_SIDE), help="be the process of one run")
    parser.add_argument("in_flight", type=int, nargs="?")
    parser.add_argument("saves", type=int, nargs="?")
    options = arguments(parser)
    if options.work is not None:
        work(options.work, options.dir, options.in_flight, options.saves)
        return
    results = []
    ratios: list[Ratio] = []
    with workplace(options.dir) as folder:
        place = describe(folder)
        for in_flight, saves in SAVES.items():
            what = f"{in_flight} in flight: saves/s of CPU, nobody reads / no OpenTelemetry"
            turns = TURNS // (5 if options.quick else 1)
            ratios.append(Ratio(what, unread(folder, in_flight, turns), LIMIT, at_least=True))
            runs = compete(folder, in_flight, saves // (10 if options.quick else 1), options.rounds)
            results += [{"in_flight": in_flight, **asdict(run)} for each in runs.values() for run in each]
        report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
