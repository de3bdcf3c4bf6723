"""Whoever closes is not kept waiting by a server that is silent, and leaves nothing open."""

import asyncio

import pytest
from statepath.backend import StateURL
from statepath.errors import ClosedError, UnavailableError
from statepath_postgres import PostgresBackend, factory
from statepath_postgres.connections import Connections
from statepath_postgres.documents import Documents
from statepath_postgres.held import Held


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
    async with asyncio.timeout(60):
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


class Committing(Connection):
    """One whose server says nothing to a statement, and nothing where that is cancelled."""

    def __init__(self):
        self.sent = asyncio.Event()

    def is_closed(self):
        return self.terminated

    def add_log_listener(self, hear):
        pass

    async def fetchval(self, *_, **limits):
        self.sent.set()
        await asyncio.Event().wait()

    async def close(self, **limits):
        await asyncio.Event().wait()


async def commit(held):
    await held.fetchval("COMMIT", sending=lambda: None)


@pytest.fixture
def held(connections):
    """What commits."""
    return Held(connections, patience=60)


async def test_a_cancelled_commit_that_the_server_says_nothing_to_is_not_waited_for_without_end(
    held, connections, monkeypatch
):
    connection = Committing()

    async def connect(**_):
        return connection

    monkeypatch.setattr("statepath_postgres.connections._CLOSING", 0.01)
    monkeypatch.setattr(connections, "connect", connect)
    committing = asyncio.ensure_future(commit(held))
    await connection.sent.wait()
    committing.cancel()
    await asyncio.wait([committing])
    async with asyncio.timeout(60):
        await held.close()
    assert connection.terminated


async def test_a_connection_that_comes_when_a_close_ceases_to_wait_is_not_used(
    held, connections, monkeypatch
):
    connection, coming = Committing(), asyncio.Event()

    async def connect(**_):
        await coming.wait()
        return connection

    monkeypatch.setattr(connections, "connect", connect)
    committing = asyncio.ensure_future(commit(held))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(held.close())
    while not held._closed:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0)
    closing.cancel()
    coming.set()
    with pytest.raises(ClosedError):
        async with asyncio.timeout(60):
            await committing
    assert connection.terminated
    assert not connection.sent.is_set()


async def test_a_close_may_be_repeated_while_a_connection_is_given_up(held, connections, monkeypatch):
    given_up = asyncio.Event()

    async def connect(**_):
        try:
            await asyncio.Event().wait()
        finally:
            await given_up.wait()

    monkeypatch.setattr("statepath_postgres.held._CLOSING", 0.01)
    monkeypatch.setattr(connections, "connect", connect)
    committing = asyncio.ensure_future(commit(held))
    await asyncio.sleep(0)
    await held.close()
    await held.close()
    given_up.set()
    with pytest.raises(ClosedError):
        await committing
