"""Who can read the files, and where they can be."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from statepath.backend import IF_ABSENT, LazyWrite
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
)

Connect = Callable[..., Any]


@pytest.fixture(params=[0o000, 0o022, 0o077])
def _umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask")
async def test_files_and_folders_are_the_owners_from_their_creation(
    connect: Connect, port: Any, path: Path, chain: Any
) -> None:
    made: set[int] = set()
    backend = await connect()

    def note(*_: Any) -> bool:
        made.update(
            stat.S_IMODE(found.lstat().st_mode) | (stat.S_IFDIR if found.is_dir() else 0)
            for found in (path, *path.rglob("*"))
        )
        return False

    for call in ("pwrite", "writev", "ftruncate", "fsync", "fdatasync", "fsync_dir", "rename", "link"):
        port.fail(call, chosen=note)
    await backend.write("tasks/a.json", b"A")
    await backend.write("journal/floor", b"1", when=IF_ABSENT)
    await backend.write_stream("state.json", [b"A"] * 10)
    await backend.write_at("logs/a.log", 3, b"A")
    await backend.write_lazily([LazyWrite("sessions/a.json", b"A", 1), LazyWrite("tasks/a.json", b"B", 2)])
    await backend.copy("state.json", "state.backup.json")
    await chain(backend.commit_log()).append()
    await backend.close()
    note()
    assert made == {0o600, 0o700 | stat.S_IFDIR}


async def test_a_folder_that_is_a_link_is_not_entered(
    connect: Connect, path: Path, tmp_path: Path, chain: Any
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.json").write_text("theirs")
    backend = await connect()
    for folder in ("tasks", "bodies", "journal"):
        (path / folder).symlink_to(outside)
    calls: tuple[Callable[[], Any], ...] = (
        lambda: backend.read("tasks/a.json"),
        lambda: backend.write("tasks/a.json", b"ours"),
        lambda: backend.write("tasks/new.json", b"ours", when=IF_ABSENT),
        lambda: backend.write("bodies/x/1", b"ours"),
        lambda: backend.write_at("tasks/a.json", 0, b"ours"),
        lambda: backend.write_lazily([LazyWrite("tasks/a.json", b"ours", 1)]),
        lambda: backend.write_lazily([LazyWrite("tasks/a.json", None, 1)]),
        lambda: backend.copy("tasks/a.json", "mine"),
        lambda: backend.delete("tasks/a.json"),
        lambda: chain(backend.commit_log()).append(),
    )
    for call in calls:
        with pytest.raises(AccessDeniedError, match="symbolic link"):
            await call()
    assert [entry.key async for entry in backend.list_keys("")] == []
    assert sorted(outside.iterdir()) == [outside / "a.json"]
    assert (outside / "a.json").read_text() == "theirs"


async def test_a_file_that_is_a_link_is_not_followed(connect: Connect, path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("theirs")
    backend = await connect()
    (path / "a").symlink_to(outside)
    (path / "b").symlink_to(tmp_path / "new")
    for key in ("a", "b"):
        with pytest.raises(AccessDeniedError, match="symbolic link"):
            await backend.read(key)
        with pytest.raises(AccessDeniedError, match="symbolic link"):
            await backend.write_at(key, 0, b"ours")
        with pytest.raises(AccessDeniedError, match="symbolic link"):
            await backend.copy(key, "mine")
        with pytest.raises(AlreadyExistsError):
            await backend.write(key, b"ours", when=IF_ABSENT)
    assert [entry.key async for entry in backend.list_keys("")] == []
    await backend.write("a", b"ours")
    await backend.write_lazily([LazyWrite("b", b"ours", 1)])
    assert [(await backend.read(key)).data for key in ("a", "b")] == [b"ours", b"ours"]
    assert outside.read_text() == "theirs"
    assert sorted(tmp_path.iterdir()) == [outside, path]


async def test_a_link_is_removed_and_not_its_target(connect: Connect, path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_text("theirs")
    backend = await connect()
    (path / "a").symlink_to(outside)
    await backend.delete("a")
    assert outside.read_text() == "theirs"
    assert not (path / "a").is_symlink()


@pytest.mark.parametrize("name", ["lock", ".tmp+"])
async def test_the_backends_own_files_are_not_links_either(
    connect: Connect, path: Path, tmp_path: Path, name: str
) -> None:
    path.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / name).symlink_to(outside / "new" if name == "lock" else outside)
    with pytest.raises(AccessDeniedError, match="symbolic link"):
        await (await connect()).write("a", b"A")
    assert list(outside.iterdir()) == []


async def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    connect: Connect, port: Any, path: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    backend = await connect()
    await backend.write("tasks/a", b"A")

    def swap(*_: Any) -> bool:
        if not (path / "tasks").is_symlink():
            (path / "tasks").rename(path / "moved")
            (path / "tasks").symlink_to(outside)
        return False

    port.fail("rename", chosen=swap)
    await backend.write("tasks/b", b"B")
    assert list(outside.iterdir()) == []
    assert (path / "moved/b").read_bytes() == b"B"


@pytest.mark.timeout(60)
async def test_a_pipe_is_no_object_and_holds_nobody_up(connect: Connect, path: Path) -> None:
    backend = await connect()
    os.mkfifo(path / "pipe")
    with pytest.raises(NotFoundError):
        await backend.read("pipe")
    with pytest.raises(NotFoundError):
        await backend.write_at("pipe", 0, b"A")
    with pytest.raises(NotFoundError):
        await backend.copy("pipe", "mine")
    assert [entry.key async for entry in backend.list_keys("")] == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
async def test_what_is_no_file_in_the_place_of_a_segment_is_named_and_holds_nobody_up(
    connect: Connect, chain: Any, path: Path, make: Callable[[Path], None], commits: Any
) -> None:
    backend = await connect()
    await chain(backend.commit_log()).append()
    await backend.close()
    (segment,) = (path / "journal").glob("*.jsonl")
    segment.unlink()
    make(segment)
    for readonly in (True, False):
        log = (await connect(readonly=readonly)).commit_log()
        with pytest.raises(InvalidArgumentError, match=f"journal/{segment.name} cannot be a file"):
            await commits(log)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
async def test_what_is_no_file_in_the_place_of_the_lock_is_named_and_holds_no_reader_up(
    connect: Connect, chain: Any, path: Path, make: Callable[[Path], None], commits: Any
) -> None:
    backend = await connect()
    await chain(backend.commit_log()).append()
    await backend.close()
    (path / "lock").unlink()
    make(path / "lock")
    with pytest.raises(StateError, match=r"^lock"):
        await commits((await connect(readonly=True)).commit_log())
