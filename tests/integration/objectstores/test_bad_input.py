"""What cannot work with any object store is told when the store is opened: where, why, and what to do."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from servers.process import free_port
from servers.refusals import refusal
from statepath.errors import ConfigurationError, UnavailableError


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


async def test_an_endpoint_that_never_answers_is_given_up(service):
    hung_up = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = service.at(f"http://127.0.0.1:{port}").path("x", timeout="0.3")
    assert "no answer" in str(await refusal(path, UnavailableError))
    await hung_up.wait()
    server.close()
