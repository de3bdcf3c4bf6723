"""Stores that were left in every state a machine or a person can leave them in, and are opened again."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest
import statepath
from statepath.backend import Blob, ETag
from statepath.events import Event, Events
from statepath.memory import _stores
from statepath.opening import Opening
from statepath.store import Store

NEVER = 3600.0


@dataclass
class Place(ABC):
    """Where a store is, with raw access to what is stored there, and everything that its openings told."""

    url: str
    heard: list[Event] = field(default_factory=list)

    def open(self, *, readonly: bool = False, **settings: Any) -> Opening[Store]:
        """Open the store. It writes no snapshot by itself, and views only at `flush`."""
        events = Events()
        events.on("*", self.heard.append)
        settings = {"autosave": 0, "view_interval": NEVER, **settings}
        return statepath.open(self.url, readonly=readonly, events=events, **settings)

    def told(self, *kinds: type[Event]) -> list[Any]:
        """The events of these kinds since the last time, which are forgotten then."""
        told = [event for event in self.heard if isinstance(event, kinds)]
        self.heard.clear()
        return told

    @abstractmethod
    def names(self, prefix: str = "") -> list[str]:
        """What is stored, sorted."""

    @abstractmethod
    def read(self, key: str) -> bytes: ...

    @abstractmethod
    def write(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def remove(self, key: str) -> None: ...

    def copy(self, name: str) -> Self:
        """A copy beside it: of a store that is open, what `kill -9` would leave now."""
        copy = type(self)(f"{self.url}-{name}")
        self.copy_to(copy)
        return copy

    @abstractmethod
    def copy_to(self, other: Self) -> None: ...

    def flip(self, key: str, at: int, bit: int = 0) -> None:
        data = bytearray(self.read(key))
        data[at] ^= 1 << bit
        self.write(key, bytes(data))

    def tree(self) -> dict[str, bytes]:
        """Everything that is stored; not the lock, nor what never got its name."""
        return {
            name: self.read(name) for name in self.names() if name != "lock" and not name.startswith(".tmp")
        }


class Folder(Place):
    """A store in a folder, seen around the backend."""

    @property
    def path(self) -> Path:
        return Path(self.url)

    def names(self, prefix: str = "") -> list[str]:
        files = (str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())
        return sorted(key for key in files if key.startswith(prefix))

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        (self.path / key).write_bytes(data)

    def remove(self, key: str) -> None:
        (self.path / key).unlink()

    def copy_to(self, other: Folder) -> None:
        shutil.copytree(self.path, other.path)


@dataclass
class Memory(Place):
    """A store in memory, seen around the backend. It outlives the test that made it: the name does not."""

    def __post_init__(self) -> None:
        self._objects = _stores[self.name]

    def names(self, prefix: str = "") -> list[str]:
        return sorted(key for key in self._objects if key.startswith(prefix))

    def read(self, key: str) -> bytes:
        return self._objects[key].data

    def write(self, key: str, data: bytes) -> None:
        self._objects[key] = Blob(data, ETag(uuid4().hex), datetime.now(UTC))

    def remove(self, key: str) -> None:
        del self._objects[key]

    def copy_to(self, other: Memory) -> None:
        other._objects.update(self._objects)

    @property
    def name(self) -> str:
        return self.url.removeprefix("memory://")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "store"))


@pytest.fixture
def memory() -> Memory:
    """A store of the reference backend."""
    return Memory(f"memory://{uuid4().hex}")


@pytest.fixture(params=["memory", pytest.param("folder", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest) -> Place:
    """A store on the embedded default, and on the reference backend with its portable log."""
    return request.getfixturevalue(request.param)


Stored = tuple[Place, dict[str, Any]]


@pytest.fixture(scope="session")
def made() -> dict[tuple[type[Place], str], Stored]:
    """Stores as their server left them, to be copied: each is made once."""
    return {}


@pytest.fixture(params=["closed", "killed"])
async def stored(
    request: pytest.FixtureRequest,
    place: Place,
    made: dict[tuple[type[Place], str], Stored],
    tmp_path_factory: pytest.TempPathFactory,
    fill: Any,
    contents: Any,
) -> Stored:
    """A store as its server left it, and what it had acknowledged. One that was killed has a journal behind its
    snapshot, and no view of its documents."""
    kind = type(place)
    if (kind, request.param) not in made:
        original = (
            Folder(str(tmp_path_factory.mktemp("made") / "store"))
            if kind is Folder
            else Memory(f"memory://{uuid4().hex}")
        )
        async with original.open() as store:
            await fill(store)
            held = await contents(store)
            made[kind, "killed"] = original.copy("killed"), held
        made[kind, "closed"] = original, held
    original, held = made[kind, request.param]
    original.copy_to(place)
    return place, held


@pytest.fixture
def whole(contents: Any) -> Callable[..., Any]:
    """Opens a store, and checks that it holds this, takes changes, and is sound when it is opened again."""

    async def whole(place: Place, held: dict[str, Any]) -> None:
        async with place.open() as store:
            assert await contents(store) == held
            await store.collection("later").put({"id": "x"})
            await store.flush()
        told = list(place.heard)
        async with place.open() as store:
            assert await contents(store) == held | {"later": {"x": {"id": "x"}}}
            assert await store.verify() == []
            assert (await store.health()).damage == ()
        place.heard[:] = told

    return whole
