"""Session logs and reports that are removed, one by one or by the bounds of the settings, and what comes after them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import timedelta
from unittest.mock import AsyncMock
from uuid import uuid4

import pytest
import statepath
from statepath.commit import RemoveLog, RemoveReport
from statepath.engine import bounding, verification
from statepath.engine.files import Files
from statepath.engine.ids import log_key
from statepath.engine.restoring import present
from statepath.errors import (
    ClosedError,
    ConfigurationError,
    ConflictError,
    HistoryTrimmedError,
    NotFoundError,
    ReadOnlyError,
    UnavailableError,
)
from statepath.events import Events, LogsRemoved, ReportsRemoved

LATER = "1h"
"""A view interval that leaves the files as they are, unless someone waits for them."""


async def crash(store):
    """Leave the storage as a program does that ends in the middle of it."""
    await store._engine.release()


@pytest.fixture
async def crashed(path):
    """A store that knows of the removal of a log and a report, whose files are still there."""
    store = await statepath.open(path, autosave=0, view_interval=LATER)
    await store.append_log("gone", "old\n")
    await store.append_log("anew", "older than that\n")
    await store.save_report("gone", {"n": 1})
    await store.save_report("anew", {"n": 1})
    await store.snapshot()
    await store.append_log("gone", "not so old\n")
    await store.append_log("anew", "not so old\n")
    await store._engine.commit([RemoveLog("gone"), RemoveLog("anew"), RemoveReport("gone")])
    await store.append_log("anew", "new\n")
    await crash(store)
    return path


@pytest.mark.everywhere
async def test_a_log_that_was_removed_is_gone_and_can_begin_anew(store, path, places):
    await store.append_log("s/1", "old\n")
    await store.snapshot()
    await store.append_log("s/1", "older\n")
    assert await store.delete_log("s/1") is True
    assert (await store.logs(), (await store.stats()).logs) == ([], 0)
    with pytest.raises(NotFoundError):
        await store.read_log("s/1")
    assert await places.keys(path, "logs/") == []
    assert await store.delete_log("s/1") is False
    await store.append_log("s/1", "new\n")
    assert await store.read_log("s/1") == "new\n"
    assert await store.verify() == []
    await store.aclose()
    async with statepath.open(path, autosave=0) as again:
        await again.append_log("s/1", "newer\n")
        assert await again.read_log("s/1") == "new\nnewer\n"
        assert await again.verify() == []


async def test_a_report_that_was_removed_is_gone(store, path, places):
    await store.save_report("r", 1)
    await store.snapshot()
    assert await store.delete_report("r") is True
    assert await store.reports() == []
    with pytest.raises(NotFoundError):
        await store.read_report("r")
    assert await store.verify() == []
    assert await store.delete_report("r") is False
    await store.save_report("r", 2)
    assert await store.read_report("r") == 2
    assert await store.verify() == []


async def test_reports_that_were_removed_take_no_memory(store):
    for n in range(3):
        await store.save_report(str(n), n)
        await store.delete_report(str(n))
    await store.save_report("kept", 1)
    assert list(store._engine.replica.reports) == ["kept"]


async def test_what_was_removed_is_told_though_its_file_cannot_be_deleted_for_now(path, monkeypatch):
    events, told = Events(), []
    events.on(LogsRemoved, told.append)
    events.on(ReportsRemoved, told.append)
    async with statepath.open(path, autosave=0, log_bytes=10, report_bytes=10, events=events) as store:
        await store.append_log("a", "eleven bytes")
        await store.save_report("b", "eleven bytes")
        flush, seq = store._engine.flush_file, store.seq

        async def refused(key):
            if store.seq > seq:
                raise UnavailableError("not now")
            await flush(key)

        monkeypatch.setattr(store._engine, "flush_file", refused)
        with pytest.raises(UnavailableError, match="not now"):
            await store.clean()
        monkeypatch.setattr(store._engine, "flush_file", flush)
        await store.clean()
    assert [(type(event), event.ids) for event in told] == [(LogsRemoved, ("a",)), (ReportsRemoved, ("b",))]


async def test_what_was_removed_is_told_though_the_handle_is_closed_meanwhile(path, monkeypatch):
    events, told = Events(), []
    events.on(LogsRemoved, told.append)
    async with statepath.open(path, autosave=0, log_bytes=10, events=events) as store:
        await store.append_log("a", "eleven bytes")
        flush, seq = store._engine.flush_file, store.seq

        async def closed_meanwhile(key):
            if store.seq > seq:
                raise ClosedError("the store is closed")
            await flush(key)

        monkeypatch.setattr(store._engine, "flush_file", closed_meanwhile)
        await store.clean()
    assert [event.ids for event in told] == [("a",)]


async def test_of_two_who_remove_a_log_one_has(store):
    await store.append_log("a", "1\n")
    assert sorted(await asyncio.gather(store.delete_log("a"), store.delete_log("a"))) == [False, True]


async def test_a_log_that_the_state_does_not_know_is_removed_too(tmp_path):
    path = tmp_path / "store"
    async with statepath.open(path, autosave=0) as store:
        (path / "logs").mkdir(exist_ok=True)
        (path / "logs/session_x.log").write_text("by hand\n")
        assert await store.delete_log("x") is True
        assert not (path / "logs/session_x.log").exists()


async def test_what_is_appended_before_the_file_is_gone_begins_at_its_beginning(path):
    async with statepath.open(path, autosave=0, view_interval=LATER) as store:
        await store.append_log("a", "old\n")
        await store.flush()
        await store._engine.commit([RemoveLog("a")])
        await store.append_log("a", "new\n")
        await store.append_log("a", "newer\n")
        assert await store.read_log("a") == "new\nnewer\n"


async def test_an_append_that_a_removal_overtakes_begins_the_log_anew(store, monkeypatch):
    await store.append_log("a", "old\n")
    offset = store._engine.log_offset

    async def overtaken(id):
        found = await offset(id)
        await store.delete_log("a")
        return found

    monkeypatch.setattr(store._engine, "log_offset", overtaken)
    await store.append_log("a", "new\n")
    assert await store.read_log("a") == "new\n"


async def test_the_history_tells_of_it_and_has_the_text(store):
    await store.append_log("a", "old\n")
    await store.save_report("r", 1)
    await store.delete_log("a")
    await store.delete_report("r")
    told = [(change.kind, change.key, change.value) for change in await store.history()]
    assert told == [
        ("log", "logs/a", "old\n"),
        ("report", "reports/r", 1),
        ("delete", "logs/a", None),
        ("delete", "reports/r", None),
    ]


async def test_a_restore_to_before_brings_back_documents_only(store):
    await store.collection("raw").put({"id": "1"})
    await store.append_log("a", "old\n")
    await store.collection("raw").delete("1")
    await store.delete_log("a")
    await store.restore(at=2)
    assert await store.collection("raw").get("1") == {"id": "1"}
    assert await store.logs() == []
    assert await store.verify() == []


@pytest.mark.everywhere
async def test_a_crash_between_the_commit_and_the_files_brings_nothing_back(crashed):
    async with statepath.open(crashed, autosave=0) as store:
        assert await store.logs() == ["anew"]
        assert await store.read_log("anew") == "new\n"
        assert await store.reports() == ["anew"]
        assert await store.verify() == []


async def test_a_recovery_from_a_backup_brings_nothing_back(path, places):
    async with statepath.open(path, autosave=0) as store:
        await store.append_log("a", "old\n")
        await store.backup()
        await store.append_log("a", "older\n")
        await store.delete_log("a")
        await store.collection("raw").put({"id": "1"})
    await places.delete(path, "state.json")
    async with statepath.open(path, autosave=0) as store:
        assert store.damage
        assert await store.logs() == []
        await store.append_log("a", "new\n")
        assert await store.read_log("a") == "new\n"
        assert await store.verify() == []


@pytest.mark.parametrize("history", [False, True])
async def test_a_copy_has_what_the_log_says_and_not_what_the_files_still_show(
    crashed, places, contents, history
):
    to = places.new()
    await statepath.copy(crashed, to, history=history)
    async with statepath.open(to, autosave=0) as store:
        held = await contents(store)
        assert (held["logs"], held["reports"]) == ({"anew": "new\n"}, {"anew": {"n": 1}})
        assert await store.verify() == []


async def test_a_log_that_is_removed_while_it_is_copied_is_told(store):
    await store.append_log("a", "old\n")
    await store.snapshot()
    engine = store._engine
    files = Files(engine.backend, engine.log, await present(engine), engine.vitals.saved[0])
    await store.delete_log("a")
    with pytest.raises(ConflictError, match=r"logs/session_a\.log was removed while it was read"):
        [piece async for piece in files.read()]


@pytest.mark.parametrize("text", ["new\n", "new, and longer than before\n"])
@pytest.mark.parametrize("shown", ["in its file", "in the journal"])
async def test_a_log_that_is_begun_anew_while_it_is_copied_is_told(store, shown, text):
    """Though it has become as long as what was to be copied, or longer."""
    await store.append_log("a", "old\n")
    await store.snapshot()
    if shown == "in the journal":
        await store.append_log("a", "old\n")
    engine = store._engine
    files = Files(engine.backend, engine.log, await present(engine), engine.vitals.saved[0])
    await store.delete_log("a")
    for _ in range(2 if shown == "in the journal" else 1):
        await store.append_log("a", text)
    await store.flush()
    with pytest.raises(ConflictError, match=r"logs/session_a\.log was removed while it was read"):
        [piece async for piece in files.read()]


async def test_a_log_that_goes_on_while_it_is_copied_is_taken_as_it_was(store):
    await store.append_log("a", "old\n")
    await store.snapshot()
    engine = store._engine
    files = Files(engine.backend, engine.log, await present(engine), engine.vitals.saved[0])
    await store.append_log("a", "new\n")
    await store.flush()
    assert [piece.data async for piece in files.read()] == [b"old\n"]


@pytest.mark.parametrize("meanwhile", ["written again", "removed"])
async def test_with_its_history_a_report_is_copied_as_that_has_it(
    store, tmp_path, places, monkeypatch, meanwhile
):
    for id in ("a", "b"):
        await store.save_report(id, {"id": id})
    await store.snapshot()
    begin = Files.read

    async def changed(files):
        if meanwhile == "removed":
            await store.delete_report("a")
        else:
            await store.save_report("a", {"id": "a", "later": True})
            await store.flush()
        async for piece in begin(files):
            yield piece

    monkeypatch.setattr(Files, "read", changed)
    await store.export(tmp_path / "file", history=True)
    monkeypatch.undo()
    to = places.new()
    await statepath.import_backup(tmp_path / "file", to)
    async with statepath.open(to, autosave=0) as other:
        assert await other.verify() == []
        assert [await other.read_report(id) for id in ("a", "b")] == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("written", ["since the log was trimmed", "before"])
async def test_a_report_is_copied_as_its_history_has_it_while_that_is_trimmed(tmp_path, monkeypatch, written):
    begin = Files.read

    async def trimmed(files):
        await store.delete_report("a")
        await store._engine._writing_snapshotter().save_floor(floor=3)
        await store._engine.log.trim(2)
        async for piece in begin(files):
            yield piece

    monkeypatch.setattr(Files, "read", trimmed)
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0) as store:
        for n in range(4 if written == "since the log was trimmed" else 1):
            await store.save_report("a", {"n": n})
        while (await store.stats()).seq < 4:
            await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        if written == "before":
            with pytest.raises(HistoryTrimmedError):
                await store.export(tmp_path / "file", history=True)
            return
        await store.export(tmp_path / "file", history=True)
    await statepath.import_backup(tmp_path / "file", tmp_path / "copy")
    async with statepath.open(tmp_path / "copy", autosave=0) as other:
        assert await other.verify() == []
        assert await other.read_report("a") == {"n": 3}


class Watched:
    """A backend that counts what is read of session logs."""

    def __init__(self, backend):
        self._backend, self.bytes = backend, 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def read(self, key, **options):
        blob = await self._backend.read(key, **options)
        self.bytes += len(blob.data) if key.startswith("logs/") else 0
        return blob


async def test_a_log_that_was_appended_to_is_passed_on_as_it_is_read(store, monkeypatch):
    """It may be larger than memory, whatever a server adds to it meanwhile."""
    monkeypatch.setattr("statepath.engine.files.PIECE", 1000)
    for n in range(10):
        await store.append_log("a", f"{n}" * 1000)
        await store.flush()
    await store.snapshot()
    shown = store.seq
    for text in ("more\n", "last\n"):
        await store.append_log("a", text)
    engine, watched = store._engine, Watched(store._engine.backend)
    pieces = Files(watched, engine.log, await present(engine), shown).read()
    read = [(await anext(pieces)).data]
    assert watched.bytes < 5000
    read += [piece.data async for piece in pieces]
    assert b"".join(read).decode() == await store.read_log("a")


@pytest.mark.parametrize("away", [False, True])
async def test_a_replica_follows_a_removal_also_where_it_is_made_anew(
    path, store, elsewhere, contents, monkeypatch, away
):
    for id in ("gone", "anew"):
        await store.append_log(id, "much longer than what comes later\n")
        await store.save_report(id, 1)
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    for id in ("gone", "anew"):
        await store.delete_log(id)
        await store.delete_report(id)
    await store.append_log("anew", "new\n")
    await store.save_report("anew", 2)
    if away:
        monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
        store._engine._snapshotter._history = timedelta(seconds=-1)
        for n in range(3):
            await store.collection("raw").put({"id": "1", "n": n})
            await store.snapshot()
        assert (await store.stats()).floor > store.seq - 2
    await statepath.mirror(path, to, once=True)
    async with statepath.open(to, readonly=True) as replica:
        held = await contents(replica)
        assert (held["logs"], held["reports"]) == ({"anew": "new\n"}, {"anew": 2})
        assert [one for one in await replica.verify() if one.severity == "damage"] == []


async def test_an_export_with_the_history_of_what_was_removed_is_taken(store, places, tmp_path):
    await store.append_log("gone", "much longer than what comes later\n")
    await store.append_log("anew", "much longer than what comes later\n")
    await store.save_report("gone", 1)
    await store.delete_log("gone")
    await store.delete_log("anew")
    await store.delete_report("gone")
    await store.append_log("anew", "new\n")
    await store.export(tmp_path / "file", history=True)
    to = places.new()
    await statepath.import_backup(tmp_path / "file", to)
    async with statepath.open(to, autosave=0) as other:
        assert (await other.logs(), await other.reports()) == (["anew"], [])
        assert await other.read_log("anew") == "new\n"
        assert await other.verify() == []


async def test_repair_writes_what_was_appended_since_and_nothing_of_before(path, places):
    async with statepath.open(path, autosave=0) as store:
        await store.append_log("a", "old, and longer\n")
        await store.flush()
        await store.delete_log("a")
        await store.append_log("a", "new\n")
    for key in await places.keys(path, "logs/"):
        await places.write(path, key, b"bad\n")
    done = await statepath.repair(path)
    assert [finding.key for finding in done.found] == ["logs/session_a.log"]
    assert done.left == ()
    async with statepath.open(path, autosave=0) as store:
        assert await store.read_log("a") == "new\n"


@pytest.mark.parametrize("what", ["log", "report"])
async def test_what_is_removed_while_it_is_verified_is_no_damage(store, monkeypatch, what):
    await store.append_log("a", "old\n")
    await store.save_report("r", 1)
    await store.snapshot()
    journal = verification._Verification._journal

    async def meanwhile(self):
        await journal(self)
        assert await (store.delete_log("a") if what == "log" else store.delete_report("r"))

    monkeypatch.setattr(verification._Verification, "_journal", meanwhile)
    assert await store.verify() == []


async def test_what_the_state_says_and_nobody_removed_is_damage_still(store, path, places):
    await store.append_log("a", "old\n")
    await store.save_report("r", 1)
    await store.append_log("b", "old\n")
    await store.snapshot()
    await store.delete_log("b")
    async with places.objects(path) as backend:
        keys = [entry.key async for entry in backend.list_keys("")]
    for key in keys:
        if key.startswith(("logs/", "reports/")):
            await store._engine.backend.delete(key)
    found = [finding.key for finding in await store.verify()]
    assert found == ["logs/session_a.log", "reports/r.json"]


# Bounds


class Logs:
    """What the bounds hold for session logs."""

    age, bytes, told = "log_age", "log_bytes", LogsRemoved

    def __init__(self, store):
        self.store = store

    @staticmethod
    def file(id):
        return f"logs/session_{id}.log"

    async def write(self, id):
        await self.store.append_log(id, "1234\n")

    async def kept(self):
        return await self.store.logs()


class Reports(Logs):
    age, bytes, told = "report_age", "report_bytes", ReportsRemoved

    @staticmethod
    def file(id):
        return f"reports/{id}.json"

    async def write(self, id):
        await self.store.save_report(id, 1234)

    async def kept(self):
        return await self.store.reports()


both = pytest.mark.parametrize("kind", [Logs, Reports])
SIZE = 5
"""The bytes of what each of them writes once."""


@both
@pytest.mark.everywhere
async def test_the_longest_untouched_go_until_the_rest_is_within_the_bound(path, places, kind):
    async with statepath.open(path, autosave=0, **{kind.bytes: 2 * SIZE}) as store:
        files, told = kind(store), []
        store.events.on(kind.told, told.append)
        for id in ("a", "b", "c"):
            await files.write(id)
            await store.flush()
        tried = await store.clean(dry_run=True)
        place = len(kind.file("a"))
        assert (tried.bytes, [key[:place] for key, _ in tried.objects]) == (SIZE, [kind.file("a")])
        assert await files.kept() == ["a", "b", "c"]
        assert await store.clean() == tried
        assert await files.kept() == ["b", "c"]
        assert told == [kind.told(("a",), SIZE)]
        assert (await store.clean()).objects == ()
        assert await store.verify() == []


@both
async def test_what_was_not_written_to_for_so_long_goes(path, kind, monkeypatch):
    async with statepath.open(path, autosave=0, **{kind.age: timedelta(hours=1)}) as store:
        files = kind(store)
        await files.write("old")
        await files.write("live")
        await store.flush()
        assert (await store.clean()).objects == ()
        await asyncio.sleep(0.02)
        between = time.time()
        await asyncio.sleep(0.02)
        await files.write("live")
        await store.flush()
        monkeypatch.setattr(bounding, "unhurried_now", lambda: between + 3600)
        monkeypatch.setattr(bounding, "earliest_now", AsyncMock(return_value=between + 3600))
        await store.clean()
        assert await files.kept() == ["live"]


@both
async def test_a_clock_that_jumps_ahead_removes_nothing(path, kind, monkeypatch):
    async with statepath.open(path, autosave=0, **{kind.age: "1d"}) as store:
        await kind(store).write("a")
        await store.flush()
        now = time.time()
        monkeypatch.setattr("time.time", lambda: now + 10 * 86_400)
        assert (await store.clean(dry_run=True)).objects == ()
        assert (await store.clean()).objects == ()
        assert await kind(store).kept() == ["a"]


@both
async def test_what_is_not_old_by_the_clock_of_the_storage_stays(kind, monkeypatch):
    async with statepath.open(f"memory://{uuid4().hex}", autosave=0, **{kind.age: "1d"}) as store:
        await kind(store).write("a")
        monkeypatch.setattr("statepath.engine.aging.unhurried_now", lambda: time.time() + 10 * 86_400)
        monkeypatch.setattr(bounding, "unhurried_now", lambda: time.time() + 10 * 86_400)
        assert (await store.clean()).objects == ()
        assert await kind(store).kept() == ["a"]


async def test_a_session_log_with_a_long_id_is_bounded_too(path):
    async with statepath.open(path, autosave=0, log_bytes=0) as store:
        await store.append_log("S" * 80, "1234\n")
        assert sum(size for _, size in (await store.clean()).objects) == 5
        assert await store.logs() == []


async def test_a_session_log_that_only_its_file_has_is_deleted_whatever_its_name(tmp_path):
    async with statepath.open(tmp_path, autosave=0) as store:
        for id in ("a", "S" * 80):
            assert await store.delete_log(id) is False
            file = tmp_path / log_key(id)
            file.parent.mkdir(exist_ok=True)
            file.write_text("text\n")
            assert await store.delete_log(id) is True
            await store.flush()
            assert not file.exists()


async def test_bounds_of_one_kind_leave_the_other_alone(path):
    async with statepath.open(path, autosave=0, log_bytes=0) as store:
        await store.append_log("a", "1\n")
        await store.save_report("a", 1)
        await store.clean()
        assert (await store.logs(), await store.reports()) == ([], ["a"])


async def test_without_bounds_everything_stays(store):
    await store.append_log("a", "1\n")
    await store.save_report("a", 1)
    assert (await store.clean(older_than="0s")).objects == ()
    assert (await store.logs(), await store.reports()) == (["a"], ["a"])


@both
async def test_what_is_written_to_meanwhile_stays(path, monkeypatch, kind):
    async with statepath.open(path, autosave=0, **{kind.bytes: 0}) as store:
        files = kind(store)
        await files.write("a")
        await files.write("b")
        due = bounding._due

        async def meanwhile(*args):
            found = await due(*args)
            await files.write("a")
            return found

        monkeypatch.setattr(bounding, "_due", meanwhile)
        done = await store.clean()
        assert [key[: len(kind.file("b"))] for key, _ in done.objects] == [kind.file("b")]
        assert await files.kept() == ["a"]
        assert await store.verify() == []


async def test_a_report_that_another_handle_writes_meanwhile_stays(monkeypatch):
    path = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0, report_bytes=0) as store:
        await store.save_report("a", 1)
        async with statepath.open(path, autosave=0) as other:
            due = bounding._due

            async def meanwhile(*args):
                found = await due(*args)
                await other.save_report("a", 2)
                return found

            monkeypatch.setattr(bounding, "_due", meanwhile)
            assert (await store.clean()).objects == ()
            assert await store.read_report("a") == 2


@both
async def test_a_time_that_the_storage_does_not_know_is_no_reason(path, monkeypatch, kind):
    async with statepath.open(path, autosave=0, **{kind.age: "1d"}) as store:
        await kind(store).write("a")
        await store.flush()
        listed = store._engine.backend.list_keys

        async def doubtful(prefix, **options):
            async for entry in listed(prefix, **options):
                yield statepath.backend.Entry(entry.key, entry.size, 0.0)

        monkeypatch.setattr(store._engine.backend, "list_keys", doubtful)
        assert (await store.clean()).objects == ()


async def test_what_was_kept_aside_at_a_time_that_is_not_known_stays(path, monkeypatch):
    async with statepath.open(path, autosave=0) as store:
        backend = store._engine.backend
        await backend.write("tasks/a.json.conflict.20260101T000000.000000Z", b"{}")
        listed = backend.list_keys

        async def doubtful(prefix, **options):
            async for entry in listed(prefix, **options):
                yield statepath.backend.Entry(entry.key, entry.size, 0.0)

        monkeypatch.setattr(backend, "list_keys", doubtful)
        assert (await store.clean(older_than="30d")).objects == ()


async def test_a_removal_that_fails_does_not_keep_the_others_from_being_told(path, monkeypatch):
    async with statepath.open(path, autosave=0, report_bytes=0) as store:
        for id in "abc":
            await store.save_report(id, 1)
        engine = store._engine
        commit, told = engine.commit, []
        store.events.on(ReportsRemoved, told.append)

        async def failing(changes, *more):
            if changes[0].id == "b":
                raise UnavailableError("no answer")
            return await commit(changes, *more)

        monkeypatch.setattr(engine, "commit", failing)
        with pytest.raises(UnavailableError):
            await store.clean()
        assert [sorted(event.ids) for event in told] == [["a", "c"]]


@both
async def test_a_server_looks_by_itself(path, kind):
    async with statepath.open(path, autosave=0) as store:
        await kind(store).write("a")
    events, removed = Events(), asyncio.Event()
    events.on(kind.told, lambda event: removed.set())
    async with statepath.open(path, autosave=0.02, events=events, **{kind.bytes: "0"}) as store:
        await asyncio.wait_for(removed.wait(), 60)
        assert await kind(store).kept() == []


async def test_a_reader_removes_nothing(path):
    async with statepath.open(path, autosave=0) as store:
        await store.append_log("a", "1\n")
        await store.save_report("r", 1)
    async with statepath.open(path, readonly=True, log_bytes=0, report_bytes=0) as reader:
        assert len((await reader.clean(dry_run=True)).objects) == 2
        for removing in (reader.clean(), reader.delete_log("a"), reader.delete_report("r")):
            with pytest.raises(ReadOnlyError):
                await removing


@both
async def test_a_bound_that_is_none_is_refused(path, kind):
    with pytest.raises(ConfigurationError, match=kind.age):
        await statepath.open(path, **{kind.age: "soon"})
    with pytest.raises(ConfigurationError, match=kind.bytes):
        await statepath.open(path, **{kind.bytes: "-1"})


PROGRAM = """
import asyncio, sys, statepath

async def main():
    async with statepath.open(sys.argv[1], autosave=0, view_interval=0) as store:
        for step in range(int(sys.argv[2]), 10_000):
            if step % 4 == 3:
                await store.delete_log("a")
            else:
                await store.append_log("a", f"{step}\\n")
            if step % 7 == 0:
                await store.snapshot()
            print(step, flush=True)

asyncio.run(main())
"""


def shown(step):
    """What the log has after so many steps of the program."""
    return "".join(f"{n}\n" for n in range(step // 4 * 4, step + 1)) if step % 4 != 3 else ""


@pytest.mark.slow
async def test_whenever_it_is_killed_the_log_is_as_it_was_told(tmp_path):
    path, step = str(tmp_path / "store"), 0
    for lines in (1, 3, 4, 5, 6, 9, 14, 23):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, path, str(step)], stdout=subprocess.PIPE, text=True
        ) as process:
            told = [line for _, line in zip(range(lines), process.stdout, strict=False)]
            process.kill()
            last = int([*told, *process.stdout][-1])
        async with statepath.open(path, autosave=0) as store:
            text = await store.read_log("a") if await store.logs() else ""
            assert text in (shown(last), shown(last + 1))
            assert await store.verify() == []
            step = last + 1 if text == shown(last) else last + 2


# Beside other writers


@pytest.fixture(params=["memory", "sqlite"])
def shared(request, tmp_path):
    """A place that takes several writers."""
    return f"memory://{uuid4().hex}" if request.param == "memory" else f"sqlite://{tmp_path}/shared.db"


@pytest.mark.parametrize("moment", ["read", "delete"])
async def test_a_writer_that_is_killed_while_it_removes_a_log_takes_nothing_along(
    shared, monkeypatch, moment
):
    """It ends right behind the removal of the first piece; another one began the log anew before its first request."""
    store = await statepath.open(shared, autosave=0)
    async with statepath.open(shared, autosave=0) as other:
        await store.append_log("a", "old and longer\n")
        await store.flush()
        await store.append_log("a", "older\n")
        await store.flush()
        await other.sync()
        backend, began, ended = store._engine.backend, asyncio.Event(), asyncio.Event()
        read, delete = backend.read, backend.delete

        async def begin_anew():
            if not began.is_set():
                began.set()
                await other.sync()
                await other.append_log("a", "new\n")
                await other.flush()

        async def reading(key, **options):
            blob = await read(key, **options)
            if moment == "read" and key.startswith("logs/session_a.log/"):
                await begin_anew()
            return blob

        async def deleting(key, **options):
            if key.startswith("logs/session_a.log/"):
                await begin_anew()
            try:
                return await delete(key, **options)
            finally:
                if key == f"logs/session_a.log/{0:020d}":
                    ended.set()
                    await asyncio.Event().wait()

        monkeypatch.setattr(backend, "read", reading)
        monkeypatch.setattr(backend, "delete", deleting)
        removing = asyncio.create_task(store.delete_log("a"))
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait((removing, waiting), return_when=asyncio.FIRST_COMPLETED)
        await crash(store)
        for task in (removing, waiting):
            task.cancel()
        await asyncio.gather(removing, waiting, return_exceptions=True)
        assert began.is_set()
        assert await other.read_log("a") == "new\n"
    async with statepath.open(shared, autosave=0) as again:
        assert await again.read_log("a") == "new\n"
        assert await again.verify() == []
