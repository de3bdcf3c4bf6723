"""Leases: one holder at a time, and what a former holder changes is refused."""

import asyncio
from contextlib import AsyncExitStack, aclosing
from uuid import uuid4

import pytest
import statepath
from statepath.errors import InvalidArgumentError, LeaseHeldError, LeaseLostError, ReadOnlyError
from statepath.events import LeaseLost, StateSaved


@pytest.fixture
async def elsewhere():
    """Another store."""
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0) as elsewhere:
        yield elsewhere


@pytest.mark.slow
async def test_one_holds_it_and_the_next_one_gets_it_when_it_is_given_back(store, other):
    order = []

    async def work(handle, name):
        async with handle.lease("leader", ttl=60) as lease:
            order.append((name, lease.held))
            await asyncio.sleep(0.05)
            order.append((name, lease.held))

    async with asyncio.timeout(60):
        await asyncio.gather(work(store, "a"), work(other, "b"))
    assert order in ([("a", True)] * 2 + [("b", True)] * 2, [("b", True)] * 2 + [("a", True)] * 2)


async def test_the_epoch_rises_with_each_holder(store, other):
    epochs = []
    for handle in (store, other, store):
        async with handle.lease("leader") as lease:
            epochs.append(lease.epoch)
    assert epochs == sorted(set(epochs))


async def test_whoever_does_not_wait_is_told_who_has_it(store, other):
    async with store.lease("leader"):
        with pytest.raises(LeaseHeldError, match=r"held by .*pid") as raised:
            await other.lease("leader", wait=0).acquire()
    assert raised.value.holder["pid"]
    assert raised.value.retryable


@pytest.mark.slow
async def test_what_a_former_holder_changes_is_refused(store, other, falls_silent):
    raw = store.collection("raw")
    async with store.lease("leader", ttl=0.2) as lease:
        await raw.put({"id": "in time"})
        falls_silent(lease)
        async with other.lease("leader", ttl=60):
            for late in (
                raw.put({"id": "late"}),
                raw.create({"id": "late"}),
                raw.delete("in time"),
                raw.update("in time", lambda document: document | {"late": True}),
                asyncio.ensure_future(raw.put({"id": "late, in a task"})),
            ):
                with pytest.raises(LeaseLostError, match="'leader' of epoch"):
                    await late
            with pytest.raises(LeaseLostError):
                async with store.transaction() as tx:
                    tx.put(raw, {"id": "late"})
    await raw.put({"id": "outside of the block"})
    assert {document["id"] async for document in raw} == {"in time", "outside of the block"}


async def test_a_lease_of_another_store_takes_no_fence_away(store, other, elsewhere):
    await store.collection("raw").put({"id": "a"})
    async with store.lease("leader", ttl=60) as held:
        while await elsewhere.collection("raw").put({"id": "a"}) < held.epoch - 1:
            pass
        async with elsewhere.lease("leader", ttl=60) as inner:
            assert inner.epoch == held.epoch
        await other.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await store.collection("raw").put({"id": "a"})


async def test_what_a_transaction_has_noted_under_a_lease_is_fenced_when_it_ends(store, other):
    raw, others = store.collection("raw"), other.collection("raw")

    async def save_late():
        async with store.transaction() as tx:
            async with store.claim("job"):
                tx.put(raw, {"id": "job", "by": "the first"})
                await other.break_lease("claim/job")
            async with other.claim("job"):
                await others.put({"id": "job", "by": "the second"})

    with pytest.raises(LeaseLostError):
        await save_late()
    assert await raw.get("job", fresh=True) == {"id": "job", "by": "the second"}


async def test_what_others_change_meanwhile_is_not_fenced(store):
    raw = store.collection("raw")
    begun, done = asyncio.Event(), asyncio.Event()

    async def beside():
        await begun.wait()
        await raw.put({"id": "beside"})
        done.set()

    task = asyncio.ensure_future(beside())
    async with store.lease("leader") as lease:
        await store.break_lease("leader")
        begun.set()
        await done.wait()
        with pytest.raises(LeaseLostError):
            await raw.put({"id": "inside"})
        assert lease.epoch
    await task


async def test_a_holder_finds_out_that_it_has_lost_it(store, other, lively):
    told = []
    store.events.on(LeaseLost, told.append)
    lease = store.lease("leader", ttl=60)
    await lease.acquire()
    holder = await other.break_lease("leader")
    assert holder.name == "leader"
    async with asyncio.timeout(60):
        await lease.lost.wait()
    assert not lease.held
    assert [(event.lease, event.epoch) for event in told] == [("leader", lease.epoch)]
    await lease.release()
    async with other.lease("leader", wait=0):
        pass


async def test_a_lease_that_was_lost_can_be_taken_again(store, other, lively):
    lease = store.lease("leader", ttl=60)
    await lease.acquire()
    await other.break_lease("leader")
    async with asyncio.timeout(60):
        await lease.lost.wait()
    await lease.release()
    async with lease:
        assert lease.held
    async with other.lease("leader", wait=0):
        pass


@pytest.mark.slow
async def test_whoever_was_overtaken_before_its_epoch_was_committed_has_nothing(store, other, monkeypatch):
    commit = store._engine.commit
    asleep, awake = asyncio.Event(), asyncio.Event()

    async def late(*args):
        asleep.set()
        await awake.wait()
        return await commit(*args)

    monkeypatch.setattr(store._engine, "commit", late)
    sleeper = asyncio.ensure_future(store.lease("leader", ttl=0.2, wait=0).acquire())
    await asleep.wait()
    async with asyncio.timeout(60), other.lease("leader", ttl=60):
        awake.set()
        with pytest.raises(LeaseHeldError):
            await sleeper
        await other.collection("raw").put({"id": "a"})


async def test_a_task_is_claimed_by_one_worker_at_a_time(store, other):
    async with store.claim("task/1"):
        with pytest.raises(LeaseHeldError):
            await other.claim("task/1").acquire()
        async with other.claim("task/2"):
            pass
    async with other.claim("task/1"):
        pass


async def test_a_task_of_any_id_can_be_claimed(store, other):
    async with store.claim("ü" * 100):
        with pytest.raises(LeaseHeldError):
            await other.claim("ü" * 100).acquire()


async def test_a_store_that_is_closed_has_lost_its_leases(url):
    async with statepath.open(url, autosave=0) as closed:
        lease = closed.lease("leader", ttl=60)
        await lease.acquire()
    assert lease.lost.is_set()
    assert not lease.held


async def test_a_claim_within_a_lost_lease_is_given_back_all_the_same(store, other):
    async with store.lease("leader", ttl=60):
        async with store.claim("job", ttl=60):
            await other.break_lease("leader")
        async with other.claim("job", wait=0):
            pass


async def test_a_name_that_cannot_be_used_is_refused(store):
    for name in ("maintainer", "", "x" * 181, "a\0b"):
        with pytest.raises(InvalidArgumentError):
            store.lease(name)


async def test_a_time_to_live_is_above_zero(store):
    for ttl in (0, -1, float("nan"), float("inf"), "5", True, None):
        with pytest.raises(InvalidArgumentError, match="time to live"):
            store.lease("leader", ttl=ttl)


async def test_how_long_to_wait_is_a_number(store):
    for wait in (float("nan"), "5", True):
        with pytest.raises(InvalidArgumentError, match="how long to wait"):
            store.lease("leader", wait=wait)


async def test_a_handle_that_cannot_write_holds_nothing(store, url):
    async with statepath.open(url, readonly=True) as reader:
        with pytest.raises(ReadOnlyError):
            await reader.lease("leader").acquire()


async def test_leases_are_not_told_as_changes_nor_as_members(store):
    async with aclosing(store.watch(since=0)) as changes:
        async with store.lease("leader"):
            assert await store.members() == {}
            await store.collection("raw").put({"id": "a"})
        assert (await anext(changes)).key == "raw/a"


@pytest.mark.slow
async def test_a_restore_leaves_leases_as_they_are(store, other, falls_silent):
    lease = store.lease("leader", ttl=0.2)
    before = await store.collection("raw").put({"id": "a", "n": 0})
    await lease.acquire()
    then = await store.collection("raw").put({"id": "a", "n": 1})
    falls_silent(lease)
    raw = other.collection("raw")
    async with asyncio.timeout(60), other.lease("leader", ttl=60):
        for seq, n in ((then, 1), (before, 0)):
            await raw.put({"id": "a", "n": 9})
            await other.restore(at=seq)
            assert await raw.get("a") == {"id": "a", "n": n}
        await raw.put({"id": "b"})


async def test_a_member_of_the_name_of_a_lease_cannot_be_put(store):
    with pytest.raises(InvalidArgumentError):
        async with store.transaction() as tx:
            tx.put_member("lease/leader", {})


async def test_a_listener_of_what_is_done_under_a_lease_is_no_part_of_that(store):
    over, outcome = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def listener(event):
        await over.wait()
        try:
            outcome.set_result(await store.collection("raw").put({"id": "heard"}))
        except LeaseLostError as error:
            outcome.set_result(error)

    store.events.on(StateSaved, listener)
    async with store.lease("leader"):
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
    over.set()
    async with asyncio.timeout(60):
        assert not isinstance(await outcome, LeaseLostError)


async def test_many_leases_are_listed_several_at_a_time(open_on, faulty, monkeypatch):
    store = await open_on(faulty)
    async with AsyncExitStack() as leases:
        for n in range(20):
            await leases.enter_async_context(store.claim(str(n), ttl=600))
        read, waiting, all_there = faulty.read, set(), asyncio.Event()

        async def slowly(key, **options):
            if key.startswith("leases/"):
                waiting.add(key)
                if len(waiting) == 16:
                    all_there.set()
                await all_there.wait()
            return await read(key, **options)

        monkeypatch.setattr(faulty, "read", slowly)
        try:
            async with asyncio.timeout(60):
                assert len(await store.leases()) == 20
        finally:
            all_there.set()
