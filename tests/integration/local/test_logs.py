"""Session logs of several handles on one folder: what one removes and another begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.errors import AccessDeniedError, InvalidArgumentError, NotFoundError, UnavailableError
from statepath_local.port import read_all


@pytest.fixture
async def handles(tmp_path: Path) -> AsyncIterator[list[Any]]:
    path = tmp_path / "state"
    async with statepath.open(path, autosave=0) as one, statepath.open(path, autosave=0) as other:
        yield [one, other]


def hold(monkeypatch: pytest.MonkeyPatch, store: Any, method: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Let the storage's calls of the method wait: told when one has begun, and when they may go on."""
    call, begun, free = getattr(store._engine.backend, method), asyncio.Event(), asyncio.Event()

    async def held(*args: Any, **options: Any) -> Any:
        begun.set()
        await free.wait()
        return await call(*args, **options)

    monkeypatch.setattr(store._engine.backend, method, held)
    return begun, free


async def test_a_log_that_is_begun_anew_outlives_the_removal_of_the_one_before(
    handles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintainer, slow = handles
    await slow.append_log("x", "old\n")
    await slow.flush()
    begun, free = hold(monkeypatch, slow, "delete")
    removing = asyncio.ensure_future(slow.delete_log("x"))
    await begun.wait()
    await maintainer.sync()
    await maintainer.append_log("x", "new\n")
    await maintainer.flush()
    free.set()
    await removing
    assert (tmp_path / "state" / "logs" / "session_x.log").read_text() == "new\n"
    await slow.flush()
    await slow.collection("raw").put({"id": "a"})
    await maintainer.snapshot()
    assert (tmp_path / "state" / "logs" / "session_x.log").read_text() == "new\n"
    assert await slow.read_log("x") == "new\n"


async def test_a_log_that_is_begun_anew_outlives_a_handle_that_dies_in_the_removal_of_the_one_before(
    handles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintainer, dying = handles
    await dying.append_log("x", "old\n")
    await dying.flush()
    begun, free = hold(monkeypatch, dying, "delete")
    died = asyncio.Event()

    async def dead(*_: Any, **__: Any) -> None:
        died.set()
        raise UnavailableError("it writes nothing any more")

    monkeypatch.setattr(dying._engine.backend, "write_at", dead)
    removing = asyncio.ensure_future(dying.delete_log("x"))
    await begun.wait()
    await maintainer.sync()
    await maintainer.append_log("x", "new\n")
    await maintainer.flush()
    free.set()
    await died.wait()
    await maintainer.snapshot()
    assert (tmp_path / "state" / "logs" / "session_x.log").read_text() == "new\n"
    with pytest.raises(UnavailableError):
        await removing


async def test_what_is_written_after_another_handle_removed_the_log_does_not_stay(
    handles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maintainer, slow = handles
    begun, free = hold(monkeypatch, slow, "write_at")
    await slow.collection("raw").put({"id": "a"})
    await slow.append_log("x", "old\n")
    closing = asyncio.ensure_future(slow.aclose())
    await begun.wait()
    await maintainer.sync()
    await maintainer.delete_log("x")
    free.set()
    await closing
    assert not (tmp_path / "state" / "logs" / "session_x.log").exists()


async def test_a_log_that_is_begun_anew_begins_with_its_text(handles: list[Any]) -> None:
    one, other = handles
    await one.append_log("x", "old\n")
    await one.flush()
    delete = one._engine.backend.delete
    one._engine.backend.delete = _never
    with pytest.raises(UnavailableError):
        await one.delete_log("x")
    await other.append_log("x", "new\n")
    one._engine.backend.delete = delete
    await one.sync()
    await one.flush()
    await other.flush()
    assert await one.read_log("x") == await other.read_log("x") == "new\n"


async def _never(key: str, **_: Any) -> bool:
    raise UnavailableError("later")


def _link(log: Path) -> None:
    log.rename(log.with_name("moved"))
    log.symlink_to("moved")


def _folder(log: Path) -> None:
    log.unlink()
    log.mkdir()
    (log / "notes.txt").write_text("mine")


@pytest.mark.parametrize("replaced", [_link, _folder])
async def test_what_a_person_put_in_the_place_of_a_log_is_in_nobodys_way_when_that_is_removed(
    handles: list[Any], tmp_path: Path, replaced: Callable[[Path], None]
) -> None:
    one, _ = handles
    log = tmp_path / "state" / "logs" / "session_x.log"
    await one.append_log("x", "old\n")
    await one.flush()
    replaced(log)
    assert await one.delete_log("x")
    assert not log.is_symlink()
    assert {path.name for path in log.parent.rglob("*")} & {"moved", "notes.txt"}
    await one.append_log("y", "new\n")
    assert await one.read_log("y") == "new\n"
    assert await one.snapshot() == 3


async def test_a_log_that_may_not_be_read_can_be_removed(
    handles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = handles
    await one.append_log("x", "old\n")
    await one.flush()

    async def denied(*_: Any, **__: Any) -> None:
        raise AccessDeniedError("not yours to read")

    with monkeypatch.context() as patched:
        patched.setattr(one._engine.backend, "read", denied)
        assert await one.delete_log("x")
    assert not (tmp_path / "state" / "logs" / "session_x.log").exists()
    await one.append_log("x", "new\n")
    assert await one.read_log("x") == "new\n"


async def test_text_goes_behind_a_file_that_the_log_does_not_know_and_that_is_not_read_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "state" / "logs" / "session_x.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"old\n" * 100_000)
    async with statepath.open(tmp_path / "state", autosave=0) as store:
        sizes: list[int] = []

        def read(port: Any, fd: int, start: int, stop: int) -> bytes:
            data = read_all(port, fd, start, stop)
            sizes.append(len(data))
            return data

        monkeypatch.setattr("statepath_local.objects.read_all", read)
        await store.append_log("x", "new\n")
        assert max(sizes) < 1000
        assert await store.read_log("x") == "old\n" * 100_000 + "new\n"


async def test_a_folder_in_the_place_of_a_log_and_of_a_report_is_in_no_others_way(
    handles: list[Any], tmp_path: Path
) -> None:
    taken = [tmp_path / "state" / place for place in ("logs/session_taken.log", "reports/taken.json")]
    for folder in taken:
        folder.mkdir(parents=True)
    for handle in handles:
        await handle.append_log("taken", "one\n")
        for read in (handle.save_report("taken", 1), handle.read_log("taken")):
            with pytest.raises(InvalidArgumentError, match="move what is there out of the way"):
                await read
        await handle.append_log("x", "one\n")
        await handle.save_report("x", 1)
        assert await handle.read_report("x") == 1
        assert await handle.read_log("x")
    for folder in taken:
        folder.rmdir()
    for handle in handles:
        await handle.flush()
    assert await handles[0].read_log("taken") == "one\none\n"
    assert await handles[0].read_report("taken") == 1


async def test_pieces_of_a_new_log_stay_in_the_order_of_the_calls_whichever_look_takes_longer(
    handles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = handles
    begun, free = asyncio.Event(), asyncio.Event()

    async def read(key: str, **_: Any) -> Any:
        if not begun.is_set():
            begun.set()
            await free.wait()
        raise NotFoundError("there is none", key=key)

    with monkeypatch.context() as patched:
        patched.setattr(store._engine.backend, "read", read)
        first = asyncio.ensure_future(store.append_log("x", "first\n"))
        await begun.wait()
        second = asyncio.ensure_future(store.append_log("x", "second\n"))
        await store.append_log("another", "text\n")
        free.set()
        await asyncio.gather(first, second)
    assert await store.read_log("x") == "first\nsecond\n"
