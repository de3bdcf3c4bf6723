"""The names of what is kept aside: `<key>.<why>.<UTC time>`."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """The present as names of objects have it: UTC with microseconds, so that the names sort by time."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")


def aside_key(key: str, why: str) -> str:
    """Where the object is kept from now on. `why` is a word: `corrupt`, `conflict`, `earlier`."""
    return f"{key}.{why}.{utc_now()}"
