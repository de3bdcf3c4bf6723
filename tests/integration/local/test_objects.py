"""Objects as files: what is on the disk when, and what failures leave behind."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.backend import ALWAYS, IF_ABSENT, ETag, IfMatch, LazyWrite
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from statepath_local.objects import BLOCK
from statepath_local.port import Port

Connect = Callable[..., Any]


def temporaries(path: Path) -> list[Path]:
    return list((path / ".tmp+").iterdir())


async def listed(backend: Any) -> list[str]:
    return [entry.key async for entry in backend.list_keys("")]


async def test_a_write_syncs_the_file_before_its_name_and_then_the_folder(
    connect: Connect, port: Any
) -> None:
    backend = await connect()
    await backend.write("tasks/first", b"A")
    port.calls.clear()
    await backend.write("tasks/a", b"A")
    steps = [name for name in port.names() if name in {"writev", "fsync", "rename", "fsync_dir"}]
    assert steps == ["writev", "fsync", "rename", "fsync_dir"]


async def test_a_new_folder_is_made_durable_with_its_first_file(connect: Connect, port: Any) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    port.calls.clear()
    await backend.write("bodies/x/1", b"A")
    steps = [name for name in port.names() if name in {"mkdir", "rename", "fsync_dir"}]
    assert steps == ["mkdir", "fsync_dir", "mkdir", "fsync_dir", "rename", "fsync_dir"]


async def test_a_folder_that_somebody_else_just_made_is_made_durable_as_well(
    connect: Connect, port: Any, path: Path
) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    port.calls.clear()

    def make_first(*_: Any) -> bool:
        (path / "tasks").mkdir(exist_ok=True)
        return False

    port.fail("mkdir", chosen=make_first)
    await backend.write("tasks/a", b"A")
    steps = [name for name in port.names() if name in {"mkdir", "rename", "fsync_dir"}]
    assert steps == ["mkdir", "fsync_dir", "rename", "fsync_dir"]


@pytest.mark.parametrize("call", ["write", "write_at", "copy"])
async def test_a_folder_that_was_there_is_made_durable_once_before_the_first_object_is_named(
    connect: Connect, port: Any, path: Path, call: str
) -> None:
    """Who made it may have been killed before."""
    (path / "bodies/x").mkdir(parents=True)
    backend = await connect()
    await backend.write("a", b"A")
    for key, synced in (("bodies/x/1", 3), ("bodies/x/2", 1)):
        port.calls.clear()
        match call:
            case "write":
                await backend.write(key, b"A")
            case "write_at":
                await backend.write_at(key, 0, b"A")
            case "copy":
                await backend.copy("a", key)
        assert port.names().count("fsync_dir") == synced


async def test_the_state_path_is_made_durable_once_before_the_first_object_is_named(
    connect: Connect, port: Any, path: Path
) -> None:
    path.mkdir()
    synced: list[str] = []
    port.fail("fsync_dir", chosen=lambda fd: synced.append(os.readlink(f"/dev/fd/{fd}")))
    port.fail("rename", chosen=lambda *_: synced.append("named"))
    backend = await connect()
    assert synced == []
    for _ in range(2):
        await backend.write("a", b"A")
    assert synced == [str(path), str(path.parent), "named", str(path), "named", str(path)]


async def test_a_large_folder_is_sorted_a_few_names_at_a_time_and_listed_in_order(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    def sort(names: Any) -> list[str]:
        nonlocal most
        run = sorted(names)
        most = max(most, len(run))
        return run

    monkeypatch.setattr("statepath_local.listing._RUN", 10)
    monkeypatch.setattr("statepath_local.listing.sorted", sort, raising=False)
    backend = await connect()
    keys = [f"tasks/{n * 7919 % 101:03d}" for n in range(75)]
    await backend.write_lazily([LazyWrite(key, b"A", 1) for key in keys])
    assert await listed(backend) == sorted(keys)
    assert most == 10


async def test_lazy_writes_do_not_wait_for_the_disk(connect: Connect, port: Any) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    port.calls.clear()
    await backend.write_lazily([LazyWrite("tasks/b", b"B", 1), LazyWrite("tasks/a", None, 2)])
    assert not {"fsync", "fdatasync", "fsync_dir"} & set(port.names())
    assert await listed(backend) == ["tasks/b"]


async def test_a_stream_is_synced_bit_by_bit(connect: Connect, port: Any) -> None:
    backend = await connect()
    await backend.write_stream("state.json", (b"x" * 2**20 for _ in range(9)))
    assert port.names().count("fdatasync") == 4
    assert len((await backend.read("state.json")).data) == 9 * 2**20


async def test_short_writes_are_continued(connect: Connect, path: Path, port: Any) -> None:
    backend = await connect()
    data = bytes(range(256)) * 20
    type(port).writev, real = lambda _, fd, buffers: os.write(fd, b"".join(buffers)[:1000]), type(port).writev
    try:
        await backend.write_stream("a", [data[:3000], b"", data[3000:]])
    finally:
        type(port).writev = real
    assert (path / "a").read_bytes() == data


@pytest.mark.parametrize("key", ["old", "new"])
@pytest.mark.parametrize("call", ["writev", "fsync", "rename", "utime"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
async def test_a_write_that_fails_changes_nothing(
    connect: Connect, port: Any, path: Path, key: str, call: str, error: int
) -> None:
    backend = await connect()
    await backend.write("old", b"A")
    port.fail(call, error, times=1)
    with pytest.raises(UnavailableError) as caught:
        await backend.write(key, b"B")
    assert (caught.value.code == "disk_full") == (error == errno.ENOSPC)
    assert caught.value.key == key
    assert await listed(backend) == ["old"]
    assert (await backend.read("old")).data == b"A"
    assert temporaries(path) == []
    await backend.write(key, b"C")
    assert (await backend.read(key)).data == b"C"


async def test_a_folder_that_cannot_be_synced_leaves_the_outcome_open(connect: Connect, port: Any) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    for error in (errno.EIO, errno.ENOSPC):
        port.fail("fsync_dir", error, times=1)
        with pytest.raises(UnavailableError) as caught:
            await backend.write("tasks/a", b"B")
        assert caught.value.code == "unavailable"


async def test_an_append_that_finds_no_space_is_taken_back(connect: Connect, port: Any, path: Path) -> None:
    backend = await connect()
    await backend.write_at("logs/a.log", 0, b"one\n")
    real = os.pwrite
    port.fail("pwrite", errno.ENOSPC, chosen=lambda fd, data, at: real(fd, data[:2], at) > 0, times=1)
    with pytest.raises(UnavailableError) as caught:
        await backend.write_at("logs/a.log", 4, b"two\n")
    assert caught.value.code == "disk_full"
    assert (path / "logs/a.log").read_bytes() == b"one\n"


async def test_a_log_that_somebody_cut_off_is_filled_up_a_part_at_a_time(
    connect: Connect, port: Any, path: Path
) -> None:
    backend = await connect()
    await backend.write_at("logs/a.log", 2 * BLOCK + 5, b"end\n")
    assert max(len(args[1]) for name, args in port.calls if name == "pwrite") <= BLOCK
    assert (path / "logs/a.log").read_bytes() == b"\n" * (2 * BLOCK + 5) + b"end\n"


async def test_a_folder_in_the_place_of_a_view_stays_there_and_is_told(connect: Connect, path: Path) -> None:
    backend = await connect()
    (path / "tasks/a.json/mine").mkdir(parents=True)
    with pytest.raises(InvalidArgumentError, match="taken") as caught:
        await backend.write_lazily([LazyWrite("tasks/a.json", b"A", 1)])
    assert caught.value.unwritten == ("tasks/a.json",)
    assert (path / "tasks/a.json/mine").is_dir()
    assert temporaries(path) == []


async def test_a_file_that_a_person_made_is_not_used_again(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write_lazily([LazyWrite("tasks/a", b"ours", 1)])
    (path / "tasks/a").unlink()
    (path / "tasks/a").write_bytes(b"theirs")
    (path / "tasks/a").chmod(0o644)
    await backend.write_lazily([LazyWrite("tasks/a", b"ours", 1)])
    await asyncio.sleep(0.06)  # replaced files rest for 50 ms
    await backend.write_lazily([LazyWrite("tasks/b", b"ours", 1)])
    assert {file.stat().st_mode & 0o777 for file in (path / "tasks").iterdir()} == {0o600}


async def test_a_file_that_is_used_again_keeps_nothing_of_what_it_held(connect: Connect, path: Path) -> None:
    backend = await connect()
    for data in (b"a long one", b"B", b"", b"a longer one"):
        for key in ("tasks/a", "tasks/b"):
            await backend.write_lazily([LazyWrite(key, data, 1)])
            assert (path / key).read_bytes() == data
        await asyncio.sleep(0.06)  # replaced files rest for 50 ms


async def test_new_and_replaced_files_may_take_turns(connect: Connect, path: Path) -> None:
    backend = await connect()
    for turn in range(4):
        for key in ("a", f"b{turn}", f"c{turn}", "a"):
            await backend.write_lazily([LazyWrite(key, f"{key} {turn}".encode(), 1)])
            assert (path / key).read_bytes() == f"{key} {turn}".encode()
    assert await listed(backend) == ["a", *(f"{name}{turn}" for name in "bc" for turn in range(4))]


async def test_what_cannot_be_written_lazily_is_told_and_in_no_others_way(
    connect: Connect, port: Any, path: Path
) -> None:
    backend = await connect()
    port.fail("pwrite", errno.ENOSPC, chosen=lambda _, data, __: data == b"B")
    with pytest.raises(UnavailableError) as caught:
        await backend.write_lazily([LazyWrite(key, key.upper().encode(), 1) for key in "abc"])
    assert (caught.value.code, caught.value.key, caught.value.unwritten) == ("disk_full", "b", ("b",))
    assert await listed(backend) == ["a", "c"]
    assert temporaries(path) == []


async def test_a_lazy_write_for_which_there_proves_to_be_no_space_changes_nothing(
    connect: Connect, port: Any, path: Path
) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    port.fail("finish", errno.EDQUOT, times=1)
    with pytest.raises(UnavailableError) as caught:
        await backend.write_lazily([LazyWrite("a", b"B", 1)])
    assert caught.value.code == "disk_full"
    assert (path / "a").read_bytes() == b"A"
    assert temporaries(path) == []


@pytest.mark.parametrize("views", [2, 600])
async def test_a_folder_that_is_a_link_is_in_no_other_views_way(tmp_path: Path, views: int) -> None:
    async with statepath.open(tmp_path, view_interval=0) as store:
        (tmp_path / "sessions").symlink_to(tmp_path)
        await store.collection("sessions").put({"id": "a"})
        async with store.transaction() as tx:
            for id in range(views):
                tx.put(store.collection("tasks"), {"id": f"{id}"})
        with pytest.raises(AccessDeniedError, match="sessions"):
            await store.flush()
        assert len(list(tmp_path.glob("tasks/*"))) == views


async def test_what_was_written_beside_what_cannot_be_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with statepath.open(tmp_path, view_interval=0) as store:
        (tmp_path / "sessions").symlink_to(tmp_path)
        await store.collection("sessions").put({"id": "a"})
        await store.collection("tasks").put({"id": "b"})
        with pytest.raises(AccessDeniedError):
            await store.flush()
        written = (tmp_path / "tasks/b.json").stat().st_ino
        with pytest.raises(AccessDeniedError):
            await store.flush()
        assert (tmp_path / "tasks/b.json").stat().st_ino == written
        (tmp_path / "sessions").unlink()
        await store.flush()
        assert (tmp_path / "sessions/a.json").exists()


async def test_what_a_killed_writer_left_is_removed(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    await backend.close()
    (path / ".tmp+/tmp-01234567-8").write_text("half")
    (path / ".tmp+/notes").write_text("not ours")
    await connect()
    assert temporaries(path) == [path / ".tmp+/notes"]


async def test_a_reader_removes_nothing(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    (path / ".tmp+/tmp-01234567-8").write_text("in use")
    await connect(readonly=True)
    assert temporaries(path) == [path / ".tmp+/tmp-01234567-8"]


async def test_the_folder_of_temporary_files_may_vanish(connect: Connect, path: Path) -> None:
    backend = await connect()
    for turn in range(3):
        await backend.write("a", b"A")
        await backend.write_lazily([LazyWrite("b", str(turn).encode(), turn)])
        shutil.rmtree(path / ".tmp+")
    await backend.write("a", b"B")
    await backend.write_lazily([LazyWrite("b", b"B", 9)])
    assert await listed(backend) == ["a", "b"]


async def test_what_is_no_object_is_not_listed(connect: Connect, path: Path, chain: Any) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    (path / "tasks/folder+").mkdir()
    (path / "tasks/folder+/a").write_text("a person's")
    (path / "notes+").write_text("a person's")
    (path / os.fsdecode(b"caf\xe9")).write_text("not even UTF-8")
    (path / "empty").mkdir()
    assert await listed(backend) == ["tasks/a"]


@pytest.mark.parametrize(
    ("name", "part"),
    [("a b.json", "a%20b.json"), ("tä+.json", "t%c3%a4%2b.json"), (os.fsdecode(b"caf\xe9"), "caf%e9")],
)
async def test_a_name_that_no_key_has_is_encoded_until_the_object_is_changed(
    connect: Connect, path: Path, name: str, part: str
) -> None:
    backend = await connect()
    for change in ("write", "write_at", "write_lazily", "copy", "delete"):
        await backend.write("tasks/other", b"B")
        (path / "tasks" / name).write_text("a person's")
        key = f"tasks/{part}"
        assert await listed(backend) == sorted([key, "tasks/other"])
        assert (await backend.read(key)).data == b"a person's"
        match change:
            case "write":
                await backend.write(key, b"A")
            case "write_at":
                await backend.write_at(key, 8, b"A")
            case "write_lazily":
                await backend.write_lazily([LazyWrite(key, b"A", 1)])
            case "copy":
                await backend.copy("tasks/other", key)
            case "delete":
                assert await backend.delete(key)
        assert not (path / "tasks" / name).exists()
        assert (path / "tasks" / part).exists() == (change != "delete")
        if change == "write_at":
            assert (await backend.read(key)).data == b"a personA"
        await backend.delete(key)


async def test_a_name_that_no_key_has_gives_way_to_the_name_of_a_key(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("tasks/a%20b", b"A")
    (path / "tasks/a b").write_text("a person's")
    assert await listed(backend) == ["tasks/a%20b"]
    assert (await backend.read("tasks/a%20b")).data == b"A"


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EACCES, errno.EIO])
async def test_a_listing_leaves_out_no_folder_that_cannot_be_opened(
    connect: Connect, port: Any, error: int
) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    port.fail("open_folder", error, chosen=lambda name: name == "tasks")
    with pytest.raises(StateError, match="tasks/"):
        await listed(backend)


async def test_a_listing_leaves_out_no_file_that_cannot_be_looked_at(connect: Connect, port: Any) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    port.fail("stat", chosen=lambda name: name == "a")
    with pytest.raises(UnavailableError, match="tasks/a"):
        await listed(backend)


@pytest.fixture
def _another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is not this process's."""
    user = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: user)


@pytest.mark.usefixtures("_another_user")
@pytest.mark.parametrize("error", [errno.EACCES, errno.EPERM])
async def test_a_listing_leaves_out_what_another_user_keeps_there_and_says_so_once(
    connect: Connect, port: Any, path: Path, caplog: pytest.LogCaptureFixture, error: int
) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    (path / "old-backups").mkdir()
    port.fail("open_folder", error, chosen=lambda name: name == "old-backups")
    for _ in range(2):
        assert await listed(backend) == ["tasks/a"]
    assert [told.key for told in caplog.records] == ["old-backups/"]


@pytest.mark.usefixtures("_another_user")
@pytest.mark.parametrize(
    ("folder", "error"),
    [
        ("archive", errno.EACCES),
        ("bodies/x", errno.EACCES),
        ("journal", errno.EPERM),
        ("leases", errno.EACCES),
        ("logs", errno.EACCES),
        ("reports", errno.EACCES),
        ("tasks", errno.EACCES),
        ("old-backups", errno.EMFILE),
    ],
)
async def test_a_listing_leaves_out_nothing_that_may_be_the_stores(
    connect: Connect, port: Any, path: Path, folder: str, error: int
) -> None:
    backend = await connect()
    (path / folder).mkdir(parents=True)
    port.fail("open_folder", error, chosen=lambda name: name == folder.rpartition("/")[2])
    with pytest.raises(StateError, match=f"{folder}/"):
        await listed(backend)


@pytest.mark.parametrize("error", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP])
async def test_a_listing_goes_on_behind_a_folder_that_is_none_any_more(
    connect: Connect, port: Any, error: int
) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    await backend.write("z", b"Z")
    port.fail("open_folder", error, chosen=lambda name: name == "tasks")
    assert await listed(backend) == ["z"]


async def test_an_encoded_name_leads_to_no_other_file(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("tasks/a", b"A")
    for key in ("tasks%2fa", "tasks/%61", "tasks/..%2ftasks%2fa", "tasks/%2e%2e"):
        with pytest.raises(NotFoundError):
            await backend.read(key)


async def test_journal_segments_are_listed_under_their_keys(connect: Connect, chain: Any) -> None:
    backend = await connect()
    await chain(backend.commit_log()).append()
    assert await listed(backend) == ["journal/00000000000000000001.jsonl"]


async def test_no_two_versions_have_one_etag(connect: Connect) -> None:
    backend = await connect()
    etags: list[ETag] = []
    for turn in range(200):
        if turn % 3 == 0:
            etags.append(await backend.write("a", b"A"))
            continue
        if turn % 3 == 1:
            await backend.write_lazily([LazyWrite("a", b"A", 1)])
        else:
            await backend.write_at("a", 0, b"A")
        etags.append((await backend.read("a")).etag)
    assert len(set(etags)) == len(etags)


@pytest.mark.parametrize("moment", [2**62, 253_402_300_800 * 10**9, -1, -(2**62)])
async def test_a_file_with_a_time_that_no_date_can_have_is_read(
    connect: Connect, path: Path, moment: int
) -> None:
    class Odd(Port):
        """What file systems with times of 64 bits tell."""

        def fstat(self, fd: int) -> os.stat_result:
            return with_time(super().fstat(fd))

        def stat(self, name: str, *, within: int) -> os.stat_result:
            return with_time(super().stat(name, within=within))

    def with_time(found: os.stat_result) -> os.stat_result:
        _, (values, more) = found.__reduce__()
        return os.stat_result(values, {**more, "st_mtime_ns": moment})

    backend = await connect(port=Odd())
    await backend.write("a", b"A")
    blob = await backend.read("a")
    assert blob.data == b"A"
    assert [entry.modified for entry in [one async for one in backend.list_keys("a")]] == [
        blob.modified.timestamp()
    ]


async def test_a_copy_leaves_the_version_of_its_source(connect: Connect) -> None:
    backend = await connect()
    etag = await backend.write("state.json", b"A")
    await backend.copy("state.json", "state.backup.json")
    await backend.delete("state.backup.json")
    await backend.write("state.json", b"B", when=IfMatch(etag))


async def test_a_copy_shares_the_bytes_until_one_of_them_changes(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write_at("logs/a.log", 0, b"one\n")
    await backend.copy("logs/a.log", "logs/b.log")
    assert (path / "logs/a.log").stat().st_ino == (path / "logs/b.log").stat().st_ino
    await backend.write_at("logs/a.log", 6, b"two\n")
    assert (await backend.read("logs/a.log")).data == b"one\n\n\ntwo\n"
    assert (await backend.read("logs/b.log")).data == b"one\n"


async def test_a_copy_does_not_share_what_has_another_name_elsewhere(
    connect: Connect, path: Path, tmp_path: Path
) -> None:
    backend = await connect()
    await backend.write("tasks/a.json", b"A")
    os.link(path / "tasks/a.json", tmp_path / "tree-of-a-backup")
    await backend.copy("tasks/a.json", "tasks/b.json")
    (tmp_path / "tree-of-a-backup").write_bytes(b"B")
    assert (await backend.read("tasks/b.json")).data == b"A"


@pytest.mark.parametrize(("links", "call"), [(True, "link"), (False, "pread")], ids=["linked", "written"])
async def test_what_is_replaced_while_it_is_copied_is_not_taken_for_the_version_that_was_asked_for(
    connect: Connect, path: Path, port: Any, links: bool, call: str
) -> None:
    backend = await connect()
    etag = await backend.write("state.json", b"A")
    later = [b"B"]

    def replace(*_: Any) -> bool:
        while later:
            (path / "later").write_bytes(later.pop())
            (path / "later").replace(path / "state.json")
        return False

    port.fail(call, chosen=replace)
    if not links:
        port.fail("link", errno.EPERM)
    with pytest.raises(ConflictError):
        await backend.copy("state.json", "b", when=IfMatch(etag))
    assert await listed(backend) == ["state.json"]
    assert temporaries(path) == []


async def test_a_copy_that_fails_leaves_nothing(connect: Connect, path: Path, port: Any) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    port.fail("rename")
    with pytest.raises(UnavailableError):
        await backend.copy("a", "b")
    assert await listed(backend) == ["a"]
    assert temporaries(path) == []


async def test_a_copy_onto_itself_changes_nothing(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    await backend.copy("a", "b")
    await backend.copy("a", "b")
    await backend.copy("a", "a")
    assert await listed(backend) == ["a", "b"]
    assert temporaries(path) == []


async def test_without_hard_links_everything_works_by_other_means(
    connect: Connect, port: Any, path: Path
) -> None:
    port.fail("link", errno.EPERM)
    backend = await connect()
    await backend.write("a", b"A" * 3_000_000, when=IF_ABSENT)
    with pytest.raises(AlreadyExistsError):
        await backend.write("a", b"B", when=IF_ABSENT)
    await backend.copy("a", "b")
    assert (await backend.read("b")).data == b"A" * 3_000_000
    assert temporaries(path) == []


async def test_without_exchange_views_are_renamed_over(connect: Connect, port: Any) -> None:
    port.fail("exchange", errno.ENOENT)
    backend = await connect()
    for turn in range(3):
        await backend.write_lazily([LazyWrite("a", str(turn).encode(), turn)])
    assert (await backend.read("a")).data == b"2"


async def test_a_file_that_is_used_again_is_not_read_as_the_old_object(
    connect: Connect, port: Any, path: Path
) -> None:
    """Between opening and reading, the file is replaced, and its inode gets another object's bytes."""
    backend = await connect()
    await backend.write("a", b"old a")
    stolen: list[bool] = []

    def steal(fd: int, *_: Any) -> bool:
        if not stolen and os.pread(fd, 10, 0) == b"old a":
            stolen.append(True)
            (path / "a").rename(path / "b")
            (path / "a").write_bytes(b"new a")
            (path / "b").write_bytes(b"the b")
        return False

    port.fail("pread", chosen=steal)
    assert (await backend.read("a")).data == b"new a"
    assert stolen


async def test_a_persons_edit_changes_the_etag(connect: Connect, path: Path) -> None:
    backend = await connect()
    etag = await backend.write("a", b"A")
    (path / "a").write_bytes(b"B")
    with pytest.raises(ConflictError):
        await backend.write("a", b"C", when=IfMatch(etag))
    assert (await backend.read("a")).data == b"B"


async def test_the_folder_of_the_last_body_goes_with_it(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("bodies/x/1", b"A")
    await backend.write("bodies/x/2", b"A")
    await backend.delete("bodies/x/1")
    assert (path / "bodies/x").is_dir()
    await backend.delete("bodies/x/2")
    assert not (path / "bodies/x").exists()
    await backend.write("bodies/x/1", b"B")
    assert await listed(backend) == ["bodies/x/1"]


@pytest.mark.parametrize(("call", "when"), [("rename", ALWAYS), ("link", IF_ABSENT)])
async def test_a_folder_that_is_removed_while_an_object_is_written_there_is_made_again(
    connect: Connect, path: Path, port: Any, call: str, when: Any
) -> None:
    backend = await connect()
    await backend.write("bodies/x/1", b"A")
    (path / "bodies/x/1").unlink()
    empty = [path / "bodies/x"]

    def remove_once(*_: Any) -> bool:
        while empty:
            empty.pop().rmdir()
        return False

    port.fail(call, chosen=remove_once)
    await backend.write("bodies/x/2", b"B", when=when)
    assert await listed(backend) == ["bodies/x/2"]


async def test_a_folder_that_is_removed_while_an_object_is_copied_there_is_made_again(
    connect: Connect, path: Path, port: Any
) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    (path / "bodies/x").mkdir(parents=True)
    empty = [path / "bodies/x"]

    def remove_once(*_: Any) -> bool:
        while empty:
            empty.pop().rmdir()
        return False

    port.fail("rename", chosen=remove_once)
    await backend.copy("a", "bodies/x/1")
    assert await listed(backend) == ["a", "bodies/x/1"]


async def test_a_key_that_continues_another_is_refused(connect: Connect) -> None:
    backend = await connect()
    await backend.write("a", b"A")
    await backend.write("b/c", b"B")
    for key in ("a/x", "b"):
        with pytest.raises(InvalidArgumentError, match="taken"):
            await backend.write(key, b"B")
        assert await backend.delete(key) is False
        with pytest.raises(StateError, match=f"no {key}"):
            await backend.read(key)
    assert await listed(backend) == ["a", "b/c"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
@pytest.mark.parametrize("when", [IF_ABSENT, IfMatch(ETag("x"))], ids=["absent", "match"])
async def test_what_is_no_file_does_not_pass_for_an_object_that_could_be_read(
    connect: Connect, path: Path, make: Callable[[Path], None], when: Any
) -> None:
    backend = await connect()
    make(path / "a")
    with pytest.raises(InvalidArgumentError, match="taken"):
        await backend.write("a", b"A", when=when)


@pytest.mark.parametrize("key", ["reports/r.json", "journal/floor"])
async def test_a_folder_in_the_place_of_a_file_of_the_stores_keeps_nobody_waiting(
    path: Path, key: str
) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.save_report("r", {"n": 1})
    (path / key).unlink()
    (path / key).mkdir()
    async with asyncio.timeout(60):
        with pytest.raises(InvalidArgumentError, match=f"{key} cannot be a file"):
            async with statepath.open(path, autosave=0) as store:
                await store.save_report("r", {"n": 2})


async def test_a_name_that_the_file_system_cannot_hold_is_refused(connect: Connect, path: Path) -> None:
    backend = await connect()
    await backend.write("a" * 255, b"A")
    with pytest.raises(InvalidArgumentError, match="too long"):
        await backend.write("a" * 256, b"A")
    assert temporaries(path) == []


async def test_a_source_that_cannot_be_read_is_not_taken_for_a_full_disk(
    connect: Connect, path: Path
) -> None:
    backend = await connect()

    def chunks() -> Iterator[bytes]:
        yield b"x" * 3_000_000
        raise OSError(errno.ENOSPC, "of another disk")

    with pytest.raises(UnavailableError, match=r"written to state\.json could not be read") as caught:
        await backend.write_stream("state.json", chunks())
    assert caught.value.code == UnavailableError.default_code
    assert temporaries(path) == []


async def test_closing_waits_for_what_is_under_way(connect: Connect, path: Path) -> None:
    backend = await connect()
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def chunks() -> Iterator[bytes]:
        loop.call_soon_threadsafe(begun.set)
        for _ in range(5):
            yield b"x" * 1_000_000

    writing = asyncio.ensure_future(backend.write_stream("state.json", chunks()))
    await begun.wait()
    await backend.close()
    await writing
    assert (path / "state.json").stat().st_size == 5_000_000


async def test_no_descriptor_is_left_open(connect: Connect, chain: Any, commits: Any) -> None:
    backend = await connect()
    before = len(os.listdir("/dev/fd"))
    await backend.close()
    for _ in range(3):
        backend = await connect()
        await backend.write("bodies/x/1", b"A", when=IF_ABSENT)
        await backend.write_lazily([LazyWrite("tasks/a", b"A", 1)])
        await backend.copy("bodies/x/1", "a")
        await backend.write_at("logs/a", 0, b"A")
        await backend.delete("bodies/x/1")
        for key in ("a/b", "missing", "tasks"):
            with pytest.raises(StateError):
                await backend.read(key)
        async for _ in backend.list_keys(""):
            break
        log = chain(backend.commit_log())
        log.commits = await commits(log.log)
        await log.append(3_000_000)
        await commits(log.log)
        async for _ in log.log.follow(0):
            break
        await backend.close()
    backend = await connect()
    assert len(os.listdir("/dev/fd")) <= before
