"""So many saves in flight, each of which is followed by the next one, and what they took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns
from typing import Protocol

from documents import Task


class Saver(Protocol):
    """Who is measured, opened already."""

    name: str

    def save(self, task: Task) -> Awaitable[object]: ...

    async def catch_up(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Run:
    """What one contender did in one round: saves a second, latencies in µs, seconds to catch up."""

    contender: str
    rate: float
    p50: float
    p99: float
    behind: float


async def measured(contender: Saver, tasks: Sequence[Task], saves: int, in_flight: int) -> Run:
    """Have it save the tasks in turn, and close it. The clock stops when it has caught up."""
    took: list[int] = []
    turns = iter(range(saves))

    async def save_in_turn() -> None:
        for n in turns:
            task = tasks[n % len(tasks)]
            task.attempt += 1
            start = perf_counter_ns()
            await contender.save(task)
            took.append(perf_counter_ns() - start)

    start = perf_counter_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(save_in_turn())
    acknowledged = perf_counter_ns()
    await contender.catch_up()
    end = perf_counter_ns()
    await contender.close()
    took.sort()
    return Run(
        contender.name,
        rate=saves / (end - start) * 1e9,
        p50=took[len(took) // 2] / 1e3,
        p99=took[len(took) * 99 // 100] / 1e3,
        behind=(end - acknowledged) / 1e9,
    )


def middle(runs: Sequence[Run]) -> Run:
    """The medians of one contender's rounds."""
    return Run(
        runs[0].contender,
        *(median(getattr(run, name) for run in runs) for name in ("rate", "p50", "p99", "behind")),
    )
