"""What Google's own errors mean to a caller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
import msgspec
from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.objectstore import Answer, Asked, Cause, Unreadable, no_container, refusal, unanswered, unsent

_LOG_IN = "set GOOGLE_APPLICATION_CREDENTIALS, or run 'gcloud auth application-default login'"
_LACKING: Final = 404
_PAGE: Final = b"<"
_NO_BUCKET = "noSuchBucket"
_NO_NAME = "invalidBucketName"
_NO_PAYER = "userProjectMissing"
_DAMAGED = "md5Mismatch"

CAUSES: Final = {
    _NO_BUCKET: no_container("bucket", "create it, or correct the state path"),
    _NO_NAME: Cause(InvalidArgumentError, "this is no bucket's name; correct the state path"),
    _NO_PAYER: Cause(InvalidArgumentError, "who asks pays for requests to this bucket; set user_project"),
    _DAMAGED: Cause(UnavailableError, "the content was changed on its way, and nothing was stored"),
    "required": Cause(
        AccessDeniedError, f"no credentials were sent, for none were found; {_LOG_IN}", "no_credentials"
    ),
    "authError": Cause(
        AccessDeniedError,
        "the credentials are not valid, or no longer; renew them, and check this machine's clock",
    ),
    "forbidden": Cause(
        AccessDeniedError,
        "access was refused; the permissions storage.objects.get, create, delete and list on the bucket are needed"
        " (the role Storage Object User has them)",
    ),
    "insufficientPermissions": Cause(
        AccessDeniedError,
        "the credentials were issued for less than to read and write Cloud Storage; widen their scope",
    ),
    "accessNotConfigured": Cause(
        AccessDeniedError, "the Cloud Storage API is off in the credentials' project; enable it"
    ),
    "accountDisabled": Cause(
        AccessDeniedError,
        "the project's billing account is disabled; the owner of the bucket has to settle that",
    ),
    "userProjectAccessDenied": Cause(
        AccessDeniedError,
        "the credentials may not charge user_project; serviceusage.services.use is needed there",
    ),
    "userProjectInvalid": Cause(InvalidArgumentError, "there is no such project; correct user_project"),
    "userProjectAccountProblem": Cause(
        AccessDeniedError, "the billing account of user_project is not in order"
    ),
    "retentionPolicyNotMet": Cause(
        AccessDeniedError, "the bucket's retention policy still keeps the object; choose a bucket without one"
    ),
    "objectUnderActiveHold": Cause(AccessDeniedError, "the object is on hold; release it"),
    "conflict": Cause(ThrottledError, "another request for the object was under way"),
    "rateLimitExceeded": Cause(ThrottledError, "too many requests, or too many changes of this object"),
    "userRateLimitExceeded": Cause(ThrottledError, "too many requests of this account"),
    "quotaExceeded": Cause(ThrottledError, "the project's quota is used up"),
}
"""By the reason in Google's answer (JSON API, "HTTP status and error codes"), or by a name of ours for what it says in
its message only."""

_WITHOUT_REASON: Final = {401: "authError", 403: "forbidden"}
"""Answers to a download are plain text."""

_CLOCK: Final = re.compile(r"\biat\b|\bclock\b|reasonable timeframe", re.IGNORECASE)
_NAME: Final = re.compile(r"([a-z]+_[a-z_]{1,40}):")
"""How google-auth begins with the OAuth name of an error."""


class Refused(Exception):  # noqa: N818 - not yet an error: the driver expects some
    """The service answered instead of doing as it was asked."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(str(answer))
        self.answer = answer

    @property
    def lacks_object(self) -> bool:
        return self.answer.status == _LACKING and self.answer.code != _NO_BUCKET


class _Reason(msgspec.Struct):
    reason: str = ""


class _Told(msgspec.Struct):
    message: str = ""
    errors: list[_Reason] = msgspec.field(default_factory=list)


class _Failure(msgspec.Struct):
    error: _Told


_failure: Final = msgspec.json.Decoder(_Failure)


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Raise the error of `statepath.errors` that says what the caller can do.

    What aiohttp and google-auth raise may quote headers, and with them a token: it is left behind.
    """
    try:
        yield
    except Refused as refused:
        raise refusal(asked, refused.answer, CAUSES) from None
    except (HttpError, NonRetryableError, GoogleAuthError) as error:
        raise unrenewed(asked, error) from None
    except (
        aiohttp.ClientConnectorError,
        aiohttp.ConnectionTimeoutError,
        aiohttp.ClientHttpProxyError,
    ) as error:
        raise unsent(asked, error) from None
    except (Unreadable, msgspec.MsgspecError, TimeoutError, aiohttp.ClientError, OSError) as error:
        raise unanswered(asked, error) from None


def answer_of(status: int, body: bytes, *, of_object: bool) -> Answer:
    """The status and the reason of an answer.

    Parameters:
        of_object: whether the request named an object that may be missing; otherwise only the bucket can be.

    Raises:
        Unreadable: a page for people says that it was not found: something between has said it.
    """
    try:
        told = _failure.decode(body).error
    except msgspec.MsgspecError:
        told = _Told(body.decode(errors="replace"))
    if status == _LACKING and body.lstrip().startswith(_PAGE):
        raise Unreadable
    reason = told.errors[0].reason if told.errors else ""
    if status == _LACKING and (not of_object or "bucket does not exist" in told.message):
        reason = _NO_BUCKET
    elif status == 400 and "nvalid bucket name" in told.message:
        reason = _NO_NAME
    elif status == 400 and "no user project" in told.message:
        reason = _NO_PAYER
    elif status == 400 and "MD5 hash" in told.message:
        reason = _DAMAGED
    return Answer(status, reason or _WITHOUT_REASON.get(status, ""))


def unrenewed(asked: Asked, error: Exception) -> StateError:
    """The error where there was no access token to be had. gcsfs wraps what google-auth says."""
    cause = error.__cause__ if isinstance(error, HttpError | NonRetryableError) else error
    if isinstance(cause, TransportError) or (isinstance(cause, GoogleAuthError) and cause.retryable):
        return unsent(asked, cause)
    told = str(cause) if isinstance(cause, RefreshError) else ""
    name = _NAME.search(told)
    if _CLOCK.search(told):
        return _denied(
            asked, "this machine's clock differs too much from Google's; set the clock", "clock_skewed"
        )
    said = f" ({name[1]})" if name else ""
    return _denied(
        asked,
        f"Google issued no access token for the credentials{said}; renew them, and check this machine's clock",
    )


def no_credentials(asked: Asked, error: Exception) -> StateError:
    """The credentials that are configured cannot be used."""
    return _denied(
        asked,
        f"no usable Google credentials were found ({type(error).__name__}); {_LOG_IN}",
        "no_credentials",
    )


def not_in_the_clear(asked: Asked) -> StateError:
    """There are credentials, and an endpoint that they must not be sent to."""
    return _denied(
        asked,
        "credentials are not sent over http, but to this machine itself; set endpoint_url to an https address, or"
        " anonymous to true",
        "no_credentials",
    )


def _denied(asked: Asked, cause: str, code: str | None = None) -> AccessDeniedError:
    return AccessDeniedError(
        f"{asked.scheme}://{asked.container}: {cause}", key=asked.name, backend=asked.scheme, code=code
    )
