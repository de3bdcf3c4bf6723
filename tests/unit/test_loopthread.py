"""The event loop of the blocking facade, and calls into it that Ctrl-C may interrupt at any moment."""

import asyncio
import gc
import itertools
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import pytest
from statepath.loopthread import Call, LoopThread


@pytest.fixture
def running():
    with LoopThread() as running:
        yield running


def interrupted(moment, work):
    """Whether Ctrl-C came before the work was done, at so many steps of what this thread does for it."""
    left = itertools.count(moment, -1)

    def step(frame, event, argument):
        if next(left) == 0:
            sys.settrace(None)
            raise KeyboardInterrupt
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def handled(moment, handler, work):
    """What the handler gives, called where Python looks for signals: at so many calls of functions in this thread."""
    left, given = itertools.count(moment, -1), []

    def step(frame, event, argument):
        if next(left) == 0:
            sys.settrace(None)
            given.append(handler())

    before = sys.gettrace()
    sys.settrace(step)
    try:
        work()
    finally:
        sys.settrace(before)
    return given[0] if given else None


def test_the_thread_ends_with_the_last_block():
    loops = LoopThread()
    with loops as running:
        with loops as same:
            assert same is running
        assert Call(running, threading.current_thread).result() is running.thread
    assert not running.thread.is_alive()
    assert running.loop.is_closed()
    with loops as another:
        assert Call(another, lambda: 1).result() == 1


def test_a_signals_handler_may_make_calls_wherever_it_comes():
    loops = LoopThread()

    def handler():
        with loops as running:
            return Call(running, lambda: "called").result()

    def read():
        with loops as running:
            Call(running, lambda: None).result()

    with loops:
        moments = (handled(moment, handler, read) for moment in itertools.count())
        assert set(itertools.takewhile(bool, moments)) == {"called"}


def test_a_call_that_ctrl_c_interrupts_at_any_moment_leaves_the_loop_to_others(running):
    async def work():
        await asyncio.sleep(0)

    moments = itertools.takewhile(
        lambda moment: interrupted(moment, Call(running, work).result), itertools.count()
    )
    assert {Call(running, lambda: "used on").result() for _ in moments} == {"used on"}


def test_a_call_that_nobody_waits_for_any_more_is_cancelled(running):
    begun, ended = threading.Event(), threading.Event()

    async def work():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    call = Call(running, work)

    def interrupt(question):
        begun.wait()
        raise KeyboardInterrupt

    running.loop.call_soon_threadsafe(lambda: running.loop.create_task(call.ask(None)))
    with pytest.raises(KeyboardInterrupt):
        call.result(interrupt)
    ended.wait()


def test_a_call_that_is_cancelled_where_it_runs_says_so(running):
    async def work():
        raise asyncio.CancelledError

    with pytest.raises(CancelledError):
        Call(running, work).result()


def test_what_ends_a_program_ends_the_call_and_not_the_loop(running):
    def work():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        Call(running, work).result()
    assert Call(running, lambda: "used on").result() == "used on"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_who_waits_when_the_loop_ends_early_is_told(running):
    call = Call(running, lambda: None)
    call._begin = running.loop.stop
    with pytest.raises(CancelledError):
        call.result()


def test_a_call_may_ask_the_thread_that_waits(running):
    async def work():
        return await call.ask("who") + "!"

    call = Call(running, work)
    here = threading.current_thread().name
    assert call.result(lambda question: question.settle(threading.current_thread().name)) == f"{here}!"


def test_a_call_that_asked_is_let_go_when_it_has_ended(running):
    def asked():
        call = Call(running, lambda: call.ask(None))
        call.result(lambda question: question.settle(None))
        return weakref.ref(call)

    gc.disable()
    try:
        assert Call(running, asked()).result() is None
    finally:
        gc.enable()
