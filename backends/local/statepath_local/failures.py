"""From the system's error numbers to statepath's errors."""

from __future__ import annotations

import errno
import os

from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
)

SCHEME = "file"
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def state_error(error: OSError, what: str, key: str | None = None) -> StateError:
    """What a caller is told about a failed call. `what` names the file or folder."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        return UnavailableError(
            f"no space left to write {what}; free some, then try again",
            key=key,
            backend=SCHEME,
            code="disk_full",
        )
    if error.errno == errno.ENOENT:
        return NotFoundError(f"there is no {what}", key=key, backend=SCHEME)
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return InvalidArgumentError(
            f"{what} cannot be a file: its name, or the beginning of it, is taken; move what is there out of the way",
            key=key,
            backend=SCHEME,
        )
    if error.errno == errno.ELOOP:
        return AccessDeniedError(
            f"{what} is a symbolic link, and links inside the state path are not followed; "
            "put the file itself there",
            key=key,
            backend=SCHEME,
        )
    if error.errno in _DENIED:
        return AccessDeniedError(
            f"{what}: {reason}; check its owner and permissions", key=key, backend=SCHEME
        )
    if error.errno == errno.ENAMETOOLONG:
        return InvalidArgumentError(
            f"the name of {what} is too long for this file system", key=key, backend=SCHEME
        )
    return UnavailableError(f"{what}: {reason}", key=key, backend=SCHEME)


class failing:  # noqa: N801 - read as a statement, and a generator would cost a commit some µs
    """Turns what the system raises inside into `StateError`s."""

    __slots__ = ("_key", "_what")

    def __init__(self, what: str, key: str | None = None) -> None:
        self._what = what
        self._key = key

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise state_error(error, self._what, self._key) from error
