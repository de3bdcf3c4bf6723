"""Exit codes: one table, from the errors to what a script sees."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    InvalidArgumentError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    StoreLockedError,
    ThrottledError,
    UnavailableError,
)


class Exit(IntEnum):
    """What the command tells its caller. `docs/cli.md` has the same table; a test compares the two."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    LOCKED = 5
    DAMAGED = 6
    CONFIGURATION = 7
    UNAVAILABLE = 8
    DENIED = 9
    UNKNOWN = 10
    UNHEALTHY = 11
    INTERRUPTED = 130


EXITS: Final[dict[type[StateError], Exit]] = {
    StateError: Exit.ERROR,
    InvalidArgumentError: Exit.USAGE,
    NotFoundError: Exit.NOT_FOUND,
    HistoryTrimmedError: Exit.NOT_FOUND,
    ConflictError: Exit.CONFLICT,
    AlreadyExistsError: Exit.CONFLICT,
    DivergedError: Exit.CONFLICT,
    LeaseLostError: Exit.CONFLICT,
    StoreLockedError: Exit.LOCKED,
    LeaseHeldError: Exit.LOCKED,
    CorruptionError: Exit.DAMAGED,
    ConfigurationError: Exit.CONFIGURATION,
    UnavailableError: Exit.UNAVAILABLE,
    ThrottledError: Exit.UNAVAILABLE,
    AccessDeniedError: Exit.DENIED,
    OutcomeUnknownError: Exit.UNKNOWN,
}


def exit_of(error: StateError) -> Exit:
    """The code of the error's class, or of the nearest one above it."""
    return next(EXITS[kind] for kind in type(error).__mro__ if kind in EXITS)
