"""A proxy of the environment between the program and the service."""

from __future__ import annotations

import asyncio
import os
from traceback import format_exception

import pytest
from servers.azure import ACCOUNT
from servers.process import free_port
from servers.raw import EMPTY, answer, listening
from servers.refusals import refusal
from servers.services import SERVICES
from statepath.discovery import connect
from statepath.errors import UnavailableError

pytestmark = pytest.mark.slow

NOWHERE = f"storage.invalid/{ACCOUNT}"
"""Only a proxy can know the way there."""


def with_password(proxy: str) -> str:
    return proxy.replace("//", "//somebody:canary@")


@pytest.fixture(autouse=True)
def _no_other(monkeypatch):
    for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)


@pytest.fixture
def netrc(monkeypatch, tmp_path):
    """A password that this machine has for hosts of which nothing else is said."""
    (tmp_path / "netrc").write_text("default login somebody password canary\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


async def test_requests_go_through_it_and_carry_nothing_of_the_netrc(name, netrc, monkeypatch):
    heads = []

    async def serve(head, writer):
        heads.append(head)
        await answer(writer, EMPTY[name])

    async with listening(serve) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.removesuffix(f"/{ACCOUNT}"))
        backend = await connect(SERVICES[name]("far", f"http://{NOWHERE}").path("x"), readonly=True)
        await backend.close()
    assert heads
    for head in heads:
        assert head.startswith(b"GET http://storage.invalid/")
        assert b"authorization: basic" not in head.lower()


async def test_where_the_host_is_named_they_go_straight_to_it(name, netrc, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    heads = []

    async def serve(head, writer):
        heads.append(head)
        await answer(writer, EMPTY[name])

    async with listening(serve) as endpoint:
        backend = await connect(SERVICES[name]("near", endpoint).path("x"), readonly=True)
        await backend.close()
    assert heads
    assert not [head for head in heads if b"authorization: basic" in head.lower()]


async def test_what_it_does_not_let_through_was_not_sent(name, monkeypatch):
    async def refuse(head, writer):
        assert head.startswith(b"CONNECT ")
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    path = SERVICES[name]("far", f"https://{NOWHERE}").path("x")
    async with listening(refuse) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", with_password(proxy.removesuffix(f"/{ACCOUNT}")))
        error = await refusal(path, UnavailableError)
    assert error.code == "not_sent"
    assert "canary" not in "".join(format_exception(error))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port()}")
    assert (await refusal(path, UnavailableError)).code == "not_sent"


async def test_nor_was_what_it_wants_a_password_for(name, monkeypatch):
    async def refuse(head, writer):
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with listening(refuse) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.removesuffix(f"/{ACCOUNT}"))
        error = await refusal(SERVICES[name]("far", f"http://{NOWHERE}").path("x"), UnavailableError)
    assert error.code == "not_sent"
    assert "the proxy wants a password" in str(error)


@pytest.mark.parametrize("address", ["http://proxy.invalid:port", "http://[proxy"])
async def test_an_address_that_is_none_is_not_shown_either(name, address, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", with_password(address))
    error = await refusal(SERVICES[name]("far", f"https://{NOWHERE}").path("x"), UnavailableError)
    assert "canary" not in "".join(format_exception(error))


async def test_to_what_does_not_show_that_it_is_the_service_nothing_was_sent(name):
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        path = SERVICES[name]("plain", f"https://127.0.0.1:{port}/{ACCOUNT}").path("x")
        assert (await refusal(path, UnavailableError)).code == "not_sent"
