"""When the storage fails: nothing half-written, everyone told, and the store goes on where it can."""

import asyncio
import pickle
from contextlib import suppress
from dataclasses import replace

import pytest
import statepath
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.events import BackupError, SaveError

DISK_FULL = UnavailableError("there is no space left", code="disk_full")
LOST = UnavailableError("the connection was reset")


@pytest.fixture
async def store(request, open_on, faulty):
    return await open_on(faulty, **getattr(request, "param", {}))


insists_briefly = pytest.mark.parametrize("store", [{"deadline": 1.0}], indirect=True, ids=["briefly"])


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def stored(url):
    """What another process would find."""
    async with statepath.open(url, readonly=True) as reader:
        return {document["id"]: document async for document in reader.collection("raw")}


async def test_a_full_disk_fails_the_save_and_later_ones_succeed(raw, faulty, url):
    await raw.put({"id": "a"})
    faulty.fail("write", "journal/0", DISK_FULL)
    with pytest.raises(UnavailableError, match="no space left") as caught:
        await raw.put({"id": "b"})
    assert caught.value.code == "disk_full"
    assert await raw.get("b") is None
    assert await raw.put({"id": "c"}) == 2
    assert set(await stored(url)) == {"a", "c"}


@pytest.mark.slow
async def test_a_storage_that_throttles_all_the_time_took_nothing_and_saves_go_on(open_on, faulty):
    faulty.capabilities = replace(faulty.capabilities, remote=True)
    store = await open_on(faulty, deadline=0.5)
    throttling = faulty.fail("write", "journal/0", ThrottledError("slow down"), times=1_000_000)
    with pytest.raises(UnavailableError, match="nothing was written"):
        await store.collection("raw").put({"id": "a"})
    throttling.times = 0
    await store.collection("raw").put({"id": "b"})
    assert [document["id"] async for document in store.collection("raw")] == ["b"]


async def test_a_full_disk_fails_every_save_of_the_group(raw, faulty):
    faulty.fail("write", "journal/0", DISK_FULL)
    outcomes = await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(5)), return_exceptions=True)
    assert [outcome.code for outcome in outcomes] == ["disk_full"] * 5
    assert len({id(outcome) for outcome in outcomes}) == 5  # each waiter raises an error of its own
    assert await raw.count() == 0


async def test_a_body_that_cannot_be_written_fails_its_transaction(store, raw, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 1000)
    faulty.fail("write", "bodies/", DISK_FULL)
    with pytest.raises(UnavailableError):
        async with store.transaction() as tx:
            tx.put(raw, {"id": "a", "x": "x" * 2000})
    assert await raw.put({"id": "b"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("store", [{"deadline": 1}], indirect=True, ids=["briefly"])
async def test_a_body_that_is_never_answered_fails_its_transaction_and_no_later_one(
    store, raw, faulty, monkeypatch
):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 1000)
    faulty.hold("write", "bodies/")
    with pytest.raises(UnavailableError, match="nothing was written"):
        await raw.put({"id": "a", "x": "x" * 1000})
    assert await raw.put({"id": "b", "x": "x" * 1000}) == 1
    assert await raw.put({"id": "c"}) == 2
    assert await raw.get("a") is None


async def test_a_refusal_of_the_storage_reaches_every_waiter_and_nothing_else(raw, faulty):
    faulty.fail("write", "journal/0", AccessDeniedError("the credentials have expired"))
    outcomes = await asyncio.gather(raw.put({"id": "a"}), raw.put({"id": "b"}), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [AccessDeniedError] * 2
    assert await raw.put({"id": "c"}) == 1


@pytest.mark.parametrize("applied", [True, False])
async def test_an_ambiguous_write_is_resent_until_it_is_known(raw, faulty, commits, applied):
    fault = faulty.fail("write", "journal/0", LOST, times=2, applied=applied)
    assert await raw.put({"id": "a"}) == 1
    assert fault.times == 0
    assert len(await commits()) == 1
    assert await raw.put({"id": "b"}) == 2


async def test_an_ambiguous_write_that_another_writer_won_is_repeated_behind_it(raw, faulty, url):
    async with statepath.open(url) as other:
        faulty.fail("write", "journal/0", LOST)
        saving = asyncio.ensure_future(raw.put({"id": "ours"}))
        await asyncio.sleep(0)
        await other.collection("raw").put({"id": "theirs"})
        await saving
    assert set(await stored(url)) == {"ours", "theirs"}


@insists_briefly
async def test_what_stays_unknown_past_the_deadline_stops_the_handle(store, raw, faulty):
    told = []
    store.events.on(SaveError, told.append)
    faulty.fail("write", "journal/0", LOST, times=10**6)
    outcomes = await asyncio.gather(raw.put({"id": "a"}), raw.put({"id": "b"}), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 2
    assert [type(event.error) for event in told] == [OutcomeUnknownError]
    health = await store.health()
    assert (health.healthy, health.writable) == (False, False)
    assert "could not be found out" in health.problems[0]


@insists_briefly
async def test_a_stopped_handle_takes_no_further_saves_and_still_reads(store, raw, faulty, url):
    await raw.put({"id": "before"})
    faulty.fail("write", "journal/0", LOST, applied=True)
    fault = faulty.fail("write", "journal/0", LOST, times=10**6)
    with pytest.raises(OutcomeUnknownError):
        await raw.put({"id": "unknown"})
    fault.times = 0
    with pytest.raises(OutcomeUnknownError):
        await raw.put({"id": "later"})
    with pytest.raises(OutcomeUnknownError):
        await raw.delete("before")
    assert await raw.get("before") == {"id": "before"}
    assert await raw.get("unknown") is None
    await store.aclose()
    async with statepath.open(url) as again:
        assert await again.collection("raw").put({"id": "later"}) == 3
    assert set(await stored(url)) == {"before", "unknown", "later"}


@insists_briefly
async def test_what_waited_behind_an_unknown_outcome_fails_too(raw, faulty):
    faulty.fail("write", "journal/0", LOST, times=10**6)
    gate = faulty.hold("write", "journal/0")
    faulty._faults.reverse()
    first = asyncio.ensure_future(raw.put({"id": "a"}))
    await gate.reached.wait()
    second = asyncio.ensure_future(raw.put({"id": "b"}))
    await asyncio.sleep(0)
    gate.open()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 2


async def test_nobody_is_told_of_a_change_that_does_not_become_durable(raw, faulty):
    """A conflict with, or the deletion of, what stands in the same group holds only if the group does."""
    await raw.put({"id": "a"})
    faulty.fail("write", "journal/0", DISK_FULL)
    outcomes = await asyncio.gather(
        raw.create({"id": "b"}),
        raw.create({"id": "b"}),
        raw.delete("a"),
        raw.delete("a"),
        return_exceptions=True,
    )
    assert [getattr(outcome, "code", outcome) for outcome in outcomes] == ["disk_full"] * 4
    assert (await raw.get("a"), await raw.get("b")) == ({"id": "a"}, None)


async def test_a_conflict_within_a_group_is_told_once_the_group_is_durable(raw, faulty):
    gate = faulty.hold("write", "journal/0")
    first = asyncio.ensure_future(raw.create({"id": "a"}))
    second = asyncio.ensure_future(raw.create({"id": "a"}))
    await gate.reached.wait()
    await asyncio.sleep(0)
    assert not second.done()
    gate.open()
    assert await first == 1
    with pytest.raises(AlreadyExistsError):
        await second


async def test_a_conflict_with_what_lost_the_race_is_no_conflict(raw, faulty, url):
    async with statepath.open(url) as other:
        theirs = other.collection("raw")
        await raw.put({"id": "a"})
        gate = faulty.hold("write", "journal/0")
        ours = [asyncio.ensure_future(raw.delete("a", if_version=1)), asyncio.ensure_future(raw.delete("a"))]
        await gate.reached.wait()
        await theirs.put({"id": "a", "theirs": True})
        gate.open()
        outcomes = await asyncio.gather(*ours, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConflictError, bool]
    assert outcomes[1] is True


async def test_an_unexpected_error_stops_the_handle_and_it_can_be_closed(store, raw, faulty, url):
    async with statepath.open(url) as other:
        await other.collection("raw").put({"id": "theirs"})
    faulty.fail("read", "journal/0", ZeroDivisionError("a bug in a backend"))
    with pytest.raises(OutcomeUnknownError, match="ZeroDivisionError"):
        await raw.put({"id": "ours"})
    with pytest.raises(OutcomeUnknownError):
        await raw.put({"id": "ours"})
    await store.aclose()
    assert faulty.closed


async def test_a_commit_that_is_damaged_meanwhile_fails_the_save_that_has_to_read_it(raw, url, memory, keys):
    async with statepath.open(url) as other:
        await other.collection("raw").put({"id": "theirs"})
    (slot,) = [key for key in await keys("journal/") if key.endswith(".jsonl")]
    await memory.write(slot, b"garbage\n")
    with pytest.raises(CorruptionError):
        await raw.put({"id": "ours"})


async def test_a_view_that_cannot_be_written_is_told_and_written_later(open_on, faulty, memory, monkeypatch):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0)
    store = await open_on(faulty, views=True, view_interval=0)
    told = []
    store.events.on(SaveError, told.append)
    faulty.fail("write", "tasks/", DISK_FULL)
    assert await store.collection("tasks").put({"id": "a"}) == 1
    with pytest.raises(UnavailableError):
        await store.flush()
    await store.flush()
    assert b'"id": "a"' in (await memory.read("tasks/a.json")).data
    assert told == [SaveError(DISK_FULL)]


async def test_more_views_than_are_written_at_once_that_cannot_be_are_in_no_others_way(
    open_on, faulty, memory, monkeypatch
):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0)
    store = await open_on(faulty, views=True, view_interval=0)
    faulty.fail("write", "sessions/", DISK_FULL, times=10_000)
    async with store.transaction() as tx:
        for id in range(300):
            tx.put(store.collection("sessions"), {"id": f"{id}"})
    await store.collection("tasks").put({"id": "a"})
    while not [entry async for entry in memory.list_keys("tasks/")]:
        with pytest.raises(UnavailableError):
            await store.flush()


async def test_what_could_not_be_written_is_written_in_the_end(open_on, faulty, memory, monkeypatch):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0)
    store = await open_on(faulty, views=True, view_interval=0)
    faulty.fail("write", "tasks/", DISK_FULL, times=100)
    async with store.transaction() as tx:
        for id in range(600):
            tx.put(store.collection("tasks"), {"id": f"{id}"})
    while True:
        with suppress(UnavailableError):
            await store.flush()
            break
    assert len([entry async for entry in memory.list_keys("tasks/")]) == 600


async def test_opening_fails_whole_and_releases_the_storage(open_on, faulty):
    faulty.fail("read", "journal/floor", LOST)
    with pytest.raises(UnavailableError, match="connection was reset"):
        await open_on(faulty)
    assert faulty.closed


async def test_closing_succeeds_although_the_snapshot_cannot_be_written(store, raw, faulty, url):
    told = []
    store.events.on(SaveError, told.append)
    await raw.put({"id": "a"})
    faulty.fail("write", "state.json", DISK_FULL)
    await store.aclose()
    assert faulty.closed
    assert told == [SaveError(DISK_FULL)]
    assert set(await stored(url)) == {"a"}


async def test_errors_survive_pickling(raw, faulty):
    await raw.put({"id": "a"})
    errors = await asyncio.gather(
        raw.create({"id": "a"}), raw.put({"id": "a"}, if_version=7), raw.get(""), return_exceptions=True
    )
    faulty.fail("write", "journal/0", DISK_FULL)
    errors += await asyncio.gather(raw.put({"id": "b"}), return_exceptions=True)
    for error in errors:
        assert isinstance(error, StateError)
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


async def test_an_old_backup_that_cannot_be_removed_fails_no_snapshot(open_on, faulty):
    store = await open_on(faulty, backups=1)
    told = []
    store.events.on(BackupError, told.append)
    raw = store.collection("raw")
    for n in range(2):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    faulty.fail("delete", "state.backup.", AccessDeniedError("it is locked"))
    await raw.put({"id": "a", "n": 2})
    assert await store.snapshot() == 3
    assert [type(event.error) for event in told] == [AccessDeniedError]
