"""Leases, claims and several writers of an encrypted store: as on a plain one, and nothing told in the clear."""

from __future__ import annotations

import asyncio

import pytest
from statepath.errors import LeaseHeldError, LeaseLostError

pytestmark = pytest.mark.slow

SHARED = ["memory", "s3", "postgresql"]
"""Where several handles write."""


@pytest.fixture(params=SHARED)
def place(request):
    return request.getfixturevalue(request.param)


async def test_a_lease_has_one_holder_and_fences_the_former_one(place):
    async with place.open() as one, place.open() as two:
        lease = one.lease("leader", ttl=60)
        await lease.acquire()
        lease.raise_fence()
        await one.collection("raw").put({"id": "a", "by": 1})
        with pytest.raises(LeaseHeldError):
            async with two.lease("leader", ttl=60, wait=0):
                pass
        await two.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await one.collection("raw").put({"id": "a", "by": "late"})
        lease.lower_fence()
        async with two.lease("leader", ttl=60, wait=0):
            await two.collection("raw").put({"id": "a", "by": 2})
        assert await one.collection("raw").get("a", fresh=True) == {"id": "a", "by": 2}


async def test_workers_share_tasks_by_claiming_them(place):
    tasks = [f"task_{n}" for n in range(4)]

    async def work(store, name):
        for id in tasks:
            try:
                async with store.claim(id, ttl=60):
                    raw = store.collection("tasks")
                    if await raw.get(id, fresh=True) is None:
                        await raw.put({"id": id, "by": name})
            except LeaseHeldError:
                continue

    async with place.open() as one, place.open() as two:
        await asyncio.gather(work(one, "one"), work(two, "two"))
        history = await one.history()
        assert sorted(change.id for change in history if change.collection == "tasks") == tasks
        assert await one.leases() == []


async def test_who_holds_a_lease_is_not_told_in_the_clear(place, canary):
    async with place.open() as store, store.lease(f"{canary}-lease", ttl=60):
        stored = await place.everything()
        holder = (await store.leases())[0]
    named = {name for name, data in stored.items() if holder.host.encode() in data and b'"pid"' in data}
    assert named == set()


async def test_a_lease_outlives_the_exchange_of_the_key(place):
    async with place.open() as one, place.open() as two:
        async with one.lease("leader", ttl=60) as lease:
            await two.rotate_key()
            assert await one._engine.leases.renew(lease._hold, epoch=lease.epoch)
            assert await one._engine.leases.renew(lease._hold, epoch=lease.epoch)
            await one.collection("raw").put({"id": "a"})
        assert await two.leases() == []


async def test_a_look_at_the_log_counts_for_how_old_reads_are(memory):
    async with memory.open() as store:
        await store.collection("raw").put({"id": "a"})
        store._engine.catching_up.seen -= 100
        assert store.staleness < 50


async def test_writers_go_on_beside_each_other_while_a_key_is_exchanged(place):
    async with place.open() as one, place.open() as two:

        async def save(store, name):
            for n in range(10):
                await store.collection("raw").append("list", "elements", f"{name} {n}")

        await one.collection("raw").put({"id": "list", "elements": []})
        await asyncio.gather(save(one, "one"), save(two, "two"), one.rotate_key())
        await save(two, "later")
        held = await one.collection("raw").get("list", fresh=True)
        assert sorted(held["elements"]) == sorted(
            f"{name} {n}" for name in ("one", "two", "later") for n in range(10)
        )
        assert await two.verify() == []
