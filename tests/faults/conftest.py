"""A disk that dies, fills up or fails at the n-th call; and the stores that live on it."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from statepath.backend import StateURL
from statepath.engine.opening import open_engine
from statepath.events import Event, Events
from statepath.settings import Settings
from statepath.store import Store
from statepath_local import LocalFactory
from statepath_local.port import Port

CHANGES = (
    "pwrite", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "fsync_dir", "utime", "rename", "link",
    "unlink", "mkdir", "rmdir",
)  # fmt: skip


class Disk(Port):
    """The real port, whose calls that change something can be made to fail.

    Attributes:
        changes: how many calls have changed something, or tried to.
        first: the number of the first call to fail; `None`: none does.
        last: that of the last one; `None`: all that follow, too: to what is stored that is a crash.
        names: which calls are counted.
    """

    def __init__(
        self,
        first: int | None = None,
        last: int | None = None,
        *,
        error: int = errno.EIO,
        names: tuple[str, ...] = CHANGES,
    ) -> None:
        self.changes = 0
        self.first = first
        self.last = last
        self.error = error
        self.names = names
        self._lock = threading.Lock()

    @property
    def failed(self) -> bool:
        return self.first is not None and self.changes > self.first

    def heal(self) -> None:
        self.first = None

    def fail_from_now(self, times: int | None = None, *, after: int = 0) -> None:
        self.first = self.changes + after
        self.last = None if times is None else self.first + times - 1

    def check(self, name: str) -> None:
        if name not in self.names:
            return
        with self._lock:
            number, self.changes = self.changes, self.changes + 1
        if self.first is not None and self.first <= number and (self.last is None or number <= self.last):
            raise OSError(self.error, os.strerror(self.error))

    def open(self, name: str, flags: int, *, within: int) -> int:
        if flags & os.O_CREAT:
            self.check("open")
        return super().open(name, flags, within=within)


def _checked(name: str) -> Callable[..., Any]:
    real = getattr(Port, name)

    def call(self: Disk, *args: Any, **kwargs: Any) -> Any:
        self.check(name)
        # No power fails here: a sync that can fail is all that is needed of one, and it takes no time.
        return None if "sync" in name else real(self, *args, **kwargs)

    return call


for _name in CHANGES:
    setattr(Disk, _name, _checked(_name))


@dataclass
class Place:
    """A folder, the events of the stores opened in it, and how they are opened."""

    path: Path
    heard: list[Event] = field(default_factory=list)

    @asynccontextmanager
    async def open(self, port: Port | None = None, **settings: Any) -> AsyncIterator[Store]:
        """Open the store through the port. It writes no snapshot by itself."""
        used = Settings(path=str(self.path), **{"autosave": 0, "view_interval": 0.0, **settings})
        events = Events()
        events.on("*", self.heard.append)
        factory = LocalFactory(port or Disk())
        backend = await factory.connect(factory.parse(StateURL.parse(str(self.path))))
        store = Store(await open_engine(backend, used, events))
        try:
            yield store
        finally:
            await store.aclose()

    def told(self, *kinds: type[Event]) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kinds)]

    def copy(self, name: str) -> Place:
        target = self.path.with_name(name)
        if target.exists():
            shutil.rmtree(target)
        shutil.copytree(self.path, target)
        return Place(target)

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "store")


@pytest.fixture
def disk() -> type[Disk]:
    return Disk
