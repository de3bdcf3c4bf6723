"""Blobs in a container, through Azure's own client, with the credentials that adlfs finds."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Self

import aiohttp
from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.transport import AioHttpTransport
from azure.storage.blob.aio import BlobServiceClient
from statepath.backend import ALWAYS, ETag, IfAbsent, IfMatch, Span, When
from statepath.errors import InvalidArgumentError, UnavailableError, UnsupportedError
from statepath.objectstore import (
    Answer,
    Asked,
    Content,
    Listed,
    Page,
    Patience,
    Place,
    Served,
    Unreadable,
    blocks,
    measure,
    proxy_for,
    unmet,
)

from statepath_azure.config import DEFAULT_TIMEOUT, AzureConfig, address
from statepath_azure.credentials import Found, find
from statepath_azure.failures import answer_of, translated

SCHEME: Final = "az"

_CONNECT_SECONDS: Final = 10
_AT_ONCE: Final = 1024**4
"""Bytes to ask for in one request: more than a blob can have that was put in one."""
_LOOK_SECONDS: Final = 0.5
_GONE: Final = Answer(404, "BlobNotFound")
_REFUSED: Final = 300
_FAILED: Final = 500
_LACKING: Final = 404
_UNMET: Final = 412
_PAST_THE_END: Final = 416
_OF_AZURE: Final = "x-ms-request-id"
"""What each of Azure's answers has; the client trips in many ways over what another server says instead."""
_PENDING: Final = "pending"
_SUCCESS: Final = "success"

_asked: Final[set[tuple[str, str]]] = set()
"""The endpoints and containers whose accounts were asked for what they are, once in the life of the process."""


class _SendsOnce(AioHttpTransport):  # type: ignore[misc]  # its module loads it by name
    """aiohttp sends a PUT again when the connection ends before the answer, and waits for ever for one that takes no
    more of its body; not so here.

    Attributes:
        proxy: what stands before the service.
    """

    proxy: str | None = None

    async def open(self) -> None:
        await super().open()
        self.session._retry_connection = False  # noqa: SLF001 - no argument of aiohttp says so

    async def send(self, request: Any, **options: Any) -> Any:
        body = request.data
        async with Patience(self.connection_config.read_timeout) as patience:
            if isinstance(body, io.IOBase):
                request.data = patience.sending(blocks(body))  # type: ignore[arg-type]  # a BinaryIO
            try:
                answer = await super().send(request, proxy=self.proxy, **options)
            finally:
                request.data = body
        if _OF_AZURE not in answer.headers:
            answer.internal_response.close()
            raise _of_another(answer.status_code)
        return answer


def _of_another(status: int) -> Exception:
    """What comes of an answer that is not Azure's. Of a refusal the status counts alone: over a page in another
    encoding, or a JSON without a message, the client itself would fail."""
    if status < _REFUSED or status == _LACKING:
        return Unreadable()
    refused = HttpResponseError("something between refused it")
    refused.status_code = status
    return refused


class _Attended:
    """A body that says how much of it has arrived."""

    def __init__(self, answer: aiohttp.ClientResponse, patience: Patience) -> None:
        self._answer = answer
        self._content = answer.content
        self._patience = patience

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def read(self, size: int = -1) -> bytes:
        try:
            block = await self._content.read(size)
        except asyncio.CancelledError:  # the client itself would leave the connection open
            self._answer.close()
            raise
        self._patience.received(len(block))
        return block


class AzureDriver:
    """One container."""

    scheme = SCHEME

    def __init__(self, client: BlobServiceClient, found: Found, config: AzureConfig) -> None:
        self.container = config.place.container
        self.endpoint = f"{client.scheme}://{client.primary_hostname}"
        self._client = client
        self._blobs = client.get_container_client(self.container)
        self._found = found
        self._seconds = DEFAULT_TIMEOUT if config.timeout is None else config.timeout

    @classmethod
    async def connect(cls, config: AzureConfig, *, readonly: bool = False) -> Self:
        """A client with the credentials that adlfs finds, which sends each request once."""
        asked = Asked(SCHEME, config.place.container, "")
        found = find(config, asked)
        driver = cls(_client(config, found), found, config)
        try:
            driver._check(config)
            await driver._greet(config.place)
            if not readonly:
                await driver._check_account()
        except BaseException:
            await driver.close()
            raise
        return driver

    def _check(self, config: AzureConfig) -> None:
        """A connection string names an account, too: not another one than the state path. One with a SAS token and an
        endpoint of its own names none."""
        if self._found.connection_string is not None:
            address("the endpoint in AZURE_STORAGE_CONNECTION_STRING", self.endpoint)
        for name, given, used in (
            ("account_name", config.account_name, self._client.account_name),
            ("endpoint_url", config.endpoint_url, self.endpoint),
        ):
            if self._found.connection_string is not None and None not in (given, used) and given != used:
                raise InvalidArgumentError(
                    f"AZURE_STORAGE_CONNECTION_STRING has another {name} than the state path, or"
                    f" STATE_AZURE_{name.upper()}, says; leave out one of them",
                    backend=SCHEME,
                )

    async def _greet(self, place: Place) -> None:
        """See that the container is there and may be listed."""
        with translated(self._asked(place.prefix)):
            async for _ in self._blobs.list_blobs(place.prefix, results_per_page=1).by_page():
                break

    async def _check_account(self) -> None:
        """Refuse an account with a hierarchical namespace, as far as it tells: to who logs in it need not.

        Raises:
            UnsupportedError: it has one (`unsorted`).
        """
        known = (self.endpoint, self.container)
        if known in _asked:
            return
        told: dict[str, Any] = {}
        with translated(self._asked("")):
            try:
                told = await self._blobs.get_account_information()
            except HttpResponseError as error:
                if answer_of(error).status >= _FAILED:
                    return  # it may tell the next one who opens
        if told.get("is_hns_enabled"):
            raise UnsupportedError(
                f"the account at {self.endpoint} has a hierarchical namespace (Data Lake Storage): its folders are"
                " objects, too, and it does not list in byte order; use an account without one",
                backend=SCHEME,
                code="unsorted",
            )
        _asked.add(known)

    async def get(self, name: str, span: Span | None) -> Served:
        length = None if span is None or span.stop is None else span.stop - span.start
        blob = self._blobs.get_blob_client(name)
        with translated(self._asked(name)):
            try:
                async with Patience(self._seconds) as patience:
                    answer = await blob.download_blob(
                        None if span is None else span.start, length, raw_response_hook=_attending(patience)
                    )
                    data = await answer.readall()
            except HttpResponseError as error:
                if answer_of(error).status != _PAST_THE_END:
                    raise
                properties = await blob.get_blob_properties()
                return Served(b"", _token(properties.etag), properties.last_modified)
        return Served(data, _token(answer.properties.etag), answer.properties.last_modified)

    async def put(self, name: str, content: Content, when: When) -> ETag:
        asked = self._asked(name, when)
        with translated(asked):
            try:
                answer = await self._blobs.get_blob_client(name).upload_blob(
                    b"",
                    overwrite=not isinstance(when, IfAbsent),
                    raw_request_hook=_filling(content, (await measure(content)).md5),
                    **_condition(when),
                )
            except HttpResponseError as error:
                if answer_of(error) == _GONE and isinstance(when, IfMatch):
                    raise unmet(asked) from None
                raise
        return _token(answer["etag"])

    async def remove(self, name: str, when: When) -> bool:
        blob = self._blobs.get_blob_client(name)
        with translated(self._asked(name, when)):
            try:
                await blob.delete_blob(**_condition(when))
            except HttpResponseError as error:
                if answer_of(error) == _GONE:
                    return False
                # Of a blob that is missing it is said, too, that it is not the version.
                if answer_of(error).status == _UNMET and not await blob.exists():
                    return False
                raise
        return True

    async def copy(self, source: str, target: str, when: When) -> ETag:
        url: str = self._blobs.get_blob_client(source).url
        if self._found.sas is not None:
            url = f"{url}?{self._found.sas}"
        condition = {f"source_{name}": value for name, value in _condition(when).items()}
        asked, made = self._asked(source, when), self._blobs.get_blob_client(target)
        with translated(asked):
            begun = await made.start_copy_from_url(url, **condition)
            status: object = begun["copy_status"]
            etag, copied = str(begun["etag"]), 0
            with suppress(TimeoutError):
                async with Patience(self._seconds) as patience:
                    while status == _PENDING:
                        await asyncio.sleep(_LOOK_SECONDS)
                        properties = await made.get_blob_properties()
                        etag, copying = properties.etag, properties.copy
                        status, before = copying.status, copied
                        copied = int((copying.progress or "0").partition("/")[0])
                        patience.received(copied - before)
        if status != _SUCCESS:
            what = "does not get on with" if status == _PENDING else "gave up"
            raise UnavailableError(f"{asked}: the service {what} copying it", key=source, backend=SCHEME)
        return _token(etag)

    async def page(self, prefix: str, after: str, following: str) -> Page:
        """As `Driver.page`. Azure begins each listing at the beginning: the caller leaves out what is not wanted."""
        with translated(self._asked(prefix)):
            pages: Any = self._blobs.list_blobs(prefix).by_page(following or None)
            listed = [Listed(blob.name, blob.size, blob.last_modified) async for blob in await anext(pages)]
        return Page(tuple(listed), pages.continuation_token or "")

    async def close(self) -> None:
        with suppress(aiohttp.ClientError, OSError):
            try:
                await self._client.close()
            finally:
                if self._found.token is not None:
                    await self._found.token.close()

    def _asked(self, name: str, when: When = ALWAYS) -> Asked:
        return Asked(SCHEME, self.container, name, when)


def _client(config: AzureConfig, found: Found) -> BlobServiceClient:
    timeout = DEFAULT_TIMEOUT if config.timeout is None else config.timeout
    transport = _SendsOnce(
        connection_timeout=min(timeout, _CONNECT_SECONDS), read_timeout=timeout, use_env_settings=False
    )
    client = _client_of(
        found,
        {
            "transport": transport,
            "retry_total": 0,
            "permit_redirects": False,
            "max_single_get_size": _AT_ONCE,
        },
    )
    transport.proxy = proxy_for(client.url)
    return client


def _client_of(found: Found, options: dict[str, Any]) -> BlobServiceClient:
    if found.connection_string is not None:
        try:
            return BlobServiceClient.from_connection_string(found.connection_string, **options)
        except ValueError:
            raise InvalidArgumentError(
                "AZURE_STORAGE_CONNECTION_STRING is no connection string; copy it anew", backend=SCHEME
            ) from None
    credential: Any = found.token
    if found.key is not None:
        credential = {"account_name": found.account_name, "account_key": found.key}
    elif found.sas is not None:
        credential = AzureSasCredential(found.sas)
    return BlobServiceClient(found.url, credential, **options)


def _filling(content: Content, md5: str) -> Callable[[Any], None]:
    """Puts the content into an upload of nothing right before that is signed and sent: the client itself would read
    a file into memory, or upload it in parts."""
    body = io.BytesIO(content) if isinstance(content, bytes) else content
    size = body.seek(0, io.SEEK_END)
    body.seek(0)

    def fill(request: Any) -> None:
        # Without its digest a service may store what arrived before the connection was cut.
        request.http_request.headers.update({"Content-Length": str(size), "Content-MD5": md5})
        request.http_request.data = body

    return fill


def _attending(patience: Patience) -> Callable[[Any], None]:
    """Lets each part of an answer's body that arrives be seen; the client itself shows the whole only."""

    def attend(response: Any) -> None:
        answer = response.http_response.internal_response
        answer.content = _Attended(answer, patience)

    return attend


def _condition(when: When) -> dict[str, Any]:
    if not isinstance(when, IfMatch):
        return {}
    return {"etag": f'"{when.etag}"', "match_condition": MatchConditions.IfNotModified}


def _token(etag: str) -> ETag:
    return ETag(etag.strip('"'))
