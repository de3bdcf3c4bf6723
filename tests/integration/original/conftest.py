"""Directories of the original TypeScript server, whole and damaged."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.events import Event, Events
from statepath.opening import Opening
from statepath.store import Store

DATA = Path(__file__).parents[2] / "data" / "original-state"


@dataclass
class Directory:
    """A directory as the original left it, and what it was told of when it was opened."""

    path: Path
    heard: list[Event] = field(default_factory=list)

    def open(self, *, readonly: bool = False, **settings: Any) -> Opening[Store]:
        events = Events()
        events.on("*", self.heard.append)
        return statepath.open(self.path, readonly=readonly, events=events, **{"autosave": 0, **settings})

    def told(self, *kinds: type[Event]) -> list[Any]:
        """The events of these kinds since the last time, which are forgotten then."""
        told = [event for event in self.heard if isinstance(event, kinds)]
        self.heard.clear()
        return told

    def tree(self) -> dict[str, bytes]:
        """Everything that is stored, but the lock."""
        files = {str(path.relative_to(self.path)): path for path in self.path.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in sorted(files.items()) if name != "lock"}

    def state(self, name: str = "state.json") -> dict[str, Any]:
        return json.loads((self.path / name).read_bytes())

    @property
    def backups(self) -> list[str]:
        """The names of the original's own backups, oldest first."""
        return sorted(
            path.name for path in self.path.glob("state.backup.[0-9]*[0-9].json") if "T" not in path.name
        )

    def put(self, name: str, value: Any) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value, indent=2))


@pytest.fixture
def original(tmp_path: Path) -> Directory:
    """A copy of a real one: 45 tasks, two backups, session logs and a report."""
    path = tmp_path / "coding-agent-state"
    shutil.copytree(DATA, path)
    for folder in (path, *path.rglob("*")):
        folder.chmod(0o755 if folder.is_dir() else 0o644)
    return Directory(path)


@pytest.fixture
def empty(tmp_path: Path) -> Directory:
    """A directory to be filled by the test."""
    (tmp_path / "state").mkdir()
    return Directory(tmp_path / "state")


@pytest.fixture
def tasks() -> Any:
    """All tasks of a store by id."""

    async def tasks(store: Store) -> dict[str, Any]:
        return {task["id"]: task async for task in store.collection("tasks")}

    return tasks
