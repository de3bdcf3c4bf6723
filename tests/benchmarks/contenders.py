"""The ways to save a document durably that are compared.

Each gets the same pydantic model and serialises it itself; `save` returns when the document is on the disk.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from abc import ABC, abstractmethod
from asyncio import Future
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import statepath
from documents import Task

Batch = list[tuple[str, bytes, Future[None]]]


class Contender(ABC):
    """One run in one new folder."""

    name: str

    @abstractmethod
    async def open(self, folder: Path) -> None: ...

    @abstractmethod
    def save(self, task: Task) -> Awaitable[object]: ...

    async def catch_up(self) -> None:
        """Wait for what is written behind the acknowledgements, too."""

    @abstractmethod
    async def close(self) -> None: ...


class Statepath(Contender):
    """The public API, as a user writes it."""

    name = "statepath"

    async def open(self, folder: Path) -> None:
        self.context = statepath.open(str(folder))
        self.store = await self.context.__aenter__()
        self.tasks = self.store.collection("tasks", Task)

    def save(self, task: Task) -> Awaitable[object]:
        return self.tasks.put(task)

    async def catch_up(self) -> None:
        await self.store.flush()

    async def close(self) -> None:
        await self.context.__aexit__(None, None, None)


class SqliteBatched(Contender):
    """SQLite as fast as one writes it by hand: what arrived while a transaction was under way is the next
    one, run by a thread of its own."""

    name = "SQLite, batched"
    page_size = 4096

    async def open(self, folder: Path) -> None:
        self.loop = asyncio.get_running_loop()
        self.pending: Batch = []
        self.busy = False
        self.work: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self.db = sqlite3.connect(folder / "state.db", isolation_level=None, check_same_thread=False)
        self.db.execute(f"PRAGMA page_size={self.page_size}")
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE documents (id TEXT PRIMARY KEY, body BLOB NOT NULL)")
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def save(self, task: Task) -> Future[None]:
        done: Future[None] = self.loop.create_future()
        self.pending.append((task.id, task.__pydantic_serializer__.to_json(task), done))
        if not self.busy:
            self.busy = True
            self.loop.call_soon(self.send)
        return done

    def send(self) -> None:
        self.busy = bool(self.pending)
        if self.busy:
            self.work.put(self.pending)
            self.pending = []

    def write(self) -> None:
        statement = "INSERT INTO documents VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
        while (batch := self.work.get()) is not None:
            self.db.execute("BEGIN IMMEDIATE")
            self.db.executemany(statement, [(id, body) for id, body, _ in batch])
            self.db.execute("COMMIT")
            self.loop.call_soon_threadsafe(self.finish, batch)

    def finish(self, batch: Batch) -> None:
        for _, _, done in batch:
            done.set_result(None)
        self.loop.call_soon(self.send)

    async def close(self) -> None:
        self.work.put(None)
        self.thread.join()
        self.db.close()


class SqliteTuned(SqliteBatched):
    """The same with the setting that helps most."""

    name = "SQLite, batched, 16 KB pages"
    page_size = 16384


class SqliteEach(SqliteBatched):
    name = "SQLite, a transaction a save"

    def save(self, task: Task) -> Future[None]:
        done: Future[None] = self.loop.create_future()
        self.work.put([(task.id, task.__pydantic_serializer__.to_json(task), done)])
        return done

    def finish(self, batch: Batch) -> None:
        batch[0][2].set_result(None)


class Langgraph(Contender):
    """A checkpoint a save, as a graph's step would."""

    name = "langgraph-checkpoint-sqlite"

    async def open(self, folder: Path) -> None:
        from langgraph.checkpoint.base import empty_checkpoint
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        self.empty_checkpoint = empty_checkpoint
        self.context = AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db"))
        self.saver = await self.context.__aenter__()
        await self.saver.setup()
        await self.saver.conn.execute("PRAGMA synchronous=FULL")

    async def save(self, task: Task) -> object:
        checkpoint = self.empty_checkpoint()
        checkpoint["channel_values"] = {"task": task}
        config: Any = {"configurable": {"thread_id": task.id, "checkpoint_ns": ""}}
        return await self.saver.aput(config, checkpoint, {"source": "loop", "step": task.attempt}, {})

    async def close(self) -> None:
        await self.context.__aexit__(None, None, None)


class AtomicReplace(Contender):
    """A file a document: write, fsync, rename, fsync of the folder, in a thread pool."""

    name = "atomic replace"

    async def open(self, folder: Path) -> None:
        self.folder = str(folder)
        self.descriptor = os.open(folder, os.O_RDONLY)
        self.pool = ThreadPoolExecutor(64)
        self.loop = asyncio.get_running_loop()

    def save(self, task: Task) -> Future[None]:
        return self.loop.run_in_executor(
            self.pool, self.replace, task.id, task.__pydantic_serializer__.to_json(task)
        )

    def replace(self, id: str, data: bytes) -> None:
        path = f"{self.folder}/{id}.json"
        temporary = f"{path}.tmp"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, data)
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, path)
        os.fsync(self.descriptor)

    async def close(self) -> None:
        self.pool.shutdown()
        os.close(self.descriptor)
