"""Objects in a bucket, through the client that s3fs configures."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import copy
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any, BinaryIO, Final, Self, cast

import aiohttp
import botocore
from aiobotocore.hooks import AioHierarchicalEmitter
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader
from botocore.utils import parse_timestamp
from s3fs import S3FileSystem
from statepath.backend import ALWAYS, ETag, IfAbsent, IfMatch, Span, When
from statepath.errors import InvalidArgumentError, ThrottledError, UnavailableError
from statepath.objectstore import (
    BLOCK,
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
    unmet,
)

from statepath_s3.config import DEFAULT_TIMEOUT, S3Config, address
from statepath_s3.failures import answer_of, lacks_object, translated

SCHEME: Final = "s3"

_VERSION: Final = "statepath-version"
_USER_AGENT: Final = f"statepath-s3/{version('statepath-s3')} Botocore/{botocore.__version__}"
_CONNECTIONS: Final = 64
_CONNECT_SECONDS: Final = 10
_LOOKS: Final = 5
"""How often a deletion looks again at an object that others replace meanwhile."""
_AT_ONCE: Final = 64 * 1024
_TYPE: Final = "binary/octet-stream"
"""What S3 takes a content for of which nothing is said. Where nothing is said SeaweedFS compresses what it can, which
takes it longer than storing does."""
_LISTS_BY_FOLDER: Final = "SeaweedFS"
_WITHOUT_REASON: Final = (400, 403)
"""What a HEAD is answered, for one, if the session token has expired or the clock is off."""
_UNMET: Final = 412
_PAST_THE_END: Final = 416


class _ChangedMeanwhile(Exception):  # noqa: N818 - a signal to look again
    """Between a look at an object and its deletion someone replaced it."""


class _SendsOnce(AIOHTTPSession):  # type: ignore[misc]  # it is not typed
    """aiohttp sends a PUT again when the connection ends before the answer, and waits for ever for one that takes no
    more of its body, or never gives leave to send it; not so here."""

    async def send(self, request: Any) -> Any:
        timeout: Any = self._timeout
        async with Patience(timeout.sock_read) as patience:
            body: Any = request.body
            if isinstance(body, io.IOBase):
                request = copy(request)  # the SDK looks at the body once more afterwards
                request.body = patience.sending(blocks(cast("BinaryIO", body)))
            return await super().send(request)

    async def _get_session(self, proxy_url: str | None) -> Any:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001 - no argument of aiohttp says so
        return _Straight(session)


class _Straight:
    """A session that follows no redirection: aiohttp sends what is asked and put, and a session's token, on to wherever
    an answer says, under a signature that does not hold there."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **options: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **options)


class _Leave:
    """The SDK lets each PUT wait for the service's leave to send its body, which is a round trip more. A large one that
    is refused half-way would end as a connection that is reset, and nobody would know why: so that waits until the
    service has taken another large one, and again behind any that got no answer."""

    def __init__(self) -> None:
        self._given = False

    @contextmanager
    def sending(self, content: Content) -> Iterator[None]:
        """A PUT. What comes of it decides whether the next ones ask."""
        try:
            yield
        except ClientError:
            raise  # it is an answer, and says why
        except BaseException:
            self._given = False
            raise
        # A service that takes small ones may refuse what is larger.
        self._given = self._given or not isinstance(content, bytes) or len(content) > _AT_ONCE

    def spare(self, params: Any, **others: Any) -> None:
        """Ask not in this call of the SDK, if that is not needed."""
        body = params.get("body")
        if self._given or (isinstance(body, io.BytesIO) and _size(body) <= _AT_ONCE):
            params["headers"].pop("Expect", None)


def _stay(context: Any, **others: Any) -> None:
    """The SDK looks at the bucket where an answer redirects, and again where the answer to that does, without end."""
    context["s3_redirect"]["redirected"] = True


def _size(body: io.BytesIO) -> int:
    """Its `getbuffer` would copy the bytes that it was made of."""
    place = body.tell()
    try:
        return body.seek(0, io.SEEK_END)
    finally:
        body.seek(place)


def _session(profile: str | None) -> AioSession:
    """A session of its own, with what takes the SDK long from what all share: its handlers, and its descriptions of the
    services from a reader that keeps what it has read. Nor has it to guess what a moment is."""
    session = AioSession(profile=profile, event_hooks=copy(_handlers()), include_builtin_handlers=False)
    session.register_component("data_loader", _descriptions(session.get_config_variable("data_path")))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_moment)
    return session


def _moment(said: Any) -> datetime:
    """As the SDK does, which takes any form: that is three quarters of the time that a listing takes it."""
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        with suppress(AttributeError, TypeError, ValueError):
            if (moment := read(said)).tzinfo is not None:
                return moment
    found: datetime = parse_timestamp(said)
    return found


@cache
def _handlers() -> AioHierarchicalEmitter:
    handlers = AioHierarchicalEmitter()
    AioSession(event_hooks=handlers)  # registers them there
    return handlers


@lru_cache(maxsize=1)
def _descriptions(folders: str | None) -> Loader:
    return create_loader(folders)


class S3Driver:
    """One bucket.

    S3's ETag is a hash of the content: an object that is replaced by others and then by the same content again has its
    old ETag. So each version gets a random name, in its metadata, and the token is both. S3 compares the hash alone;
    the name is compared before. What slips in between can only bring back the very bytes that the caller had read,
    and the core writes none twice.
    """

    scheme = SCHEME

    def __init__(self, client: Any, config: S3Config, *, checks: bool = True) -> None:
        self.container = config.place.container
        self.endpoint = str(client.meta.endpoint_url)
        self._client = client
        self._leave = _Leave()
        self._config = config
        self._seconds = DEFAULT_TIMEOUT if config.timeout is None else config.timeout
        self._sorted = True
        self._checks = checks
        self._agreed = {"RequestPayer": "requester"} if config.requester_pays else {}

    @classmethod
    async def connect(cls, config: S3Config) -> Self:
        """A client with the credentials that the AWS SDK finds, which sends each request once."""
        asked = Asked(SCHEME, config.place.container, "")
        timeout = DEFAULT_TIMEOUT if config.timeout is None else config.timeout
        options: dict[str, Any] = {
            "retries": {"total_max_attempts": 1},
            "connect_timeout": min(timeout, _CONNECT_SECONDS),
            "read_timeout": timeout,
            "max_pool_connections": _CONNECTIONS,
            "http_session_cls": _SendsOnce,
            # The SDK's own line says what it runs on, and is put together anew for each request.
            "user_agent": _USER_AGENT,
            # What is sent is made here, and the service checks it anyway.
            "parameter_validation": False,
            # Other services than Amazon's refuse the checksums that the SDK adds by itself.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        }
        if config.path_style:
            options["s3"] = {"addressing_style": "path"}
        with translated(asked):
            fs = S3FileSystem(
                anon=bool(config.anonymous),
                client_kwargs={
                    name: value
                    for name, value in (("region_name", config.region), ("endpoint_url", config.endpoint_url))
                    if value is not None
                },
                config_kwargs=options,
                session=_session(config.profile),
                asynchronous=True,
                skip_instance_cache=True,
                use_listings_cache=False,
            )
            try:
                client = await fs.set_session()
            except BotoCoreError:
                raise
            except ValueError as error:
                raise InvalidArgumentError(
                    "the host in endpoint_url, or AWS_ENDPOINT_URL, is not a host name: S3's client takes letters,"
                    " digits, dots and hyphens, and no underscore; give the service another name, or write its address",
                    backend=SCHEME,
                ) from error
        driver = cls(client, config)
        client.meta.events.register_last("before-call.s3", driver._leave.spare)
        client.meta.events.register_last("before-call.s3.HeadBucket", _stay)
        try:
            address("endpoint_url, or AWS_ENDPOINT_URL,", driver.endpoint)
            await driver._greet(config.place)
        except BaseException:
            await driver.close()
            raise
        return driver

    async def _greet(self, place: Place) -> None:
        """See that the bucket is there and may be listed, and who keeps it."""
        with translated(self._asked(place.prefix)):
            answer = await self._send("list_objects_v2", Prefix=place.prefix, MaxKeys=1)
            _said(answer, "IsTruncated")
        server = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
        self._sorted = not server.startswith(_LISTS_BY_FOLDER)

    async def get(self, name: str, span: Span | None) -> Served:
        options = {} if span is None else {"Range": _range(span)}
        with translated(self._asked(name)):
            try:
                answer = await self._send("get_object", Key=name, **options)
            except ClientError as error:
                if answer_of(error).status != _PAST_THE_END:
                    raise
                answer = await self._look(name)
                return Served(b"", _token(answer), _said(answer, "LastModified"))
            body = answer["Body"]
            async with body, Patience(self._seconds) as patience:
                data = await patience.receiving(body.iter_chunks(BLOCK))
            return Served(data, _token(answer), _said(answer, "LastModified"))

    async def put(self, name: str, content: Content, when: When) -> ETag:
        asked, version = self._asked(name, when), secrets.token_hex(12)
        condition = {"IfNoneMatch": "*"} if isinstance(when, IfAbsent) else {}
        with translated(asked):
            if isinstance(when, IfMatch):
                found = await self._hash(asked)
                if found is None:
                    raise unmet(asked)
                condition = {"IfMatch": found}
            try:
                with self._leave.sending(content):
                    answer = await self._send(
                        "put_object",
                        Key=name,
                        Body=content,
                        # Without it some services store what arrived before the connection was cut.
                        ContentMD5=(await measure(content)).md5,
                        ContentType=_TYPE,
                        Metadata={_VERSION: version},
                        **condition,
                    )
            except ClientError as error:
                if isinstance(when, IfMatch) and lacks_object(error):
                    raise unmet(asked) from None
                raise
            return _token(answer, version)

    async def remove(self, name: str, when: When) -> bool:
        for _ in range(_LOOKS):
            with suppress(_ChangedMeanwhile):
                return await self._remove(name, when)
        raise UnavailableError(
            f"{self._asked(name)} was not deleted: {_LOOKS} times in a row the service answered that it is not the"
            " version it had just told; if nobody writes it, the service does not hold If-Match on DELETE",
            key=name,
            backend=SCHEME,
        )

    async def _remove(self, name: str, when: When) -> bool:
        # Conditional in any case: S3 does not say whether there was something to delete.
        asked = self._asked(name, when)
        with translated(asked):
            found = await self._hash(asked)
            if found is None:
                return False
            try:
                await self._send("delete_object", Key=name, IfMatch=found)
            except ClientError as error:
                if lacks_object(error):
                    return False
                if answer_of(error).status == _UNMET and not isinstance(when, IfMatch):
                    raise _ChangedMeanwhile from error
                raise
        return True

    async def copy(self, source: str, target: str, when: When) -> ETag:
        version = secrets.token_hex(12)
        # The hash alone will do: whichever version has it, the bytes are those that were asked for.
        condition = {"CopySourceIfMatch": _hash_in(when.etag)} if isinstance(when, IfMatch) else {}
        with translated(self._asked(source, when)):
            answer = await self._send(
                "copy_object",
                Key=target,
                CopySource={"Bucket": self.container, "Key": source},
                MetadataDirective="REPLACE",
                Metadata={_VERSION: version},
                **condition,
            )
            return _token(_said(answer, "CopyObjectResult"), version)

    async def page(self, prefix: str, after: str, following: str) -> Page:
        options: dict[str, Any] = {}
        if following:
            options["ContinuationToken"] = following
        elif after and self._sorted:
            options["StartAfter"] = after
        with translated(self._asked(prefix)):
            answer = await self._send("list_objects_v2", Prefix=prefix, **options)
            beyond = str(_said(answer, "NextContinuationToken")) if _said(answer, "IsTruncated") else ""
            listed = [
                Listed(_said(entry, "Key"), _said(entry, "Size"), _said(entry, "LastModified"))
                for entry in answer.get("Contents", ())
            ]
        return Page(tuple(listed), beyond, self._sorted)

    def unchecked(self) -> S3Driver:
        """One that leaves each condition to the service alone, over the same client; it is not closed."""
        return S3Driver(self._client, self._config, checks=False)

    async def close(self) -> None:
        with suppress(aiohttp.ClientError, OSError):
            await self._client.close()

    async def _hash(self, asked: Asked) -> str | None:
        """The hash of the version that is asked for, which S3 compares; `None` if there is no object."""
        when = asked.when
        if isinstance(when, IfMatch) and not self._checks:
            return _hash_in(when.etag)
        with _looking_first(asked):
            try:
                stored = await self._look(asked.name)
            except ClientError as error:
                if not lacks_object(error):
                    raise
                return None
            # What S3 cannot hold: that the version's random name is the right one, too.
            if isinstance(when, IfMatch) and _token(stored) != when.etag:
                raise unmet(asked)
            return str(_said(stored, "ETag"))

    async def _look(self, name: str) -> Any:
        """What is known of the object without its content. The refusal of a HEAD has no body that says why: that of a
        GET has."""
        try:
            return await self._send("head_object", Key=name)
        except ClientError as error:
            if answer_of(error).status in _WITHOUT_REASON:
                answer = await self._send("get_object", Key=name)
                answer["Body"].close()
            raise

    async def _send(self, operation: str, **parameters: Any) -> Any:
        return await getattr(self._client, operation)(Bucket=self.container, **self._agreed, **parameters)

    def _asked(self, name: str, when: When = ALWAYS) -> Asked:
        return Asked(SCHEME, self.container, name, when)


@contextmanager
def _looking_first(asked: Asked) -> Iterator[None]:
    """A look at the object before what changes it is sent: if it fails, that is not sent. A service that answered is
    asked again by who opens the store, too, and one that cannot be reached is not."""
    try:
        with translated(asked):
            yield
    except UnavailableError as error:
        if error.code == "service_failed":
            raise ThrottledError(str(error), key=error.key, backend=error.backend) from error
        error.code = "not_sent"
        raise


def _said(answer: Any, name: str) -> Any:
    """What S3 says in each answer of that kind."""
    try:
        return answer[name]
    except KeyError:
        raise Unreadable from None


def _token(answer: Any, version: str | None = None) -> ETag:
    named = answer.get("Metadata", {}).get(_VERSION, "") if version is None else version
    return ETag(f"{_said(answer, 'ETag').strip(chr(34))} {named}".rstrip())


def _hash_in(token: ETag) -> str:
    return f'"{token.partition(" ")[0]}"'


def _range(span: Span) -> str:
    return f"bytes={span.start}-{'' if span.stop is None else span.stop - 1}"
