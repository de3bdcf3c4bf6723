"""The console script `statepath`. It stands beside the package, which takes a second to load: Ctrl-C may come first."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable


def main() -> None:
    """What the console script calls."""
    _leave_at_ctrl_c()
    _loaded()()


def _loaded() -> Callable[[], None]:
    """What runs a command. What is loaded is no garbage: looking through it again and again would take a quarter
    of the time until then."""
    gc.disable()
    import statepath.cli.app  # noqa: F401 - or it would be loaded later, when it is needed
    from statepath.cli import main as run

    gc.freeze()
    gc.enable()
    return run


def _leave_at_ctrl_c() -> None:
    """Have Ctrl-C end the process in silence. An exception becomes a traceback where it meets a module that is being
    loaded, or a thread that is waited for at the end."""
    # Who started this process may have ignored the signal for it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


__all__ = ["main"]
