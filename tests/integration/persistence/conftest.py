"""What the tests of `StatePersistence` share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import statepath
from pydantic import BaseModel
from statepath.engine import documents
from statepath.models import Task
from statepath.persistence import StatePersistence
from statepath.store import Store


@pytest.fixture(autouse=True)
def _emergencies_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that fails at its end writes an emergency file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
async def p() -> AsyncIterator[StatePersistence]:
    async with StatePersistence.open("memory://", autosave=0) as persistence:
        yield persistence


class Unreadable(BaseModel):
    id: str
    number: int
    updated_at: str = "2024-01-01T11:30:00Z"


PutUnreadable = Callable[[str], Awaitable[None]]


@pytest.fixture
def put_unreadable(p: StatePersistence, monkeypatch: pytest.MonkeyPatch) -> PutUnreadable:
    """Store, in a collection, a document `odd` with an integer that nobody can read, as an earlier version did."""

    async def put(collection: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(documents, "_has_long_integer", lambda _: False)
            await p.store.collection(collection, Unreadable).put(Unreadable(id="odd", number=10**4999))

    return put


Save = Callable[[Store, int], Awaitable[object]]


class Outrun:
    """A handle, and another one of the same store that saves something right before each commit of the first one."""

    def __init__(self, p: StatePersistence, other: Store) -> None:
        self.p = p
        self.other = other
        self._log = p.store._engine.log
        self._append = self._log.append

    def by(self, save: Save) -> None:
        """From now on; the number of the commit goes with it."""
        numbers = count()

        async def append(after: int, commit: Any) -> None:
            await save(self.other, next(numbers))
            await self._append(after, commit)

        self._log.append = append  # type: ignore[method-assign]

    def end(self) -> None:
        self._log.append = self._append  # type: ignore[method-assign]


@pytest.fixture
async def outrun() -> AsyncIterator[Outrun]:
    url = f"memory://{uuid4().hex}"
    async with (
        StatePersistence.open(url, autosave=0) as p,
        statepath.open(url, autosave=0) as other,
    ):
        outrun = Outrun(p, other)
        yield outrun
        outrun.end()


@pytest.fixture
def original() -> dict[str, Any]:
    """The `state.json` that the original server wrote."""
    path = Path(__file__).parents[2] / "data" / "original-state" / "state.json"
    state: dict[str, Any] = json.loads(path.read_text())
    return state


@pytest.fixture
def task() -> Callable[..., Task]:
    def make(id: str = "task_1", **fields: Any) -> Task:
        return Task(id=id, description="Implement authentication", **fields)

    return make
