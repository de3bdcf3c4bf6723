"""The command line. `statepath --help` tells what it can do, `docs/cli.md` the rest."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper


def main() -> None:
    """What the console script `statepath` calls."""
    from statepath.cli.app import app

    # One that was closed would be missing, and its number would go to a file of the store.
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the whole process
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="statepath")


__all__ = ["main"]
