"""What cannot be opened any more stands in the way of what replaces it as little as in a plain store."""

from __future__ import annotations

from statepath.events import CorruptionDetected, Events


async def test_a_damaged_report_is_replaced_and_holds_nothing_up(memory):
    async with memory.open() as store:
        await store.save_report("1", {"n": 1})
        await memory.flip("reports/1.json")
        await store.save_report("1", {"n": 2})
        await store.append_log("s", "behind\n")
        await store.snapshot()
        assert await store.read_report("1") == {"n": 2}
        assert await store.read_log("s") == "behind\n"
        assert await store.verify() == []


async def test_a_damaged_report_is_removed(memory):
    async with memory.open() as store:
        await store.save_report("1", {"n": 1})
        await memory.flip("reports/1.json")
        await store.delete_report("1")
        assert await store.reports() == []
        assert await store.verify() == []


async def test_the_damaged_file_of_a_document_is_replaced_or_removed_with_it(memory):
    async with memory.open(views=True) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "n": 1})
        await tasks.put({"id": "b", "n": 1})
        await store.flush()
        await memory.flip("tasks/a.json")
        await memory.flip("tasks/b.json")
        await tasks.put({"id": "a", "n": 2})
        await tasks.delete("b")
        await store.flush()
        assert await store.verify() == []
    assert "tasks/b.json" not in await memory.everything()


async def test_a_snapshot_that_was_damaged_since_is_kept_aside_and_replaced(memory):
    told, events = [], Events()
    events.on(CorruptionDetected, told.append)
    async with memory.open(events=events) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
        await store.snapshot()
        await memory.flip("state.json")
        await store.collection("raw").put({"id": "a", "n": 2})
        await store.snapshot()
        assert await store.verify() == []
        (event,) = told
        assert event.key == "state.json"
        assert event.kept_as.startswith("state.json.corrupt.")
        assert event.kept_as in await memory.everything()
