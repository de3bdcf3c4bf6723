"""Leases: one holder at a time, and what a former holder changes is refused."""

import asyncio
import dataclasses
import gc
import os
import time
from contextlib import AsyncExitStack, aclosing
from types import SimpleNamespace
from uuid import uuid4

import pytest
import statepath
from msgspec import Raw
from statepath.commit import WriteReport
from statepath.engine.leases import Hold, Holder, Leases
from statepath.engine.maintenance import Maintenance
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import (
    InvalidArgumentError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    ReadOnlyError,
    UnavailableError,
)
from statepath.events import LeaseLost, StateSaved


@pytest.fixture
def move(monkeypatch):
    """Moves the clock that times to live are measured by."""
    now = [0.0]

    def move(seconds):
        now[0] += seconds

    for module in ("statepath.engine.leases", "statepath.lease"):
        monkeypatch.setattr(f"{module}.clock", lambda: now[0])
    return move


@pytest.fixture
async def elsewhere():
    """Another store."""
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0) as elsewhere:
        yield elsewhere


@pytest.fixture
async def other(store, url):
    """Another handle, as another process has one."""
    async with statepath.open(url, autosave=0) as other:
        yield other


def falls_silent(lease):
    """The holder gives no sign of life from now on, as if its process was stopped."""
    lease._beats.cancel()


async def until(holds):
    async with asyncio.timeout(30):
        while not await holds():  # noqa: ASYNC110 - what is waited for is somebody else's
            await asyncio.sleep(0.02)


async def has_epochs(store):
    return all(holder.epoch for holder in await store.leases())


async def both_know(*handles):
    return all(handle._engine.vitals.saved[0] for handle in handles)


async def test_one_holds_it_and_the_next_one_gets_it_when_it_is_given_back(store, other):
    order = []

    async def work(handle, name):
        async with handle.lease("leader", ttl=60) as lease:
            order.append((name, lease.held))
            await asyncio.sleep(0.05)
            order.append((name, lease.held))

    async with asyncio.timeout(30):
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


async def test_a_holder_that_gives_no_sign_of_life_is_replaced_after_the_ttl_and_not_before(
    store, other, move
):
    lease = store.lease("leader", ttl=0.4)
    await lease.acquire()
    falls_silent(lease)
    for _ in range(2):
        with pytest.raises(LeaseHeldError):
            await other.lease("leader", wait=0).acquire()
        move(0.3)
    async with asyncio.timeout(30), other.lease("leader", wait=0) as second:
        assert second.epoch > lease.epoch


async def test_signs_of_life_keep_it_for_longer_than_the_ttl(store, other, move):
    async with asyncio.timeout(30), store.lease("leader", ttl=0.3) as lease:
        waiting = asyncio.ensure_future(other.lease("leader", ttl=0.3, wait=1).acquire())
        while not waiting.done():
            seen = lease._hold.etag
            while lease._hold.etag == seen and not waiting.done():  # noqa: ASYNC110 - a sign of life
                await asyncio.sleep(0.01)
            move(0.1)
        with pytest.raises(LeaseHeldError):
            await waiting
        assert lease.held


async def test_what_a_former_holder_changes_is_refused(store, other):
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


async def test_a_holder_finds_out_that_it_has_lost_it(store, other):
    told = []
    store.events.on(LeaseLost, told.append)
    lease = store.lease("leader", ttl=0.3)
    await lease.acquire()
    holder = await other.break_lease("leader")
    assert holder.name == "leader"
    async with asyncio.timeout(30):
        await lease.lost.wait()
    assert not lease.held
    assert [(event.lease, event.epoch) for event in told] == [("leader", lease.epoch)]
    await lease.release()
    async with other.lease("leader", wait=0):
        pass


async def test_a_lease_that_was_lost_can_be_taken_again(store, other):
    lease = store.lease("leader", ttl=0.3)
    await lease.acquire()
    await other.break_lease("leader")
    async with asyncio.timeout(30):
        await lease.lost.wait()
    await lease.release()
    async with lease:
        assert lease.held
    async with other.lease("leader", wait=0):
        pass


@pytest.fixture
def no_signs(store, monkeypatch):
    """No sign of life can be given."""

    async def fail(*args, **options):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(store._engine.leases, "renew", fail)


async def test_a_lease_that_was_lost_to_nobody_is_given_back(store, other, no_signs):
    lease = store.lease("leader", ttl=0.3)
    await lease.acquire()
    async with asyncio.timeout(30):
        await lease.lost.wait()
    await lease.release()
    async with other.lease("leader", wait=0):
        pass


async def test_what_is_changed_behind_a_lease_that_was_lost_to_nobody_is_refused(store, no_signs):
    async with store.lease("leader", ttl=0.3) as lease:
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(10), other.lease("leader"):
            pass
    finally:
        gate.open()
        await closing


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
            async with asyncio.timeout(10):
                assert len(await store.leases()) == 20
        finally:
            all_there.set()


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
        assert caught.value.holder["since"] == now.facts["since"]
        assert await store._engine.leases.renew(lease._hold)
        assert (await other.break_lease("leader", holder=now)).name == "leader"
    assert await store.leases() == []


async def test_breaking_what_nobody_holds_says_so(store):
    with pytest.raises(NotFoundError, match="nobody holds"):
        await store.break_lease("leader")


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


async def test_a_lease_that_is_given_back_while_somebody_tries_to_take_it_is_free(store, other, monkeypatch):
    held, take = other.lease("leader", ttl=60), store._engine.leases.take

    async def take_when_given_back(*args):
        await held.release()
        return await take(*args)

    await held.acquire()
    monkeypatch.setattr(store._engine.leases, "take", take_when_given_back)
    async with store.lease("leader", ttl=60, wait=0) as lease:
        assert lease.epoch > held.epoch


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_lease_that_is_no_longer_waited_for_is_nobodys(
    open_on, faulty, keys, monkeypatch, cancellations
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


async def test_a_maintainer_that_is_cancelled_where_it_ends_is_none(faulty):
    maintenance = Maintenance(Leases(faulty), ttl=600, alone=False)
    assert await maintenance.attempt()
    gate = faulty.hold("delete", "leases/")
    releasing = asyncio.ensure_future(maintenance.release())
    await gate.reached.wait()
    for _ in range(2):
        releasing.cancel()
        await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.wait([releasing])
    await until(Maintenance(Leases(faulty), ttl=600, alone=False).attempt)


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


async def test_a_release_that_is_cancelled_gives_the_lease_back(store, other, slow_commits):
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
    async with asyncio.timeout(20):
        await asyncio.wait([taking])
    assert taking.cancelled()


async def test_leases_are_listed_with_their_holders(store, other):
    async with store.lease("leader", ttl=5) as lease, other.claim("task_1"):
        await until(lambda: has_epochs(other))
        holders = await other.leases()
    assert [holder.name for holder in holders] == ["claim/task_1", "leader"]
    assert holders[1].epoch == lease.epoch
    assert await store.leases() == []


async def test_a_task_is_claimed_by_one_worker_at_a_time(store, other):
    async with store.claim("task/1"):
        with pytest.raises(LeaseHeldError):
            await other.claim("task/1").acquire()
        async with other.claim("task/2"):
            pass
    async with other.claim("task/1"):
        pass


async def test_what_a_killed_worker_left_is_given_back_by_clean_a_day_later(store, other, monkeypatch):
    killed, alive = store.claim("done", ttl=0.01), store.claim("alive", ttl=60)
    await killed.acquire()
    falls_silent(killed)
    await asyncio.sleep(0.05)
    await alive.acquire()
    assert (await other.clean()).objects == ()
    monkeypatch.setattr("statepath.engine.cleaning._SILENT", 0.0)
    for _ in range(600):
        planned = await other.clean(dry_run=True)
        if planned.objects:
            break
        await asyncio.sleep(0.05)  # some storages tell times in whole seconds
    assert [key for key, _ in planned.objects] == ["leases/claim%2fdone"]
    assert len(await store.leases()) == 2
    assert await other.clean() == planned
    assert [holder.name for holder in await store.leases()] == ["claim/alive"]
    assert set(other._engine.replica.members) == {"lease/claim/alive"}
    assert await store._engine.leases.renew(alive._hold)


async def test_who_takes_a_silent_lease_while_it_is_cleaned_has_it(store, other, monkeypatch):
    first, second = store.claim("task_1", ttl=0.01), store.claim("task_1", ttl=60, wait=None)
    await first.acquire()
    falls_silent(first)
    monkeypatch.setattr("statepath.engine.cleaning._SILENT", 0.0)
    look = other._engine.leases.silent

    async def taken_meanwhile(seconds):
        found = await look(seconds)
        await second.acquire()
        await other.sync()
        return found

    monkeypatch.setattr(other._engine.leases, "silent", taken_meanwhile)
    await asyncio.sleep(0.05)
    async with other.lease("later"):
        await other.clean()
    assert await store._engine.leases.renew(second._hold)
    assert other._engine.replica.members["lease/claim/task_1"].version == second.epoch


async def test_a_holder_that_gives_a_sign_of_life_while_it_is_cleaned_keeps_its_lease(
    store, other, monkeypatch
):
    monkeypatch.setattr("statepath.engine.cleaning._SILENT", -3600.0)
    look = other._engine.leases.silent
    async with store.lease("leader", ttl=60) as lease:
        falls_silent(lease)

        async def gives_a_sign_meanwhile(seconds):
            found = await look(seconds)
            assert await store._engine.leases.renew(lease._hold)
            return found

        monkeypatch.setattr(other._engine.leases, "silent", gives_a_sign_meanwhile)
        assert (await other.clean()).objects == ()
        await store.collection("raw").put({"id": "a"})
        assert await store._engine.leases.renew(lease._hold)


async def test_clean_waits_for_a_sign_of_life_where_clocks_say_that_there_was_none(store, other, monkeypatch):
    monkeypatch.setattr("statepath.engine.cleaning._SILENT", -3600.0)
    async with store.lease("leader", ttl=0.9) as lease:
        falls_silent(lease)

        async def gives_a_sign_meanwhile(seconds):
            assert seconds == 0.9
            assert await store._engine.leases.renew(lease._hold)

        clock = SimpleNamespace(sleep=gives_a_sign_meanwhile)
        monkeypatch.setattr("statepath.engine.cleaning.asyncio", clock)
        assert (await other.clean()).objects == ()
        assert await store._engine.leases.renew(lease._hold)


async def test_a_time_to_come_makes_no_holder_silent(tmp_path, monkeypatch):
    """As that of a snapshot that was written, or copied, while the clock was ahead."""
    monkeypatch.setattr("statepath.engine.cleaning._SHOWS_ITSELF", 0.0)
    async with statepath.open(tmp_path) as store, store.lease("leader", ttl=60):
        await store.snapshot()
        ahead = time.time() + 3 * 24 * 3600
        os.utime(tmp_path / "state.json", (ahead, ahead))
        assert (await store.clean()).objects == ()
        await store.collection("raw").put({"id": "a"})


async def test_a_task_of_any_id_can_be_claimed(store, other):
    async with store.claim("ü" * 100):
        with pytest.raises(LeaseHeldError):
            await other.claim("ü" * 100).acquire()


async def test_tries_that_do_not_wait_find_out_that_the_worker_has_died(store, other):
    claim = store.claim("task_1", ttl=0.2)
    await claim.acquire()
    falls_silent(claim)

    async def taken():
        try:
            async with other.claim("task_1", ttl=0.2) as second:
                return second.epoch > claim.epoch
        except LeaseHeldError:
            return False

    await until(taken)


async def test_a_lease_that_nobody_asks_for_any_more_is_forgotten_where_there_are_many(
    store, move, monkeypatch
):
    monkeypatch.setattr("statepath.engine.leases._MANY", 2)
    holding, asking = Leases(store._engine.backend), Leases(store._engine.backend)
    for name in "abcd":
        await holding.take(name, 86400)
        assert isinstance(await asking.take(name, 86400), Holder)
    assert sorted(asking._observed) == [f"leases/{name}" for name in "abcd"]
    move(7200)
    await asking.take("d", 86400)
    assert sorted(asking._observed) == ["leases/c", "leases/d"]


async def test_of_many_dead_holders_each_is_replaced_after_its_ttl(store, move, monkeypatch):
    monkeypatch.setattr("statepath.engine.leases._MANY", 2)
    holding, asking = Leases(store._engine.backend), Leases(store._engine.backend)
    for name in "abcd":
        await holding.take(name, 60)
        assert isinstance(await asking.take(name, 60), Holder)
    move(61)
    assert [type(await asking.take(name, 60)) for name in "abcd"] == [Hold] * 4


async def test_an_object_that_nobody_understands_is_taken_over_in_the_end(store, memory, monkeypatch):
    await memory.write("leases/leader", b"{")
    monkeypatch.setattr("statepath.engine.leases._UNKNOWN_TTL", 0.1)
    async with asyncio.timeout(30), store.lease("leader"):
        pass


async def test_a_sign_of_life_whose_answer_was_lost_is_not_taken_for_somebody_elses(faulty, open_on, move):
    from statepath.errors import UnavailableError

    store = await open_on(faulty)
    async with store.lease("leader", ttl=0.3) as lease:
        fault = faulty.fail("write", "leases/", UnavailableError("reset"), applied=True)

        async def over():
            return (fault.times == 0 and not lease._hold.sent) or lease.lost.is_set()

        await until(over)
        assert lease.held
        await store.collection("raw").put({"id": "a"})


async def test_a_sign_of_life_that_arrived_after_it_was_stopped_does_not_keep_the_lease(store):
    lease = store.lease("leader", ttl=60)
    await lease.acquire()
    lease._beats.cancel()
    stopped = dataclasses.replace(lease._hold)
    assert await store._engine.leases.renew(stopped)
    await lease.release()
    assert await store.leases() == []


async def test_no_sign_of_life_for_the_ttl_is_a_loss_for_the_holder_too(faulty, open_on):
    from statepath.errors import UnavailableError

    store = await open_on(faulty)
    lease = store.lease("leader", ttl=0.2)
    await lease.acquire()
    faulty.fail("write", "leases/", UnavailableError("reset"), times=1000)
    async with asyncio.timeout(30):
        await lease.lost.wait()
    assert not lease.held


async def test_a_sign_of_life_that_hangs_is_a_loss_for_the_holder_too(faulty, open_on):
    store = await open_on(faulty)
    lease = store.lease("leader", ttl=0.2)
    await lease.acquire()
    gate = faulty.hold("write", "leases/")
    await gate.reached.wait()
    async with asyncio.timeout(30):
        await lease.lost.wait()
    assert not lease.held


async def test_an_attempt_that_begins_late_is_a_loss_no_later_than_any(store, move, monkeypatch):
    """Behind one that failed there is less time left than between two signs of life."""
    attempts = []

    async def fail_and_hang(*_, **__):
        attempts.append(None)
        if len(attempts) > 1:
            await asyncio.Event().wait()
        move(599.9)
        raise UnavailableError("no answer")

    monkeypatch.setattr(store._engine.leases, "renew", fail_and_hang)
    lease = store.lease("leader", ttl=600)
    await lease.acquire()
    async with asyncio.timeout(30):
        await lease.lost.wait()
    assert len(attempts) == 2


async def test_a_sign_of_life_is_tried_again_before_it_is_too_late(store, move, monkeypatch):
    renew, failed = store._engine.leases.renew, []

    async def fail_once(*args, **options):
        if not failed:
            failed.append(move(599.9))
            raise UnavailableError("no answer")
        return await renew(*args, **options)

    monkeypatch.setattr(store._engine.leases, "renew", fail_once)
    async with store.lease("leader", ttl=600) as lease:

        async def has_its_ttl_again():
            return failed and lease._hold.left > 1

        await until(has_its_ttl_again)
        assert lease.held


async def test_a_sign_of_life_that_takes_long_to_give_up_is_a_loss_in_time(store, monkeypatch):
    gave_up = asyncio.Event()

    async def lingering(*_, **__):
        try:
            await asyncio.Event().wait()
        finally:
            await gave_up.wait()

    monkeypatch.setattr(store._engine.leases, "renew", lingering)
    lease = store.lease("leader", ttl=0.2)
    await lease.acquire()
    try:
        async with asyncio.timeout(30):
            await lease.lost.wait()
    finally:
        gave_up.set()


async def test_how_a_sign_of_life_ends_that_was_given_up_is_no_error_of_anybodys(store, monkeypatch, caplog):
    ended = asyncio.Event()

    async def fail_when_given_up(*_, **__):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise UnavailableError("no answer") from None
        finally:
            ended.set()

    monkeypatch.setattr(store._engine.leases, "renew", fail_when_given_up)
    lease = store.lease("leader", ttl=0.2)
    await lease.acquire()
    async with asyncio.timeout(30):
        await lease.lost.wait()
        await ended.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_sign_of_life_that_fails_unexpectedly_is_a_loss_that_is_told(store, monkeypatch, caplog):
    async def broken(*_, **__):
        raise RuntimeError("it broke")

    monkeypatch.setattr(store._engine.leases, "renew", broken)
    async with asyncio.timeout(30), store.events.stream("lease:lost") as told:
        async with store.lease("leader", ttl=60) as lease:
            await lease.lost.wait()
            assert not lease.held
        assert (await anext(told)).lease == "leader"
    assert "it broke" in caplog.text


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


async def test_who_is_broken_after_another_has_taken_it_loses_its_epoch(store, other, monkeypatch):
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


async def test_who_is_broken_right_after_it_has_taken_it_loses_its_epoch(store, other, monkeypatch):
    """Its epoch was committed between the look and the breaking, and no sign of life has told it."""

    async def silent(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(other._engine.leases, "renew", silent)
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


async def test_who_finds_out_that_it_has_lost_its_lease_ends_no_epoch_but_its_own(store, other):
    async with store.lease("leader", ttl=60) as lease:
        await other.break_lease("leader")
        async with other.lease("leader", ttl=60):
            assert not await store._engine.leases.renew(lease._hold)
            falls_silent(lease)
            await asyncio.wait([lease._beats])
            await lease._beat(lease._hold)
            await other.collection("raw").put({"id": "a"})


async def test_a_lease_is_broken_to_the_end_though_the_log_cannot_be_read_then(store, other, monkeypatch):
    async def silent(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(other._engine.leases, "renew", silent)
    remove = store._engine.leases.remove

    async def cannot_be_read():
        raise UnavailableError("the storage does not answer")

    async def remove_at_last(*asked):
        monkeypatch.setattr(store._engine, "catch_up", cannot_be_read)
        return await remove(*asked)

    monkeypatch.setattr(store._engine.leases, "remove", remove_at_last)
    async with other.lease("leader", ttl=60):
        await store.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_a_lease_is_broken_to_the_end_though_that_is_cancelled(store, other, monkeypatch):
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


async def test_breaking_a_lease_again_ends_what_was_left_half_done(store, other):
    async with other.lease("leader", ttl=60) as lease:
        falls_silent(lease)
        await store._engine.leases.remove("leader")
        with pytest.raises(NotFoundError):
            await store.break_lease("leader")
        with pytest.raises(LeaseLostError):
            await other.collection("raw").put({"id": "a"})


async def test_who_takes_a_lease_that_was_broken_before_it_told_its_epoch_keeps_it(store, other, monkeypatch):
    async def silent(*_, **__):
        await asyncio.Event().wait()

    monkeypatch.setattr(other._engine.leases, "renew", silent)
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


@pytest.mark.parametrize("name", ["maintainer", "", "x" * 181, "a\0b"])
async def test_a_name_that_cannot_be_used_is_refused(store, name):
    with pytest.raises(InvalidArgumentError):
        store.lease(name)


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "5", True, None])
async def test_a_time_to_live_is_above_zero(store, ttl):
    with pytest.raises(InvalidArgumentError, match="time to live"):
        store.lease("leader", ttl=ttl)


@pytest.mark.parametrize("wait", [float("nan"), "5", True])
async def test_how_long_to_wait_is_a_number(store, wait):
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


async def test_a_restore_leaves_leases_as_they_are(store, other):
    lease = store.lease("leader", ttl=0.2)
    before = await store.collection("raw").put({"id": "a", "n": 0})
    await lease.acquire()
    then = await store.collection("raw").put({"id": "a", "n": 1})
    falls_silent(lease)
    raw = other.collection("raw")
    async with asyncio.timeout(30), other.lease("leader", ttl=60):
        for seq, n in ((then, 1), (before, 0)):
            await raw.put({"id": "a", "n": 9})
            await other.restore(at=seq)
            assert await raw.get("a") == {"id": "a", "n": n}
        await raw.put({"id": "b"})


async def test_a_member_of_the_name_of_a_lease_cannot_be_put(store):
    with pytest.raises(InvalidArgumentError):
        async with store.transaction() as tx:
            tx.put_member("lease/leader", {})


async def test_the_maintainer_saves_and_the_other_learns_of_it(url):
    async with statepath.open(url, autosave=0.1) as one, statepath.open(url, autosave=0.1) as two:
        for n in range(6):
            for handle in (one, two):
                await handle.collection("raw").put({"id": str(n), "by": handle is one})
            await asyncio.sleep(0.1)
        await until(lambda: both_know(one, two))
        maintainers = [handle._engine._maintenance.ours for handle in (one, two)]
        assert sorted(maintainers) == [False, True]
        written = [handle._engine.vitals.saved[1] is not None for handle in (one, two)]
        assert written == maintainers
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.leases() == []
        assert await reader.verify() == []


async def test_two_who_believe_to_be_the_maintainer_do_no_harm(url, keys):
    async with statepath.open(url, autosave=0) as one, statepath.open(url, autosave=0) as two:
        for handle in (one, two):
            handle._engine._maintenance._alone = True
        for n in range(4):
            for handle in (one, two):
                await handle.collection("raw").put({"id": f"{n}"})
                await handle.append_log("s", f"{n}\n")
                await handle.save_report("r", {"n": n, "by": handle is one})
            await asyncio.gather(one.snapshot(), two.snapshot(), return_exceptions=True)
    assert [key for key in await keys("state.") if "conflict" in key] == []
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.read_log("s") == "".join(f"{n}\n{n}\n" for n in range(4))
        assert await reader.read_report("r") == {"n": 3, "by": False}
        assert await reader.verify() == []


async def test_an_earlier_report_never_replaces_a_later_one(store, other, monkeypatch):
    """The first one's file is about to be written when another handle has saved a second one, and written it."""
    held, go_on = asyncio.Event(), asyncio.Event()
    stored = store._engine.views._view_files._stored

    async def slowly(key):
        found = await stored(key)
        if not held.is_set():
            held.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store._engine.views._view_files, "_stored", slowly)
    first = asyncio.ensure_future(store.save_report("r", 1))
    await held.wait()
    await other.save_report("r", 2)
    go_on.set()
    await first
    await store.flush()
    assert await other.read_report("r") == 2


async def test_the_file_of_a_report_shows_a_later_one_that_its_writer_has_not_written(
    store, other, memory, monkeypatch
):
    async def later():
        monkeypatch.setattr(store._engine.views._view_files, "_catch_up", catch_up)
        await other._engine.commit([WriteReport("r", Raw(b"2"))])
        await catch_up()

    async def never(*_):
        await asyncio.Event().wait()

    catch_up = store._engine.views._view_files._catch_up
    monkeypatch.setattr(store._engine.views._view_files, "_catch_up", later)
    monkeypatch.setattr(other._engine.views._view_files, "write", never)
    await store.save_report("r", 1)
    assert (await memory.read("reports/r.json")).data == b"2\n"
    await other._engine.release()


async def test_what_was_left_to_others_does_not_replace_a_later_report(store, other):
    await other.save_report("r", 1)
    await store.sync()
    await store.save_report("r", 2)
    await store.flush()
    assert await store.read_report("r") == 2


async def test_what_a_writer_left_when_it_died_is_in_the_next_snapshot_of_another(
    store, url, other, monkeypatch
):
    async def nothing(*_):
        return None

    monkeypatch.setattr(store._engine.views._view_files, "write", nothing)
    await store.append_log("s", "only in the log\n")
    await store._engine.release()
    await other.sync()
    await other.snapshot()
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.read_log("s") == "only in the log\n"


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
    async with asyncio.timeout(30):
        assert not isinstance(await outcome, LeaseLostError)
