"""Whoever can write to the storage can destroy an encrypted store, and cannot change what it says."""

from __future__ import annotations

import random

import pytest
import statepath
from msgspec.structs import replace
from statepath.commit import seal
from statepath.encryption.keyring import read_ring
from statepath.encryption.sealing import HEADER
from statepath.errors import ConfigurationError, CorruptionError
from statepath.events import CorruptionDetected, Events
from statepath.settings import Settings

pytestmark = pytest.mark.slow

SEED = 20261125


@pytest.fixture
async def made(folder, fill, contents):
    """A store that was closed, what it holds, and its files."""
    async with folder.open() as store:
        await fill(store)
        held = await contents(store)
    stored = await folder.everything()
    return folder, held, {key: data for key, data in stored.items() if key != "lock"}


async def noticed(place, key):
    """Whether opening the store to read it, or verifying it, tells that something is wrong."""
    told = []
    events = Events()
    events.on(CorruptionDetected, told.append)
    try:
        async with place.open(readonly=True, events=events) as store:
            return bool(told) or any(one.severity == "damage" for one in await store.verify())
    except (CorruptionError, ConfigurationError):
        return True


def picked(stored, times):
    """Some places of each object: each of a header's kinds, and others."""
    rng = random.Random(SEED)
    for key, data in stored.items():
        places = {0, 8, 24, 56, HEADER, len(data) - 1}
        places |= {rng.randrange(len(data)) for _ in range(times)}
        for at in sorted(at for at in places if at < len(data)):
            yield key, at, rng.randrange(8)


@pytest.mark.parametrize("times", [2, 40])
async def test_a_flipped_bit_is_noticed_wherever_it_is(made, times):
    place, _, stored = made
    for key, at, bit in picked(stored, times):
        damaged = bytearray(stored[key])
        damaged[at] ^= 1 << bit
        await place.write(key, bytes(damaged))
        assert await noticed(place, key), (key, at, bit)
        await place.write(key, stored[key])
    assert not await noticed(place, "")


async def test_an_object_that_was_cut_is_noticed(made):
    place, _, stored = made
    for key, data in stored.items():
        for end in (0, len(data) // 2, len(data) - 1):
            await place.write(key, data[:end])
            assert await noticed(place, key), (key, end)
        await place.write(key, data)


async def test_objects_that_were_exchanged_are_noticed(made, canary):
    place, _, stored = made
    async with place.open() as store:
        await store.save_report("s", {canary: 1})
        await store.save_report("r", {canary: 2})
    stored = await place.everything()
    pairs = [("reports/r.json", "reports/s.json"), ("reports/r.json", "journal/floor")]
    logs = [key for key in stored if key.startswith("logs/")]
    pairs.append((logs[0], logs[1]))
    backups = [key for key in stored if key.startswith("state.backup.")]
    pairs.append((backups[0], backups[1]))
    for one, other in pairs:
        await place.write(one, stored[other])
        await place.write(other, stored[one])
        assert await noticed(place, one), (one, other)
        await place.write(one, stored[one])
        await place.write(other, stored[other])
    assert not await noticed(place, "")


async def test_plain_text_in_the_place_of_any_object_is_refused(made):
    place, _, stored = made
    plain = b'{"version":"1.0.0","seq":99,"tasks":[{"id":"evil"}]}'
    for key in stored:
        await place.write(key, plain)
        assert await noticed(place, key), key
        await place.write(key, stored[key])


async def test_the_snapshot_of_a_plain_store_is_not_taken(made, contents, tmp_path):
    place, held, _ = made
    async with statepath.open(tmp_path / "evil", autosave=0) as store:
        await store.collection("tasks").put({"id": "evil"})
    await place.write("state.json", (tmp_path / "evil" / "state.json").read_bytes())
    async with place.open() as store:
        assert await contents(store) == held
        assert [damage.key for damage in store.damage] == ["state.json"]
    kept = [key for key in await place.everything() if key.startswith("state.json.corrupt.")]
    assert len(kept) == 1


async def test_an_object_of_another_store_is_refused_though_the_key_is_the_same(made, memory):
    place, _, _ = made
    memory.key = place.key
    async with memory.open() as store:
        await store.save_report("r", {})
    await place.write("reports/r.json", await memory.read("reports/r.json"))
    assert await noticed(place, "reports/r.json")


async def test_a_damaged_snapshot_loses_nothing(made, contents):
    place, held, stored = made
    damaged = bytearray(stored["state.json"])
    damaged[len(damaged) // 2] ^= 1
    await place.write("state.json", bytes(damaged))
    async with place.open() as store:
        assert await contents(store) == held
        assert [damage.key for damage in store.damage] == ["state.json"]
        assert await store.verify() == []
    async with place.open() as store:
        assert await contents(store) == held


async def test_a_record_put_back_in_the_journal_is_refused(memory):
    async with memory.open() as store:
        for n in range(3):
            await store.collection("tasks").put({"id": "a", "n": n})
        slots = sorted(key for key in await memory.everything() if key.startswith("journal/0"))
        await store._engine.release()
    _, two, three = slots
    await memory.write(three, await memory.read(two))
    async with memory.open(readonly=True) as store:
        assert store.damage or await store.verify()
        assert (await store.collection("tasks").get("a") or {"n": 1})["n"] == 1


async def test_a_plain_record_in_the_journal_is_refused(memory):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store._engine.release()
    async with statepath.open("memory://plain-twin", autosave=0) as store:
        await store.collection("tasks").put({"id": "evil"})
        slot = "journal/00000000000000000001.jsonl"
        plain = await store._engine.backend.read(slot)
    await memory.write(slot, plain.data)
    async with memory.open(readonly=True) as store:
        assert await store.collection("tasks").get("evil") is None
        assert "it is plain" in store.damage[0].reason


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
async def test_a_key_ring_that_was_altered_opens_nothing(made, at):
    place, _, stored = made
    damaged = bytearray(stored["keyring.json"])
    damaged[int(len(damaged) * at)] ^= 1
    await place.write("keyring.json", bytes(damaged))
    with pytest.raises(CorruptionError, match=r"keyring\.json is damaged"):
        await place.open()


@pytest.mark.parametrize(
    "change",
    [
        lambda ring: {"keys": ring.keys[::-1]},
        lambda ring: {"keys": ring.keys[1:]},
        lambda ring: {"rotating": True},
        lambda ring: {"converting": "encrypt"},
        lambda ring: {"store": "00" * 16},
    ],
    ids=["another primary", "a key less", "rotating", "converting", "another store"],
)
async def test_a_key_ring_that_was_forged_opens_nothing(folder, change):
    async with folder.open() as store:
        await store.rotate_key()
    backend = await folder.raw()
    ring, _ = await read_ring(backend)
    await backend.write("keyring.json", bytes(seal(replace(ring, **change(ring)))))
    await backend.close()
    with pytest.raises(CorruptionError, match=r"keyring\.json is damaged"):
        await folder.open()


@pytest.fixture
async def altered_log(memory):
    """A store with a session log whose first object was altered, and that object."""
    async with memory.open() as store:
        await store.append_log("s", "one\n")
        await store.append_log("s", "two\n")
    key = next(key for key in sorted(await memory.everything()) if key.startswith("logs/"))
    data = bytearray(await memory.read(key))
    data[-1] ^= 1
    await memory.write(key, bytes(data))
    return memory, key, bytes(data)


async def test_a_session_log_that_cannot_be_opened_is_told_and_repaired(altered_log):
    place, key, altered = altered_log
    async with place.open(readonly=True) as store:
        found = await store.verify()
    assert [one.key for one in found] == ["logs/session_s.log", key]
    done = await statepath.repair(place.url, settings=Settings(encryption_key=place.key))
    assert done.left == ()
    assert altered in [await place.read(kept) for kept in done.kept]
    async with place.open() as store:
        assert await store.read_log("s") == "one\ntwo\n"
        assert await store.verify() == []


async def test_a_session_log_that_cannot_be_opened_can_be_removed(altered_log):
    place, *_ = altered_log
    async with place.open() as store:
        await store.delete_log("s")
        assert await store.logs() == []
        assert await store.verify() == []
