"""What the installed distributions announce by entry points of our groups.

To read what all of them announce takes longer than to open a store: a folder of the path is read again only when it has
changed.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from email.message import Message

_log = logging.getLogger(__name__)

_OURS: Final = "statepath."


@dataclass(frozen=True, slots=True)
class Announced:
    """An entry point, and the distribution that announces it; nothing of it was imported."""

    distribution: str
    version: str
    point: EntryPoint


def announced(group: str) -> list[Announced]:
    """Every entry point of one of our groups, in the order of the path. A distribution can be seen twice: installed,
    and by its checkout."""
    found = (one for folder in sys.path for one in _announced_in(folder, _state(folder)))
    return [one for one in found if one.point.group == group]


def points_of(group: str) -> list[EntryPoint]:
    """The entry points of one of our groups; of a distribution that is seen twice those of the first one on the path,
    which is the one imported."""
    found: dict[tuple[str, str], EntryPoint] = {}
    for one in announced(group):
        found.setdefault((one.distribution, one.point.name), one.point)
    return list(found.values())


def _state(folder: str) -> tuple[int, ...]:
    """Another one after a distribution in the folder has come or gone."""
    try:
        found = os.stat(folder or os.curdir)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_nlink


@lru_cache(maxsize=64)
def _announced_in(folder: str, state: tuple[int, ...]) -> tuple[Announced, ...]:
    """What the folder's distributions announce while it is in this state."""
    found: list[Announced] = []
    for distribution in distributions(path=[folder]):
        try:
            points = [point for point in distribution.entry_points if point.group.startswith(_OURS)]
        except Exception:  # noqa: BLE001 - one broken distribution on the path must not hide the others
            _log.warning("skipped a distribution whose entry points cannot be read", exc_info=True)
            continue
        if points:
            # The backport of importlib.metadata raises for what is missing, if it is asked in another way.
            said = cast("Message", distribution.metadata)
            name, version = said.get("Name") or "an unnamed distribution", said.get("Version") or "?"
            found += [Announced(name, version, point) for point in points]
    return tuple(found)
