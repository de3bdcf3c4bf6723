"""A program that keeps its tasks in the cloud, and goes on where it, or another machine, was interrupted.

    STATE_PATH=s3://bucket/agents python workers.py

Nothing in it knows where the store is: without STATE_PATH it is a folder.
"""

import asyncio

import statepath
from pydantic import BaseModel


class Task(BaseModel):
    id: str
    city: str
    status: str = "pending"
    logs: list[str] = []


async def work(tasks: statepath.Collection[Task], id: str) -> None:
    await tasks.append(id, "logs", "begun")
    await asyncio.sleep(0.01)  # the work

    def finished(task: Task) -> None:
        task.status = "done"

    await tasks.update(id, finished)


async def main() -> None:
    async with statepath.open() as store:
        tasks = store.collection("tasks", Task)
        if not await tasks.count():
            async with store.transaction() as tx:  # all of them, or none
                for number, city in enumerate(("Lima", "Oslo", "Pune", "Quito")):
                    tx.put(tasks, Task(id=f"task_{number}", city=city))
        pending = [task.id async for task in tasks.find(status="pending")]
        async with asyncio.TaskGroup() as group:
            for id in pending:
                group.create_task(work(tasks, id))
        done = await tasks.find(status="done").count()
        print(f"{store.url}: {len(pending)} tasks done now, {done} in all, at seq {store.seq}")


asyncio.run(main())
