"""A small orchestrator: workers claim tasks, a dashboard follows them, and a mistake is taken back.

    python examples/orchestrator.py        # in ./coding-agent-state, or where STATE_PATH says

End it at any moment, with Ctrl-C, SIGTERM or kill -9, and start it again: it goes on with what was not finished.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

import statepath
from pydantic import BaseModel
from statepath import F, StateChange, Store, Transaction

WORK = ["parse the brief", "write the schema", "build the API", "write the tests", "fix the tests", "ship it"]


class Entry(BaseModel):
    at: datetime
    text: str


class Task(BaseModel):
    id: str
    description: str
    status: Literal["pending", "running", "completed", "failed"] = "pending"
    worker: str | None = None
    attempts: int = 0
    logs: list[Entry] = []


class Orchestrator:
    """Everything it knows is in the store; it keeps nothing of its own that a restart would lose."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tasks = store.collection("tasks", Task)
        self.totals = store.collection("totals")
        self.stopping = asyncio.Event()

    async def recover(self) -> int:
        """Give back what the workers of an earlier process had claimed."""
        interrupted = await self.tasks.find(status="running").all()
        async with self.store.transaction() as tx:
            for task in interrupted:
                tx.put(self.tasks, task.model_copy(update={"status": "pending", "worker": None}))
        return len(interrupted)

    async def submit(self, descriptions: list[str]) -> int:
        """Accept a batch of work: all of it, or nothing."""
        known = await self.tasks.count()
        async with self.store.transaction() as tx:
            for number, description in enumerate(descriptions, known + 1):
                tx.put(self.tasks, Task(id=f"task_{number:03d}", description=description))
        assert tx.seq is not None
        return tx.seq

    async def claim(self, worker: str) -> Task | None:
        """Take a task that waits. Two workers that want the same one conflict, and one of them looks again."""

        async def take(tx: Transaction) -> Task | None:
            async for waiting in self.tasks.find(status="pending", order_by="id"):
                task = await tx.get(self.tasks, waiting.id)
                if task is not None and task.status == "pending":
                    task.status, task.worker, task.attempts = "running", worker, task.attempts + 1
                    tx.put(self.tasks, task)
                    return task
            return None

        return await self.store.transact(take)

    async def work(self, worker: str) -> None:
        """Claim and do tasks until there are none, or until the program is to stop."""
        while not self.stopping.is_set() and (task := await self.claim(worker)) is not None:
            await self.store.append_log(worker, f"{task.id}: {task.description}\n")
            for step in ("started", "half way", "done"):
                await asyncio.sleep(0.01 * len(task.description) / 10)  # here an agent would be at work
                await self.tasks.append(task.id, "logs", Entry(at=datetime.now(UTC), text=step))
            await self.finish(task.id, failed=task.attempts == 1 and task.description.startswith("fix"))

    async def finish(self, id: str, *, failed: bool) -> None:
        """Count the task in the same transaction that ends it: the total can never be wrong."""

        async def end(tx: Transaction) -> None:
            task = await tx.get(self.tasks, id)
            assert task is not None
            task.status, task.worker = ("pending" if failed else "completed"), None
            tx.put(self.tasks, task)
            name = "retried" if failed else "completed"
            total = await tx.get(self.totals, name) or {"id": name, "count": 0}
            assert isinstance(total["count"], int)
            tx.put(self.totals, {**total, "count": total["count"] + 1})

        await self.store.transact(end)

    async def report(self) -> str:
        """Write down how it went."""
        tasks = await self.tasks.find(F("attempts") > 0, order_by="-attempts,id").all()
        return await self.store.save_report(
            "summary", {"tasks": len(tasks), "attempts": {task.id: task.attempts for task in tasks}}
        )


async def show(changes: AsyncIterator[StateChange]) -> None:
    """The dashboard: every change, once, in order, as it becomes durable."""
    async for change in changes:
        match change.kind, change.value:
            case "put", {"status": status, "worker": worker, "attempts": attempts}:
                by = f" by {worker}, attempt {attempts}" if worker else ""
                print(f"  {change.seq:>4}  {change.key}  {status}{by}")
            case "append", {"text": text}:
                print(f"  {change.seq:>4}  {change.key}  … {text}")
            case "delete", _:
                print(f"  {change.seq:>4}  {change.key}  deleted")


async def main() -> None:
    async with statepath.open() as store:
        orchestrator = Orchestrator(store)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, orchestrator.stopping.set)
        dashboard = asyncio.create_task(show(store.watch(collections=("tasks",))))

        print(f"The store {store.url} is open at seq {store.seq}.")
        if interrupted := await orchestrator.recover():
            print(f"{interrupted} tasks had been interrupted; they wait again.")
        await orchestrator.submit(WORK)
        await asyncio.gather(*(orchestrator.work(f"worker_{n}") for n in (1, 2, 3)))

        print("\nA cleanup goes wrong: it deletes what is completed.")
        good = store.seq
        async with store.transaction() as tx:
            async for task in orchestrator.tasks.find(status="completed"):
                tx.delete(orchestrator.tasks, task.id)
        print(f"{await orchestrator.tasks.count()} tasks are left.")

        restored = await store.restore(at=good)
        print(f"Restored to seq {restored.to}: {await orchestrator.tasks.count()} tasks are here.\n")

        location = await orchestrator.report()
        completed = await orchestrator.totals.get("completed")
        print(f"Completed, in all runs: {completed['count'] if completed else 0}. The report: {location}")
        print(f"The log of worker_1:\n{await store.read_log('worker_1')}")
        dashboard.cancel()
    print("Look around: statepath ls tasks; statepath show tasks/task_001; statepath history tasks/task_005")


asyncio.run(main())
