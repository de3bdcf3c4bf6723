"""What SQLite's own errors mean to a caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from statepath.errors import (
    AccessDeniedError,
    CorruptionError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
)

_KINDS: dict[int, type[StateError]] = {
    sqlite3.SQLITE_BUSY: ThrottledError,
    sqlite3.SQLITE_LOCKED: ThrottledError,
    sqlite3.SQLITE_PERM: AccessDeniedError,
    sqlite3.SQLITE_AUTH: AccessDeniedError,
    sqlite3.SQLITE_READONLY: AccessDeniedError,
    sqlite3.SQLITE_CANTOPEN: AccessDeniedError,
    sqlite3.SQLITE_CORRUPT: CorruptionError,
    sqlite3.SQLITE_NOTADB: CorruptionError,
    sqlite3.SQLITE_TOOBIG: InvalidArgumentError,
}


@contextmanager
def translated(key: str | None, url: str) -> Iterator[None]:
    """Raise the error of `statepath.errors` that says what the caller can do."""
    try:
        yield
    except sqlite3.Error as error:
        # The lowest byte is the cause; the others tell more of it.
        cause = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        kind = _KINDS.get(cause, UnavailableError)
        code = "disk_full" if cause == sqlite3.SQLITE_FULL else None
        raise kind(
            f"SQLite could not do it in {url}: {error}", key=key, backend="sqlite", code=code
        ) from error
    except PermissionError as error:
        raise AccessDeniedError(
            f"{url} cannot be used: {error.strerror}", key=key, backend="sqlite"
        ) from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise InvalidArgumentError(
            f"{url} cannot be used: {error.strerror}", key=key, backend="sqlite"
        ) from error
