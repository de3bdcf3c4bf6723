"""Ctrl-C while a person or a pipe is waited for, and SIGTERM where nothing else ends a command."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    if (
        sys.platform == "win32"  # its loop takes no handlers
        or task is None
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def terminate() -> NoReturn:
    """End the process by the SIGTERM that has cancelled its command, as who sent it expects."""
    signal.raise_signal(signal.SIGTERM)
    sys.exit(128 + signal.SIGTERM)  # the first process of a container outlives it


@contextmanager
def _handled(handler: Callable[..., Any]) -> Iterator[None]:
    # Only the main thread may set one, and who started this process may have ignored the signal for it.
    before = signal.getsignal(signal.SIGINT)
    if before in (None, signal.SIG_IGN) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
