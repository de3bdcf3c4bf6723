"""Of several handles on one folder one maintains it, also when the one that did so has died."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import statepath


async def test_a_handle_that_saves_nothing_itself_maintains_what_others_save(path: Path) -> None:
    async with (
        statepath.open(path, autosave=0.05) as idle,
        statepath.open(path, autosave=0.05) as busy,
    ):
        await busy.collection("tasks").put({"id": "a"})
        while not idle._engine.vitals.saved[0]:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
        await busy.collection("tasks").put({"id": "b"})
        await busy.aclose()
    async with statepath.open(path, readonly=True) as store:
        assert (await store.health()).snapshot_seq == 2


async def saved(store: Any, seq: int) -> None:
    """Wait until a snapshot of the handle shows the seq."""
    async with asyncio.timeout(60):
        while store._engine.vitals.saved[0] < seq:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


@pytest.fixture
async def died(path: Path) -> AsyncIterator[Any]:
    """The maintainer, which dies after it has saved something that it knows alone."""
    maintainer = await statepath.open(path, autosave=600, views=False)

    async def dies() -> None:
        await maintainer.collection("tasks").put({"id": "a"})
        await maintainer.append_log("s", "x")
        await maintainer._engine.release()  # its storage is given back, and nothing else is done

    yield dies
    await maintainer.aclose()


async def test_a_handle_that_saves_nothing_itself_takes_over_from_a_maintainer_that_died(
    path: Path, died: Any
) -> None:
    async with statepath.open(path, autosave=0.05) as idle:
        await died()
        await saved(idle, 2)
        await idle.flush()
        assert (path / "tasks" / "a.json").exists()
        assert (path / "logs" / "session_s.log").read_text() == "x"


async def test_a_handle_that_saves_nothing_itself_saves_at_its_end_what_a_dead_maintainer_left(
    path: Path, died: Any
) -> None:
    async with statepath.open(path, autosave=600):
        await died()
    async with statepath.open(path, readonly=True) as store:
        assert (await store.health()).snapshot_seq == 2
    assert (path / "tasks" / "a.json").exists()


@pytest.fixture
async def shown(path: Path) -> AsyncIterator[Any]:
    """A maintainer that dies after it has saved and made a snapshot, which others know, and before it wrote a file."""
    maintainer = await statepath.open(path, autosave=600, views=False)
    await maintainer.collection("tasks").put({"id": "a"})
    await maintainer.snapshot()
    yield maintainer._engine.release
    await maintainer.aclose()


async def test_an_idle_handle_writes_the_files_that_a_dead_maintainer_left_though_it_left_a_snapshot(
    path: Path, shown: Any
) -> None:
    async with statepath.open(path, autosave=0.05):
        await shown()
        async with asyncio.timeout(60):
            while not (path / "tasks" / "a.json").exists():  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("autosave", [0, 600])
async def test_a_handle_writes_at_its_end_the_files_that_a_dead_maintainer_left_though_it_knew_the_documents(
    path: Path, shown: Any, autosave: float
) -> None:
    async with statepath.open(path, autosave=autosave) as survivor:
        assert await survivor.collection("tasks").get("a")
        await shown()
    assert (path / "tasks" / "a.json").exists()


async def test_who_came_first_and_left_the_work_to_others_writes_at_its_end_what_they_left(
    path: Path,
) -> None:
    async with statepath.open(path, autosave=0) as first:
        async with statepath.open(path, autosave=0, views=False) as other:
            await other.collection("tasks").put({"id": "a"})
        await first.sync()
    assert (path / "tasks" / "a.json").exists()


async def test_who_was_never_beside_others_does_not_look_for_their_files_at_its_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})

        async def looked(_: Any) -> None:
            raise AssertionError("all of them are listed for it")

        monkeypatch.setattr(store._engine, "mark_lagging", looked)


async def test_who_saves_nothing_by_time_leaves_that_to_others_though_it_came_first(path: Path) -> None:
    async with statepath.open(path, autosave=0), statepath.open(path, autosave=0.05) as server:
        await server.collection("tasks").put({"id": "a"})
        await saved(server, 1)


async def test_who_takes_over_removes_no_copies_that_a_person_made(path: Path) -> None:
    async with statepath.open(path, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.flush()
        shutil.copytree(path / "tasks", path / "backup")
        async with statepath.open(path, autosave=0) as other:
            await store.aclose()
            assert await other._engine.maintain()
            await other.flush()
    assert (path / "backup" / "a.json").exists()
