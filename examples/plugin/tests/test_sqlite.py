"""What is this backend's own: its URL, its file, and what SQLite's errors become."""

import asyncio
import os
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import statepath
from statepath.backend import StateURL
from statepath.errors import (
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from statepath_sqlite import SqliteBackend, SqliteConfig, factory

pytestmark = pytest.mark.asyncio


def below(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.rglob("*")}


async def limit_pages(backend: SqliteBackend, pages: int) -> None:
    """Make the file as large as the disk. The limit is the connection's, so it has to be set through it."""
    await backend._run(None, lambda connection: connection.execute(f"PRAGMA max_page_count = {pages}"))  # noqa: SLF001


@pytest.mark.parametrize(
    ("url", "config"),
    [
        ("sqlite:///var/state.db", SqliteConfig("/var/state.db")),
        ("sqlite:////var/state.db", SqliteConfig("/var/state.db")),
        ("sqlite:///var/my%20state%3F.db?timeout=2.5", SqliteConfig("/var/my state?.db", 2.5)),
    ],
)
async def test_a_url_names_a_file(url: str, config: SqliteConfig) -> None:
    assert factory.parse(StateURL.parse(url)) == config


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://state.db",
        "sqlite://host/state.db",
        "sqlite:///",
        "sqlite:///folder/",
        "sqlite:///a.db?timeout=soon",
        "sqlite:///a.db?timeout=-1",
        "sqlite:///a.db?timeout=nan",
    ],
)
async def test_a_url_that_names_no_file_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        factory.parse(StateURL.parse(url))


async def test_the_url_wins_over_the_environment() -> None:
    env = {"STATE_SQLITE_TIMEOUT": "3"}
    assert factory.with_env(SqliteConfig("/a"), env) == SqliteConfig("/a", 3.0)
    assert factory.with_env(SqliteConfig("/a", 2.0), env) == SqliteConfig("/a", 2.0)


async def test_file_and_folder_are_for_their_owner_only(tmp_path: Path) -> None:
    backend = await factory.connect(SqliteConfig(f"{tmp_path}/new/state.db"))
    await backend.write("a", b"A")
    modes = {name: path.stat().st_mode & 0o777 for name, path in below(tmp_path).items()}
    await backend.close()
    assert modes == {"new": 0o700, "state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}


async def test_a_new_file_that_another_one_is_writing_is_waited_for(tmp_path: Path) -> None:
    path = f"{tmp_path}/state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        connecting = asyncio.create_task(factory.connect(SqliteConfig(path)))
        assert not (await asyncio.wait([connecting], timeout=0.1))[0]
        other.execute("COMMIT")
        backend = await connecting
    await backend.close()


async def test_and_no_longer_than_the_timeout(tmp_path: Path) -> None:
    path = f"{tmp_path}/state.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ThrottledError, match="locked"):
            await factory.connect(SqliteConfig(path, timeout=0.05))


ANOTHER_PROGRAM = """
import asyncio, sys
from statepath_sqlite import SqliteConfig, factory

async def write():
    backend = await factory.connect(SqliteConfig(sys.argv[1]))
    await backend.write("b", b"B")
    await backend.close()

asyncio.run(write())
"""


@pytest.mark.slow
async def test_another_program_that_comes_and_goes_leaves_the_log_of_several_connections(
    tmp_path: Path,
) -> None:
    """SQLite's log, `-wal`, goes with the last connection: its locks tell which one that is."""
    config = SqliteConfig(f"{tmp_path}/state.db")
    one, other = await factory.connect(config), await factory.connect(config)
    await one.write("a", b"A")
    await see_another_program_leave_the_log(tmp_path)
    assert (await other.read("b")).data == b"B"
    await one.close()
    await other.close()


@pytest.mark.slow
async def test_so_it_does_where_one_of_them_is_about_to_make_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, made, waited_for, close = threading.Lock(), threading.Event(), threading.Event(), os.close

    class Turn:
        def __enter__(self) -> None:
            if turn.locked():
                waited_for.set()
            turn.acquire()

        def __exit__(self, *_: object) -> None:
            turn.release()

    def close_late(fd: int) -> None:
        made.set()
        waited_for.wait(timeout=5)
        close(fd)

    monkeypatch.setattr("statepath_sqlite.backend._creating", Turn())
    config = SqliteConfig(f"{tmp_path}/state.db")
    with monkeypatch.context() as patched:
        patched.setattr(os, "close", close_late)
        one = SqliteBackend(config, readonly=False)
        making = asyncio.create_task(asyncio.to_thread(one._create, config.path))  # noqa: SLF001
        await asyncio.to_thread(made.wait)
        other = await factory.connect(config)
        await making
    await other.write("a", b"A")
    await see_another_program_leave_the_log(tmp_path)
    await other.close()


async def see_another_program_leave_the_log(folder: Path) -> None:
    log = (folder / "state.db-wal").stat().st_ino
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ANOTHER_PROGRAM, f"{folder}/state.db"
    )
    assert await program.wait() == 0
    assert (folder / "state.db-wal").stat().st_ino == log


async def test_the_file_may_be_missing_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "state.db")
    backend = await factory.connect(SqliteConfig(f"{tmp_path}/link.db"))
    await backend.close()
    assert (tmp_path / "state.db").is_file()


async def test_a_folder_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Is a directory"):
        await factory.connect(SqliteConfig(str(tmp_path)))


async def test_what_is_shown_names_the_same_file(tmp_path: Path) -> None:
    config = SqliteConfig(f"{tmp_path}/50% of a?b#c.db")
    backend = await factory.connect(config)
    await backend.close()
    assert factory.parse(StateURL.parse(backend.url)) == config


async def test_a_name_with_odd_characters_is_one_file(tmp_path: Path) -> None:
    path = f"{tmp_path}/50% of a?b#c.db"
    for readonly in (False, True):
        backend = await factory.connect(SqliteConfig(path), readonly=readonly)
        if not readonly:
            await backend.write("a", b"A")
        assert (await backend.read("a")).data == b"A"
        await backend.close()
    assert {name for name in below(tmp_path) if "-" not in name} == {"50% of a?b#c.db"}


async def test_a_file_that_is_being_made_is_read_as_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "state.db").touch()
    backend = await factory.connect(SqliteConfig(f"{tmp_path}/state.db"), readonly=True)
    assert [entry async for entry in backend.list_keys("")] == []
    with pytest.raises(NotFoundError):
        await backend.read("a")
    await backend.close()


async def test_another_program_that_writes_is_waited_for_only_so_long(tmp_path: Path) -> None:
    backend = await factory.connect(SqliteConfig(f"{tmp_path}/state.db", timeout=0.0))
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ThrottledError):
            await backend.write("a", b"A")
        other.execute("ROLLBACK")
    await backend.write("a", b"A")
    await backend.close()


async def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    backend = await factory.connect(SqliteConfig(f"{tmp_path}/state.db"))
    await backend.write("a", b"A")
    await limit_pages(backend, 10)
    with pytest.raises(UnavailableError) as caught:
        await backend.write("a", bytes(1_000_000))
    assert caught.value.code == "disk_full"
    assert (await backend.read("a")).data == b"A"
    await limit_pages(backend, 100_000)
    await backend.write("a", bytes(1_000_000))
    await backend.close()


async def test_another_kind_of_file_is_not_touched(tmp_path: Path) -> None:
    text = "These are notes, and no database. " * 100
    (tmp_path / "notes.txt").write_text(text)
    with pytest.raises(CorruptionError):
        await factory.connect(SqliteConfig(f"{tmp_path}/notes.txt"))
    assert (tmp_path / "notes.txt").read_text() == text


async def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        await factory.connect(SqliteConfig(str(tmp_path)))


async def test_a_state_path_finds_this_backend(tmp_path: Path) -> None:
    path = f"sqlite://{tmp_path}/state.db"
    async with statepath.open(path) as store:
        tasks = store.collection("tasks")
        async with store.transaction() as tx:
            tx.put(tasks, {"id": "task_1", "status": "running"})
            tx.put(tasks, {"id": "task_2", "status": "waiting"})
    async with statepath.open(path, readonly=True) as store:
        assert [task["id"] async for task in store.collection("tasks").find(status="running")] == ["task_1"]
