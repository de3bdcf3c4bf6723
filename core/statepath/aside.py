"""The names of what is kept aside: `<key>.<why>.<UTC time>`."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

_ASIDE: Final = re.compile(r"\.(corrupt|conflict|earlier)\.[0-9]{8}T[0-9]{6}\.[0-9]{6}Z$")


def utc_now() -> str:
    """The present as names of objects have it: UTC with microseconds, so that the names sort by time."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def aside_key(key: str, why: str) -> str:
    """Where the object is kept from now on. `why` is a word: `corrupt`, `conflict`, `earlier`."""
    return f"{key}.{why}.{utc_now()}"


def why_aside(key: str) -> str:
    """Why the object is kept aside, as its key says; empty: it is not. An id may look like a part of such a key, but
    what follows it never does."""
    found = _ASIDE.search(key)
    return found[1] if found else ""


def key_before(key: str) -> str:
    """The key that the object had before it was kept aside."""
    return _ASIDE.sub("", key)
