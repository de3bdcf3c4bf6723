"""How many requests it takes: that is the user's bill."""

from __future__ import annotations

import asyncio

import statepath
from servers.services import writes


def slots(seen):
    return [request for request in seen if writes("journal/0")(request.method, request.target, request.body)]


async def test_saves_that_arrive_together_are_one_request(counted, requests):
    async with statepath.open(counted, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "first"})
        requests()
        await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(200)))
        assert len(requests()) == 1


async def test_a_save_alone_is_one_request(counted, requests):
    async with statepath.open(counted, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "first"})
        requests()
        for n in range(5):
            await raw.put({"id": str(n)})
        assert len(requests()) == 5


async def test_opening_takes_as_many_requests_however_many_documents_there_are(counted, requests):
    counts = []
    async with statepath.open(counted, autosave=0) as store:
        await store.collection("raw").put({"id": "first"})
    for number in (1, 400):
        async with statepath.open(counted, autosave=0) as store:
            raw = store.collection("raw")
            await asyncio.gather(*(raw.put({"id": f"{number}-{n}"}) for n in range(number)))
            await store.snapshot()
            await raw.put({"id": "behind the snapshot"})
            await store._engine.release()
        requests()
        async with statepath.open(counted, readonly=True) as store:
            counts.append(len(requests()))
            assert await store.collection("raw").get("behind the snapshot")
    assert counts[0] == counts[1]
    assert counts[1] <= 8


async def test_a_snapshot_does_not_delay_a_save(counted, proxy, requests):
    from servers.proxy import Does

    async with statepath.open(counted, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a"})
        held = proxy.fault(
            Does.DELAY, lambda request: writes("state.json")(request.method, request.target, request.body)
        )
        snapshot = asyncio.ensure_future(store.snapshot())
        await held.met.wait()
        requests()
        await raw.put({"id": "b"})
        assert len(slots(requests())) == 1
        assert not snapshot.done()
        snapshot.cancel()
        await asyncio.gather(snapshot, return_exceptions=True)
