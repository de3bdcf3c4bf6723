"""Two that open at once what is no store yet make one of it."""

import asyncio

import pytest
import statepath
from statepath.engine import opening
from statepath.engine.opening import open_engine
from statepath.events import CorruptionDetected, Events
from statepath.settings import Settings
from statepath.store import Store


@pytest.mark.parametrize(
    ("method", "key"),
    [("write", "journal/floor"), ("read", "state.json")],
    ids=["both found it", "founded while it is read"],
)
async def test_two_that_open_a_new_store_at_once_open_the_same_one(faulty, url, method, key):
    events, told = Events(), []
    events.on(CorruptionDetected, told.append)
    gate = faulty.hold(method, key)
    late = asyncio.ensure_future(open_engine(faulty, Settings(path=url, autosave=0), events))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "a"})
        gate.open()
        async with Store(await late) as second:
            assert (second.id, second.incarnation) == (first.id, first.incarnation)
            assert await second.collection("raw").get("a") == {"id": "a"}
    assert told == []


async def test_a_store_that_is_founded_while_a_reader_opens_it_is_no_original_directory(url, monkeypatch):
    read = opening.read_original
    made = []

    async def reading(*args, **options):
        if not made:
            monkeypatch.setattr(opening, "read_original", read)
            made.append(await statepath.open(url, autosave=0))
            await made[0].collection("raw").put({"id": "a"})
            await made[0].snapshot()
        return await read(*args, **options)

    monkeypatch.setattr(opening, "read_original", reading)
    async with statepath.open(url, readonly=True) as reader:
        assert (reader.id, reader.seq) == (made[0].id, 1)
        await made[0].collection("raw").put({"id": "b"})
        assert await reader.sync() == 2
    await made[0].aclose()


async def test_two_that_open_an_original_directory_at_once_import_it_once(faulty, memory, url, open_on, keys):
    await memory.write("state.json", b'{"tasks": [], "raw": [{"id": "a", "n": 0}]}')
    await memory.write("logs/session_a b.log", b"old\n")
    gate = faulty.hold("write", "journal/0")
    late = asyncio.ensure_future(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "a", "n": 1})
        await first.append_log("a b", "new\n")
        await first.flush()
        logs = [(await memory.read(key)).data for key in await keys("logs/")]
        gate.open()
        second = await late
        assert await second.collection("raw").get("a") == {"id": "a", "n": 1}
        await first.sync()
        assert await first.collection("raw").get("a") == {"id": "a", "n": 1}
        assert [(await memory.read(key)).data for key in await keys("logs/")] == logs
