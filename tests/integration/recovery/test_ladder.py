"""Whatever single thing is damaged, nothing acknowledged is lost, and it is said what was wrong."""

from __future__ import annotations

from typing import Any

import pytest
import statepath
from statepath.errors import UnavailableError
from statepath.events import CorruptionDetected
from statepath.store import Store

DAMAGE = {
    "bit": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :]
    ),
    "cut": lambda data: data[: len(data) // 2],
    "beginning": lambda data: data[len(data) // 2 :],
    "emptied": lambda data: b"",
    "text": lambda data: b"hello\n",
    "zeros": lambda data: bytes(len(data)),
}


@pytest.fixture(params=DAMAGE)
def damage(request: pytest.FixtureRequest) -> Any:
    return DAMAGE[request.param]


async def test_without_damage_a_kill_loses_nothing_and_there_is_nothing_to_tell(stored, whole):
    place, held = stored
    await whole(place, held)
    assert place.told(CorruptionDetected) == []


async def test_a_damaged_snapshot_loses_nothing(stored, whole, damage):
    place, held = stored
    place.write("state.json", bad := damage(place.read("state.json")))
    await whole(place, held)
    (told,) = place.told(CorruptionDetected)
    assert told.key == "state.json"
    assert told.kept_as.startswith("state.json.corrupt.")
    assert place.read(told.kept_as) == bad


async def test_a_damaged_snapshot_is_reported_by_health_and_replaced(stored, damage):
    place, _ = stored
    place.write("state.json", damage(place.read("state.json")))
    async with place.open() as store:
        assert any("state.json" in sentence for sentence in (await store.health()).damage)
    async with place.open(readonly=True) as store:
        assert (await store.health()).damage == ()


async def test_a_missing_snapshot_is_rebuilt_and_told(stored, whole):
    place, held = stored
    place.remove("state.json")
    await whole(place, held)
    assert [(told.key, told.kept_as) for told in place.told(CorruptionDetected)] == [("state.json", None)]


async def test_a_damaged_snapshot_and_a_damaged_backup_lose_nothing(stored, whole, damage):
    place, held = stored
    for key in ("state.json", place.names("state.backup.")[-1]):
        place.write(key, damage(place.read(key)))
    await whole(place, held)
    told = place.told(CorruptionDetected)
    assert {event.key.partition(".2")[0] for event in told} == {"state.json", "state.backup"}
    assert all(event.kept_as in place.names() for event in told)


async def test_without_any_snapshot_the_journal_alone_gives_everything(stored, whole):
    place, held = stored
    for key in ("state.json", *place.names("state.backup.")):
        place.remove(key)
    await whole(place, held)
    assert place.told(CorruptionDetected)


async def test_a_damaged_floor_is_rebuilt_and_told(stored, whole, damage):
    place, held = stored
    place.write("journal/floor", bad := damage(place.read("journal/floor")))
    await whole(place, held)
    (told,) = place.told(CorruptionDetected)
    assert told.key == "journal/floor"
    assert place.read(told.kept_as) == bad


async def test_a_missing_floor_is_rebuilt_and_told(stored, whole):
    place, held = stored
    place.remove("journal/floor")
    await whole(place, held)
    assert [(told.key, told.kept_as) for told in place.told(CorruptionDetected)] == [("journal/floor", None)]


async def five(memory, after, save=None):
    """A killed store of five commits, which was saved after so many of them."""
    async with memory.open() as store:
        for n in range(1, 6):
            await store.collection("raw").put({"id": str(n)})
            if n == after:
                await save(store)
        return memory.copy("killed")


async def test_after_a_recovery_of_the_log_its_snapshot_is_kept_twice(memory):
    """The log begins behind it, so nothing else has what it shows."""
    killed = await five(memory, 1, Store.backup)
    killed.write(killed.names("journal/0")[3], b"rot")
    async with killed.open() as store:
        await store.collection("raw").put({"id": "later"})
    killed.write("state.json", b"rot")
    async with killed.open() as store:
        assert [one["id"] async for one in store.collection("raw").find()] == ["1", "2", "3", "later"]


async def test_one_that_was_interrupted_before_that_is_finished_by_the_next_opener(memory):
    killed = await five(memory, 0)
    killed.write(killed.names("journal/0")[3], b"rot")
    async with killed.open() as store:
        for key in killed.names("state.backup."):
            killed.remove(key)
        interrupted = killed.copy("interrupted")
    assert interrupted.names("state.backup.") == []
    async with interrupted.open():
        pass
    interrupted.write("state.json", b"rot")
    async with interrupted.open() as store:
        assert [one["id"] async for one in store.collection("raw").find()] == ["1", "2", "3"]


async def test_a_copy_whose_first_backup_cannot_be_written_opens_all_the_same(memory, monkeypatch):
    async with memory.open() as store:
        await store.collection("raw").put({"id": "a"})
    copied = f"{memory.url}-copied"
    await statepath.copy(memory.url, copied)

    async def full(*_):
        raise UnavailableError("there is no space", code="disk_full")

    monkeypatch.setattr("statepath.engine.snapshotter.Snapshotter.backup", full)
    async with statepath.open(copied, autosave=0) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}


@pytest.mark.parametrize("also", [None, "state.json"])
async def test_a_damaged_floor_does_not_bar_the_recovery_of_a_damaged_log(memory, damage, also):
    """On the portable log: it reads its own record where it takes a place."""
    killed = await five(memory, 2, Store.snapshot)
    lost = killed.names("journal/0")[3]
    bad = {key: damage(killed.read(key)) for key in ("journal/floor", lost, *([also] if also else []))}
    for key, data in bad.items():
        killed.write(key, data)
    async with killed.open() as store:
        assert [one["id"] async for one in store.collection("raw").find()] == ["1", "2", "3"]
    told = {event.key: event for event in reversed(killed.told(CorruptionDetected))}
    assert bad.keys() <= told.keys()
    assert killed.read(told["journal/floor"].kept_as) == bad["journal/floor"]
    async with killed.open() as store:
        assert (store.damage, await store.verify()) == ((), [])


async def test_everything_gone_is_an_empty_store(stored):
    place, _ = stored
    for key in place.names():
        if key != "lock":
            place.remove(key)
    async with place.open() as store:
        assert store.seq == 0
        assert (await store.stats()).documents == {}
        await store.collection("tasks").put({"id": "a"})
    assert place.told(CorruptionDetected) == []


async def test_a_snapshot_of_another_store_is_kept_aside(stored, whole):
    place, held = stored
    other = type(place)(f"{place.url}-other")
    async with other.open() as store:
        await store.collection("tasks").put({"id": "theirs"})
    place.write("state.json", theirs := other.read("state.json"))
    await whole(place, held)
    (told,) = place.told(CorruptionDetected)
    assert "another store" in told.reason
    assert place.read(told.kept_as) == theirs
