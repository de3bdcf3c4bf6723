"""Blocking calls beside the event loop, also while the program ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T], pool: Executor | None = None) -> T:
    """What the call gives, made in a thread of the pool, or of the loop's own.

    Python's executors end with the main thread, while other threads go on: what these still do blocks the loop.
    """
    try:
        running = asyncio.get_running_loop().run_in_executor(pool, call)
    except RuntimeError:
        return call()
    return await running
