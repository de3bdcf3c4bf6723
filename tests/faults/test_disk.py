"""A disk that is full, or fails: what was acknowledged stays, and the store goes on when it can."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest
from statepath.errors import OutcomeUnknownError, StateError, UnavailableError
from statepath.events import SaveError

pytestmark = pytest.mark.slow

GROWS = ("pwrite", "writev", "fallocate", "mkdir", "link", "rename")
"""Calls for which a full disk has no space. Creating a file is one, too."""


async def save(store: Any, n: int) -> None:
    """Every kind of change."""
    tasks = store.collection("tasks")
    await tasks.put({"id": "a", "n": n, "items": []})
    await tasks.append("a", "items", n)
    async with store.transaction() as tx:
        tx.put(tasks, {"id": "b", "n": n})
        tx.delete(tasks, "c")
        tx.put(store.collection("raw"), {"id": "b", "n": n})
    await tasks.put({"id": "c", "n": n})
    await store.append_log("1", f"{n}\n")
    await store.save_report("r", {"n": n})
    await store.snapshot()


async def state_of(store: Any) -> dict[str, Any]:
    return {
        f"{name}/{document['id']}": document
        for name in ("tasks", "raw")
        async for document in store.collection(name)
    }


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
async def test_a_save_for_which_there_is_no_space_is_refused_and_the_next_goes_on(place, disk, code):
    port = disk(error=code, names=GROWS)
    async with place.open(port, views=False) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a"})
        port.fail_from_now()
        results = await asyncio.gather(*(tasks.put({"id": str(n)}) for n in range(5)), return_exceptions=True)
        for result in results:
            assert isinstance(result, UnavailableError)
            assert (result.code, result.retryable) == ("disk_full", True)
        assert await tasks.count() == 1
        port.heal()
        assert (await store.health()).writable
        assert await tasks.put({"id": "b"}) == 2
    async with place.open() as store:
        assert set(await state_of(store)) == {"tasks/a", "tasks/b"}
        assert await store.verify() == []


@pytest.mark.parametrize("times", [1, None], ids=["once", "for_good"])
async def test_space_that_ends_at_any_call_loses_nothing(place, disk, times):
    """The space ends at the n-th call that needs some; for good means: until the test frees some."""
    number = 0
    while True:
        here = type(place)(place.path.with_name(f"full{number}"))
        port = disk(error=errno.ENOSPC, names=(*GROWS, "open"))
        async with here.open(port) as store:
            await save(store, 1)
            before = await state_of(store)
            port.first = port.changes + number
            port.last = None if times is None else port.first
            failure: StateError | None = None
            try:
                await save(store, 2)
            except StateError as error:
                failure = error
            shown = await state_of(store)
            reached = port.failed
            port.heal()
            if failure is not None:
                assert failure.code == "disk_full", (number, failure)
                assert store.seq >= 6
                assert (await store.health()).writable, number
            await save(store, 3)
            assert await store.read_log("1") in ("1\n3\n", "1\n2\n3\n"), number
            after = await state_of(store)
            await store.flush()
        assert set(before) == set(shown) | {"tasks/c"} or set(before) == set(shown), number
        async with here.open() as store:
            assert await state_of(store) == after, number
            assert await store.verify() == [], number
        if not reached:
            break
        number += 1
    assert number > 10


async def test_after_a_failed_sync_nobody_is_told_that_a_save_is_durable(place, disk):
    port = disk(names=("fdatasync",))
    async with place.open(port, views=False) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "before"})
        port.fail_from_now(times=1)
        saves = [asyncio.create_task(tasks.put({"id": str(n)})) for n in range(8)]
        results = await asyncio.gather(*saves, return_exceptions=True)
        assert {type(result) for result in results} == {OutcomeUnknownError}
        # The next sync would succeed, and mean nothing.
        with pytest.raises(OutcomeUnknownError, match="open the store again"):
            await tasks.put({"id": "later"})
        assert [task["id"] async for task in tasks] == ["before"]
        health = await store.health()
        assert (health.healthy, health.writable) == (False, False)
        assert health.problems
    assert place.told(SaveError)
    async with place.open() as store:
        found = {task["id"] async for task in store.collection("tasks")}
        # All of the group, or none of it.
        assert found in ({"before"}, {"before", *map(str, range(8))})
        await store.collection("tasks").put({"id": "again"})
        assert await store.verify() == []
        assert (await store.health()).damage == ()


async def test_a_write_that_fails_in_the_middle_of_a_record_is_not_known_either(place, disk):
    port = disk(names=("pwrite",))
    async with place.open(port, views=False) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "before"})
        # The first one only says that the journal is about to be changed.
        port.fail_from_now(times=1, after=1)
        with pytest.raises(OutcomeUnknownError):
            await tasks.put({"id": "a"})
    async with place.open() as store:
        assert {task["id"] async for task in store.collection("tasks")} <= {"before", "a"}
        await store.collection("tasks").put({"id": "again"})


async def test_a_disk_that_dies_at_any_call_leaves_what_was_acknowledged(place, disk):
    number = 0
    while True:
        here = type(place)(place.path.with_name(f"dying{number}"))
        port = disk(first=number)
        acknowledged = 0
        try:
            async with here.open(port) as store:
                for n in range(1, 4):
                    await save(store, n)
                    acknowledged = n
        except StateError:
            pass
        async with here.open() as store:
            found = await state_of(store)
            if acknowledged:
                assert found["tasks/a"]["n"] >= acknowledged, number
                # The next save deletes it before it puts it again.
                assert "tasks/c" in found or found["tasks/b"]["n"] == acknowledged + 1, number
                assert found.get("tasks/b", {}).get("n") == found.get("raw/b", {}).get("n"), number
                log = await store.read_log("1")
                assert log.startswith("".join(f"{n}\n" for n in range(1, acknowledged + 1))), number
            await save(store, 9)
            assert await store.verify() == [], number
        if not port.failed:
            break
        number += 1
    assert number > 50
