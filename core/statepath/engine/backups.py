"""The names of backups: `state.backup.<UTC time>.json`, after the time of the last commit that they show.

So the names sort as the states do, and keeping one state twice gives one backup. Beside them there are the states that
were kept for the way back: from a migration, from a rollback of one, and from a replica that was made anew.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from statepath.backend import Backend
from statepath.errors import CorruptionError

if TYPE_CHECKING:
    from statepath.engine.floor import Floor

PRE_MIGRATION_KEY: Final = "state.pre-migration.backup.json"
"""The state of before a migration, or the `state.json` of an original directory."""

_PREFIX: Final = "state.backup."
_TIME: Final = r"\d{8}T\d{6}\.\d{6}Z"
_OURS: Final = re.compile(rf"state\.backup\.{_TIME}\.json")
"""The original server's have milliseconds since 1970 in that place."""

_RESEEDED: Final = re.compile(rf"state\.json\.earlier\.{_TIME}")
_KEPT: Final = re.compile(
    rf"{_OURS.pattern}|state\.pre-migration\.backup\.json(\.earlier\.{_TIME})?"
    rf"|state\.before-rollback\.{_TIME}\.json|{_RESEEDED.pattern}"
)


def backup_key(time: int) -> str:
    """The key of the backup of a state. `time` is that of its last commit, in microseconds since 1970."""
    moment = datetime.fromtimestamp(time // 1_000_000, UTC)
    return f"{_PREFIX}{moment:%Y%m%dT%H%M%S}.{time % 1_000_000:06d}Z.json"


def backup_time(key: str) -> datetime:
    """The time of the last commit that a backup of ours shows."""
    return datetime.strptime(key[len(_PREFIX) : -len("Z.json")], "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)


def is_backup(key: str) -> bool:
    """Whether the key is that of a backup of ours."""
    return _OURS.fullmatch(key) is not None


def check_shown(key: str, time: int) -> None:
    """That a backup of ours shows the state that its name says. `time` is that of the last commit that it shows.

    Raises:
        CorruptionError: it shows another.
    """
    if is_backup(key) and key != backup_key(time):
        raise CorruptionError(
            f"{key} shows the state of {backup_key(time)}: it was exchanged with another backup, or renamed; if that "
            "name is free, give it that",
            key=key,
        )


async def backup_keys(backend: Backend) -> list[str]:
    """The keys of our backups, oldest first."""
    return [entry.key async for entry in backend.list_keys(_PREFIX) if is_backup(entry.key)]


async def reached(backend: Backend, floor: Floor) -> bool:
    """Whether the log reaches back to one of our backups, so that it is not `state.json` alone that has the state."""
    kept = set(await backup_keys(backend))
    return any(mark.seq >= floor.floor - 1 and backup_key(mark.time) in kept for mark in floor.snapshots)


def is_kept(key: str) -> bool:
    """Whether a whole state is kept under the key: a backup, or what there was before something replaced it."""
    return _KEPT.fullmatch(key) is not None


def was_reseeded(key: str) -> bool:
    """Whether the key is that of what a replica had before it was made anew: of a history that the log has not."""
    return _RESEEDED.fullmatch(key) is not None


async def kept_keys(backend: Backend) -> list[str]:
    """The keys of all states that are kept beside `state.json`."""
    return [entry.key async for entry in backend.list_keys("state.") if is_kept(entry.key)]
