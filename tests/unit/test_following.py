"""What follows the log for all who want to know of other writers' commits."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime
from unittest.mock import AsyncMock

import pytest
from statepath.commit import Commit, Note
from statepath.engine.following import Follower
from statepath.engine.stream import Stream
from statepath.errors import AccessDeniedError, UnavailableError


def commit_of(seq):
    return Commit(
        first=seq,
        last=seq,
        id=str(seq),
        prev=str(seq - 1),
        writer="w",
        store="s",
        incarnation="i",
        time=datetime.now(UTC),
        durable=0,
        transactions=((Note("k", "t"),),),
    )


class Log:
    """It answers once, and then no more; or it refuses."""

    def __init__(self):
        self.asked = asyncio.Queue()
        self.refusal = None

    async def follow(self, after, known):
        self.asked.put_nowait((after, known()))
        if self.refusal is not None:
            raise self.refusal
        if after < 7:
            raise UnavailableError("no answer")
        await asyncio.Event().wait()
        yield


async def test_after_an_outage_it_goes_on_behind_what_is_known():
    log, head = Log(), 3
    follower = Follower(log, lambda: head, None, None)
    follower.join(3)
    assert await log.asked.get() == (3, 3)
    head = 7
    async with asyncio.timeout(60):
        assert await log.asked.get() == (7, 7)
    await follower.stop()


async def test_who_joins_after_a_failure_has_it_tried_again_whoever_else_is_still_there():
    log, ended = Log(), asyncio.Event()
    log.refusal = AccessDeniedError("refused once")
    follower = Follower(log, lambda: 7, None, ended.set)
    follower.join(7)
    await ended.wait()
    assert follower.failure is log.refusal
    log.refusal = None
    follower.join(7)
    assert follower.failure is None
    async with asyncio.timeout(60):
        assert [await log.asked.get() for _ in range(2)] == [(7, 7)] * 2
    await follower.stop()


class Interrupted:
    """A log of two commits that does not answer the first two times it is read behind a seq."""

    def __init__(self):
        self.reads = []
        self.asked = asyncio.Event()

    async def read(self, after):
        self.reads.append(after)
        self.asked.set()
        if self.reads.count(after) < 3:
            raise UnavailableError("no answer")
        yield commit_of(after + 1)
        raise UnavailableError("no answer")


def stream_of(log, closed=lambda: False):
    """What follows the log for a handle that shows its second commit."""
    return Stream(
        None,
        log,
        alone=True,
        head=lambda: 2,
        closed=closed,
        take=None,
        begin=AsyncMock(return_value=1),
        patience=60,
    )


async def test_who_reads_the_log_goes_on_behind_what_was_told_after_an_outage(monkeypatch):
    monkeypatch.setattr("statepath.engine.stream._SOONEST", 0)
    log = Interrupted()
    stream = stream_of(log)
    async with aclosing(stream.follow(0)) as commits:
        assert [(await anext(commits))[0].first for _ in range(2)] == [1, 2]
    assert log.reads == [0, 0, 0, 1, 1, 1]


async def test_who_reads_a_log_that_does_not_answer_ends_with_the_handle(monkeypatch):
    monkeypatch.setattr("statepath.engine.stream._SOONEST", 3600)
    log, closed = Interrupted(), False
    stream = stream_of(log, lambda: closed)
    waiting = asyncio.ensure_future(anext(stream.follow(0), None))
    await log.asked.wait()
    closed = True
    stream.wake()
    assert await waiting is None


async def test_who_reads_a_log_that_refuses_is_told():
    class Refusing:
        async def read(self, after):
            raise AccessDeniedError("refused")
            yield

    stream = stream_of(Refusing())
    with pytest.raises(AccessDeniedError):
        await anext(stream.follow(0))


async def test_a_log_that_ends_before_what_is_shown_is_not_read_without_pause(monkeypatch):
    reads, behind = 0, asyncio.Event()

    class Short:
        async def read(self, after):
            nonlocal reads
            reads += 1
            behind.set()
            return
            yield

    monkeypatch.setattr("statepath.engine.stream._BEHIND", 60)
    stream = stream_of(Short())
    waiting = asyncio.ensure_future(anext(stream.follow(0)))
    await behind.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert reads == 1
    waiting.cancel()
    await asyncio.wait([waiting])
