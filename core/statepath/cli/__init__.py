"""The command line. `statepath --help` tells what it can do, `docs/cli.md` the rest."""

from __future__ import annotations


def main() -> None:
    """What the console script `statepath` calls."""
    from statepath.cli.app import app

    app(prog_name="statepath")


__all__ = ["main"]
