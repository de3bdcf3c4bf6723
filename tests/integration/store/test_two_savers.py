"""Two handles that save: no snapshot, backup or floor gives way to an earlier one, or one of an earlier incarnation."""

import asyncio

import pytest
import statepath
from statepath.commit import FLOOR_KEY, slot_key
from statepath.engine.floor import write_floor
from statepath.errors import ConflictError, CorruptionError, DivergedError, UnavailableError
from statepath.events import SaveError


async def test_a_backup_that_another_handle_has_put_in_place_of_a_bad_one_stays(store, memory, monkeypatch):
    await store.collection("raw").put({"id": "a"})
    backups, backend = store._engine._snapshotter.backups, store._engine.backend
    read_back, delete, removed = backups._read_back, backend.delete, []

    async def replaced_meanwhile(key, state):
        await memory.write(key, (await memory.read("state.json")).data)
        monkeypatch.setattr(backups, "_read_back", read_back)
        raise CorruptionError("it is another snapshot")

    async def telling(key, **options):
        removed.append((key, await delete(key, **options)))

    monkeypatch.setattr(backups, "_read_back", replaced_meanwhile)
    monkeypatch.setattr(backend, "delete", telling)
    await store.backup()
    assert removed == []


async def test_a_snapshot_does_not_take_the_place_of_a_later_one_that_is_not_marked_yet(
    faulty, url, open_on, contents
):
    async with statepath.open(url, autosave=0) as late:
        store = await open_on(faulty, deadline=30)
        await store._engine.maintain()
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        await late.collection("raw").put({"id": "b"})
        await store.collection("raw").put({"id": "c"})
        marking = faulty.hold("write", FLOOR_KEY)
        saving = asyncio.ensure_future(store.snapshot())
        await marking.reached.wait()
        assert not await late._engine.maintain()
        marking.opened.set()
        assert await saving == 3
        with pytest.raises(ConflictError, match="shows seq 3 already"):
            await late._engine.snapshot_as_is()  # as it does when it is closed
        await store.aclose()
    async with statepath.open(url, autosave=0) as again:
        assert set(await contents(again)) == {"a", "b", "c"}


async def test_a_snapshot_of_one_handle_does_not_harm_the_other(store, zombie, url, keys, contents):
    failed = []
    for handle in (store, zombie):
        handle.events.on(SaveError, failed.append)
    for n in range(4):
        handle = (store, zombie)[n % 2]
        await handle.collection("raw").put({"id": str(n)})
        await handle.snapshot()
    assert [key for key in await keys("state.") if "conflict" in key] == []
    assert failed == []
    async with statepath.open(url, readonly=True) as reader:
        assert await contents(reader) == await contents(zombie)


async def test_the_snapshots_seq_never_decreases(store, zombie):
    await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    await store.snapshot()
    zombie._engine._snapshotter.saved = 0
    with pytest.raises(ConflictError, match="shows seq 3 already"):
        await zombie._engine._snapshotter.snapshot()


async def test_the_floor_never_decreases(trimmed, url):
    async with statepath.open(url, autosave=0) as other:
        for n in range(3):
            await trimmed.collection("raw").put({"id": "a", "n": n})
            await trimmed.snapshot()
        floor = (await trimmed.stats()).floor
        assert floor > (await other.stats()).floor
        await other._engine._snapshotter.save_floor()
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.stats()).floor == floor


async def test_the_floor_does_not_decrease_behind_an_attempt_that_failed_once_it_had_seen_the_later_one(
    trimmed, url, monkeypatch
):
    async with statepath.open(url, autosave=0) as other:
        for n in range(3):
            await trimmed.collection("raw").put({"id": "a", "n": n})
            await trimmed.snapshot()
        snapshotter, tried = other._engine._snapshotter, []

        async def fail_the_second_time(*arguments):
            tried.append(arguments)
            if len(tried) == 2:
                raise UnavailableError("the connection was reset")
            return await write_floor(*arguments)

        monkeypatch.setattr("statepath.engine.snapshotter.write_floor", fail_the_second_time)
        with pytest.raises(UnavailableError):
            await snapshotter.save_floor()
        await snapshotter.save_floor()
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.stats()).floor == (await trimmed.stats()).floor


@pytest.fixture
async def recovered(store, zombie, memory, url):
    """The store as another handle recovered it, in an incarnation of its own, and saved in it."""
    for n in range(3):
        await zombie.collection("raw").put({"id": f"lost {n}"})
    await memory.write(slot_key(3), b"damaged")
    async with statepath.open(url, autosave=0) as recovered:
        for n in range(3):
            await recovered.collection("raw").put({"id": f"kept {n}"})
        yield recovered


@pytest.mark.parametrize(
    "save",
    [
        lambda zombie: zombie._engine.snapshot_as_is(),
        lambda zombie: zombie._engine.trim(),
        lambda zombie: zombie._engine._snapshotter.refresh(),
    ],
    ids=["closing", "trim", "refresh"],
)
async def test_a_handle_on_a_store_that_another_one_recovered_saves_nothing(
    zombie, recovered, memory, url, save, contents
):
    saved = (await memory.read("state.json")).data, (await memory.read(FLOOR_KEY)).data
    with pytest.raises(DivergedError, match="recovered or replaced by another writer"):
        await save(zombie)
    assert ((await memory.read("state.json")).data, (await memory.read(FLOOR_KEY)).data) == saved
    await zombie.aclose()
    async with statepath.open(url, readonly=True) as again:
        assert await contents(again) == await contents(recovered)


async def test_a_handle_does_not_learn_what_the_maintainer_saved_in_another_incarnation(zombie, recovered):
    assert await recovered._engine.maintain()
    before = zombie._engine.record
    with pytest.raises(DivergedError, match="recovered or replaced by another writer"):
        await zombie._engine.maintain()
    assert zombie._engine.record == before


async def saved_later(store):
    """Save what is behind what others know of; the snapshot's bytes."""
    for n in range(3):
        await store.collection("raw").put({"id": f"late {n}"})
    assert await store.snapshot() == store.seq
    return (await store._engine.backend.read("state.json")).data


async def test_a_snapshot_that_another_handle_saved_is_not_put_aside_for_what_was_there_before(
    faulty, open_on, memory, keys, url
):
    slow = await open_on(faulty)
    await slow.collection("raw").put({"id": "a"})
    await slow.snapshot()
    async with statepath.open(url, autosave=0) as store:
        await slow.collection("raw").put({"id": "b"})
        await memory.write("state.json", b"damaged")
        gate = faulty.hold("delete", "state.json")
        saving = asyncio.ensure_future(slow._engine.snapshot_as_is())
        await gate.reached.wait()
        later = await saved_later(store)
        gate.open()
        with pytest.raises(ConflictError, match="shows seq 5 already"):
            await saving
        assert (await memory.read("state.json")).data == later
        [kept] = await keys("state.json.")
        assert (await memory.read(kept)).data == b"damaged"


async def test_a_snapshot_does_not_take_the_place_of_a_later_one_that_was_removed(
    store, zombie, memory, url, contents
):
    await zombie.collection("raw").put({"id": "z"})
    await saved_later(store)
    await memory.delete("state.json")
    with pytest.raises(ConflictError, match="a snapshot shows seq 5 already"):
        await zombie._engine.snapshot_as_is()
    await zombie.aclose()
    async with statepath.open(url, readonly=True) as again:
        assert await contents(again) == await contents(store)


async def test_a_backup_that_another_handle_keeps_stays_as_it_is(faulty, open_on, memory, keys, url):
    slow = await open_on(faulty)
    await slow.collection("raw").put({"id": "a"})
    await slow.snapshot()
    async with statepath.open(url, autosave=0) as store:
        gate = faulty.hold("read", "state.json")
        keeping = asyncio.ensure_future(slow._engine._snapshotter.backup())
        await gate.reached.wait()
        await store.collection("raw").put({"id": "b"})
        await store.snapshot()
        [key] = await keys("state.backup.")
        kept = (await memory.read(key)).data
        gate.open()
        with pytest.raises(ConflictError, match="it shows seq 2"):
            await keeping
        assert (await memory.read(key)).data == kept


@pytest.mark.parametrize("key", ["state.json", FLOOR_KEY])
async def test_who_opens_does_not_put_aside_what_another_one_has_mended(faulty, open_on, memory, url, key):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
    await memory.write(key, b"damaged")
    gate = faulty.hold("delete", key)
    opening = asyncio.ensure_future(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as store:
        await saved_later(store)
        mended = (await memory.read(key)).data
        gate.open()
        await opening
        assert (await memory.read(key)).data == mended
