"""The journal when writing fails, when a crash cuts it, and when it is damaged."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from statepath.backend import encode_commit
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HeadMoved,
    OutcomeUnknownError,
    StateError,
    UnavailableError,
)
from statepath_local.cursor import Cursor

pytestmark = pytest.mark.slow

Connect = Callable[..., Any]


def segments(path: Path) -> list[Path]:
    return sorted((path / "journal").glob("*.jsonl"))


def forget_what_was_durable(path: Path) -> None:
    """As after a power failure that took the lock file's unsynced bytes."""
    (path / "lock").unlink(missing_ok=True)


def is_commit(_: int, data: bytes, __: int) -> bool:
    """Whether a `pwrite` writes a commit: not a spare's filling, nor the lock."""
    return data[:1] == b"{"


async def write(connect: Connect, chain: Any, number: int = 5, **options: Any) -> Any:
    """A closed store with so many commits."""
    backend = await connect()
    log = chain(backend.commit_log())
    for _ in range(number):
        await log.append(**options)
    await backend.close()
    return log


async def reopen(connect: Connect, log: Any) -> Any:
    backend = await connect()
    log.log = backend.commit_log()
    return backend


# A torn tail


async def test_a_tail_cut_at_any_byte_is_forgotten_and_written_again(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 3)
    whole = segments(path)[0].read_bytes()
    last = len(encode_commit(log.commits[-1]))
    kept = log.commits[:-1]
    reader = (await connect(readonly=True)).commit_log()
    for cut in range(len(whole) - last, len(whole)):
        for padding in (b"", b" " * 300, b"\0" * 300):
            segments(path)[0].write_bytes(whole[:cut] + padding)
            assert await commits(reader) == kept
    forget_what_was_durable(path)
    backend = await reopen(connect, log)
    log.commits = kept[:]
    assert await commits(log.log) == kept
    await log.append()
    await backend.close()
    assert await commits((await connect()).commit_log()) == log.commits


@pytest.mark.parametrize("garbage", [b"x", b"\n", b"{}\n", b"\0\0{", b' {"first":3', b"\xff" * 5000])
async def test_garbage_behind_the_tail_is_overwritten(
    connect: Connect, chain: Any, path: Path, commits: Any, garbage: bytes
) -> None:
    log = await write(connect, chain)
    with segments(path)[0].open("ab") as file:
        file.write(garbage)
    for _ in range(2):
        backend = await reopen(connect, log)
        assert await commits(log.log) == log.commits
        await log.append()
        await backend.close()
    stored = b"".join(file.read_bytes() for file in segments(path))
    assert stored == b"".join(map(encode_commit, log.commits))


async def test_a_segment_that_cannot_be_cut_off_is_continued_in_another(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain)
    segment = segments(path)[0]
    with segment.open("ab") as file:
        file.write(b"torn")
    forget_what_was_durable(path)
    # As where the segment is another user's, and only to be read.
    port.fail(
        "open",
        errno.EACCES,
        chosen=lambda name, flags: name == segment.name and flags & os.O_ACCMODE != os.O_RDONLY,
    )
    await reopen(connect, log)
    await log.append()
    assert await commits(log.log) == log.commits


async def test_a_segment_that_cannot_be_read_is_named(
    connect: Connect, chain: Any, port: Any, path: Path
) -> None:
    await write(connect, chain, 1)
    cursor = Cursor((await connect(readonly=True))._tree, 0, lambda: None)
    port.fail("pread")
    with pytest.raises(UnavailableError, match=r"journal/0+1\.jsonl: Input/output error"):
        cursor.next()
    cursor.close()


async def test_a_segment_whose_beginning_cannot_be_read_is_closed_again(
    connect: Connect, chain: Any, port: Any, path: Path
) -> None:
    log = await write(connect, chain, 1, size=600_000)
    await reopen(connect, log)
    await log.append()
    assert len(segments(path)) == 2
    cursor = Cursor((await connect(readonly=True))._tree, 1, lambda: None)
    port.calls.clear()
    port.fail("pread")
    with pytest.raises(UnavailableError):
        cursor.next()
    cursor.close()
    names = port.names()
    assert names.count("open") + names.count("open_folder") == names.count("close")


async def test_a_commit_without_its_line_end_did_not_finish(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain)
    segments(path)[0].write_bytes(segments(path)[0].read_bytes()[:-1])
    forget_what_was_durable(path)
    await reopen(connect, log)
    assert await commits(log.log) == log.commits[:-1]


async def test_a_segment_that_was_only_begun_holds_nothing(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 1, size=600_000)
    for content in (b"", b" " * 5000, b'{"first":2,"last":2'):
        (path / "journal/00000000000000000002.jsonl").write_bytes(content)
        backend = await reopen(connect, log)
        assert await commits(log.log) == log.commits
        await log.append(600_000)
        assert await commits(log.log) == log.commits
        await backend.close()
        segments(path)[1].unlink()
        log.commits.pop()


async def test_a_segment_that_was_only_begun_does_not_hide_what_a_small_one_holds(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 1)
    (path / "journal/00000000000000000002.jsonl").write_bytes(b'{"first":2,"last":2')
    await reopen(connect, log)
    await log.append()
    await log.append()
    assert await commits(log.log) == log.commits
    assert len(segments(path)) == 1


# What was not known to be durable


async def test_an_unconfirmed_tail_is_copied_before_it_is_served(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 4, size=200_000)
    old = segments(path)[0].read_bytes()
    forget_what_was_durable(path)
    port.calls.clear()
    await reopen(connect, log)
    assert await commits(log.log) == log.commits
    steps = [name for name in port.names() if name in {"fsync", "rename", "fsync_dir", "ftruncate"}]
    assert steps[-5:] == ["fsync", "rename", "fsync_dir", "ftruncate", "fsync"]
    assert [file.name for file in segments(path)] == [f"{first:020d}.jsonl" for first in (1, 4)]
    assert b"".join(file.read_bytes() for file in segments(path)) == old
    assert await commits(log.log) == log.commits


async def test_what_the_last_writer_published_is_not_copied(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    await write(connect, chain, 4)
    port.calls.clear()
    await commits((await connect()).commit_log())
    assert "rename" not in port.names()
    assert len(segments(path)) == 1


async def test_a_tail_of_several_commits_over_two_segments_is_copied(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = chain(None)
    for _ in range(2):
        backend = await reopen(connect, log)
        for _ in range(3):
            await log.append(400_000, durable=1)
        await backend.close()
    assert len(segments(path)) == 2
    for _ in range(2):
        forget_what_was_durable(path)
        backend = await reopen(connect, log)
        assert await commits(log.log) == log.commits
        await backend.close()
    backend = await reopen(connect, log)
    await log.append()
    await backend.close()
    stored = b"".join(file.read_bytes() for file in segments(path))
    assert stored == b"".join(map(encode_commit, log.commits))


@pytest.mark.parametrize("steps", range(12))
async def test_a_crash_while_the_tail_is_copied_loses_nothing(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any, steps: int
) -> None:
    log = await write(connect, chain, 4, size=200_000, durable=2)
    forget_what_was_durable(path)
    left = iter(range(steps))

    def after_steps(*_: Any) -> bool:
        return next(left, None) is None

    for call in ("pwrite", "fsync", "rename", "fsync_dir", "ftruncate", "unlink"):
        port.fail(call, chosen=after_steps)
    try:
        backend = await connect()
    except StateError:
        pass
    else:
        await backend.close()
    port.heal()
    assert await commits((await connect(readonly=True)).commit_log()) == log.commits
    backend = await reopen(connect, log)
    assert await commits(log.log) == log.commits
    await log.append()
    await backend.close()
    assert await commits((await connect()).commit_log()) == log.commits


# Damage


async def test_damage_to_a_durable_commit_is_reported_behind_the_good_ones(
    connect: Connect, chain: Any, path: Path
) -> None:
    log = await write(connect, chain, 6)
    whole = segments(path)[0].read_bytes()
    third = sum(len(encode_commit(commit)) for commit in log.commits[:2])
    for spoiled in (
        whole[: third + 50] + b"\xff" + whole[third + 51 :],
        whole[:third] + b"\0" * 50 + whole[third + 50 :],
        whole[:third] + b" " * 600 + whole[third + 600 :],
        whole[:third] + whole[third + len(encode_commit(log.commits[2])) :],
    ):
        segments(path)[0].write_bytes(spoiled)
        for readonly in (True, False):
            backend = await connect(readonly=readonly)
            reading = backend.commit_log().read(0)
            assert [await anext(reading) for _ in range(2)] == log.commits[:2]
            with pytest.raises(CorruptionError, match="seq 3 had been durable") as caught:
                await anext(reading)
            assert caught.value.key == f"journal/{segments(path)[0].name}"
            await backend.close()
    assert segments(path)[0].read_bytes() == spoiled


async def test_a_missing_segment_is_damage(connect: Connect, chain: Any, path: Path, commits: Any) -> None:
    log = chain(None)
    for _ in range(3):
        backend = await reopen(connect, log)
        await log.append(600_000)
        await backend.close()
    segments(path)[1].unlink()
    with pytest.raises(CorruptionError, match="seq 2 had been durable"):
        await commits((await connect(readonly=True)).commit_log())


async def test_a_follower_hears_of_a_segment_that_vanished_before_it_came_there(
    connect: Connect, chain: Any, path: Path
) -> None:
    log = await write(connect, chain, 1, size=600_000)
    following = (await connect(readonly=True)).commit_log().follow(0)
    assert await anext(following) == log.commits[0]
    for _ in range(2):
        backend = await reopen(connect, log)
        await log.append(600_000)
        await backend.close()
    segments(path)[1].unlink()
    with pytest.raises(CorruptionError, match="seq 2 had been durable"):
        await anext(following)


async def test_a_damaged_log_takes_no_commit_until_it_begins_anew(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 6)
    spoiled = segments(path)[0].read_bytes().replace(b'"first":3', b'"first":8')
    segments(path)[0].write_bytes(spoiled)
    backend = await reopen(connect, log)
    for _ in range(2):
        with pytest.raises(CorruptionError):
            await log.append()
    kept = await log.log.restart(6)
    assert [(path / key).read_bytes() for key in kept] == [spoiled]
    newer = await log.append()
    await backend.close()
    assert await commits((await connect()).commit_log(), 6) == [newer]


async def test_two_histories_do_not_chain(connect: Connect, chain: Any, path: Path, commits: Any) -> None:
    log = await write(connect, chain, 3)
    other = msgspec.structs.replace(log.make(), prev="of another history", durable=0)
    with segments(path)[0].open("ab") as file:
        file.write(encode_commit(other))
    assert await commits((await connect(readonly=True)).commit_log()) == log.commits


# Failing calls


@pytest.mark.parametrize("call", ["fdatasync", "pwrite"])
async def test_a_failed_write_poisons_the_handle(
    connect: Connect, chain: Any, port: Any, call: str, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    port.fail(call, errno.EIO, chosen=lambda *args: call != "pwrite" or is_commit(*args), times=1)
    for _ in range(3):
        with pytest.raises(OutcomeUnknownError, match="Input/output error"):
            await log.append()
    with pytest.raises(OutcomeUnknownError):
        await log.log.restart(1)
    assert await commits(log.log) == log.commits
    await backend.close()
    await reopen(connect, log)
    found = await commits(log.log)
    assert found[:1] == log.commits
    assert len(found) <= 2
    log.commits = found
    await log.append()


async def test_after_a_failed_sync_nothing_more_is_tried_on_the_file(
    connect: Connect, chain: Any, port: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.append()
    port.calls.clear()
    with pytest.raises(OutcomeUnknownError):
        await log.append()
    await backend.close()
    assert not {"pwrite", "fdatasync", "fsync", "ftruncate"} & set(port.names())


async def test_what_a_failed_sync_left_is_copied_and_synced_by_the_next_writer(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    commit = log.make()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.log.append(log.head, commit)
    await backend.close()
    await reopen(connect, log)
    assert await commits(log.log) == [*log.commits, commit]
    assert [file.name for file in segments(path)] == [f"{first:020d}.jsonl" for first in (1, 2)]


async def test_a_full_disk_refuses_a_commit_and_takes_the_next(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    backend = await connect()
    log = chain(backend.commit_log())
    await log.append()
    for size in (10, 3_000_000):
        port.fail("pwrite", errno.ENOSPC, chosen=is_commit, times=1)
        with pytest.raises(UnavailableError) as caught:
            await log.append(size)
        assert caught.value.code == "disk_full"
        assert await commits(log.log) == log.commits
        await log.append(size)
    await backend.close()
    stored = b"".join(file.read_bytes() for file in segments(path))
    assert stored == b"".join(map(encode_commit, log.commits))


async def test_the_beginning_of_a_commit_that_found_no_space_is_removed(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    real: Callable[..., int] = type(port).pwrite

    def half(self: Any, fd: int, data: Any, offset: int) -> int:
        if offset == 0 or len(data) < 500:
            return real(self, fd, data, offset)
        monkeypatch.setattr(type(port), "pwrite", no_space)
        return real(self, fd, bytes(data)[: len(data) - 1], offset)

    def no_space(*_: Any) -> int:
        monkeypatch.setattr(type(port), "pwrite", real)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(type(port), "pwrite", half)
    with pytest.raises(UnavailableError):
        await log.append(2000)
    assert segments(path)[0].read_bytes() == encode_commit(log.commits[0])
    await log.append(5)
    assert await commits((await connect(readonly=True)).commit_log()) == log.commits


async def test_a_commit_that_cannot_be_taken_back_poisons_the_handle(
    connect: Connect, chain: Any, port: Any
) -> None:
    log = chain((await connect()).commit_log())
    await log.append()
    port.fail("pwrite", errno.ENOSPC, chosen=is_commit)
    port.fail("ftruncate", errno.EIO)
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await log.append()
        port.heal()


@pytest.mark.parametrize("call", ["mkdir", "open", "fallocate", "pwrite", "fsync", "rename"])
async def test_without_space_for_a_segment_nothing_is_left_and_the_next_commit_succeeds(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any, call: str
) -> None:
    log = chain((await connect()).commit_log())
    port.fail(call, errno.ENOSPC, times=1)
    with pytest.raises(UnavailableError) as caught:
        await log.append()
    assert caught.value.code == "disk_full"
    assert segments(path) == []
    assert not (path / ".tmp+").exists() or list((path / ".tmp+").iterdir()) == []
    await log.append()
    assert await commits(log.log) == log.commits


async def test_a_folder_that_cannot_be_synced_poisons_the_handle(
    connect: Connect, chain: Any, port: Any
) -> None:
    log = chain((await connect()).commit_log())
    port.fail("fsync_dir", chosen=lambda fd: os.path.basename(os.readlink(f"/dev/fd/{fd}")) == "journal")
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await log.append()
        port.heal()


async def test_every_failing_call_leaves_a_log_that_can_be_written(
    connect: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    """The n-th call of any kind fails, for each n: what was acknowledged is there, nothing else but the open one."""
    log = await write(connect, chain, 2)
    template = path.with_name("template")
    shutil.copytree(path, template)
    known = log.commits[:]
    changing = {
        "pwrite",
        "fdatasync",
        "fsync",
        "fsync_dir",
        "rename",
        "ftruncate",
        "fallocate",
        "unlink",
        "mkdir",
    }
    for error in (errno.EIO, errno.ENOSPC):
        count = 0
        while True:
            shutil.rmtree(path)
            shutil.copytree(template, path)
            left = iter(range(count))
            for call in changing:
                port.fail(call, error, chosen=lambda *_, left=left: next(left, None) is None, times=1)
            backend, tried = None, None
            log.commits = known[:]
            try:
                backend = await reopen(connect, log)
                for _ in range(2):
                    tried = log.make()
                    await log.log.append(log.head, tried)
                    log.commits.append(tried)
            except StateError:
                failed = True
            else:
                failed = False
            if backend is not None:
                await backend.close()
            port.heal()
            backend = await reopen(connect, log)
            found = await commits(log.log)
            assert found in (log.commits, [*log.commits, tried]), f"call {count}"
            log.commits = found
            await log.append()
            await backend.close()
            if not failed and next(left, None) is not None:
                break
            count += 1
        assert count > 5


async def test_an_append_behind_an_old_head_is_refused_without_effect(
    connect: Connect, chain: Any, port: Any
) -> None:
    log = chain((await connect()).commit_log())
    stale = log.make()
    await log.append()
    port.calls.clear()
    with pytest.raises(HeadMoved):
        await log.log.append(0, stale)
    assert "pwrite" not in port.names()


async def test_a_writer_is_told_when_nothing_can_follow_what_it_knows(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    log = await write(connect, chain, 6)
    backend = await reopen(connect, log)
    with pytest.raises(CorruptionError, match="ends with seq 6, and seq 9 had been durable"):
        await commits(log.log, 9)
    await backend.close()
    spoiled = segments(path)[0].read_bytes().replace(b'"first":3', b'"first":8')
    segments(path)[0].write_bytes(spoiled)
    await reopen(connect, log)
    reading = log.log.read(3)
    with pytest.raises(CorruptionError, match="had been durable"):
        await anext(reading)


@pytest.mark.parametrize("how", ["removed", "moved", "replaced", "folder removed", "folder moved"])
@pytest.mark.parametrize("shared", [False, True])
async def test_a_segment_that_was_taken_away_takes_no_commit(
    connect: Connect, chain: Any, path: Path, how: str, *, shared: bool
) -> None:
    backend = await connect()
    if shared:
        await backend.share()
    log = chain(backend.commit_log())
    await log.append()
    segment = segments(path)[0]
    data = segment.read_bytes()
    match how:
        case "removed":
            segment.unlink()
        case "moved":
            segment.rename(path / "moved")
        case "replaced":
            segment.unlink()
            segment.write_bytes(data)
        case "folder removed":
            shutil.rmtree(path / "journal")
        case _:
            (path / "journal").rename(path / "moved")
    for _ in range(2):
        with pytest.raises(DivergedError, match=f"journal/{segment.name} was removed or replaced"):
            await log.append()


async def test_a_log_that_could_not_be_moved_aside_takes_no_commit(
    connect: Connect, chain: Any, port: Any, commits: Any
) -> None:
    log = await write(connect, chain)
    backend = await reopen(connect, log)
    port.fail("rename", times=1)
    for _ in range(2):
        with pytest.raises(OutcomeUnknownError):
            await log.log.restart(5)
        with pytest.raises(OutcomeUnknownError):
            await log.append()
    await backend.close()
    await reopen(connect, log)
    assert await commits(log.log) == log.commits
