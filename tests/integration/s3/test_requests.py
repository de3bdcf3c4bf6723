"""How a request is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator

import dateutil.parser
import pytest
from servers.proxy import Does, Proxy, Request
from servers.services import s3_service
from statepath.backend import ALWAYS, IfMatch, StateURL
from statepath.discovery import connect
from statepath.errors import UnavailableError
from statepath_s3 import config
from statepath_s3.driver import S3Driver

LARGE = b"x" * 200_000


@pytest.fixture
async def proxy(aws, moto) -> AsyncIterator[Proxy]:
    async with Proxy(moto).running() as proxy:
        yield proxy


@pytest.fixture
async def driver(moto, proxy: Proxy) -> AsyncIterator[S3Driver]:
    """Nothing was put by it yet, not even by a probe."""
    url = StateURL.parse(s3_service("moto", moto).at(proxy.url).path("trips"))
    driver = await S3Driver.connect(config.parse(url))
    yield driver
    await driver.close()


def is_put(request: Request) -> bool:
    return request.method == "PUT"


def waited(proxy: Proxy) -> list[bool]:
    return [request.waited for request in proxy.requests if is_put(request)]


async def test_a_small_object_is_one_round_trip(proxy, driver):
    await driver.put("a", b"x", ALWAYS)
    assert waited(proxy) == [False]


async def test_a_large_one_waits_for_leave_until_the_service_has_taken_one(proxy, driver):
    for name in "abc":
        await driver.put(name, LARGE, ALWAYS)
    assert waited(proxy) == [True, False, False]


async def test_a_small_one_that_was_taken_gives_no_leave_to_a_large_one(proxy, driver):
    await driver.put("a", b"x", ALWAYS)
    await driver.put("b", LARGE, ALWAYS)
    assert waited(proxy) == [False, True]


async def test_the_next_one_waits_again_behind_one_that_was_broken_off(proxy, driver):
    await driver.put("a", LARGE, ALWAYS)
    proxy.fault(Does.RESET_DURING, is_put)
    with pytest.raises(UnavailableError):
        await driver.put("b", LARGE, ALWAYS)
    await driver.put("b", LARGE, ALWAYS)
    assert waited(proxy) == [True, False, True]


async def test_a_small_one_does_not_make_up_for_a_large_one_that_was_broken_off(proxy, driver):
    await driver.put("a", LARGE, ALWAYS)
    proxy.fault(Does.RESET_DURING, is_put)
    with pytest.raises(UnavailableError):
        await driver.put("b", LARGE, ALWAYS)
    await driver.put("c", b"x", ALWAYS)
    await driver.put("b", LARGE, ALWAYS)
    assert waited(proxy) == [True, False, False, True]


async def test_who_asks_pays_for_each_request_where_that_is_set(moto, proxy):
    service = s3_service("moto", moto).at(proxy.url)
    backend = await connect(service.path("paid", requester_pays="true"))
    etag = await backend.write("a", b"x")
    await backend.copy("a", "b", when=IfMatch(etag))
    await backend.read("a")
    assert [entry.key async for entry in backend.list_keys("")] == ["a", "b"]
    await backend.delete("a")
    await backend.close()
    for request in proxy.requests:
        assert b"\r\nx-amz-request-payer: requester\r\n" in request.head.lower()


async def test_the_service_need_not_guess_what_a_content_is(proxy, driver):
    """SeaweedFS would compress it."""
    await driver.put("a", b"x", ALWAYS)
    (put,) = filter(is_put, proxy.requests)
    assert b"\r\ncontent-type: binary/octet-stream\r\n" in put.head.lower()


async def test_no_form_of_a_moment_is_guessed(driver, monkeypatch):
    def guess(*said, **more):
        raise AssertionError(said)

    monkeypatch.setattr(dateutil.parser, "parse", guess)
    await driver.put("moment", b"x", ALWAYS)
    (listed,) = (await driver.page("moment", "", "")).objects
    assert listed.modified.replace(microsecond=0) == (await driver.get("moment", None)).modified
