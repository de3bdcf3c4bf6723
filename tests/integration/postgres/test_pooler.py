"""Behind a pooler that gives each transaction another session of the server."""

import asyncio
from uuid import uuid4

import pytest
import statepath
from servers.postgres_pooler import postgres_pooler
from statepath.errors import StateError


@pytest.fixture
async def pooler(postgres):
    async with postgres_pooler(postgres) as pooler:
        yield pooler


@pytest.fixture
def name():
    return uuid4().hex


async def test_a_store_works_as_it_does_without(pooler, name, postgres):
    async with statepath.open(pooler.url(name, pgbouncer="true"), autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "list", "elements": []})
        for n in range(5):
            await asyncio.gather(*(raw.append("list", "elements", f"{n} {m}") for m in range(10)))
        await raw.put({"id": "large", "text": "x" * 9_000_000})
        await store.append_log("s", "text\n")
        await store.snapshot()
        await store.flush()
        assert await store.verify() == []
    async with statepath.open(postgres.url(store=name), readonly=True) as reader:
        document = await reader.collection("raw").get("list")
        assert sorted(document["elements"]) == sorted(f"{n} {m}" for n in range(5) for m in range(10))
        assert await reader.read_log("s") == "text\n"
    assert pooler.transactions > 20


async def test_without_being_told_of_the_pooler_it_says_what_to_add(pooler, name):
    with pytest.raises(StateError, match=r"unsupported startup parameter.*pgbouncer=true"):
        await statepath.open(pooler.url(name))


@pytest.mark.parametrize("direct", [True, False], ids=["listening", "polling"])
async def test_a_follower_gets_each_change(pooler, name, postgres, direct):
    parameters = {"pgbouncer": "true"}
    if direct:
        parameters["listen_dsn"] = postgres.url().replace(":", "%3A").replace("/", "%2F")
    async with (
        statepath.open(pooler.url(name, pgbouncer="true"), autosave=0) as store,
        statepath.open(pooler.url(name, **parameters), readonly=True) as reader,
    ):
        listener = reader._engine.log._listener
        changes = reader.watch()
        for n in range(10):
            waiting = asyncio.ensure_future(anext(changes))
            for _ in range(2000 if direct else 1):
                if listener._listening:
                    break
                await asyncio.sleep(0.005)
            await store.collection("raw").put({"id": str(n)})
            async with asyncio.timeout(60):
                assert (await waiting).id == str(n)
        assert listener._listening is direct
        await changes.aclose()
