"""A lease that is given back, or that nobody waits for any more, is free, whatever is cancelled meanwhile."""

import asyncio

import pytest
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import LeaseLostError, UnavailableError

LOST = UnavailableError("the connection was reset")


@pytest.fixture
def no_signs(store, monkeypatch):
    """No sign of life can be given."""

    async def fail(*args, **options):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(store._engine.leases, "renew", fail)


async def test_a_lease_that_was_lost_to_nobody_is_given_back(store, other, no_signs):
    lease = store.lease("leader", ttl=0.3)
    await lease.acquire()
    async with asyncio.timeout(60):
        await lease.lost.wait()
    await lease.release()
    async with other.lease("leader", wait=0):
        pass


async def test_what_is_changed_behind_a_lease_that_was_lost_to_nobody_is_refused(store, no_signs):
    async with store.lease("leader", ttl=0.3) as lease:
        async with asyncio.timeout(60):
            await lease.lost.wait()
        outlasts = asyncio.Event()

        async def put():
            await outlasts.wait()
            await store.collection("raw").put({"id": "late"})

        late = asyncio.create_task(put())
    outlasts.set()
    with pytest.raises(LeaseLostError):
        await late
    assert store._engine.get(MEMBERS, f"{LEASE_MEMBERS}leader") is None


async def test_who_ends_while_the_store_is_closing_gives_the_lease_back(faulty, open_on, other):
    store = await open_on(faulty)
    lease = store.lease("leader", ttl=600)
    await lease.acquire()
    await store.collection("raw").put({"id": "a"})
    gate = faulty.hold("write", "state.json")
    closing = asyncio.ensure_future(store.aclose())
    await gate.reached.wait()
    try:
        await lease.release()
        async with asyncio.timeout(60), other.lease("leader"):
            pass
    finally:
        gate.open()
        await closing


async def test_what_is_left_in_the_state_of_a_lease_that_was_given_back_so_is_cleaned_away(
    faulty, open_on, other
):
    store = await open_on(faulty)
    given_back, held = store.lease("given back", ttl=600), other.lease("held", ttl=600)
    await given_back.acquire()
    await held.acquire()
    gate = faulty.hold("write", "state.json")
    closing = asyncio.ensure_future(store.aclose())
    await gate.reached.wait()
    await given_back.release()
    gate.open()
    await closing
    members = other._engine.replica.members
    assert set(members) == {f"{LEASE_MEMBERS}{name}" for name in ("given back", "held")}
    for dry_run in (True, False):
        cleaned = await other.clean(dry_run=dry_run)
        assert [key for key, _ in cleaned.objects] == ["leases/given%20back"]
    assert set(members) == {f"{LEASE_MEMBERS}held"}
    assert (await other.clean()).objects == ()


async def test_no_lease_that_is_held_is_asked_for_to_clean_up_behind_the_others(store, other, monkeypatch):
    asked = []

    async def read(key):
        asked.append(key)

    for name in ("mine", "another"):
        await store.claim(name, ttl=60).acquire()
    await other.sync()
    monkeypatch.setattr(other._engine.leases, "_read", read)
    assert (await other.clean()).objects == ()
    assert asked == []


async def test_a_lease_that_a_listing_lacks_is_nobodys_to_clean_away(store, other, monkeypatch):
    backend = other._engine.leases._backend
    list_keys = backend.list_keys

    async def lagging(prefix, **options):
        async for entry in list_keys(prefix, **options):
            if not entry.key.startswith("leases/"):
                yield entry

    async with store.lease("leader", ttl=60):
        monkeypatch.setattr(backend, "list_keys", lagging)
        assert (await other.clean()).objects == ()
        await store.sync()
        await store.collection("raw").put({"id": "a"})


async def test_a_lease_that_is_given_back_while_somebody_tries_to_take_it_is_free(store, other, monkeypatch):
    held, take = other.lease("leader", ttl=60), store._engine.leases.take

    async def take_when_given_back(*args):
        await held.release()
        return await take(*args)

    await held.acquire()
    monkeypatch.setattr(store._engine.leases, "take", take_when_given_back)
    async with store.lease("leader", ttl=60, wait=0) as lease:
        assert lease.epoch > held.epoch


async def test_a_lease_is_held_though_the_answer_to_taking_it_was_lost(faulty, open_on):
    store = await open_on(faulty)
    faulty.fail("write", "leases/leader", LOST, applied=True)
    async with store.lease("leader", ttl=600, wait=0) as lease:
        assert lease.held


async def test_taking_a_lease_that_nobody_has_fails_where_nothing_arrived(faulty, open_on):
    store = await open_on(faulty)
    faulty.fail("write", "leases/leader", LOST)
    with pytest.raises(UnavailableError, match="reset"):
        await store.lease("leader", ttl=600, wait=0).acquire()
    async with store.lease("leader", ttl=600, wait=0) as lease:
        assert lease.held


@pytest.mark.parametrize("applied", [False, True])
async def test_a_lease_is_given_back_though_no_answer_comes_at_first(faulty, open_on, other, applied):
    store = await open_on(faulty)
    async with store.lease("leader", ttl=600):
        faulty.fail("delete", "leases/leader", LOST, applied=applied)
    async with other.lease("leader", wait=0) as lease:
        assert lease.held


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_lease_that_is_no_longer_waited_for_is_nobodys(
    open_on, faulty, keys, monkeypatch, cancellations, until
):
    write, arrived, answer = faulty.write, asyncio.Event(), asyncio.Event()

    async def late(key, data, **options):
        etag = await write(key, data, **options)
        if key.startswith("leases/"):
            arrived.set()
            await answer.wait()
        return etag

    store = await open_on(faulty)
    monkeypatch.setattr(faulty, "write", late)
    taking = asyncio.ensure_future(store.lease("leader").acquire())
    await arrived.wait()
    for _ in range(cancellations):
        taking.cancel()
        await asyncio.sleep(0)
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await taking

    async def are_gone():
        return await keys("leases/") == []

    await until(are_gone)


async def test_a_lease_that_is_no_longer_waited_for_is_nobodys_however_often_that_is_said(
    open_on, faulty, other, monkeypatch
):
    store = await open_on(faulty)
    gate = faulty.hold("delete", "leases/")
    begun = asyncio.Event()

    async def never(*args):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store._engine, "commit", never)
    taking = asyncio.ensure_future(store.lease("leader", ttl=600).acquire())
    await begun.wait()
    taking.cancel()
    await gate.reached.wait()
    taking.cancel()
    await asyncio.wait([taking])
    gate.opened.set()
    async with asyncio.timeout(60), other.lease("leader"):
        pass


async def test_a_lease_that_is_no_longer_waited_for_leaves_no_epoch(open_on, faulty, keys, until):
    store = await open_on(faulty)
    gate = faulty.hold("write", "journal/0")
    taking = asyncio.ensure_future(store.lease("leader", ttl=600).acquire())
    await gate.reached.wait()
    taking.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await taking

    async def has_ended():
        return store.seq == 2 and store._engine.get(MEMBERS, f"{LEASE_MEMBERS}leader") is None

    await until(has_ended)
    assert await keys("leases/") == []


@pytest.fixture
def slow_commits(store, monkeypatch):
    """From when it is called on commits wait: the first event tells that one has come, the second lets all go on."""

    def begin():
        begun, go_on = asyncio.Event(), asyncio.Event()
        commit = store._engine.commit

        async def slowly(*args):
            begun.set()
            await go_on.wait()
            return await commit(*args)

        monkeypatch.setattr(store._engine, "commit", slowly)
        return begun, go_on

    return begin


async def test_a_release_that_is_cancelled_twice_gives_the_lease_back(store, other, slow_commits):
    lease = store.lease("leader", ttl=600)
    await lease.acquire()
    begun, go_on = slow_commits()
    releasing = asyncio.create_task(lease.release())
    await begun.wait()
    for _ in range(2):
        releasing.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await releasing
    go_on.set()
    async with asyncio.timeout(60), other.lease("leader"):
        pass


async def test_a_release_that_is_cancelled_gives_the_lease_back(store, other, slow_commits, monkeypatch):
    monkeypatch.setattr("statepath.engine.leases.GIVING_BACK", 60)
    lease = store.lease("leader", ttl=60)
    await lease.acquire()
    begun, go_on = slow_commits()
    releasing = asyncio.create_task(lease.release())
    await begun.wait()
    releasing.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await releasing
    async with other.lease("leader", wait=0):
        pass


async def test_a_storage_that_does_not_answer_holds_up_who_stops_waiting_for_a_moment_only(
    open_on, faulty, monkeypatch
):
    monkeypatch.setattr("statepath.engine.leases.GIVING_BACK", 0.05)
    store = await open_on(faulty)
    gate = faulty.hold("write", "leases/")
    taking = asyncio.ensure_future(store.lease("leader").acquire())
    await gate.reached.wait()
    taking.cancel()
    async with asyncio.timeout(60):
        await asyncio.wait([taking])
    assert taking.cancelled()
