"""What PostgreSQL's own errors mean to a caller: one table, by SQLSTATE."""

from __future__ import annotations

import ssl
from typing import Final, NamedTuple

import asyncpg
from statepath.errors import (
    AccessDeniedError,
    CorruptionError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
)

from statepath_postgres.config import SCHEME


class _Meaning(NamedTuple):
    """The class of our error, what to do about it, and what differs from the class: its code, and whether the same
    may succeed later."""

    kind: type[StateError]
    advice: str = ""
    code: str | None = None
    retryable: bool | None = None


# Five characters are one error, two a class of them; who is longer wins. `ThrottledError`: certainly without effect.
_MEANINGS: Final[dict[str, _Meaning]] = {
    "08": _Meaning(UnavailableError),
    "22": _Meaning(InvalidArgumentError),
    "25006": _Meaning(
        ThrottledError,
        "this server takes no writes; if it is a standby, name the primary in the state path, too, and if its disk is "
        "full, make room",
    ),
    "25P04": _Meaning(
        ThrottledError, "it took longer than the server's transaction_timeout; raise that for the role"
    ),
    "26": _Meaning(
        InvalidArgumentError,
        "a pooler gave the transaction another session; add pgbouncer=true to the state path",
    ),
    "28": _Meaning(AccessDeniedError, "check the user, the password and pg_hba.conf"),
    "3D000": _Meaning(InvalidArgumentError, "create the database first: createdb"),
    "40": _Meaning(ThrottledError),
    "40003": _Meaning(UnavailableError),
    "42501": _Meaning(
        AccessDeniedError,
        "grant the rights; a role without DDL rights needs what `statepath migrate sql` prints to be run first",
    ),
    "42P01": _Meaning(UnavailableError, "the schema is gone; open the store again to create it", None, False),
    "53": _Meaning(ThrottledError),
    "53100": _Meaning(UnavailableError, "free some space, then try again", "disk_full"),
    "53300": _Meaning(
        ThrottledError, "the server has no connection left; lower pool= or raise max_connections"
    ),
    "54": _Meaning(InvalidArgumentError),
    "55P03": _Meaning(ThrottledError, "another transaction holds the lock for too long"),
    "57014": _Meaning(
        ThrottledError,
        "somebody cancelled it, or it took longer than statement_timeout; raise statement_timeout= in the state path",
    ),
    "57P": _Meaning(UnavailableError),
    "58030": _Meaning(UnavailableError),
    "XX001": _Meaning(CorruptionError),
    "XX002": _Meaning(CorruptionError),
}
# PgBouncer says 08P01 of this, and also of a server that it lost, perhaps in the middle of a commit.
_REFUSED_AT_THE_START: Final = "unsupported startup parameter"
_POOLED: Final = _Meaning(
    InvalidArgumentError, "if it is a pooler such as PgBouncer, add pgbouncer=true to the state path"
)
# What asyncpg refuses to send, it tells by the same class as a connection that was lost.
_ARGUMENTS: Final = "query arguments"
_LOST: Final = "PostgreSQL cannot be reached, or the connection was lost"
_UNKNOWN: Final = _Meaning(UnavailableError, retryable=False)
_THEIRS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def state_error(error: BaseException, url: str, key: str | None = None) -> StateError:
    """The error of `statepath.errors` that says what the caller can do."""
    if isinstance(error, asyncpg.PostgresError):
        state = str(getattr(error, "sqlstate", None) or "")
        kind, advice, code, retryable = _meaning(state, _message(error))
        what = _LOST if state.startswith("08") else "PostgreSQL could not do it"
        text = f"{what}: {url}: {_message(error)}{f'; {advice}' if advice else ''}"
        return kind(text, key=key, backend=SCHEME, code=code, retryable=retryable)
    if isinstance(error, asyncpg.exceptions.TargetServerAttributeNotMatched):
        return UnavailableError(
            f"none of the hosts of {url} is what target_session_attrs asks for", key=key, backend=SCHEME
        )
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return InvalidArgumentError(f"{url} cannot be used: {error}", key=key, backend=SCHEME)
    if isinstance(error, asyncpg.InterfaceError) and (
        isinstance(error, ValueError) or _ARGUMENTS in str(error)
    ):
        return InvalidArgumentError(f"it cannot be sent to {url}: {error}", key=key, backend=SCHEME)
    if isinstance(error, TimeoutError):
        return UnavailableError(f"PostgreSQL did not answer in time: {url}", key=key, backend=SCHEME)
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):
        return UnavailableError(
            f"the server of {url} has no TLS; check sslmode, or turn ssl on there",
            key=key,
            backend=SCHEME,
            code="tls",
            retryable=False,
        )
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "verify_message", "") or error.reason or error
        return UnavailableError(
            f"the connection to {url} cannot be made safe: {reason}; check sslmode, sslrootcert and the host's name",
            key=key,
            backend=SCHEME,
            code="tls",
            retryable=False,
        )
    return UnavailableError(f"{_LOST}: {url}: {error}", key=key, backend=SCHEME)


def worth_repeating(error: StateError) -> bool:
    """Whether the same call may get another answer soon."""
    return error.retryable and error.code != "disk_full"


def took_too_long(error: StateError) -> bool:
    """Whether the server gave up a statement, and may do so each time."""
    return isinstance(error.__cause__, asyncpg.exceptions.QueryCanceledError)


def takes_no_writes(error: StateError) -> bool:
    """Whether the server, or this session of it, takes none."""
    return isinstance(error.__cause__, asyncpg.exceptions.ReadOnlySQLTransactionError)


def has_no_room_to_announce(error: StateError) -> bool:
    """Whether the server's queue of notifications was full, and so what was to be committed with one was not."""
    cause = error.__cause__
    return (
        isinstance(cause, asyncpg.exceptions.ProgramLimitExceededError)
        and getattr(cause, "server_source_function", None) == "PreCommit_Notify"
    )


def _meaning(state: str, message: str) -> _Meaning:
    if state == "08P01" and message.startswith(_REFUSED_AT_THE_START):
        return _POOLED
    return next((_MEANINGS[state[:length]] for length in (5, 3, 2) if state[:length] in _MEANINGS), _UNKNOWN)


def _message(error: asyncpg.PostgresError) -> str:
    # The detail may quote a row; the first line never does.
    return str(error).partition("\n")[0]


class translated:  # noqa: N801 - read as a statement, and a generator would cost a commit some µs
    """Turns what asyncpg and the system raise inside into `StateError`s."""

    __slots__ = ("_key", "_url")

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url = url
        self._key = key

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, _THEIRS):
            raise state_error(error, self._url, self._key) from error
