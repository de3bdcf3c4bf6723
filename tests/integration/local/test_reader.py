"""Readers beside a writer: they see what is durable, and disturb nobody."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.backend import encode_commit
from statepath.errors import (
    ClosedError,
    DivergedError,
    OutcomeUnknownError,
    ReadOnlyError,
    UnavailableError,
)

Connect = Callable[..., Any]


async def test_nobody_sees_a_commit_before_it_is_synced(
    connect: Connect, chain: Any, port: Any, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    reader = (await connect(readonly=True)).commit_log()
    await log.append()
    before = log.commits[:]
    syncing, go_on = threading.Event(), threading.Event()

    def hold(_: int) -> bool:
        syncing.set()
        go_on.wait()
        return False

    port.fail("fdatasync", chosen=hold)
    appending = asyncio.ensure_future(log.append())
    try:
        assert await asyncio.to_thread(syncing.wait, 10)
        assert await commits(log.log) == before
        assert await commits(reader) == before
    finally:
        go_on.set()
    await appending
    assert await commits(log.log) == log.commits
    assert await commits(reader) == log.commits


async def test_a_commit_whose_sync_failed_is_not_shown_while_its_writer_lives(
    connect: Connect, chain: Any, port: Any, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    reader = (await connect(readonly=True)).commit_log()
    await log.append()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.append()
    assert await commits(reader) == log.commits
    await backend.close()
    assert len(await commits(reader)) == 2


async def test_without_a_writer_everything_valid_is_shown(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    await backend.close()
    unpublished = log.make()
    with next((path / "journal").iterdir()).open("ab") as segment:
        segment.write(encode_commit(unpublished))
    reader = (await connect(readonly=True)).commit_log()
    assert await commits(reader) == [*log.commits, unpublished]


async def test_half_a_published_number_is_not_believed(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    reader = (await connect(readonly=True)).commit_log()
    with (path / "lock").open("r+b") as lock:
        lock.write(b"%020d" % 99)
    assert await commits(reader) == []
    await log.append()
    assert await commits(reader) == log.commits


async def test_a_number_of_another_history_is_lowered_when_the_log_begins_anew(
    connect: Connect, chain: Any, commits: Any, port: Any
) -> None:
    log = chain((await connect()).commit_log())
    for _ in range(5):
        await log.append()
    reader = (await connect(readonly=True)).commit_log()
    await log.log.restart(2)
    log.commits = log.commits[:2]
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.append()
    assert await commits(reader, 2) == []


async def test_readers_do_not_turn_a_writer_away(connect: Connect, chain: Any, commits: Any) -> None:
    readers = [(await connect(readonly=True)).commit_log() for _ in range(3)]
    done = False

    async def look(reader: Any) -> None:
        while not done:
            await commits(reader)
            await asyncio.sleep(0)

    looking = [asyncio.ensure_future(look(reader)) for reader in readers]
    log = chain(None)
    for _ in range(10):
        backend = await connect()
        log.log = backend.commit_log()
        await log.append()
        await backend.close()
    done = True
    await asyncio.gather(*looking)


async def test_a_follower_stays_on_the_log_when_its_segment_is_replaced(connect: Connect, chain: Any) -> None:
    """A new writer takes a small segment over into a new, filled file of the same name."""
    log = chain(None)
    reader = (await connect(readonly=True)).commit_log()
    async with aclosing(reader.follow(0)) as following:
        for _ in range(4):
            backend = await connect()
            log.log = backend.commit_log()
            for _ in range(2):
                assert await log.append() == await anext(following)
            await backend.close()


async def test_a_follower_hears_of_the_end_of_its_handle(connect: Connect, chain: Any) -> None:
    for readonly in (False, True):
        backend = await connect(readonly=readonly)
        waiting = asyncio.ensure_future(anext(backend.commit_log().follow(0)))
        for _ in range(5):
            await asyncio.sleep(0.001)
        await backend.close()
        with pytest.raises(ClosedError):
            await waiting


async def test_reading_is_no_writing(connect: Connect, chain: Any, path: Path, commits: Any) -> None:
    backend = await connect()
    await chain(backend.commit_log()).append()
    await backend.close()
    before = [(file, file.stat().st_mtime_ns) for file in path.rglob("*")]
    reader = await connect(readonly=True)
    log = reader.commit_log()
    await commits(log)
    changes: tuple[Callable[[], Any], ...] = (
        lambda: log.append(1, chain(log).make()),
        lambda: log.trim(1),
        lambda: log.restart(1),
    )
    for change in changes:
        with pytest.raises(ReadOnlyError):
            await change()
    await reader.close()
    assert [(file, file.stat().st_mtime_ns) for file in path.rglob("*")] == before


async def test_a_reader_whose_folder_was_replaced_is_told(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    reader = (await connect(readonly=True)).commit_log()
    assert await commits(reader) == log.commits
    path.rename(path.with_name("earlier"))
    with pytest.raises(UnavailableError, match="moved or removed while it was open"):
        await commits(reader)
    path.mkdir()
    with pytest.raises(DivergedError, match="replaced by another one"):
        await commits(reader)
    path.rmdir()
    path.with_name("earlier").rename(path)
    assert await commits(reader) == log.commits


async def test_a_reader_whose_folder_is_behind_a_file_by_now_is_told(
    connect: Connect, chain: Any, tmp_path: Path, commits: Any
) -> None:
    above = tmp_path / "above"
    above.mkdir()
    log = chain((await connect(above / "store")).commit_log())
    await log.append()
    reader = (await connect(above / "store", readonly=True)).commit_log()
    assert await commits(reader) == log.commits
    above.rename(tmp_path / "earlier")
    above.write_text("")
    with pytest.raises(UnavailableError, match="moved or removed while it was open"):
        await commits(reader)


async def test_a_reader_follows_no_link_that_leads_elsewhere_by_now(
    connect: Connect, chain: Any, path: Path, tmp_path: Path
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    link = tmp_path / "link"
    link.symlink_to(path)
    reader = (await connect(link, readonly=True)).commit_log()
    async with aclosing(reader.follow(0)) as following:
        assert await anext(following) == log.commits[0]
        (tmp_path / "other").mkdir()
        link.unlink()
        link.symlink_to(tmp_path / "other")
        with pytest.raises(DivergedError, match="replaced by another one"):
            await anext(following)


async def test_a_store_that_is_read_and_whose_folder_was_replaced_says_so(path: Path) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
    async with statepath.open(path, readonly=True) as reader, aclosing(reader.watch(since=0)) as changes:
        assert (await anext(changes)).value == {"id": "a", "n": 1}
        path.rename(path.with_name("earlier"))
        shutil.copytree(path.with_name("earlier"), path)
        with pytest.raises(DivergedError):
            await reader.sync()
        with pytest.raises(DivergedError):
            await reader.collection("raw").get("a", fresh=True)
        with pytest.raises(DivergedError):
            await anext(changes)
