"""What takes long on the event loop lets other tasks run now and then."""

from __future__ import annotations

from typing import Final

_ROWS: Final = 256
_BYTES: Final = 512 * 1024


class Breath:
    """Tells when other tasks should run."""

    __slots__ = ("_bytes", "_rows")

    def __init__(self) -> None:
        self._rows = self._bytes = 0

    def due(self, size: int) -> bool:
        """Whether enough rows or bytes have passed since the last time, this one of `size` bytes included."""
        self._rows += 1
        self._bytes += size
        if self._rows < _ROWS and self._bytes < _BYTES:
            return False
        self._rows = self._bytes = 0
        return True
