"""The command line. `statepath --help` tells what it can do, `docs/cli.md` the rest."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from statepath.cli.remarks import Remarks


def main() -> None:
    """Run the command of `sys.argv`, and end the process with its exit code."""
    try:
        _run()
    except KeyboardInterrupt:  # while modules are loading: a command sees to its own
        sys.exit(130)
    except OSError as error:
        # Help is written by others, who leave a failure of the stream to whoever calls them. It names no file.
        if error.filename is not None:
            raise
        print(f"error: what there is to tell cannot be written: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _run() -> None:
    from statepath.cli.app import app
    from statepath.cli.interrupts import interruptible

    # One that was closed would be missing, and its number would go to a file of the store.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the whole process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stderr, TextIOWrapper):
        sys.stderr = Remarks(sys.stderr.buffer, sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    with interruptible():
        app(prog_name="statepath")


__all__ = ["main"]
