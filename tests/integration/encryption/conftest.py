"""Encrypted stores on each kind of storage, seen around statepath; and the canary that must not be found there."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes, token_hex
from typing import Any
from uuid import uuid4

import pytest
import statepath
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.postgres import PostgresServer, session
from servers.services import s3_service
from statepath.backend import Backend
from statepath.discovery import connect
from statepath.opening import Opening
from statepath.store import Store

CANARY = "canary-5f1d9c"


@pytest.fixture
def canary() -> str:
    return CANARY


@pytest.fixture
def key() -> str:
    """A master key."""
    return b64encode(token_bytes(32)).decode()


@dataclass
class Place:
    """Where an encrypted store is, and everything that is stored there, whatever made it."""

    url: str
    key: str
    everything: Callable[[], Awaitable[dict[str, bytes]]]

    def open(self, **settings: Any) -> Opening:
        settings = {"autosave": 0, "encryption_key": self.key, **settings}
        return statepath.open(self.url, **settings)

    async def raw(self) -> Backend:
        """The storage, below the sealing."""
        return await connect(self.url)

    async def read(self, key: str) -> bytes:
        backend = await self.raw()
        try:
            return (await backend.read(key)).data
        finally:
            await backend.close()

    async def write(self, key: str, data: bytes) -> None:
        backend = await self.raw()
        try:
            await backend.write(key, data)
        finally:
            await backend.close()

    async def flip(self, key: str) -> None:
        """Flip a bit of what is stored."""
        data = bytearray(await self.read(key))
        data[-1] ^= 1
        await self.write(key, bytes(data))


async def _objects(url: str) -> dict[str, bytes]:
    backend = await connect(url, readonly=True)
    try:
        keys = [entry.key async for entry in backend.list_keys("")]
        return dict(zip(keys, [(await backend.read(one)).data for one in keys], strict=True))
    finally:
        await backend.close()


FAR = ("s3", "postgresql")
"""The kinds of storage that need a server."""


@pytest.fixture
def folder(tmp_path: Path, key: str) -> Place:
    root = tmp_path / "store"

    async def everything() -> dict[str, bytes]:
        files = [path for path in root.rglob("*") if path.is_file()]
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    return Place(str(root), key, everything)


@pytest.fixture
def memory(key: str) -> Place:
    url = f"memory://{uuid4().hex}"
    return Place(url, key, lambda: _objects(url))


@pytest.fixture
def s3(moto: str, aws: None, key: str) -> Place:
    url = s3_service("moto", moto).path(uuid4().hex)
    return Place(url, key, lambda: _objects(url))


@pytest.fixture
async def postgresql(postgres: PostgresServer, key: str) -> AsyncIterator[Place]:
    name = f"e{token_hex(8)}"
    async with session(postgres.url()) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
        url = postgres.url(name)

        async def everything() -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            async with session(postgres.url(name)) as connection:
                tables = await connection.fetch(
                    "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
                    "WHERE nspname = 'statepath' AND relkind = 'r'"
                )
                for table in tables:
                    rows = await connection.fetch(f"SELECT * FROM statepath.{table['relname']}")  # noqa: S608
                    # Each value as it is: text and bytes alike.
                    values = [value for row in rows for value in row.values()]
                    found[table["relname"]] = b"\0".join(
                        value if isinstance(value, bytes) else str(value).encode() for value in values
                    )
            return found

        yield Place(url, key, everything)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(
    params=["memory", *(pytest.param(other, marks=pytest.mark.slow) for other in ("folder", *FAR))]
)
def place(request: pytest.FixtureRequest) -> Any:
    """An encrypted store on each kind of storage in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def fill() -> Callable[[Store], Awaitable[None]]:
    """Makes a store in which everything that can hold content does."""

    async def fill(store: Store) -> None:
        tasks = store.collection("tasks")
        for part in range(3):
            await asyncio.gather(
                *(tasks.put({"id": f"task_{n}", "part": part, "text": CANARY, "logs": []}) for n in range(20))
            )
            await tasks.append("task_1", "logs", CANARY)
            async with store.transaction() as tx:
                tx.put(store.collection("raw"), {"id": "raw", CANARY: part})
                tx.put_member("metrics", {CANARY: part})
            await store.append_log("1", f"{CANARY} {part}\n")
            await store.save_report("r", {CANARY: part})
            await tasks.put({"id": "old", "text": CANARY})
            if part < 2:
                await store.snapshot()
        await store.archive("tasks", older_than="0s", id="old")
        await store.backup()
        await store.append_log("1", f"{CANARY} behind\n")

    return fill
