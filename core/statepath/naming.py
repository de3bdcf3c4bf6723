"""What a collection may be called."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from statepath.errors import InvalidArgumentError

MAX_COLLECTION: Final = 64

RESERVED: Final = frozenset(
    {
        "version",
        "seq",
        "last_saved",
        "metrics",
        "state",
        "journal",
        "logs",
        "reports",
        "bodies",
        "leases",
        "archive",
        "archive_segments",
        "schema_versions",
    }
)
"""Names that `state.json` or the layout on storage needs for itself."""

DEVICE: Final = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.DOTALL)
"""What Windows keeps for devices."""

_COLLECTION: Final = re.compile(r"[a-z][a-z0-9_]*")


def check_collection(name: object) -> str:
    """The collection's name, if it is one: `[a-z][a-z0-9_]*`, at most 64 characters, not reserved.

    Raises:
        InvalidArgumentError: it is not.
    """
    if not isinstance(name, str):
        raise InvalidArgumentError(f"a collection's name must be a str, not {type(name).__name__}")
    if (fault := fault_of(name)) is not None:
        raise InvalidArgumentError(f"{name!r} cannot name a collection: {fault}", key=name)
    return str.__str__(name)


def check_told(name: object) -> str:
    """What changes are told under, if it is that: the name of a collection, or `logs` or `reports`.

    Raises:
        InvalidArgumentError: it is not.
    """
    return name if isinstance(name, str) and name in ("logs", "reports") else check_collection(name)


def fault_of(name: str) -> str | None:
    """Why the name is no collection's, without quoting it; `None`: it is one."""
    if not _COLLECTION.fullmatch(name):
        return "begin with a letter a-z, go on with a-z, 0-9 and _"
    if len(name) > MAX_COLLECTION:
        return f"a collection's name has at most {MAX_COLLECTION} characters; this one has {len(name)}"
    if name in RESERVED:
        return "the store uses that name itself"
    if DEVICE.fullmatch(name):
        return "it names a device on Windows"
    return None


@lru_cache(maxsize=256)
def is_collection(name: str) -> bool:
    """Whether `check_collection` lets the name through."""
    return fault_of(name) is None
