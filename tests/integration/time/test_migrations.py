"""Schema versions: documents go to a later version in one commit, and back; and who does not know it keeps out."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from contextlib import contextmanager
from textwrap import dedent
from uuid import uuid4

import pytest
import statepath
from msgspec import Raw
from statepath.commit import Note, Put
from statepath.engine import migrating
from statepath.engine.engine import Engine
from statepath.engine.migration import decode_versions
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import SCHEMA_MEMBER, SnapshotStream
from statepath.errors import (
    ConfigurationError,
    ConflictError,
    CorruptionError,
    InvalidArgumentError,
    MigrationError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from statepath.events import Events, StoreMigrated
from statepath.memory import MemoryBackend
from statepath.testing.meanwhile import meanwhile
from statepath.undoing import undone_by

BACKUP = "state.pre-migration.backup.json"
LOG = "state.migration-v1-to-v2.log"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module of migrations, and tells its name."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def module(text):
        name = f"migrations_{uuid4().hex}"
        (tmp_path / f"{name}.py").write_text("from statepath import migration\n" + dedent(text))
        made.append(name)
        return name

    yield module
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def to_2(module):
    return module("""
        @migration("tasks", 1, 2)
        def rename(task):
            if "state" in task:
                task["status"] = task.pop("state")
            return task
    """)


@pytest.fixture
def to_3(module):
    return module("""
        @migration("tasks", 1, 2)
        def rename(task):
            task["status"] = task.pop("state")
            return task

        @migration("tasks", 2, 3)
        def nest(task):
            return {"id": task["id"], "result": {"status": task["status"]}}
    """)


@pytest.fixture
async def old(path):
    """A store that a program wrote which knows no versions; its head is seq 4."""
    async with statepath.open(path, autosave=0) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "state": "new"})
        await tasks.put({"id": "b", "state": "done"})
        await tasks.put({"id": "c", "note": "has none"})
        await store.collection("other").put({"id": "a", "state": "x"})
    return path


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which the power fails after so many writes."""
    connect = statepath.opening.connect

    class Interrupted:
        def __init__(self, backend, left):
            self._backend, self._left = backend, left
            self.capabilities = statepath.backend.Capabilities(durable=True, shared=True)

        def __getattr__(self, name):
            return getattr(self._backend, name)

        async def write(self, *args, **options):
            if not self._left:
                raise UnavailableError("the power failed", code="disk_full")
            self._left -= 1
            return await self._backend.write(*args, **options)

    @contextmanager
    def interrupted(left):
        async def connected(path, **options):
            return Interrupted(await connect(path, **options), left)

        with monkeypatch.context() as patched:
            patched.setattr("statepath.opening.connect", connected)
            patched.setattr("statepath.migrating.connect", connected)
            yield

    return interrupted


async def documents(store, name="tasks"):
    return {document["id"]: document async for document in store.collection(name)}


@pytest.mark.everywhere
async def test_opening_the_store_migrates_it_in_one_commit(old, to_2, places):
    told = []
    events = Events()
    events.on(StoreMigrated, told.append)
    async with statepath.open(old, autosave=0, migrations=to_2, events=events) as store:
        assert await documents(store) == {
            "a": {"id": "a", "status": "new"},
            "b": {"id": "b", "status": "done"},
            "c": {"id": "c", "note": "has none"},
        }
        assert await documents(store, "other") == {"a": {"id": "a", "state": "x"}}
        assert (store.seq, store.schema_versions) == (5, {"tasks": 2})
        assert [(one.seq, one.key) for one in await store.history(since=4)] == [
            (5, "tasks/a"),
            (5, "tasks/b"),
        ]
        assert await store.members() == {}
    assert told == [StoreMigrated("tasks from 1 to 2", 2, 5, BACKUP)]
    assert json.loads(await places.read(old, "state.json"))["schema_versions"] == {"tasks": 2}
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        assert store.seq == 5


async def test_the_state_of_before_is_kept_beside_the_event_loop(old, to_2, monkeypatch):
    drawn, draw = [], SnapshotStream.__iter__

    def told(stream):
        drawn.append(threading.current_thread())
        return draw(stream)

    monkeypatch.setattr(SnapshotStream, "__iter__", told)
    async with statepath.open(old, migrations=to_2, autosave=0) as store:
        assert store.seq
    assert drawn
    assert threading.current_thread() not in drawn


async def test_the_state_of_before_is_kept_and_what_was_done_is_told(old, to_2, places):
    async with statepath.open(old, autosave=0, migrations=to_2):
        pass
    before = json.loads(await places.read(old, BACKUP))
    assert (before["seq"], before["tasks"][0]) == (4, {"id": "a", "state": "new"})
    log = (await places.read(old, LOG)).decode()
    assert "tasks: schema version 1 to 2 as seq 5, 2 documents changed by" in log
    assert f"{to_2}:rename" in log
    assert f"before: {BACKUP}" in log


async def test_several_steps_are_one_commit(old, to_3, places):
    async with statepath.open(old) as store:
        await store.collection("tasks").delete("c")
    async with statepath.open(old, autosave=0, migrations=to_3) as store:
        assert (await documents(store))["b"] == {"id": "b", "result": {"status": "done"}}
        assert (store.seq, store.schema_versions) == (6, {"tasks": 3})
    assert "state.migration-v1-to-v3.log" in await places.keys(old)


async def test_a_number_that_becomes_a_truth_value_or_a_fraction_is_a_change(path, module):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "done": 1, "share": 1})
    typed = module("""
        @migration("tasks", 1, 2)
        def typed(task):
            return task | {"done": bool(task["done"]), "share": float(task["share"])}
    """)
    async with statepath.open(path, autosave=0, migrations=typed) as store:
        assert json.dumps(await documents(store)) == '{"a": {"id": "a", "done": true, "share": 1.0}}'


async def test_a_later_migration_keeps_the_backup_of_the_earlier_one(old, to_2, module, places):
    await statepath.migrate(old, settings=statepath.Settings.load(old, migrations=to_2))
    later = module("""
        @migration("tasks", 2, 3)
        def mark(task):
            return task | {"marked": True}
    """)
    done = await statepath.migrate(old, settings=statepath.Settings.load(old, migrations=(to_2, later)))
    assert (done.versions, done.documents) == ({"tasks": (2, 3)}, {"tasks": 3})
    assert json.loads(await places.read(old, BACKUP))["seq"] == 5
    (earlier,) = await places.keys(old, f"{BACKUP}.earlier.")
    assert json.loads(await places.read(old, earlier))["seq"] == 4


async def test_a_new_store_has_the_version_of_its_program(path, to_2):
    async with statepath.open(path, autosave=0, migrations=to_2) as store:
        assert store.schema_versions == {"tasks": 2}
        await store.collection("tasks").put({"id": "a", "status": "new"})
    async with statepath.open(path, autosave=0, migrations=to_2) as store:
        assert await documents(store) == {"a": {"id": "a", "status": "new"}}


async def test_a_program_that_knows_less_is_refused_and_changes_nothing(old, to_2, to_3, places):
    async with statepath.open(old) as store:
        await store.collection("tasks").delete("c")
    async with statepath.open(old, autosave=0, migrations=to_3):
        pass
    before = {key: await places.read(old, key) for key in await places.keys(old) if key != "lock"}
    for known, version in (((), 1), (to_2, 2)):
        with pytest.raises(
            UnsupportedError, match=f"schema version 3, and this program knows version {version}"
        ) as error:
            await statepath.open(old, migrations=known)
        assert error.value.code == "newer_schema"
    assert {key: await places.read(old, key) for key in await places.keys(old) if key != "lock"} == before
    async with statepath.open(old, readonly=True) as reader:
        assert reader.schema_versions == {"tasks": 3}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise KeyError('x')", r"tasks/c: KeyError"),
        ("return None", "tasks/c: it returned NoneType and no document"),
        ("return [task]", "tasks/c: it returned list"),
        ("return {**task, 'id': 'z'}", "tasks/c: it returned a document whose id is 'z'"),
        ("return {**task, 'x': float('nan')}", "tasks/c: .*which JSON does not have"),
        ("return {**task, 'x': {1, 2}}", "tasks/c: .*set"),
    ],
)
async def test_a_migration_that_fails_half_way_changes_nothing(old, module, places, text, reason):
    bad = module(f"""
        @migration("tasks", 1, 2)
        def bad(task):
            if task["id"] == "c":
                {text}
            return task | {{"changed": True}}
    """)
    before = {key: await places.read(old, key) for key in await places.keys(old) if key != "lock"}
    with pytest.raises(MigrationError, match=reason) as error:
        await statepath.open(old, migrations=bad)
    assert error.value.key == "tasks/c"
    assert "nothing was changed" in str(error.value)
    with pytest.raises(MigrationError):
        await statepath.plan_migration(old, settings=statepath.Settings.load(old, migrations=bad))
    after = {key: await places.read(old, key) for key in await places.keys(old) if key != "lock"}
    assert after == before
    async with statepath.open(old) as store:
        assert (store.seq, store.schema_versions) == (4, {})


async def test_an_id_of_another_name_must_not_be_lost(path, module):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("users", id="email").put({"email": "a@b.c", "name": "A"})
    losing = module("""
        @migration("users", 1, 2)
        def losing(user):
            return {"name": user["name"]}
    """)
    with pytest.raises(MigrationError, match=r"without its id 'a@b\.c'"):
        await statepath.open(path, migrations=losing)
    renaming = module("""
        @migration("users", 1, 2)
        def renaming(user):
            return {"address": user["email"]}
    """)
    async with statepath.open(path, autosave=0, migrations=renaming) as store:
        assert await store.collection("users", id="address").get("a@b.c") == {"address": "a@b.c"}


async def test_an_attempt_that_was_interrupted_anywhere_can_be_repeated(old, to_2, places, interrupted):
    """At each of its writes: the backup, the commit, the snapshot, the log."""
    left = 0
    if old.startswith("/"):
        async with statepath.open(old, readonly=True) as store:
            await statepath.copy(old, f"memory://{store.id}")
            old = f"memory://{store.id}"
    while left < 30:
        with interrupted(left):
            try:
                store = await statepath.open(old, autosave=0, migrations=to_2)
            except UnavailableError:
                left += 1
            else:
                await store.aclose()
                break
        async with statepath.open(old, readonly=True) as reader:
            names = {"status"} if reader.schema_versions else {"state"}
            if reader.schema_versions:
                assert b"tasks: schema version 1 to 2 begins behind seq 4" in await places.read(old, LOG)
            assert {name for one in (await documents(reader)).values() for name in one} - {
                "id",
                "note",
            } == names
    assert left >= 2
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        assert store.schema_versions == {"tasks": 2}
        assert (await documents(store))["a"] == {"id": "a", "status": "new"}
        assert await store.verify() == []


@pytest.mark.everywhere
async def test_a_rollback_brings_back_what_was_before_and_keeps_what_was_written_since(old, to_2, places):
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        await store.collection("tasks").put({"id": "since", "status": "new"})
        await store.append_log("s", "since\n")
    planned, found = await statepath.plan_rollback(old)
    assert [one.key for one in found] == ["tasks/a", "tasks/b", "tasks/since"]
    done = await statepath.rollback(old)
    assert (done.to, done.versions, planned.versions) == (4, {"tasks": (2, 1)}, {"tasks": (2, 1)})
    async with statepath.open(old, autosave=0) as store:
        assert store.schema_versions == {}
        assert await documents(store) == {
            "a": {"id": "a", "state": "new"},
            "b": {"id": "b", "state": "done"},
            "c": {"id": "c", "note": "has none"},
        }
        assert await store.read_log("s") == "since\n"
        await store.collection("tasks").put({"id": "d", "state": "again"})
        assert await store.verify() == []
    kept = json.loads(await places.read(old, done.kept))
    assert {"id": "since", "status": "new"} in kept["tasks"]
    with pytest.raises(InvalidArgumentError, match="no migration to take back"):
        await statepath.rollback(old)
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        assert (await documents(store))["d"] == {"id": "d", "status": "again"}


async def test_a_rollback_that_was_interrupted_anywhere_can_be_repeated(old, to_2, interrupted):
    """At each of its writes: the state of now, the commit, the snapshot."""
    if old.startswith("/"):
        async with statepath.open(old, readonly=True) as store:
            await statepath.copy(old, f"memory://{store.id}")
            old = f"memory://{store.id}"
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        await store.collection("tasks").put({"id": "since", "status": "new"})
        after = await documents(store)
    before = {
        "a": {"id": "a", "state": "new"},
        "b": {"id": "b", "state": "done"},
        "c": {"id": "c", "note": "has none"},
    }
    left, seen = 0, []
    while left < 30:
        with interrupted(left):
            try:
                await statepath.rollback(old)
            except UnavailableError:
                left += 1
            except InvalidArgumentError:
                break
            else:
                break
        async with statepath.open(old, readonly=True) as reader:
            seen.append(bool(reader.schema_versions))
            assert await documents(reader) == (after if reader.schema_versions else before)
    assert seen[:2] == [True, True]
    async with statepath.open(old, autosave=0) as store:
        assert store.schema_versions == {}
        assert await documents(store) == before
        assert await store.verify() == []
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        assert (await documents(store))["a"] == {"id": "a", "status": "new"}


@pytest.mark.parametrize("which", [BACKUP, "state.before-rollback."])
async def test_a_kept_state_that_is_damaged_is_found_and_put_aside(old, to_2, places, which):
    """Before somebody needs it."""
    async with statepath.open(old, autosave=0, migrations=to_2):
        pass
    await statepath.rollback(old)
    (key,) = await places.keys(old, which)
    bad = bytearray(await places.read(old, key))
    bad[len(bad) // 3] ^= 0x01
    await places.write(old, key, bytes(bad))
    async with statepath.open(old, readonly=True) as reader:
        assert [one.key for one in await reader.verify()] == [key]
    done = await statepath.repair(old)
    assert (done.remedies, done.left) == (("is kept aside",), ())
    assert [await places.read(old, kept) for kept in done.kept] == [bad]


async def test_where_the_state_of_before_is_damaged_the_history_has_it(old, to_2, places):
    async with statepath.open(old, autosave=0, migrations=to_2):
        pass
    await places.write(old, BACKUP, (await places.read(old, BACKUP)).replace(b"done", b"gone"))
    assert (await statepath.rollback(old)).to == 4
    async with statepath.open(old, autosave=0) as store:
        assert (await documents(store))["b"] == {"id": "b", "state": "done"}


async def test_where_the_history_has_no_migration_either_the_damage_is_named(old, to_2, places):
    async with statepath.open(old, autosave=0, migrations=to_2):
        pass
    to = places.new()
    await statepath.copy(old, to)
    await places.write(to, BACKUP, (await places.read(old, BACKUP)).replace(b"done", b"gone"))
    with pytest.raises(CorruptionError, match=r"do not match its digest; and .* put a sound copy of it back"):
        await statepath.rollback(to)


async def test_clean_leaves_the_archive_of_a_state_of_before_a_rollback(old, to_2, monkeypatch):
    """Nothing else names it once the history does not reach back so far."""
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        await asyncio.sleep(0.001)
        (segment,) = (await store.archive("tasks", older_than="0s", id="a")).segments
    kept = (await statepath.rollback(old)).kept
    monkeypatch.setattr("statepath.engine.cleaning._RUN", 0.0)
    async with statepath.open(old, autosave=0) as store:
        monkeypatch.setattr("statepath.engine.archiving.transactions", nothing_left)
        for key in await store.backups():
            await store._engine.backend.delete(key)
        assert segment not in [key for key, _ in (await store.clean(older_than="0s", dry_run=True)).objects]
        await store._engine.backend.delete(kept)
        assert segment in [key for key, _ in (await store.clean(older_than="0s", dry_run=True)).objects]


async def test_a_rollback_does_not_bring_back_a_segment_that_was_given_up(old, to_2, places, monkeypatch):
    async with statepath.open(old, autosave=0) as store:
        (segment,) = (await store.archive("tasks", older_than="0s", id="a")).segments
    async with statepath.open(old, autosave=0, migrations=to_2):
        pass
    await places.write(old, segment, b"damaged")
    monkeypatch.setattr(
        "statepath.engine.archiving._pack", lambda part: (b"", b"")
    )  # no longer the same bytes
    assert (await statepath.repair(old)).lost == (segment,)
    await statepath.rollback(old)
    async with statepath.open(old, autosave=0) as store:
        assert await store.verify() == []


async def nothing_left(*_):
    """A history that was trimmed up to now."""
    for change in ():
        yield change


async def test_without_a_migration_there_is_none_to_take_back(old):
    with pytest.raises(NotFoundError, match="no migration in the history"):
        await statepath.rollback(old)


async def test_a_copy_with_its_history_has_the_way_back_too(old, to_2, places):
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        await store.collection("tasks").put({"id": "since", "status": "new"})
    to = places.new()
    await statepath.copy(old, to, history=True)
    assert BACKUP not in await places.keys(to)
    assert (await statepath.rollback(to)).to == 4
    async with statepath.open(to, autosave=0) as store:
        assert store.schema_versions == {}
        assert (await documents(store))["a"] == {"id": "a", "state": "new"}
    with pytest.raises(InvalidArgumentError, match="no migration to take back"):
        await statepath.rollback(to)


async def test_a_new_store_is_not_emptied_by_a_rollback(path, to_2):
    async with statepath.open(path, autosave=0, migrations=to_2) as store:
        await store.collection("tasks").put({"id": "a", "status": "new"})
    with pytest.raises(NotFoundError):
        await statepath.rollback(path)


async def test_a_restore_does_not_cross_a_migration_in_place(old, to_2, elsewhere):
    async with statepath.open(old, autosave=0, migrations=to_2) as store:
        with pytest.raises(UnsupportedError, match="migrate rollback") as error:
            await store.restore(at=2)
        assert (error.value.code, store.seq) == ("other_schema", 5)
        to = elsewhere.new()
        await store.restore(at=2, to=to)
        assert [one.key for one in await store.diff(4)] == ["tasks/a", "tasks/b"]
    async with statepath.open(to, autosave=0, migrations=to_2) as other:
        assert (await documents(other))["b"] == {"id": "b", "status": "done"}


async def test_a_restore_crosses_a_migration_of_what_was_empty_then(path, to_2, to_3):
    async with statepath.open(path, autosave=0, migrations=to_2) as store:
        await store.collection("other").put({"id": "a"})
        assert store.seq == 2
    async with statepath.open(path, autosave=0, migrations=to_3) as store:
        await store.collection("tasks").put({"id": "b", "result": {}})
        full = store.seq
        assert (await undone_by(store, 0)).needed
        for seq, there in ((0, []), (2, ["other/a"]), (full, ["other/a", "tasks/b"])):
            await store.restore(at=seq)
            assert [one.key for one in await store.diff(0)] == there
            assert store.schema_versions == {"tasks": 3}


async def test_a_dry_run_tells_each_document_and_changes_nothing(old, to_2, places):
    before = await places.keys(old)
    plan = await statepath.plan_migration(old, settings=statepath.Settings.load(old, migrations=to_2))
    assert plan.versions == {"tasks": (1, 2)}
    assert [(one.key, one.before, one.after) for one in plan.differences] == [
        ("tasks/a", {"id": "a", "state": "new"}, {"id": "a", "status": "new"}),
        ("tasks/b", {"id": "b", "state": "done"}, {"id": "b", "status": "done"}),
    ]
    assert await places.keys(old) == before


async def test_migrations_can_be_left_to_the_operator(old, to_2):
    with pytest.raises(UnsupportedError, match="tasks from 1 to 2") as error:
        await statepath.open(old, migrations=to_2, migrate=False)
    assert error.value.code == "migration_pending"
    settings = statepath.Settings.load(old, migrations=to_2, migrate=False)
    assert (await statepath.migrate(old, settings=settings)).seq == 5
    assert await statepath.migrate(old, settings=settings) is None
    async with statepath.open(old, migrations=to_2, migrate=False) as store:
        assert store.seq == 5


@pytest.mark.slow
async def test_a_migration_too_large_for_a_record_is_one_commit_all_the_same(path, module, places):
    async with statepath.open(path, autosave=0) as store:
        for n in range(3):
            await store.collection("tasks").put({"id": str(n), "text": "x" * 4_000_000})
    wide = module("""
        @migration("tasks", 1, 2)
        def wide(task):
            return task | {"wide": True}
    """)
    async with statepath.open(path, autosave=0, migrations=wide) as store:
        assert {one.seq for one in await store.history(since=3)} == {4}
    assert len(await places.keys(path, "bodies/")) == 1
    async with statepath.open(path, autosave=0, migrations=wide) as store:
        assert all([one["wide"] async for one in store.collection("tasks")])


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ("no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("json:no_such_function", "cannot be imported: AttributeError"),
        ("json", "there is no migration: is @migration missing"),
    ],
)
async def test_what_cannot_be_loaded_is_named_and_nothing_is_opened(path, places, paths, reason):
    with pytest.raises(ConfigurationError, match=reason):
        await statepath.open(path, migrations=paths)
    assert await places.keys(path) == []


async def test_a_gap_and_two_of_a_kind_are_named(old, to_2, to_3, module):
    gap = module("""
        @migration("tasks", 2, 3)
        def later(task):
            return task
    """)
    with pytest.raises(ConfigurationError, match="no migration of tasks begins at version 1"):
        await statepath.open(old, migrations=gap)
    with pytest.raises(ConfigurationError, match="two migrations of tasks begin at version 1"):
        await statepath.open(old, migrations=(to_2, to_3))


async def test_a_function_can_be_named_by_itself(old, to_3):
    async with statepath.open(old, readonly=True, migrations=f"{to_3}:rename") as store:
        assert store._engine.migrations.target("tasks") == 2


async def test_an_entry_point_announces_migrations(old, to_2, tmp_path):
    folder = tmp_path / "announcing-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: announcing\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(f"[statepath.migrations]\nmine = {to_2}\n")
    async with statepath.open(old, autosave=0) as store:
        assert store.schema_versions == {"tasks": 2}


def test_versions_have_to_rise():
    with pytest.raises(InvalidArgumentError):
        statepath.migration("tasks", 2, 2)
    with pytest.raises(InvalidArgumentError):
        statepath.migration("tasks", 0, 1)


@pytest.mark.parametrize("versions", [(1, 1.1), (1.0, 2), ("1", 2), (True, 2)], ids=str)
def test_versions_are_integers(versions):
    with pytest.raises(InvalidArgumentError, match="must be an int, not "):
        statepath.migration("tasks", *versions)


@pytest.mark.parametrize("name", ["Tasks", "", "schema_versions", None])
def test_a_migration_is_one_of_a_collection_that_there_can_be(name):
    with pytest.raises(InvalidArgumentError, match="collection"):
        statepath.migration(name, 1, 2)


def test_versions_that_are_none_are_told_with_the_member_that_has_them():
    with pytest.raises(CorruptionError, match=r"the member schema_versions of state\.json") as caught:
        decode_versions(b'{"tasks": 1.1}')
    assert caught.value.key == "state.json"


@pytest.fixture
async def shared(path):
    """A path of a backend that takes several writers."""
    async with statepath.open(path, autosave=0) as store:
        can = store._engine.backend.capabilities
    path = f"memory://{uuid4().hex}" if can.exclusive and not can.sharing else path
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "state": "new"})
    return path


@pytest.mark.everywhere
async def test_a_running_writer_that_knows_less_stops_with_a_clear_error(shared, to_2):
    async with statepath.open(shared, autosave=0) as older:
        await older.collection("tasks").put({"id": "a", "state": "new"})
        async with statepath.open(shared, autosave=0, migrations=to_2) as newer:
            for _ in range(2):
                with pytest.raises(
                    UnsupportedError, match="schema version 2, and this program knows version 1"
                ):
                    await older.collection("tasks").put({"id": "b", "state": "old"})
            assert not (await older.health()).healthy
            assert await documents(newer) == {"a": {"id": "a", "status": "new"}}


@pytest.mark.everywhere
async def test_a_running_writer_whose_migration_is_taken_back_stops_with_a_clear_error(shared, to_2):
    async with statepath.open(shared, autosave=0, migrations=to_2) as newer:
        await newer.collection("tasks").put({"id": "a", "status": "done"})
        await statepath.rollback(shared)
        for _ in range(2):
            with pytest.raises(UnsupportedError, match="taken back to schema version 1") as error:
                await newer.collection("tasks").put({"id": "b", "status": "new"})
            assert error.value.code == "older_schema"
        assert not (await newer.health()).healthy
    async with statepath.open(shared, autosave=0, migrations=to_2) as again:
        assert await documents(again) == {"a": {"id": "a", "status": "new"}}


async def by_watching(store):
    async for _ in store.watch(since=0):
        pass


async def by_reading_afresh(store):
    await store.collection("tasks").get("a", fresh=True)


async def by_a_transaction_that_reads(store):
    async with store.transaction() as tx:
        await tx.get(store.collection("tasks"), "a")


@pytest.mark.parametrize(
    "meets", [by_watching, by_reading_afresh, by_a_transaction_that_reads, statepath.Store.sync]
)
@pytest.mark.parametrize("what", ["migrated", "taken back"])
async def test_it_stops_whatever_has_met_the_change_of_the_schema(shared, to_2, meets, what):
    knows = {"migrations": to_2} if what == "taken back" else {}
    async with statepath.open(shared, autosave=0, **knows) as running:
        await running.collection("tasks").put({"id": "b", "note": "none"})
        if what == "taken back":
            await statepath.rollback(shared)
        else:
            await statepath.migrate(shared, settings=statepath.Settings.load(shared, migrations=to_2))
        async with statepath.open(shared, readonly=True) as store:
            head = store._engine.replica.head
        meeting = asyncio.create_task(meets(running))
        async with asyncio.timeout(60):
            while running._engine.replica.head < head:  # noqa: ASYNC110 - it may be met by another part before
                await asyncio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(UnsupportedError) as error:
                await running.collection("tasks").put({"id": "c", "note": "none"})
            assert error.value.code == ("older_schema" if what == "taken back" else "newer_schema")
    async with statepath.open(shared, readonly=True) as store:
        assert "c" not in await documents(store)
    await asyncio.gather(meeting, return_exceptions=True)


@pytest.mark.everywhere
async def test_what_another_writer_commits_meanwhile_is_migrated_too(shared, module, monkeypatch):
    seen = module("""
        @migration("tasks", 1, 2)
        def mark(task):
            return task | {"seen": True}
    """)
    async with statepath.open(shared, autosave=0) as older:
        log = type(older._engine.log)
        append, raced = log.append, []

        async def racing(self, after, commit):
            if not raced and any(isinstance(one, Note) for changes in commit.transactions for one in changes):
                raced.append(await older.collection("tasks").put({"id": "late"}))
            return await append(self, after, commit)

        monkeypatch.setattr(log, "append", racing)
        async with statepath.open(shared, autosave=0, migrations=seen) as newer:
            assert raced
            assert {id: one["seen"] for id, one in (await documents(newer)).items()} == {
                "a": True,
                "late": True,
            }


async def test_what_another_writer_deletes_right_behind_a_migration_is_no_failure_of_it(to_2, monkeypatch):
    path = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "state": "new"})
    raced = []

    class Racing(Engine):
        async def commit(self, *args, **options):
            seq = await super().commit(*args, **options)
            if not raced:
                raced.append(seq)
                async with statepath.open(path, autosave=0, migrations=to_2) as other:
                    await other.collection("tasks").delete("a")
                await self.catch_up()
            return seq

    monkeypatch.setattr("statepath.engine.opening.Engine", Racing)
    async with statepath.open(path, autosave=0, migrations=to_2) as store:
        assert raced
        assert (store.schema_versions, await documents(store)) == ({"tasks": 2}, {})


@pytest.mark.parametrize("steps", [1, 2])
async def test_a_program_that_migrates_late_keeps_the_state_of_before(to_2, to_3, monkeypatch, steps):
    path = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "state": "new"})
    stalled, free, engines = asyncio.Event(), asyncio.Event(), []
    read, keep_before = MemoryBackend.read, migrating._keep_before

    async def reading(self, key, **options):
        try:
            return await read(self, key, **options)
        finally:
            if key == BACKUP and engines and not stalled.is_set():
                stalled.set()
                await free.wait()

    async def keeping(engine):
        engines.append(engine)
        return await keep_before(engine)

    async def migrated(migrations):
        async with statepath.open(path, autosave=0, migrations=migrations) as store:
            return store.schema_versions

    monkeypatch.setattr(MemoryBackend, "read", reading)
    monkeypatch.setattr(migrating, "_keep_before", keeping)
    async with meanwhile(migrated(to_3)) as late:
        await stalled.wait()
        for migrations in (to_2, to_3)[-steps:]:
            await migrated(migrations)
        await engines[0].catch_up()
        free.set()
        assert await late == {"tasks": 3}
    assert (await statepath.rollback(path)).to == steps


async def test_a_state_that_needs_a_newer_writer_is_not_written(old, places):
    """Whatever that will be: a commit says so."""
    import msgspec
    from statepath.backend import decode_commit, encode_commit

    keys = [key for key in await places.keys(old, "journal/") if key.endswith(".jsonl")]
    *lines, last = (await places.read(old, keys[-1])).splitlines(keepends=True)
    newer = bytes(encode_commit(msgspec.structs.replace(decode_commit(last), min_writer=99)))
    await places.write(old, keys[-1], b"".join([*lines, newer]))
    for key in await places.keys(old, "state."):
        await places.delete(old, key)
    floor = json.loads(await places.read(old, "journal/floor"))
    del floor["crc"]
    await places.write(old, "journal/floor", bytes(statepath.commit.seal(floor | {"snapshots": []})))
    with pytest.raises(UnsupportedError, match="written in format 99") as error:
        await statepath.open(old)
    assert error.value.code == "newer_format"
    async with statepath.open(old, readonly=True) as reader:
        assert reader.seq == 4


async def test_a_conflict_of_a_migration_is_no_conflict_of_others(shared, to_2):
    async with statepath.open(shared, autosave=0) as store:
        with pytest.raises(ConflictError, match="was to follow seq"):
            await store._engine.commit([Note("migrated", "")], [("", "", store.seq - 1)])
        assert await store.collection("other").put({"id": "a"})


async def test_a_backup_in_the_place_of_the_state_mends_versions_that_are_damaged(tmp_path):
    async with statepath.open(tmp_path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
        backup = await store.backup()
        await store._engine.commit([Put(MEMBERS, SCHEMA_MEMBER, Raw(b'{"tasks":2.5}'))])
        await store.snapshot()
    with pytest.raises(CorruptionError, match=r"put the newest backup .* in the place of state\.json"):
        await statepath.open(tmp_path, autosave=0)
    (tmp_path / "state.json").write_bytes((tmp_path / backup).read_bytes())
    async with statepath.open(tmp_path, autosave=0) as store:
        assert await documents(store) == {"a": {"id": "a"}}
        assert store.schema_versions == {}
