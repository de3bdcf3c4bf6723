"""The experiment: start the server, kill it in mid-write, open what it left, and compare with what it was promised."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from select import select
from typing import Final

import msgspec

import statepath
from statepath import Store, Task
from statepath.cli.demo.simulation import (
    AGENTS,
    COMPLETED,
    Acknowledgement,
    Session,
    agent_of,
    log_at,
    session_at,
    task_at,
)
from statepath.errors import StateError

PATIENCE: Final = 60.0
"""Seconds without any acknowledgement after which the server counts as stuck."""

_SERVER: Final = "statepath.cli.demo.orchestrator"

_decoder = msgspec.json.Decoder(Acknowledgement)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found after one kill, of all that was acknowledged until then.

    Attributes:
        acknowledged: saves whose `await` had returned; recovered and lost: how many of them are there, or not.
        ahead: documents and logs that are one step further than was acknowledged: durable, and killed before they
            could be told.
        partial: what is not whole: a document that no save ever wrote, a cut log, one half of a transaction.
        damage: what `verify` found.
        seconds: from opening the store to the last document being readable.
    """

    acknowledged: int
    recovered: int
    ahead: int
    partial: tuple[str, ...]
    damage: tuple[str, ...]
    tasks: int
    seq: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.acknowledged - self.recovered

    @property
    def well(self) -> bool:
        return not (self.lost or self.partial or self.damage)


@dataclass(slots=True)
class Trial:
    """One store, the saves that were acknowledged for it, and the outcome of each kill."""

    path: str
    saves: list[Acknowledgement] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    async def round(self, tasks: int) -> Outcome:
        """Let a server work until it has begun so many tasks, and a little longer; kill it; recover; compare."""
        process = self._start()
        with process:
            try:
                await asyncio.to_thread(self._listen, process, tasks)
            finally:
                process.kill()
        if process.returncode != -signal.SIGKILL:
            raise StateError(
                f"the simulated server ended by itself, with {process.returncode}; its own message is above"
            )
        outcome = await self._recover()
        self.outcomes.append(outcome)
        return outcome

    def _start(self) -> subprocess.Popen[bytes]:
        """A server, which Ctrl-C does not reach."""
        return subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", _SERVER, self.path, str(len(self.outcomes) + 1)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def _listen(self, process: subprocess.Popen[bytes], tasks: int) -> None:
        """Take down what is acknowledged; kill; then take down what the pipe still holds."""
        assert process.stdout is not None  # noqa: S101 - it was asked for
        pipe = process.stdout.fileno()
        begun, left = 0, random.randrange(4 * AGENTS)  # noqa: S311 - the moment of the kill is no secret
        rest = b""
        while select([pipe], [], [], PATIENCE)[0]:
            if not (chunk := os.read(pipe, 65536)):
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for save in map(_decoder.decode, lines):
                self.saves.append(save)
                begun += 0 in save.steps.values()
                left -= begun >= tasks
            if left < 0:
                process.kill()
        raise StateError(f"the simulated server has acknowledged nothing for {PATIENCE:g} seconds")

    async def _recover(self) -> Outcome:
        began = time.perf_counter()
        async with statepath.open(self.path) as store:
            seconds = time.perf_counter() - began
            found = await Findings.of(store)
            damage = tuple(one.reason for one in await store.verify() if one.severity != "notice")
            seq = store.seq
        told: dict[str, int] = {}
        for save in self.saves:
            told |= save.steps
        recovered = sum(
            save.seq <= seq and all(found.steps.get(key, -1) >= step for key, step in save.steps.items())
            for save in self.saves
        )
        first = {"tasks": 0, "sessions": 1, "logs": 1}
        ahead = {
            key: step - told.get(key, first[key.partition("/")[0]] - 1) for key, step in found.steps.items()
        }
        too_far = [f"{key} is {more} steps ahead of its server" for key, more in ahead.items() if more > 1]
        return Outcome(
            acknowledged=len(self.saves),
            recovered=recovered,
            ahead=sum(more == 1 for more in ahead.values()),
            partial=(*found.partial, *too_far),
            damage=damage,
            tasks=sum(key.startswith("tasks/") for key in found.steps),
            seq=seq,
            seconds=seconds,
        )


@dataclass(slots=True)
class Findings:
    """What a store holds: the step of everything that is whole, and a sentence about everything that is not."""

    steps: dict[str, int] = field(default_factory=dict)
    partial: list[str] = field(default_factory=list)

    @classmethod
    async def of(cls, store: Store) -> Findings:
        found = cls()
        completed: Counter[str] = Counter()
        async for task in store.collection("tasks", Task):
            step = next((step for step in range(COMPLETED + 1) if task_at(task.id, step) == task), None)
            found._take(f"tasks/{task.id}", step)
            completed[agent_of(task.id)] += step == COMPLETED
        async for session in store.collection("sessions", Session):
            whole = session == session_at(session.id, session.completed)
            found._take(f"sessions/{session.id}", session.completed if whole else None)
        for agent in {
            *completed,
            *(key.partition("/")[2] for key in found.steps if key.startswith("sessions/")),
        }:
            counted = found.steps.get(f"sessions/{agent}", 0)
            if counted != completed[agent]:
                found.partial.append(
                    f"sessions/{agent} counts {counted} tasks and {completed[agent]} are completed: half a transaction"
                )
        for id in await store.logs():
            text = await store.read_log(id)
            lines = text.count("\n")
            found._take(f"logs/{id}", lines if text == log_at(id, lines) else None)
        return found

    def _take(self, key: str, step: int | None) -> None:
        if step is None:
            self.partial.append(f"{key} is not what any save wrote")
        else:
            self.steps[key] = step
