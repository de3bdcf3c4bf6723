"""The releases of PostgreSQL that are supported: the same store on each, from the oldest on."""

import asyncio
from uuid import uuid4

import pytest
import statepath
from servers.postgres import RELEASES, running_postgres, session
from statepath import F
from statepath_postgres.schema import script

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=sorted(RELEASES))
def server(request):
    with running_postgres(release=request.param) as server:
        yield server


async def test_a_store_lives_in_it(server):
    path = server.url(store=uuid4().hex)
    async with statepath.open(path) as store, statepath.open(path, load=False) as other:
        raw = store.collection("raw")
        seen = asyncio.ensure_future(anext(aiter(store.watch())))
        await asyncio.gather(
            *(raw.put({"id": str(n), "status": "new", "n": n, "list": []}) for n in range(50))
        )
        assert (await seen).seq == 1
        await store.flush()
        await other.collection("raw").append("7", "list", "a\0b")
        await other.collection("raw").update("8", lambda document: document | {"n": 1e22})
        await store.append_log("s", "text\n" * 1000)
        async with store.transaction() as tx:
            tx.delete(raw, "9")
            tx.put(raw, {"id": "10", "status": "done"})
        await store.backup()
        await store.flush()
        for where in (F("status") == "done", F("list").contains("a\0b"), F("n") > 1e20, F("n").exists()):
            found = await raw.find(where).all()
            assert found
            assert await other.collection("raw").find(where).all() == found
    async with statepath.open(path) as store:
        assert await store.verify() == []
        assert await store.collection("raw").count() == 49
        assert await store.restore(at=50)
        assert (await store.collection("raw").get("7"))["list"] == []


async def test_the_schema_can_be_made_by_hand(server):
    name = f"d{uuid4().hex}"
    async with session(server.url()) as admin:
        await admin.execute(f"CREATE DATABASE {name}")
    async with session(server.url(name)) as admin:
        await admin.execute(script())
        await admin.execute(script())
    async with statepath.open(server.url(name)) as store:
        assert await store.collection("raw").put({"id": "a"}) == 1
