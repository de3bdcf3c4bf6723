"""Only the documents' own files are left, or little more."""

from __future__ import annotations

from typing import Any

import pytest
from statepath.engine.ids import log_key
from statepath.engine.recovery import measure_logs
from statepath.engine.replica import Replica
from statepath.events import CorruptionDetected, DocumentRecovered


@pytest.fixture
async def left(folder: Any, fill: Any) -> Any:
    """A store that was closed; its views are all written."""
    async with folder.open() as store:
        await fill(store)
        await store.flush()
    folder.heard.clear()
    return folder


def remove(place: Any, *, floor: bool = True) -> None:
    """Remove the snapshot, the backups and the journal."""
    for name in place.names():
        if name.startswith(("state.", "journal/")) and (floor or name != "journal/floor"):
            place.remove(name)


@pytest.mark.parametrize("floor", [True, False], ids=["with_floor", "without_floor"])
async def test_the_documents_come_back_from_their_own_files(left, contents, floor):
    async with left.open(readonly=True) as store:
        held, head = await contents(store), store.seq
    remove(left, floor=not floor)
    async with left.open() as store:
        # A member of the state that is no document has no file of its own.
        assert await contents(store) == held | {"members": {}}
        assert store.seq >= (head if floor else 1)
        assert (await store.health()).damage
        await store.append_log("s/1", "fourth\n")
        assert await store.read_log("s/1") == held["logs"]["s/1"] + "fourth\n"
    assert left.told(CorruptionDetected)
    async with left.open() as store:
        found = await contents(store)
        assert found["tasks"] == held["tasks"]
        assert await store.verify() == []
        assert (await store.health()).damage == ()


async def test_each_document_that_came_back_is_told(left):
    remove(left)
    async with left.open():
        pass
    assert {told.key for told in left.told(DocumentRecovered)} == {
        "tasks/task_1",
        "tasks/first",
        "tasks/second",
        "tasks/third",
        "raw/raw",
    }


async def test_a_file_that_cannot_be_read_is_kept_aside_and_the_others_come_back(left):
    remove(left)
    left.write("tasks/first.json", bad := left.read("tasks/first.json")[:20])
    async with left.open() as store:
        assert await store.collection("tasks").get("first") is None
        assert await store.collection("tasks").get("second") is not None
    (kept,) = [told.kept_as for told in left.told(CorruptionDetected) if told.key == "tasks/first.json"]
    assert left.read(kept) == bad


async def test_a_file_that_a_person_edited_counts_as_they_left_it(left):
    remove(left)
    left.write("tasks/third.json", left.read("tasks/third.json").replace("ä".encode(), b"edited"))
    async with left.open() as store:
        assert (await store.collection("tasks").get("third"))["text"] == "edited/\\"


async def test_what_the_journal_still_has_is_put_on_top_of_them(left):
    async with left.open(views=False) as store:
        await store.collection("tasks").put({"id": "third", "text": "newer"})
        await store.collection("tasks").append("task_1", "logs", "fourth")
        await store.collection("tasks").delete("second")
        await store.collection("tasks").put({"id": "fourth"})
        await store.append_log("2", "new\n")
        place = left.copy("killed")
    # A trimmed journal does not reach back to the beginning.
    (segment,) = place.names("journal/0")
    lines = place.read(segment).rstrip(b" ").splitlines(keepends=True)
    place.remove(segment)
    remove(place)
    place.write(f"journal/{22:020d}.jsonl", b"".join(lines[-5:]))
    async with place.open() as store:
        tasks = store.collection("tasks")
        assert (await tasks.get("third"))["text"] == "newer"
        assert (await tasks.get("task_1"))["logs"] == ["third", "fourth"]
        assert await tasks.get("second") is None
        assert await tasks.get("fourth") == {"id": "fourth"}
        assert await store.read_log("2") == "new\n"
    async with place.open() as store:
        assert await store.verify() == []


async def test_files_of_another_store_are_taken_for_documents_made_by_hand(left, tmp_path):
    other = type(left)(str(tmp_path / "other"))
    async with other.open() as store:
        await store.collection("tasks").put({"id": "theirs"})
    left.write("tasks/theirs.json", other.read("tasks/theirs.json"))
    remove(left, floor=False)
    async with left.open() as store:
        assert await store.collection("tasks").get("theirs") == {"id": "theirs"}
        assert "tasks/theirs" not in {told.key for told in left.told(DocumentRecovered)}


async def test_a_file_of_a_long_name_that_is_ahead_of_the_log_is_not_written_over(memory):
    id = "S" * 80
    async with memory.open() as store:
        await store.append_log(id, "one\n")
        await store.flush()
        backend, replica = store._engine.backend, Replica()
        await backend.write(f"{log_key(id)}/{4:020d}", b"two\n")
        replica.logs[id] = 4
        await measure_logs(backend, replica)
        assert replica.logs == {id: 8}
