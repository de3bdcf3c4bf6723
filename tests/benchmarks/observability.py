"""What metrics and traces cost a save: where nobody reads them, where Prometheus does, and where each save is traced.

    python tests/benchmarks/observability.py [--quick] [--dir FOLDER] [--json FILE]

Each run is a process of its own, since what is imported stays. The contenders take turns in each round. What is
compared is saves a second of processor time, which a busy machine disturbs less, and saves a second beside it. No files
and snapshots are written behind: they would hide a part of the cost.
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from documents import Task, make_tasks
from measure import Ratio, arguments, describe, report, workplace

SAVES = {64: 100_000, 1: 3_000}
DOCUMENTS = 20_000
SIZE = 2048
LIMIT = 0.97


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


def work(way: str, folder: Path, in_flight: int, saves: int) -> None:
    """The process of one run."""
    port = None
    if way == "unread":
        from opentelemetry.metrics import set_meter_provider
        from opentelemetry.sdk.metrics import MeterProvider

        set_meter_provider(MeterProvider())
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


WAYS = {
    "nothing": "no OpenTelemetry",
    "unread": "metrics that nobody reads",
    "read": "Prometheus reads each second",
    "traced": "every save is traced",
}


def measured(way: str, folder: Path, in_flight: int, saves: int) -> Run:
    done = subprocess.run(
        [sys.executable, __file__, "--work", way, "--dir", folder, str(in_flight), str(saves)],
        stdout=subprocess.PIPE,
        check=True,
    )
    wall, cpu = json.loads(done.stdout)
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


def ratio(runs: dict[str, list[Run]], way: str) -> float:
    """The median over the rounds of the ratio within one."""
    return median(
        run.cpu_rate / other.cpu_rate for run, other in zip(runs[way], runs["nothing"], strict=True)
    )


def main() -> None:
    parser = ArgumentParser(description="Compares saves with and without metrics and traces.")
    parser.add_argument("--work", choices=WAYS, help="be the process of one run")
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
            runs = compete(folder, in_flight, saves // (10 if options.quick else 1), options.rounds)
            results += [{"in_flight": in_flight, **asdict(run)} for each in runs.values() for run in each]
            what = f"{in_flight} in flight: saves/s of CPU, nobody reads / no OpenTelemetry"
            ratios.append(Ratio(what, ratio(runs, "unread"), LIMIT, at_least=True))
        report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
