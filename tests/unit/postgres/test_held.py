"""The connection that commits is held as long as it can be trusted."""

import asyncio

import pytest
from statepath.backend import StateURL
from statepath_postgres import factory
from statepath_postgres.connections import Connections
from statepath_postgres.held import Held


class Connection:
    """One that answers."""

    closed = False

    def is_closed(self):
        return self.closed

    def add_log_listener(self, hear):
        pass

    async def fetchval(self, *_):
        return self

    async def close(self, **_):
        self.closed = True

    terminate = close


@pytest.fixture
async def held(monkeypatch):
    """What commits; each statement gives the connection that it was sent over."""
    connections = Connections(
        factory.with_env(factory.parse(StateURL.parse("postgresql://db/agents")), {}), readonly=False
    )

    async def connect(**_):
        return Connection()

    monkeypatch.setattr(connections, "connect", connect)
    return Held(connections, patience=60)


async def commit(held):
    return await held.fetchval("COMMIT", sending=lambda: None)


async def test_a_connection_is_used_again(held):
    assert await commit(held) is await commit(held)


async def test_one_that_was_not_used_for_long_is_not_trusted_with_a_commit(held, monkeypatch):
    first = await commit(held)
    monkeypatch.setattr("statepath_postgres.held.IDLE", -1.0)
    assert await commit(held) is not first
    await asyncio.sleep(0)
    assert first.closed
