"""The holder of a lease shows that it lives: who falls silent is replaced after the ttl, and cleaned away later."""

import asyncio
import dataclasses
import gc
import os
import time
from types import SimpleNamespace

import pytest
import statepath
from statepath.engine.leases import Hold, Holder, Leases
from statepath.errors import LeaseHeldError, UnavailableError


@pytest.fixture
def move(monkeypatch):
    """Moves the clock that times to live are measured by."""
    now = [0.0]

    def move(seconds):
        now[0] += seconds

    for module in ("statepath.engine.leases", "statepath.lease"):
        monkeypatch.setattr(f"{module}.clock", lambda: now[0])
    return move


async def test_a_holder_that_gives_no_sign_of_life_is_replaced_after_the_ttl_and_not_before(
    store, other, move, falls_silent
):
    lease = store.lease("leader", ttl=0.4)
    await lease.acquire()
    falls_silent(lease)
    for _ in range(2):
        with pytest.raises(LeaseHeldError):
            await other.lease("leader", wait=0).acquire()
        move(0.3)
    async with asyncio.timeout(60), other.lease("leader", wait=0) as second:
        assert second.epoch > lease.epoch


@pytest.mark.slow
async def test_signs_of_life_keep_it_for_longer_than_the_ttl(store, other, move, lively):
    async with asyncio.timeout(60), store.lease("leader", ttl=60) as lease:
        waiting = asyncio.ensure_future(other.lease("leader", ttl=0.3, wait=200).acquire())
        while not waiting.done():
            seen = lease._hold.etag
            while lease._hold.etag == seen and not waiting.done():  # noqa: ASYNC110 - a sign of life
                await asyncio.sleep(0.01)
            move(20)
        with pytest.raises(LeaseHeldError):
            await waiting
        assert lease.held


async def test_what_a_killed_worker_left_is_given_back_by_clean_a_day_later(
    store, other, monkeypatch, falls_silent
):
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
        assert await store._engine.leases.renew(alive._hold)
    assert [key for key, _ in planned.objects] == ["leases/claim%2fdone"]
    assert len(await store.leases()) == 2
    assert await other.clean() == planned
    assert [holder.name for holder in await store.leases()] == ["claim/alive"]
    assert set(other._engine.replica.members) == {"lease/claim/alive"}
    assert await store._engine.leases.renew(alive._hold)


@pytest.mark.slow
async def test_who_takes_a_silent_lease_while_it_is_cleaned_has_it(store, other, monkeypatch, falls_silent):
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


@pytest.mark.slow
async def test_a_holder_that_gives_a_sign_of_life_while_it_is_cleaned_keeps_its_lease(
    store, other, monkeypatch, falls_silent
):
    monkeypatch.setattr("statepath.engine.cleaning._SILENT", -3600.0)
    monkeypatch.setattr("statepath.engine.cleaning._SHOWS_ITSELF", 0.0)
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


async def test_clean_waits_for_a_sign_of_life_where_clocks_say_that_there_was_none(
    store, other, monkeypatch, falls_silent
):
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


async def test_tries_that_do_not_wait_find_out_that_the_worker_has_died(store, other, until, falls_silent):
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
    async with asyncio.timeout(60), store.lease("leader"):
        pass


async def test_a_sign_of_life_whose_answer_was_lost_is_not_taken_for_somebody_elses(
    faulty, open_on, lively, until
):
    from statepath.errors import UnavailableError

    store = await open_on(faulty)
    async with store.lease("leader", ttl=60) as lease:
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
    async with asyncio.timeout(60):
        await lease.lost.wait()
    assert not lease.held


async def test_a_sign_of_life_that_hangs_is_a_loss_for_the_holder_too(faulty, open_on):
    store = await open_on(faulty)
    lease = store.lease("leader", ttl=0.2)
    await lease.acquire()
    gate = faulty.hold("write", "leases/")
    await gate.reached.wait()
    async with asyncio.timeout(60):
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
    async with asyncio.timeout(60):
        await lease.lost.wait()
    assert len(attempts) == 2


async def test_a_sign_of_life_is_tried_again_before_it_is_too_late(store, move, monkeypatch, until):
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


@pytest.fixture
def stands_still(move, monkeypatch):
    """Lets the event loop stand still for so many seconds behind the first sign of life. The event tells that the next
    one was answered."""

    def stands_still(seconds):
        answered = asyncio.Event()
        rests = [lambda: move(seconds), answered.set]

        class Loop:
            def __getattr__(self, name):
                return getattr(asyncio, name)

            async def sleep(self, _):
                if not rests:
                    await asyncio.Event().wait()
                rests.pop(0)()

        monkeypatch.setattr("statepath.lease.asyncio", Loop())
        return answered

    return stands_still


@pytest.mark.parametrize("seconds", [599.99, 601])
async def test_who_stood_still_for_about_the_ttl_waits_for_an_answer(
    store, stands_still, monkeypatch, seconds
):
    renew = store._engine.leases.renew

    async def slowly(*args, **options):
        await asyncio.sleep(0.1)
        return await renew(*args, **options)

    monkeypatch.setattr(store._engine.leases, "renew", slowly)
    answered = stands_still(seconds)
    async with asyncio.timeout(60), store.lease("leader", ttl=600) as lease:
        await answered.wait()
        assert lease.held


@pytest.mark.parametrize("seconds", [599.99, 601])
async def test_whose_epoch_took_about_the_ttl_to_be_durable_waits_for_an_answer(
    store, move, monkeypatch, seconds
):
    engine, answered = store._engine, asyncio.Event()
    commit, renew = engine.commit, engine.leases.renew

    async def commit_late(changes):
        seq = await commit(changes)
        move(seconds)
        return seq

    async def renew_slowly(*args, **options):
        await asyncio.sleep(0.1)
        held = await renew(*args, **options)
        answered.set()
        return held

    monkeypatch.setattr(engine, "commit", commit_late)
    monkeypatch.setattr(engine.leases, "renew", renew_slowly)
    async with asyncio.timeout(60), store.lease("leader", ttl=600) as lease:
        await answered.wait()
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
        async with asyncio.timeout(60):
            await lease.lost.wait()
    finally:
        gave_up.set()


@pytest.mark.slow
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
    async with asyncio.timeout(60):
        await lease.lost.wait()
        await ended.wait()
    await asyncio.sleep(0)
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_sign_of_life_that_fails_unexpectedly_is_a_loss_that_is_told(store, monkeypatch, caplog):
    async def broken(*_, **__):
        raise RuntimeError("it broke")

    monkeypatch.setattr(store._engine.leases, "renew", broken)
    async with asyncio.timeout(60), store.events.stream("lease:lost") as told:
        async with store.lease("leader", ttl=60) as lease:
            await lease.lost.wait()
            assert not lease.held
        assert (await anext(told)).lease == "leader"
    assert "it broke" in caplog.text
