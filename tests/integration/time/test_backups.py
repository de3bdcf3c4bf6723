"""Backups: each is read back when it was written, and one that is not what it should be does not stay."""

from __future__ import annotations

import pytest
from statepath.errors import CorruptionError
from statepath.events import BackupCreated, BackupError


@pytest.fixture
def altering(store, monkeypatch):
    """Storage that alters what it keeps of a backup, in whatever way that is written."""
    backend = store._engine.backend
    write = backend.write

    async def altered(key, data, **options):
        if key.startswith("state.backup."):
            data = data.replace(b"right", b"wrong")
        return await write(key, data, **options)

    async def copied(source, target, *, when):
        return await altered(target, (await backend.read(source)).data)

    monkeypatch.setattr(backend, "write", altered)
    if backend.capabilities.copy:
        monkeypatch.setattr(backend, "copy", copied)


async def test_a_backup_that_is_not_what_was_written_is_told_and_does_not_stay(store, altering):
    told = []
    store.events.on("*", told.append)
    await store.collection("raw").put({"id": "a", "text": "right"})
    await store.snapshot()
    await store.collection("raw").put({"id": "b"})
    assert await store.snapshot() == 2
    (error,) = [event.error for event in told if isinstance(event, BackupError)]
    assert isinstance(error, CorruptionError)
    assert "when it was read back" in str(error)
    assert not [event for event in told if isinstance(event, BackupCreated)]
    assert await store.backups() == []


async def test_who_asks_for_a_backup_is_told_that_it_is_not_sound(store, altering):
    await store.collection("raw").put({"id": "a", "text": "right"})
    with pytest.raises(CorruptionError, match="read back"):
        await store.backup()
    assert await store.backups() == []
    assert await store.verify() == []


async def test_a_snapshot_of_many_pieces_is_read_back_whole(store, monkeypatch):
    """The mark that ends the documents may lie anywhere in the pieces, and across two of them."""
    await store.collection("raw").put({"id": "a", "text": "x" * 300})
    for size in range(16, 80, 3):
        monkeypatch.setattr("statepath.engine.checking._PIECE", size)
        await store.collection("raw").put({"id": "a", "text": "x" * size})
        await store.snapshot()
    assert [one for one in await store.verify() if one.severity == "damage"] == []
