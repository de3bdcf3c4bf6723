"""What a restore would undo, told before anybody is asked."""

from __future__ import annotations

from datetime import datetime

from statepath.engine.restoring import Undone, undone
from statepath.store import Store

__all__ = ["Undone", "undone_by"]


async def undone_by(store: Store, at: int | datetime) -> Undone:
    """What a restore of the store to the seq or moment would undo. The log is read from there on, a commit at a time.

    Raises: as `Store.restore`.
    """
    return await undone(store._engine, at)  # noqa: SLF001 - of one package
