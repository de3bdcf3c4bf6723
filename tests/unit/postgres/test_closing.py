"""Whoever closes is not kept waiting by a server that is silent, and leaves nothing open."""

import asyncio

import pytest
from statepath.backend import StateURL
from statepath.errors import UnavailableError
from statepath_postgres import PostgresBackend, factory
from statepath_postgres.connections import Connections
from statepath_postgres.documents import Documents


@pytest.fixture
def config():
    return factory.with_env(factory.parse(StateURL.parse("postgresql://db/agents")), {})


class Connection:
    """A connection to a silent server."""

    terminated = False

    def terminate(self):
        self.terminated = True


class Pool:
    """Stands for asyncpg's; what was done to it, in order."""

    def __init__(self):
        self.connection = Connection()
        self.done = []

    async def acquire(self):
        return self.connection

    async def release(self, connection, **limits):
        self.done.append(("release", limits.get("timeout")))

    async def expire_connections(self):
        self.done.append(("expire", None))

    def terminate(self):
        self.done.append(("terminate", None))


@pytest.fixture
def pool():
    return Pool()


@pytest.fixture
def connections(config, pool):
    connections = Connections(config, readonly=False)
    connections._pool = pool
    return connections


async def test_a_close_that_is_cut_off_closes_everything(config, monkeypatch):
    closed, waiting = [], asyncio.Event()

    async def hang():
        waiting.set()
        await asyncio.Event().wait()

    def noting(name):
        async def close():
            closed.append(name)

        return close

    backend = PostgresBackend(config, readonly=False)
    monkeypatch.setattr(backend._documents, "close", hang)
    monkeypatch.setattr(backend._log, "close", noting("log"))
    monkeypatch.setattr(backend._connections, "close", noting("connections"))
    closing = asyncio.ensure_future(backend.close())
    await waiting.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert closed == ["log", "connections"]


@pytest.mark.parametrize("cancelled", [False, True])
async def test_documents_that_wait_for_a_silent_server_are_cut_off(connections, pool, monkeypatch, cancelled):
    entered, cut = asyncio.Event(), asyncio.Event()

    async def run(self, store):
        try:
            entered.set()
            await asyncio.Event().wait()
        finally:
            await cut.wait()  # for the answer to ROLLBACK

    monkeypatch.setattr("statepath_postgres.documents._CLOSING", 3600 if cancelled else 0)
    monkeypatch.setattr(Documents, "_run", run)
    monkeypatch.setattr(pool, "terminate", cut.set)
    documents = Documents(connections, read=None, body=None)
    documents.start(1)
    task = documents._task
    await entered.wait()
    closing = asyncio.ensure_future(documents.close())
    if cancelled:
        await asyncio.sleep(0)
        closing.cancel()
    async with asyncio.timeout(30):
        await asyncio.wait([closing, task])
    assert closing.cancelled() == cancelled


async def test_documents_that_are_closed_do_not_go_on_where_their_end_fails(connections, monkeypatch):
    entered = asyncio.Event()

    async def catch_up(self, store):
        try:
            entered.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise UnavailableError("the connection was lost: ROLLBACK") from None

    monkeypatch.setattr(Documents, "_catch_up", catch_up)
    documents = Documents(connections, read=None, body=None)
    documents.start(1)
    task = documents._task
    await entered.wait()
    await documents.close()
    assert task.done()


async def test_after_a_server_was_silent_no_connection_to_it_is_used_again(connections, pool):
    with pytest.raises(UnavailableError, match="did not answer in time"):
        async with connections.use():
            raise TimeoutError
    assert pool.connection.terminated
    assert ("expire", None) in pool.done


async def test_a_connection_is_not_waited_for_without_end_when_it_goes_back(connections, pool):
    async with connections.use():
        pass
    ((what, timeout),) = pool.done
    assert what == "release"
    assert timeout is not None
