"""A store in a folder, the commits to fill it with, and a port that fails or records chosen calls."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from statepath.backend import Commit, CommitLog, StateURL
from statepath.commit import Put
from statepath_local import LocalBackend, LocalFactory
from statepath_local.port import Port

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass
class Fault:
    """The calls that fail: those of one name, for which `chosen` is true, `times` of them."""

    name: str
    error: int
    chosen: Callable[..., bool]
    times: float


class FaultPort(Port):
    """The real port, with calls that fail on request and a record of all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.faults: list[Fault] = []

    def fail(
        self,
        name: str,
        error: int = errno.EIO,
        *,
        chosen: Callable[..., bool] = lambda *_: True,
        times: float = float("inf"),
    ) -> None:
        """Let the call fail; `chosen` gets its positional arguments."""
        self.faults.append(Fault(name, error, chosen, times))

    def heal(self) -> None:
        """Let everything succeed again."""
        self.faults.clear()

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def before(self, name: str, args: tuple[Any, ...]) -> None:
        self.calls.append((name, args))
        for fault in self.faults:
            if fault.name == name and fault.times > 0 and fault.chosen(*args):
                fault.times -= 1
                raise OSError(fault.error, os.strerror(fault.error))


def _observed(name: str) -> Callable[..., Any]:
    real = getattr(Port, name)

    def call(self: FaultPort, *args: Any, **kwargs: Any) -> Any:
        self.before(name, args)
        return real(self, *args, **kwargs)

    return call


for _name in [name for name in vars(Port) if not name.startswith("_")]:
    setattr(FaultPort, _name, _observed(_name))


@dataclass
class Chain:
    """Makes commits that continue each other, and appends them."""

    log: CommitLog
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> int:
        return self.commits[-1].last if self.commits else 0

    def make(self, size: int = 10, *, transactions: int = 1, durable: int | None = None) -> Commit:
        document = msgspec.json.encode({"id": "task_1", "text": "x" * size})
        change = Put(collection="tasks", id="task_1", document=msgspec.Raw(document))
        return Commit(
            first=self.head + 1,
            last=self.head + transactions,
            id=uuid4().hex,
            prev=self.commits[-1].id if self.commits else "",
            writer="w",
            store="store",
            incarnation="one",
            time=_START + timedelta(microseconds=self.head),
            durable=self.head if durable is None else durable,
            transactions=((change,),) * transactions,
        )

    async def append(self, size: int = 10, **options: Any) -> Commit:
        commit = self.make(size, **options)
        await self.log.append(self.head, commit)
        self.commits.append(commit)
        return commit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is, or will be."""
    return tmp_path / "store"


@pytest.fixture
def port() -> FaultPort:
    return FaultPort()


@pytest.fixture
async def connect(path: Path, port: FaultPort) -> AsyncIterator[Callable[..., Any]]:
    """Opens the store; what a test leaves open is closed behind it."""
    async with AsyncExitStack() as stack:

        async def connect(
            where: str | Path | None = None, *, readonly: bool = False, port: Port = port
        ) -> LocalBackend:
            factory = LocalFactory(port)
            config = factory.parse(StateURL.parse(str(where or path)))
            backend = await factory.connect(config, readonly=readonly)
            stack.push_async_callback(backend.close)
            return backend

        yield connect


@pytest.fixture
def chain() -> type[Chain]:
    return Chain


@pytest.fixture
def commits() -> Callable[..., Any]:
    """All commits that a log holds behind a seq."""

    async def commits(log: CommitLog, after: int = 0) -> list[Commit]:
        return [commit async for commit in log.read(after)]

    return commits


@pytest.fixture
async def share(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the store beside others."""

    async def share(**options: Any) -> Any:
        backend = await connect(**options)
        await backend.share()
        return backend

    return share
