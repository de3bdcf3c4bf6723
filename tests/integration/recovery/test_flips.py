"""One bit of what is stored is flipped, wherever it is."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
import statepath.memory
from statepath.engine.floor import read_floor
from statepath.engine.restoring import past
from statepath.engine.snapshot import is_ours, load_snapshot
from statepath.errors import CorruptionError
from statepath.events import CorruptionDetected

pytestmark = pytest.mark.slow


@pytest.fixture
def flipped(stored: Any) -> Any:
    """Flips a bit of every so many bytes of a file, one at a time, and calls for what follows."""
    place, _ = stored

    async def flipped(name: str, step: int, check: Any) -> None:
        data = place.read(name)
        bits = cycle(range(8))
        # The rest of a segment is filled with white space, and not used yet.
        for at in range(0, len(data.rstrip(b" ")), step):
            damaged = bytearray(data)
            damaged[at] ^= 1 << next(bits)
            place.write(name, bytes(damaged))
            async with place.open(readonly=True) as store:
                await check(store, at)
            place.heard.clear()
        place.write(name, data)

    return flipped


@pytest.mark.parametrize("name", ["state.json", "journal/floor"])
async def test_a_flipped_bit_is_noticed_and_loses_nothing(stored, contents, flipped, name):
    place, held = stored

    async def check(store, at):
        assert await contents(store) == held, at
        assert any(told.key == name for told in place.told(CorruptionDetected)), at

    await flipped(name, 41, check)


async def test_a_flipped_bit_in_a_backup_harms_nobody_who_does_not_need_it(stored, contents, flipped):
    place, held = stored

    async def check(store, at):
        assert await contents(store) == held, at

    await flipped(place.names("state.backup.")[-1], 97, check)


async def test_each_bit_of_a_snapshot_and_of_the_floor_is_watched_over(folder, fill, memory):
    async with folder.open() as store:
        await fill(store)
    backend = await statepath.memory.factory.connect(statepath.memory.MemoryConfig(memory.name))
    for name, load in (("state.json", load_state), ("journal/floor", load_floor)):
        data = folder.read(name)
        for bit in range(8 * len(data)):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            await backend.write(name, bytes(damaged))
            with pytest.raises(CorruptionError):
                await load(backend)


async def load_state(backend):
    data = (await backend.read("state.json")).data
    assert is_ours(data)
    load_snapshot(data, "state.json")


async def load_floor(backend):
    await read_floor(backend)


@pytest.mark.parametrize("step", [211, 17])
async def test_a_flipped_bit_in_the_journal_leaves_the_state_of_an_earlier_seq_and_is_told(
    stored, flipped, step
):
    place, _ = stored
    async with place.open(readonly=True) as store:
        head = store.seq
        states = {seq: documents(await past(store._engine, seq)) for seq in range(head + 1)}

    async def check(store, at):
        found = documents(store._engine.replica)
        # What the documents' own files still knew makes no state of one moment.
        assert found == states[store.seq] or all(
            any(state.get(key) == document for state in states.values()) for key, document in found.items()
        ), at
        # Whether the newest record of all had been durable is known to nothing but itself.
        assert store.seq >= head - 1 or place.told(CorruptionDetected), at

    for name in place.names("journal/0"):
        await flipped(name, step, check)


def documents(replica):
    return {(collection, id): entry.json() for collection, id, entry in replica}
