"""Several handles that write to one folder: one after the other, whoever of them is killed in between."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from contextlib import aclosing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.backend import StateURL
from statepath.errors import (
    ClosedError,
    HeadMoved,
    OutcomeUnknownError,
    StoreLockedError,
    UnavailableError,
    UnsupportedError,
)
from statepath_local import LocalFactory, lock, writer
from statepath_local.journal import LocalCommitLog
from statepath_local.port import Port

Connect = Callable[..., Any]
CHANGES = ("flock", "pwrite", "fdatasync", "fsync", "fsync_dir", "rename", "ftruncate", "unlink", "mkdir")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass, on a clock that stands still otherwise."""
    now = 1000.0

    def later(seconds: float) -> None:
        nonlocal now
        now += seconds

    for module in ("catching_up", "committer"):
        monkeypatch.setattr(f"statepath.engine.{module}.clock", lambda: now)
    return later


async def catch_up(log: Any) -> None:
    log.commits += [commit async for commit in log.log.read(log.head)]


async def place(log: Any, size: int = 10) -> Any:
    """Place a commit behind whatever is there."""
    while True:
        try:
            commit, before = await log.log.place(log.head, log.make(size))
            break
        except HeadMoved:
            await catch_up(log)
    if commit.first > log.head + 1 and not before:
        await catch_up(log)
    else:
        log.commits += [*before, commit]
    return commit


async def append(log: Any, size: int = 10) -> Any:
    """Append behind whatever is there."""
    while True:
        try:
            return await log.append(size)
        except HeadMoved:
            await catch_up(log)


@pytest.mark.slow
async def test_a_store_that_is_not_shared_stays_with_its_opener(connect: Connect) -> None:
    one = await connect()
    with pytest.raises(StoreLockedError):
        await connect()
    await one.share()
    assert (await connect()).joined


@pytest.mark.slow
async def test_who_comes_while_the_store_is_being_opened_waits(connect: Connect) -> None:
    one = await connect()
    await one.announce()
    waiting = asyncio.ensure_future(connect())
    await asyncio.sleep(0.4)  # longer than anybody waits for one who will not share
    assert not waiting.done()
    await one.share()
    assert (await waiting).joined


async def test_who_is_not_wanted_any_more_waits_no_longer(
    connect: Connect, port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a program waits for the thread."""
    await (await connect(port=Port())).announce()
    waits, gives_up = threading.Event(), threading.Event()
    port.fail("flock", chosen=lambda *_: waits.set())
    refusal = lock._refusal

    def refused(*args: Any) -> StoreLockedError:
        gives_up.set()
        return refusal(*args)

    monkeypatch.setattr(lock, "_refusal", refused)
    opening = asyncio.ensure_future(connect())
    assert await asyncio.to_thread(waits.wait, 10)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await asyncio.to_thread(gives_up.wait, 10)


@pytest.mark.slow
async def test_who_comes_while_the_others_are_being_let_in_waits(
    connect: Connect, port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between saying that the store is shared and sharing it, the one who has it is held up."""
    monkeypatch.setattr("statepath_local.lock._PATIENCE", 0.05)
    one, free = await connect(), threading.Event()
    await one.announce()
    port.fail("flock", chosen=lambda _, kind: kind == fcntl.LOCK_SH | fcntl.LOCK_NB and not free.wait(10))
    sharing = asyncio.ensure_future(one.share())
    waiting = asyncio.ensure_future(connect(port=Port()))
    await asyncio.sleep(0.4)
    assert not waiting.done()
    free.set()
    await sharing
    assert (await waiting).joined


async def test_an_older_program_that_wants_the_store_for_itself_is_kept_out(
    share: Connect, path: Path
) -> None:
    await share()
    await share()
    older = os.open(path / "lock", os.O_RDWR)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(older)


async def test_all_are_named_to_who_needs_the_store_alone(share: Connect) -> None:
    one, two = await share(), await share()
    for handle in (one, two):
        with pytest.raises(StoreLockedError, match=rf"begin anew.*pid {os.getpid()}"):
            await handle.commit_log().restart(1)
    await two.close()
    await one.close()


async def test_handles_append_in_turns(share: Connect, chain: Any, commits: Any) -> None:
    one, two = await share(), await share()
    first, second = chain(one.commit_log()), chain(two.commit_log())
    for turn in range(5):
        await append(first)
        with pytest.raises(HeadMoved):
            await second.append()
        await catch_up(second)
        await append(second)
        assert await commits(first.log) == second.commits, turn
        await catch_up(first)


async def test_segments_are_begun_by_whoever_finds_one_full(
    share: Connect, chain: Any, commits: Any, path: Path, connect: Connect
) -> None:
    logs = [chain((await share()).commit_log()) for _ in range(3)]
    turns = 0
    # While no new one is ready, a full one grows.
    async with asyncio.timeout(60):
        while turns < 12 or len(list((path / "journal").glob("*.jsonl"))) < 2:
            await append(logs[turns % 3], 400_000)
            turns += 1
    for log in logs:
        await catch_up(log)
        assert log.commits == logs[0].commits
    assert len(logs[0].commits) == turns
    assert await commits((await connect(readonly=True)).commit_log()) == logs[0].commits


async def test_the_last_one_leaves_the_journal_as_a_single_writer_does(
    share: Connect, chain: Any, path: Path, commits: Any, connect: Connect
) -> None:
    one, two = await share(), await share()
    first, second = chain(one.commit_log()), chain(two.commit_log())
    await append(first)
    await append(second)
    await one.close()
    await append(second)
    await two.close()
    (segment,) = (path / "journal").glob("*.jsonl")
    assert segment.read_bytes().endswith(b"\n")
    alone = await connect()
    assert not alone.joined
    assert await commits(alone.commit_log()) == second.commits


async def test_a_follower_is_told_what_another_handle_commits(share: Connect, chain: Any) -> None:
    one, two = await share(), await share()
    log = chain(one.commit_log())
    following = two.commit_log().follow(0)
    for _ in range(3):
        commit = await append(log)
        assert await anext(following) == commit
    await following.aclose()


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a follower has read everything and waits for more."""
    resting = asyncio.Event()
    rest = LocalCommitLog._rest

    async def rested(log: LocalCommitLog, woken: asyncio.Event, notices: Any) -> bool:
        if not woken.is_set():
            resting.set()
        return await rest(log, woken, notices)

    monkeypatch.setattr(LocalCommitLog, "_rest", rested)
    return resting


async def test_what_the_follower_knows_is_not_read_again(
    share: Connect, chain: Any, port: Any, resting: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statepath_local.notices._LONGEST_POLL", 60.0)
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    known = 0
    following = log.log.follow(0, lambda: known)
    first = await append(log)
    assert await anext(following) == first
    waiting = asyncio.ensure_future(anext(following))
    await resting.wait()
    begun = len(port.calls)
    for _ in range(20):
        known = (await append(log, 5_000)).last
        await asyncio.sleep(0.002)
    assert all(args[1] < 5_000 for name, args in port.calls[begun:] if name == "pread")
    theirs = await append(other)
    assert await waiting == theirs


async def test_its_own_commits_do_not_make_a_follower_look_each_time(
    share: Connect, chain: Any, resting: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statepath_local.notices._OWN_LULL", 60.0)
    looks = 0
    skip = LocalCommitLog._skip

    def looked(log: LocalCommitLog, *args: Any, **options: Any) -> bool:
        nonlocal looks
        looks += 1
        return skip(log, *args, **options)

    monkeypatch.setattr(LocalCommitLog, "_skip", looked)
    log = chain((await share()).commit_log())
    following = log.log.follow(0, lambda: log.head)
    waiting = asyncio.ensure_future(anext(following))
    await resting.wait()
    for _ in range(20):
        await append(log)
    assert looks <= 2
    waiting.cancel()
    await asyncio.wait([waiting])
    await following.aclose()


async def test_what_others_commit_is_met_by_the_next_save_before_the_follower_looks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("statepath_local.notices._OWN_LULL", 60.0)
    monkeypatch.setattr("statepath_local.notices._LULL", 60.0)
    async with (
        statepath.open(path, autosave=0) as one,
        statepath.open(path, autosave=0) as two,
        aclosing(one.watch(since=0)) as changes,
    ):
        for n in range(3):
            await one.collection("tasks").put({"id": f"own-{n}"})
            assert (await anext(changes)).id == f"own-{n}"
        await two.collection("tasks").put({"id": "theirs"})
        await one.collection("tasks").put({"id": "own-3"})
        assert [(await anext(changes)).id for _ in range(2)] == ["theirs", "own-3"]


async def test_who_lost_hears_what_was_first(share: Connect, chain: Any) -> None:
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    await catch_up(other)
    await append(log)
    await append(log)
    with pytest.raises(HeadMoved) as moved:
        await other.append()
    assert list(moved.value.commits) == log.commits[1:]
    other.commits += moved.value.commits
    await other.append()
    with pytest.raises(HeadMoved) as moved:
        await log.append()
    assert list(moved.value.commits) == other.commits[3:]


async def test_who_follows_knows_where_it_has_come_to(
    share: Connect, chain: Any, resting: asyncio.Event
) -> None:
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    following = other.log.follow(0, lambda: other.head)
    for _ in range(6):
        await append(log)
        other.commits.append(await anext(following))
    resting.clear()
    rest = asyncio.ensure_future(anext(following))
    await resting.wait()
    await append(log)
    await append(log)
    with pytest.raises(HeadMoved) as moved:
        await other.append()
    assert list(moved.value.commits) == log.commits[6:]
    assert await rest == log.commits[6]
    await following.aclose()


async def test_what_stands_in_another_segment_is_not_passed(share: Connect, chain: Any, path: Path) -> None:
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    await catch_up(other)
    while len(list((path / "journal").glob("*.jsonl"))) < 2:
        await place(log, 300_000)
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())
    await catch_up(other)
    await place(other)


async def test_a_follower_of_a_closed_handle_is_told(
    share: Connect, chain: Any, resting: asyncio.Event
) -> None:
    one = await share()
    log = chain(one.commit_log())
    commit = await append(log)
    following = log.log.follow(0, lambda: log.head)
    assert await anext(following) == commit
    resting.clear()
    rest = asyncio.ensure_future(anext(following))
    await resting.wait()
    await one.close()
    async with asyncio.timeout(60):
        with pytest.raises(ClosedError):
            await rest


async def test_who_lost_to_many_reads_them_in_its_own_time(
    share: Connect, chain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_NEAR", 100_000)
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    await catch_up(other)
    for _ in range(5):
        await append(log, 50_000)
    with pytest.raises(HeadMoved) as moved:
        await other.append()
    assert not moved.value.commits
    await catch_up(other)
    assert other.commits == log.commits


async def test_of_the_placed_ones_each_follows_the_one_before(share: Connect, chain: Any) -> None:
    one, two = await share(), await share()
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    await catch_up(other)
    for turn in range(20):
        await place((log, other)[turn // 3 % 2], 300_000)
    for chained in (log, other):
        await catch_up(chained)
    assert log.commits == other.commits
    assert [commit.last for commit in log.commits] == list(range(1, 22))
    times = [commit.time for commit in log.commits]
    assert times == sorted(times)


async def test_a_repaired_end_may_matter_to_everybody(
    share: Connect, chain: Any, port: Any, commits: Any
) -> None:
    one, two, three = await share(), await share(port=Port()), await share(port=Port())
    log, other, third = (chain(each.commit_log()) for each in (one, two, three))
    await append(log)
    await catch_up(other)
    await catch_up(third)
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await place(log)
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())
    with pytest.raises(HeadMoved):
        await third.log.place(third.head, third.make())
    await catch_up(other)
    await place(other)
    await catch_up(third)
    await place(third)
    assert await commits(two.commit_log()) == third.commits


async def test_a_reader_is_served_up_to_what_is_durable(
    share: Connect, chain: Any, port: Any, commits: Any, connect: Connect
) -> None:
    one = await share()
    log = chain(one.commit_log())
    await append(log)
    reader = (await connect(readonly=True)).commit_log()
    lost = log.make()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.log.append(log.head, lost)
    assert await commits(reader) == log.commits


async def test_what_a_failed_sync_left_is_copied_and_synced_by_the_next_handle(
    share: Connect, chain: Any, port: Any, path: Path, commits: Any
) -> None:
    one, two = await share(), await share(port=Port())
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    unknown = log.make()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.log.append(log.head, unknown)
    with pytest.raises(HeadMoved):
        await other.append()
    await catch_up(other)
    assert other.commits == [*log.commits, unknown]
    assert [int(file.stem) for file in sorted((path / "journal").glob("*.jsonl"))] == [1, 2]
    await append(other)
    with pytest.raises(OutcomeUnknownError):
        await log.append()
    await one.close()
    assert await commits(two.commit_log()) == other.commits


@pytest.mark.parametrize("call", ["pwrite", "rename", "fsync_dir", "scandir"])
async def test_a_repair_that_fails_is_left_to_the_next_turn(
    share: Connect, chain: Any, port: Any, commits: Any, call: str
) -> None:
    """The one who repairs has not committed since the others did."""
    weak = type(port)()
    one, two = await share(), await share(port=weak)
    log, other = chain(one.commit_log()), chain(two.commit_log())
    for _ in range(3):
        await append(log)
    unknown = log.make()
    port.fail("fdatasync", times=1)
    with pytest.raises(OutcomeUnknownError):
        await log.log.append(log.head, unknown)
    # Of the writes that of the copied tail fails, not that into `lock`.
    weak.fail(call, errno.ENOSPC, chosen=lambda *args: call != "pwrite" or args[1][:1] == b"{", times=1)
    with pytest.raises(UnavailableError, match="no space"):
        await other.append()
    await append(other)
    assert other.commits[:-1] == [*log.commits, unknown]
    assert await commits(two.commit_log()) == other.commits


async def test_a_turn_that_cannot_be_given_up_is_over_all_the_same(
    share: Connect, chain: Any, port: Any, commits: Any
) -> None:
    one, two = await share(), await share(port=Port())
    log, other = chain(one.commit_log()), chain(two.commit_log())
    port.fail("flock", chosen=lambda _, operation: operation == fcntl.LOCK_UN, times=1)
    await append(log)
    await append(other)
    await append(log)
    assert await commits(two.commit_log()) == await commits(one.commit_log())
    assert len(await commits(two.commit_log())) == 3


@pytest.mark.parametrize("call", ["pread", "fstat"])
async def test_whichever_call_fails_a_log_that_cannot_be_read_is_said_to_be(
    share: Connect, chain: Any, port: Any, call: str
) -> None:
    log = chain((await share()).commit_log())
    await append(log)
    await append(log)
    for number in count():
        calls = count()
        port.fail(call, chosen=lambda *_, calls=calls, number=number: next(calls) == number)
        with suppress(UnavailableError):
            async for commit in log.log.read(1):
                assert commit == log.commits[1]
        port.heal()
        if next(calls) <= number:
            break
    assert number > 1


async def test_an_opening_of_the_log_that_fails_leaves_no_descriptor(
    share: Connect, connect: Connect, port: Any, commits: Any
) -> None:
    await share(port=Port())
    log = (await connect()).commit_log()
    port.fail("pread", times=3)
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await commits(log)
    assert port.calls.count(("open_folder", ("journal",))) == 1


async def test_a_full_disk_in_one_handle_leaves_the_others(
    share: Connect, chain: Any, port: Any, commits: Any
) -> None:
    one, two = await share(), await share(port=Port())
    log, other = chain(one.commit_log()), chain(two.commit_log())
    await append(log)
    port.fail("pwrite", 28, chosen=lambda _, data, __: data[:1] == b"{", times=1)
    with pytest.raises(Exception, match="no space"):
        await log.append(3_000)
    await append(other, 1_000_000)
    await append(log, 2_000)
    await append(other)
    assert await commits(log.log) == other.commits


async def test_a_file_system_without_locks_is_told(connect: Connect, port: Any) -> None:
    port.fail("flock", 95)
    with pytest.raises(UnsupportedError, match="no file locks") as caught:
        await connect()
    assert caught.value.code == "no_locks"


@pytest.mark.slow
async def test_on_a_network_file_system_the_first_writer_stays_alone(
    share: Connect, connect: Connect, port: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "filesystem", lambda _: "nfs4")
    one = await share()
    await one.announce()
    with pytest.raises(StoreLockedError):
        await connect()


def interrupt(port: Port, name: str, meanwhile: Callable[[], None]) -> None:
    """Let something else happen before the next call."""
    real = getattr(port, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        setattr(port, name, real)
        meanwhile()
        return real(*args, **kwargs)

    setattr(port, name, call)


@pytest.mark.parametrize("call", ["flock", "fsync"])
async def test_what_two_handles_append_to_a_file_with_a_second_link_is_in_it_and_not_in_the_link(
    share: Connect, path: Path, call: str
) -> None:
    """Before `flock` the file is open, before `fsync` its copy is written."""
    other = await share()
    await other.write_at("logs/a.log", 0, b"one\n")
    (path / "kept.log").hardlink_to(path / "logs/a.log")
    append = other._objects.write_at
    port = Port()
    one = await share(port=port)
    interrupt(port, call, lambda: append("logs/a.log", 4, b"two\n", cut=False))
    await one.write_at("logs/a.log", 8, b"three\n", cut=False)
    assert (path / "logs/a.log").read_bytes() == b"one\ntwo\nthree\n"
    assert (path / "kept.log").read_bytes() == b"one\n"


async def test_what_is_appended_while_the_file_is_removed_is_in_the_new_one(
    share: Connect, path: Path
) -> None:
    other = await share()
    await other.write_at("logs/a.log", 0, b"one\n")
    port = Port()
    one = await share(port=port)
    interrupt(port, "flock", (path / "logs/a.log").unlink)
    await one.write_at("logs/a.log", 0, b"two\n", cut=False)
    assert (path / "logs/a.log").read_bytes() == b"two\n"


class KilledPort(Port):
    """The real port of a process that is killed right before its n-th change."""

    left = -1

    def step(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def _counted(name: str) -> Callable[..., Any]:
    real = getattr(Port, name)

    def call(self: KilledPort, *args: Any, **kwargs: Any) -> Any:
        self.step()
        return real(self, *args, **kwargs)

    return call


for _name in CHANGES:
    setattr(KilledPort, _name, _counted(_name))


async def _append_and_die(
    path: Path, chain: Any, append: Callable[..., Any], steps: int, sizes: list[int], told: int
) -> None:
    """Join the others, and then live for so many changes; each commit that is durable is told."""
    port = KilledPort()
    factory = LocalFactory(port)
    backend = await factory.connect(factory.parse(StateURL.parse(str(path))))
    log = chain(backend.commit_log())
    await catch_up(log)
    port.left = steps
    for size in sizes:
        commit = await append(log, size)
        os.write(told, b"%d\n" % commit.last)
    port.left = -1
    await backend.close()
    os.write(told, b"end\n")


def in_a_child(work: Callable[[int], Any]) -> list[bytes]:
    """What the work told, in a process that is a copy of this one."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asyncio.set_event_loop(None)
            asyncio._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(work(write))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as told:
        lines = told.read().split()
    os.waitpid(child, 0)
    return lines


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("way", [append, place])
@pytest.mark.parametrize("sizes", [[10, 10], [600_000, 600_000]], ids=["here", "rotate"])
async def test_whenever_a_writer_is_killed_the_others_go_on_with_all_it_told(
    tmp_path: Path, chain: Any, commits: Any, sizes: list[int], way: Callable[..., Any]
) -> None:
    steps = 0
    while True:
        path = tmp_path / str(steps)
        factory = LocalFactory()
        config = factory.parse(StateURL.parse(str(path)))
        one, reader = await factory.connect(config), await factory.connect(config, readonly=True)
        await one.share()
        log = chain(one.commit_log())
        await append(log, 300_000)

        def die(told: int, path: Path = path, steps: int = steps) -> Any:
            return _append_and_die(path, chain, way, steps, sizes, told)

        told = in_a_child(die)
        acknowledged = [int(line) for line in told if line != b"end"]
        seen = await commits(reader.commit_log())
        await append(log)
        await append(log, 600_000)
        found = await commits(reader.commit_log())
        assert found == log.commits, steps
        assert found[: len(seen)] == seen, steps
        assert [commit.last for commit in found] == list(range(1, len(found) + 1)), steps
        assert len(found) - 3 - len(acknowledged) in (0, 1), steps
        await one.close()
        await reader.close()
        alone = await factory.connect(config)
        assert await commits(alone.commit_log()) == found, steps
        await alone.close()
        if told[-1:] == [b"end"]:
            break
        steps += 1
    assert steps > 10


async def test_a_change_of_its_own_shows_a_handle_the_end_of_the_log(
    path: Path, later: Callable[[float], None]
) -> None:
    async with statepath.open(path, autosave=0) as one, statepath.open(path, autosave=0):
        later(10)
        assert one.staleness == 10
        await one.collection("raw").put({"id": "a"})
        assert one.staleness == 0


async def test_a_handle_that_is_told_of_a_change_may_lack_others_behind_it(
    path: Path, later: Callable[[float], None]
) -> None:
    async with statepath.open(path, autosave=0) as one, statepath.open(path, autosave=0) as two:
        for id in "ab":
            await two.collection("raw").put({"id": id})
        first = await anext(aiter(one._engine.log.read(0)))
        later(10)
        await one._engine.catching_up.take(first)
        assert (one.seq, one.staleness) == (1, 10)
        await one.sync()
        assert (one.seq, one.staleness) == (2, 0)
