"""Portable backups: one file, from any backend to any, and no stranger's file gets in."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import stat
import threading
import time
import tracemalloc
import zipfile
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import pytest
import statepath
from msgspec.structs import replace
from statepath.commit import seal
from statepath.engine.files import LogPiece
from statepath.engine.origin import StoreOrigin
from statepath.engine.portable import COMMITS, open_portable
from statepath.engine.snapshot import MARK, SnapshotStream
from statepath.errors import (
    AlreadyExistsError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
    UnsupportedError,
)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / "store.zip")


@pytest.mark.everywhere
@pytest.mark.parametrize("history", [False, True])
async def test_a_store_goes_through_a_file_to_any_backend(store, file, elsewhere, fill, contents, history):
    await fill(store)
    held, past = await contents(store), await store.history()
    done = await store.export(file, history=history)
    assert (done.path, done.seq, done.bytes) == (file, store.seq, os.path.getsize(file))
    to = elsewhere.new()
    made = await statepath.import_backup(file, to)
    assert (made.seq, made.documents, made.logs, made.reports) == (store.seq, 5, 1, 1)
    async with statepath.open(to, autosave=0) as other:
        assert await contents(other) == held
        assert (other.id, other.incarnation) == (store.id, made.incarnation)
        assert other.incarnation != store.incarnation
        assert await other.verify() == []
        assert await other.collection("raw").put({"id": "later"}) == store.seq + 1
        if history:
            assert [(one.seq, one.key, one.time) for one in (await other.history())[:-1]] == [
                (one.seq, one.key, one.time) for one in past
            ]
            await other.restore(at=3)
            await store.restore(at=3)
            async for document in store.collection("tasks"):
                assert await other.collection("tasks").get(document["id"]) == document


@pytest.mark.parametrize("history", [False, True])
async def test_session_logs_and_reports_with_long_ids_go_through_a_file(store, file, elsewhere, history):
    long = ["S" * 80, "ü" * 34]
    for id in long:
        await store.append_log(id, f"{id}\n")
        await store.save_report(id, id)
    await store.export(file, history=history)
    await statepath.import_backup(file, to := elsewhere.new())
    async with statepath.open(to, autosave=0) as other:
        assert await other.logs() == long
        for id in long:
            assert await other.read_log(id) == f"{id}\n"
            assert await other.read_report(id) == id
        assert await other.verify() == []
        await other.append_log(long[0], "more\n")
        assert await other.read_log(long[0]) == f"{long[0]}\nmore\n"


async def test_bodies_go_with_the_history(store, file, elsewhere):
    raw = store.collection("raw")
    await raw.put({"id": "a", "text": "x" * 9_000_000})
    await raw.put({"id": "a"})
    await store.export(file, history=True)
    to = elsewhere.new()
    await statepath.import_backup(file, to)
    async with statepath.open(to, autosave=0) as other:
        await other.restore(at=1)
        assert len((await other.collection("raw").get("a"))["text"]) == 9_000_000


async def test_a_file_that_is_there_is_not_replaced(store, file, fill):
    Path(file).write_bytes(b"mine")
    with pytest.raises(AlreadyExistsError):
        await store.export(file)
    assert Path(file).read_bytes() == b"mine"


@pytest.mark.usefixtures("named")
async def test_a_file_that_cannot_be_written_leaves_nothing_behind(store, tmp_path, fill, monkeypatch):
    await fill(store)
    with pytest.raises(NotFoundError):
        await store.export(tmp_path / "missing" / "file")
    folder = tmp_path / "there"
    folder.mkdir()
    monkeypatch.setattr("statepath.engine.exporting.os", _FullDisk())
    with pytest.raises(StateError, match="No space"):
        await store.export(folder / "file")
    assert list(folder.iterdir()) == []


async def test_an_export_that_is_cancelled_ends_as_soon_as_what_it_was_writing(
    store, tmp_path, fill, monkeypatch
):
    begun, cancelled, taken = threading.Event(), threading.Event(), []

    def chunks(stream):
        yield b"first"
        begun.set()
        assert cancelled.wait(60)
        for n in range(2):
            taken.append(n)
            yield b"more"

    monkeypatch.setattr(SnapshotStream, "__iter__", chunks)
    folder = tmp_path / "there"
    folder.mkdir()
    exporting = asyncio.ensure_future(store.export(folder / "file"))
    assert await asyncio.to_thread(begun.wait, 60)
    exporting.cancel()
    await asyncio.sleep(0)
    assert not exporting.done()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await exporting
    assert (taken, list(folder.iterdir())) == ([0], [])


async def test_a_log_that_cannot_be_read_to_its_end_is_told_as_what_it_is(store, file, fill, monkeypatch):
    async def files(origin):
        yield LogPiece("logs/session_s.log", 0, b"1\n")
        raise UnavailableError("no answer")

    await fill(store)
    monkeypatch.setattr(StoreOrigin, "files", files)
    with pytest.raises(UnavailableError, match="no answer"):
        await store.export(file)


async def test_what_a_manifest_may_have_grows_with_its_members(file, monkeypatch):
    """So that a store with half a million session logs can be exported, too."""
    monkeypatch.setattr("statepath.engine.portable._MANIFEST_BYTES", 300)
    async with statepath.open("memory://many", autosave=0) as store:
        for n in range(100):
            await store.save_report(f"{n:0200}", n)
        assert (await store.export(file)).members == 101


async def test_a_damaged_report_stops_an_export_that_could_not_be_imported(path, places, file, fill):
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
    await places.write(path, "reports/r.json", b'{"part": ')
    async with statepath.open(path, readonly=True) as store:
        with pytest.raises(
            CorruptionError, match=r"not JSON.* no import would take it: statepath repair"
        ) as told:
            await store.export(file)
    assert told.value.key == "reports/r.json"
    assert not (await statepath.repair(path)).left
    async with statepath.open(path, readonly=True) as store:
        await store.export(file)


async def test_what_a_report_costs_does_not_depend_on_how_many_members_there_are(tmp_path):
    looked = []

    class Members(tuple):
        __slots__ = ()

        def __iter__(self):
            looked.append(len(self))
            return super().__iter__()

    async def looks(reports):
        path = str(tmp_path / f"{reports}.zip")
        async with statepath.open("memory://", autosave=0) as store:
            for n in range(reports):
                await store.save_report(str(n), n)
            await store.export(path)
        looked.clear()
        with open_portable(path) as portable:
            portable.manifest = replace(portable.manifest, members=Members(portable.manifest.members))
            portable.load()
            assert len([one async for one in portable.files()]) == reports
        return len(looked)

    assert await looks(1) == await looks(20)


class _FullDisk:
    """The system's calls, for one module alone: elsewhere files are written meanwhile."""

    def __getattr__(self, name):
        return getattr(os, name)

    def rename(self, *_, **__):
        raise OSError(28, "No space left on device")

    link = rename


@pytest.fixture(params=[False, True], ids=["nameless", "named"])
def named(request, monkeypatch):
    """Where a file has no name until it is whole, and where it has one of its own."""
    if request.param:
        monkeypatch.setattr("statepath.engine.exporting._OPEN_FILES", "/nowhere")


class _NoFolders(_FullDisk):
    """The same where a folder cannot be opened, or not be synced."""

    rename, link = staticmethod(os.rename), staticmethod(os.link)

    def __init__(self, opening, syncing):
        self._opening, self._syncing = opening, syncing

    def open(self, path, flags, *mode):
        if not mode and self._opening:
            raise OSError(self._opening, os.strerror(self._opening))
        return os.open(path, flags, *mode)

    def fsync(self, fd):
        if stat.S_ISDIR(os.fstat(fd).st_mode) and self._syncing:
            raise OSError(self._syncing, os.strerror(self._syncing))
        os.fsync(fd)


@pytest.mark.parametrize(("opening", "syncing"), [(errno.EACCES, 0), (0, errno.EINVAL), (0, errno.ENOTSUP)])
async def test_a_folder_that_cannot_be_synced_does_not_spoil_a_file_that_is_whole(
    store, file, fill, monkeypatch, opening, syncing
):
    await fill(store)
    monkeypatch.setattr("statepath.engine.exporting.os", _NoFolders(opening, syncing))
    assert (await store.export(file)).bytes == os.path.getsize(file)


async def test_a_folder_whose_disk_fails_is_told(store, file, monkeypatch):
    await store.collection("raw").put({"id": "a"})
    monkeypatch.setattr("statepath.engine.exporting.os", _NoFolders(0, errno.EIO))
    with pytest.raises(UnavailableError):
        await store.export(file)


@pytest.mark.parametrize("year", [1970, 2200])
async def test_a_clock_that_a_zip_file_cannot_tell_is_no_obstacle(store, file, monkeypatch, year):
    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(year, 1, 1, tzinfo=tz)

    await store.collection("raw").put({"id": "a"})
    monkeypatch.setattr("statepath.engine.exporting.datetime", Clock)
    assert (await store.export(file)).seq == 1


async def test_a_store_whose_clock_was_years_ahead_can_be_imported(path, file, elsewhere, monkeypatch):
    now = time.time_ns()
    with monkeypatch.context() as ahead:
        ahead.setattr("time.time_ns", lambda: now + 10 * 365 * 86_400 * 10**9)
        async with statepath.open(path, autosave=0) as store:
            await store.collection("raw").put({"id": "a"})
            await store.snapshot()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "b"})
        await store.export(file, history=True)
    await statepath.import_backup(file, to := elsewhere.new())
    async with statepath.open(to, autosave=0) as other:
        assert await other.collection("raw").put({"id": "c"}) == 3
        assert await other.verify() == []


class _Killed(_FullDisk):
    """The same where the process ends before it can tidy up."""

    def unlink(self, *_):
        pass


async def test_an_export_that_was_killed_can_be_repeated(store, file, fill, monkeypatch):
    """Also by a process of the same id: in a container each has the first."""
    await fill(store)
    with monkeypatch.context() as killed:
        killed.setattr("statepath.engine.exporting._OPEN_FILES", "/nowhere")
        killed.setattr("statepath.engine.exporting.os", _Killed())
        with pytest.raises(StateError):
            await store.export(file)
    assert (await store.export(file)).path == file


async def test_where_a_nameless_file_gets_no_name_it_is_written_under_another(store, file, fill, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "no links here")

    await fill(store)
    monkeypatch.setattr("statepath.engine.exporting.os.link", refused)
    assert (await store.export(file)).path == file
    assert os.listdir(os.path.dirname(file)).count(os.path.basename(file)) == 1
    assert not [name for name in os.listdir(os.path.dirname(file)) if name.endswith(".tmp")]


async def test_while_it_is_written_there_is_nothing_that_a_kill_could_leave(store, tmp_path, fill):
    await fill(store)
    folder = tmp_path / "there"
    folder.mkdir()
    left = []
    await store.export(folder / "file", progress=lambda _: left.extend(folder.iterdir()))
    assert left == []


@pytest.mark.usefixtures("named")
async def test_a_file_that_was_written_there_meanwhile_is_not_replaced(store, file):
    def write_another(text):
        if text == "reading it back":
            Path(file).write_text("another's")

    with pytest.raises(AlreadyExistsError):
        await store.export(file, progress=write_another)
    assert Path(file).read_text() == "another's"


async def test_the_file_is_its_owners_and_any_zip_program_reads_it(store, file, fill):
    await fill(store)
    await store.export(file)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    with zipfile.ZipFile(file) as members:
        assert members.testzip() is None
        assert json.loads(members.read("state.json"))["seq"] == store.seq
        assert members.read("logs/session_s%2f1.log") == b"first\nsecond\nthird\n"


NESTED = b"[" * 200_000 + b"]" * 200_000
"""More than any reader of JSON goes down."""


class TestStrangers:
    """Files that nobody should import. Nothing is written for any of them."""

    @pytest.fixture
    async def good(self, tmp_path, fill):
        """The members of a sound file, by name."""
        path = tmp_path / "good.zip"
        async with statepath.open("memory://", autosave=0) as store:
            await fill(store)
            await store.export(path, history=True)
        with zipfile.ZipFile(path) as members:
            return {name: members.read(name) for name in members.namelist()}

    @pytest.fixture
    async def refused(self, file, tmp_path):
        async def refused(error, match, **options):
            to = tmp_path / "to"
            with pytest.raises(error, match=match):
                await statepath.import_backup(file, to, **options)
            assert not to.exists()

        return refused

    @staticmethod
    def pack(file, members, *, infos=(), manifest=None, signed=True):
        """A file of the members, with a manifest that fits them."""
        if signed:
            facts = json.loads(members["manifest.json"])
            facts.pop("crc")
            facts["members"] = [
                {"name": name, "size": len(data), "sha256": sha256(data).hexdigest()}
                for name, data in members.items()
                if name != "manifest.json"
            ]
            members = members | {"manifest.json": bytes(seal(facts | (manifest or {})))}
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in members.items():
                packed.writestr(name, data)
            for info, data in infos:
                packed.writestr(info, data)

    @staticmethod
    def forge(state, old, new):
        """A snapshot with something replaced, and all its checksums right."""
        assert old in state
        body, _, meta = state.replace(old, new).rpartition(MARK)
        meta = meta.rpartition(b',"crc"')[0]
        digest = json.loads(meta + b"}")["digest"].encode()
        meta = meta.replace(digest, sha256(body).hexdigest().encode())
        return b'%s%s%s,"crc":"%08x"}\n}\n' % (body, MARK, meta, crc32(meta))

    @staticmethod
    def forge_commits(commits, old, new):
        """Commits with something replaced in the first that has it, and all their checksums right."""
        assert old in commits
        lines = commits.replace(old, new, 1).splitlines(keepends=True)
        bodies = [line.rpartition(b',"crc"')[0] for line in lines]
        return b"".join(b'%s,"crc":"%08x"}\n' % (body, crc32(body)) for body in bodies)

    async def test_the_sound_one_is_imported(self, good, file, tmp_path):
        self.pack(file, good)
        assert (await statepath.import_backup(file, tmp_path / "to")).seq == 21

    @pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
    async def test_cut_short(self, good, file, refused, part):
        self.pack(file, good)
        data = Path(file).read_bytes()
        Path(file).write_bytes(data[: int(len(data) * part)])
        await refused(CorruptionError, "cut short, or is no portable backup")

    async def test_not_a_zip_at_all(self, file, refused):
        Path(file).write_bytes(b"once upon a time" * 100)
        await refused(CorruptionError, "no portable backup")

    async def test_a_manifest_that_was_edited(self, good, file, refused):
        manifest = good["manifest.json"].replace(b'"format":1', b'"format":2')
        self.pack(file, good | {"manifest.json": manifest}, signed=False)
        await refused(CorruptionError, f"^{file} cannot be imported: manifest.json: .* checksum")

    async def test_a_snapshot_that_was_edited(self, good, file, refused):
        self.pack(file, good | {"state.json": good["state.json"].replace(b"task", b"text", 1)})
        await refused(CorruptionError, f"^{file} cannot be imported: state.json is damaged")

    async def test_no_file(self, file, refused):
        await refused(NotFoundError, "No such file")

    @pytest.mark.parametrize("name", ["state.json", "journal/commits.jsonl", "reports/r.json"])
    async def test_an_altered_member(self, good, file, refused, name):
        self.pack(file, good | {name: good[name].replace(b"third", b"fourt")}, signed=False)
        await refused(CorruptionError, "does not match its digest")

    async def test_an_altered_manifest(self, good, file, refused):
        altered = good["manifest.json"].replace(b'"seq":21', b'"seq":20')
        self.pack(file, good | {"manifest.json": altered}, signed=False)
        await refused(CorruptionError, "does not match its checksum")

    @pytest.mark.parametrize(
        "name",
        [
            "/etc/passwd",
            "../state.json",
            "logs/../../x.log",
            "logs/session_../x.log",
            "reports/../x.json",
            "reports/CON.json",
            "bodies/../x/1",
            "journal/floor",
            "lock",
            "tasks/task_1.json",
            "state.backup.1.json",
        ],
    )
    async def test_a_name_that_no_store_has(self, good, file, refused, name):
        self.pack(file, good | {name: b"{}"})
        await refused(CorruptionError, "no store has anything of the name|two members")

    async def test_a_link(self, good, file, refused):
        info = zipfile.ZipInfo("reports/link.json")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        self.pack(file, good, infos=[(info, b"/etc/passwd")])
        await refused(CorruptionError, "is a link or a folder")

    async def test_a_member_that_the_manifest_does_not_name(self, good, file, refused):
        self.pack(file, good | {"reports/more.json": b"{}"}, signed=False)
        await refused(CorruptionError, "are not those that")

    async def test_a_member_that_is_missing(self, good, file, refused):
        del good["reports/r.json"]
        self.pack(file, good, signed=False)
        await refused(CorruptionError, "are not those that")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    async def test_two_members_of_one_name(self, good, file, refused):
        self.pack(file, good, infos=[(zipfile.ZipInfo("state.json"), b"{}")])
        await refused(CorruptionError, "two members of one name")

    @pytest.mark.slow
    async def test_a_bomb(self, good, file, refused):
        self.pack(file, good | {"logs/session_big.log": b"\0" * 50_000_000})
        await refused(InvalidArgumentError, "--max-size", limit=10_000_000)

    async def test_members_that_share_their_bytes(self, good, file, refused, monkeypatch):
        """The directory of the file claims much more than deflate could ever unpack."""
        self.pack(file, good)
        monkeypatch.setattr("statepath.engine.portable._DEFLATE", 0.1)
        await refused(CorruptionError, "which is not possible")

    async def test_a_member_that_is_larger_than_it_says(self, good, file, refused):
        self.pack(file, good | {"logs/session_x.log": b"x" * 5000})
        data = Path(file).read_bytes()
        size = (5000).to_bytes(4, "little")
        assert data.count(size) == 2
        Path(file).write_bytes(data.replace(size, (50).to_bytes(4, "little")))
        await refused(CorruptionError, "has not the size")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'{"id":"raw","part":"third"}', b'{"id":"raw","part":"third",'[:-1] + b"]"),
            (b'{"id":"raw","part":"third"}', b'["id","raw","part","third"]'),
            (b'"raw":{"start"', b'"R/w":{"start"'),
            (b'["raw",', b'["\\u0000",'),
        ],
        ids=["no JSON", "no object", "no collection", "no id"],
    )
    async def test_documents_that_could_not_have_been_stored(self, good, file, refused, old, new):
        """They have all their checksums: who wrote the file knew how to."""
        self.pack(file, good | {"state.json": self.forge(good["state.json"], old, new)})
        await refused(CorruptionError, r"state\.json: ")

    async def test_commits_that_do_not_lead_to_the_state(self, good, file, refused):
        lines = good["journal/commits.jsonl"].splitlines(keepends=True)
        self.pack(file, good | {"journal/commits.jsonl": b"".join(lines[:-1])})
        await refused(CorruptionError, "do not lead to")
        self.pack(file, good | {"journal/commits.jsonl": b"".join([*lines[:3], *lines[4:]])})
        await refused(CorruptionError, "does not follow")
        self.pack(file, good | {"journal/commits.jsonl": good["journal/commits.jsonl"][:-1]})
        await refused(CorruptionError, "in the middle of a line")

    async def test_a_time_that_has_not_come(self, good, file, refused):
        """Whatever was saved next would have to be later still, and there is no later."""
        meta = json.loads(good["state.json"])["_statepath"]
        time = str(meta["time"]).encode()
        late = b"253402300799000000"
        state = self.forge(good["state.json"], b'"time":' + time, b'"time":' + late)
        self.pack(file, good | {"state.json": state})
        await refused(CorruptionError, "of a time that has not come")
        modified = str(meta["collections"]["raw"]["documents"][0][2]).encode()
        state = self.forge(good["state.json"], b",%s," % modified, b",%s," % late)
        self.pack(file, good | {"state.json": state})
        await refused(CorruptionError, "later than the state")
        state = self.forge(good["state.json"], b'"changed":{', b'"changed":{"raw_":99999,')
        self.pack(file, good | {"state.json": state})
        await refused(CorruptionError, "a collection was changed later than the state")
        commits = self.forge_commits(good[COMMITS], b'"time":"20', b'"time":"99')
        self.pack(file, good | {COMMITS: commits})
        await refused(CorruptionError, "commit 1 is of a time that has not come")

    @pytest.mark.parametrize("floor", [10**12, 23, 0, -1])
    async def test_a_history_that_begins_where_there_is_none(self, good, file, refused, floor):
        """The store would take the state for one of another history, and show nothing of it."""
        del good[COMMITS]
        self.pack(file, good, manifest={"floor": floor})
        await refused(CorruptionError, "its log cannot begin at")

    async def test_a_history_that_begins_behind_the_state_has_no_commits(self, good, file, tmp_path):
        members = {
            name: data for name, data in good.items() if not name.startswith((COMMITS, "state.backup."))
        }
        self.pack(file, members, manifest={"floor": 22})
        await statepath.import_backup(file, tmp_path / "to")
        async with statepath.open(tmp_path / "to", autosave=0) as store:
            assert store.collections() == ("raw", "tasks")

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b'"min_reader":1,', b""),
            (b'"min_reader":1', b'"min_reader":"x"'),
            (b'"seq":21,"commit"', b'"seq":"q","commit"'),
            (b'"logs":{', b'"l":{'),
        ],
        ids=["no format", "another format", "no seq", "no logs"],
    )
    async def test_a_state_that_does_not_say_what_states_say(self, good, file, refused, old, new):
        self.pack(file, good | {"state.json": self.forge(good["state.json"], old, new)})
        await refused(CorruptionError, r"state\.json is damaged: its last member")

    async def test_a_log_that_begins_where_none_is(self, good, file, refused):
        """To write it there would fill the disk."""
        commits = self.forge_commits(good[COMMITS], b'"offset":0', b'"offset":1234567890123')
        self.pack(file, good | {COMMITS: commits})
        await refused(CorruptionError, "is written at 1234567890123, where it is not")

    async def test_a_backup_that_could_not_have_been_stored(self, good, file, refused):
        key = next(name for name in good if name.startswith("state.backup."))
        state = self.forge(good[key], b'["raw",', b'["\\u0000",')
        self.pack(file, good | {key: state})
        await refused(CorruptionError, key)

    async def test_a_report_that_is_no_json(self, good, file, refused):
        self.pack(file, good | {"reports/r.json": b"{"})
        await refused(CorruptionError, r"reports/r\.json")

    @pytest.mark.slow
    @pytest.mark.parametrize("gone", ["bodies/", "archive/"])
    async def test_what_the_state_or_a_commit_needs_is_there(self, tmp_path, file, refused, gone):
        path = tmp_path / "large.zip"
        async with statepath.open("memory://", autosave=0) as store:
            await store.collection("raw").put({"id": "a", "text": "x" * 9_000_000})
            await store.collection("raw").put({"id": "b"})
            await store.archive("raw", older_than="0s", id="b")
            await store.export(path, history=True)
        with zipfile.ZipFile(path) as packed:
            members = {name: packed.read(name) for name in packed.namelist()}
        for name in [name for name in members if name.startswith(gone)]:
            self.pack(file, {other: data for other, data in members.items() if other != name})
            await refused(CorruptionError, "is missing|is not what state.json names")
            self.pack(file, members | {name: members[name] + b" "})
            await refused(CorruptionError, "is not what|are not what")

    @pytest.mark.parametrize(
        "member",
        [
            b'"schema_versions":"two"',
            b'"archive_segments":[1]',
            b'"archive_segments":[{"name":"../../x","collection":"raw","sha256":"","bytes":1,"documents":1,"version":1,"newest":1}]',
        ],
    )
    async def test_a_member_that_only_the_core_writes(self, good, file, refused, member):
        """Everything else takes it for what the core wrote."""
        name, value = member.split(b":", 1)
        put = b'"collection":"_state","id":%s,"document":%s' % (name, value)
        old = good[COMMITS].partition(b'"collection":"_state","id":"metrics","document":')[2]
        old = b'"collection":"_state","id":"metrics","document":' + old[: old.index(b"}") + 1]
        self.pack(file, good | {COMMITS: self.forge_commits(good[COMMITS], old, put)})
        await refused(CorruptionError, "schema_versions|archive_segments")

    @pytest.fixture
    async def archived(self, tmp_path):
        """The members of a sound file that has an archive."""
        path = tmp_path / "archived.zip"
        async with statepath.open("memory://", autosave=0) as store:
            await store.collection("raw").put({"id": "a"})
            await store.collection("raw").put({"id": "b"})
            await store.archive("raw", older_than="0s")
            await store.export(path)
        with zipfile.ZipFile(path) as packed:
            return {name: packed.read(name) for name in packed.namelist()}

    def forge_segment(self, members, text, places):
        """The members with a segment of that text and those places, and all names and digests right."""
        index_key, key = sorted(name for name in members if name.startswith("archive/"))
        old, named = (
            key[len("archive/") :].partition(".")[0].encode(),
            sha256(members[key]).hexdigest().encode(),
        )
        facts = json.loads(members[index_key])
        data, index = gzip.compress(text), bytes(seal({"documents": places or facts["documents"]}))
        name = sha256(index + data).hexdigest()
        state = self.forge(members["state.json"], old, name.encode())
        state = self.forge(state, named, sha256(data).hexdigest().encode())
        kept = {other: content for other, content in members.items() if other not in (key, index_key)}
        made = {f"archive/{name}.jsonl.gz": data, f"archive/{name}.index.json": index}
        return kept | {"state.json": state} | made

    @pytest.mark.parametrize(
        ("standing", "reason"),
        [
            ([["a", 1, 1, 0, 10], ["b", 2, 1, 500_000_000, 10]], "is not where it ought to be"),
            ([["a", 1, 1, 0, 400_000_000], ["b", 2, 1, 400_000_001, 10]], "none holds"),
            ([["a", 1, 1, 0, -5], ["b", 2, 1, -4, 10]], "is not where it ought to be"),
            ([["a", 1, 1, 0, 10], ["\0", 2, 1, 11, 10]], "must not contain NUL"),
            ([["a", 1, 1, 0, 10], ["b", 2, 9 * 10**18, 11, 10]], "of a time that has not come"),
        ],
        ids=["a gap", "too much", "less than nothing", "no id", "no time"],
    )
    async def test_a_segment_whose_index_leads_astray(self, archived, file, refused, standing, reason):
        self.pack(file, self.forge_segment(archived, b'{"id":"a"}\n{"id":"b"}\n', standing))
        await refused(CorruptionError, reason)

    async def test_a_segment_whose_index_is_of_another(self, archived, file, refused):
        forged = self.forge_segment(archived, b'{"id":"x"}\n{"id":"b"}\n', None)
        (name,) = [name for name in forged if name.endswith(".jsonl.gz")]
        self.pack(file, forged | {name.replace("jsonl.gz", "index.json"): bytes(seal({"documents": []}))})
        await refused(CorruptionError, "are not what their name says")

    @pytest.mark.parametrize(
        "text", [b'["id","a"]', b'{"id":"b"}', b'{"id":"a"'], ids=["list", "id", "no JSON"]
    )
    async def test_what_a_segment_holds_is_no_document(self, archived, file, tmp_path, text):
        """It is looked at when somebody reads it, as all of the archive is."""
        places = [["a", 1, 1, 0, len(text)], ["b", 2, 1, len(text) + 1, 10]]
        self.pack(file, self.forge_segment(archived, text + b'\n{"id":"b"}\n', places))
        await statepath.import_backup(file, tmp_path / "to")
        async with statepath.open(tmp_path / "to", autosave=0) as store:
            with pytest.raises(CorruptionError, match="raw/a"):
                await store.unarchive("raw", "a")
            with pytest.raises(CorruptionError, match="raw/a"):
                await store.read_archived("raw", "a")
            assert await store.unarchive("raw", "b") == store.seq
            assert await store.collection("raw").find().all() == [{"id": "b"}]

    @pytest.mark.slow
    async def test_a_bomb_in_a_segment(self, archived, file, tmp_path):
        """No more of it is unpacked at a time than a document may have, and one that claims more is not read."""
        size = 80_000_000
        places = [["a", 1, 1, 0, size], ["b", 2, 1, size + 1, 10]]
        self.pack(file, self.forge_segment(archived, b" " * size + b'\n{"id":"b"}\n', places))
        await statepath.import_backup(file, tmp_path / "to")
        async with statepath.open(tmp_path / "to", autosave=0) as store:
            tracemalloc.start()
            try:
                assert await store.read_archived("raw", "b") == {"id": "b"}
                with pytest.raises(InvalidArgumentError, match="STATE_MAX_DOCUMENT"):
                    await store.read_archived("raw", "a")
                assert tracemalloc.get_traced_memory()[1] < size / 4
            finally:
                tracemalloc.stop()

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            (b'"format":1', b'"format":%s' % (b"9" * 5000), "cannot be read"),
            (b'"format":1', b'"format":%s' % NESTED, "cannot be read"),
            (b'"seq":21', b'"seq":%d' % (10**20 - 1), "no log is as long"),
            (b'"seq":21', b'"seq":%d' % 2**62, "no log is as long"),
        ],
        ids=["digits", "nested", "a seq of no slot", "a seq of no column"],
    )
    async def test_a_manifest_that_no_program_wrote(self, good, file, refused, old, new, reason):
        self.pack(file, good)
        with zipfile.ZipFile(file) as packed:
            manifest = packed.read("manifest.json")
        altered = self.forge_commits(manifest, old, new)
        self.pack(file, good | {"manifest.json": altered}, signed=False)
        await refused(CorruptionError, reason)

    @pytest.mark.parametrize(
        "new",
        [
            b'"time":"0001-01-01T00:00:00","more":"',
            b'"time":"2026-01-01T00:00:00","more":"',
            b'"x":%s,"time":"' % NESTED,
        ],
        ids=["before all years", "a time without a zone", "nested"],
    )
    async def test_a_commit_that_no_program_wrote(self, good, file, refused, new):
        self.pack(file, good | {COMMITS: self.forge_commits(good[COMMITS], b'"time":"', new)})
        await refused(CorruptionError, r"cannot be imported: journal/commits\.jsonl: ")

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("id", "document"), [(b"\xff", b"{}"), (b"a", NESTED)], ids=["no UTF-8", "nested"]
    )
    async def test_a_body_that_no_program_wrote(self, tmp_path, file, refused, id, document):
        path = tmp_path / "large.zip"
        async with statepath.open("memory://", autosave=0) as store:
            await store.collection("raw").put({"id": "a", "text": "x" * 9_000_000})
            await store.export(path, history=True)
        with zipfile.ZipFile(path) as packed:
            members = {name: packed.read(name) for name in packed.namelist()}
        (key,) = [name for name in members if name.startswith("bodies/")]
        body = b'[{"op":"put","collection":"raw","id":"%s","document":%s}]' % (id, document)
        named = sha256(members[key]).hexdigest().encode(), sha256(body).hexdigest().encode()
        commits = self.forge_commits(members[COMMITS], *named)
        self.pack(file, members | {key: body, COMMITS: commits})
        await refused(CorruptionError, f"cannot be imported: {key}: the body does not hold changes")

    async def test_a_manifest_with_more_than_its_members_need(self, good, file, refused):
        self.pack(file, good, manifest={"created": "x" * (1024 * 1024 + 1024 * len(good))})
        await refused(CorruptionError, "its manifest.json is too large")

    async def test_one_of_a_newer_program(self, good, file, refused):
        self.pack(file, good, manifest={"format": 2, "new": True})
        await refused(UnsupportedError, "format 2, and this program reads format 1")


async def test_a_place_that_is_not_empty_is_refused(store, file, path, fill):
    await fill(store)
    await store.export(file)
    await store.aclose()
    with pytest.raises(AlreadyExistsError, match="it has the store"):
        await statepath.import_backup(file, path)
