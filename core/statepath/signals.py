"""Saves before a signal ends the program: opt-in, and then the handler that was there before runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from types import FrameType
from typing import Any, Final

from statepath.errors import UnsupportedError

logger = logging.getLogger("statepath.signals")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class SignalSaver:
    """While installed, the first signal awaits `save(number)` on the running loop; then the previous handlers
    are put back, and the one of the signal runs. A second signal does not wait for the save.

    A signal that is ignored stays ignored. A handler that was set by `loop.add_signal_handler` cannot be held
    back: the loop calls it at once, beside the save, and it is not called again.

    Raises:
        UnsupportedError: this is not the main thread, which alone may handle signals, or a handler is in
            place that is not Python's and so could not be put back.
    """

    def __init__(self, save: Callable[[int], Awaitable[object]]) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise UnsupportedError(
                "signals can be handled in the main thread only: "
                "open the store there, or leave out handle_signals"
            )
        self._save = save
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self.ended = False
        self._process = os.getpid()
        found = {number: signal.getsignal(number) for number in SIGNALS}
        # One that is ignored ends nothing, as SIGINT in what a script runs in the background.
        self._previous: dict[int, Any] = {
            number: previous for number, previous in found.items() if previous != signal.SIG_IGN
        }
        for number, previous in self._previous.items():
            if previous is None:
                name = signal.Signals(number).name
                raise UnsupportedError(
                    f"{name} has a handler that is not Python's and could not be put back: "
                    "leave out handle_signals"
                )
        for number in self._previous:
            signal.signal(number, self._handle)

    def uninstall(self) -> None:
        """Put the previous handlers back, where nobody has installed others since. May be called twice."""
        self.ended = True
        for number in self._previous:
            if signal.getsignal(number) == self._handle:
                signal.signal(number, self.before(number))

    def before(self, number: int) -> Any:
        """The handler that was there before; behind a saver that has ended, what was there before that."""
        previous = self._previous[number]
        other = getattr(previous, "__self__", None)
        return other.before(number) if isinstance(other, SignalSaver) and other.ended else previous

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked child inherits the handler, and has nothing to save.
        if not self._begun and os.getpid() == self._process:
            try:
                # This runs between any two instructions of the program, so it only leaves word; and the save is
                # no part of what was interrupted, as of a lease that may be lost.
                self._loop.call_soon_threadsafe(self._begin, number, context=Context())
            except RuntimeError:
                logger.warning("%s came when the event loop had ended", signal.Signals(number).name)
            else:
                self._begun = True
                return
        self._pass_on(number)

    def _begin(self, number: int) -> None:
        self._task = self._loop.create_task(self._run(number), name="statepath-save-on-signal")

    async def _run(self, number: int) -> None:
        name = signal.Signals(number).name
        logger.info("saving because of %s", name)
        try:
            await self._save(number)
        except Exception:
            logger.exception("the save because of %s failed", name)
        finally:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self.uninstall()
        previous = self.before(number)
        if previous == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif callable(previous):
            previous(number, None)
