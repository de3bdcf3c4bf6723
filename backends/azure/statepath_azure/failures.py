"""What Azure's own errors mean to a caller.

None of them is chained: their texts quote URLs, which may hold a SAS token, and the strings that were signed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DeserializationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceRequestTimeoutError,
    ServiceResponseError,
)
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    InvalidArgumentError,
    ThrottledError,
    UnavailableError,
)
from statepath.objectstore import Answer, Asked, Cause, Unreadable, no_container, refusal, unanswered, unsent

_SKEW: Final = 15 * 60
"""Seconds that a request's time may be off (Azure Storage, "Authorize with Shared Key")."""

_REFUSED: Final = 300
_NOT_NOW: Final = frozenset({404, 408, 410, 429})
"""What a machine's identity service answers while it starts, is updated or is busy."""
_FAILED: Final = 500

_ROLE: Final = "the role Storage Blob Data Contributor, or a SAS token with the permissions rwdl, is needed"
_LET_IN: Final = "check the account key, or whether the SAS token is whole and has not expired"
_SNAPSHOTS: Final = "the blob has snapshots, which someone else made; remove them"
_HELD: Final = "someone holds a lease on the blob or its container; break it"
_KEPT: Final = "an immutability policy or a legal hold keeps the blob; use another container"
_ARCHIVED: Final = (
    "the blob is in the archive tier; rehydrate it, and take the state path out of the lifecycle rules"
)
_TYPE: Final = "another tool has put a page or append blob there; use another prefix"

CAUSES: Final = {
    "ContainerNotFound": no_container("container", "create it, or correct the state path"),
    "ContainerBeingDeleted": no_container("container", "it is being deleted; use another one"),
    "BlobAlreadyExists": Cause(AlreadyExistsError, "it exists already"),
    "ContainerDisabled": Cause(
        AccessDeniedError, "the container is disabled; ask whoever manages the account"
    ),
    "AccountIsDisabled": Cause(AccessDeniedError, "the account is disabled; ask whoever manages it"),
    "InvalidResourceName": Cause(
        InvalidArgumentError, "this is no name of a container or blob; correct the state path"
    ),
    "AuthenticationFailed": Cause(AccessDeniedError, f"the signature was refused; {_LET_IN}"),
    "InvalidAuthenticationInfo": Cause(AccessDeniedError, "the credentials are malformed; check them"),
    "NoAuthenticationInformation": Cause(AccessDeniedError, f"no credentials were sent; {_ROLE}"),
    "PublicAccessNotPermitted": Cause(AccessDeniedError, f"the account serves nobody anonymously; {_ROLE}"),
    "KeyBasedAuthenticationNotPermitted": Cause(
        AccessDeniedError, "the account takes no keys; use a managed identity or another login"
    ),
    "AuthorizationFailure": Cause(
        AccessDeniedError, f"access was refused; {_LET_IN}, and the account's network rules"
    ),
    "AuthorizationPermissionMismatch": Cause(AccessDeniedError, f"access was refused; {_ROLE}"),
    "AuthorizationResourceTypeMismatch": Cause(AccessDeniedError, f"access was refused; {_ROLE}"),
    "AuthorizationServiceMismatch": Cause(AccessDeniedError, f"access was refused; {_ROLE}"),
    "AuthorizationProtocolMismatch": Cause(AccessDeniedError, "the SAS token is for https only"),
    "AuthorizationSourceIPMismatch": Cause(
        AccessDeniedError, "the SAS token is for other addresses than this machine's"
    ),
    "InsufficientAccountPermissions": Cause(AccessDeniedError, f"access was refused; {_ROLE}"),
    "LeaseIdMissing": Cause(AccessDeniedError, _HELD),
    "BlobImmutableDueToPolicy": Cause(AccessDeniedError, _KEPT),
    "SnapshotsPresent": Cause(AccessDeniedError, _SNAPSHOTS),
    "BlobArchived": Cause(UnavailableError, _ARCHIVED, "archived"),
    "BlobBeingRehydrated": Cause(UnavailableError, _ARCHIVED, "archived"),
    "InvalidBlobType": Cause(InvalidArgumentError, _TYPE),
    "PendingCopyOperation": Cause(ThrottledError, "a copy onto the blob is under way"),
    "Md5Mismatch": Cause(UnavailableError, "the content did not arrive as it was sent, and was not stored"),
}
"""By the code in Azure's answer (Blob service REST API, "Blob service error codes", "Common REST API error codes").
A full or busy service (503 ServerBusy, 500 OperationTimedOut) has none of its own: what holds for any 5xx holds."""

_OFF: Final = CAUSES | {
    "AuthenticationFailed": Cause(
        AccessDeniedError,
        "this machine's clock differs too much from the service's; set the clock",
        "clock_skewed",
    )
}


class NotIssued(Exception):  # noqa: N818 - not yet an error: `translated` makes it one
    """Whoever issues tokens did not, so nothing was sent.

    Parameters:
        before: whether it had issued one before.
    """

    def __init__(self, error: AzureError, *, before: bool) -> None:
        super().__init__(type(error).__name__)
        self.for_now = _for_now(error, before)


@contextmanager
def translated(asked: Asked) -> Iterator[None]:
    """Raise the error of `statepath.errors` that says what the caller can do."""
    try:
        yield
    except NotIssued as error:
        raise (_not_issued if error.for_now else no_credentials)(asked, str(error)) from None
    except (Unreadable, DeserializationError) as error:
        raise unanswered(asked, error) from None
    except HttpResponseError as error:
        if error.status_code is None:
            if isinstance(error, ClientAuthenticationError):  # what signs cannot use the key
                raise no_credentials(asked, type(error).__name__) from None
            raise unanswered(asked, error) from None
        if error.status_code < _REFUSED:
            raise unanswered(asked, error) from None
        raise refusal(asked, answer_of(error), _OFF if _skewed(error) else CAUSES) from None
    except (TimeoutError, AzureError, aiohttp.ClientError, OSError) as error:
        raise (unsent if _never_connected(error) else unanswered)(asked, error) from None


def answer_of(error: HttpResponseError) -> Answer:
    """The status and the code of an answer; that of a HEAD has the code in a header only."""
    return Answer(error.status_code or 0, _header(error, "x-ms-error-code"))


def no_credentials(asked: Asked, why: str) -> AccessDeniedError:
    """There is nothing to sign a request with."""
    return AccessDeniedError(
        f"no usable Azure credentials were found for {asked.scheme}://{asked.container} ({why}); set"
        " AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING, or log in as"
        " DefaultAzureCredential does",
        key=asked.name,
        backend=asked.scheme,
        code="no_credentials",
    )


def _for_now(error: AzureError, before: bool) -> bool:
    if not isinstance(error, HttpResponseError):
        return True  # the network's error
    if error.status_code is None:
        return before  # it does not tell what nobody answered from what was never set up
    return error.status_code in _NOT_NOW or error.status_code >= _FAILED


def _not_issued(asked: Asked, why: str) -> UnavailableError:
    return UnavailableError(
        f"{asked.scheme}://{asked.container} cannot be used: no token was issued for now ({why}); check the network,"
        " and the identity service of the machine",
        key=asked.name,
        backend=asked.scheme,
        code="not_sent",
    )


def _never_connected(error: Exception) -> bool:
    """The client says the same of a connection that ended in the middle of a request."""
    return isinstance(error, ServiceRequestTimeoutError) or (
        isinstance(error, ServiceRequestError | ServiceResponseError)
        and isinstance(error.inner_exception, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError)
    )


def _skewed(error: HttpResponseError) -> bool:
    """Whether the clocks differ by more than Azure admits; it has no code of its own for that."""
    try:
        told = parsedate_to_datetime(_header(error, "Date")).timestamp()
    except ValueError:
        return False
    return abs(told - time.time()) > _SKEW


def _header(error: HttpResponseError, name: str) -> str:
    response: Any = error.response
    return "" if response is None else str(response.headers.get(name, ""))
