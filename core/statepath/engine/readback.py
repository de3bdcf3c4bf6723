"""Snapshots read back: one counts only once the storage is seen to hold what had been written."""

from __future__ import annotations

from statepath.backend import Backend
from statepath.engine.checking import check_snapshot
from statepath.engine.snapshot import SnapshotFacts
from statepath.errors import ConflictError, CorruptionError, NotFoundError


async def read_back(backend: Backend, key: str, *, store: str, digest: str, seq: int) -> None:
    """
    Raises:
        CorruptionError: what is stored is not the snapshot of this digest.
        ConflictError: it is one of a later seq than this, which another handle of the store has written since.
    """
    try:
        stored = await check_snapshot(backend, key)
    except (CorruptionError, NotFoundError) as error:
        raise _altered(key, str(error)) from error
    check_same(stored, key, store=store, digest=digest, seq=seq)


def check_same(stored: SnapshotFacts, key: str, *, store: str, digest: str, seq: int) -> None:
    """As `read_back`, of what was read already."""
    if stored.digest == digest:
        return
    if stored.store == store and stored.seq > seq:
        raise ConflictError(f"{key} shows seq {stored.seq} already, later than {seq}", key=key)
    raise _altered(key, "it is another snapshot")


def _altered(key: str, reason: str) -> CorruptionError:
    return CorruptionError(
        f"{key} was not what had been written when it was read back ({reason}); the journal has everything",
        key=key,
    )
