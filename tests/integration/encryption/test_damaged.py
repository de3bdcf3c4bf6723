"""What cannot be opened any more stands in the way of what replaces it as little as in a plain store."""

from __future__ import annotations

import socket
import sys
from types import ModuleType

import pytest
import statepath
from statepath.aside import why_aside
from statepath.engine.leases import lease_key
from statepath.events import CorruptionDetected, Events
from statepath.migrations import migration
from statepath.settings import Settings


async def test_a_damaged_report_is_replaced_and_holds_nothing_up(memory):
    async with memory.open() as store:
        await store.save_report("1", {"n": 1})
        await memory.flip("reports/1.json")
        await store.save_report("1", {"n": 2})
        await store.append_log("s", "behind\n")
        await store.snapshot()
        assert await store.read_report("1") == {"n": 2}
        assert await store.read_log("s") == "behind\n"
        assert await store.verify() == []


async def test_a_damaged_report_is_removed(memory):
    async with memory.open() as store:
        await store.save_report("1", {"n": 1})
        await memory.flip("reports/1.json")
        await store.delete_report("1")
        assert await store.reports() == []
        assert await store.verify() == []


async def test_the_damaged_file_of_a_document_is_replaced_or_removed_with_it(memory):
    async with memory.open(views=True) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "n": 1})
        await tasks.put({"id": "b", "n": 1})
        await store.flush()
        await memory.flip("tasks/a.json")
        await memory.flip("tasks/b.json")
        await tasks.put({"id": "a", "n": 2})
        await tasks.delete("b")
        await store.flush()
        assert await store.verify() == []
    assert "tasks/b.json" not in await memory.everything()


async def test_a_snapshot_that_was_damaged_since_is_kept_aside_and_replaced(memory):
    told, events = [], Events()
    events.on(CorruptionDetected, told.append)
    async with memory.open(events=events) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
        await store.snapshot()
        await memory.flip("state.json")
        await store.collection("raw").put({"id": "a", "n": 2})
        await store.snapshot()
        assert await store.verify() == []
        (event,) = told
        assert event.key == "state.json"
        assert event.kept_as.startswith("state.json.corrupt.")
        assert event.kept_as in await memory.everything()


@pytest.fixture
async def lost(memory):
    """A lease that nobody gave back, whose object was damaged."""
    async with memory.open() as store:
        await store.collection("raw").put({"id": "a"})
        await store._engine.leases.take("leader", 3600)
    await memory.flip("leases/leader")
    return memory


async def test_a_damaged_lease_is_held_by_somebody_unknown_until_it_is_broken(lost):
    async with lost.open() as store:
        assert [(one.name, one.host) for one in await store.leases()] == [("leader", "?")]
        await store.break_lease("leader")
        async with store.lease("leader", wait=0):
            assert [one.host for one in await store.leases()] == [socket.gethostname()]


async def test_a_damaged_lease_is_told_by_the_name_that_breaks_it(memory):
    async with memory.open() as store:
        await store.collection("raw").put({"id": "a"})
        await store._engine.leases.take("Job A/ü", 3600)
        await memory.flip(lease_key("Job A/ü"))
        (damaged,) = await store.leases()
        assert damaged.name == "Job A/ü"
        await store.break_lease(damaged.name)
        assert await store.leases() == []


async def test_a_damaged_lease_is_taken_over_as_one_whose_holder_died(lost, monkeypatch):
    monkeypatch.setattr("statepath.engine.leases._UNKNOWN_TTL", 0.0)
    async with lost.open() as store, store.lease("leader"):
        assert [one.host for one in await store.leases()] == [socket.gethostname()]


async def test_a_damaged_lease_is_removed_by_a_repair(lost):
    settings = Settings(encryption_key=lost.key)
    planned = await statepath.repair(lost.url, settings=settings, dry_run=True)
    assert planned.remedies == ("is removed: it does not say any more who has the lease",)
    assert (await statepath.repair(lost.url, settings=settings)).left == ()
    assert "leases/leader" not in await lost.everything()


async def test_what_was_kept_aside_and_is_damaged_is_kept_aside_by_a_repair(memory):
    async with memory.open() as store:
        await store.collection("raw").put({"id": "a"})
        await store._engine.backend.write("state.json.conflict.20260102T030405.000000Z", b"{}")
    await memory.flip("state.json.conflict.20260102T030405.000000Z")
    settings = Settings(encryption_key=memory.key)
    done = await statepath.repair(memory.url, settings=settings)
    assert (done.remedies, done.left, len(done.kept)) == (("is kept aside",), (), 1)


@pytest.fixture
def migrating(monkeypatch):
    """Makes the name of a module that brings these collections from version 1 to 2."""

    def migrating(*collections):
        module = ModuleType(f"migrations_{'_'.join(collections)}")
        for name in collections:
            setattr(module, name, migration(name, 1, 2)(lambda document: document | {"version": 2}))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    return migrating


async def test_a_damaged_backup_or_log_of_a_migration_bars_no_later_one(memory, migrating):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store.collection("raw").put({"id": "a"})
    async with memory.open(migrations=migrating("tasks")):
        pass
    await memory.flip("state.pre-migration.backup.json")
    await memory.flip("state.migration-v1-to-v2.log")
    async with memory.open(migrations=migrating("tasks", "raw")) as store:
        assert store.schema_versions == {"raw": 2, "tasks": 2}
        assert await store.verify() == []
        told = await store._engine.backend.read("state.migration-v1-to-v2.log")
    assert b"raw: schema version 1 to 2" in told.data
    kept = [key for key in await memory.everything() if key.startswith("state.pre-migration.backup.json.")]
    assert [why_aside(key) for key in kept] == ["corrupt"]


async def test_a_damaged_log_of_a_migration_is_kept_aside_by_a_repair(memory, migrating):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
    async with memory.open(migrations=migrating("tasks")):
        pass
    await memory.flip("state.migration-v1-to-v2.log")
    done = await statepath.repair(memory.url, settings=Settings(encryption_key=memory.key))
    assert (done.remedies, done.left) == (("is kept aside",), ())
    assert [why_aside(key) for key in done.kept] == ["corrupt"]


@pytest.fixture
async def replicated(folder, memory):
    """A store with a replica of which an object was damaged."""
    memory.key = folder.key
    async with folder.open() as store:
        await store.collection("raw").put({"id": "a"})
        await store.save_report("1", {"n": 1})
        await store.append_log("s", "one\n")
        await store.snapshot()
        await store.save_report("2", {"n": 2})
    await statepath.mirror(folder.url, memory.url, once=True, settings=Settings(encryption_key=folder.key))
    return folder, memory


async def test_a_replica_with_a_damaged_object_is_made_anew_where_that_is_asked_for(replicated, contents):
    folder, replica = replicated
    damaged = [key for key in await replica.everything() if key.startswith(("reports/", "logs/", "state."))]
    for key in damaged:
        await replica.flip(key)
    await statepath.mirror(
        folder.url, replica.url, once=True, reseed=True, settings=Settings(encryption_key=folder.key)
    )
    async with folder.open(readonly=True) as store, replica.open(readonly=True) as made:
        assert await contents(made) == await contents(store)
        assert await made.verify() == []


async def test_a_replica_whose_snapshot_is_missing_is_made_anew_though_another_object_is_damaged(
    replicated, contents
):
    folder, replica = replicated
    await replica.flip("reports/1.json")
    backend = await replica.raw()
    await backend.delete("state.json")
    await backend.close()
    await statepath.mirror(folder.url, replica.url, once=True, settings=Settings(encryption_key=folder.key))
    async with folder.open(readonly=True) as store, replica.open(readonly=True) as made:
        assert await contents(made) == await contents(store)
        assert await made.verify() == []
