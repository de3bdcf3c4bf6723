"""What the tests of `StatePersistence` share."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from statepath.models import Task
from statepath.persistence import StatePersistence


@pytest.fixture(autouse=True)
def _emergencies_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that fails at its end writes an emergency file."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
async def p() -> AsyncIterator[StatePersistence]:
    async with StatePersistence.open("memory://", autosave=0) as persistence:
        yield persistence


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
