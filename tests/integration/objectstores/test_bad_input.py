"""What cannot work with any object store is told when the store is opened: where, why, and what to do."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from urllib.parse import unquote

import pytest
import statepath
from servers.process import free_port
from servers.proxy import Does
from servers.raw import after_listing, listening
from servers.refusals import refusal
from servers.services import SERVICES, writes
from statepath.backend import ALWAYS, IF_ABSENT
from statepath.discovery import connect
from statepath.errors import AccessDeniedError, ConfigurationError, UnavailableError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
async def test_a_missing_container_is_named_and_not_made(service, readonly):
    scheme = service.root.partition("://")[0]
    path = replace(service, root=f"{scheme}://no-such-place").path("x")
    error = await refusal(path, ConfigurationError, readonly=readonly)
    assert error.code == "no_container"
    assert f"{scheme}://no-such-place" in str(error)
    assert "create it" in str(error)
    await refusal(path, ConfigurationError)  # it is still missing


async def test_an_endpoint_that_is_down_is_told(service):
    path = service.at(f"http://127.0.0.1:{free_port()}").path("x")
    error = await refusal(path, UnavailableError)
    assert service.root in str(error)
    assert "endpoint" in str(error)


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
async def test_a_service_that_fails_at_first_is_asked_again(path, counted, proxy, readonly):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    through = counted.replace(counted.partition("?")[0], path.partition("?")[0])
    proxy.fault(Does.FAIL_BEFORE, lambda request: True, times=3)
    async with statepath.open(through, readonly=readonly, autosave=0) as store:
        assert await store.collection("raw").get("a")


async def test_a_service_that_fails_the_probe_is_tried_with_another_one(counted, proxy, unprobed):
    is_probe = writes("probe/")
    proxy.fault(Does.FAIL_AFTER, lambda one: is_probe(one.method, one.target, one.body), times=3)
    async with statepath.open(counted, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    told = [unquote(one.target).encode() + one.body for one in proxy.requests]
    names = {name for text in told for name in re.findall(rb"probe/([0-9a-f]{24})", text)}
    assert len(names) == 4
    backend = await connect(counted, readonly=True)
    assert [entry.key async for entry in backend.list_keys("probe/")] == []
    await backend.close()


async def test_a_service_that_goes_on_failing_is_told(counted, proxy):
    proxy.fault(Does.FAIL_BEFORE, lambda request: True, times=1000)
    error = await refusal(counted, UnavailableError)
    assert error.code == "service_failed"
    assert "503" in str(error)
    assert len(proxy.requests) > 1


async def test_an_endpoint_that_never_answers_is_given_up(service):
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = service.at(f"http://127.0.0.1:{port}").path("x", timeout="2")
    assert "no answer" in str(await refusal(path, UnavailableError))
    await hung_up.wait()
    server.close()


def another(body, status="200 OK", elsewhere="", kind=""):
    """A server of another protocol, which answers everything alike."""

    async def serve(head, writer):
        said = f"location: {elsewhere}\r\nconnection: close\r\n" if elsewhere else ""
        said += f"content-type: {kind}\r\nconnection: close\r\n" if kind else ""
        writer.write(f"HTTP/1.1 {status}\r\n{said}content-length: {len(body)}\r\n\r\n".encode())
        writer.write(b"" if head.startswith(b"HEAD") else body)
        await writer.drain()

    return serve


OTHERS = [b"<html>hello</html>", b"<html>hello<br>", b'["a"]', b""]


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
@pytest.mark.parametrize("body", OTHERS)
async def test_what_does_not_speak_the_protocol_is_told(name, body, readonly):
    async with listening(another(body)) as endpoint:
        service = SERVICES[name]("another", endpoint)
        error = await refusal(service.path("x"), UnavailableError, readonly=readonly)
    assert service.root in str(error)


@pytest.mark.parametrize("body", OTHERS)
async def test_an_answer_of_something_between_is_none_of_the_service(name, body):
    async with listening(after_listing(name, another(body))) as endpoint:
        backend = await connect(SERVICES[name]("another", endpoint).path("x"), readonly=True)
        driver = backend._driver
        for call in (
            lambda: driver.get("a", None),
            lambda: driver.put("a", b"1", ALWAYS),
            lambda: driver.page("y", "", ""),
        ):
            with pytest.raises(UnavailableError):
                await call()
        await backend.close()


async def test_what_something_between_does_not_find_is_no_missing_object(name):
    page = b"<html><title>404 Not Found</title></html>"
    async with listening(after_listing(name, another(page, "404 Not Found"))) as endpoint:
        backend = await connect(SERVICES[name]("another", endpoint).path("x"), readonly=True)
        driver = backend._driver
        for call in (
            lambda: driver.get("a", None),
            lambda: driver.put("a", b"1", IF_ABSENT),
            lambda: driver.page("y", "", ""),
        ):
            with pytest.raises(UnavailableError):
                await call()
        await backend.close()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<html>Nicht verfügbar</html>".encode("latin-1"), "text/html"),
        (b'{"error":{"code":0}}', "application/json"),
    ],
    ids=["page", "json"],
)
@pytest.mark.parametrize(
    ("status", "error"), [("503 Unavailable", UnavailableError), ("403 Forbidden", AccessDeniedError)]
)
async def test_what_something_between_refuses_is_told_by_its_status(name, body, kind, status, error):
    async with listening(after_listing(name, another(body, status, kind=kind))) as endpoint:
        backend = await connect(SERVICES[name]("another", endpoint).path("x"), readonly=True)
        driver = backend._driver
        for call in (
            lambda: driver.get("a", None),
            lambda: driver.put("a", b"1", IF_ABSENT),
            lambda: driver.page("y", "", ""),
        ):
            with pytest.raises(error, match=status[:3]):
                await call()
        await backend.close()


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect"])
async def test_nothing_is_sent_on_to_where_an_answer_says(name, status):
    arrived, asked = [], []

    async def elsewhere(head, writer):
        arrived.append(head)

    async with listening(elsewhere) as other:
        redirects = another(b"", status, f"{other}/states/a")

        async def sends(head, writer):
            asked.append(head)
            await redirects(head, writer)

        async with listening(after_listing(name, sends)) as endpoint:
            backend = await connect(SERVICES[name]("another", endpoint).path("x"), readonly=True)
            for call in (
                lambda: backend._driver.get("a", None),
                lambda: backend._driver.put("a", b"1", ALWAYS),
            ):
                with pytest.raises(UnavailableError):
                    await call()
            await backend.close()
    assert arrived == []
    assert len(asked) <= 4  # S3's client looks at the bucket, too
