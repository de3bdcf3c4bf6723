"""The view of the documents and a log that was begun anew, in every order in which the two can meet."""

import asyncio
import logging
import time

import asyncpg
import pytest
from statepath import F
from statepath.backend import Shown
from statepath.testing.commits import Writer, commit_log

IS_A = F("text") == "a"
FORBID = """
CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'permission denied' USING ERRCODE = 'insufficient_privilege'; END $$;
CREATE TRIGGER forbid BEFORE UPDATE ON statepath.views FOR EACH ROW WHEN (OLD.store = $1) EXECUTE FUNCTION forbid();
"""


@pytest.fixture
async def backend(path, connect):
    backend = await connect(path)
    await backend.show(0, ())
    await backend.settle(0)
    return backend


def shown():
    return [Shown("tasks", "one", 7, 1_700_000_000_000_000, b'{"id":"one","text":"a"}')]


async def begun_anew(backend, after):
    await commit_log(backend).restart(after)


async def is_shown(backend, seq):
    view = backend._documents
    async with asyncio.timeout(60), view._shown:
        await view._shown.wait_for(lambda: view._known >= seq)


async def test_a_view_that_waited_in_vain_is_filled_from_what_is_shown_later(backend):
    await begun_anew(backend, 10)
    assert await backend.find("tasks", IS_A, 10) is None
    await backend.show(10, shown())
    assert await backend.find("tasks", IS_A, 10) == {"one"}


async def test_what_is_shown_while_the_view_looks_is_not_lost(backend, monkeypatch):
    connections = backend._connections
    fetch, looked = connections.fetch, asyncio.Event()

    async def meanwhile(statement, *arguments):
        rows = await fetch(statement, *arguments)
        if not looked.is_set():
            await begun_anew(backend, 10)
            await backend.show(10, shown())
            looked.set()
        return rows

    monkeypatch.setattr(connections, "fetch", meanwhile)
    await backend.show(0, ())
    await looked.wait()
    assert await backend.find("tasks", IS_A, 10) == {"one"}


async def test_what_ends_before_the_log_begins_is_given_up_at_once(backend, monkeypatch):
    connections = backend._connections
    fetch, asked = connections.fetch, []

    async def counted(statement, *arguments):
        asked.append(statement)
        return await fetch(statement, *arguments)

    await begun_anew(backend, 10)
    monkeypatch.setattr(connections, "fetch", counted)
    await backend.show(5, shown())
    assert await backend.find("tasks", IS_A, 10) is None
    assert len(asked) < 10


async def test_a_log_that_begins_anew_before_what_was_wanted_is_shown_as_far_as_it_goes(backend):
    backend._documents._want(100)
    await begun_anew(backend, 10)
    await backend.show(10, shown())
    assert await backend.find("tasks", IS_A, 10) == {"one"}
    assert await backend.find("tasks", IS_A, 100) is None
    assert backend._documents.stuck


async def test_what_cannot_be_shown_is_logged_and_keeps_nobody_waiting(backend, caplog):
    await begun_anew(backend, 10)
    await backend.show(10, [Shown("tasks", "one", 7, 1_700_000_000_000_000, "no bytes")])
    async with asyncio.timeout(60):
        assert await backend.find("tasks", IS_A, 10) is None
    assert "cannot be shown" in caplog.text
    await backend.show(10, shown())
    assert await backend.find("tasks", IS_A, 10) == {"one"}


async def test_while_one_writes_the_view_the_other_leaves_it_to_it(backend, path, connect, monkeypatch):
    other = await connect(path)
    view, store = other._documents, await other.store()
    written = []
    write = view._write

    async def noted(*arguments):
        written.append(arguments)
        await write(*arguments)

    monkeypatch.setattr(view, "_write", noted)
    writer = Writer(commit_log(backend))
    await writer.append()
    await backend.settle(1)
    await view._catch_up(store)
    await writer.append()
    await backend.settle(2)
    await backend._documents.close()
    await writer.append()
    view._want(3)
    await view._catch_up(store)
    assert not written
    await view._catch_up(store)
    assert len(written) == 1, "nobody else goes on with it"
    assert view._known == 3


async def test_what_another_has_shown_meanwhile_is_not_taken_back(backend, path, connect):
    other = await connect(path)
    await begun_anew(backend, 10)
    await backend.show(10, shown())
    assert await backend.find("tasks", IS_A, 10) == {"one"}
    await other._documents._refill(await other.store(), 9, [])
    assert await backend.find("tasks", IS_A, 10) == {"one"}


async def test_what_is_shown_may_come_slower_than_the_server_lets_sessions_idle(
    backend, connect, around, path
):
    name = await around.fetchval("SELECT current_database()")
    await begun_anew(backend, 10)

    def slowly():
        time.sleep(2)  # in a worker thread, where the documents are made as they are drawn
        yield from shown()

    await around.execute(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1s'")
    try:
        other = await connect(path)
        await other._documents._refill(await other.store(), 10, slowly())
    finally:
        await around.execute(f"ALTER DATABASE {name} RESET idle_in_transaction_session_timeout")
    assert await backend.settle(10)
    assert await backend.find("tasks", IS_A, 10) == {"one"}


async def test_what_was_there_goes_a_part_at_a_time(backend, around, monkeypatch):
    monkeypatch.setattr("statepath_postgres.documents._CLEARED", 3)
    names = [(collection, str(n)) for collection in ("tasks", "other") for n in range(4)]
    await begun_anew(backend, 10)
    await backend.show(10, [Shown(*name, 7, 1_700_000_000_000_000, b"{}") for name in names])
    assert await backend.settle(10)
    statements = []
    execute = asyncpg.connection.Connection.fetchrow

    async def noted(self, statement, *arguments):
        statements.append(statement)
        return await execute(self, statement, *arguments)

    monkeypatch.setattr(asyncpg.connection.Connection, "fetchrow", noted)
    await begun_anew(backend, 20)
    await backend.show(20, shown())
    assert await backend.settle(20)
    left = await around.fetch(
        "SELECT collection, id FROM statepath.documents WHERE store = $1", await backend.store()
    )
    assert [tuple(row) for row in left] == [("tasks", "one")]
    assert len([each for each in statements if "DELETE" in each]) == 4, "of three, three, two and none"


async def test_a_view_that_takes_too_long_is_told_of_once(backend, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG, "statepath.postgres")
    monkeypatch.setattr("statepath_postgres.documents._PAUSE", 0)
    refill, attempts = backend._documents._refill, []

    async def slow(*arguments):
        attempts.append(arguments)
        if len(attempts) < 4:
            async with backend._connections.use() as connection:
                await connection.execute("SELECT pg_cancel_backend(pg_backend_pid())")
        await refill(*arguments)

    monkeypatch.setattr(backend._documents, "_refill", slow)
    await begun_anew(backend, 10)
    await backend.show(10, shown())
    await is_shown(backend, 10)
    told = [record for record in caplog.records if "behind the log for now" in record.message]
    assert [record.levelname for record in told] == ["WARNING", "DEBUG", "DEBUG"]
    assert "raise statement_timeout=" in told[0].message


async def test_nobody_waits_for_a_view_that_cannot_be_written_until_it_can(backend, monkeypatch, around):
    monkeypatch.setattr("statepath_postgres.documents.PATIENCE", 3600)
    store = await backend.store()
    await around.execute(FORBID.replace("$1", str(store)))
    try:
        async with asyncio.timeout(60):
            await Writer(commit_log(backend)).append()
            assert not await backend.settle(1)
            assert await backend.find("tasks", IS_A, 1) is None
    finally:
        await around.execute("DROP TRIGGER forbid ON statepath.views; DROP FUNCTION forbid()")
    await is_shown(backend, 1)
    assert await backend.find("tasks", IS_A, 1) is not None
