"""What stands on stderr beside the data: remarks, warnings, errors."""

from __future__ import annotations

from contextlib import suppress
from io import TextIOWrapper


class Remarks(TextIOWrapper):
    """A stderr that may be full, or that nobody reads any more: what cannot be told there changes neither what a
    command does nor how it ends."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError:
            return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()
