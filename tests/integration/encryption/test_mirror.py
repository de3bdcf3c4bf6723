"""The replica of an encrypted store is an encrypted one, with a key ring of its own."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
import statepath
from statepath.aside import why_aside
from statepath.discovery import connect
from statepath.engine.primary import DistantPrimary
from statepath.engine.shipping import Shipping
from statepath.engine.spool import Spool
from statepath.errors import UnsupportedError
from statepath.events import Events, MirrorCaughtUp
from statepath.keys import encrypt
from statepath.memory import MemoryBackend
from statepath.mirroring import promote
from statepath.settings import Settings


async def test_a_replica_is_sealed_too(folder, memory, tmp_path, fill, contents, canary, monkeypatch):
    monkeypatch.setattr("statepath.engine.mirror._GRACE", 60)
    memory.key = folder.key
    async with folder.open(mirror=memory.url) as store:
        await fill(store)
        held = await contents(store)
    stored = await memory.everything()
    assert [key for key, data in stored.items() if canary.encode() in data] == []
    assert stored["keyring.json"] != await folder.read("keyring.json")
    await promote(memory.url, settings=Settings(encryption_key=folder.key))
    async with memory.open() as store:
        assert await contents(store) == held
        assert await store.verify() == []


async def test_a_snapshot_on_its_way_to_a_replica_is_sealed_too(memory, canary):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a", "text": canary * 100_000})
        await store.snapshot()
        spool = Spool()
        assert (await spool.fill(store._engine.backend)).seq == 1
        snapshot = b"".join(spool)
        assert canary.encode() in snapshot
        assert b"".join(spool) == snapshot
        spool._file.seek(0)
        assert canary.encode() not in spool._file.read()
        spool.close()


async def test_nothing_is_shipped_in_the_clear(folder, tmp_path, canary):
    plain = tmp_path / "plain"
    async with statepath.open(plain) as store:
        await store.collection("tasks").put({"id": "a"})
    before = {path: path.read_bytes() for path in plain.rglob("*.json*") if path.is_file()}
    async with folder.open(mirror=plain) as store:
        await store.collection("tasks").put({"id": "a", "text": canary})
    assert before == {path: path.read_bytes() for path in before}


async def test_many_commits_are_shipped_as_one_object_of_a_line_each(folder, memory, canary):
    memory.key = folder.key
    settings = Settings(encryption_key=folder.key)
    async with folder.open() as store:
        await store.collection("raw").put({"id": "a"})
        await statepath.mirror(folder.url, memory.url, once=True, settings=settings)
        before = {key for key in await memory.everything() if key.startswith("journal/0")}
        for n in range(20):
            await store.collection("raw").put({"id": canary, "n": n})
        await statepath.mirror(folder.url, memory.url, once=True, settings=settings)
        (shipped,) = {key for key in await memory.everything() if key.startswith("journal/0")} - before
        data = await memory.read(shipped)
        assert len(data.splitlines()) == 20
        assert canary.encode() not in data
        async with memory.open(readonly=True) as replica:
            assert await replica.history() == (await store.history())[1:]
            assert await replica.verify() == []


async def test_no_commit_is_moved_aside_where_a_replica_in_objects_is_made_anew(
    folder, memory, fill, contents, monkeypatch
):
    memory.key = folder.key
    settings = Settings(encryption_key=folder.key)
    written: list[str] = []
    write = MemoryBackend.write

    async def noted(self, key, *args, **options):
        written.append(key)
        return await write(self, key, *args, **options)

    async with folder.open() as store:
        await fill(store)
        await statepath.mirror(folder.url, memory.url, once=True, settings=settings)
        await store.collection("raw").put({"id": "later"})
        await statepath.mirror(folder.url, memory.url, once=True, settings=settings)
        monkeypatch.setattr(MemoryBackend, "write", noted)
        await statepath.mirror(folder.url, memory.url, once=True, reseed=True, settings=settings)
        assert "state.json" in written
        assert [key for key in written if why_aside(key) == "corrupt"] == []
        async with memory.open(readonly=True) as replica:
            assert await contents(replica) == await contents(store)
            assert await replica.verify() == []


async def test_the_age_of_a_replica_s_key_which_nobody_can_exchange_is_not_checked(folder, memory):
    memory.key = folder.key
    async with folder.open() as store:
        await store.collection("raw").put({"id": "a"})
    await statepath.mirror(folder.url, memory.url, once=True, settings=Settings(encryption_key=folder.key))
    for place, checked in ((folder, True), (memory, False)):
        async with place.open(readonly=True, key_age="1d") as store:
            names = [check.name for check in (await store.health()).checks]
            assert ("key" in names) is checked


async def test_a_plain_replica_of_a_store_that_is_encrypted_meanwhile_stays_what_it_was(memory, tmp_path):
    replica = tmp_path / "replica"
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    events, caught_up = Events(), asyncio.Event()
    events.on(MirrorCaughtUp, lambda event: caught_up.set())
    mirroring = asyncio.create_task(statepath.mirror(memory.url, replica, events=events))
    await caught_up.wait()
    await encrypt(memory.url, settings=Settings(encryption_key=memory.key))
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "b"})
        with pytest.raises(UnsupportedError, match="was encrypted while it was mirrored, at seq 2") as caught:
            await mirroring
    assert caught.value.code == "encrypted"
    await promote(replica)
    async with statepath.open(replica, autosave=0) as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a"]


async def test_a_plain_replica_keeps_also_what_came_together_with_what_is_sealed(memory, tmp_path):
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    plain = Settings()
    primary = await DistantPrimary.open(partial(connect, memory.url, readonly=True), plain)
    replica = await connect(tmp_path / "replica")
    session = await Shipping.begin(primary, replica, plain, lambda _: None)
    async with statepath.open(memory.url, autosave=0) as store:
        for n in range(3):
            await store.collection("tasks").put({"id": f"b{n}"})
        commits = [commit async for commit in primary._log.read(1)]
    await encrypt(memory.url, settings=Settings(encryption_key=memory.key))
    commits += [commit async for commit in primary._log.read(4)]
    with pytest.raises(UnsupportedError, match=r"at seq 5: .* keeps what it has up to seq 4"):
        await anext(size async for size in session.ship(commits) if session.position.seq > 4)
    await session.close()
    await replica.close()
    await primary.close()
    await promote(tmp_path / "replica")
    async with statepath.open(tmp_path / "replica", autosave=0) as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a", "b0", "b1", "b2"]
