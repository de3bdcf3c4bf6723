"""Compaction of the journal: behind the snapshots, and nothing is lost or hidden wherever it ends."""

from __future__ import annotations

import asyncio
import time

import pytest
import statepath
from statepath.engine.floor import read_floor
from statepath.errors import AccessDeniedError, DivergedError

STEPS = [("write", "journal/0"), ("write", "journal/floor"), ("delete", "journal/0")]


@pytest.fixture
def soon(monkeypatch):
    """Few commits are many, and the youngest are old enough."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 8)


async def save(store, number):
    """So many commits, then the snapshots that cover them."""
    raw = store.collection("raw")
    for n in range(number):
        await raw.put({"id": str(n % 5), "n": n})
    for n in range(2):
        await store.snapshot()
        await raw.put({"id": "last", "n": n})
    await store.snapshot()


async def history(store):
    return [change.seq for change in await store.history()]


async def pack(store):
    await store._engine._snapshotter.pack()


def packs(keys):
    return [key for key in keys if "-" in key]


def slots(keys):
    return [key for key in keys if key.startswith("journal/0") and "-" not in key]


async def test_a_long_journal_becomes_few_objects_and_says_the_same(memory, store, keys, soon, contents):
    await save(store, 20)
    before, state = await history(store), await contents(store)
    await pack(store)
    assert len(packs(await keys("journal/"))) == 1
    assert len(slots(await keys("journal/"))) <= 3
    assert await history(store) == before
    assert await store.verify() == []
    async with statepath.open(memory.url, readonly=True) as reader:
        assert await contents(reader) == state
        assert await history(reader) == before
    await store.restore(at=7)
    assert (await store.collection("raw").get("1"))["n"] == 6
    async with statepath.open(memory.url, autosave=0) as again:
        assert (await history(again))[: len(before)] == before


async def test_it_goes_on_where_it_ended(store, keys, soon):
    for number in range(1, 4):
        await save(store, 20)
        await pack(store)
        assert len(packs(await keys("journal/"))) == number
        assert len(slots(await keys("journal/"))) <= 3
    assert await store.verify() == []


async def test_young_commits_stay_as_they_are(store, keys, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 8)
    await save(store, 20)
    await pack(store)
    assert packs(await keys("journal/")) == []


async def test_what_no_two_snapshots_cover_stays_as_it_is(store, keys, soon):
    for n in range(20):
        await store.collection("raw").put({"id": "a", "n": n})
    await store.snapshot()
    await pack(store)
    assert packs(await keys("journal/")) == []


async def test_few_new_commits_cost_no_request(faulty, open_on, soon):
    store = await open_on(faulty)
    await save(store, 20)
    await pack(store)
    fault = faulty.fail("read", "journal/floor", AccessDeniedError("asked"), times=10)
    await store.collection("raw").put({"id": "a"})
    await pack(store)
    assert fault.times == 10


async def test_saving_by_time_packs(memory, keys, soon):
    async with statepath.open(memory.url, autosave=0.01) as store:
        raw, until = store.collection("raw"), time.monotonic() + 30
        n = 0
        while not packs(await keys("journal/")):
            assert time.monotonic() < until
            await raw.put({"id": str(n % 5), "n": (n := n + 1)})
            await asyncio.sleep(0.001)
        assert len(await history(store)) == n
        assert await store.verify() == []


async def test_a_packer_that_fails_stops_no_saving(faulty, keys, open_on, soon):
    store = await open_on(faulty, autosave=0.01)
    denied = faulty.fail("write", "journal/00000000000000000001-", AccessDeniedError("not any more"))
    n = 0
    while denied.times or not packs(await keys("journal/")):
        await store.collection("raw").put({"id": "a", "n": (n := n + 1)})
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(("method", "prefix"), STEPS)
async def test_each_step_may_be_the_last_one(
    faulty, memory, keys, open_on, soon, method, prefix, applied, contents
):
    store = await open_on(faulty)
    await save(store, 20)
    before, state = await history(store), await contents(store)
    faulty.fail(method, prefix, AccessDeniedError("the power failed"), applied=applied)
    with pytest.raises(AccessDeniedError):
        await pack(store)
    async with statepath.open(memory.url, readonly=True) as reader:
        assert await contents(reader) == state
        assert await history(reader) == before
        assert await reader.verify() == []
    await store._engine.release()
    async with statepath.open(memory.url, autosave=0) as again:
        await save(again, 20)
        await pack(again)
        assert len(slots(await keys("journal/"))) <= 3
        assert (await history(again))[: len(before)] == before
        assert await again.verify() == []


@pytest.mark.parametrize("damage", [None, b"{"])
async def test_a_lost_record_finds_the_packs_again(memory, store, keys, soon, damage):
    await save(store, 20)
    before = await history(store)
    await pack(store)
    await store._engine.release()
    await (memory.delete("journal/floor") if damage is None else memory.write("journal/floor", damage))
    async with statepath.open(memory.url, autosave=0) as again:
        assert await history(again) == before
        assert again._engine._snapshotter.floor.packed == int(packs(await keys("journal/"))[-1][29:49])


async def test_a_lost_pack_is_told(memory, store, keys, soon):
    await save(store, 20)
    await pack(store)
    [lost] = packs(await keys("journal/"))
    data = (await memory.read(lost)).data
    for damaged in (None, data.replace(b'"n":3', b'"n":4')):
        await (memory.delete(lost) if damaged is None else memory.write(lost, damaged))
        [finding] = await store.verify()
        assert finding.key.startswith("journal/0")
    await memory.write(lost, data)
    assert await store.verify() == []


async def test_a_log_that_began_anew_keeps_its_packs_aside(memory, store, keys, soon):
    await save(store, 20)
    await pack(store)
    await store._engine.release()
    [lost] = packs(await keys("journal/"))
    await memory.write(lost, b"x")
    for key in await keys("state."):
        await memory.delete(key)
    async with statepath.open(memory.url, autosave=0) as again:
        assert any(key.startswith(f"{lost}.corrupt.") for key in await keys("journal/"))
        assert again._engine._snapshotter.floor.packed == 0
        await again.collection("raw").put({"id": "new"})
        assert len(await history(again)) == 1


async def test_who_has_an_earlier_incarnation_does_not_overwrite_the_record(memory, store, keys):
    await save(store, 20)
    for key in ("journal/00000000000000000003.jsonl", *await keys("state.")):
        await memory.delete(key)
    async with statepath.open(memory.url, autosave=0) as other:
        with pytest.raises(DivergedError):
            await store._engine._snapshotter.save_floor(packed=20)
        stored, _ = await read_floor(memory)
        assert (stored.incarnation, stored.packed) == (other._engine.incarnation, 0)


async def test_a_store_goes_on_behind_what_was_packed_where_nothing_of_it_is_left(
    soon, open_on, faulty, memory, keys
):
    store = await open_on(faulty)
    await save(store, 12)
    await pack(store)
    packed = store._engine.record.packed
    assert packed
    _, *others = await keys("state.backup.")
    await store._engine.release()
    for key in [*others, "state.json", *await keys("journal/0")]:
        await memory.delete(key)
    async with statepath.open(memory.url, autosave=0) as store:
        assert store.damage
        assert await store.collection("raw").put({"id": "new"}) > packed
