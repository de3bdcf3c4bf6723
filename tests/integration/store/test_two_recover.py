"""What two writers make of a store that was changed or damaged by hand, where both of them open it at once."""

import asyncio

import pytest
import statepath
from statepath.engine.backups import backup_keys


async def contents(store):
    return {document["id"]: document async for document in store.collection("raw")}


@pytest.fixture
async def replaced(store, memory):
    """The documents of the backup of seq 1 by which a person replaced the `state.json` of seq 2."""
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    held = await contents(store)
    await store.collection("raw").put({"id": "b"})
    await store.snapshot()
    (backup,) = await backup_keys(memory)
    await memory.write("state.json", (await memory.read(backup)).data)
    return held


@pytest.mark.parametrize("saves", [0, 1, 2])
@pytest.mark.parametrize(("method", "prefix"), [("list", "state.backup."), ("write", "journal/0")])
async def test_a_backup_in_the_place_of_state_json_is_restored_once(
    url, replaced, faulty, open_on, method, prefix, saves
):
    gate = faulty.hold(method, prefix)
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        assert await contents(first) == replaced
        for n in range(saves):
            await first.collection("raw").put({"id": f"saved_{n}"})
            await first.snapshot()
        await first.collection("raw").put({"id": "new"})
        gate.open()
        slower = await opening
        assert (slower.seq, await contents(slower)) == (first.seq, await contents(first))


async def test_a_backup_that_was_restored_and_not_saved_yet_is_not_restored_again(
    store, url, replaced, faulty, open_on
):
    gate = faulty.hold("write", "state.json")
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    await store.collection("raw").put({"id": "new"})
    async with statepath.open(url, autosave=0) as second:
        assert await contents(second) == replaced | {"new": {"id": "new"}}
    gate.open()
    assert (await opening).seq == 4
