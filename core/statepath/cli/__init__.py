"""The command line. `statepath --help` tells what it can do, `docs/cli.md` the rest."""

from __future__ import annotations

import sys
from io import TextIOWrapper


def main() -> None:
    """What the console script `statepath` calls."""
    from statepath.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that lacks a character is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="statepath")


__all__ = ["main"]
