"""What a state path may be, and what opening one that cannot be used leaves behind: nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from statepath.errors import AccessDeniedError, InvalidArgumentError, UnavailableError

Connect = Callable[..., Any]


def everything(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_mtime_ns) for path in (folder, *folder.rglob("*")))


async def test_missing_folders_are_made(connect: Connect, tmp_path: Path) -> None:
    backend = await connect(tmp_path / "a/b/c")
    await backend.write("state.json", b"{}")
    assert (tmp_path / "a/b/c/state.json").read_bytes() == b"{}"


async def test_the_state_paths_own_name_is_durable_before_a_commit_though_the_journal_is_new(
    connect: Connect, tmp_path: Path, port: Any, chain: Any
) -> None:
    """Who made the state path may have been killed before."""
    (tmp_path / "a").mkdir()
    backend = await connect(tmp_path / "a")
    await backend.share()
    synced: list[str] = []
    port.fail("fsync_dir", chosen=lambda fd: synced.append(os.readlink(f"/dev/fd/{fd}")))
    await chain(backend.commit_log()).append()
    assert str(tmp_path) in synced


async def test_the_names_of_missing_folders_and_of_the_one_above_are_durable(
    connect: Connect, tmp_path: Path, port: Any
) -> None:
    """Who made the one above may have been killed before."""
    (tmp_path / "a").mkdir()
    synced: list[str] = []
    port.fail("fsync_dir", chosen=lambda fd: synced.append(os.readlink(f"/dev/fd/{fd}")))
    await connect(tmp_path / "a/b/c")
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a/b")]


async def test_however_many_folders_are_missing_it_is_said_why_they_cannot_be_made(
    connect: Connect, port: Any, tmp_path: Path
) -> None:
    port.fail("mkdir", errno.EACCES)
    with pytest.raises(AccessDeniedError):
        await connect(tmp_path / "/".join("a" * 1500))


async def test_a_link_to_a_folder_is_followed(connect: Connect, tmp_path: Path, path: Path) -> None:
    (tmp_path / "real").mkdir()
    path.symlink_to("real")
    await (await connect()).write("state.json", b"{}")
    assert (tmp_path / "real/state.json").read_bytes() == b"{}"


@pytest.mark.parametrize("readonly", [False, True])
async def test_a_file_is_refused(connect: Connect, tmp_path: Path, path: Path, readonly: bool) -> None:
    path.write_text("precious")
    before = everything(tmp_path)
    for where in (path, path / "below"):
        with pytest.raises(InvalidArgumentError, match="is a file") as caught:
            await connect(where, readonly=readonly)
        assert caught.value.code == "not_a_folder"
    assert everything(tmp_path) == before
    assert path.read_text() == "precious"


@pytest.mark.parametrize("readonly", [False, True])
@pytest.mark.parametrize("target", ["nowhere", "store"])
async def test_a_link_that_leads_nowhere_is_refused(
    connect: Connect, tmp_path: Path, path: Path, target: str, readonly: bool
) -> None:
    path.symlink_to(target)
    before = everything(tmp_path)
    with pytest.raises(InvalidArgumentError, match="leads nowhere") as caught:
        await connect(readonly=readonly)
    assert caught.value.code == "dangling_link"
    assert everything(tmp_path) == before


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", ["mkdir", "open"])
async def test_a_place_that_cannot_be_written_is_refused(
    connect: Connect, port: Any, tmp_path: Path, path: Path, call: str, error: int
) -> None:
    before = everything(tmp_path)
    port.fail(call, error)
    with pytest.raises(AccessDeniedError, match=str(path)) as caught:
        await connect()
    assert os.strerror(error) in str(caught.value)
    assert [entry for entry, _ in everything(tmp_path)] == [entry for entry, _ in before]


async def test_a_file_system_that_takes_no_folders_is_refused(connect: Connect, port: Any) -> None:
    port.fail("mkdir", errno.ENOENT)  # as /proc answers
    with pytest.raises(InvalidArgumentError, match="cannot be made") as caught:
        await connect()
    assert caught.value.code == "not_a_folder"


@pytest.mark.parametrize("call", ["mkdir", "open", "pwrite", "ftruncate"])
async def test_a_full_disk_is_said_and_nothing_is_left(
    connect: Connect, port: Any, tmp_path: Path, call: str
) -> None:
    port.fail(call, errno.ENOSPC)
    with pytest.raises(UnavailableError, match="no space") as caught:
        await connect(tmp_path / "a/b")
    assert caught.value.code == "disk_full"
    assert list(tmp_path.iterdir()) == []


async def test_folders_that_were_made_for_nothing_are_taken_back(
    connect: Connect, port: Any, tmp_path: Path
) -> None:
    port.fail("mkdir", errno.ENOSPC, chosen=lambda name: name == "c")
    with pytest.raises(UnavailableError):
        await connect(tmp_path / "a/b/c")
    assert list(tmp_path.iterdir()) == []


async def test_a_store_that_cannot_be_opened_after_it_was_locked_is_not_begun(
    connect: Connect, port: Any, tmp_path: Path
) -> None:
    port.fail("open_folder")
    with pytest.raises(UnavailableError, match="Input/output error"):
        await connect()
    assert list(tmp_path.iterdir()) == []


async def test_a_folder_that_was_there_stays(connect: Connect, port: Any, path: Path) -> None:
    path.mkdir()
    port.fail("pwrite", errno.ENOSPC)
    with pytest.raises(UnavailableError):
        await connect()
    assert list(path.iterdir()) == []


async def test_a_store_opens_after_a_failed_attempt(connect: Connect, port: Any) -> None:
    port.fail("pwrite", errno.ENOSPC, times=1)
    with pytest.raises(UnavailableError):
        await connect()
    await (await connect()).write("state.json", b"{}")


async def test_a_reader_may_come_first_and_makes_nothing(connect: Connect, path: Path) -> None:
    reader = await connect(readonly=True)
    assert [entry.key async for entry in reader.list_keys("")] == []
    assert [commit async for commit in reader.commit_log().read(0)] == []
    assert not path.exists()
    await (await connect()).write("state.json", b"{}")
    assert (await reader.read("state.json")).data == b"{}"
