"""The tour of the README: save, append, find, check a version, commit several changes at once, restore."""

import asyncio

import statepath
from pydantic import BaseModel
from statepath import F


class Task(BaseModel):
    id: str
    description: str
    status: str = "pending"
    logs: list[str] = []


async def main() -> None:
    async with statepath.open("./coding-agent-state") as store:
        tasks = store.collection("tasks", Task)

        seq = await tasks.put(Task(id="task_1", description="Implement authentication"))
        await tasks.append("task_1", "logs", "started")  # an append in the journal, however long the list is
        print(await tasks.get("task_1"))  # from memory, always a fresh object

        async for task in tasks.find(F("status") == "pending", order_by="id", limit=20):
            print(task.id)

        document = await tasks.get_document("task_1")
        assert document is not None
        task = document.value.model_copy(update={"status": "completed"})
        await tasks.put(task, if_version=document.version)  # ConflictError if someone was faster

        metrics = store.collection("counters")  # plain dicts will do
        async with store.transaction() as tx:  # all or nothing, over several collections
            tx.put(metrics, {"id": "today", "completed": 1})
            tx.delete(tasks, "task_1")

        await store.restore(at=seq)  # as it was then; this, too, can be undone
        print(await tasks.get("task_1"))


asyncio.run(main())
