"""Ctrl-C while a person or a pipe is waited for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
