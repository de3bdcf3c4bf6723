"""What an encrypted store writes can be compressed before it is sealed, and it can be changed at any time."""

from __future__ import annotations

import sys

import pytest
import statepath
from statepath.encryption.sealing import PACKED
from statepath.errors import ConfigurationError
from statepath.repairing import repair
from statepath.settings import Settings

pytestmark = pytest.mark.slow


async def test_a_compressed_store_is_a_store_like_any_other(place, fill, contents, canary):
    async with place.open(compression="zstd", views=True) as store:
        await fill(store)
        await store.collection("tasks").put({"id": "large", "text": canary * 700_000})
        held = await contents(store)
        await store.flush()
        await store.snapshot()
        assert await store.verify() == []
        assert (await store.rotate_key()).resealed > 5
        assert await store.verify() == []
    stored = await place.everything()
    assert sum(map(len, stored.values())) < 1_000_000
    assert [name for name, data in stored.items() if canary.encode() in data] == []
    for compression in (None, "zstd"):
        async with place.open(compression=compression, views=True) as store:
            assert await contents(store) == held
            assert store.damage == ()
            await store.collection("raw").put({"id": "raw", "compression": compression})
            held = await contents(store)
            assert await store.verify() == []


async def test_what_can_be_compressed_is_and_is_smaller(folder, canary):
    sizes = {}
    for compression in ("none", "zstd"):
        async with statepath.open(
            f"{folder.url}-{compression}", encryption_key=folder.key, compression=compression, autosave=0
        ) as store:
            for n in range(20):
                await store.collection("tasks").put({"id": str(n), "text": canary * 50})
            await store.snapshot()
            backend = store._engine.backend
            keys = [entry.key async for entry in backend.list_keys("")]
            sizes[compression] = {key: len((await backend.inner.read(key)).data.rstrip(b" ")) for key in keys}
            state = (await backend.inner.read("state.json")).data
            assert state.startswith(PACKED) == (compression == "zstd")
    for key in ("state.json", "journal/00000000000000000001.jsonl"):
        assert sizes["zstd"][key] < sizes["none"][key] * 0.7


@pytest.mark.parametrize("shown", [True, False], ids=["a snapshot", "the journal alone"])
async def test_what_is_compressed_is_not_put_aside_by_who_lacks_the_library(memory, shown, monkeypatch):
    store = await memory.open(compression="zstd")
    await store.collection("tasks").put({"id": "a", "text": "sesame" * 100})
    if shown:
        await store.snapshot()
    await store._engine.release()
    stored = await memory.everything()
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "zstandard", None)
        for readonly in (True, False):
            with pytest.raises(ConfigurationError, match="needs the package zstandard"):
                await memory.open(readonly=readonly)
    assert await memory.everything() == stored
    async with memory.open() as store:
        assert await store.collection("tasks").count() == 1


async def test_what_is_compressed_is_no_damage_to_who_lacks_the_library(memory, monkeypatch):
    async with memory.open(compression="zstd") as store:
        await store.collection("tasks").put({"id": "a", "text": "sesame" * 100})
        await store.backup()
    async with memory.open() as store:
        for id in "bc":
            await store.collection("tasks").put({"id": id})
            await store.snapshot()
    stored = await memory.everything()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    async with memory.open(readonly=True) as store:
        with pytest.raises(ConfigurationError, match="needs the package zstandard"):
            await store.verify()
    with pytest.raises(ConfigurationError, match="needs the package zstandard"):
        await repair(memory.url, settings=Settings(encryption_key=memory.key))
    assert await memory.everything() == stored


async def test_a_plain_store_stays_readable(tmp_path):
    async with statepath.open(tmp_path, compression="zstd", autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "text": "sesame" * 100})
        await store.snapshot()
    assert b"sesame" in (tmp_path / "state.json").read_bytes()


async def test_compression_without_a_master_key_is_told_once_to_have_no_effect(tmp_path, caplog):
    async with statepath.open(tmp_path, compression="zstd"):
        (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith("compression (STATE_COMPRESSION) has no effect: ")


async def test_what_was_altered_is_noticed(folder, canary):
    async with folder.open(compression="zstd") as store:
        await store.save_report("r", {canary: canary * 100})
    data = await folder.read("reports/r.json")
    assert data.startswith(PACKED)
    for at in (6, 20, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 1
        await folder.write("reports/r.json", bytes(damaged))
        async with folder.open(readonly=True) as store:
            assert [one.key for one in await store.verify()] == ["reports/r.json"]


@pytest.mark.parametrize("value", ["gzip", "9"])
async def test_another_way_is_refused(folder, value):
    with pytest.raises(statepath.StateError, match="compression"):
        await folder.open(compression=value)
