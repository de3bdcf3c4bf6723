"""The connection to PostgreSQL is lost around a commit: it has one effect, or it is said that nobody knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import statepath
from msgspec.structs import replace
from servers.postgres import PostgresServer, running_postgres
from servers.postgres_proxy import PostgresProxy, What, postgres_proxy
from statepath.backend import StateURL
from statepath.errors import ClosedError, OutcomeUnknownError, UnavailableError
from statepath.opening import Opening
from statepath.store import Store
from statepath.testing.commits import Writer
from statepath_postgres import PostgresBackend, factory

APPEND = "INSERT INTO statepath.log"
BAR = "SET bound = greatest"
WHENS: tuple[What, ...] = ("before", "during", "after", "hung", "late")


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with postgres_proxy(postgres) as proxy:
        yield proxy


@pytest.fixture
def name() -> str:
    return uuid4().hex


@pytest.fixture
def around(postgres: PostgresServer, name: str) -> Callable[[], Opening[Store]]:
    """Opens the store past the proxy, for reading."""
    return lambda: statepath.open(postgres.url(store=name), readonly=True)


@asynccontextmanager
async def connected(path: str) -> AsyncIterator[PostgresBackend]:
    backend = await factory.connect(factory.parse(StateURL.parse(path)))
    try:
        yield backend
    finally:
        await backend.close()


async def elements(store: statepath.Store) -> list[int]:
    document = await store.collection("raw").get("list")
    assert document is not None
    found = document["elements"]
    assert isinstance(found, list)
    return [int(str(element)) for element in found]


@pytest.mark.parametrize("what", WHENS)
async def test_a_commit_whose_answer_is_lost_has_one_effect(proxy, name, around, what) -> None:
    async with statepath.open(proxy.url(name, timeout=9), autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "list", "elements": []})
        fault = proxy.arm(APPEND, what)
        seqs = await asyncio.gather(*(raw.append("list", "elements", n) for n in range(5)))
        assert fault.happened.is_set()
        await proxy.release()
        assert sorted(seqs) == list(range(2, 7))
        assert await raw.append("list", "elements", 5) == 7
        async with around() as reader:
            assert await elements(reader) == await elements(store) == list(range(6))
            assert [change.seq for change in await reader.history()] == list(range(1, 8))


@pytest.mark.parametrize("what", WHENS)
async def test_a_checked_save_whose_answer_is_lost_meets_no_false_conflict(proxy, name, what) -> None:
    async with statepath.open(proxy.url(name, timeout=9), autosave=0) as store:
        raw = store.collection("raw")
        version = await raw.create({"id": "a", "n": 0})
        for n in range(1, 4):
            proxy.arm(APPEND, what)
            version = await raw.put({"id": "a", "n": n}, if_version=version)
            await proxy.release()
        assert (version, await raw.get("a")) == (4, {"id": "a", "n": 3})


@pytest.mark.parametrize("what", WHENS)
async def test_commits_that_are_shipped_together_have_one_effect(proxy, postgres, name, what) -> None:
    async with connected(proxy.url(name, timeout=9)) as backend:
        writer = Writer(backend.commit_log())
        await writer.append()
        head = writer.head
        for transactions in (1, 3, 1):
            writer.commits.append(writer.make(transactions=transactions))
        fault = proxy.arm(APPEND, what)
        await writer.log.extend(head, writer.commits[1:])
        assert fault.happened.is_set()
        await proxy.release()
        await writer.append()
        assert [commit async for commit in writer.log.read(0)] == writer.commits


async def test_commits_whose_outcome_is_open_are_the_only_ones_taken(proxy, name) -> None:
    async with connected(proxy.url(name, timeout=3)) as backend:
        writer = Writer(backend.commit_log())
        for _ in range(2):
            writer.commits.append(writer.make())
        shipped, other = writer.commits, replace(writer.commits[0], id=uuid4().hex)
        proxy.arm(APPEND, "late", times=1000)
        with pytest.raises(OutcomeUnknownError):
            await writer.log.extend(0, shipped)
        proxy.faults.clear()
        with pytest.raises(OutcomeUnknownError):
            await writer.log.append(0, other)
        await writer.log.extend(0, shipped)
        await proxy.release()
        assert [commit async for commit in writer.log.read(0)] == shipped


async def test_a_late_commit_does_not_take_the_place_of_another(proxy, name, around) -> None:
    async with statepath.open(proxy.url(name, timeout=3), autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "n": 0})
        proxy.arm(APPEND, "late", times=1000)
        with pytest.raises(OutcomeUnknownError):
            await raw.put({"id": "a", "n": 1})
    proxy.faults.clear()
    async with statepath.open(proxy.url(name), autosave=0) as other:
        assert await other.collection("raw").put({"id": "a", "n": 2}) == 2
        await proxy.release()
        assert await other.collection("raw").put({"id": "b"}) == 3
    async with around() as reader:
        assert await reader.collection("raw").get("a") == {"id": "a", "n": 2}
        assert reader.seq == 3


@pytest.mark.parametrize("what", WHENS)
async def test_a_save_that_goes_behind_others_has_one_effect(proxy, postgres, name, around, what) -> None:
    async with (
        statepath.open(proxy.url(name, timeout=9), autosave=0) as store,
        statepath.open(postgres.url(store=name), autosave=0) as other,
    ):
        raw, theirs = store.collection("raw"), other.collection("raw")
        await raw.put({"id": "mine"})
        await theirs.put({"id": "theirs"})
        await raw.put({"id": "mine", "n": 0})
        for n in range(1, 4):
            await theirs.put({"id": "theirs", "n": n})
            fault = proxy.arm(APPEND, what)
            saving = asyncio.ensure_future(raw.put({"id": "mine", "n": n}))
            await fault.happened.wait()
            await theirs.put({"id": "theirs", "n": -n})
            await saving
            await proxy.release()
        await other.sync()
        async with around() as reader:
            assert reader.seq == other.seq == 12
            assert await reader.collection("raw").get("mine") == {"id": "mine", "n": 3}
            assert await reader.collection("raw").get("theirs") == {"id": "theirs", "n": -3}


async def test_a_save_that_was_given_up_goes_behind_nothing_later(proxy, postgres, name, around) -> None:
    async with statepath.open(postgres.url(store=name), autosave=0) as other:
        theirs = other.collection("raw")
        async with statepath.open(proxy.url(name, timeout=3), autosave=0) as store:
            raw = store.collection("raw")
            await raw.put({"id": "a"})
            await theirs.put({"id": "a", "n": 0})
            await raw.put({"id": "a", "n": 1})
            proxy.arm(APPEND, "late", times=1000)
            proxy.arm(BAR, "before", times=1000)
            with pytest.raises(OutcomeUnknownError):
                await raw.put({"id": "a", "n": 2})
        proxy.faults.clear()
        for n in (3, 4):
            await theirs.put({"id": "a", "n": n})
        await proxy.release()
        async with around() as reader:
            assert await reader.collection("raw").get("a") == {"id": "a", "n": 4}


@pytest.mark.parametrize(("what", "there"), [("late", False), ("after", True)])
async def test_a_commit_that_cannot_be_asked_about_is_unknown(proxy, name, around, what, there) -> None:
    store = await statepath.open(proxy.url(name, timeout=3), autosave=0)
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    fault = proxy.arm(APPEND, what)
    saving = asyncio.ensure_future(raw.put({"id": "b"}))
    await fault.happened.wait()
    proxy.refusing = True
    proxy.cut_all()
    with pytest.raises(OutcomeUnknownError):
        await saving
    with pytest.raises(OutcomeUnknownError):
        await raw.put({"id": "c"})
    assert await raw.get("b") is None
    await store.aclose()
    async with around() as reader:
        found = {document["id"] async for document in reader.collection("raw")}
    assert found == ({"a", "b"} if there else {"a"})


async def test_a_server_that_is_away_fails_the_save_and_later_ones_succeed(proxy, name) -> None:
    async with statepath.open(proxy.url(name, timeout=3), autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a"})
        # Once the connection is known to be lost, nothing more is sent over it.
        lost = asyncio.Event()
        store._engine.log._held._connection.add_termination_listener(lambda _: lost.set())
        proxy.refusing = True
        proxy.cut_all()
        await lost.wait()
        with pytest.raises(UnavailableError, match="cannot be reached"):
            await raw.put({"id": "b"})
        proxy.refusing = False
        assert await raw.put({"id": "c"}) == 2
        assert await raw.get("b") is None


@pytest.mark.slow
async def test_what_was_acknowledged_survives_crashes_of_the_server(name) -> None:
    with running_postgres() as server:
        path = server.url(store=name)
        acknowledged: list[int] = []
        going_on: asyncio.Queue[int] = asyncio.Queue()
        async with statepath.open(path, autosave=0) as store:
            raw = store.collection("raw")
            await raw.put({"id": "list", "elements": []})
            numbers = iter(range(10_000_000))
            stopping = asyncio.Event()

            async def save() -> None:
                while not stopping.is_set():
                    number = next(numbers)
                    await raw.append("list", "elements", number)
                    acknowledged.append(number)
                    going_on.put_nowait(number)

            saving = [asyncio.create_task(save()) for _ in range(8)]
            for _ in range(4):
                for _ in range(100):
                    await going_on.get()
                await asyncio.to_thread(server.restart, at_once=True)
            stopping.set()
            await asyncio.gather(*saving)
        async with statepath.open(path, readonly=True) as reader:
            assert sorted(await elements(reader)) == sorted(acknowledged)


async def test_a_follower_misses_nothing_when_its_connection_drops(proxy, postgres, name) -> None:
    async with statepath.open(postgres.url(store=name), autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "0"})
        async with statepath.open(proxy.url(name), readonly=True) as reader:
            changes = reader.watch()
            for n in range(1, 6):
                await raw.put({"id": f"{n} connected"})
                assert (await anext(changes)).id == f"{n} connected"
                proxy.cut_all()
                await raw.put({"id": f"{n} cut"})
                async with asyncio.timeout(60):
                    assert (await anext(changes)).id == f"{n} cut"
            await changes.aclose()


async def test_closing_does_not_wait_for_a_server_that_is_gone(proxy, name, monkeypatch) -> None:
    for patient in ("connections", "documents"):
        monkeypatch.setattr(f"statepath_postgres.{patient}.PATIENCE", 1.0)
    store = await statepath.open(proxy.url(name, timeout=30), autosave=0)
    saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
    await saving
    proxy.refusing = True
    proxy.cut_all()
    async with asyncio.timeout(60):
        await store.aclose()
    with pytest.raises(ClosedError):
        await store.collection("raw").put({"id": "b"})
