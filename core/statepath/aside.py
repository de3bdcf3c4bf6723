"""The names of what is kept aside: `<key>.<why>.<UTC time>`."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final

_ASIDE: Final = re.compile(r"\.(corrupt|conflict|earlier)\.([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)$")
_TIME: Final = "%Y%m%dT%H%M%S.%fZ"

_MAX_NAME: Final = 255
"""What file systems take as a name, in bytes."""

_ENDING: Final = re.compile(
    r"(?:\.json|\.log)?(?:\.(?:corrupt|conflict|earlier)\.[0-9]{8}T[0-9]{6}\.[0-9]{6}Z)*$"
)
_DIGEST: Final = 65
_MAX_BEGINNING: Final = 200 - _DIGEST
"""So that it is still a name where a document's file may lie."""


def utc_now() -> str:
    """The present as names of objects have it: UTC with microseconds, so that the names sort by time."""
    return datetime.now(UTC).strftime(_TIME)


def aside_key(key: str, why: str) -> str:
    """Where the object is kept from now on. `why` is a word: `corrupt`, `conflict`, `earlier`. Of a name that becomes
    too long for a file, which no key of the store's own has, the beginning is left, with a digest."""
    kept = f".{why}.{utc_now()}"
    folder, slash, name = key.rpartition("/")
    if len(name) + len(kept) <= _MAX_NAME:
        return f"{key}{kept}"
    ending = name[_ENDING.search(name).start() :]  # type: ignore[union-attr]  # the end, at the least
    room = _MAX_NAME - len(kept) - len(ending) - _DIGEST
    beginning = name[: max(min(room, _MAX_BEGINNING), 0)]
    cut = beginning.rfind("%", -2)
    shortened = f"{beginning if cut < 0 else beginning[:cut]}~{sha256(name.encode()).hexdigest()}"
    return f"{folder}{slash}{shortened}{ending}{kept}"


def why_aside(key: str) -> str:
    """Why the object is kept aside, as its key says; empty: it is not. An id may look like a part of such a key, but
    what follows it never does."""
    found = _ASIDE.search(key)
    return found[1] if found else ""


def time_aside(key: str) -> float:
    """When the object was kept aside, as its key says, in seconds since 1970; 0: the key does not say. Its own time may
    be that of before."""
    with suppress(ValueError):
        if found := _ASIDE.search(key):
            return datetime.strptime(found[2], _TIME).replace(tzinfo=UTC).timestamp()
    return 0.0


def key_before(key: str) -> str:
    """The key that the object had before it was kept aside."""
    return _ASIDE.sub("", key)
