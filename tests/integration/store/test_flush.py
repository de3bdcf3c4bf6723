"""Waiting for the files: for those of what is committed at the call, whatever comes after it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from statepath.engine.ids import log_key
from statepath.engine.origin import present
from statepath.engine.primary import OpenPrimary
from statepath.errors import ClosedError, UnavailableError

PATIENCE = 30


@pytest.fixture
def hold(faulty):
    """Holds the next write under a prefix, until the end of the test if need be."""
    gates = []

    def held(prefix):
        gates.append(faulty.hold("write", prefix))
        return gates[-1]

    yield held
    for gate in gates:
        gate.open()


@pytest.fixture
async def store(open_on, faulty, hold):
    return await open_on(faulty, views=True, view_interval=0)


async def test_a_log_is_read_although_it_goes_on(store, hold):
    first, second = (hold(f"{log_key('s1')}/{at:020d}") for at in (0, 4))
    await store.append_log("s1", "one\n")
    reading = asyncio.ensure_future(store.read_log("s1"))
    await first.reached.wait()
    await store.append_log("s1", "two\n")
    first.open()
    await second.reached.wait()
    assert await asyncio.wait_for(reading, PATIENCE) == "one\n"


async def test_the_files_show_a_document_although_the_saves_go_on(store, hold, memory):
    raw = store.collection("raw")
    first, second = hold("raw/a"), hold("raw/b")
    await raw.put({"id": "a", "n": 1})
    flushing = asyncio.ensure_future(store.flush())
    await first.reached.wait()
    await raw.put({"id": "a", "n": 2})
    await raw.put({"id": "b"})
    first.open()
    await second.reached.wait()
    await asyncio.wait_for(flushing, PATIENCE)
    assert await memory.read("raw/a.json")


async def test_a_save_while_the_file_is_written_is_waited_for(store, hold, memory):
    raw = store.collection("raw")
    gate = hold("raw/a")
    await raw.put({"id": "a", "n": 1})
    await gate.reached.wait()
    await raw.put({"id": "a", "n": 2})
    flushing = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0)
    gate.open()
    await flushing
    assert b'"n": 2' in (await memory.read("raw/a.json")).data


@pytest.mark.parametrize(
    ("prefix", "save"),
    [
        ("logs/", lambda store: store.append_log("s1", "one\n")),
        ("raw/", lambda store: store.collection("raw").put({"id": "a"})),
    ],
    ids=["log", "document"],
)
async def test_an_attempt_that_had_begun_before_the_call_does_not_fail_it(store, hold, faulty, prefix, save):
    gate, again = hold(prefix), faulty.fail("write", prefix, UnavailableError("not now"))
    await save(store)
    await gate.reached.wait()
    flushing = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0)
    gate.open()
    await flushing
    assert again.times == 0


async def test_a_document_whose_file_failed_is_owed_as_long_as_it_was(store, hold, faulty, memory):
    raw = store.collection("raw")
    gate = hold("raw/a")
    faulty.fail("write", "raw/a", UnavailableError("not now"))
    for id in ("a", "b"):
        await raw.put({"id": id, "n": 1})
    await gate.reached.wait()
    flushing = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0)
    await raw.put({"id": "a", "n": 2})
    gate.open()
    await flushing
    assert await memory.read("raw/a.json")


@asynccontextmanager
async def to_copy(engine):
    yield await present(engine, history=False)


def to_ship(engine):
    return OpenPrimary(engine).origin()


@pytest.mark.parametrize("taken", [to_copy, to_ship])
async def test_a_copy_has_of_the_logs_what_their_files_show(store, hold, taken):
    first, second = (hold(f"{log_key('s1')}/{at:020d}") for at in (0, 4))
    await store.append_log("s1", "one\n")

    async def copied():
        async with taken(store._engine) as origin:
            return [piece async for piece in origin.files()]

    copying = asyncio.ensure_future(copied())
    await first.reached.wait()
    await store.append_log("s1", "two\n")
    first.open()
    await second.reached.wait()
    (piece,) = await asyncio.wait_for(copying, PATIENCE)
    assert piece.data == b"one\n"


async def test_who_waits_for_a_file_is_told_that_the_store_was_closed(store, hold):
    gate = hold("logs/")
    await store.append_log("s1", "one\n")
    reading = asyncio.ensure_future(store.read_log("s1"))
    await gate.reached.wait()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(ClosedError, match="before its files were written"):
        await asyncio.wait_for(reading, PATIENCE)


async def test_a_snapshot_whose_turn_comes_when_the_store_is_closed_ends(store, hold, memory):
    gate = hold("logs/")
    await store.append_log("s1", "one\n")
    first = asyncio.ensure_future(store.snapshot())
    await gate.reached.wait()
    second = asyncio.ensure_future(store.snapshot())
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    for snapshot in (first, second):
        with pytest.raises(ClosedError):
            await asyncio.wait_for(snapshot, PATIENCE)
