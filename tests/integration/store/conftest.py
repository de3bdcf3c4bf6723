"""The API is specified on `memory://`, on PostgreSQL and the object stores, and on a backend that fails where it is
told to."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import statepath
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.services import path_at
from statepath.backend import ALWAYS, Backend, Blob, Entry, ETag, IfMatch, When
from statepath.commit import decode_commit
from statepath.engine.opening import open_engine
from statepath.errors import ConflictError
from statepath.events import Events
from statepath.lease import Lease
from statepath.memory import factory
from statepath.settings import Settings
from statepath.store import Store
from statepath.url import StateURL


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Nothing is logged: in a simulated world something fails all the time."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@dataclass
class Fault:
    """What happens to the calls of one method under a prefix: `times` of them fail, or wait at the gate."""

    method: str
    prefix: str
    error: BaseException | None = None
    times: int = 1
    applied: bool = False
    gate: Gate | None = None

    def takes(self, method: str, key: str) -> bool:
        return self.times > 0 and method == self.method and key.startswith(self.prefix)


@dataclass
class Gate:
    """Where a call waits until the test lets it through."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def open(self) -> None:
        self.opened.set()


class FaultyBackend:
    """A backend laid over another one, which does as it is told first."""

    def __init__(self, backend: Backend) -> None:
        self.capabilities = backend.capabilities
        self.url = backend.url
        self.closed = False
        self._backend = backend
        self._faults: list[Fault] = []

    def fail(
        self, method: str, prefix: str, error: BaseException, *, times: int = 1, applied: bool = False
    ) -> Fault:
        """The next calls raise; `applied` says that they had been carried out before."""
        self._faults.append(fault := Fault(method, prefix, error, times, applied))
        return fault

    def hold(self, method: str, prefix: str) -> Gate:
        """The next call waits until its gate is opened."""
        gate = Gate()
        self._faults.append(Fault(method, prefix, gate=gate))
        return gate

    async def read(self, key: str, **options: Any) -> Blob:
        return await self._call("read", key, lambda: self._backend.read(key, **options))

    async def write(self, key: str, data: bytes, **options: Any) -> Any:
        return await self._call("write", key, lambda: self._backend.write(key, data, **options))

    async def delete(self, key: str, **options: Any) -> bool:
        return await self._call("delete", key, lambda: self._backend.delete(key, **options))

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        """Declared by the tests that need it."""

        async def copied() -> ETag:
            blob = await self._backend.read(source)
            if isinstance(when, IfMatch) and blob.etag != when.etag:
                raise ConflictError(f"{source} is another version", key=source)
            return await self._backend.write(target, blob.data)

        return await self._call("copy", source, copied)

    async def list_keys(self, prefix: str, **options: Any) -> AsyncIterator[Entry]:
        async def listed() -> AsyncIterator[Entry]:
            return self._backend.list_keys(prefix, **options)

        async for entry in await self._call("list", prefix, listed):
            yield entry

    async def close(self) -> None:
        self.closed = True
        await self._backend.close()

    async def _call(self, method: str, key: str, call: Callable[[], Awaitable[Any]]) -> Any:
        for fault in self._faults:
            if not fault.takes(method, key):
                continue
            fault.times -= 1
            if fault.gate is not None:
                fault.gate.reached.set()
                await fault.gate.opened.wait()
            if fault.error is not None:
                if fault.applied:
                    await call()
                raise fault.error
        return await call()


IN_MEMORY = {"memory", "commits", "faulty"}
"""Fixtures that look below the store, or break what is there: their tests are about the portable log."""


FAR = ("postgres", "seaweed", "gcs", "azurite")
"""The fixtures that start the other backends' servers."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "url" in metafunc.fixturenames:
        portable = IN_MEMORY.intersection(metafunc.fixturenames)
        far = [] if portable else [pytest.param(name, marks=pytest.mark.slow) for name in FAR]
        metafunc.parametrize("url", ["memory", *far], indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, aws: None, azure_account: None) -> str:
    """A state path that no other test uses."""
    kind, name = request.param, uuid4().hex
    if kind == "memory":
        return f"memory://{name}"
    server = request.getfixturevalue(kind)
    if kind == "postgres":
        return str(server.url(store=name))
    return path_at(kind, server, name)


@pytest.fixture
def other_url(url: str) -> str:
    """The state path of another store in the same place."""
    return re.sub(r"[0-9a-f]{32}", uuid4().hex, url)


@pytest.fixture
async def memory(url: str) -> AsyncIterator[Backend]:
    """A look at what is stored, around the store."""
    backend = await factory.connect(factory.parse(StateURL.parse(url)))
    yield backend
    await backend.close()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    async with statepath.open(url, autosave=0) as store:
        yield store


@pytest.fixture
async def other(store: Store, url: str) -> AsyncIterator[Store]:
    """Another handle, as another process has one."""
    async with statepath.open(url, autosave=0) as other:
        yield other


@pytest.fixture
async def zombie(store: Store, url: str) -> AsyncIterator[Store]:
    """Another handle on the store, which does not know yet what `store` writes from now on."""
    await store.collection("raw").put({"id": "shared", "n": 0, "logs": []})
    async with statepath.open(url, autosave=0) as zombie:
        yield zombie


@pytest.fixture
def contents() -> Callable[[Store], Awaitable[dict[str, Any]]]:
    """The documents of a store, by their ids."""

    async def contents(store: Store) -> dict[str, Any]:
        return {document["id"]: document async for document in store.collection("raw")}

    return contents


@pytest.fixture
async def faulty(url: str) -> FaultyBackend:
    return FaultyBackend(await factory.connect(factory.parse(StateURL.parse(url))))


@pytest.fixture
async def open_on() -> AsyncIterator[Callable[..., Awaitable[Store]]]:
    """Opens a store on a backend; it is closed at the end."""
    async with AsyncExitStack() as stack:

        async def opened(backend: Backend, *, readonly: bool = False, **settings: Any) -> Store:
            used = Settings(path=backend.url, **{"autosave": 0, "deadline": 30, **settings})
            engine = await open_engine(backend, used, Events(), readonly=readonly)
            return await stack.enter_async_context(Store(engine))

        yield opened


@pytest.fixture
def keys(memory: Backend) -> Callable[[str], Awaitable[list[str]]]:
    """The keys of the stored objects under a prefix."""

    async def listed(prefix: str) -> list[str]:
        return [entry.key async for entry in memory.list_keys(prefix)]

    return listed


@pytest.fixture
def commits(memory: Backend, keys: Any) -> Callable[[], Awaitable[list[Any]]]:
    """The commit records that are stored, oldest first."""

    async def read() -> list[Any]:
        slots = [key for key in await keys("journal/") if key.endswith(".jsonl")]
        return [decode_commit((await memory.read(key)).data) for key in slots]

    return read


@pytest.fixture
async def trimmed(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose log has been trimmed: three snapshots, of seq 1 to 3, then seq 4."""
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)  # type: ignore[union-attr]  # it is open
    raw = store.collection("raw")
    for n in range(1, 4):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    await raw.put({"id": "a", "n": 4})
    return store


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who meets a conflict tries again without waiting."""

    async def back_off(attempt: int) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("statepath.collection.back_off", back_off)
    monkeypatch.setattr("statepath.attempts.back_off", back_off)


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[object]]], Awaitable[None]]:
    """Waits until something holds that is somebody else's doing."""

    async def until(holds: Callable[[], Awaitable[object]]) -> None:
        async with asyncio.timeout(60):
            while not await holds():  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.02)

    return until


@pytest.fixture
def falls_silent() -> Callable[[Lease], None]:
    """Lets the holder of a lease give no sign of life from now on, as if its process was stopped."""

    def falls_silent(lease: Lease) -> None:
        lease._beats.cancel()

    return falls_silent


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the holder of a lease give signs of life every few hundredths of a second, however long it lives."""
    monkeypatch.setattr("statepath.lease._BEATS", 1_000_000)
