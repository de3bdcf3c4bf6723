"""Durable saves of 2 KB and 20 KB documents, 64 and 1 in flight, beside other ways to save them.

    python tests/benchmarks/saves.py [--quick] [--dir FOLDER] [--json FILE]

The contenders take turns in each round. The clock stops when what is written behind the acknowledgements is
there, too. Slow contenders save less often; what is compared is the rate.
"""

from __future__ import annotations

import asyncio
import gc
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from contenders import AtomicReplace, Contender, Langgraph, SqliteBatched, SqliteEach, SqliteTuned, Statepath
from documents import Task, make_tasks
from measure import Ratio, arguments, describe, raw_sync, report, workplace
from saving import Run, measured, middle

DOCUMENTS = 20_000


@dataclass(frozen=True, slots=True)
class Entrant:
    """A contender, and how many saves it makes in a round."""

    contender: type[Contender]
    saves: int


@dataclass(frozen=True, slots=True)
class Load:
    """Documents of one size, so many in flight, and who saves them."""

    size: int
    in_flight: int
    entrants: tuple[Entrant, ...]


LOADS = (
    Load(
        2048,
        64,
        (
            Entrant(Statepath, 400_000),
            Entrant(SqliteBatched, 200_000),
            Entrant(SqliteTuned, 200_000),
            Entrant(SqliteEach, 20_000),
            Entrant(Langgraph, 20_000),
            Entrant(AtomicReplace, 20_000),
        ),
    ),
    Load(
        2048,
        1,
        (
            Entrant(Statepath, 5_000),
            Entrant(SqliteBatched, 5_000),
            Entrant(SqliteEach, 5_000),
            Entrant(Langgraph, 2_000),
            Entrant(AtomicReplace, 2_000),
        ),
    ),
    Load(
        20480,
        64,
        (Entrant(Statepath, 100_000), Entrant(SqliteBatched, 100_000), Entrant(SqliteTuned, 100_000)),
    ),
)


async def run(entrant: Entrant, folder: Path, tasks: Sequence[Task], in_flight: int) -> Run:
    contender = entrant.contender()
    await contender.open(folder)
    return await measured(contender, tasks, entrant.saves, in_flight)


def compete(load: Load, rounds: int, folder: Path, documents: int) -> tuple[dict[str, Run], float]:
    """The medians of each contender, and that of the raw disk in µs, measured in turns."""
    print(
        f"{load.size // 1024} KB, {load.in_flight} in flight"
        + " " * 16
        + "saves      saves/s    p50 µs    p99 µs  behind s"
    )
    tasks = make_tasks(documents, load.size)
    gc.collect()
    gc.freeze()
    runs: dict[str, list[Run]] = {}
    raw = []
    for turn in range(rounds):
        raw.append(raw_sync(folder, load.size))
        for entrant in load.entrants:
            place = folder / f"{load.size}-{load.in_flight}-{turn}-{entrant.contender.__name__}"
            place.mkdir()
            os.sync()
            done = asyncio.run(run(entrant, place, tasks, load.in_flight))
            runs.setdefault(done.contender, []).append(done)
            gc.collect()
    medians = {name: middle(each) for name, each in runs.items()}
    for entrant, one in zip(load.entrants, medians.values(), strict=True):
        print(
            f"  {one.contender:<30}{entrant.saves:>8}{one.rate:>13,.0f}{one.p50:>10,.0f}{one.p99:>10,.0f}"
            f"{one.behind:>10.2f}",
            flush=True,
        )
    return medians, median(raw)


def compare(load: Load, runs: dict[str, Run], raw: float) -> list[Ratio]:
    ours = runs[Statepath.name]
    what = f"{load.size // 1024} KB, {load.in_flight} in flight: statepath /"
    if load.in_flight == 1:
        return [
            Ratio(f"{what} raw sync of {raw:.0f} µs (p50)", ours.p50 / raw, 2.6, at_least=False),
            Ratio(f"{what} {SqliteEach.name} (p50)", ours.p50 / runs[SqliteEach.name].p50, 1, at_least=False),
        ]
    if load.size > 2048:
        return [
            Ratio(f"{what} {SqliteBatched.name}", ours.rate / runs[SqliteBatched.name].rate, 1, at_least=True)
        ]
    return [
        Ratio(f"{what} {peer.name}", ours.rate / runs[peer.name].rate, limit, at_least=True)
        for peer, limit in ((SqliteBatched, 1.5), (Langgraph, 18), (AtomicReplace, 10))
    ]


def main() -> None:
    parser = ArgumentParser(description="Compares durable saves.")
    parser.add_argument("--only", metavar="NAME", help="run only contenders whose name contains this")
    options = arguments(parser)
    share = 10 if options.quick else 1
    results = []
    ratios: list[Ratio] = []
    with workplace(options.dir) as folder:
        place = describe(folder)
        for whole in LOADS:
            chosen = tuple(
                Entrant(each.contender, each.saves // share)
                for each in whole.entrants
                if (options.only or "") in each.contender.name
            )
            if not chosen:
                continue
            load = replace(whole, entrants=chosen)
            runs, raw = compete(load, options.rounds, folder, DOCUMENTS // share)
            results.append(
                {
                    "size": load.size,
                    "in_flight": load.in_flight,
                    "raw_sync_us": raw,
                    "runs": [asdict(run) for run in runs.values()],
                }
            )
            if options.only is None:
                ratios += compare(load, runs, raw)
        report(place, results, ratios, options.json)


if __name__ == "__main__":
    main()
