"""Databases of one's own on the server of this worker, and connections around the backend."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import pytest
from servers.postgres import PostgresServer, session
from statepath.backend import StateURL
from statepath_postgres import PostgresBackend, factory

Connect = Callable[..., Awaitable[PostgresBackend]]


@pytest.fixture
async def database(postgres: PostgresServer) -> AsyncIterator[str]:
    """The name of a new, empty database."""
    name = f"d{uuid4().hex}"
    async with session(postgres.url()) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
        yield name
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def hurried(postgres: PostgresServer, database: str) -> Callable[[], Awaitable[None]]:
    """Has the server end whatever transaction of that database takes a second, or idles for one."""

    async def hurry() -> None:
        async with session(postgres.url()) as admin:
            for (limit,) in await admin.fetch(
                "SELECT name FROM pg_settings WHERE name ~ '^(idle_in_transaction_session|transaction)_timeout$'"
            ):
                await admin.execute(f"ALTER DATABASE {database} SET {limit} = '1s'")

    return hurry


@pytest.fixture
def path(postgres: PostgresServer) -> str:
    """The state path of a new store."""
    return postgres.url(store=uuid4().hex)


@pytest.fixture
def name(path: str) -> str:
    """What that store is called."""
    return path.partition("store=")[2]


@pytest.fixture
async def around(postgres: PostgresServer) -> AsyncIterator[Any]:
    """A look at the tables, and what is done to them behind everybody's back."""
    async with session(postgres.url()) as connection:
        yield connection


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects to a state path; closed at the end."""
    async with AsyncExitStack() as stack:

        async def connected(path: str, *, readonly: bool = False, **env: str) -> PostgresBackend:
            config = factory.with_env(factory.parse(StateURL.parse(path)), env)
            backend = await factory.connect(config, readonly=readonly)
            stack.push_async_callback(backend.close)
            return backend

        yield connected
