"""Python's executors end with the main thread; a store serves the threads that go on all the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import statepath
from statepath.errors import InvalidArgumentError


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("concurrent.futures.thread._shutdown", True)  # as Python does then


async def test_a_store_is_made_and_opened_again(tmp_path: Path) -> None:
    async with statepath.open(tmp_path / "state") as store:
        await store.collection("tasks").put({"id": "a"})
    async with statepath.open(tmp_path / "state") as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}
        assert store.damage == ()
    async with statepath.open(tmp_path / "state", readonly=True) as store:
        assert await store.collection("tasks").count() == 1


async def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(InvalidArgumentError):
        await statepath.open(tmp_path / "state")


async def test_documents_are_archived_and_read_from_there(tmp_path: Path) -> None:
    async with statepath.open(tmp_path / "state") as store:
        await store.collection("tasks").put({"id": "a"})
        await store.archive("tasks", older_than="0s")
        assert await store.read_archived("tasks", "a") == {"id": "a"}


async def test_a_backup_is_exported(tmp_path: Path) -> None:
    async with statepath.open(tmp_path / "state") as store:
        await store.collection("tasks").put({"id": "a"})
        await store.export(tmp_path / "file")
    assert (tmp_path / "file").stat().st_size > 0
