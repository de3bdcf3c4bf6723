"""Objects in a bucket, by requests of Google's JSON API with the credentials and the session that gcsfs configures."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from gcsfs.core import GCSFileSystem
from google.auth.exceptions import GoogleAuthError
from statepath.backend import ALWAYS, ETag, IfAbsent, IfMatch, Span, When
from statepath.objectstore import (
    Asked,
    Content,
    Listed,
    Page,
    Patience,
    Place,
    Served,
    Unreadable,
    proxy_for,
)
from yarl import URL

from statepath_gcs.config import DEFAULT_TIMEOUT, GCSConfig
from statepath_gcs.failures import Refused, answer_of, no_credentials, not_in_the_clear, translated
from statepath_gcs.token import Token
from statepath_gcs.upload import Upload

SCHEME: Final = "gs"

_USER_AGENT: Final = f"statepath-gcs/{version('statepath-gcs')}"
_CONNECT_SECONDS: Final = 10
_UNKNOWN: Final = 401
_UNMET: Final = 412
_PAST_THE_END: Final = 416


class _Object(msgspec.Struct):
    generation: str
    updated: datetime


class _Entry(msgspec.Struct):
    name: str
    size: int
    updated: datetime


class _Listing(msgspec.Struct, rename={"following": "nextPageToken"}):
    items: list[_Entry] = msgspec.field(default_factory=list)
    following: str = ""


class _Stored(msgspec.Struct):
    generation: str


class _Rewrite(msgspec.Struct, rename={"token": "rewriteToken"}):
    resource: _Stored | None = None
    """What was made, once it is done."""
    token: str = ""


_object: Final = msgspec.json.Decoder(_Object)
_listing: Final = msgspec.json.Decoder(_Listing, strict=False)  # sizes are strings
_stored: Final = msgspec.json.Decoder(_Stored)
_rewrite: Final = msgspec.json.Decoder(_Rewrite)


class GCSDriver:
    """One bucket. A version's token is its generation, a number that Google gives to each and to no other."""

    scheme = SCHEME

    def __init__(self, fs: Any, session: aiohttp.ClientSession, config: GCSConfig) -> None:
        self.container = config.place.container
        self.endpoint = str(fs._location)  # noqa: SLF001 - nothing public says it
        self._fs = fs  # its session ends with it
        self._session = session
        self._proxy = proxy_for(self.endpoint)
        self._token = Token(fs.credentials)
        self._paid_by = {"userProject": config.user_project} if config.user_project else {}
        self._seconds = DEFAULT_TIMEOUT if config.timeout is None else config.timeout
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(self._seconds, _CONNECT_SECONDS), sock_read=self._seconds
        )

    @classmethod
    async def connect(cls, config: GCSConfig) -> Self:
        """A session with the credentials that gcsfs finds, which sends each request once."""
        asked = Asked(SCHEME, config.place.container, "")
        try:
            # It may ask the metadata service of the machine, and waits for it.
            fs = await asyncio.to_thread(_file_system, config)
        except (GoogleAuthError, OSError, ValueError) as error:
            raise no_credentials(asked, error) from None
        if fs.credentials.credentials is not None and _in_the_clear(URL(fs._location)):  # noqa: SLF001 - nothing public says it
            raise not_in_the_clear(asked)
        with translated(asked):
            session = await fs._set_session()  # noqa: SLF001 - as gcsfs says for asynchronous use
        session._retry_connection = False  # noqa: SLF001 - no argument of aiohttp says so
        driver = cls(fs, session, config)
        try:
            await driver._greet(config.place)
        except BaseException:
            await driver.close()
            raise
        return driver

    async def _greet(self, place: Place) -> None:
        """See that the bucket is there and may be listed."""
        with translated(self._asked(place.prefix)):
            asked = {"prefix": place.prefix, "maxResults": "1", "fields": "items(name)"}
            await self._send("GET", self._bucket(), asked)

    async def get(self, name: str, span: Span | None) -> Served:
        headers = {"Accept-Encoding": "identity"} | ({} if span is None else {"Range": _range(span)})
        path = f"/download{self._named(name)}"
        with translated(self._asked(name)):
            try:
                said, data = await self._send("GET", path, {"alt": "media"}, headers=headers, of_object=True)
            except Refused as refused:
                if refused.answer.status != _PAST_THE_END:
                    raise
                found = await self._find(name)
                return Served(b"", ETag(found.generation), found.updated)
            return _served(said, data)

    async def put(self, name: str, content: Content, when: When) -> ETag:
        asked = {"uploadType": "multipart", "fields": "generation"} | _condition(when)
        with translated(self._asked(name, when)):
            upload = await Upload.of(name, content)
            _, body = await self._send(
                "POST", f"/upload{self._bucket()}", asked, headers=upload.headers, blocks=upload.body
            )
            return ETag(_stored.decode(body).generation)

    async def remove(self, name: str, when: When) -> bool:
        with translated(self._asked(name, when)):
            try:
                await self._send("DELETE", self._named(name), _condition(when), of_object=True)
            except Refused as refused:
                if refused.lacks_object:
                    return False
                if refused.answer.status == _UNMET and await self._lacks(name):
                    return False
                raise
        return True

    async def copy(self, source: str, target: str, when: When) -> ETag:
        path = f"{self._named(source)}/rewriteTo{self._within(target)}"
        asked = {"fields": "rewriteToken,resource(generation)"}
        if isinstance(when, IfMatch):
            asked["ifSourceGenerationMatch"] = when.etag
        with translated(self._asked(source, when)):
            while True:
                _, body = await self._send("POST", path, asked, of_object=True)
                progress = _rewrite.decode(body)
                if progress.resource is not None:
                    return ETag(progress.resource.generation)
                if not progress.token:
                    raise Unreadable
                asked["rewriteToken"] = progress.token

    async def page(self, prefix: str, after: str, following: str) -> Page:
        options = {"prefix": prefix, "startOffset": after, "pageToken": following}
        asked = {option: value for option, value in options.items() if value}
        asked["fields"] = "items(name,size,updated),nextPageToken"
        with translated(self._asked(prefix)):
            _, body = await self._send("GET", self._bucket(), asked)
            listing = _listing.decode(body)
        return Page(
            tuple(Listed(entry.name, entry.size, entry.updated) for entry in listing.items), listing.following
        )

    async def close(self) -> None:
        with suppress(aiohttp.ClientError, OSError):
            await self._session.close()

    async def _lacks(self, name: str) -> bool:
        try:
            await self._find(name)
        except Refused as refused:
            if refused.lacks_object:
                return True
            raise
        return False

    async def _find(self, name: str) -> _Object:
        """What is known of the object without its content."""
        asked = {"fields": "generation,updated"}
        _, body = await self._send("GET", self._named(name), asked, of_object=True)
        return _object.decode(body)

    async def _send(
        self,
        method: str,
        path: str,
        asked: Mapping[str, str],
        *,
        headers: Mapping[str, str] | None = None,
        blocks: Callable[[], AsyncIterator[bytes | memoryview]] | None = None,
        of_object: bool = False,
    ) -> tuple[Mapping[str, str], bytes]:
        """One request, once: again only where the service did not know the token. gcsfs's own way to send adds
        attempts, and loses the reason of a refusal."""
        query = urlencode({**asked, **self._paid_by}, quote_via=quote)
        url = URL(f"{self.endpoint}{path}?{query}", encoded=True)
        told = {"User-Agent": _USER_AGENT, **(headers or {})}
        token = await self._token.headers()
        answer, body = await self._answer(method, url, told | token, blocks)
        if answer.status == _UNKNOWN and await self._token.replaces(token):
            answer, body = await self._answer(method, url, told | await self._token.headers(), blocks)
        if answer.status >= 300:
            raise Refused(answer_of(answer.status, body, of_object=of_object))
        return answer.headers, body

    async def _answer(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        blocks: Callable[[], AsyncIterator[bytes | memoryview]] | None,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        async with (
            Patience(self._seconds) as patience,
            self._session.request(
                method,
                url,
                headers=headers,
                data=None if blocks is None else patience.sending(blocks()),
                timeout=self._timeout,
                proxy=self._proxy,
                allow_redirects=False,
            ) as answer,
        ):
            return answer, await patience.receiving(answer.content.iter_any())

    def _bucket(self) -> str:
        return f"/storage/v1/b/{quote(self.container, safe='')}/o"

    def _within(self, name: str) -> str:
        return f"/b/{quote(self.container, safe='')}/o/{quote(name, safe='')}"

    def _named(self, name: str) -> str:
        return f"/storage/v1{self._within(name)}"

    def _asked(self, name: str, when: When = ALWAYS) -> Asked:
        return Asked(SCHEME, self.container, name, when)


def _file_system(config: GCSConfig) -> Any:
    options: dict[str, Any] = {}
    if config.anonymous:
        options["token"] = "anon"  # noqa: S105 - no secret
    elif os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        # Otherwise gcsfs goes on without a word when it cannot use them, in the end without any.
        options["token"] = "google_default"  # noqa: S105 - no secret
    if config.endpoint_url is not None:
        options["endpoint_url"] = config.endpoint_url
    return GCSFileSystem(
        asynchronous=True,
        skip_instance_cache=True,
        use_listings_cache=False,
        **options,
    )


def _in_the_clear(endpoint: URL) -> bool:
    """Whether others could read along what is sent there."""
    if endpoint.scheme == "https" or endpoint.host == "localhost":
        return False
    try:
        return not ip_address(endpoint.host or "").is_loopback
    except ValueError:
        return True


def _condition(when: When) -> dict[str, str]:
    match when:
        case IfAbsent():
            return {"ifGenerationMatch": "0"}
        case IfMatch(etag):
            return {"ifGenerationMatch": etag}
    return {}


def _served(said: Mapping[str, str], data: bytes) -> Served:
    try:
        return Served(data, ETag(said["X-Goog-Generation"]), parsedate_to_datetime(said["Last-Modified"]))
    except (KeyError, ValueError) as error:
        raise Unreadable from error


def _range(span: Span) -> str:
    return f"bytes={span.start}-{'' if span.stop is None else span.stop - 1}"
