"""Ctrl-C while a person or a pipe is waited for, and SIGTERM where nothing else ends a command."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end a wait at once: the event loop's own handler does so at the next `await` only."""
    with _handled(signal.default_int_handler):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Leave Ctrl-C to the program that has the terminal meanwhile."""
    # A handler that does nothing is not handed on to that program, as `SIG_IGN` would be.
    with _handled(lambda *_: None):
        yield


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM cancel what goes on until somebody ends it, so that it gives up what others would wait for. The first
    process of a container would not even notice it otherwise."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def cancel(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # who sends it again waits for nothing
        loop.call_soon_threadsafe(task.cancel)

    with _handled(cancel, signal.SIGTERM):
        yield


def unread() -> AbstractContextManager[None]:
    """Let SIGTERM end at once what may wait for ever, for whoever reads the output: no event loop would notice it."""
    return _handled(lambda *_: terminate(), signal.SIGTERM)


def terminate() -> NoReturn:
    """End the process by the SIGTERM that has cancelled its command, as who sent it expects."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    os._exit(128 + signal.SIGTERM)  # the first process of a container outlives it


@contextmanager
def _handled(handler: Callable[..., Any], number: int = signal.SIGINT) -> Iterator[None]:
    # Only the main thread may set one, and who started this process may have ignored the signal for it.
    before = signal.getsignal(number)
    if before in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
