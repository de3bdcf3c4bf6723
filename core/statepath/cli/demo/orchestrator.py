"""The server that gets killed: agents work on tasks without end, and tell each acknowledged save on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count

import msgspec

import statepath
from statepath import Store, Task
from statepath.cli.demo.simulation import (
    AGENTS,
    COMPLETED,
    LOGGED,
    Acknowledgement,
    Session,
    agent_id,
    entry_at,
    line_at,
    session_at,
    task_at,
    task_id,
)
from statepath.errors import StateError


async def serve(path: str, life: int) -> None:
    """Work until someone kills this process; `life` is the server's ordinal number."""
    async with statepath.open(path) as store, asyncio.TaskGroup() as agents:
        for number in range(AGENTS):
            agents.create_task(work(store, agent_id(life, number)))


async def work(store: Store, agent: str) -> None:
    """One agent: a task after the other, a save at a time."""
    tasks, sessions = store.collection("tasks", Task), store.collection("sessions", Session)
    for number in count():
        id = task_id(agent, number)
        key = f"tasks/{id}"
        for step in (0, 1):
            tell(await tasks.put(task_at(id, step)), {key: step})
        for step in LOGGED:
            tell(await tasks.append(id, "logs", entry_at(id, step)), {key: step})
        async with store.transaction() as tx:
            tx.put(tasks, task_at(id, COMPLETED))
            tx.put(sessions, session_at(agent, number + 1))
        tell(tx.seq or 0, {key: COMPLETED, f"sessions/{agent}": number + 1})
        tell(await store.append_log(agent, line_at(agent, number)), {f"logs/{agent}": number + 1})


def tell(seq: int, steps: dict[str, int]) -> None:
    """One line, written whole: a pipe takes one of this length at once, and keeps it when we are killed."""
    try:
        os.write(sys.stdout.fileno(), msgspec.json.encode(Acknowledgement(seq, steps)) + b"\n")
    except BrokenPipeError:
        os._exit(1)  # who started it was killed, and nobody is there to be told


def main() -> None:
    """Serve, and tell in a line what ends that. The agents all meet the same."""
    failures: list[str] = []
    try:
        asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
    except* StateError as group:
        failures += map(str, group.exceptions)
    if failures:
        sys.exit(f"error: {failures[0]}")


if __name__ == "__main__":
    main()
