"""From the status of an answer to the error that a caller can act on.

Classified by the status alone, and by the service's own code where one status has several causes: the classes of the
client libraries' exceptions differ from release to release and from service to service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from statepath.backend import ALWAYS, Always, IfAbsent, When
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service answered instead of doing as it was asked.

    Attributes:
        status: the HTTP status.
        code: the service's own name for the cause, where it gave one.
    """

    status: int
    code: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.code}".rstrip()


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: an object of a container, under a condition."""

    scheme: str
    container: str
    name: str
    when: When = ALWAYS

    def __str__(self) -> str:
        return f"{self.scheme}://{self.container}/{self.name}"


class Unreadable(Exception):  # noqa: N818 - not yet an error: a driver makes it one by `unanswered`
    """What answered is not the service, or its answer was changed on the way."""


@dataclass(frozen=True, slots=True)
class Cause:
    """What a service's own code means: the class of the error, and what to do about it."""

    kind: type[StateError]
    advice: str
    error_code: str | None = None


_ELSEWHERE_FOR_NOW: Final = (302, 303, 307)
_BY_PROXY: Final = 407
_UNMET: Final = 412
_THROTTLED: Final = 429
_LACKING: Final = 404
_NOT_IMPLEMENTED: Final = 501
_FAILED: Final = "service_failed"


def refusal(asked: Asked, answer: Answer, causes: Mapping[str, Cause]) -> StateError:
    """The error for an answer. `causes` is the service's own table, by code; it is looked at first.

    A refusal with 5xx of a write leaves open whether it was applied: a gateway may have answered for a server that did
    it. 429 says that nothing was done. 409 has so many causes that it says of no condition that it did not hold: where
    a service means that, its table does. `service_failed` tells what answered from what could not be reached.
    """
    known = causes.get(answer.code)
    if known is not None:
        code = known.error_code or (_FAILED if known.kind is UnavailableError else None)
        return _error(known.kind, f"{asked}: {known.advice} (the answer was {answer})", asked, code)
    if answer.status in _ELSEWHERE_FOR_NOW:
        message = (
            f"{asked}: something between answered that it is elsewhere for now (the answer was {answer}); check the"
            " network and the endpoint"
        )
        return _error(UnavailableError, message, asked, _FAILED)
    if answer.status == _LACKING:
        return _error(NotFoundError, f"there is no object {asked}", asked)
    if answer.status == _UNMET and not isinstance(asked.when, Always):
        return unmet(asked)
    if answer.status in (401, 403):
        return _error(
            AccessDeniedError,
            f"{asked}: access was refused (the answer was {answer}); check the credentials and their permissions",
            asked,
        )
    if answer.status == _BY_PROXY:
        message = (
            f"{asked}: the proxy wants a password (the answer was {answer}); write it into the proxy's URL"
        )
        return _error(UnavailableError, message, asked, "not_sent")
    if answer.status == _THROTTLED:
        return _error(ThrottledError, f"{asked}: too many requests (the answer was {answer})", asked)
    if answer.status == _NOT_IMPLEMENTED:
        message = f"{asked}: the service cannot do what was asked for (the answer was {answer})"
        return _error(UnsupportedError, message, asked)
    if answer.status >= 500 or answer.status in (408, 409):
        message = f"{asked}: the service failed (the answer was {answer})"
        return _error(UnavailableError, message, asked, _FAILED)
    return _error(InvalidArgumentError, f"{asked}: the request was refused (the answer was {answer})", asked)


def unmet(asked: Asked) -> StateError:
    """The condition did not hold."""
    if isinstance(asked.when, IfAbsent):
        return _error(AlreadyExistsError, f"{asked} exists already", asked)
    return _error(ConflictError, f"{asked} is not the version that was asked for", asked)


def unanswered(asked: Asked, error: BaseException) -> StateError:
    """The error where no answer came. It names the kind of the failure: its text may quote what was sent."""
    return _error(
        UnavailableError,
        f"{asked}: no answer from the service ({type(error).__name__}); check the network and the endpoint",
        asked,
    )


def unsent(asked: Asked, error: BaseException) -> StateError:
    """The error where nothing was sent, since no connection came about: so nothing was done."""
    return _error(
        UnavailableError,
        f"{asked}: the service cannot be reached ({type(error).__name__}); check the network, the endpoint, and the"
        " proxy if one is set",
        asked,
        "not_sent",
    )


def no_container(called: str, create: str) -> Cause:
    """The container does not exist."""
    return Cause(ConfigurationError, f"the {called} does not exist; {create}", "no_container")


def _error(kind: type[StateError], message: str, asked: Asked, code: str | None = None) -> StateError:
    if issubclass(kind, ConflictError):
        return kind(message, key=asked.name, backend=asked.scheme)
    return kind(message, key=asked.name, backend=asked.scheme, code=code)
