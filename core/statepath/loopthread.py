"""An event loop in a thread of its own, and calls into it that Ctrl-C may interrupt at any moment.

What waits here waits in C: the conditions of `threading` and `concurrent.futures`, which are Python, stay locked where
Ctrl-C comes at the wrong moment, and then the event loop waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from inspect import isawaitable
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, NamedTuple


class LoopThread:
    """The thread begins with the first `with` block and ends with the last one; each gets what calls into it need."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._blocks = 0
        self._running: Running | None = None

    def __enter__(self) -> Running:
        with self._lock:
            # While it runs, nothing is called here: a signal's handler may come with a call, and want the lock.
            # A SystemExit in one of its tasks ends the loop early.
            if self._running is None or self._running.ended:
                self._running = Running()
                try:
                    self._running.thread.start()
                except BaseException:
                    self._running.stop()
                    self._running = None
                    raise
            self._blocks += 1
            return self._running

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
            if self._blocks or self._running is None:
                return
            ending, self._running = self._running, None
        ending.stop()
        ending.thread.join()


class Running:
    """The thread while its event loop runs. `calls` are those that somebody waits for."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self._serve, name="statepath-loop", daemon=True)
        self.calls: set[Call] = set()
        self.ended = False
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        with suppress(RuntimeError):  # it has ended
            self.loop.call_soon_threadsafe(self._stopping.set)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._until_stopped())
        finally:
            self.ended = True
            for call in tuple(self.calls):  # where it ended early, as of a SystemExit
                call.abandon()

    async def _until_stopped(self) -> None:
        await self._stopping.wait()


class Question(NamedTuple):
    """What a call asks the thread that waits for it."""

    value: Any
    answer: asyncio.Future[Any]

    def settle(self, result: Any, error: BaseException | None = None) -> None:
        """Give the answer, from any thread."""
        self.answer.get_loop().call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():  # nobody waits for it any more
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class _Outcome(NamedTuple):
    result: Any
    error: BaseException | None


class Call:
    """A call of a function, be it a coroutine function, in the event loop's thread, for the one that made it to wait
    for. Who stops waiting cancels it."""

    def __init__(self, running: Running, fn: Callable[[], Any]) -> None:
        self._calls, self._loop = running.calls, running.loop
        self._fn = fn
        self._told: SimpleQueue[Question | _Outcome] = SimpleQueue()
        self._task: asyncio.Task[None] | None = None

    def result(self, answer: Callable[[Question], None] | None = None) -> Any:
        """Make the call and wait for its result. What it asks meanwhile, `answer` answers."""
        self._calls.add(self)
        try:
            self._loop.call_soon_threadsafe(self._begin)
            outcome = self._outcome(answer)
        except BaseException:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._cancel)
            raise
        finally:
            self._calls.discard(self)
        try:
            if outcome.error is not None:
                raise outcome.error
            return outcome.result
        finally:
            del outcome  # the error's traceback leads back to here

    def _outcome(self, answer: Callable[[Question], None] | None) -> _Outcome:
        while isinstance(told := self._told.get(), Question):
            if answer is not None:
                answer(told)
        return told

    async def ask(self, value: Any) -> Any:
        """Within the call: what the thread that waits for it makes of the value."""
        answer = self._loop.create_future()
        self._told.put(Question(value, answer))
        return await answer

    def abandon(self) -> None:
        """Tell who waits that there will be no result."""
        self._told.put(_Outcome(None, CancelledError()))

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._carry_out(self._fn), name="statepath-call")
        del self._fn  # one that asks leads back to here

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _carry_out(self, fn: Callable[[], Any]) -> None:
        try:
            result = fn()
            if isawaitable(result):
                result = await result
        except asyncio.CancelledError:
            self.abandon()
        except BaseException as error:  # noqa: BLE001 - it ends the thread that waits, and not the event loop
            self._told.put(_Outcome(None, error))
        else:
            self._told.put(_Outcome(result, None))
