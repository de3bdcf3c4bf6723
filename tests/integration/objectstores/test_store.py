"""A store on an object store has all that a local one has."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import statepath
from statepath.discovery import connect
from statepath.errors import AlreadyExistsError, ConflictError, InvalidArgumentError, ReadOnlyError
from statepath.events import CorruptionDetected


async def contents(store):
    return {document["id"]: document async for document in store.collection("raw")}


async def keys(path, prefix=""):
    backend = await connect(path, readonly=True)
    try:
        return [entry.key async for entry in backend.list_keys(prefix)]
    finally:
        await backend.close()


async def test_what_was_saved_is_there_when_it_is_opened_again(path):
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "items": []})
        await raw.append("a", "items", "ü")
        async with store.transaction() as tx:
            tx.put(raw, {"id": "b"})
            tx.put(store.collection("other"), {"id": "b"})
        await raw.put({"id": "c"})
        assert await raw.delete("c") is True
        await store.append_log("s/1", "one\n")
        await store.append_log("s/1", "two\n")
        await store.save_report("r", {"n": 1})
    async with statepath.open(path, autosave=0) as store:
        assert await contents(store) == {"a": {"id": "a", "items": ["ü"]}, "b": {"id": "b"}}
        assert await store.collection("other").get("b") == {"id": "b"}
        assert await store.read_log("s/1") == "one\ntwo\n"
        assert await store.read_report("r") == {"n": 1}
        assert await store.verify() == []
        assert (await store.health()).damage == ()


async def test_a_store_that_was_not_closed_is_whole(path):
    store = await statepath.open(path, autosave=0)
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    await store._engine.release()
    async with statepath.open(path, autosave=0) as again:
        assert await contents(again) == {"a": {"id": "a"}}
        assert await again.collection("raw").put({"id": "b"}) == 2


async def test_an_earlier_state_comes_back(path):
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "n": 1})
        await store.snapshot()
        await raw.put({"id": "a", "n": 2})
        await raw.put({"id": "b"})
        assert [change.seq for change in await store.history("raw/a")] == [1, 2]
        await store.restore(at=1)
        assert await contents(store) == {"a": {"id": "a", "n": 1}}
        await store.restore(at=3)
        assert await contents(store) == {"a": {"id": "a", "n": 2}, "b": {"id": "b"}}


async def test_backups_are_kept_and_the_oldest_go(path):
    async with statepath.open(path, autosave=0, backups=3) as store:
        for n in range(6):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        assert len(await store.backups()) == 3


async def test_a_damaged_snapshot_loses_nothing(path):
    async with statepath.open(path, autosave=0) as store:
        for n in range(3):
            await store.collection("raw").put({"id": str(n)})
            await store.snapshot()
    backend = await connect(path)
    await backend.write("state.json", b'{"version": "1.0.0", "ta')
    await backend.close()
    events = statepath.Events()
    told = []
    events.on(CorruptionDetected, told.append)
    async with statepath.open(path, autosave=0, events=events) as store:
        assert set(await contents(store)) == {"0", "1", "2"}
        assert await store.verify() == []
    assert [event.key for event in told] == ["state.json"]
    assert any(".corrupt." in key for key in await keys(path, "state.json"))


async def test_whoever_loses_the_race_for_a_slot_goes_on_behind_it(path):
    async with statepath.open(path, autosave=0) as one, statepath.open(path, autosave=0) as other:
        ours, theirs = one.collection("raw"), other.collection("raw")
        await asyncio.gather(*(handle.put({"id": f"{n}"}) for n in range(20) for handle in (ours, theirs)))
        await ours.create({"id": "new"})
        with pytest.raises(AlreadyExistsError):
            await theirs.create({"id": "new"})
        document = await theirs.get_document("new")
        await ours.put({"id": "new", "n": 1})
        with pytest.raises(ConflictError):
            await theirs.put({"id": "new", "n": 2}, if_version=document.version)
        assert await contents(other) == await contents(one)


async def test_a_reader_follows_a_writer(path):
    async with statepath.open(path, autosave=0) as writer:
        await writer.collection("raw").put({"id": "a"})
        async with statepath.open(path, readonly=True) as reader:
            changes = reader.watch(since=0)
            assert (await anext(changes)).key == "raw/a"
            seq = await writer.collection("raw").put({"id": "b"})
            async with asyncio.timeout(60):
                assert (await anext(changes)).key == "raw/b"
            assert await reader.sync(at_least=seq) == seq
            assert set(await contents(reader)) == {"a", "b"}
            with pytest.raises(ReadOnlyError):
                await reader.collection("raw").put({"id": "c"})
            await changes.aclose()


async def test_a_place_that_a_console_has_marked_as_a_folder_takes_a_copy(path, service, tmp_path):
    root, _, parameters = path.partition("?")
    above, _, folder = root.rpartition("/")
    parent = await connect(f"{above}?{parameters}")
    await parent.write(f"{folder}/", b"")
    async with statepath.open(tmp_path / "store") as store:
        await store.collection("raw").put({"id": "a"})
    await statepath.copy(tmp_path / "store", path)
    async with statepath.open(path, autosave=0) as store:
        assert await contents(store) == {"a": {"id": "a"}}
        assert await store.verify() == []
    await parent.delete(f"{folder}/")
    await parent.close()


async def test_documents_have_no_objects_of_their_own_unless_asked_for(path):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.flush()
    assert await keys(path, "tasks/") == []
    async with statepath.open(path, autosave=0, views=True) as store:
        tasks = store.collection("tasks")
        await asyncio.gather(*(tasks.put({"id": str(n)}) for n in range(40)))
        await tasks.delete("0")
        await store.flush()
        assert len(await keys(path, "tasks/")) == 40


async def test_views_that_a_crash_left_behind_are_brought_up(path):
    backend = await connect(path)
    async with statepath.open(path, autosave=0, views=True) as store:
        tasks = store.collection("tasks")
        for id in ("changed", "deleted", "lost"):
            await tasks.put({"id": id, "n": 1})
        await store.flush()
    async with statepath.open(path, autosave=0, views=False) as store:
        await store.collection("tasks").put({"id": "changed", "n": 2})
        await store.collection("tasks").delete("deleted")
    await backend.delete("tasks/lost.json")
    await backend.write("tasks/theirs.json", b'{"id": "theirs"}')
    async with statepath.open(path, autosave=0, views=True) as store:
        await store.flush()
    assert await keys(path, "tasks/") == ["tasks/changed.json", "tasks/lost.json", "tasks/theirs.json"]
    assert b'"n": 2' in (await backend.read("tasks/changed.json")).data
    await backend.close()


async def test_a_large_snapshot_and_a_large_transaction_go_through(path):
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        async with store.transaction() as tx:
            for n in range(12):
                tx.put(raw, {"id": str(n), "text": "x" * 1_000_000})
        await store.snapshot()
    assert len(await keys(path, "bodies/")) == 1
    async with statepath.open(path, autosave=0) as store:
        assert len(await contents(store)) == 12
        assert await store.verify() == []


async def test_the_journal_behind_the_floor_goes(path, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    async with statepath.open(path, autosave=0) as store:
        store._engine._snapshotter._history = timedelta(seconds=-1)
        for n in range(5):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        floor = (await store.stats()).floor
        assert floor > 1
    slots = [key for key in await keys(path, "journal/") if key.endswith(".jsonl")]
    assert slots[0] == f"journal/{floor:020d}.jsonl"
    async with statepath.open(path, autosave=0) as store:
        assert await contents(store) == {"a": {"id": "a", "n": 4}}


OTHERS = {
    "README.txt": b"theirs",
    "tasks/notes.md": b"theirs",
    "journal/old.csv": b"theirs",
    "state.json.tmp": b"theirs",
    "state.backup.1700000000000.json": b'{"version": 4, "resources": []}',
    "config/settings.json": b'{"theme": "dark"}',
    "users/broken.json": b"[1, 2, 3]",
    "users/alice.json": b'{"id": "u-1", "name": "Alice"}',
    "tasks/build.json": b'{"id": "of another name"}',
    "tasks/list.json": b"[]",
}


async def test_what_another_tool_has_put_there_stays_and_does_no_harm(path):
    backend = await connect(path)
    for key, data in OTHERS.items():
        await backend.write(key, data)
    async with statepath.open(path, autosave=0) as store:
        assert await contents(store) == {}
        await store.collection("tasks").put({"id": "a"})
        await store.snapshot()
        assert await store.verify() == []
        assert (await store.health()).damage == ()
    async with statepath.open(path, autosave=0) as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}
    for key, data in OTHERS.items():
        assert (await backend.read(key)).data == data
    assert not [key for key in await keys(path) if ".corrupt." in key or ".conflict." in key]
    await backend.close()


async def test_the_state_json_of_another_tool_is_not_replaced(path):
    backend = await connect(path)
    theirs = b'{"version": 4, "terraform_version": "1.9.0", "resources": []}'
    await backend.write("state.json", theirs)
    for readonly in (False, True):
        with pytest.raises(InvalidArgumentError, match="choose another state path") as caught:
            await statepath.open(path, autosave=0, readonly=readonly)
        assert caught.value.code == "occupied"
    assert (await backend.read("state.json")).data == theirs
    assert await keys(path, "journal/") == []
    await backend.close()


@pytest.mark.parametrize("prefix", ["a b/ü+&=%41", "deep/" * 20 + "x", "-_.~!*'()"])
async def test_a_prefix_may_have_any_characters(service, prefix):
    path = service.path(prefix)
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "ü/..%"})
        await store.snapshot()
    async with statepath.open(path, readonly=True) as store:
        assert await contents(store) == {"ü/..%": {"id": "ü/..%"}}
        assert await store.verify() == []
