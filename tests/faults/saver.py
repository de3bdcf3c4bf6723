"""A server to be killed: it saves in many lanes at once, and says of each step when it was acknowledged.

It waits for lines `<path> <next step of each lane, separated by commas>`. For each it forks a process that saves
until it is killed, and prints `pid <pid>`, the acknowledgements `<lane> <step>`, and `died` when it is gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count

import statepath


async def lane(store: statepath.Store, number: int, step: int) -> None:
    """Save without end. What `expected` in the test says has to follow from what is done here."""
    tasks, raw = store.collection("tasks"), store.collection("raw")
    one, other, list_id, come_and_go = (
        f"{name}_{number}" for name in ("one", "other", "list", "come_and_go")
    )
    if step == 0:
        await raw.create({"id": list_id, "steps": []})
        acknowledged(number, 0)
        step = 1
    for n in count(step):
        match n % 5:
            case 0:
                async with store.transaction() as tx:
                    tx.put(tasks, {"id": one, "n": n, "text": "x" * 500})
                    tx.put(raw, {"id": other, "n": n})
            case 1:
                await raw.append(list_id, "steps", n)
            case 2:
                await tasks.put({"id": come_and_go, "n": n})
            case 3:
                await tasks.delete(come_and_go)
            case 4:
                await store.append_log(f"lane{number}", f"{n}\n")
        acknowledged(number, n)


def acknowledged(number: int, n: int) -> None:
    os.write(1, b"%d %d\n" % (number, n))


async def save(path: str, steps: list[int]) -> None:
    async with statepath.open(path, autosave=0.03, view_interval=0.01) as store:
        await asyncio.gather(*(lane(store, number, step) for number, step in enumerate(steps)))


def main() -> None:
    for line in sys.stdin:
        path, steps = line.rsplit(maxsplit=1)
        pid = os.fork()
        if pid == 0:
            asyncio.run(save(path, [int(step) for step in steps.split(",")]))
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"died\n")


if __name__ == "__main__":
    main()
