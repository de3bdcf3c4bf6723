"""What S3's own errors mean to a caller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from statepath.errors import AccessDeniedError, InvalidArgumentError, ThrottledError
from statepath.objectstore import Answer, Asked, Cause, no_container, refusal, unanswered

_RENEW = "renew the credentials"
_WHOSE = "the service does not know the access key; check AWS_ACCESS_KEY_ID or the profile"

_LACKING: Final = 404
_NO_BUCKET: Final = "NoSuchBucket"

CAUSES: Final = {
    _NO_BUCKET: no_container("bucket", "create it, or correct the state path"),
    "InvalidBucketName": Cause(InvalidArgumentError, "this is no bucket's name; correct the state path"),
    "PermanentRedirect": Cause(InvalidArgumentError, "the bucket is in another region; set region"),
    "AuthorizationHeaderMalformed": Cause(
        InvalidArgumentError, "the bucket is in another region; set region"
    ),
    "IllegalLocationConstraintException": Cause(
        InvalidArgumentError, "the bucket is in another region; set region"
    ),
    "AccessDenied": Cause(
        AccessDeniedError,
        "access was refused; the permissions GetObject, PutObject and DeleteObject on the objects and ListBucket on"
        " the bucket are needed (without ListBucket S3 refuses to say that an object is missing)",
    ),
    "InvalidAccessKeyId": Cause(AccessDeniedError, _WHOSE),
    "SignatureDoesNotMatch": Cause(
        AccessDeniedError, "the signature does not match; check the secret access key"
    ),
    "ExpiredToken": Cause(AccessDeniedError, f"the session token has expired; {_RENEW}"),
    "InvalidToken": Cause(AccessDeniedError, f"the session token is not valid; {_RENEW}"),
    "RequestTimeTooSkewed": Cause(
        AccessDeniedError,
        "this machine's clock differs too much from the service's; set the clock",
        "clock_skewed",
    ),
    "ConditionalRequestConflict": Cause(ThrottledError, "another request for the object was under way"),
    "OperationAborted": Cause(ThrottledError, "another operation on the bucket was under way"),
}
"""By the code in S3's answer (Amazon S3 API reference, "Error responses")."""


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Raise the error of `statepath.errors` that says what the caller can do."""
    try:
        yield
    except ClientError as error:
        raise refusal(asked, answer_of(error), CAUSES) from error
    except (
        NoCredentialsError,
        PartialCredentialsError,
        ProfileNotFound,
        TokenRetrievalError,
        UnauthorizedSSOTokenError,
    ) as error:
        raise no_credentials(asked, error) from error
    except ParamValidationError as error:
        raise InvalidArgumentError(
            f"{asked.scheme}://{asked.container} cannot be used: this is no bucket's name",
            key=asked.name,
            backend=asked.scheme,
        ) from error
    except (TimeoutError, HTTPClientError, aiohttp.ClientError, OSError, BotoCoreError) as error:
        raise unanswered(asked, error) from error


def answer_of(error: ClientError) -> Answer:
    """The status and the code of an answer; a HEAD has no body, and so no code but its status."""
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    return Answer(status, "" if code.isdigit() else code)


def lacks_object(error: ClientError) -> bool:
    """Whether the answer says that there is no such object."""
    answer = answer_of(error)
    return answer.status == _LACKING and answer.code != _NO_BUCKET


def no_credentials(asked: Asked, error: Exception) -> AccessDeniedError:
    """There is nothing to sign a request with."""
    return AccessDeniedError(
        f"no usable AWS credentials were found for {asked.scheme}://{asked.container} ({type(error).__name__}); set"
        " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
        key=asked.name,
        backend=asked.scheme,
        code="no_credentials",
    )
