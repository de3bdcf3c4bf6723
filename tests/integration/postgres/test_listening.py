"""What is announced, and to whom: only where somebody listens, as all stores of a server wait for each announcement."""

import asyncio
from contextlib import aclosing

import asyncpg
import pytest
from servers.postgres import running_postgres, session
from statepath.backend import encode_commit
from statepath.testing.commits import Writer
from statepath_postgres import listener
from statepath_postgres.listener import audience, channel
from statepath_postgres.log import _APPEND

STORE = "SELECT id FROM statepath.stores WHERE name = $1"
SHOUT = "SELECT pg_notify('noise', repeat('x', 7000) || n) FROM generate_series(1, 20) n"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


async def shout(server):
    """Announce what is nobody's business, until there is no room."""
    async with session(server.url()) as noisy:
        while True:
            await noisy.execute(SHOUT)


@pytest.fixture
def unpolled(monkeypatch):
    """Nobody looks without having heard something."""
    for pause in ("_SOONEST", "_LATEST", "_NET"):
        monkeypatch.setattr(listener, pause, 3600.0)


async def test_where_nobody_listens_nothing_is_announced(path, name, connect, around):
    log = (await connect(path)).commit_log()
    store = await around.fetchval(STORE, name)
    heard = []
    await around.add_listener(channel(store), lambda *news: heard.append(news[-1]))
    writer = Writer(log)
    await writer.append()
    await around.execute("SELECT 1")
    assert heard == []
    await around.execute("SELECT pg_advisory_lock_shared($1)", audience(store))
    await writer.append()
    await around.execute("SELECT 1")
    assert heard == ["2"]


async def test_who_begins_to_listen_during_a_commit_hears_of_it(path, name, connect, around, unpolled):
    log = (await connect(path)).commit_log()
    store = await around.fetchval(STORE, name)
    commit = Writer(log).make()
    async with asyncio.timeout(60), aclosing(log.follow(0)) as commits:
        async with around.transaction():
            # Nobody listens when the server looks.
            await around.fetchval(_APPEND, store, 0, 1, 1, commit.id, "", bytes(encode_commit(commit)),
                                  channel(store), audience(store), True)  # fmt: skip
            following = asyncio.ensure_future(anext(commits))
            while not await around.fetchval(WAITING):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        assert await following == commit


async def follow_past_the_pooler(connect, path, listen_dsn):
    """The commits of another, as one who listens there gets them."""
    writer = Writer((await connect(path)).commit_log())
    follower = (await connect(path, readonly=True, STATE_POSTGRES_LISTEN_DSN=listen_dsn)).commit_log()
    async with asyncio.timeout(60), aclosing(follower.follow(0)) as commits:
        following = asyncio.ensure_future(anext(commits))
        while follower._listener._task is None:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        yield follower._listener
        assert await writer.append() == await following


async def hears(ears):
    """Until it hears what is announced from now on."""
    while not ears._listening:  # noqa: ASYNC110 - nothing tells
        await asyncio.sleep(0.01)


async def test_who_listens_in_another_database_is_told_and_polls(postgres, path, database, connect, caplog):
    async for ears in follow_past_the_pooler(connect, path, postgres.url(database)):
        await ears._task
    (warning,) = [record for record in caplog.records if record.name == "statepath.postgres"]
    assert "listen_dsn names another database" in warning.getMessage()


async def test_who_listens_in_the_same_database_hears(postgres, path, connect, unpolled):
    async for ears in follow_past_the_pooler(connect, path, postgres.url()):
        await hears(ears)


async def test_so_does_who_is_not_told_which_database_it_is(postgres, database, connect, unpolled):
    path = postgres.url(database)
    await connect(path)
    async with session(path) as admin:
        await admin.execute("ALTER FUNCTION pg_control_system RENAME TO not_here")
    async for ears in follow_past_the_pooler(connect, path, path):
        await hears(ears)


@pytest.mark.slow
async def test_where_there_is_no_room_to_announce_commits_stand_and_are_found(connect, caplog, monkeypatch):
    monkeypatch.setattr(listener, "_NET", 0.1)
    monkeypatch.setattr("statepath_postgres.log._QUIET", 3600.0)
    with running_postgres(max_notify_queue_pages="64") as server:
        writer = Writer((await connect(server.url())).commit_log())
        follower = (await connect(server.url(), readonly=True)).commit_log()
        async with (
            session(server.url()) as stuck,
            asyncio.timeout(30),
            aclosing(follower.follow(0)) as commits,
        ):
            following = asyncio.ensure_future(anext(commits))
            while not follower._listener._listening:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
            # Who listens, and ends no transaction, keeps all there is to be heard.
            await stuck.add_listener("noise", lambda *_: None)
            await stuck.execute("BEGIN; SELECT 1")
            with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
                await shout(server)
            first = await writer.append()
            assert await following == first
            await writer.append()
            assert [commit.first async for commit in follower.read(0)] == [1, 2]
    (warning,) = [record for record in caplog.records if record.name == "statepath.postgres"]
    assert "too many notifications" in warning.getMessage()


@pytest.mark.slow
async def test_what_all_have_heard_makes_room_to_announce_again(connect, monkeypatch):
    monkeypatch.setattr("statepath_postgres.log._QUIET", 0.0)
    with running_postgres(max_notify_queue_pages="64") as server:
        writer = Writer((await connect(server.url())).commit_log())
        async with session(server.url()) as stuck, session(server.url()) as audible, asyncio.timeout(30):
            heard = asyncio.Event()
            await audible.add_listener(channel(1), lambda *_: heard.set())
            await audible.execute("SELECT pg_advisory_lock_shared($1)", audience(1))
            await stuck.add_listener("noise", lambda *_: None)
            await stuck.execute("BEGIN; SELECT 1")
            with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
                await shout(server)
            await stuck.execute("ROLLBACK")
            for _ in range(2):
                await writer.append()
            await heard.wait()


async def test_a_follower_is_woken_by_each_commit_of_another(path, connect, unpolled):
    writer = Writer((await connect(path)).commit_log())
    follower = (await connect(path, readonly=True)).commit_log()
    async with asyncio.timeout(60), aclosing(follower.follow(0)) as commits:
        for _ in range(3):
            following = asyncio.ensure_future(anext(commits))
            await asyncio.sleep(0)
            assert await writer.append() == await following
