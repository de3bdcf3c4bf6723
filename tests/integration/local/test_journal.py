"""The journal on the disk: its segments, and what opening, closing, growing and trimming do with them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from statepath.backend import Commit, encode_commit
from statepath.errors import (
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    UnsupportedError,
)

Connect = Callable[..., Any]

MIB = 2**20


def segments(path: Path) -> list[Path]:
    return sorted((path / "journal").glob("*.jsonl"))


def name(first: int) -> str:
    return f"{first:020d}.jsonl"


def written(port: Any) -> list[str]:
    """The calls that change or sync something, but for what is told in the file `lock`. Looks do neither."""
    looks = ("stat", "fstat")
    return [
        call for call, args in port.calls if call not in looks and not (call == "pwrite" and args[2] == 0)
    ]


async def test_a_commit_is_one_write_and_one_sync_into_a_filled_segment(
    connect: Connect, port: Any, chain: Any, path: Path
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    port.calls.clear()
    for _ in range(3):
        await log.append()
    data = written(port)
    assert data == ["pwrite", "fdatasync"] * 3
    assert segments(path)[0].stat().st_size == MIB


async def test_several_commits_at_once_are_one_write_and_one_sync(
    connect: Connect, port: Any, chain: Any, path: Path
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    for _ in range(3):
        log.commits.append(log.make())
    port.calls.clear()
    await log.log.extend(1, log.commits[1:])
    data = written(port)
    assert data == ["pwrite", "fdatasync"]
    assert segments(path)[0].read_bytes().startswith(b"".join(map(encode_commit, log.commits)))


async def test_the_first_segment_is_there_durably_before_its_first_commit(
    connect: Connect, port: Any, chain: Any
) -> None:
    log = chain((await connect()).commit_log())
    port.calls.clear()
    await log.append()
    steps = [call for call in port.names() if call in {"fsync", "rename", "fsync_dir", "fdatasync"}]
    assert steps == [*["fsync_dir"] * 3, "fsync", "rename", "fsync_dir", "fdatasync"]


async def test_a_folder_of_the_journal_that_was_there_is_durable_before_the_first_commit(
    connect: Connect, chain: Any, path: Path, port: Any
) -> None:
    for folder in ("journal", ".tmp+"):
        (path / folder).mkdir(parents=True)
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    synced = port.calls.index(("fsync_dir", (backend._tree.root,)))
    assert synced < port.names().index("fdatasync")


async def test_a_writer_that_only_reads_syncs_no_folder(connect: Connect, commits: Any, port: Any) -> None:
    await (await connect()).share()
    port.calls.clear()
    assert await commits((await connect()).commit_log()) == []
    assert "fsync_dir" not in port.names()


async def test_an_open_segment_and_a_closed_one_are_lines_of_json(
    connect: Connect, chain: Any, path: Path
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    for _ in range(3):
        await log.append()

    def firsts() -> list[int]:
        return [
            json.loads(line)["first"] for line in segments(path)[0].read_text().split("\n") if line.strip()
        ]

    assert firsts() == [1, 2, 3]
    await backend.close()
    assert firsts() == [1, 2, 3]
    assert segments(path)[0].read_bytes() == b"".join(map(encode_commit, log.commits))


async def test_a_journal_may_begin_above_one(connect: Connect, chain: Any, path: Path, commits: Any) -> None:
    backend = await connect()
    log = chain(backend.commit_log(), [chain(backend.commit_log()).make(transactions=41)])
    commit = await log.append()
    assert segments(path) == [path / "journal" / name(42)]
    assert await commits(log.log, 41) == [commit]
    with pytest.raises(
        HistoryTrimmedError, match=r"begins at seq 42; what came before was trimmed$"
    ) as caught:
        await commits(log.log, 40)
    assert caught.value.floor == 42
    with pytest.raises(HeadMoved):
        await log.log.append(0, chain(log.log).make())


async def test_a_commit_that_does_not_fit_is_refused(connect: Connect, chain: Any, commits: Any) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    with pytest.raises(InvalidArgumentError):
        await log.log.append(5, log.make())
    with pytest.raises(DivergedError):
        await log.log.append(1, msgspec.structs.replace(log.make(), prev="another"))
    assert await commits(log.log) == log.commits
    await log.append()


async def test_opening_and_closing_changes_no_file(connect: Connect, chain: Any, path: Path) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    for _ in range(3):
        await log.append()
    await backend.close()
    before = [(file, file.read_bytes(), file.stat().st_mtime_ns) for file in (path / "journal").iterdir()]
    for _ in range(3):
        await (await connect()).close()
    after = [(file, file.read_bytes(), file.stat().st_mtime_ns) for file in (path / "journal").iterdir()]
    assert after == before


async def test_readers_are_told_of_a_commit_once_that_can_be_written(
    connect: Connect, chain: Any, port: Any, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    reader = (await connect(readonly=True)).commit_log()
    port.fail("pwrite", chosen=lambda _, data, __: data[:20] == b"%020d" % 1, times=1)
    await log.append()
    assert await commits(reader) == []
    with pytest.raises(HeadMoved):
        await log.log.append(0, log.commits[0])
    assert await commits(reader) == log.commits


async def test_many_short_sessions_make_one_segment(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain(None)
    for _ in range(8):
        backend = await connect()
        log.log = backend.commit_log()
        await log.append()
        await backend.close()
    assert segments(path) == [path / "journal" / name(1)]
    assert await commits((await connect(readonly=True)).commit_log()) == log.commits


async def test_a_session_behind_a_large_segment_begins_a_new_one(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain(None)
    for size in (600_000, 1):
        backend = await connect()
        log.log = backend.commit_log()
        await log.append(size)
        await backend.close()
    assert segments(path) == [path / "journal" / name(1), path / "journal" / name(2)]
    assert await commits((await connect()).commit_log()) == log.commits


async def fill(log: Any, total: int) -> None:
    for _ in range(total // 100_000):
        await log.append(100_000)


async def test_a_segment_gives_way_to_a_spare_of_twice_its_size(
    connect: Connect, chain: Any, path: Path, commits: Any, port: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    for number, size in ((1, MIB), (2, 2 * MIB), (3, 4 * MIB)):
        while len(segments(path)) < number:
            await log.append(100_000)
        assert segments(path)[-1].stat().st_size == size
    assert await commits(log.log) == log.commits
    await backend.close()
    stored = b"".join(file.read_bytes() for file in segments(path))
    assert stored == b"".join(map(encode_commit, log.commits))
    assert list((path / ".tmp+").iterdir()) == []


async def test_a_disk_that_hung_for_a_while_does_not_make_the_next_segment_rest_for_long(
    connect: Connect, chain: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    hanging = SimpleNamespace(monotonic=count(0, 20).__next__, sleep=rests.append)
    monkeypatch.setattr("statepath_local.segments.time", hanging)
    log = chain((await connect()).commit_log())
    while len(segments(path)) < 2:
        await log.append(100_000)
    assert set(rests) == {0.5}


async def test_without_a_spare_the_segment_grows(
    connect: Connect, chain: Any, path: Path, commits: Any, port: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    port.fail("fallocate", 28)
    await fill(log, 3 * MIB)
    assert len(segments(path)) == 1
    assert await commits(log.log) == log.commits
    port.heal()
    while len(segments(path)) == 1:
        await log.append(20_000)
    await backend.close()
    assert await commits((await connect()).commit_log()) == log.commits


async def test_a_spare_that_somebody_removed_is_missed_by_no_commit(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    await fill(log, MIB // 2)
    for spare in (path / ".tmp+").iterdir():
        spare.unlink()
    while len(segments(path)) == 1:
        await log.append(100_000)
    assert await commits(log.log) == log.commits


async def test_commits_are_durable_where_the_program_ends_and_nothing_runs_in_the_background(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await fill(log, MIB // 2)
    backend._pool.shutdown()  # as Python does when the main thread has ended; the spare is ready then
    while len(segments(path)) == 1:
        await log.append(100_000)
    sealed = segments(path)[0].read_bytes()
    await fill(log, 3 * MIB)
    assert await commits(log.log) == log.commits
    await backend.close()
    assert sealed.endswith(b"\n")
    assert b"".join(file.read_bytes() for file in segments(path)) == b"".join(map(encode_commit, log.commits))


async def test_what_no_thread_can_be_started_for_is_done_once(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that is sealed twice is closed twice, and its descriptor is another file's by then."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    backend, busy, free = await connect(), threading.Event(), threading.Event()
    backend.submit(lambda: busy.set() or free.wait())
    assert await asyncio.to_thread(busy.wait, 10)
    done: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        backend.finish(lambda: done.append(1))
    free.set()
    await backend.close()
    assert done == [1]


async def test_a_commit_larger_than_a_segment_is_one_record(
    connect: Connect, chain: Any, commits: Any
) -> None:
    log = chain((await connect()).commit_log())
    await log.append(8 * MIB)
    await log.append()
    assert await commits(log.log) == log.commits


async def three_segments(connect: Connect, chain: Any) -> Any:
    log = chain(None)
    for _ in range(3):
        backend = await connect()
        log.log = backend.commit_log()
        # The large one behind the small one: it makes the segment grow, as there cannot be a spare yet.
        await log.append(1)
        await log.append(600_000, transactions=2)
        await backend.close()
    return log


async def test_a_segment_is_trimmed_when_all_of_it_may_go(connect: Connect, chain: Any, path: Path) -> None:
    await three_segments(connect, chain)
    assert [file.name for file in segments(path)] == [name(1), name(4), name(7)]
    log = (await connect()).commit_log()
    for upto, left in ((2, 3), (3, 2), (5, 2), (6, 1), (9, 1), (99, 1)):
        await log.trim(upto)
        assert len(segments(path)) == left, f"upto {upto}"


async def test_a_segment_that_another_one_trims_first_is_in_nobodys_way(
    connect: Connect, chain: Any, port: Any, path: Path
) -> None:
    await three_segments(connect, chain)
    log = (await connect()).commit_log()

    def trimmed(gone: str) -> bool:
        (path / "journal" / gone).unlink()
        return False

    port.fail("unlink", chosen=trimmed)
    await log.trim(6)
    assert [file.name for file in segments(path)] == [name(7)]


async def test_what_was_trimmed_is_known_to_be_missing(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    written = await three_segments(connect, chain)
    log = (await connect()).commit_log()
    await log.trim(3)
    with pytest.raises(HistoryTrimmedError) as caught:
        await commits(log, 0)
    assert caught.value.floor == 4
    assert await commits(log, 3) == written.commits[2:]


async def test_trimming_an_empty_log_does_nothing(connect: Connect, path: Path) -> None:
    await (await connect()).commit_log().trim(9)
    assert not (path / "journal").exists()


async def test_a_log_that_begins_anew_keeps_the_old_segments_aside(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    await three_segments(connect, chain)
    before = [file.read_bytes() for file in segments(path)]
    backend = await connect()
    log = chain(backend.commit_log())
    kept = await log.log.restart(5)
    assert [key.partition(".corrupt.")[0] for key in kept] == [
        f"journal/{name(first)}" for first in (1, 4, 7)
    ]
    assert [(path / key).read_bytes() for key in kept] == before
    assert segments(path) == []
    log.commits = [log.make(transactions=5)]
    newer = await log.append()
    assert await commits(log.log, 5) == [newer]
    await backend.close()
    assert await commits((await connect()).commit_log(), 5) == [newer]


async def test_a_newer_format_is_said_and_left_alone(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    await log.append()
    await backend.close()
    newer = msgspec.structs.replace(log.commits[1], min_reader=99)
    segment = segments(path)[0]
    segment.write_bytes(b"".join(map(encode_commit, [log.commits[0], newer])) + b"torn")
    before = segment.read_bytes()
    again = await connect()
    for call in (lambda: commits(again.commit_log()), log.append):
        log.log = again.commit_log()
        with pytest.raises(UnsupportedError, match="99") as caught:
            await call()
        assert caught.value.code == "newer_format"
    assert segment.read_bytes() == before


async def _take(following: AsyncIterator[Commit], number: int) -> list[Commit]:
    return [await anext(following) for _ in range(number)]


@pytest.mark.parametrize("readonly", [False, True])
async def test_following_goes_on_across_segments(connect: Connect, chain: Any, readonly: bool) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    source = (await connect(readonly=True)).commit_log() if readonly else log.log
    async with aclosing(source.follow(0)) as following:
        for _ in range(8):
            for _ in range(10):
                await log.append(60_000)
            assert await _take(following, 10) == log.commits[-10:]


async def test_a_follower_is_woken_by_the_commit_itself(connect: Connect, chain: Any) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    async with aclosing(log.log.follow(1)) as following:
        waiting = asyncio.ensure_future(anext(following))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not waiting.done()
        assert await log.append() == await waiting
