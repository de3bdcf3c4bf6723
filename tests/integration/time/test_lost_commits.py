"""A primary or a replica that lost commits takes none from the other: one is made anew only from what has them all."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import statepath
from statepath.backend import slot_key
from statepath.engine.shipping import ReplicaDamagedError
from statepath.errors import CorruptionError, DivergedError
from statepath.events import MirrorCaughtUp, MirrorFailed, MirrorRebased
from statepath.log import PortableCommitLog
from statepath.memory import _stores
from statepath.mirroring import reached

pytestmark = pytest.mark.usefixtures("soon")


async def test_a_primary_that_lost_commits_is_not_followed(elsewhere, told, until):
    """As when its disk is restored from yesterday: the replica has more than is left."""
    path, to = "memory://restored", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        yesterday = _stores["restored"].copy()
        await store.collection("raw").put({"id": "b"})
        await statepath.mirror(path, to, once=True)
    _stores["restored"].clear()
    _stores["restored"].update(yesterday)
    with pytest.raises(DivergedError, match="ends before seq 2"):
        await statepath.mirror(path, to, once=True)
    async with statepath.open(path, autosave=0, mirror=to, events=told) as store:
        for id in ("b", "c"):
            await store.collection("raw").put({"id": id})
        await until(lambda: store.mirror_lag.stopped)
        assert re.search("has another seq|ends with seq", store.mirror_lag.failure)
        assert (await store.health()).healthy
    with pytest.raises(DivergedError, match="has another seq"):
        await statepath.mirror(path, to, once=True)


async def test_a_damaged_replica_is_not_made_anew_from_a_store_that_has_less(elsewhere):
    path, to = "memory://restored-to-less", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await statepath.mirror(path, to, once=True)
        for n in range(1, 9):
            await raw.put({"id": str(n)})
            if n in (2, 6):
                await store.snapshot()
            await statepath.mirror(path, to, once=True)
            if n == 2:
                earlier = _stores["restored-to-less"].copy()
    _stores["restored-to-less"].clear()
    _stores["restored-to-less"].update(earlier)
    newest = max(await elsewhere.keys(to, "journal/0"))
    await elsewhere.write(to, newest, (await elsewhere.read(to, newest)).replace(b"raw", b"rag"))
    before = await elsewhere.read(to, "state.json")
    with pytest.raises(DivergedError, match="the replica has what"):
        await statepath.mirror(path, to, once=True)
    assert await elsewhere.read(to, "state.json") == before


async def replica_with_more(to, name):
    """A replica that is at seq 8, of a store that was put back to seq 6 since."""
    path = f"memory://{name}"
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await statepath.mirror(path, to, once=True)
        for n in range(1, 9):
            await raw.put({"id": str(n)})
            if n == 2:
                await store.snapshot()
            await statepath.mirror(path, to, once=True)
            if n == 6:
                earlier = _stores[name].copy()
    _stores[name].clear()
    _stores[name].update(earlier)
    return path


def damage_seq_4(to):
    """What is in the middle of the journal: what can be read ends with seq 3."""
    (segment,) = (Path(to) / "journal").glob("0*")
    journal = segment.read_bytes()
    segment.write_bytes(journal.replace(b'{"id":"4"}', b'{"id":"X"}'))


async def test_a_native_log_that_is_damaged_in_the_middle_tells_how_far_it_had_come(tmp_path):
    to = str(tmp_path / "to")
    path = await replica_with_more(to, "less-than-a-native-log")
    damage_seq_4(to)
    with pytest.raises(DivergedError, match=r"ends with seq 6, and that with 8.*--reseed"):
        await statepath.mirror(path, to, once=True)


async def test_a_damaged_native_log_that_does_not_tell_how_far_it_had_come_is_not_replaced_unasked(
    tmp_path, monkeypatch
):
    to = str(tmp_path / "to")
    path = await replica_with_more(to, "less-than-an-unknown-log")
    damage_seq_4(to)
    monkeypatch.setattr("statepath.engine.shipping.SupportsNewest", type("Untold", (), {}))
    with pytest.raises(CorruptionError, match=r"does not tell whether it had more than .*--reseed"):
        await statepath.mirror(path, to, once=True)
    await statepath.mirror(path, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.seq, replica.damage) == (6, ())


async def test_a_damaged_native_replica_is_made_anew_from_a_store_that_has_all(path, store, tmp_path):
    to = str(tmp_path / "to")
    await statepath.mirror(path, to, once=True)
    for n in range(1, 9):
        await store.collection("raw").put({"id": str(n)})
    await statepath.mirror(path, to, once=True)
    damage_seq_4(to)
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.seq, replica.damage) == (8, ())


async def test_a_replica_that_stays_damaged_is_told(path, store, elsewhere, monkeypatch):
    async def damaged(*args, **options):
        raise ReplicaDamagedError("its disk is")

    monkeypatch.setattr("statepath.engine.mirror.Shipping.begin", damaged)
    with pytest.raises(CorruptionError, match=r"damaged still: its disk is.*--reseed"):
        await statepath.mirror(path, elsewhere.new(), once=True)


async def test_a_local_store_restored_from_yesterday_is_not_followed(tmp_path, until):
    path, yesterday, to = (str(tmp_path / name) for name in ("store", "yesterday", "replica"))
    for id in ("a", "b"):
        async with statepath.open(path, autosave=0, mirror=to) as store:
            await store.collection("raw").put({"id": id})
        if id == "a":
            shutil.copytree(path, yesterday)
    async with statepath.open(yesterday, autosave=0, mirror=to) as store:
        await until(lambda: store.mirror_lag.stopped)
        assert "ends with seq 1, and that with 2" in store.mirror_lag.failure
    async with statepath.open(to) as replica:
        assert await replica.collection("raw").find().count() == 2


async def test_a_primary_whose_log_is_damaged_does_not_take_the_replica_with_it(elsewhere, places):
    path, to = "memory://damaged", elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "0"})
        await statepath.mirror(path, to, once=True)
        for n in (1, 2):
            await store.collection("raw").put({"id": str(n)})
        await statepath.mirror(path, to, once=True)
        held = await elsewhere.read(to, "journal/floor")
        slots = _stores["damaged"]
        for key in [key for key in slots if key.endswith("3.jsonl")]:
            slots[key] = dataclasses.replace(slots[key], data=slots[key].data.replace(b"raw", b"rag"))
        with pytest.raises(CorruptionError):
            await statepath.mirror(path, to, once=True)
    assert await elsewhere.read(to, "journal/floor") == held
    async with statepath.open(to) as replica:
        assert await replica.collection("raw").find().count() == 3


async def outrun(store, path, to):
    """Makes a replica that has seq 1 of a store whose snapshot shows seq 3."""
    await store.collection("raw").put({"id": "0"})
    await statepath.mirror(path, to, once=True)
    for n in (1, 2):
        await store.collection("raw").put({"id": str(n)})
    await store.snapshot()


async def test_a_commit_that_the_snapshot_shows_and_the_log_lacks_is_not_waited_for_without_end(tmp_path):
    path, to = tmp_path / "store", str(tmp_path / "replica")
    async with statepath.open(path, autosave=0) as store:
        await outrun(store, path, to)
        shutil.copytree(path, damaged := tmp_path / "damaged")
    segment = damaged / slot_key(1)
    segment.write_bytes(segment.read_bytes().replace(b'"id":"2"', b'"id":"9"'))
    with pytest.raises(CorruptionError, match="the journal ends at seq 2, and the state shows seq 3"):
        await statepath.mirror(
            damaged, to, once=True, settings=statepath.Settings.load(damaged, deadline=0.3)
        )
    assert (await reached(to)).seq == 2


async def test_a_log_that_lags_behind_the_snapshot_is_waited_for(until, mirroring):
    """As on a standby that is behind the one from which the snapshot was known."""
    path, to, ready = "memory://standby", "memory://of-standby", asyncio.Event()
    async with statepath.open(path, autosave=0) as store:
        await outrun(store, path, to)
    late = _stores["standby"].pop(slot_key(3))
    async with mirroring(path, to, once=True, progress=lambda told: "seq 2" in told and ready.set()) as ends:
        await until(lambda: ready.is_set() or ends.done())
        _stores["standby"][slot_key(3)] = late
        assert (await ends).seq == 3


async def test_a_commit_that_was_read_before_its_primary_lost_it_is_not_missed(
    told, until, mirroring, switch, monkeypatch
):
    """As after a fail-over: the replica has all that there is, since it was down."""
    path, to, following = "memory://failed-over", "memory://of-failed-over", asyncio.Event()

    class Watched(PortableCommitLog):
        def follow(self, after, known=None):
            following.set()
            return super().follow(after, known)

    monkeypatch.setattr("statepath.engine.opening.PortableCommitLog", Watched)
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a"})
        async with mirroring(path, to, events=told):
            await until(lambda: told.of(MirrorCaughtUp))
            before, switch["writes"] = _stores["failed-over"].copy(), 0
            await raw.put({"id": "b"})
            await until(lambda: told.of(MirrorFailed))
            following.clear()
            _stores["failed-over"].clear()
            _stores["failed-over"].update(before)
            switch["writes"] = 10**9
            await until(lambda: following.is_set() or len(told.of(MirrorFailed)) > 1)
    assert [event.error.code for event in told.of(MirrorFailed)] == ["disk_full"]


@pytest.mark.parametrize("slot", [2, 3], ids=["in the middle", "in the newest slot"])
@pytest.mark.parametrize("backend", ["memory", "sqlite"])
async def test_a_damaged_replica_is_made_anew(path, store, tmp_path, places, contents, backend, told, slot):
    to = f"{backend}://{tmp_path}/to"
    await statepath.mirror(path, to, once=True)
    for n in range(3):
        await store.collection("raw").put({"id": "a", "n": n})
        await statepath.mirror(path, to, once=True)
    key = slot_key(slot)
    await places.write(to, key, (await places.read(to, key)).replace(b"raw", b"rag"))
    await statepath.mirror(path, to, once=True, events=told)
    assert [event.seq for event in told.of(MirrorRebased)] == [3]
    for _ in range(2):
        async with statepath.open(to, readonly=True) as replica:
            assert replica.damage == ()
            assert await replica.verify() == []
            assert await contents(replica) == await contents(store)
        await store.collection("raw").put({"id": "b"})
        await statepath.mirror(path, to, once=True)  # goes on behind it


async def test_a_replica_without_its_snapshot_is_made_anew(path, store, elsewhere, contents, told):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await elsewhere.delete(to, "state.json")
    await statepath.mirror(path, to, once=True, events=told)
    assert [event.reason for event in told.of(MirrorRebased)] == ["it is damaged: state.json is missing"]
    async with statepath.open(to, readonly=True) as replica:
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)
