"""The primary dies, and its standby takes over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import statepath
from servers.postgres import USER, PostgresServer, running_postgres, running_standby, session
from statepath.errors import DivergedError, OutcomeUnknownError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

INTERRUPTS = ("pg_terminate_backend", "pg_cancel_backend")
"""How a session loses its wait for a standby: it ends without an answer, or answers as if there had been none."""


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def standby(primary: PostgresServer) -> Iterator[PostgresServer]:
    with running_standby(primary) as server:
        yield server


@pytest.fixture
def path(primary: PostgresServer, standby: PostgresServer) -> str:
    """A store on whichever of the two takes writes."""
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    return f"postgresql://{USER}:{primary.password}@{hosts}/postgres?store={uuid4().hex}"


async def promote(server: PostgresServer) -> None:
    async with session(server.url()) as admin:
        await admin.execute("SELECT pg_promote()")


async def test_a_store_goes_on_where_the_standby_is_promoted(primary, standby, path) -> None:
    async with session(primary.url()) as admin:
        await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        await admin.execute("SELECT pg_reload_conf()")
    acknowledged: list[int] = []
    going_on: asyncio.Queue[int] = asyncio.Queue()
    stopping = asyncio.Event()
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "list", "elements": []})
        numbers = iter(range(10_000_000))

        async def save() -> None:
            while not stopping.is_set():
                number = next(numbers)
                await raw.append("list", "elements", number)
                acknowledged.append(number)
                going_on.put_nowait(number)

        saving = [asyncio.create_task(save()) for _ in range(8)]
        for _ in range(100):
            await going_on.get()
        await asyncio.to_thread(primary.stop, at_once=True)
        await promote(standby)
        # Nothing is acknowledged by nobody: what comes now comes from the new primary.
        while not going_on.empty():
            going_on.get_nowait()
        for _ in range(100):
            await going_on.get()
        stopping.set()
        await asyncio.gather(*saving)
    async with statepath.open(path, readonly=True) as reader:
        document = await reader.collection("raw").get("list")
        assert document is not None
        assert sorted(document["elements"]) == sorted(acknowledged)  # type: ignore[arg-type, type-var]


async def test_a_standby_that_lacks_commits_does_not_pass_for_the_primary(primary, standby, path) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        await catch_up(primary, standby)
        await asyncio.to_thread(standby.stop)
        await store.collection("raw").put({"id": "b"})
        await asyncio.to_thread(primary.stop, at_once=True)
        await asyncio.to_thread(standby.start)
        await promote(standby)
        with pytest.raises(DivergedError, match="the server lost commits"):
            await store.collection("raw").put({"id": "c"})


@pytest.mark.parametrize("how", INTERRUPTS)
async def test_a_commit_that_was_interrupted_is_not_acknowledged_while_no_standby_confirms_it(
    primary, how
) -> None:
    path = primary.url(store=uuid4().hex)
    async with statepath.open(f"{path}&timeout=6", autosave=0) as store, confirmed_by_nobody(primary):
        saving = await interrupt(store, primary, how)
        with pytest.raises(OutcomeUnknownError):
            await saving


@pytest.mark.parametrize("how", INTERRUPTS)
async def test_a_commit_that_was_interrupted_is_acknowledged_once_it_is_confirmed(primary, how) -> None:
    async with statepath.open(primary.url(store=uuid4().hex), autosave=0) as store:
        async with confirmed_by_nobody(primary):
            saving = await interrupt(store, primary, how)
        assert await saving == store.seq


async def test_a_standby_can_be_read_and_follows(primary, standby, path) -> None:
    store_name = path.partition("store=")[2]
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        await catch_up(primary, standby)
        async with statepath.open(standby.url(store=store_name), readonly=True) as reader:
            changes = reader.watch()
            waiting = asyncio.ensure_future(anext(changes))
            await store.collection("raw").put({"id": "b"})
            async with asyncio.timeout(60):
                assert (await waiting).id == "b"
            await changes.aclose()


@asynccontextmanager
async def confirmed_by_nobody(server: PostgresServer) -> AsyncIterator[None]:
    """The server waits for a standby that does not answer."""
    async with session(server.url()) as admin:
        await admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        await admin.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            await admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await admin.execute("SELECT pg_reload_conf()")


async def interrupt(store: statepath.Store, server: PostgresServer, how: str) -> asyncio.Task[int]:
    """A save that stands in the log, and whose session was interrupted where it waits for a standby."""
    query = f"SELECT {how}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"  # noqa: S608 - a function's name
    async with session(server.url()) as admin:
        while True:  # until the server has seen that it has to wait
            saving = asyncio.create_task(store.collection("raw").put({"id": "a"}))
            while not saving.done():
                if await admin.fetchval(query):
                    return saving
                await asyncio.sleep(0.01)


async def catch_up(primary: PostgresServer, standby: PostgresServer) -> None:
    """Wait until the standby has replayed what the primary has written."""
    async with session(primary.url()) as admin, session(standby.url()) as follower:
        place = await admin.fetchval("SELECT pg_current_wal_lsn()::text")
        query = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn"
        for _ in range(3000):
            if await follower.fetchval(query, place):
                return
            await asyncio.sleep(0.01)
    raise AssertionError(place)
