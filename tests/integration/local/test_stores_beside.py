"""Several handles that have one folder open as a store: what people see of it, and who does what is done once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import statepath
from statepath.errors import StoreLockedError


@pytest.fixture
async def stores(path: Path) -> AsyncIterator[tuple[statepath.Store, statepath.Store]]:
    """Two handles that write to one folder; the first one opened it."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(statepath.open(path, autosave=0))
        yield one, await stack.enter_async_context(statepath.open(path, autosave=0))


Stores = tuple[statepath.Store, statepath.Store]


async def test_each_ones_documents_have_their_files(stores: Stores, path: Path) -> None:
    for number, store in enumerate(stores):
        await store.collection("tasks").put({"id": f"task_{number}", "by": number})
        await store.flush()
    for number in range(2):
        assert json.loads((path / f"tasks/task_{number}.json").read_bytes())["by"] == number


async def test_a_file_is_never_replaced_by_an_earlier_version(stores: Stores, path: Path) -> None:
    one, two = stores
    for n in range(20):
        await (one if n % 2 else two).collection("tasks").put({"id": "task_1", "n": n})
    await asyncio.gather(one.flush(), two.flush())
    assert json.loads((path / "tasks/task_1.json").read_bytes())["n"] == 19
    await two.collection("tasks").delete("task_1")
    await asyncio.gather(one.flush(), two.flush())
    assert not (path / "tasks/task_1.json").exists()


async def test_pieces_of_one_log_stand_in_the_order_of_the_commits(stores: Stores, path: Path) -> None:
    one, two = stores
    await asyncio.gather(
        *(store.append_log("s1", f"{number}:{n}\n") for n in range(30) for number, store in enumerate(stores))
    )
    await asyncio.gather(one.flush(), two.flush())
    lines = (path / "logs/session_s1.log").read_text().split()
    assert sorted(lines) == sorted(f"{number}:{n}" for n in range(30) for number in range(2))
    assert "".join(f"{line}\n" for line in lines) == await one.read_log("s1")
    await one.append_log("s1", "more\n")
    await two.append_log("s1", "and more\n")
    await asyncio.gather(one.flush(), two.flush())
    assert (path / "logs/session_s1.log").read_text().split("\n")[-3:] == ["more", "and more", ""]


async def test_an_edited_file_is_adopted_when_nobody_else_is_there(path: Path) -> None:
    async with statepath.open(path, autosave=0) as one:
        await one.collection("tasks").put({"id": "task_1", "status": "pending"})
        await one.flush()
        file = path / "tasks/task_1.json"
        file.write_text(file.read_text().replace("pending", "edited"))
        async with statepath.open(path, autosave=0) as two:
            assert await two.collection("tasks").get("task_1") == {"id": "task_1", "status": "pending"}
        assert "edited" in file.read_text()
    async with statepath.open(path, autosave=0) as alone:
        assert await alone.collection("tasks").get("task_1") == {"id": "task_1", "status": "edited"}


async def test_a_change_of_one_is_told_to_who_watches_the_other(stores: Stores) -> None:
    one, two = stores
    watching = two.watch(since=0)
    for n in range(3):
        seq = await one.collection("tasks").put({"id": "task_1", "n": n})
        change = await anext(watching)
        assert (change.seq, change.value) == (seq, {"id": "task_1", "n": n})
    await watching.aclose()


async def test_a_fresh_read_sees_what_another_one_acknowledged(stores: Stores) -> None:
    one, two = stores
    for n in range(5):
        await one.collection("tasks").put({"id": "task_1", "n": n})
        assert await two.collection("tasks").get("task_1", fresh=True) == {"id": "task_1", "n": n}


async def test_both_save_and_close_in_any_order(path: Path) -> None:
    for first in range(2):
        opened = [await statepath.open(path, autosave=0) for _ in range(2)]
        for number, store in enumerate(opened):
            await store.collection("tasks").put({"id": f"task_{number}", "first": first})
            await store.snapshot()
        await opened[first].aclose()
        await opened[1 - first].collection("tasks").put({"id": "last", "first": first})
        await opened[1 - first].aclose()
    async with statepath.open(path, readonly=True) as store:
        assert store.damage == ()
        assert await store.verify() == []
        assert json.loads((path / "state.json").read_bytes())["seq"] == store.seq == 6


async def test_repair_is_for_who_is_alone(stores: Stores, path: Path) -> None:
    one, _ = stores
    await one.collection("tasks").put({"id": "task_1"})
    await one.backup()
    backup = next(path.glob("state.backup.*"))
    backup.write_bytes(b"{}")
    with pytest.raises(StoreLockedError, match="nobody writes"):
        await statepath.repair(path)
    assert backup.read_bytes() == b"{}"
