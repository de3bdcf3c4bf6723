"""The errors of statepath: one root, `StateError`, and a class for each thing a caller can act on.

Every error has a stable `code` for programs, a message that says what happened, why and what to do next, and
survives pickling, so that it can cross a process boundary whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class StateError(Exception):
    """Anything that statepath raises on purpose.

    Attributes:
        code: a stable, lower-case name of the cause, for programs and metrics.
        key: the document (`tasks/task_1`) or stored object concerned, where there is one.
        backend: the scheme of the backend concerned, where there is one.
        retryable: whether the same call may succeed later without any change by the caller.
        unwritten: of several objects that were to be written, the keys of those that were not; empty where that is not
            told.
    """

    default_code: ClassVar[str] = "error"
    default_retryable: ClassVar[bool] = False
    unwritten: tuple[str, ...] = ()

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        backend: str | None = None,
        code: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.key = key
        self.backend = backend
        self.code = self.default_code if code is None else code
        self.retryable = self.default_retryable if retryable is None else retryable

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[StateError], args: tuple[Any, ...], attributes: dict[str, Any]) -> StateError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(attributes)
    return error


class NotFoundError(StateError):
    """The document or object does not exist."""

    default_code = "not_found"


class AlreadyExistsError(StateError):
    """Something exists where the caller asked to create it."""

    default_code = "already_exists"


class ConflictError(StateError):
    """A checked change met another version than it was based on; nothing of its transaction was applied.

    Attributes:
        base: the version that the change was based on (0: "must not exist"), and `ancestor` the document of that
            version, where a merge needed it.
        current: the version that is stored now (0: it does not exist).
        theirs: the stored document, or `None`.
        ours: the refused document, or `None` for a deletion.
    """

    default_code = "conflict"

    def __init__(
        self,
        message: str,
        *,
        key: str | None = None,
        backend: str | None = None,
        base: int | None = None,
        current: int | None = None,
        theirs: Any = None,
        ours: Any = None,
        ancestor: Any = None,
    ) -> None:
        super().__init__(message, key=key, backend=backend)
        self.base = base
        self.current = current
        self.theirs = theirs
        self.ours = ours
        self.ancestor = ancestor


class InvalidArgumentError(StateError, ValueError):
    """An id, a document, a filter, a URL or a setting that cannot be used; the message names the cause."""

    default_code = "invalid_argument"


class UnsupportedError(StateError):
    """The backend, the handle or this version cannot do that. `code` says which: `newer_format` and `newer_schema` (a
    newer program wrote the store), `older_schema` (a migration was taken back), `migration_pending`, `other_schema` (a
    migration lies between), `not_upgraded` (a directory of the original server is no store yet), `not_loaded` (the
    documents are not in memory), `no_documents` and `needs_recovery` (they have to be), `in_event_loop` (a blocking
    call where one runs), `other_loop` (the store was opened in another one), `encrypted` and `not_encrypted`, and of a
    storage `no_locks`, `conditions_ignored` and `unsorted`."""

    default_code = "unsupported"


class MigrationError(StateError):
    """A migration function failed; the message names it and the document. Nothing was changed."""

    default_code = "migration_failed"


class AccessDeniedError(StateError):
    """The storage refused the credentials or the file permissions."""

    default_code = "access_denied"


class ThrottledError(StateError):
    """The storage refused it for now, as where it is asked for too much. The operation had no effect."""

    default_code = "throttled"
    default_retryable = True


class UnavailableError(StateError):
    """The storage did not answer, or could not do it now (`code` `disk_full`: there is no space; `not_sent`: no
    connection to it came about, or no credentials, or a look that has to come first got no answer;
    `service_failed`: a service answered that it had failed).

    For a conditional write the outcome is open unless `code` says otherwise: it may have been applied.
    """

    default_code = "unavailable"
    default_retryable = True


class OutcomeUnknownError(StateError):
    """A commit may or may not be durable, and it could not be found out. The handle takes no further commits;
    open the store again to see what holds."""

    default_code = "outcome_unknown"


class CorruptionError(StateError):
    """Stored bytes are not what was written. `key` names the object; `statepath verify` looks at all of them."""

    default_code = "corruption"


class DivergedError(StateError):
    """Two histories of one store exist: a cursor, copy or handle does not belong to the log it was given. Open the
    store again, read its state anew, and watch from there."""

    default_code = "diverged"


class HistoryTrimmedError(StateError):
    """The log no longer reaches back that far.

    Attributes:
        floor: the lowest seq that can still be asked for.
    """

    default_code = "history_trimmed"

    def __init__(self, message: str, *, floor: int = 0, **context: Any) -> None:
        super().__init__(message, **context)
        self.floor = floor


class StoreLockedError(StateError):
    """Another process has the store open for writing.

    Attributes:
        holder: what the holder wrote down of itself: `pid`, `host`, `started`, `program`.
    """

    default_code = "store_locked"
    default_retryable = True

    def __init__(self, message: str, *, holder: dict[str, Any] | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.holder = holder or {}


class LeaseHeldError(StateError):
    """Somebody else holds the lease, or has claimed the task.

    Attributes:
        holder: what the holder wrote down of itself: `pid`, `host`, `since`, `program`.
    """

    default_code = "lease_held"
    default_retryable = True

    def __init__(self, message: str, *, holder: dict[str, Any] | None = None, **context: Any) -> None:
        super().__init__(message, **context)
        self.holder = holder or {}


class LeaseLostError(StateError):
    """The change was made under a lease that somebody else has taken since; nothing was changed."""

    default_code = "lease_lost"


class ReadOnlyError(StateError):
    """The handle was opened with `readonly=True`, so it changes nothing."""

    default_code = "read_only"


class ClosedError(StateError):
    """The handle is closed, or belongs to the process that this one was forked from."""

    default_code = "closed"


class ConfigurationError(StateError, ValueError):
    """The state path or a setting does not lead to a backend."""

    default_code = "configuration"


class UnknownSchemeError(ConfigurationError):
    """No installed backend knows the scheme. `known` lists the schemes that are installed."""

    default_code = "unknown_scheme"

    def __init__(self, message: str, *, known: tuple[str, ...] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.known = known


class BackendNotInstalledError(ConfigurationError):
    """The scheme is known, its package is not installed. `install` is the command that installs it."""

    default_code = "backend_not_installed"

    def __init__(self, message: str, *, install: str = "", **context: Any) -> None:
        super().__init__(message, **context)
        self.install = install


class DuplicateSchemeError(ConfigurationError):
    """Two installed distributions claim one scheme. `distributions` names both."""

    default_code = "duplicate_scheme"

    def __init__(self, message: str, *, distributions: tuple[str, ...] = (), **context: Any) -> None:
        super().__init__(message, **context)
        self.distributions = distributions


class HeadMoved(Exception):  # noqa: N818 - a signal between a commit log and the engine, never seen by callers
    """Another writer's commit took the place in the log. The engine reads it and tries the next one.

    Attributes:
        commits: all that came behind the place that was tried, as far as the log ended when it was lost; empty: that
            was not looked at.
        kept: the next place is kept for who lost, for a moment, or others are asked for one: to wait would be wrong.
    """

    def __init__(self, commits: Sequence[Any] = (), *, kept: bool = False) -> None:
        super().__init__()
        self.commits = tuple(commits)
        self.kept = kept
