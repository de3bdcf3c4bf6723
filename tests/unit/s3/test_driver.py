"""What the driver makes of a service's answers, on a client that makes them up."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from aiohttp import ServerDisconnectedError
from botocore.exceptions import ClientError
from botocore.utils import parse_timestamp
from statepath.backend import ALWAYS, ETag, IfMatch
from statepath.discovery import connect
from statepath.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    ThrottledError,
    UnavailableError,
)
from statepath.objectstore import Place
from statepath.retry import until_served
from statepath_s3.config import S3Config
from statepath_s3.driver import S3Driver, _moment, _session

ENOUGH = 100


class Changing:
    """A service that answers to so many deletions that the object is another one by now."""

    meta = SimpleNamespace(endpoint_url="http://changing")

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.deletions = 0

    async def head_object(self, **asked):
        return {"ETag": f'"{self.deletions}"'}

    async def delete_object(self, **asked):
        self.deletions += 1
        assert self.deletions < ENOUGH, "it does not give up"
        if self.deletions <= self.refusals:
            unmet = {
                "Error": {"Code": "PreconditionFailed"},
                "ResponseMetadata": {"HTTPStatusCode": 412},
            }
            raise ClientError(unmet, "DeleteObject")  # type: ignore[arg-type]  # what of it is looked at


class Losing:
    """A service that loses the object right before it is replaced, and with it what it kept it in, if so told."""

    meta = SimpleNamespace(endpoint_url="http://losing")

    def __init__(self, code: str) -> None:
        self.code = code

    async def head_object(self, **asked):
        return {"ETag": '"1"'}

    async def put_object(self, **asked):
        gone = {"Error": {"Code": self.code}, "ResponseMetadata": {"HTTPStatusCode": 404}}
        raise ClientError(gone, "PutObject")  # type: ignore[arg-type]  # what of it is looked at


class Body:
    """What releases of aiobotocore up to 3.7 give: who enters it is given the answer beneath, which reads no chunks."""

    async def __aenter__(self):
        return SimpleNamespace()

    async def __aexit__(self, *_):
        pass

    async def iter_chunks(self, size):
        yield b"A"


class Serving:
    """A service with one object."""

    meta = SimpleNamespace(endpoint_url="http://serving")

    async def get_object(self, **asked):
        return {"ETag": '"1"', "LastModified": datetime(2026, 1, 1, tzinfo=UTC), "Body": Body()}


def driver(client: Changing | Losing | Forgetful | Mute | Serving) -> S3Driver:
    return S3Driver(client, S3Config(Place("bucket", "")))


async def test_an_object_is_read_with_older_releases_of_the_client_as_well():
    assert (await driver(Serving()).get("a/b", None)).data == b"A"


async def test_what_is_replaced_meanwhile_is_deleted_all_the_same():
    client = Changing(refusals=2)
    assert await driver(client).remove("a/b", ALWAYS) is True
    assert client.deletions == 3


async def test_what_goes_before_it_is_replaced_is_a_conflict():
    with pytest.raises(ConflictError, match="not the version") as caught:
        await driver(Losing("NoSuchKey")).put("a/b", b"", IfMatch(ETag("1")))
    assert caught.value.key == "a/b"


async def test_a_bucket_that_goes_is_told_as_what_it_is():
    with pytest.raises(ConfigurationError, match="the bucket does not exist"):
        await driver(Losing("NoSuchBucket")).put("a/b", b"", IfMatch(ETag("1")))


async def test_a_service_that_refuses_each_deletion_is_told_and_not_asked_for_ever():
    with pytest.raises(UnavailableError, match="s3://bucket/a/b") as caught:
        await driver(Changing(refusals=ENOUGH)).remove("a/b", ALWAYS)
    assert caught.value.key == "a/b"


async def test_a_host_that_the_client_does_not_take_is_told():
    with pytest.raises(InvalidArgumentError, match="no underscore"):
        await connect("s3://bucket/p?endpoint_url=http://my_minio:9", env={})


class Forgetful:
    """A service that says of a listing that it goes on, and not where."""

    meta = SimpleNamespace(endpoint_url="http://forgetful")

    async def list_objects_v2(self, **asked):
        return {"IsTruncated": True, "Contents": []}


async def test_a_listing_that_goes_on_nowhere_is_not_taken_for_whole():
    with pytest.raises(UnavailableError):
        await driver(Forgetful()).page("a/", "", "")


class Mute:
    """A service that refuses everybody: with the reason, but in the answer to a HEAD, which has no body."""

    meta = SimpleNamespace(endpoint_url="http://mute")

    def __init__(self, status: int, code: str) -> None:
        self.status = status
        self.code = code

    def refusal(self, code: str, operation: str) -> ClientError:
        told = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": self.status}}
        return ClientError(told, operation)  # type: ignore[arg-type]  # what of it is looked at

    async def head_object(self, **asked):
        raise self.refusal(str(self.status), "HeadObject")

    async def get_object(self, **asked):
        raise self.refusal(self.code, "GetObject")


class Closing:
    """The body of an answer."""

    closed = False

    def close(self) -> None:
        self.closed = True


async def test_nothing_is_left_of_the_question_why_a_head_was_refused():
    mute, body = Mute(403, ""), Closing()

    async def get_object(**asked):
        return {"Body": body}

    mute.get_object = get_object  # type: ignore[method-assign]
    with pytest.raises(AccessDeniedError, match="403"):
        await driver(mute).remove("a/b", ALWAYS)
    assert body.closed


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (400, "ExpiredToken", "the session token has expired"),
        (403, "RequestTimeTooSkewed", "set the clock"),
        (403, "AccessDenied", "GetObject, PutObject and DeleteObject"),
    ],
)
async def test_why_a_head_was_refused_is_told(status, code, said):
    mute = driver(Mute(status, code))
    with pytest.raises(AccessDeniedError, match=said):
        await mute.put("a/b", b"", IfMatch(ETag("1")))
    with pytest.raises(AccessDeniedError, match=said):
        await mute.remove("a/b", ALWAYS)


@pytest.mark.parametrize("status", [500, 503])
async def test_where_the_look_before_it_fails_a_change_is_told_as_without_effect(status):
    mute = driver(Mute(status, ""))
    for change in (mute.put("a/b", b"", IfMatch(ETag("1"))), mute.remove("a/b", ALWAYS)):
        with pytest.raises(ThrottledError, match=str(status)):
            await change


async def test_where_the_look_before_it_gets_no_answer_a_change_is_told_as_not_sent():
    async def hang_up(**asked):
        raise ServerDisconnectedError

    mute = Mute(0, "")
    mute.head_object = hang_up  # type: ignore[method-assign]
    for change in (driver(mute).put("a/b", b"", IfMatch(ETag("1"))), driver(mute).remove("a/b", ALWAYS)):
        with pytest.raises(UnavailableError) as caught:
            await change
        assert caught.value.code == "not_sent"


async def test_who_opens_a_store_asks_a_service_again_that_fails_at_a_look():
    clients = [Mute(503, ""), Changing(refusals=0)]
    assert await until_served(lambda: driver(clients.pop(0)).remove("a/b", ALWAYS), deadline=1)


async def test_what_is_registered_with_one_session_reaches_no_other():
    told = []
    _session(None).register("made-up", lambda **facts: told.append(facts))
    await _session(None).get_component("event_emitter").emit("made-up")
    assert told == []


@pytest.mark.parametrize(
    "said",
    [
        "2026-11-22T10:00:00.000Z",
        "2026-11-22T10:00:00Z",
        "2026-11-22T11:00:00+01:00",
        "Sun, 22 Nov 2026 10:00:00 GMT",
        "1795341600",
        1795341600,
    ],
)
def test_a_moment_is_what_the_sdk_makes_of_it(said):
    assert _moment(said) == parse_timestamp(said) == datetime(2026, 11, 22, 10, tzinfo=UTC)
