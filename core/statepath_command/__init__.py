"""The console script `statepath`. It stands beside the package, which takes a second to load: Ctrl-C may come first."""

from __future__ import annotations

import os
import signal


def main() -> None:
    """What the console script calls."""
    _leave_at_ctrl_c()
    from statepath.cli import main as run

    run()


def _leave_at_ctrl_c() -> None:
    """Have Ctrl-C end the process in silence. An exception becomes a traceback where it meets a module that is being
    loaded, or a thread that is waited for at the end."""
    # Who started this process may have ignored the signal for it.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))


__all__ = ["main"]
