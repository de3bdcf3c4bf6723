"""Each call is one request, which is sent once, whole, or not at all."""

from __future__ import annotations

import tracemalloc
from uuid import uuid4

import pytest
from servers.proxy import Does, Proxy
from statepath.backend import IF_ABSENT, ETag, IfMatch, Span
from statepath.discovery import connect
from statepath.errors import ConflictError, NotFoundError, StateError, UnavailableError

MIB = 1024 * 1024


@pytest.fixture
async def proxy(az):
    async with Proxy(az.endpoint).running() as proxy:
        yield proxy


@pytest.fixture
async def backend(az, proxy):
    backend = await connect(az.at(proxy.url).path(uuid4().hex, timeout="20"))
    proxy.requests.clear()
    yield backend
    await backend.close()


def seen(proxy):
    requests, proxy.requests = proxy.requests, []
    return [request.method for request in requests]


@pytest.mark.parametrize(
    "does", [Does.RESET_BEFORE, Does.RESET_AFTER, Does.FAIL_AFTER], ids=lambda does: does.name
)
async def test_a_request_that_fails_is_not_sent_again(backend, proxy, does):
    etag = await backend.write("a", b"1")
    for call, method in (
        (lambda: backend.write("new", b"2", when=IF_ABSENT), "PUT"),
        (lambda: backend.write("a", b"2", when=IfMatch(etag)), "PUT"),
        (lambda: backend.delete("a"), "DELETE"),
        (lambda: backend.read("a"), "GET"),
        (lambda: backend.copy("a", "b"), "PUT"),
    ):
        seen(proxy)
        proxy.fault(does, lambda request: True)
        with pytest.raises(UnavailableError):
            await call()
        assert seen(proxy) == [method]


@pytest.mark.parametrize("size", [0, 1, 3 * MIB, 70 * MIB])
async def test_an_object_of_any_size_is_one_put_and_one_get(backend, proxy, size):
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    etag = await backend.write("a", data, when=IF_ABSENT)
    assert seen(proxy) == ["PUT"]
    blob = await backend.read("a")
    assert (blob.data, blob.etag) == (data, etag)
    assert seen(proxy) == (["GET"] if size else ["GET", "GET"])  # Azure has no part of nothing


async def test_a_part_behind_the_end_is_empty_and_of_the_version(backend):
    etag = await backend.write("a", b"abc")
    for span in (Span(3), Span(5, 7)):
        blob = await backend.read("a", span=span)
        assert (blob.data, blob.etag) == (b"", etag)


async def test_a_large_stream_is_not_held_in_memory(az):
    backend = await connect(az.path(uuid4().hex))
    tracemalloc.start()
    try:
        await backend.write_stream("a", (bytes(MIB) for _ in range(64)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 32 * MIB
    assert (await backend.read("a")).data == bytes(64 * MIB)
    await backend.close()


async def test_what_was_changed_on_its_way_is_not_stored(backend, proxy, az):
    """A network that damages what it carries: the digest tells."""
    forward = proxy._forward

    async def damaged(data, **options):
        return await forward(data.replace(b"whole", b"wh0le"), **options)

    proxy._forward = damaged
    with pytest.raises(StateError):
        await backend.write("a", b"the whole of it")
    proxy._forward = forward
    with pytest.raises(NotFoundError):
        await backend.read("a")


async def test_what_was_cut_on_its_way_is_not_stored(backend, proxy):
    proxy.fault(Does.RESET_DURING, lambda request: True)
    with pytest.raises(UnavailableError):
        await backend.write("a", bytes(MIB))
    with pytest.raises(NotFoundError):
        await backend.read("a")


async def test_a_listing_is_one_request_a_page(backend, proxy):
    for n in range(3):
        await backend.write(f"a/{n}", b"")
    seen(proxy)
    assert [entry.key async for entry in backend.list_keys("a/", after="a/0")] == ["a/1", "a/2"]
    assert seen(proxy) == ["GET"]


async def test_a_copy_that_goes_on_is_waited_for(backend, proxy):
    """Azure may say that it copies meanwhile; Azurite never does."""
    forward, statuses = proxy._forward, iter([b"pending", b"pending", b"success"])

    async def copying(data, **options):
        answer = await forward(data, **options)
        return answer.replace(b"x-ms-copy-status: success", b"x-ms-copy-status: " + next(statuses))

    await backend.write("a", b"1")
    seen(proxy)
    proxy._forward = copying
    etag = await backend.copy("a", "b")
    assert seen(proxy) == ["PUT", "HEAD", "HEAD"]
    proxy._forward = forward
    blob = await backend.read("b")
    assert (blob.data, blob.etag) == (b"1", etag)


async def test_a_copy_that_was_given_up_is_told(backend, proxy):
    forward = proxy._forward

    async def aborted(data, **options):
        answer = await forward(data, **options)
        return answer.replace(b"x-ms-copy-status: success", b"x-ms-copy-status: aborted")

    await backend.write("a", b"1")
    proxy._forward = aborted
    with pytest.raises(UnavailableError, match="gave up"):
        await backend.copy("a", "b")


async def test_a_copy_that_does_not_get_on_is_told(backend, proxy):
    forward = proxy._forward

    async def pending(data, **options):
        answer = await forward(data, **options)
        return answer.replace(b"x-ms-copy-status: success", b"x-ms-copy-status: pending")

    await backend.write("a", b"1")
    proxy._forward = pending
    backend._driver._seconds = 1
    with pytest.raises(UnavailableError, match="does not get on"):
        await backend.copy("a", "b")


async def test_a_copy_shows_the_token_for_its_source_too(az, sas):
    """Azurite does not ask for it; Azure does."""
    signature = sas("rwdl").encode()
    async with Proxy(az.endpoint).running() as proxy:
        backend = await connect(az.at(proxy.url).path(uuid4().hex))
        await backend.write("a", b"1")
        await backend.copy("a", "b")
        await backend.close()
        head = next(request.head for request in proxy.requests if b"x-ms-copy-source" in request.head)
    source = next(line for line in head.split(b"\r\n") if line.startswith(b"x-ms-copy-source:"))
    assert signature in source


async def test_a_replace_of_what_is_missing_is_a_conflict_however_it_is_told(backend, proxy):
    """Azurite says that the condition is not met; it may as well be said that there is no blob."""
    forward = proxy._forward

    async def missing(data, **options):
        answer = await forward(data, **options)
        assert answer.startswith(b"HTTP/1.1 412 ")
        return answer.replace(b"HTTP/1.1 412 ", b"HTTP/1.1 404 ").replace(
            b"ConditionNotMet", b"BlobNotFound", 1
        )

    proxy._forward = missing
    with pytest.raises(ConflictError):
        await backend.write("a", b"1", when=IfMatch(ETag("0x8D0")))
