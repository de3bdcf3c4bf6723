"""Blocking calls beside the event loop, also while the program ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], pool: Executor | None = None) -> T:
    """What the call gives, made in a thread of the pool, or of the loop's own.

    Python's executors end with the main thread, while other threads go on: what these still do blocks the loop.
    """
    loop = asyncio.get_running_loop()
    submit = partial(loop.run_in_executor, None) if pool is None else pool.submit
    try:
        made = handed(submit, call)
    except RuntimeError:
        return call()
    return await asyncio.wrap_future(made)


def handed(submit: Callable[[Callable[[], None]], object], call: Callable[[], T]) -> Future[T]:
    """The result of the call, once `submit` has had it made. An executor that can start no thread raises, and keeps the
    call for another one all the same: that one finds it taken back.

    Raises:
        RuntimeError: the call is not made.
    """
    made: Future[T] = Future()

    def make() -> None:
        if made.set_running_or_notify_cancel():
            try:
                made.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits, whatever it is
                made.set_exception(error)

    try:
        submit(make)
    except RuntimeError:
        if made.cancel():
            raise
    return made
