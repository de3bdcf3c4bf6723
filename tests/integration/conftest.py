"""Stores that hold something of everything, and what they hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from statepath import Store


@pytest.fixture
def fill() -> Callable[[Store], Awaitable[None]]:
    """Makes a store of every kind of change, with a backup, a snapshot and a journal behind them."""

    async def fill(store: Store) -> None:
        for part in ("first", "second", "third"):
            tasks, raw = store.collection("tasks"), store.collection("raw")
            await tasks.put({"id": "task_1", "part": part, "logs": []})
            await tasks.append("task_1", "logs", part)
            async with store.transaction() as tx:
                tx.put(tasks, {"id": part, "text": "ä/\\"})
                tx.put(raw, {"id": "raw", "part": part})
                tx.put_member("metrics", {"part": part})
            await tasks.put({"id": "gone"})
            await tasks.delete("gone")
            await store.append_log("s/1", f"{part}\n")
            await store.save_report("r", {"part": part})
            if part != "third":
                await store.snapshot()

    return fill


@pytest.fixture
def contents() -> Callable[[Store], Awaitable[dict[str, Any]]]:
    """Everything that a store holds."""

    async def contents(store: Store) -> dict[str, Any]:
        await store.flush()
        found: dict[str, Any] = {"members": await store.members()}
        for name in store.collections():
            found[name] = {document["id"]: document async for document in store.collection(name)}
        found["logs"] = {id: await store.read_log(id) for id in await store.logs()}
        found["reports"] = {id: await store.read_report(id) for id in await store.reports()}
        return found

    return contents
