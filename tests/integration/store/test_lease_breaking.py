"""What an operator sees of leases, and takes away: whoever has one that was broken commits nothing more."""

import asyncio

import pytest
from statepath.errors import LeaseHeldError, LeaseLostError, NotFoundError, UnavailableError


async def has_epochs(store):
    return all(holder.epoch for holder in await store.leases())


@pytest.fixture
def silent(other, monkeypatch):
    """No sign of life of the other handle arrives, however long it waits."""

    async def renew(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(other._engine.leases, "renew", renew)


async def test_who_takes_a_broken_lease_at_once_keeps_it(store, other, monkeypatch):
    held, next_one = store.lease("leader", ttl=60), store.lease("leader", ttl=60)
    remove = other._engine.leases.remove

    async def remove_and_wait(*asked):
        holder = await remove(*asked)
        await next_one.acquire()
        return holder

    await held.acquire()
    monkeypatch.setattr(other._engine.leases, "remove", remove_and_wait)
    await other.break_lease("leader")
    next_one.raise_fence()
    try:
        await store.collection("raw").put({"id": "a"})
    finally:
        next_one.lower_fence()
        await next_one.release()


async def test_who_has_lost_a_lease_may_still_break_another(store, other):
    async with store.lease("mine", ttl=60), other.lease("theirs", ttl=60):
        await other.break_lease("mine")
        assert (await store.break_lease("theirs")).name == "theirs"
        await other.sync()
        with pytest.raises(LeaseLostError, match="theirs"):
            await other.collection("raw").put({"id": "a"})


async def test_a_sign_of_life_does_not_keep_a_lease_from_being_broken(store, other, monkeypatch):
    lease = store.lease("leader", ttl=60)
    await lease.acquire()
    read, again = other._engine.leases._read, []

    async def read_and_wait(key):
        found = await read(key)
        if not again:
            again.append(await store._engine.leases.renew(lease._hold))
        return found

    monkeypatch.setattr(other._engine.leases, "_read", read_and_wait)
    await other.break_lease("leader")
    assert again == [True]
    assert await store.leases() == []


async def test_a_lease_is_taken_only_from_the_holder_that_is_meant(store, other):
    async with store.lease("leader", ttl=60):
        (seen,) = await store.leases()
    async with store.lease("leader", ttl=60) as lease:
        with pytest.raises(LeaseHeldError, match="was left to it") as caught:
            await other.break_lease("leader", holder=seen)
        (now,) = await store.leases()
        assert (caught.value.key, caught.value.holder["since"]) == ("leader", now.facts["since"])
        assert await store._engine.leases.renew(lease._hold)
        assert (await other.break_lease("leader", holder=now)).name == "leader"
    assert await store.leases() == []


async def test_breaking_what_nobody_holds_says_so(store):
    with pytest.raises(NotFoundError, match="nobody holds"):
        await store.break_lease("leader")


async def test_leases_are_listed_with_their_holders(store, other, until):
    async with store.lease("leader", ttl=5) as lease, other.claim("task_1"):
        await until(lambda: has_epochs(other))
        holders = await other.leases()
    assert [holder.name for holder in holders] == ["claim/task_1", "leader"]
    assert holders[1].epoch == lease.epoch
    assert await store.leases() == []


async def test_who_is_broken_after_another_has_taken_it_loses_its_epoch(store, other, monkeypatch, until):
    """It was handed over between the look and the breaking."""
    first, second = other.lease("leader", ttl=60), other.lease("leader", ttl=60)
    await first.acquire()
    remove = store._engine.leases.remove

    async def when_handed_over(*asked):
        await first.release()
        await second.acquire()
        await until(lambda: has_epochs(store))
        return await remove(*asked)

    monkeypatch.setattr(store._engine.leases, "remove", when_handed_over)
    await store.break_lease("leader")
    second.raise_fence()
    with pytest.raises(LeaseLostError):
        await other.collection("raw").put({"id": "a"})


async def test_who_is_broken_right_after_it_has_taken_it_loses_its_epoch(store, other, monkeypatch, silent):
    """Its epoch was committed between the look and the breaking, and no sign of life has told it."""

    lease = other.lease("leader", ttl=60)
    remove = store._engine.leases.remove

    async def when_taken(*asked):
        await lease.acquire()
        return await remove(*asked)

    monkeypatch.setattr(store._engine.leases, "remove", when_taken)
    await store.break_lease("leader")
    lease.raise_fence()
    with pytest.raises(LeaseLostError):
        await other.collection("raw").put({"id": "a"})


async def test_who_is_broken_before_its_epoch_is_committed_ends_that_itself(store, other, monkeypatch):
    take = other._engine.leases.take

    async def take_in_vain(name, ttl):
        taken = await take(name, ttl)
        await store.break_lease(name)
        return taken

    monkeypatch.setattr(other._engine.leases, "take", take_in_vain)
    async with other.lease("leader", ttl=60) as lease:
        await lease.lost.wait()
        await asyncio.wait([lease._beats])
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_who_finds_out_that_it_has_lost_its_lease_ends_no_epoch_but_its_own(store, other, falls_silent):
    async with store.lease("leader", ttl=60) as lease:
        await other.break_lease("leader")
        async with other.lease("leader", ttl=60):
            assert not await store._engine.leases.renew(lease._hold)
            falls_silent(lease)
            await asyncio.wait([lease._beats])
            await lease._beat(lease._hold)
            await other.collection("raw").put({"id": "a"})


async def test_a_lease_is_broken_to_the_end_though_the_log_cannot_be_read_then(
    store, other, monkeypatch, silent
):
    remove = store._engine.leases.remove

    async def cannot_be_read():
        raise UnavailableError("the storage does not answer")

    async def remove_at_last(*asked):
        monkeypatch.setattr(store._engine.catching_up, "catch_up", cannot_be_read)
        return await remove(*asked)

    monkeypatch.setattr(store._engine.leases, "remove", remove_at_last)
    async with other.lease("leader", ttl=60):
        await store.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_a_lease_is_broken_to_the_end_though_that_is_cancelled(store, other, monkeypatch, falls_silent):
    removed, goes_on = asyncio.Event(), asyncio.Event()
    remove = store._engine.leases.remove

    async def remove_and_wait(*asked):
        holder = await remove(*asked)
        removed.set()
        await goes_on.wait()
        return holder

    monkeypatch.setattr(store._engine.leases, "remove", remove_and_wait)
    async with other.lease("leader", ttl=60) as lease:
        falls_silent(lease)
        breaking = asyncio.ensure_future(store.break_lease("leader"))
        await removed.wait()
        breaking.cancel()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await breaking
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_breaking_a_lease_again_ends_what_was_left_half_done(store, other, falls_silent):
    async with other.lease("leader", ttl=60) as lease:
        falls_silent(lease)
        await store._engine.leases.remove("leader")
        with pytest.raises(NotFoundError):
            await store.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_who_takes_a_lease_that_was_broken_before_it_told_its_epoch_keeps_it(
    store, other, monkeypatch, silent
):
    held, next_one = other.lease("leader", ttl=60), other.lease("leader", ttl=60)
    await held.acquire()
    remove = store._engine.leases.remove

    async def remove_and_wait(*asked):
        holder = await remove(*asked)
        await next_one.acquire()
        return holder

    monkeypatch.setattr(store._engine.leases, "remove", remove_and_wait)
    await store.break_lease("leader")
    next_one.raise_fence()
    await other.collection("raw").put({"id": "a"})
    held.raise_fence()
    with pytest.raises(LeaseLostError):
        await other.collection("raw").put({"id": "b"})
