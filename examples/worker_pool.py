"""Workers in several processes share one store. They are killed at random, and each task is done exactly once.

python worker_pool.py, or with STATE_PATH=postgresql://user@host/database
"""

import asyncio
import os
import random
import sys
from collections import Counter

import statepath
from pydantic import BaseModel
from statepath.errors import LeaseHeldError, LeaseLostError

WORKERS, TASKS, KILLS = 4, 40, 3


class Task(BaseModel):
    id: str
    status: str = "pending"
    done_by: int | None = None


async def work() -> None:
    """Take tasks that nobody else has, until none is left."""
    async with statepath.open(autosave=1) as store:
        tasks = store.collection("tasks", Task)
        while waiting := await tasks.find(status="pending").all():
            random.shuffle(waiting)
            for task in waiting:
                try:
                    async with store.claim(task.id, ttl=1.5):
                        # Whoever had the claim before may have done it.
                        current = await tasks.get(task.id, fresh=True)
                        if current is None or current.status != "pending":
                            continue
                        await asyncio.sleep(0.05)  # the work itself
                        # Refused if this worker was so slow that another one has taken the task over.
                        await tasks.put(current.model_copy(update={"status": "done", "done_by": os.getpid()}))
                except (LeaseHeldError, LeaseLostError):
                    continue
            await asyncio.sleep(0.05)
            await store.sync()


async def main() -> None:
    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(sys.executable, __file__, "work")

    async with statepath.open() as store:
        tasks = store.collection("tasks", Task)
        since = store.seq
        # Nobody else gets this one, and so no worker is done, before the last kill.
        kept = store.claim("task_0", ttl=60)
        await kept.acquire()
        await asyncio.gather(*(tasks.put(Task(id=f"task_{n}")) for n in range(TASKS)))
        workers = [await start() for _ in range(WORKERS)]
        done = Counter[str]()
        kills = [TASKS * (n + 1) // (KILLS + 2) for n in range(KILLS)]
        async for change in store.watch(since=since, collections=("tasks",)):
            if not isinstance(change.value, dict) or change.value["status"] != "done":
                continue
            done[change.id] += 1
            if kills and done.total() >= kills[0]:
                del kills[0]
                place = random.randrange(WORKERS)  # noqa: S311 - no secret
                workers[place].kill()
                await workers[place].wait()
                workers[place] = await start()
                if not kills:
                    await kept.release()
            if len(done) == TASKS:
                break
        codes = [await worker.wait() for worker in workers]
        await store.sync()
        # The log has every change of every worker: each task was done once.
        history = [
            change.value for change in await store.history(since=since) if change.collection == "tasks"
        ]
        times = Counter(str(value["id"]) for value in history if isinstance(value, dict) and value["done_by"])
        assert set(times.values()) == {1}, times
        assert codes == [0] * WORKERS, codes
        print(f"{len(times)} tasks done once each, by {WORKERS} workers of which {KILLS} were killed")


if __name__ == "__main__":
    asyncio.run(work() if sys.argv[1:] == ["work"] else main())
