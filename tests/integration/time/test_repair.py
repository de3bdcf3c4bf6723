"""Repair: what can be rebuilt is rebuilt, what was bad is kept aside, and what is sound is not touched."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import statepath
from statepath.errors import (
    AccessDeniedError,
    CorruptionError,
    NotFoundError,
    StoreLockedError,
    UnavailableError,
)
from statepath.settings import Settings


@pytest.fixture
async def stored(path, fill, contents):
    """A store that was closed, and what it holds."""
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        return path, await contents(store)


async def holds(path, contents):
    async with statepath.open(path, autosave=0) as store:
        assert [one for one in await store.verify() if one.severity == "damage"] == []
        await store.collection("later").put({"id": "x"})
        held = await contents(store)
        del held["later"]
        return held


async def objects(places, path):
    return {key: await places.read(path, key) for key in await places.keys(path) if key != "lock"}


async def flip(places, path, key, part=0.5):
    data = bytearray(await places.read(path, key))
    data[int(len(data) * part)] ^= 0x80
    await places.write(path, key, bytes(data))
    return bytes(data)


async def some(places, path, prefix):
    return next(key for key in await places.keys(path, prefix) if ".json" in key)


async def test_a_sound_store_stays_as_it_is(stored, places):
    path, _ = stored
    before = await objects(places, path)
    done = await statepath.repair(path)
    assert (done.damaged, done.kept, done.left) == (False, (), ())
    assert await objects(places, path) == before


@pytest.mark.parametrize("key", ["state.json", "state.backup.", "journal/floor", "reports/r.json"])
async def test_what_was_bad_is_kept_aside_and_the_store_is_whole(stored, places, contents, key):
    path, held = stored
    if key.endswith("."):
        key = await some(places, path, key)
    bad = await flip(places, path, key)
    done = await statepath.repair(path)
    assert (done.damaged, done.left) == (True, ())
    (kept,) = done.kept
    assert kept.startswith(f"{key}.corrupt.")
    assert await places.read(path, kept) == bad
    assert await holds(path, contents) == held


async def test_a_dry_run_only_tells(stored, places):
    path, _ = stored
    await flip(places, path, "state.json")
    before = await objects(places, path)
    done = await statepath.repair(path, dry_run=True)
    assert [one.key for one in done.left] == ["state.json"]
    assert done.remedies == ("is kept aside, and written again from the newest backup and the journal",)
    assert await objects(places, path) == before


async def test_a_journal_damaged_behind_the_snapshot_begins_anew(stored, places, contents):
    """Opening the store does not read it there, so nobody would notice before a restore."""
    path, held = stored
    key = await some(places, path, "journal/")
    bad = await flip(places, path, key, 0.1)
    done = await statepath.repair(path)
    assert (done.damaged, done.left) == (True, ())
    assert bad in [await places.read(path, kept) for kept in await places.keys(path, "journal/")]
    async with statepath.open(path, readonly=True) as reader:
        assert (await reader.stats()).floor == reader.seq + 1
    assert await holds(path, contents) == held


async def test_a_damaged_floor_does_not_bar_the_repair_of_a_damaged_journal(path, places):
    async with statepath.open(path, autosave=0) as store:
        for n in range(1, 6):
            await store.collection("raw").put({"id": str(n)})
            if n == 2:
                await store.backup()
    bad = await flip(places, path, "journal/floor")
    await flip(places, path, (await places.keys(path, "journal/"))[-2], 0.9)
    await flip(places, path, "state.json")
    done = await statepath.repair(path)
    assert done.left == ()
    assert bad in [await places.read(path, kept) for kept in done.kept if kept.startswith("journal/floor.")]
    async with statepath.open(path, readonly=True) as store:
        assert store.damage == ()


async def test_where_the_one_backup_that_the_log_reaches_was_bad_there_is_another_one(
    stored, places, contents
):
    """Older ones are of no use once the history was given up."""
    path, held = stored
    await flip(places, path, await some(places, path, "journal/"), 0.1)
    await statepath.repair(path)
    await flip(places, path, max(await places.keys(path, "state.backup.")))
    assert (await statepath.repair(path)).left == ()
    await flip(places, path, "state.json")
    assert await holds(path, contents) == held


async def test_a_session_log_is_written_again_from_the_history(stored, places, contents):
    path, held = stored
    for key in await places.keys(path, "logs/"):
        await places.delete(path, key)
    done = await statepath.repair(path)
    assert (done.damaged, done.left) == (True, ())
    assert await holds(path, contents) == held


@pytest.mark.everywhere
async def test_a_session_log_that_was_altered_is_kept_aside_and_written_again(stored, places, contents):
    """Also where it consists of objects: of these, too, nothing altered stays."""
    path, held = stored
    await flip(places, path, (await places.keys(path, "logs/"))[-1])
    done = await statepath.repair(path)
    assert done.left == ()
    (kept,) = done.kept
    assert kept.startswith("logs/session_s%2f1.log.corrupt.")
    assert len(await places.read(path, kept)) == len(held["logs"]["s/1"])
    assert await holds(path, contents) == held


async def test_a_report_is_left_alone_where_the_history_is_given_up(stored, places, contents):
    """What was read of the damaged history may say something older."""
    path, held = stored
    async with statepath.open(path, autosave=0) as store:
        await store.backup()
    await flip(places, path, (await places.keys(path, "journal/"))[-2], 0.4)
    await statepath.repair(path)
    assert (await holds(path, contents))["reports"] == held["reports"]


@pytest.mark.parametrize("kind", ["index.json", "jsonl.gz"])
async def test_a_segment_of_the_archive_is_written_again_from_the_history(stored, places, kind):
    path, _ = stored
    async with statepath.open(path, autosave=0) as store:
        await store.archive("tasks", older_than="0s")
        held = [await store.read_archived(one.collection, one.id) async for one in store.archived()]
    (key,) = [key for key in await places.keys(path, "archive/") if key.endswith(kind)]
    good = await places.read(path, key)
    bad = await flip(places, path, key)
    done = await statepath.repair(path)
    assert (done.damaged, done.left) == (True, ())
    assert "written again if the history reaches back" in done.remedies[0]
    (kept,) = done.kept
    assert (await places.read(path, kept), await places.read(path, key)) == (bad, good)
    async with statepath.open(path, readonly=True) as store:
        assert [await store.read_archived(one.collection, one.id) async for one in store.archived()] == held


@pytest.fixture
async def lost(stored, places):
    """A store with a segment that is damaged, and its key. The history has when it was archived."""
    path, _ = stored
    async with statepath.open(path, autosave=0) as store:
        done = await store.archive("tasks", older_than="0s")
        await store.collection("raw").put({"id": "after"})
    await flip(places, path, done.segments[0])
    return path, done.segments[0]


@pytest.fixture
def packed_otherwise(monkeypatch):
    """What is packed now is not what was packed then, byte for byte."""
    monkeypatch.setattr("statepath.engine.archiving._pack", lambda part: (b"", b""))


async def test_a_segment_that_cannot_be_written_again_is_given_up_and_told(lost, packed_otherwise):
    path, segment = lost
    done = await statepath.repair(path)
    assert (done.left, done.lost, done.complete) == ((), (segment,), False)
    index = segment.replace(".jsonl.gz", ".index.json")
    assert [key.split(".corrupt.")[0] for key in done.kept] == [index, segment]
    async with statepath.open(path, readonly=True) as store:
        assert await store.verify() == []
        assert [one.key async for one in store.archived()] == []
    assert (await statepath.repair(path)).found == ()


async def test_so_is_one_whose_history_is_given_up(lost, places):
    path, segment = lost
    await flip(places, path, await some(places, path, "journal/"), 0.1)
    assert (await statepath.repair(path)).lost == (segment,)
    async with statepath.open(path, readonly=True) as store:
        assert await store.verify() == []


@pytest.mark.parametrize("backups", ["removed", "damaged"])
async def test_so_is_one_whose_history_lacks_its_beginning(path, places, monkeypatch, backups):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
    settings = Settings.load(path, autosave=0, history=timedelta(microseconds=1))
    async with statepath.open(path, settings=settings) as store:
        for n in range(4):
            await store.collection("raw").put({"id": str(n)})
            await store.snapshot()
        assert (await store.stats()).floor > 1
        (segment,) = (await store.archive("raw", older_than="0s", id="0")).segments
    for key in await places.keys(path, "state.backup."):
        await (places.delete(path, key) if backups == "removed" else flip(places, path, key))
    await flip(places, path, segment)
    done = await statepath.repair(path)
    assert (done.left, done.lost) == ((), (segment,))
    async with statepath.open(path, readonly=True) as store:
        assert await store.verify() == []


@pytest.mark.parametrize("history", [False, True])
async def test_a_segment_that_was_given_up_stops_no_copy(lost, packed_otherwise, history):
    path, _ = lost
    with pytest.raises(CorruptionError, match="does not match its digest"):
        await statepath.copy(path, f"memory://{uuid4().hex}", history=history)
    await statepath.repair(path)
    to = f"memory://{uuid4().hex}"
    await statepath.copy(path, to, history=history)
    async with statepath.open(to, readonly=True) as store:
        assert await store.collection("raw").get("after") == {"id": "after"}
        assert await store.verify() == []


@pytest.fixture
async def given_up(lost, packed_otherwise, places):
    """A store whose segment was given up, the seq that had named it, the state of then, and the segment's key."""
    path, segment = lost
    async with statepath.open(path, readonly=True) as store:
        seq = store.seq
    state = await places.read(path, "state.json")
    await statepath.repair(path)
    return path, seq, state, segment


async def test_a_restore_does_not_bring_back_what_was_given_up(given_up):
    path, seq, _, _ = given_up
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").delete("after")
        await store.restore(at=seq)
        assert await store.collection("raw").get("after") == {"id": "after"}
        assert await store.verify() == []
        assert [one.key async for one in store.archived()] == []


async def test_nor_does_one_to_another_place(given_up):
    path, seq, _, _ = given_up
    to = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.restore(at=seq, to=to)
    async with statepath.open(to, readonly=True) as store:
        assert await store.collection("raw").get("after") == {"id": "after"}
        assert await store.verify() == []


async def test_nor_does_an_older_snapshot_in_the_place_of_the_state(given_up, places):
    path, _, state, _ = given_up
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "after", "n": 2})
    await places.write(path, "state.json", state)
    async with statepath.open(path, autosave=0) as store:
        assert await store.collection("raw").get("after") == {"id": "after"}
        assert await store.verify() == []


async def test_a_restore_finds_a_segment_again_that_somebody_has_put_back(given_up, places):
    path, seq, _, segment = given_up
    index = segment.replace(".jsonl.gz", ".index.json")
    for key in (segment, index):
        (kept,) = await places.keys(path, f"{key}.corrupt.")
        data = bytearray(await places.read(path, kept))
        if key == segment:
            data[len(data) // 2] ^= 0x80  # as it was before it was damaged
        await places.write(path, key, bytes(data))
    async with statepath.open(path, autosave=0) as store:
        await store.restore(at=seq)
        assert await store.verify() == []
        assert [one.key async for one in store.archived()] != []


@pytest.fixture
async def mirrored(stored):
    """Where a replica of the store is that lacks what is archived later."""
    to = f"memory://{uuid4().hex}"
    await statepath.mirror(stored[0], to, once=True)
    return to


@pytest.mark.usefixtures("soon")
async def test_a_segment_that_was_given_up_stops_no_mirror(mirrored, lost, request):
    path, _ = lost
    new = f"memory://{uuid4().hex}"
    for to in (mirrored, new):
        with pytest.raises(CorruptionError, match="does not match its digest"):
            await statepath.mirror(path, to, once=True)
    request.getfixturevalue("packed_otherwise")
    await statepath.repair(path)
    for to in (mirrored, new):
        await statepath.mirror(path, to, once=True)
        async with statepath.open(to, readonly=True) as replica:
            assert await replica.collection("raw").get("after") == {"id": "after"}
            assert [one for one in await replica.verify() if one.severity == "damage"] == []


@pytest.mark.everywhere
async def test_the_last_backup_that_was_bad_is_followed_by_a_good_one(stored, places):
    path, _ = stored
    for key in await places.keys(path, "state.backup."):
        await flip(places, path, key)
    assert (await statepath.repair(path)).left == ()
    async with statepath.open(path, readonly=True) as reader:
        assert len(await reader.backups()) == 1


async def test_what_cannot_be_rebuilt_is_told(stored, places):
    """A session log whose history is given up."""
    path, _ = stored
    await flip(places, path, await some(places, path, "journal/"), 0.1)
    for key in await places.keys(path, "logs/"):
        await places.delete(path, key)
    left = (await statepath.repair(path)).left
    assert [finding.key for finding in left] == ["logs/session_s%2f1.log"]


async def test_where_there_is_no_store_none_is_made(path, places):
    with pytest.raises(NotFoundError):
        await statepath.repair(path)


async def test_a_damaged_file_of_a_document_is_written_again(tmp_path, fill, contents):
    """It has kept its time, so nobody can have edited it."""
    path = str(tmp_path / "store")
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        held = await contents(store)
    file = tmp_path / "store/tasks/first.json"
    good, times = file.read_bytes(), os.stat(file)
    file.write_bytes(good.replace(b"first", b"fxrst"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    done = await statepath.repair(path)
    assert [one.key for one in done.found] == ["tasks/first.json"]
    assert done.left == ()
    assert file.read_bytes() == good
    assert await holds(path, contents) == held


def link(file):
    file.symlink_to("elsewhere")


async def test_a_folder_where_a_documents_file_belongs_is_told_and_bars_no_other_repair(tmp_path):
    """It is a person's, and stays."""
    path, file = str(tmp_path / "store"), tmp_path / "store/tasks/a.json"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.save_report("r", {"n": 1})
    file.unlink()
    file.mkdir()
    (file / "mine").touch()
    (tmp_path / "store/reports/r.json").write_bytes(b"damaged")
    done = await statepath.repair(path)
    assert {one.key for one in done.found} == {"reports/r.json", "tasks/a.json"}
    assert [one.reason for one in done.left] == ["a folder is where tasks/a.json belongs; move it away"]
    file.rename(tmp_path / "elsewhere")
    assert (await statepath.repair(path)).left == ()
    assert file.is_file()


@pytest.mark.parametrize(("bars", "why"), [(Path.mkdir, "move what is there"), (link, "is a symbolic link")])
async def test_what_keeps_a_documents_file_from_being_written_is_told_after_a_repair(tmp_path, bars, why):
    """An empty folder is in no listing, and what a link leads to is not looked at."""
    path, file = str(tmp_path / "store"), tmp_path / "store/tasks/a.json"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.save_report("r", {"n": 1})
    file.unlink()
    bars(file)
    (tmp_path / "store/reports/r.json").write_bytes(b"damaged")
    done = await statepath.repair(path)
    assert {one.key for one in done.found} >= {"reports/r.json"}
    assert [(one.key, why in one.reason) for one in done.left] == [("tasks/a.json", True)]
    file.rename(tmp_path / "elsewhere")
    assert (await statepath.repair(path)).left == ()
    assert file.is_file()


@pytest.mark.parametrize("bad", ["another", "altered", "no JSON", "missing", "earlier"])
async def test_the_file_of_a_document_on_a_storage_where_nobody_edits_files_is_written_again(
    bad, monkeypatch
):
    monkeypatch.setattr("statepath.engine.lagging._CLOCKS", 0)  # so opening the store trusts its time
    path, key = "memory://views", "tasks/x.json"
    settings = Settings.load(path, views=True, autosave=0)
    async with statepath.open(path, settings=settings) as store:
        tasks, backend = store.collection("tasks"), store._engine.backend
        await tasks.put({"id": "x", "n": 1})
        await store.flush()
        earlier = (await backend.read(key)).data
        await tasks.put({"id": "x", "n": 2})
        await tasks.put({"id": "y", "n": 3})
        await store.flush()
        good, other = (await backend.read(key)).data, (await backend.read("tasks/y.json")).data
        assert await store.verify() == []
        wrong = {
            "another": other,
            "altered": good.replace(b"2", b"7", 1),
            "no JSON": b"{",
            "missing": None,
            "earlier": earlier,
        }[bad]
        await (backend.delete(key) if wrong is None else backend.write(key, wrong))
    lags = bad in ("missing", "earlier")
    done = await statepath.repair(path, settings=settings)
    assert [(one.key, one.severity) for one in done.found] == [
        ("tasks/x", "notice") if lags else (key, "damage")
    ]
    assert (len(done.kept), done.left) == (0 if lags else 1, ())
    async with statepath.open(path, settings=settings, readonly=True) as reader:
        assert (await reader._engine.backend.read(key)).data == good
        assert await reader.verify() == []


async def test_a_server_that_has_the_store_is_named(tmp_path, fill):
    path = str(tmp_path / "store")
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        backup = next((tmp_path / "store").glob("state.backup.*"))
        backup.write_bytes(b"{}")
        with pytest.raises(StoreLockedError):
            await statepath.repair(path)


@pytest.mark.everywhere
async def test_a_report_behind_the_base_is_written_again_though_the_journal_is_damaged(path, places):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        await store.backup()
        await store.save_report("r", {"n": 1})
        await store.append_log("s", "line\n")
        for n in range(20):
            await store.collection("raw").put({"id": f"b{n}"})
        await store.snapshot()
    await flip(places, path, "state.json")
    async with statepath.open(path, readonly=True) as store:
        assert len([one async for one in store.collection("raw")]) == 21
    if segments := [key for key in await places.keys(path, "journal/") if key != "journal/floor"]:
        await flip(places, path, segments[-1], 0.9)
    await statepath.repair(path)
    async with statepath.open(path, autosave=0) as store:
        assert await store.read_report("r") == {"n": 1}
        assert await store.read_log("s") == "line\n"
        assert await store.collection("raw").get("a") == {"id": "a"}
        assert await store.verify() == []


async def test_a_segment_that_cannot_be_opened_is_named_and_not_given_up(tmp_path, fill):
    path = tmp_path / "store"
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        await store.collection("tasks").put({"id": "large", "text": "x" * 2**20})
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "in the next segment"})
    first = min((path / "journal").glob("*.jsonl"))
    first.rename(tmp_path / "moved")
    first.symlink_to(tmp_path / "moved")
    before = sorted(path.rglob("*"))
    with pytest.raises(AccessDeniedError, match=f"journal/{first.name} is a symbolic link"):
        await statepath.repair(path)
    assert sorted(path.rglob("*")) == before


async def test_what_does_not_answer_is_not_given_up(path, fill, monkeypatch):
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        await store.snapshot()
        read = store._engine.log.read

        def away(after):
            if after < store.seq:
                raise UnavailableError("no answer")
            return read(after)

        monkeypatch.setattr(store._engine.log, "read", away)
        (found,) = await store.verify()
        assert (found.key, found.reason, found.severity) == ("journal/", "no answer", "unavailable")


async def test_a_report_that_is_ahead_of_what_is_left_of_the_journal_is_kept(tmp_path, fill):
    path = tmp_path / "store"
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
        await store.save_report("r", {"n": 1})
    first = min((path / "journal").glob("*.jsonl"))
    before = first.read_bytes()
    async with statepath.open(path, autosave=0) as store:
        await store.save_report("r", {"n": 2})
    first.write_bytes(before)
    done = await statepath.repair(path)
    assert (done.damaged, done.left) == (True, ())
    async with statepath.open(path, autosave=0) as store:
        assert await store.read_report("r") == {"n": 2}
