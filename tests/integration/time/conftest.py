"""What lasts for years holds on every backend. Each test runs on those that need no server; the few that are marked
`everywhere`, one for each thing that a backend has to be good for, on all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import statepath
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.services import azure_service, gcs_service, s3_service
from statepath.backend import Backend
from statepath.discovery import connect
from statepath.errors import StateError, UnavailableError
from statepath.events import Event, Events
from statepath.store import Store

EventT = TypeVar("EventT", bound=Event)

Name = Callable[[str], str]
"""The state path of a store of that name."""

NEAR: dict[str, Callable[[Path], Name]] = {
    "memory": lambda folder: lambda name: f"memory://{name}",
    "local": lambda folder: lambda name: str(folder / name),
    "sqlite": lambda folder: lambda name: f"sqlite://{folder / name}.db",
}
"""The backends that need no server, and how each names a place where nothing is yet."""

FAR: dict[str, tuple[str, Callable[[Any], Name]]] = {
    "s3": ("seaweed", lambda endpoint: s3_service("seaweed", endpoint).path),
    "gcs": ("gcs", lambda endpoint: gcs_service("gcs", endpoint).path),
    "azure": ("azurite", lambda endpoint: azure_service("azurite", endpoint).path),
    "postgres": ("postgres", lambda server: lambda name: server.url(store=name)),
}
"""The others: the fixture that starts the server of each, and how it names a place there."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = [*NEAR]
    if metafunc.definition.get_closest_marker("everywhere") is not None:
        names += FAR
    if {"places", "elsewhere"} <= set(metafunc.fixturenames):
        # From each to the next: so each gives and each takes. And from one to another of the same kind.
        pairs = [("local", "local"), *pairwise([*names, names[0]])]
        metafunc.parametrize(("places", "elsewhere"), [_param(*pair) for pair in pairs], indirect=True)
        return
    for fixture in ("places", "elsewhere"):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, [_param(name) for name in names], indirect=True)


def _param(*names: str) -> Any:
    marks = () if set(names) == {"memory"} else (pytest.mark.slow,)
    return pytest.param(*names, marks=marks, id="-".join(names))


@dataclass
class Places:
    """Makes up state paths on one backend, and looks at what is stored there."""

    make: Name

    def __post_init__(self) -> None:
        self._names = (f"{uuid4().hex}-{n}" for n in count())

    def new(self) -> str:
        return self.make(next(self._names))

    @asynccontextmanager
    async def objects(self, path: str, *, readonly: bool = True) -> AsyncIterator[Backend]:
        backend = await connect(path, readonly=readonly)
        try:
            yield backend
        finally:
            await backend.close()

    async def keys(self, path: str, prefix: str = "") -> list[str]:
        async with self.objects(path) as backend:
            return [entry.key async for entry in backend.list_keys(prefix)]

    async def read(self, path: str, key: str) -> bytes:
        async with self.objects(path) as backend:
            return (await backend.read(key)).data

    async def write(self, path: str, key: str, data: bytes) -> None:
        async with self.objects(path, readonly=False) as backend:
            await backend.write(key, data)

    async def delete(self, path: str, key: str) -> None:
        async with self.objects(path, readonly=False) as backend:
            await backend.delete(key)


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path, aws: None, azure_account: None) -> Places:
    return _places(request, tmp_path)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path, aws: None, azure_account: None) -> Places:
    """Places for what is made of a store."""
    (tmp_path / "elsewhere").mkdir()
    return _places(request, tmp_path / "elsewhere")


def _places(request: pytest.FixtureRequest, folder: Path) -> Places:
    name: str = request.param
    if name in NEAR:
        return Places(NEAR[name](folder))
    fixture, naming = FAR[name]
    return Places(naming(request.getfixturevalue(fixture)))


@pytest.fixture
def path(places: Places) -> str:
    """A state path where nothing is yet."""
    return places.new()


@pytest.fixture
async def store(path: str) -> AsyncIterator[Store]:
    async with statepath.open(path, autosave=0) as store:
        yield store


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mirrors that rest for hundredths of a second, and that a store waits for at its end."""
    monkeypatch.setattr("statepath.engine.primary._PAUSE", 0.01)
    monkeypatch.setattr("statepath.engine.mirror._SOONEST", 0.02)
    monkeypatch.setattr("statepath.engine.mirror._LOOK", 0.02)
    monkeypatch.setattr("statepath.engine.mirror._GRACE", 60)


class Told(Events):
    """A bus that writes down what is told on it."""

    def __init__(self) -> None:
        super().__init__()
        self._all: list[Event] = []
        self.on(Event, self._all.append)

    def of(self, kind: type[EventT]) -> list[EventT]:
        """The events of that kind so far."""
        return [event for event in self._all if isinstance(event, kind)]


@pytest.fixture
def told() -> Told:
    """Events that are told."""
    return Told()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until a condition holds."""

    async def until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - any condition
                await asyncio.sleep(0.01)

    return until


@pytest.fixture
def mirroring() -> Callable[..., AbstractAsyncContextManager[asyncio.Task[Any]]]:
    """A mirror that runs beside."""

    @asynccontextmanager
    async def mirroring(source: str, target: str, **options: Any) -> AsyncIterator[asyncio.Task[Any]]:
        task = asyncio.create_task(statepath.mirror(source, target, **options))
        try:
            yield task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, StateError):
                await task

    return mirroring


class Down:
    """A replica's backend that can be switched off, or takes so many changes and no more."""

    def __init__(self, backend: Any, switch: dict[str, int]) -> None:
        self._backend, self._switch = backend, switch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def _change(self, call: Any, *args: Any, **options: Any) -> Any:
        if not self._switch["writes"]:
            raise UnavailableError("the replica is down", code="disk_full")
        self._switch["writes"] -= 1
        return await call(*args, **options)

    async def write(self, *args: Any, **options: Any) -> Any:
        return await self._change(self._backend.write, *args, **options)

    async def write_at(self, *args: Any, **options: Any) -> Any:
        return await self._change(self._backend.write_at, *args, **options)

    async def write_stream(self, *args: Any, **options: Any) -> Any:
        return await self._change(self._backend.write_stream, *args, **options)


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many more changes the replicas of this process take."""
    switch = {"writes": 10**9}

    async def watched(path: Any, *, readonly: bool = False, **options: Any) -> Any:
        backend = await connect(path, readonly=readonly, **options)
        return backend if readonly else Down(backend, switch)

    monkeypatch.setattr("statepath.mirroring.connect", watched)
    return switch
