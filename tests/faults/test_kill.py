"""`kill -9` at random moments: nothing that was acknowledged is lost, and nothing is there by halves."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest
import statepath

LANES = 12
SEED = 20260722


def expected(lane: int, step: int) -> dict[str, Any]:
    """What a lane has left in the store once its steps up to this one are done. -1: none is."""

    def last(remainder: int) -> int:
        """The last step of this kind, or 0."""
        return max((n for n in range(max(step - 4, 1), step + 1) if n % 5 == remainder), default=0)

    found: dict[str, Any] = {}
    if step >= 0:
        found["list"] = {"id": f"list_{lane}", "steps": list(range(1, step + 1, 5))}
    if n := last(0):
        found["one"] = {"id": f"one_{lane}", "n": n, "text": "x" * 500}
        found["other"] = {"id": f"other_{lane}", "n": n}
    if (n := last(2)) > last(3):
        found["come_and_go"] = {"id": f"come_and_go_{lane}", "n": n}
    if text := log_of(step):
        found["log"] = len(text)
    return found


def log_of(step: int) -> str:
    """The session log of a lane whose steps up to this one are done."""
    return "".join(f"{n}\n" for n in range(4, step + 1, 5))


def left(store: statepath.Store, lane: int) -> dict[str, Any]:
    """What the store has of a lane."""
    replica = store._engine.replica
    found: dict[str, Any] = {}
    for collection, names in (("tasks", ("one", "come_and_go")), ("raw", ("list", "other"))):
        for name in names:
            if (entry := replica.get(collection, f"{name}_{lane}")) is not None:
                found[name] = json.loads(entry.json())
    if size := replica.log_size(f"lane{lane}"):
        found["log"] = size
    return found


async def check(path: Path, acknowledged: list[int], *, writing: bool) -> list[int]:
    """Open the store, see that each lane stands where it was acknowledged or a step further, and say where."""
    stands = []
    async with statepath.open(path, autosave=0, readonly=not writing) as store:
        for lane, step in enumerate(acknowledged):
            found = left(store, lane)
            stands.append(next((stand for stand in (step, step + 1) if found == expected(lane, stand)), None))
            assert stands[-1] is not None, (lane, step, found)
        if writing:
            # A reader sees the files of logs as they are; a writer has brought them up to the log.
            for lane, stand in enumerate(stands):
                if text := log_of(stand):
                    assert await store.read_log(f"lane{lane}") == text
            await store.collection("raw").put({"id": "usable"})
            assert await store.verify() == []
            assert (await store.health()).damage == ()
    return stands


async def one_round(server: Process, path: Path, steps: list[int], seconds: float) -> list[int]:
    """Let a server save from these steps on, and kill it; up to where each lane was acknowledged."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{path} {','.join(map(str, steps))}\n".encode())
    acknowledged = [step - 1 for step in steps]
    killing: asyncio.Task[None] | None = None
    async for line in server.stdout:
        words = line.split()
        if words[0] == b"pid":
            pid = int(words[1])
        elif words[0] == b"died":
            break
        else:
            acknowledged[int(words[0])] = int(words[1])
        if killing is None and words[0] != b"pid":
            killing = asyncio.create_task(kill(pid, seconds))
    assert killing is not None
    await killing
    return acknowledged


async def kill(pid: int, seconds: float) -> None:
    await asyncio.sleep(seconds)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("key", "rounds"), [("", 100), ("A" * 43 + "=", 25)], ids=["plain", "encrypted"])
async def test_nothing_acknowledged_is_lost_by_kills_at_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, rounds: int
) -> None:
    monkeypatch.setenv("STATE_ENCRYPTION_KEY", key)
    moments = random.Random(SEED)
    path = tmp_path / "store"
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("saver.py")), stdin=PIPE, stdout=PIPE
    )
    steps = [0] * LANES
    try:
        for number in range(rounds):
            acknowledged = await one_round(server, path, steps, moments.random() * 0.1)
            stands = await check(path, acknowledged, writing=number % 4 == 3)
            # The lane of which nothing is known to be there begins at its first step.
            steps = [stand + 1 for stand in stands]
        assert sum(steps) > rounds * LANES
        await check(path, [step - 1 for step in steps], writing=True)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        await server.wait()
