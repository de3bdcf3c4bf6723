"""Group commit: what arrived while the previous commit was under way becomes the next one."""

import asyncio
import gc
import time
import weakref
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
import statepath
from statepath.commit import MAX_COMMIT_BYTES, Body
from statepath.engine.committer import KEEP_BODIES
from statepath.engine.leases import clock
from statepath.errors import (
    AccessDeniedError,
    ClosedError,
    ConflictError,
    CorruptionError,
    OutcomeUnknownError,
)


async def test_concurrent_saves_become_few_commits(store, commits):
    raw = store.collection("raw")
    seqs = await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(200)))
    assert seqs == list(range(1, 201))
    assert len(await commits()) <= 2


async def test_what_arrives_meanwhile_becomes_the_next_commit(open_on, faulty, commits):
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    first = asyncio.ensure_future(raw.put({"id": "first"}))
    await gate.reached.wait()
    rest = asyncio.gather(*(raw.put({"id": str(n)}) for n in range(10)))
    await asyncio.sleep(0)
    gate.open()
    assert (await first, await rest) == (1, list(range(2, 12)))
    assert [(commit.first, commit.last) for commit in await commits()] == [(1, 1), (2, 11)]


async def test_one_save_in_flight_is_written_at_once(open_on, faulty, monkeypatch):
    store = await open_on(faulty)
    written = []
    write = faulty._backend.write

    async def recorded(key, data, **options):
        written.append(turns)
        return await write(key, data, **options)

    faulty._backend.write = recorded
    turns = 0
    saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
    while not saving.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(written) == 1
    assert turns < 20  # turns of the loop: no timer was waited for


async def test_the_commits_are_a_chain(store, commits):
    raw = store.collection("raw")
    for n in range(3):
        await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(3)))
    chain = await commits()
    assert chain[0].prev == ""
    for before, after in pairwise(chain):
        assert (after.prev, after.first, after.durable) == (before.id, before.last + 1, before.last)
        assert after.time > before.time
    assert {(commit.store, commit.incarnation) for commit in chain} == {(store.id, store.incarnation)}


async def test_changes_of_one_group_see_each_other(store):
    raw = store.collection("raw")
    put, append, update, delete, create = await asyncio.gather(
        raw.put({"id": "a", "logs": []}),
        raw.append("a", "logs", 1),
        raw.put({"id": "b"}, if_version=0),
        raw.delete("b"),
        raw.create({"id": "b", "again": True}),
    )
    assert (put, append, update, delete, create) == (1, 2, 3, True, 5)
    assert await raw.get("a") == {"id": "a", "logs": [1]}
    assert await raw.get("b") == {"id": "b", "again": True}


async def test_a_refused_save_leaves_the_others_of_its_group_alone(store, commits):
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    outcomes = await asyncio.gather(
        raw.put({"id": "b"}),
        raw.create({"id": "a"}),
        raw.append("nobody", "logs", 1),
        raw.put({"id": "c"}),
        return_exceptions=True,
    )
    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [2, 3]
    assert len(await commits()) == 2


async def test_the_times_of_commits_never_decrease(store, monkeypatch, commits):
    clock = iter([5_000_000_000, 4_000_000_000, 4_000_000_000, 1_000])
    monkeypatch.setattr("statepath.engine.committer.time.time_ns", lambda: next(clock))
    raw = store.collection("raw")
    for n in range(4):
        await raw.put({"id": str(n)})
    microseconds = [round(commit.time.timestamp() * 1_000_000) for commit in await commits()]
    assert microseconds == [5_000_000, 5_000_001, 5_000_002, 5_000_003]


async def test_too_much_at_once_becomes_several_commits_of_bounded_size(store, commits, memory, keys):
    raw = store.collection("raw")
    large = "x" * (MAX_COMMIT_BYTES // 3)
    await asyncio.gather(*(raw.put({"id": str(n), "x": large}) for n in range(7)))
    records = await commits()
    assert [commit.last for commit in records][-1] == 7
    assert len(records) > 2
    for key in await keys("journal/0"):
        assert len((await memory.read(key)).data) <= MAX_COMMIT_BYTES


async def test_a_transaction_that_is_too_large_for_a_commit_writes_a_body_first(store, url, commits, keys):
    raw = store.collection("raw")
    async with store.transaction() as tx:
        for n in range(9):
            tx.put(raw, {"id": str(n), "x": "x" * 1024 * 1024})
    await raw.put({"id": "small"})
    large, small = await commits()
    assert isinstance(large.transactions[0], Body)
    assert await keys("bodies/") == [large.transactions[0].key]
    assert not isinstance(small.transactions[0], Body)
    assert [change.id for change in await store.history(since=0, limit=2)] == ["8", "small"]
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.collection("raw").count() == 10
        assert len((await reader.collection("raw").get("8"))["x"]) == 1024 * 1024


async def test_a_body_that_turns_out_small_has_the_whole_deadline_too(store, keys, monkeypatch):
    """Deletions of what is not there are many bytes to begin with, and none in the log."""
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 20_000)
    raw = store.collection("raw")
    await raw.put({"id": "there"})
    timeout, deadlines = asyncio.timeout, []

    def noted(seconds):
        deadlines.append(seconds)
        return timeout(seconds)

    monkeypatch.setattr("statepath.engine.committer.asyncio.timeout", noted)
    async with store.transaction() as tx:
        for n in range(1000):
            tx.delete(raw, f"absent {n}")
        tx.delete(raw, "there")
    assert len(await keys("bodies/")) == 1
    assert min(deadlines) >= store._engine.settings.deadline


async def test_many_small_changes_are_too_large_as_well(store, commits, memory, keys, monkeypatch):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 20_000)
    raw = store.collection("raw")
    async with store.transaction() as tx:
        for n in range(200):
            tx.put(raw, {"id": f"{n:0190}"})
    async with store.transaction() as tx:
        for n in range(200):
            tx.delete(raw, f"{n:0190}")
    assert [type(commit.transactions[0]) for commit in await commits()] == [Body, Body]
    for key in await keys("journal/0"):
        assert len((await memory.read(key)).data) <= 20_000


@pytest.fixture
async def body(store, monkeypatch, keys):
    """The key of the body of the second transaction, three documents."""
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 2000)
    raw = store.collection("raw")
    await raw.put({"id": "before"})
    async with store.transaction() as tx:
        for id in "abc":
            tx.put(raw, {"id": id, "x": "x" * 1000})
    await raw.put({"id": "after"})
    (key,) = await keys("bodies/")
    return key


async def test_a_damaged_body_is_told_as_corruption(store, body, memory):
    await memory.write(body, (await memory.read(body)).data.replace(b"x", b"y", 1))
    with pytest.raises(CorruptionError, match="does not match its digest") as caught:
        await store.history()
    assert caught.value.key == body


async def test_a_missing_body_is_told_as_corruption(store, body, memory):
    await memory.delete(body)
    with pytest.raises(CorruptionError, match="is missing") as caught:
        await store.history()
    assert caught.value.key == body
    assert [finding.key for finding in await store.verify()] == [body]


async def test_opening_with_a_damaged_body_keeps_everything_else_and_says_so(store, body, memory, url):
    await memory.delete(body)
    async with statepath.open(url, readonly=True) as reader:
        assert [d["id"] async for d in reader.collection("raw")] == ["after", "before"]
        assert body in (await reader.health()).damage[0]


async def test_a_body_of_the_very_first_commit_that_is_damaged_is_not_passed_over(
    store, url, memory, keys, monkeypatch
):
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 2000)
    async with store.transaction() as tx:
        tx.put(store.collection("raw"), {"id": "a", "x": "x" * 4000})
    for key in await keys("bodies/"):
        await memory.delete(key)
    async with statepath.open(url) as again:
        assert (await again.health()).damage
        await again.collection("raw").put({"id": "b"})
        assert again.incarnation != store.incarnation


async def trim(store):
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for n in range(3):
        await store.collection("raw").put({"id": "a", "n": n})
        await store.snapshot()
    assert (await store.stats()).floor > 2


async def test_bodies_that_no_commit_names_are_collected(store, body, keys, memory, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_BODIES", -1)
    await memory.write("bodies/abandoned/0", b"[]")
    await trim(store)
    assert await keys("bodies/") == []


async def test_a_body_that_a_commit_may_be_about_to_name_stays_whatever_time_it_is_here(
    store, keys, memory, monkeypatch
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    await memory.write("bodies/coming/0", b"[]")
    ahead = SimpleNamespace(time=lambda: time.time() + 10 * 24 * 3600, monotonic=time.monotonic)
    monkeypatch.setattr("statepath.engine.snapshotter.time", ahead)
    await trim(store)
    assert await keys("bodies/") == ["bodies/coming/0"]


@pytest.fixture
async def suspended(open_on, faulty, memory, keys, monkeypatch):
    """A commit on its way, and the gate that it waits at; its body was collected meanwhile."""
    monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 2000)
    store = await open_on(faulty)
    gate = faulty.hold("write", "journal/0")
    saving = asyncio.ensure_future(store.collection("raw").put({"id": "large", "x": "x" * 4000}))
    await gate.reached.wait()
    now = clock()
    monkeypatch.setattr("statepath.engine.committer.clock", lambda: now + KEEP_BODIES)
    (body,) = await keys("bodies/")
    await memory.delete(body)
    return saving, gate


async def test_a_commit_that_took_long_is_acknowledged_with_its_bodies(suspended, url):
    saving, gate = suspended
    gate.open()
    await saving
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.collection("raw").get("large"))["x"] == "x" * 4000


async def test_a_commit_that_took_long_is_not_acknowledged_without_its_bodies(suspended, faulty):
    saving, gate = suspended
    faulty.fail("write", "bodies/", AccessDeniedError("not any more"))
    gate.open()
    with pytest.raises(OutcomeUnknownError, match="could not be written again"):
        await saving


async def test_too_much_in_the_queue_makes_callers_wait(open_on, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.committer._BACKLOG_BYTES", 1000)
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    first = asyncio.ensure_future(raw.put({"id": "first"}))
    await gate.reached.wait()
    filling = asyncio.ensure_future(raw.put({"id": "filling", "x": "x" * 2000}))
    await asyncio.sleep(0)
    late = [
        asyncio.ensure_future(saving)
        for saving in (
            raw.put({"id": "late"}),
            raw.create({"id": "created"}),
            raw.append("first", "list", 1),
            store.append_log("s", "x"),
        )
    ]
    await asyncio.sleep(0)
    queued = store._engine._committer._pending
    assert [change.id for pending in queued for change in pending.changes] == ["filling"]
    gate.open()
    assert (await first, await filling) == (1, 2)
    assert sorted(await asyncio.gather(*late)) == [3, 4, 5, 6]


async def test_a_closing_store_refuses_who_waits_for_room(open_on, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.committer._BACKLOG_BYTES", 1000)
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    first = asyncio.ensure_future(raw.put({"id": "first"}))
    await gate.reached.wait()
    filling = asyncio.ensure_future(raw.put({"id": "filling", "x": "x" * 2000}))
    await asyncio.sleep(0)
    late = asyncio.ensure_future(raw.put({"id": "late"}))
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    gate.open()
    await closing
    assert (await first, await filling) == (1, 2)
    with pytest.raises(ClosedError):
        await late


async def test_nothing_of_a_save_that_was_refused_stays_in_memory(open_on, faulty):
    raw = (await open_on(faulty)).collection("raw")
    with pytest.raises(ConflictError) as raised:
        await raw.put({"id": "a"}, if_version=7)
    error = weakref.ref(raised.value)
    del raised
    await raw.put({"id": "b"})
    await raw.put({"id": "c"})
    gc.collect()
    assert error() is None


async def test_a_clock_that_was_set_back_makes_nobody_wait_for_saves_that_are_over(
    open_on, faulty, monkeypatch
):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    passed, back = time.monotonic() + 60, time.time() - 3600
    clocks = SimpleNamespace(monotonic=lambda: passed, time=lambda: back)
    monkeypatch.setattr("statepath.engine.engine.time", clocks)
    for _ in range(10):  # until the committer waits again
        await asyncio.sleep(0)
    assert not store._engine.is_busy()
