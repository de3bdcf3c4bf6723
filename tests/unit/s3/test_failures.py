"""What S3 answers, and what the caller is told."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidRegionError,
    LoginRefreshRequired,
    NoRegionError,
    ProxyConnectionError,
    SSLError,
    SSOTokenLoadError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
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
    UnsupportedError,
)
from statepath.objectstore import Asked, Unreadable
from statepath_s3.failures import lacks_object, translated

MATCH = IfMatch(ETag("x"))

CANARY = ConnectionKey("canary", 1, False, True, None, None, None)
"""The address that no connection leads to."""


def told(error: BaseException, when=ALWAYS) -> BaseException:
    with pytest.raises(Exception) as caught, translated(Asked("s3", "bucket", "prefix/key", when)):  # noqa: PT011
        raise error
    return caught.value


def answer(status: int, code: str = "", operation: str = "PutObject", **headers: str) -> ClientError:
    details = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return ClientError(details, operation)  # type: ignore[arg-type]  # what of it is looked at


@pytest.mark.parametrize(
    ("status", "code", "when", "kind"),
    [
        (404, "NoSuchKey", ALWAYS, NotFoundError),
        (404, "NoSuchBucket", ALWAYS, ConfigurationError),
        (412, "PreconditionFailed", IF_ABSENT, AlreadyExistsError),
        (412, "PreconditionFailed", MATCH, ConflictError),
        (409, "ConditionalRequestConflict", MATCH, ThrottledError),
        (409, "Whatever", ALWAYS, UnavailableError),
        (403, "AccessDenied", ALWAYS, AccessDeniedError),
        (403, "RequestTimeTooSkewed", ALWAYS, AccessDeniedError),
        (403, "", ALWAYS, AccessDeniedError),
        (429, "SlowDown", ALWAYS, ThrottledError),
        (503, "SlowDown", IF_ABSENT, UnavailableError),
        (500, "InternalError", ALWAYS, UnavailableError),
        (301, "PermanentRedirect", ALWAYS, InvalidArgumentError),
        (307, "TemporaryRedirect", IF_ABSENT, ThrottledError),
        (400, "MalformedXML", ALWAYS, InvalidArgumentError),
        (400, "RequestTimeout", IF_ABSENT, UnavailableError),
        (400, "BadDigest", IF_ABSENT, UnavailableError),
        (400, "IncompleteBody", IF_ABSENT, UnavailableError),
        (400, "XAmzContentSHA256Mismatch", IF_ABSENT, UnavailableError),
        (400, "TokenRefreshRequired", ALWAYS, AccessDeniedError),
        (403, "InvalidObjectState", ALWAYS, UnavailableError),
        (403, "QuotaExceeded", IF_ABSENT, UnavailableError),
        (400, "XMinioAdminBucketQuotaExceeded", IF_ABSENT, UnavailableError),
        (400, "ThrottlingException", IF_ABSENT, ThrottledError),
        (400, "KMS.ThrottlingException", IF_ABSENT, ThrottledError),
        (400, "KMS.DisabledException", IF_ABSENT, AccessDeniedError),
        (409, "Whatever", IF_ABSENT, UnavailableError),
        (501, "NotImplemented", IF_ABSENT, UnsupportedError),
        (400, "NotImplemented", IF_ABSENT, UnsupportedError),
    ],
)
def test_an_answer_is_classified_by_its_status_and_its_code(status, code, when, kind):
    error = told(answer(status, code), when)
    assert type(error) is kind
    assert "s3://bucket/prefix/key" in str(error)


def test_what_something_between_does_not_find_is_no_missing_object():
    for operation in ("GetObject", "PutObject", "ListObjectsV2"):
        assert type(told(answer(404, "404", operation))) is UnavailableError
    assert type(told(answer(404, "404", "HeadObject"))) is NotFoundError  # which has no body to say it in


def test_a_service_that_names_the_request_says_what_is_missing_without_a_body():
    for operation in ("GetObject", "DeleteObject", "CopyObject"):
        missing = answer(404, "404", operation, **{"x-amz-request-id": "1"})
        assert type(told(missing)) is NotFoundError
        assert lacks_object(missing)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "QuotaExceeded"), (400, "XMinioAdminBucketQuotaExceeded")], ids=str
)
def test_a_quota_that_is_used_up_is_a_full_disk(status, code):
    assert told(answer(status, code), IF_ABSENT).code == "disk_full"


def test_a_clock_that_is_off_has_a_code_of_its_own():
    error = told(answer(403, "RequestTimeTooSkewed"))
    assert error.code == "clock_skewed"
    assert "set the clock" in str(error)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (NoRegionError(), InvalidArgumentError, "AWS_REGION"),
        (InvalidRegionError(region_name="-"), InvalidArgumentError, "AWS_REGION"),
        (SSOTokenLoadError(error_msg="canary"), AccessDeniedError, "profile"),
        (UnauthorizedSSOTokenError(), AccessDeniedError, "profile"),
        (LoginRefreshRequired(), AccessDeniedError, "profile"),
        (CredentialRetrievalError(provider="p", error_msg="canary"), UnavailableError, "profile"),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else "",
)
def test_what_never_left_this_machine_is_told_with_what_to_set(error, kind, said):
    error = told(error)
    assert type(error) is kind
    assert said in str(error)
    assert "s3://bucket" in str(error)
    assert "network" not in str(error)
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url="http://canary", error=aiohttp.ClientOSError("canary")),
        aiohttp.ClientPayloadError("canary"),
        ConnectionResetError("canary"),
        TimeoutError(),
        ResponseParserError("canary"),
        Unreadable("canary"),
    ],
)
def test_without_an_answer_it_is_open_what_happened(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "unavailable")
    assert "canary" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(
            endpoint_url="http://canary", error=aiohttp.ClientConnectorError(CANARY, OSError("canary"))
        ),
        ConnectTimeoutError(endpoint_url="http://canary"),
        ProxyConnectionError(proxy_url="http://canary", error="canary"),
        SSLError(endpoint_url="https://canary", error="canary"),
        CredentialRetrievalError(provider="canary", error_msg="canary"),
        answer(400, "Throttling", "AssumeRoleWithWebIdentity"),
    ],
)
def test_without_a_connection_or_credentials_nothing_was_sent(error):
    error = told(error, IF_ABSENT)
    assert (type(error), error.code) == (UnavailableError, "not_sent")
    assert "canary" not in str(error)
