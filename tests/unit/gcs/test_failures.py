"""What Google answers, and what the caller is told."""

from __future__ import annotations

import json
import traceback

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from gcsfs.retry import HttpError
from google.auth.exceptions import RefreshError, TransportError
from statepath.backend import ALWAYS, IF_ABSENT, ETag, IfMatch
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from statepath.objectstore import Asked
from statepath_gcs.failures import Refused, Unreadable, answer_of, translated

MATCH = IfMatch(ETag("1795603489481719"))

CANARY = ConnectionKey("canary", 1, False, True, None, None, None)
"""The address that no connection leads to."""


def told(error: BaseException, when=ALWAYS) -> BaseException:
    with pytest.raises(Exception) as caught, translated(Asked("gs", "bucket", "prefix/key", when)):  # noqa: PT011
        raise error
    return caught.value


def refused(status: int, reason: str = "", message: str = "", *, of_object: bool = True) -> Refused:
    errors = [{"domain": "global", "reason": reason, "message": message}]
    body = json.dumps({"error": {"code": status, "message": message, "errors": errors}}).encode()
    return Refused(answer_of(status, body, of_object=of_object))


@pytest.mark.parametrize(
    ("status", "reason", "when", "kind"),
    [
        (404, "notFound", ALWAYS, NotFoundError),
        (412, "conditionNotMet", IF_ABSENT, AlreadyExistsError),
        (412, "conditionNotMet", MATCH, ConflictError),
        (409, "conflict", MATCH, ThrottledError),
        (409, "conflict", IF_ABSENT, ThrottledError),
        (401, "authError", ALWAYS, AccessDeniedError),
        (401, "required", ALWAYS, AccessDeniedError),
        (403, "forbidden", ALWAYS, AccessDeniedError),
        (403, "insufficientPermissions", ALWAYS, AccessDeniedError),
        (403, "accountDisabled", ALWAYS, AccessDeniedError),
        (403, "retentionPolicyNotMet", IF_ABSENT, AccessDeniedError),
        (403, "vpcServiceControls", ALWAYS, AccessDeniedError),
        (403, "rateLimitExceeded", ALWAYS, ThrottledError),
        (429, "rateLimitExceeded", IF_ABSENT, ThrottledError),
        (429, "", ALWAYS, ThrottledError),
        (408, "uploadBrokenConnection", IF_ABSENT, UnavailableError),
        (500, "internalError", ALWAYS, UnavailableError),
        (503, "backendError", IF_ABSENT, UnavailableError),
        (400, "invalid", ALWAYS, InvalidArgumentError),
        (301, "", ALWAYS, InvalidArgumentError),
    ],
)
def test_an_answer_is_classified_by_its_status_and_its_reason(status, reason, when, kind):
    error = told(refused(status, reason), when)
    assert type(error) is kind
    assert "gs://bucket/prefix/key" in str(error)


@pytest.mark.parametrize(
    "missing",
    [
        refused(404, "notFound", "The specified bucket does not exist."),
        refused(404, "notFound", "Not Found", of_object=False),
        Refused(answer_of(404, b"The specified bucket does not exist.", of_object=True)),
    ],
)
def test_a_missing_bucket_is_not_a_missing_object(missing):
    error = told(missing)
    assert type(error) is ConfigurationError
    assert error.code == "no_container"


@pytest.mark.parametrize("of_object", [True, False])
def test_what_something_between_does_not_find_is_neither(of_object):
    with pytest.raises(Unreadable):
        answer_of(404, b"\n<html><title>404 Not Found</title></html>", of_object=of_object)


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (
            400,
            "Bucket is a requester pays bucket but no user project provided.",
            InvalidArgumentError,
            "user_project",
        ),
        (
            400,
            'Provided MD5 hash "x" doesn\'t match calculated MD5 hash "y".',
            UnavailableError,
            "nothing was stored",
        ),
        (400, "Invalid bucket name: 'A'", InvalidArgumentError, "no bucket's name"),
    ],
)
def test_what_google_says_in_its_message_only_is_told(status, message, kind, said):
    error = told(refused(status, "required", message))
    assert type(error) is kind
    assert said in str(error)


def test_an_answer_in_plain_text_has_the_cause_of_its_status():
    for status, said in ((401, "renew"), (403, "storage.objects.get")):
        error = told(
            Refused(answer_of(status, b"canary does not have storage.objects.get access", of_object=True))
        )
        assert type(error) is AccessDeniedError
        assert said in str(error)
        assert "canary" not in str(error)


def test_missing_credentials_have_a_code_of_their_own():
    error = told(refused(401, "required", "Anonymous caller does not have storage.objects.list access"))
    assert error.code == "no_credentials"
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(error)


def wrapped(cause: Exception) -> HttpError:
    """As gcsfs passes on what google-auth says of a token that could not be renewed."""
    error = HttpError({"code": 401, "message": "Invalid Credentials"})
    error.__cause__ = cause
    return error


def test_credentials_that_google_does_not_renew_are_told_by_its_word_for_it():
    cause = RefreshError(
        "invalid_grant: Account canary", {"error": "invalid_grant", "refresh_token": "canary"}
    )
    error = told(wrapped(cause))
    assert type(error) is AccessDeniedError
    assert "(invalid_grant)" in str(error)
    assert "canary" not in "".join(traceback.format_exception(error))


def test_a_clock_that_is_off_has_a_code_of_its_own():
    said = "Invalid JWT: Token must be a short-lived token and in a reasonable timeframe. Check your iat and exp values"
    error = told(wrapped(RefreshError(f"invalid_grant: {said}", {"error_description": said})))
    assert error.code == "clock_skewed"
    assert "set the clock" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientPayloadError("canary"),
        ConnectionResetError("canary"),
        TimeoutError(),
        Unreadable(),
    ],
)
def test_without_an_answer_it_is_open_what_happened(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "unavailable")
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientConnectorError(CANARY, OSError("canary")),
        aiohttp.ConnectionTimeoutError("canary"),
        TransportError("canary"),
        wrapped(RefreshError("canary", retryable=True)),
    ],
)
def test_without_a_connection_or_a_token_nothing_was_sent(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "not_sent")
    assert "canary" not in str(error)
