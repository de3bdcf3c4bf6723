"""What goes over the wire: each request once, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl
from uuid import uuid4

import pytest
from servers.gcs import stored
from servers.proxy import Does, Proxy
from statepath.backend import ALWAYS, IF_ABSENT, ETag, IfMatch, Span, StateURL
from statepath.discovery import connect
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    NotFoundError,
    UnavailableError,
)
from statepath_gcs import factory
from statepath_gcs.driver import GCSDriver
from statepath_gcs.upload import Upload

MIB = 1024 * 1024


@asynccontextmanager
async def driver(service, **parameters):
    """A driver without a probe before it."""
    url = StateURL.parse(service.path("x", **parameters))
    driver = await GCSDriver.connect(factory.with_env(factory.parse(url), {}))
    try:
        yield driver
    finally:
        await driver.close()


@pytest.fixture
def name():
    return f"requests/{uuid4().hex}"


@pytest.mark.parametrize(
    "does", [Does.RESET_AFTER, Does.FAIL_AFTER, Does.CUT_ANSWER], ids=lambda does: does.name
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_a_request_that_fails_is_not_sent_again(google, name, does, method):
    async with Proxy(google.endpoint).running() as proxy, driver(google.at(proxy.url)) as gcs:
        etag = await gcs.put(name, b"1", IF_ABSENT)
        proxy.requests.clear()
        proxy.fault(does, lambda request: request.method == method)
        calls = {
            "POST": lambda: gcs.put(name, b"2", IfMatch(etag)),
            "GET": lambda: gcs.get(name, None),
            "DELETE": lambda: gcs.remove(name, ALWAYS),
        }
        with pytest.raises(UnavailableError):
            await calls[method]()
        assert len(proxy.requests) == 1


async def test_an_upload_that_is_cut_is_not_stored(google, name):
    async with Proxy(google.endpoint).running() as proxy, driver(google.at(proxy.url)) as gcs:
        for content in (b"x" * 1000, b"x" * 3 * MIB):
            proxy.fault(Does.RESET_DURING, lambda request: request.method == "POST")
            with pytest.raises(UnavailableError):
                await gcs.put(name, content, IF_ABSENT)
            with pytest.raises(NotFoundError):
                await gcs.get(name, None)


async def test_an_upload_that_was_changed_on_its_way_is_not_stored(google, name, monkeypatch):
    real = Upload.body

    async def changed(upload):
        async for block in real(upload):
            yield block.replace(b"content", b"CONTENT")

    async with driver(google) as gcs:
        monkeypatch.setattr(Upload, "body", changed)
        with pytest.raises(UnavailableError, match="nothing was stored"):
            await gcs.put(name, b"content", IF_ABSENT)
        with pytest.raises(NotFoundError):
            await gcs.get(name, None)


async def test_content_that_looks_like_the_end_of_the_body_is_kept(google, name):
    content = b"\r\n--==0==--\r\n--==0==\r\nContent-Type: application/json\r\n\r\n{}"
    async with driver(google) as gcs:
        await gcs.put(name, content, ALWAYS)
        assert (await gcs.get(name, None)).data == content


async def test_a_file_is_sent_in_one_request_and_never_held_as_a_whole(google, name, tmp_path):
    size = 24 * MIB
    (tmp_path / "large").write_bytes(os.urandom(MIB) * (size // MIB))
    async with driver(google) as gcs:
        tracemalloc.start()
        with (tmp_path / "large").open("rb") as content:
            etag = await gcs.put(name, content, IF_ABSENT)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < size // 3
        assert stored(google.endpoint, name) == (tmp_path / "large").read_bytes()
        with (tmp_path / "large").open("rb") as content, pytest.raises(AlreadyExistsError):
            await gcs.put(name, content, IF_ABSENT)
        assert (await gcs.get(name, Span(0, 1))).etag == etag
        await gcs.remove(name, ALWAYS)


async def test_a_part_behind_the_end_is_empty_and_has_the_version_of_the_object(google, name):
    async with driver(google) as gcs:
        etag = await gcs.put(name, b"12345", ALWAYS)
        whole = await gcs.get(name, None)
        behind = await gcs.get(name, Span(5, 9))
        assert (behind.data, behind.etag) == (b"", etag)
        assert whole.etag == etag
        assert 0 <= (behind.modified - whole.modified).total_seconds() < 1  # one is in whole seconds


async def test_a_deletion_of_what_is_gone_is_none_whatever_the_condition_says(google, name):
    async with driver(google) as gcs:
        etag = await gcs.put(name, b"1", ALWAYS)
        assert await gcs.remove(name, IfMatch(etag)) is True
        assert await gcs.remove(name, IfMatch(etag)) is False
        assert await gcs.remove(name, ALWAYS) is False


async def test_a_copy_goes_on_until_it_is_done(scripted):
    listed = (200, {"kind": "storage#objects"})
    parts = [(200, {"done": False, "rewriteToken": "more/1"}), (200, {"resource": {"generation": "2"}})]
    scripted.answers = [listed, *parts]
    backend = await connect(scripted.path(), readonly=True)
    assert await backend._driver.copy("x/ü/1", "x/2", IfMatch("1")) == "2"
    await backend.close()
    start = (
        "POST /storage/v1/b/states/o/x%2F%C3%BC%2F1/rewriteTo/b/states/o/x%2F2"
        "?fields=rewriteToken%2Cresource%28generation%29&ifSourceGenerationMatch=1"
    )
    assert scripted.requests[1:] == [start, f"{start}&rewriteToken=more%2F1"]


async def test_credentials_do_not_follow_a_redirection(scripted):
    scripted.answers = [(200, {}), (302, "")]
    scripted.location = f"{scripted.url}/elsewhere"
    backend = await connect(scripted.path(), readonly=True)
    with pytest.raises(UnavailableError, match="302"):
        await backend.read("a")
    await backend.close()
    assert len(scripted.requests) == 2


async def test_a_listing_asks_for_what_it_needs_page_by_page(scripted):
    entry = {"size": "3", "updated": "2026-11-25T10:44:49.481Z"}
    first = {"items": [{"name": "x/b", **entry}], "nextPageToken": "next=="}
    scripted.answers = [(200, {}), (200, first), (200, {"items": [{"name": "x/c", **entry}]})]
    backend = await connect(scripted.path(user_project="payer"), readonly=True)
    assert [(entry.key, entry.size) async for entry in backend.list_keys("", after="a")] == [
        ("b", 3),
        ("c", 3),
    ]
    await backend.close()
    asked = [dict(parse_qsl(target.partition("?")[2])) for target in scripted.requests[1:]]
    fields = "items(name,size,updated),nextPageToken"
    same = {"prefix": "x/", "startOffset": "x/a", "fields": fields, "userProject": "payer"}
    assert asked == [same, {**same, "pageToken": "next=="}]


async def test_a_bucket_that_goes_while_the_store_is_open_is_not_an_empty_one(scripted):
    scripted.answers = [(200, {}), (404, "The specified bucket does not exist.")]
    backend = await connect(scripted.path(), readonly=True)
    with pytest.raises(ConfigurationError) as caught:
        await backend.read("state.json")
    await backend.close()
    assert caught.value.code == "no_container"


async def test_many_at_once_share_the_session(google, name):
    async with driver(google) as gcs:
        etags = await asyncio.gather(*(gcs.put(f"{name}/{n}", b"x" * n, IF_ABSENT) for n in range(64)))
        assert len(set(etags)) == 64
        served = await asyncio.gather(*(gcs.get(f"{name}/{n}", None) for n in range(64)))
        assert [(ETag(one.etag), len(one.data)) for one in served] == list(zip(etags, range(64), strict=True))
