"""The process ends between any two steps of a recovery or an upgrade: the next opening completes it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from statepath.errors import StateError
from statepath.events import StoreUpgraded

pytestmark = pytest.mark.slow

SEGMENT = "journal/00000000000000000001.jsonl"


async def everything(store: Any) -> dict[str, Any]:
    """The documents and members of a store."""
    found: dict[str, Any] = {
        name: {document["id"]: document async for document in store.collection(name)}
        for name in store.collections()
    }
    return found | {"members": await store.members()}


async def interrupted_anywhere(place: Any, disk: Any, check: Any) -> int:
    """Open copies of the place on a disk that dies at each of its changes in turn, then on a sound one; how often."""
    number = 0
    while True:
        copy = place.copy("interrupted")
        dying = disk(first=number)
        try:
            async with copy.open(dying):
                pass
        except StateError:
            pass
        if not dying.failed:
            await check(copy, number)
            return number
        async with copy.open() as store:
            await check_usable(store)
        await check(copy, number)
        number += 1


async def check_usable(store: Any) -> None:
    await store.collection("raw").put({"id": "new"})
    await store.collection("raw").delete("new")


@pytest.mark.parametrize("views", [True, False], ids=["with_views", "without_views"])
async def test_beginning_the_log_anew(place, disk, views):
    async with place.open(views=views) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "n": 1})
        await store.snapshot()
        await tasks.put({"id": "b", "n": 2})
        await tasks.put({"id": "a", "n": 3})
        await tasks.put({"id": "c", "n": 4})
        await store.append_log("1", "text\n")
        await store.flush()
        damaged = place.copy("damaged")
    segment = damaged.path / SEGMENT
    lines = segment.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"n":3', b'"n":9')
    segment.write_bytes(b"".join(lines))
    want = {"a": 3, "b": 2, "c": 4} if views else {"a": 1, "b": 2}

    async def check(place, number):
        async with place.open() as store:
            assert {task["id"]: task["n"] async for task in store.collection("tasks")} == want, number
            assert await store.read_log("1") == "text\n", number
            assert await store.verify() == [], number
            assert (await store.health()).damage == (), number

    assert await interrupted_anywhere(damaged, disk, check) > 10


async def test_rebuilding_after_the_snapshot_was_damaged(place, disk):
    async with place.open() as store:
        for n in range(3):
            await store.collection("tasks").put({"id": "a", "n": n})
            await store.snapshot()
    (place.path / "state.json").write_bytes(b"{")

    async def check(place, number):
        async with place.open() as store:
            assert await store.collection("tasks").get("a") == {"id": "a", "n": 2}, number
            assert await store.verify() == [], number

    assert await interrupted_anywhere(place, disk, check) > 5


async def test_a_restore_by_copying_a_backup(place, disk):
    async with place.open() as store:
        for n in range(3):
            await store.collection("tasks").put({"id": "a", "n": n})
            await store.snapshot()
    backup = min(place.path.glob("state.backup.*"))
    shutil.copyfile(backup, place.path / "state.json")

    async def check(place, number):
        async with place.open() as store:
            assert await store.collection("tasks").get("a") == {"id": "a", "n": 0}, number
            assert await store.verify() == [], number
        async with place.open() as store:
            await store.restore(at=3)
            assert await store.collection("tasks").get("a") == {"id": "a", "n": 2}, number

    assert await interrupted_anywhere(place, disk, check) > 5


async def test_adopting_an_edit(place, disk):
    async with place.open() as store:
        for id in "ab":
            await store.collection("tasks").put({"id": id, "n": 1})
    for id in "ab":
        file = place.path / f"tasks/{id}.json"
        file.write_bytes(file.read_bytes().replace(b'"n": 1', b'"n": 2'))

    async def check(place, number):
        async with place.open() as store:
            assert {task["id"]: task["n"] async for task in store.collection("tasks")} == {"a": 2, "b": 2}, (
                number
            )
            await store.flush()
        assert not [name for name in place.names() if ".conflict." in name], number

    assert await interrupted_anywhere(place, disk, check) > 5


def original(path: Path) -> dict[str, Any]:
    """A small directory of the original server: one task is newer in its own file, one is only there, and one has an
    id that does not go into a file's name as it is."""
    tasks = [
        {"id": "task_1", "updated_at": "2025-01-02", "n": 2},
        {"id": "task_2", "updated_at": "2025-01-01", "n": 1},
        {"id": "Task_3", "updated_at": "2025-01-01", "n": 1},
    ]
    (path / "tasks").mkdir(parents=True)
    metrics = {"total_tasks": 3}
    state = {"tasks": tasks, "sessions": [{"id": "s", "status": "busy"}], "metrics": metrics}
    (path / "state.json").write_text(json.dumps(state, indent=2))
    files = [
        {"id": "task_1", "updated_at": "2025-01-01", "n": 1},
        {"id": "task_2", "updated_at": "2025-01-03", "n": 3},
        tasks[2],
        {"id": "task_4", "updated_at": "2025-01-01", "n": 1},
    ]
    for task in files:
        (path / f"tasks/{task['id']}.json").write_text(json.dumps(task, indent=2))
    return {
        "tasks": {"task_1": tasks[0], "task_2": files[1], "Task_3": tasks[2], "task_4": files[3]},
        "sessions": {"s": state["sessions"][0]},
        "members": {"metrics": metrics},
    }


@pytest.mark.parametrize("state", ["whole", "broken", "missing"])
async def test_upgrading_an_original_directory(place, disk, state):
    want = original(place.path)
    before = (place.path / "state.json").read_bytes()
    (place.path / "state.backup.1700000000000.json").write_bytes(before)
    if state == "broken":
        (place.path / "state.json").write_bytes(before[:100])
    elif state == "missing":
        (place.path / "state.json").unlink()

    async def check(place, number):
        place.heard.clear()
        async with place.open() as store:
            assert await everything(store) == want, number
            await store.flush()
            assert await store.verify() == [], number
        assert (place.path / "state.pre-migration.backup.json").read_bytes() == before, number
        names = place.names()
        assert not [name for name in names if ".conflict." in name], number
        assert [name for name in names if name.startswith("tasks/")] == [
            "tasks/%54ask_3.json", "tasks/task_1.json", "tasks/task_2.json", "tasks/task_4.json",
        ], number  # fmt: skip
        assert place.told(StoreUpgraded) == [], number

    assert await interrupted_anywhere(place, disk, check) > 20
