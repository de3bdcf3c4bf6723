"""What S3's own errors mean to a caller.

One that tells of no answer is not chained: beneath it may stand the URL of a proxy, and its password.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
from botocore import exceptions
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from statepath.errors import (
    AccessDeniedError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from statepath.objectstore import Answer, Asked, Cause, Unreadable, no_container, refusal, unanswered, unsent

_RENEW = "renew the credentials"
_REGION = "set region, or AWS_REGION, to the bucket's region"
_KEY = "the key that the bucket is encrypted with cannot be used; enable it, or set another one"
_BUSY = "too many requests of the account at once, be they to S3 or to the service that keeps its keys"
_FULL = "the bucket's or the user's quota is used up; raise it, or make room"
_DAMAGED = "the content was cut or changed on its way, and nothing was stored"
_WHOSE = "the service does not know the access key; check AWS_ACCESS_KEY_ID or the profile"

_LACKING: Final = 404
_NO_BUCKET: Final = "NoSuchBucket"
_WITHOUT_BODY: Final = "HeadObject"
_OF_S3: Final = "x-amz-request-id"

_LoginError: Final = getattr(exceptions, "LoginError", SSOError)
"""What newer releases say of `aws login`."""

_ISSUE: Final = frozenset({"AssumeRole", "AssumeRoleWithWebIdentity", "GetRoleCredentials"})
"""What the SDK asks of other services before it asks S3."""

CAUSES: Final = {
    _NO_BUCKET: no_container("bucket", "create it, or correct the state path"),
    "InvalidBucketName": Cause(InvalidArgumentError, "this is no bucket's name; correct the state path"),
    "PermanentRedirect": Cause(InvalidArgumentError, "the bucket is in another region; set region"),
    "AuthorizationHeaderMalformed": Cause(
        InvalidArgumentError, "the bucket is in another region; set region"
    ),
    "TemporaryRedirect": Cause(ThrottledError, "the bucket is new, and its region not yet known everywhere"),
    "IllegalLocationConstraintException": Cause(
        InvalidArgumentError, "the bucket is in another region; set region"
    ),
    "AccessDenied": Cause(
        AccessDeniedError,
        "access was refused; the permissions GetObject, PutObject and DeleteObject on the objects and ListBucket on"
        " the bucket are needed (without ListBucket S3 refuses to say that an object is missing), and requester_pays"
        " where the bucket's owner does not pay",
    ),
    "InvalidAccessKeyId": Cause(AccessDeniedError, _WHOSE),
    "SignatureDoesNotMatch": Cause(
        AccessDeniedError, "the signature does not match; check the secret access key"
    ),
    "ExpiredToken": Cause(AccessDeniedError, f"the session token has expired; {_RENEW}"),
    "InvalidToken": Cause(AccessDeniedError, f"the session token is not valid; {_RENEW}"),
    "TokenRefreshRequired": Cause(AccessDeniedError, f"the session token has to be refreshed; {_RENEW}"),
    "RequestTimeTooSkewed": Cause(
        AccessDeniedError,
        "this machine's clock differs too much from the service's; set the clock",
        "clock_skewed",
    ),
    "InvalidObjectState": Cause(
        UnavailableError,
        "the object is in an archive class; restore it, and take the state path out of the lifecycle rules",
        "archived",
    ),
    "QuotaExceeded": Cause(UnavailableError, _FULL, "disk_full"),
    "XMinioAdminBucketQuotaExceeded": Cause(UnavailableError, _FULL, "disk_full"),
    "KMS.DisabledException": Cause(AccessDeniedError, _KEY),
    "KMS.KMSInvalidStateException": Cause(AccessDeniedError, _KEY),
    "KMS.NotFoundException": Cause(AccessDeniedError, _KEY),
    "BadDigest": Cause(UnavailableError, _DAMAGED),
    "IncompleteBody": Cause(UnavailableError, _DAMAGED),
    "XAmzContentSHA256Mismatch": Cause(UnavailableError, _DAMAGED),
    "RequestTimeout": Cause(UnavailableError, "the request did not arrive in time, and nothing was done"),
    "NotImplemented": Cause(UnsupportedError, "the service cannot do what was asked for"),
    "ConditionalRequestConflict": Cause(ThrottledError, "another request for the object was under way"),
    "OperationAborted": Cause(ThrottledError, "another operation on the bucket was under way"),
    "Throttling": Cause(ThrottledError, _BUSY),
    "ThrottlingException": Cause(ThrottledError, _BUSY),
    "KMS.ThrottlingException": Cause(ThrottledError, _BUSY),
    "RequestThrottledException": Cause(ThrottledError, _BUSY),
}
"""By the code in S3's answer (Amazon S3 API reference, "Error responses"), or in MinIO's."""


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Raise the error of `statepath.errors` that says what the caller can do."""
    try:
        yield
    except ClientError as error:
        if error.operation_name in _ISSUE:
            raise _not_issued(asked) from error
        if _is_of_another(error):
            raise unanswered(asked, error) from error
        raise refusal(asked, answer_of(error), CAUSES) from error
    except (
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
        SSOError,
        TokenRetrievalError,
        _LoginError,
    ) as error:
        raise no_credentials(asked, error) from error
    except CredentialRetrievalError as error:
        raise _not_issued(asked) from error
    except (NoRegionError, InvalidRegionError) as error:
        raise _of_bucket(InvalidArgumentError, asked, f"the region is missing or none; {_REGION}") from error
    except ParamValidationError as error:
        raise _of_bucket(InvalidArgumentError, asked, "this is no bucket's name") from error
    except (
        Unreadable,
        ResponseParserError,
        TimeoutError,
        HTTPClientError,
        aiohttp.ClientError,
        OSError,
        BotoCoreError,
    ) as error:
        raise (unsent if _never_connected(error) else unanswered)(asked, error) from None


def answer_of(error: ClientError) -> Answer:
    """The status and the code of an answer; a HEAD has no body, and so no code but its status."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    return Answer(status, "" if code.isdigit() else code)


def lacks_object(error: ClientError) -> bool:
    """Whether the answer says that there is no such object."""
    answer = answer_of(error)
    return answer.status == _LACKING and answer.code != _NO_BUCKET and not _is_of_another(error)


def _is_of_another(error: ClientError) -> bool:
    """Whether something between found nothing: S3 says what is missing, but in the answer to a HEAD, and a service that
    does not say it at least names the request."""
    told = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return (
        answer_of(error) == Answer(_LACKING) and error.operation_name != _WITHOUT_BODY and _OF_S3 not in told
    )


def no_credentials(asked: Asked, error: Exception) -> AccessDeniedError:
    """There is nothing to sign a request with."""
    return AccessDeniedError(
        f"no usable AWS credentials were found for {asked.scheme}://{asked.container} ({type(error).__name__}); set"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
        key=asked.name,
        backend=asked.scheme,
        code="no_credentials",
    )


def _not_issued(asked: Asked) -> StateError:
    """What issues credentials did not, and may do so the next time."""
    return _of_bucket(
        UnavailableError,
        asked,
        "credentials were not issued; check what the profile or the machine's role names",
        "not_sent",
    )


def _of_bucket(kind: type[StateError], asked: Asked, cause: str, code: str | None = None) -> StateError:
    return kind(
        f"{asked.scheme}://{asked.container} cannot be used: {cause}",
        key=asked.name,
        backend=asked.scheme,
        code=code,
    )


def _never_connected(error: Exception) -> bool:
    """The SDK says the same of a connection that ended in the middle of a request."""
    cause = error.kwargs.get("error") if isinstance(error, EndpointConnectionError) else error
    return isinstance(
        cause, ConnectTimeoutError | ProxyConnectionError | SSLError | aiohttp.ClientConnectorError
    )
