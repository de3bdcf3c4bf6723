"""What Azure answers, and what the caller is told."""

from __future__ import annotations

import time
import traceback
from email.utils import formatdate

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from azure.core.exceptions import (
    ClientAuthenticationError,
    DecodeError,
    DeserializationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
)
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
from statepath.objectstore import Asked, Unreadable
from statepath_azure.failures import NotIssued, translated

MATCH = IfMatch(ETag("x"))


class Response:
    """What of an answer is looked at."""

    def __init__(self, status, code, date):
        self.status_code = status
        self.reason = "canary"
        self.headers = {"x-ms-error-code": code, "Date": date}

    def text(self):
        return "canary"


CANARY = ConnectionKey("canary", 1, False, True, None, None, None)
"""The address that no connection leads to."""


def told(error: BaseException, when=ALWAYS) -> BaseException:
    with pytest.raises(Exception) as caught, translated(Asked("az", "container", "prefix/key", when)):  # noqa: PT011
        raise error
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    return caught.value


def answer(status: int, code: str = "", date: str = "") -> HttpResponseError:
    return HttpResponseError("canary", response=Response(status, code, date))


@pytest.mark.parametrize(
    ("status", "code", "when", "kind"),
    [
        (404, "BlobNotFound", ALWAYS, NotFoundError),
        (404, "", ALWAYS, NotFoundError),
        (404, "ContainerNotFound", ALWAYS, ConfigurationError),
        (409, "ContainerBeingDeleted", IF_ABSENT, ConfigurationError),
        (409, "BlobAlreadyExists", IF_ABSENT, AlreadyExistsError),
        (412, "ConditionNotMet", MATCH, ConflictError),
        (412, "LeaseIdMissing", MATCH, AccessDeniedError),
        (409, "BlobImmutableDueToPolicy", MATCH, AccessDeniedError),
        (409, "SnapshotsPresent", MATCH, AccessDeniedError),
        (409, "BlobArchived", ALWAYS, UnavailableError),
        (409, "PendingCopyOperation", MATCH, ThrottledError),
        (409, "InvalidBlobType", MATCH, InvalidArgumentError),
        (409, "Whatever", ALWAYS, UnavailableError),
        (409, "ResourceTypeMismatch", IF_ABSENT, UnavailableError),
        (403, "AuthenticationFailed", ALWAYS, AccessDeniedError),
        (403, "AuthorizationPermissionMismatch", ALWAYS, AccessDeniedError),
        (401, "", ALWAYS, AccessDeniedError),
        (429, "TooManyRequests", ALWAYS, ThrottledError),
        (503, "ServerBusy", IF_ABSENT, UnavailableError),
        (500, "OperationTimedOut", IF_ABSENT, UnavailableError),
        (400, "Md5Mismatch", IF_ABSENT, UnavailableError),
        (400, "InvalidHeaderValue", ALWAYS, InvalidArgumentError),
    ],
)
def test_an_answer_is_classified_by_its_status_and_its_code(status, code, when, kind):
    error = told(answer(status, code), when)
    assert type(error) is kind
    assert "az://container/prefix/key" in str(error)


@pytest.mark.parametrize(
    ("seconds", "code"), [(-1000, "clock_skewed"), (1000, "clock_skewed"), (600, "access_denied")]
)
def test_a_clock_that_is_off_has_a_code_of_its_own(seconds, code):
    date = formatdate(time.time() + seconds, usegmt=True)
    error = told(answer(403, "AuthenticationFailed", date))
    assert error.code == code
    assert told(answer(404, "ContainerNotFound", date)).code == "no_container"


@pytest.mark.parametrize(
    "error",
    [
        ServiceRequestError("canary", error=aiohttp.ClientOSError("canary")),
        ServiceResponseError("canary"),
        IncompleteReadError("canary"),
        HttpResponseError("canary"),
        DecodeError("canary", response=Response(200, "", "")),
        DeserializationError("canary"),
        Unreadable("canary"),
        aiohttp.ClientPayloadError("canary"),
        ConnectionResetError("canary"),
        TimeoutError(),
    ],
)
def test_without_an_answer_it_is_open_what_happened(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "unavailable")


@pytest.mark.parametrize(
    "error",
    [
        ServiceRequestError("canary", error=aiohttp.ClientConnectorError(CANARY, OSError("canary"))),
        ServiceRequestTimeoutError("canary"),
    ],
)
def test_without_a_connection_nothing_was_sent(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "not_sent")
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    ("error", "before", "code"),
    [
        (ClientAuthenticationError("canary"), False, "no_credentials"),
        (ClientAuthenticationError("canary"), True, "not_sent"),
        (ClientAuthenticationError("canary", response=Response(400, "", "")), True, "no_credentials"),
        (ClientAuthenticationError("canary", response=Response(401, "", "")), True, "no_credentials"),
        (ClientAuthenticationError("canary", response=Response(404, "", "")), False, "not_sent"),
        (ClientAuthenticationError("canary", response=Response(503, "", "")), False, "not_sent"),
        (ServiceRequestError("canary"), False, "not_sent"),
        (ServiceResponseError("canary"), True, "not_sent"),
    ],
)
def test_without_a_token_nothing_is_sent(error, before, code):
    error = told(NotIssued(error, before=before), IF_ABSENT)
    assert type(error) is (AccessDeniedError if code == "no_credentials" else UnavailableError)
    assert error.code == code


def test_without_anything_to_sign_with_nothing_is_sent():
    assert told(ClientAuthenticationError("canary")).code == "no_credentials"
