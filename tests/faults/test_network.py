"""A network that fails around a commit: it has exactly one effect, and nobody is told of a conflict that is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
import statepath
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.proxy import Does, Proxy, Request
from servers.services import Service, writes
from statepath.discovery import connect
from statepath.errors import OutcomeUnknownError, UnavailableError
from statepath.log import PortableCommitLog

ANSWERED = [Does.RESET_BEFORE, Does.RESET_DURING, Does.RESET_AFTER, Does.FAIL_BEFORE, Does.FAIL_AFTER]
ANSWERED += [Does.CUT_ANSWER, Does.TWICE, Does.LATE]
SILENT = [Does.SWALLOW_BEFORE, Does.SWALLOW_AFTER]


def commits(request: Request) -> bool:
    return writes("journal/0")(request.method, request.target, request.body)


def reads(key: str) -> Callable[[Request], bool]:
    return lambda request: request.method == "GET" and key in request.target.replace("%2F", "/")


@pytest.fixture
async def proxy(service: Service) -> AsyncIterator[Proxy]:
    async with Proxy(service.endpoint).running() as proxy:
        yield proxy


@pytest.fixture
def path(service: Service, proxy: Proxy) -> str:
    """A new store's state path, by way of the proxy. What is silent for ten seconds has failed."""
    return service.at(proxy.url).path(uuid4().hex, timeout="10")


@pytest.fixture
def straight(service: Service, proxy: Proxy, path: str) -> str:
    """The same store's state path, past the proxy."""
    return path.replace(
        proxy.url.replace(":", "%3A").replace("/", "%2F"),
        service.endpoint.replace(":", "%3A").replace("/", "%2F"),
    )


async def committed(straight: str) -> list[str]:
    """The ids of the documents in the order of the log, one for each commit that has it."""
    backend = await connect(straight, readonly=True)
    try:
        return [
            change.id  # type: ignore[union-attr]  # documents are all that was written
            async for commit in PortableCommitLog(backend).read(0)
            for transaction in commit.transactions
            for change in transaction  # type: ignore[union-attr]  # none is so large
        ]
    finally:
        await backend.close()


async def save(store: Any, id: str) -> int:
    seq: int = await store.collection("raw").put({"id": id})
    return seq


@pytest.mark.parametrize("does", ANSWERED + SILENT, ids=lambda does: does.name.lower())
async def test_a_commit_has_one_effect_whatever_becomes_of_its_request(proxy, path, straight, does):
    async with statepath.open(path, autosave=0) as store:
        await save(store, "before")
        fault = proxy.fault(does, commits)
        assert await save(store, "during") == 2
        assert fault.met.is_set()
        assert await save(store, "after") == 3
    assert await committed(straight) == ["before", "during", "after"]
    async with statepath.open(straight, readonly=True) as store:
        assert await store.verify() == []


@pytest.mark.parametrize(
    "does", [Does.RESET_BEFORE, Does.RESET_AFTER, Does.FAIL_AFTER], ids=lambda does: does.name.lower()
)
async def test_what_fails_again_and_again_is_resent_until_it_is_known(proxy, path, straight, does):
    async with statepath.open(path, autosave=0) as store:
        proxy.fault(does, commits, times=3)
        assert await save(store, "a") == 1
    assert await committed(straight) == ["a"]


async def test_a_request_that_arrives_long_after_it_was_given_up_changes_nothing(proxy, path, straight):
    async with statepath.open(path, autosave=0) as store:
        late = proxy.fault(Does.DELAY, commits)
        await save(store, "a")
        await save(store, "b")
        late.released.set()
        await late.delivered.wait()
        await save(store, "c")
    assert await committed(straight) == ["a", "b", "c"]


async def test_what_stays_unknown_is_told_and_known_when_the_store_is_opened_again(proxy, path, straight):
    async with statepath.open(path, autosave=0, deadline=6) as store:
        await save(store, "before")
        late = proxy.fault(Does.DELAY, commits)
        proxy.fault(Does.SWALLOW_BEFORE, commits, times=100)
        with pytest.raises(OutcomeUnknownError):
            await save(store, "unknown")
        with pytest.raises(OutcomeUnknownError):
            await save(store, "later")
        proxy.heal()
    async with statepath.open(straight, autosave=0) as store:
        await save(store, "other")
        late.released.set()
        await late.delivered.wait()
        await save(store, "last")
    assert await committed(straight) == ["before", "other", "last"]


async def test_a_read_that_is_cut_off_is_repeated(proxy, path):
    async with statepath.open(path, autosave=0) as store:
        await save(store, "a")
        await store.snapshot()
    cut = proxy.fault(Does.CUT_ANSWER, reads("state.json"))
    reset = proxy.fault(Does.RESET_BEFORE, reads("floor"))
    async with statepath.open(path, autosave=0) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
    assert cut.met.is_set()
    assert reset.met.is_set()


async def test_a_service_that_is_gone_is_told_and_nothing_is_half_done(proxy, path, straight):
    async with statepath.open(path, autosave=0, deadline=5) as store:
        await save(store, "a")
        proxy.fault(Does.RESET_BEFORE, lambda request: True, times=10**6)
        with pytest.raises((OutcomeUnknownError, UnavailableError)):
            await save(store, "b")
        assert await store.collection("raw").get("a") == {"id": "a"}
    assert await committed(straight) == ["a"]


async def test_a_service_that_cannot_be_reached_has_done_nothing(proxy, path, straight):
    async with statepath.open(path, autosave=0, deadline=1) as store:
        await save(store, "before")
        async with proxy.down():
            with pytest.raises(UnavailableError, match=r"cannot be reached .*; nothing was written"):
                await save(store, "during")
        assert await save(store, "after") == 2
    assert await committed(straight) == ["before", "after"]


async def test_a_snapshot_whose_answer_is_lost_loses_nothing(proxy, path, straight):
    def replaces_state(request: Request) -> bool:
        return writes("state.json")(request.method, request.target, request.body)

    async with statepath.open(path, autosave=0) as store:
        await save(store, "a")
        proxy.fault(Does.RESET_AFTER, replaces_state)
        with pytest.raises(UnavailableError):
            await store.snapshot()
        await save(store, "b")
        assert await store.snapshot() == 2
    async with statepath.open(straight, autosave=0) as store:
        assert {document["id"] async for document in store.collection("raw")} == {"a", "b"}
        assert await store.verify() == []


async def test_the_proxy_does_what_it_says():
    """Nothing is forwarded, or something is, as its name tells."""
    seen: list[int] = []

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(len(await reader.read(65536)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ndone")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Proxy(f"http://127.0.0.1:{port}").running() as own:
        for does, calls, answer in (
            (Does.RESET_BEFORE, 0, b""),
            (Does.RESET_AFTER, 1, b""),
            (Does.FAIL_BEFORE, 0, b"HTTP/1.1 503"),
            (Does.FAIL_AFTER, 1, b"HTTP/1.1 503"),
            (Does.TWICE, 2, b"HTTP/1.1 200"),
        ):
            seen.clear()
            own.fault(does, lambda request: True)
            assert (await _ask(own.url))[:12] == answer[:12], does
            assert len(seen) == calls, does
    server.close()


async def _ask(url: str) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nbody")
    try:
        return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()
