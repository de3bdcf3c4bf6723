"""Snapshots cost what they are worth, backups are the last ten states, and the journal is trimmed behind both."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import Any

import pytest
from statepath.engine.floor import read_floor
from statepath.errors import HistoryTrimmedError, UnavailableError
from statepath.events import (
    BackupError,
    CorruptionDetected,
    HistoryTrimmed,
)
from statepath_local.objects import Objects


async def put(store: Any, n: int, **values: Any) -> int:
    return await store.collection("tasks").put({"id": "a", "n": n, **values})


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings under which nothing is kept longer than two snapshots need it."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
    return {"history": timedelta(microseconds=1)}


async def test_an_unchanged_state_makes_no_snapshot_and_no_backup(place):
    async with place.open() as store:
        await put(store, 1)
        assert await store.snapshot() == 1
        await store.flush()
        before = place.tree()
        assert await store.snapshot() == 1
        assert place.tree() == before
    for _ in range(2):
        async with place.open():
            pass
    # Closing cuts a segment off behind its last commit.
    assert {name: data.rstrip(b" ") for name, data in before.items()} == place.tree()


async def test_the_last_ten_states_are_kept(place):
    async with place.open() as store:
        for n in range(15):
            await put(store, n)
            await store.snapshot()
        backups = await store.backups()
    assert [json.loads(place.read(key))["tasks"][0]["n"] for key in backups] == list(range(4, 14))


async def test_how_many_are_kept_can_be_chosen(place):
    async with place.open(backups=2) as store:
        for n in range(5):
            await put(store, n)
            await store.snapshot()
        assert len(await store.backups()) == 2


async def test_a_backup_is_named_after_the_moment_that_it_shows(place):
    async with place.open() as store:
        await put(store, 1)
        modified = (await store.collection("tasks").get_document("a")).modified
        key = await store.backup()
    assert key == f"state.backup.{modified:%Y%m%dT%H%M%S.%f}Z.json"


async def test_a_crash_loop_does_not_push_the_good_backups_out(place, stored):
    place, _ = stored
    before = place.names("state.backup.")
    for number in range(12):
        async with place.open():
            place = place.copy(f"killed{number}")
    assert place.names("state.backup.") == before


async def test_a_crash_loop_that_damages_the_snapshot_does_not_push_them_out_either(stored, whole):
    place, held = stored
    before = place.names("state.backup.")
    for number in range(12):
        place.write("state.json", b"{")
        async with place.open():
            place = place.copy(f"killed{number}")
    assert set(before) <= set(place.names("state.backup."))
    await whole(place, held)


async def test_snapshots_that_fail_do_not_push_them_out(folder, monkeypatch):
    async with folder.open() as store:
        for n in range(3):
            await put(store, n)
            await store.snapshot()
        before = await store.backups()
        await put(store, 3)
        for _ in range(12):
            with monkeypatch.context() as patch:
                patch.setattr(Objects, "write", refuse)
                with pytest.raises(UnavailableError):
                    await store.snapshot()
        assert (await store.backups())[: len(before)] == before
        assert len(await store.backups()) == len(before) + 1
        await store.snapshot()
        assert len(await store.backups()) == len(before) + 1


def refuse(*_: Any, **__: Any) -> None:
    raise UnavailableError("no")


async def test_a_snapshot_that_reads_back_wrong_is_told_and_does_not_become_a_backup(memory, monkeypatch):
    async with memory.open() as store:
        await put(store, 1)
        await store.snapshot()
        good = memory.read("state.json")
        await put(store, 2)
        backend = store._engine.backend
        real = type(backend).write

        async def garbled(self, key, data, **options):
            return await real(self, key, data.replace(b'"n":2', b'"n":7'), **options)

        with monkeypatch.context() as patch:
            patch.setattr(type(backend), "write", garbled)
            with pytest.raises(Exception, match="read back"):
                await store.snapshot()
        await put(store, 3)
        await store.snapshot()
        (backup,) = await store.backups()
        assert memory.read(backup) == good
    async with memory.open() as store:
        assert await store.verify() == []
        assert (await store.collection("tasks").get("a"))["n"] == 3


async def test_a_backup_that_cannot_be_written_does_not_keep_the_snapshot_from_it(folder, monkeypatch):
    async with folder.open() as store:
        await put(store, 1)
        await store.snapshot()
        await put(store, 2)
        monkeypatch.setattr(Objects, "copy", refuse)
        await store.snapshot()
        assert json.loads(folder.read("state.json"))["seq"] == 2
    assert len(folder.told(BackupError)) == 1


class TestTrimming:
    async def test_the_journal_is_trimmed_below_what_the_snapshot_and_a_backup_cover(
        self, memory, short_memory
    ):
        async with memory.open(**short_memory) as store:
            for n in range(1, 6):
                await put(store, n)
                await store.snapshot()
            assert (await store.stats()).floor == 5
            with pytest.raises(HistoryTrimmedError):
                await store.restore(at=0)
        assert memory.told(HistoryTrimmed)[-1].floor == 5
        async with memory.open() as store:
            assert await store.verify() == []
            assert (await store.stats()).floor == 5

    async def test_a_damaged_snapshot_loses_nothing_then(self, memory, short_memory):
        async with memory.open(**short_memory) as store:
            for n in range(1, 6):
                await put(store, n)
                await store.snapshot()
            await put(store, 6)
            killed = memory.copy("killed")
        killed.write("state.json", b"")
        async with killed.open() as store:
            assert (await store.collection("tasks").get("a"))["n"] == 6
        assert [told.key for told in killed.told(CorruptionDetected)] == ["state.json"]

    async def test_without_a_backup_nothing_is_trimmed(self, memory, short_memory, monkeypatch):
        async with memory.open(**short_memory) as store:
            monkeypatch.setattr(store._engine._snapshotter.backups, "_copy", refuse)
            for n in range(1, 5):
                await put(store, n)
                await store.snapshot()
            assert (await store.stats()).floor == 1

    async def test_the_floor_never_falls(self, memory, short_memory):
        async with memory.open(**short_memory) as store:
            for n in range(1, 4):
                await put(store, n)
                await store.snapshot()
            floor = (await store.stats()).floor
        assert floor > 1
        memory.write("journal/floor", b"damaged")
        async with memory.open() as store:
            assert (await store.stats()).floor >= floor
            await put(store, 9)
        async with memory.open() as store:
            assert (await store.collection("tasks").get("a"))["n"] == 9
            assert await store.verify() == []

    async def test_history_is_kept_as_long_as_it_is_wanted(self, memory, monkeypatch):
        monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
        async with memory.open() as store:
            for n in range(1, 6):
                await put(store, n)
                await store.snapshot()
            await store.restore(at=1)
            assert (await store.collection("tasks").get("a"))["n"] == 1
        assert memory.told(HistoryTrimmed) == []

    async def test_too_many_bytes_of_history_are_trimmed_and_told(self, memory, monkeypatch):
        monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
        async with memory.open(history_bytes=3000) as store:
            for n in range(1, 6):
                await put(store, n, text="x" * 2000)
                await store.snapshot()
            assert 1 < (await store.stats()).floor <= 5
        assert {told.reason for told in memory.told(HistoryTrimmed)} == {"bytes"}

    async def test_they_are_though_a_clock_that_was_years_ahead_has_dated_the_commits(
        self, folder, monkeypatch
    ):
        monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", 0.0)
        async with folder.open(history_bytes=3000) as store:
            with monkeypatch.context() as ahead:
                ahead.setattr("time.time_ns", lambda: 4_000_000_000 * 10**9)
                await put(store, 0)
            for n in range(1, 6):
                await put(store, n, text="x" * 2000)
                await store.snapshot()
            assert (await store.stats()).floor > 1
        assert {told.reason for told in folder.told(HistoryTrimmed)} == {"bytes"}

    async def test_bodies_that_no_commit_names_any_more_are_collected(
        self, folder, short_memory, monkeypatch
    ):
        monkeypatch.setattr("statepath.engine.committer.MAX_COMMIT_BYTES", 4096)
        async with folder.open(**short_memory) as store:
            async with store.transaction() as tx:
                for id in "ab":
                    tx.put(store.collection("tasks"), {"id": id, "text": "x" * 3000})
            (body,) = folder.names("bodies/")
            os.utime(folder.path / body, (0, 0))
            await store.snapshot()
            assert folder.names("bodies/") == [body]
            for n in range(3):
                await put(store, n)
                await store.snapshot()
            # A segment is deleted whole: what is in it may still be read.
            floor, _ = await read_floor(store._engine.backend)
            assert floor.floor > 1
            assert await store.verify() == []


async def test_a_large_store_is_written_anew_only_when_enough_has_changed(memory, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    async with memory.open() as store:
        snapshotter = store._engine._snapshotter
        await put(store, 1, text="x" * 100_000)
        await store.snapshot()
        await store.collection("tasks").put({"id": "b"})
        assert snapshotter.changed
        assert not snapshotter.due
        with monkeypatch.context() as patch:
            patch.setattr(snapshotter, "_max_age", 0.0)
            assert snapshotter.due
        assert not snapshotter.due
        await put(store, 2, text="x" * 60_000)
        assert snapshotter.due
        await store.snapshot()
        await store.collection("tasks").put({"id": "c"})
        assert not snapshotter.due
    # Closing brings it up to date all the same.
    assert json.loads(memory.read("state.json"))["seq"] == 4


async def test_a_snapshot_that_was_lost_is_due_at_once(memory, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter._SMALL", 0)
    async with memory.open() as store:
        await put(store, 1, text="x" * 100_000)
    memory.remove("state.json")
    async with memory.open() as store:
        assert store._engine._snapshotter.due
        await store.snapshot()
        assert not store._engine._snapshotter.due
