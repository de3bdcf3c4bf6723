"""One writer at a time, and who it is."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.errors import ClosedError, DivergedError, StoreLockedError, UnavailableError
from statepath_local.port import Port

Connect = Callable[..., Any]

HOLD = """
import asyncio, sys
from statepath.url import StateURL
from statepath_local import factory

async def main():
    backend = await factory.connect(factory.parse(StateURL.parse(sys.argv[1])))
    print("open", flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_second_writer_is_told_who_holds_the_lock(connect: Connect) -> None:
    await connect()
    with pytest.raises(StoreLockedError, match=f"pid {os.getpid()}") as caught:
        await connect()
    holder = caught.value.holder
    assert holder["pid"] == os.getpid()
    assert holder.keys() == {"pid", "host", "started", "program"}


async def test_closing_gives_the_lock_back(connect: Connect) -> None:
    for _ in range(3):
        await (await connect()).close()


@pytest.mark.slow
async def test_another_process_is_named_and_its_end_frees_the_lock(connect: Connect, path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        await asyncio.to_thread(child.stdout.readline)
        with pytest.raises(StoreLockedError) as caught:
            await connect()
        assert caught.value.holder["pid"] == child.pid
        child.kill()
        child.wait()
        await (await connect()).write("state.json", b"{}")


async def test_who_has_written_nothing_leaves_no_lock(connect: Connect, path: Path) -> None:
    path.mkdir()
    (path / "theirs").touch()
    await (await connect()).close()
    assert [one.name for one in path.iterdir()] == ["theirs"]
    writer = await connect()
    await writer.write("state.json", b"{}")
    await writer.close()
    await (await connect()).close()
    assert (path / "lock").exists()


async def test_a_brief_look_does_not_turn_a_writer_away(connect: Connect, path: Path) -> None:
    writer = await connect()
    await writer.write("state.json", b"{}")
    await writer.close()
    looking = os.open(path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    asyncio.get_running_loop().call_later(0.05, os.close, looking)
    await connect()


def ended() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as child:
        pass
    return child.pid


@pytest.mark.parametrize("process", [os.getpid, ended])
async def test_a_brief_look_does_not_bring_killed_writers_back(
    connect: Connect, path: Path, port: Any, process: Callable[[], int]
) -> None:
    killed = await connect()
    await killed.share()
    left = (path / "lock").read_text().replace(f'"pid": {os.getpid()}', f'"pid": {process()}')
    await killed.close()
    (path / "lock").write_text(left)
    port.fail("flock", errno.EAGAIN, chosen=lambda _, kind: kind == fcntl.LOCK_EX | fcntl.LOCK_NB, times=1)
    assert not (await connect()).joined


@pytest.mark.parametrize("process", [os.getpid, ended])
async def test_a_writer_that_cannot_be_seen_is_joined_after_a_while(
    connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch, process: Callable[[], int]
) -> None:
    """As in a container with the name of its host, and numbers of its own."""
    monkeypatch.setattr("statepath_local.lock._PATIENCE", 0.05)
    await (await connect()).share()
    lock = (path / "lock").read_text()
    monkeypatch.setattr("statepath_local.lock._ours", set())
    (path / "lock").write_text(lock.replace(f'"pid": {os.getpid()}', f'"pid": {process()}'))
    assert (await connect()).joined


async def test_a_writer_of_another_container_with_the_same_number_stays_a_holder(
    connect: Connect, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statepath_local.lock._PATIENCE", 0.05)
    await (await connect()).share()
    holder = (path / "lock").read_text().splitlines()[-1]
    monkeypatch.setattr("statepath_local.lock._ours", set())
    second = await connect()
    assert not await second.is_alone()
    await second.close()
    assert holder in (path / "lock").read_text().splitlines()


async def test_an_opening_that_failed_is_no_holder(
    connect: Connect, port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    holders: set[str] = set()
    monkeypatch.setattr("statepath_local.lock._ours", holders)
    port.fail("ftruncate")
    with pytest.raises(UnavailableError):
        await connect()
    assert not holders


async def test_a_program_that_is_started_does_not_inherit_the_lock(connect: Connect) -> None:
    backend = await connect()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        await backend.close()
        await connect()
        child.kill()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_cannot_use_the_handle(connect: Connect, chain: Any) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        told_all = all(_is_refused(call) for call in (lambda: backend.read("a"), log.append))
        os.write(tell, b"refused" if told_all else b"not refused")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(told, 100) == b"refused"
    os.close(told)
    os.close(tell)
    await log.append()
    with pytest.raises(StoreLockedError):
        await connect()


def _is_refused(call: Callable[[], Any]) -> bool:
    try:
        call().send(None)
    except ClosedError as error:
        return "forked" in str(error)
    return False


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_does_not_keep_the_lock(connect: Connect) -> None:
    backend = await connect()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(wait, 1)
        os._exit(0)
    os.close(wait)
    try:
        await backend.close()
        await connect()
    finally:
        os.close(go)
        os.waitpid(child, 0)


@pytest.fixture
def _forking(connect: Connect, port: Any) -> Iterator[None]:
    """Whatever is locked, a child has it open from that moment, until the handles are closed."""
    lock, open_in_child = port.flock, list[int]()

    def flock(fd: int, operation: int) -> None:
        open_in_child.append(os.dup(fd))
        lock(fd, operation)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(port, "flock", flock)
        yield
    for fd in open_in_child:
        os.close(fd)


def is_free(path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


@pytest.mark.usefixtures("_forking")
async def test_a_forked_child_does_not_keep_the_holders_from_being_written(
    connect: Connect, path: Path
) -> None:
    await (await connect(port=Port())).share()
    await connect()
    assert is_free(path)


@pytest.mark.usefixtures("_forking")
@pytest.mark.parametrize("shared", [False, True])
async def test_a_forked_child_does_not_keep_what_its_parent_looked_at(
    connect: Connect, path: Path, chain: Any, commits: Callable[..., Any], shared: bool
) -> None:
    writer = await connect(port=Port())
    if shared:
        await writer.share()
    log = chain(writer.commit_log())
    await log.append()
    left = (path / "lock").read_bytes()
    await writer.close()
    (path / "lock").write_bytes(left)
    assert await commits((await connect(readonly=True)).commit_log()) == log.commits
    assert is_free(path / "lock")


@pytest.mark.usefixtures("_forking")
async def test_a_forked_child_does_not_keep_a_lock_that_was_not_wanted(connect: Connect, port: Any) -> None:
    port.fail("flock", errno.EAGAIN, chosen=lambda _, kind: kind == fcntl.LOCK_EX | fcntl.LOCK_NB, times=1)
    await connect()


@pytest.mark.usefixtures("_forking")
@pytest.mark.parametrize("shared", [False, True])
async def test_a_forked_child_keeps_no_lock_of_a_handle_that_was_closed(
    connect: Connect, path: Path, shared: bool
) -> None:
    backend = await connect()
    if shared:
        await backend.share()
    assert await backend.maintain()
    await backend.close()
    assert is_free(path / "lock")
    assert is_free(path / ".tmp+")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_the_end_of_a_forked_childs_handle_leaves_the_parents_locks(
    connect: Connect, path: Path
) -> None:
    backend = await connect()
    assert await backend.maintain()
    child = os.fork()
    if child == 0:
        os._exit(0)  # its handle was disowned before
    os.waitpid(child, 0)
    assert not is_free(path / "lock")
    assert not is_free(path / ".tmp+")


@pytest.mark.slow
async def test_a_lock_on_a_file_that_was_removed_excludes_nobody(
    connect: Connect, port: Any, path: Path
) -> None:
    await (await connect()).close()
    removed: list[bool] = []

    def remove_once(fd: int, operation: int) -> bool:
        if not removed and operation == fcntl.LOCK_EX | fcntl.LOCK_NB:
            removed.append(True)
            (path / "lock").unlink()
        return False

    port.fail("flock", chosen=remove_once)
    await connect()
    assert removed
    with pytest.raises(StoreLockedError):
        await connect()


@pytest.mark.parametrize("how", ["removed", "moved", "linked", "replaced"])
@pytest.mark.parametrize("shared", [False, True])
async def test_a_writer_whose_lock_was_taken_away_commits_nothing_more(
    connect: Connect, chain: Any, path: Path, how: str, *, shared: bool
) -> None:
    backend = await connect()
    if shared:
        await backend.share()
    log = chain(backend.commit_log())
    await log.append()
    data = (path / "lock").read_bytes()
    if how == "linked":
        (path.parent / "copy").hardlink_to(path / "lock")
    if how == "moved":
        (path / "lock").rename(path.parent / "moved")
    else:
        (path / "lock").unlink()
    if how == "replaced":
        (path / "lock").write_bytes(data)
    for _ in range(2):
        with pytest.raises(DivergedError, match="the file lock was removed or replaced"):
            await log.append()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_mount_that_numbers_the_lock_anew_stops_no_writer(
    connect: Connect, chain: Any, monkeypatch: pytest.MonkeyPatch, *, shared: bool
) -> None:
    backend = await connect()
    if shared:
        await backend.share()
    monkeypatch.setattr("statepath_local.lock._is_named", lambda *_: False)
    log = chain(backend.commit_log())
    await log.append()
    await log.append()


@pytest.mark.parametrize("shared", [False, True])
async def test_a_writer_in_the_place_of_whose_folder_another_one_stands_commits_nothing_there(
    connect: Connect, chain: Any, path: Path, commits: Any, *, shared: bool
) -> None:
    backend = await connect()
    if shared:
        await backend.share()
    log = chain(backend.commit_log())
    await log.append()
    path.rename(path.with_name("earlier"))
    shutil.copytree(path.with_name("earlier"), path)
    for _ in range(2):
        with pytest.raises(DivergedError, match="replaced by another one while it was open"):
            await log.append()
    shutil.rmtree(path)
    path.with_name("earlier").rename(path)
    await log.append()
    assert await commits(backend.commit_log()) == log.commits


async def test_a_writer_whose_folder_was_moved_commits_there(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    path.rename(path.with_name("elsewhere"))
    await log.append()
    reader = await connect(path.with_name("elsewhere"), readonly=True)
    assert await commits(reader.commit_log()) == log.commits


async def test_what_a_store_does_while_its_folder_is_moved(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    async with statepath.open(path, autosave=0) as store:
        await store.append_log("log", "before")
        await store.flush()
        path.rename(elsewhere)
        await store.collection("raw").put({"id": "a"})
        with pytest.raises(UnavailableError, match="was moved or removed"):
            await store.snapshot()
        with pytest.raises(UnavailableError, match="was moved or removed"):
            await store.read_log("log")
        elsewhere.rename(path)
        await store.snapshot()
        assert await store.read_log("log") == "before"
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("raw").get("a") == {"id": "a"}


async def test_a_writer_does_not_follow_a_link_that_is_pointed_elsewhere(tmp_path: Path) -> None:
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.mkdir()
    other.mkdir()
    link.symlink_to(one)
    async with statepath.open(link, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(DivergedError, match="replaced by another one while it was open"):
            await store.collection("raw").put({"id": "b"})
    assert not list(other.iterdir())


async def test_a_store_whose_folder_was_moved_or_replaced_says_so(path: Path) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        path.rename(path.with_name("earlier"))
        assert "was moved or removed while it was open" in (await store.health()).problems[0]
        shutil.copytree(path.with_name("earlier"), path)
        assert "was replaced by another one" in (await store.health()).problems[0]
        shutil.rmtree(path)
        path.with_name("earlier").rename(path)
        assert (await store.health()).healthy


async def test_what_was_acknowledged_beside_a_lock_that_was_removed_is_there(tmp_path: Path) -> None:
    async with statepath.open(tmp_path, autosave=0) as one:
        await one.collection("raw").put({"id": "before"})
        (tmp_path / "lock").unlink()
        async with statepath.open(tmp_path, autosave=0) as other:
            await other.collection("raw").put({"id": "beside"})
            with pytest.raises(DivergedError):
                await one.collection("raw").put({"id": "refused"})
            await other.collection("raw").put({"id": "behind"})
    async with statepath.open(tmp_path, autosave=0) as store:
        found = {document["id"] async for document in store.collection("raw")}
        assert found == {"before", "beside", "behind"}
        assert store.damage == ()
        assert await store.verify() == []


async def test_a_failure_to_lock_is_not_taken_for_a_holder(connect: Connect, port: Any) -> None:
    port.fail("flock", errno.ENOLCK)
    with pytest.raises(Exception, match="lock") as caught:
        await connect()
    assert not isinstance(caught.value, StoreLockedError)


async def test_an_abandoned_opening_gives_the_lock_back(connect: Connect, path: Path) -> None:
    for steps in range(6):
        opening = asyncio.ensure_future(connect())
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        outcome = (await asyncio.gather(opening, return_exceptions=True))[0]
        if not isinstance(outcome, BaseException):
            await outcome.close()
    await connect()
