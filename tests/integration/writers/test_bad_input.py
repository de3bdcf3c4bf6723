"""What goes wrong around many writers is detected and told, on each backend, and nothing is lost."""

from __future__ import annotations

import time
from datetime import timedelta
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
import statepath
from statepath.errors import AlreadyExistsError, HistoryTrimmedError

pytestmark = pytest.mark.slow


def days_ahead(*_):
    return time.time() + 10 * 86400


async def save(store, times):
    for n in range(times):
        await store.collection("raw").put({"id": "a", "n": n})
        await store.snapshot()


@pytest.mark.parametrize("kind", ["postgresql", "seaweed", "gcs", "azurite"], indirect=True)
async def test_a_cursor_that_was_trimmed_is_told_and_watching_may_begin_anew(path, monkeypatch):
    """A local journal is trimmed by the segment, and so few commits are one."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "first"})
        changes = store.watch(since=0)
        cursor = (await anext(changes)).cursor
        await changes.aclose()
        store._engine._snapshotter._history = timedelta(seconds=-1)
        await save(store, 4)
        async with statepath.open(path, autosave=0) as later:
            with pytest.raises(HistoryTrimmedError):
                await anext(later.watch(since=cursor))
            changes = later.watch(since=cursor, resync=True)
            told = [await anext(changes) for _ in range(3)]
            await changes.aclose()
    assert [change.kind for change in told] == ["resync", "put", "put"]
    assert {change.id for change in told[1:]} == {"first", "a"}


async def test_two_stores_with_one_replica_are_told_apart(path):
    one, two = f"memory://{uuid4().hex}", f"memory://{uuid4().hex}"
    async with statepath.open(one, autosave=0) as first, statepath.open(two, autosave=0) as second:
        await first.collection("raw").put({"id": "ours"})
        await second.collection("raw").put({"id": "theirs"})
        await statepath.mirror(one, path, once=True)
        with pytest.raises(AlreadyExistsError, match="another store"):
            await statepath.mirror(two, path, once=True)
        with pytest.raises(AlreadyExistsError, match="another store"):
            await statepath.mirror(two, path)
    async with statepath.open(path, readonly=True) as replica:
        assert [document["id"] async for document in replica.collection("raw")] == ["ours"]


async def test_a_maintainer_whose_clock_is_days_ahead_trims_nothing_that_others_may_rely_on(
    path, monkeypatch
):
    async with statepath.open(path, autosave=0) as store, statepath.open(path, autosave=0) as other:
        await save(store, 3)
        monkeypatch.setattr("statepath.engine.snapshotter.unhurried_now", days_ahead)
        monkeypatch.setattr("statepath.engine.snapshotter.earliest_now", AsyncMock(side_effect=days_ahead))
        await save(store, 3)
        assert (await store.stats()).floor == 1
        assert await other.collection("raw").put({"id": "b"}) == 7
