"""The view of the documents and a log that was begun anew, in every order in which the two can meet."""

import asyncio

import pytest
from statepath import F
from statepath.backend import Shown
from statepath.testing.commits import Writer, commit_log

IS_A = F("text") == "a"


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
    async with asyncio.timeout(30):
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
