"""An attempt to make a store that stalls, while another one makes it and the store is used: what it had still to do
changes nothing any more."""

from __future__ import annotations

import asyncio
from functools import partial
from uuid import uuid4

import pytest
import statepath
from statepath.discovery import connect
from statepath.engine.mirror import Mirror
from statepath.engine.primary import OpenPrimary
from statepath.engine.reseeding import empty
from statepath.errors import ConflictError, DivergedError
from statepath.events import Events
from statepath.memory import MemoryBackend
from statepath.testing.meanwhile import meanwhile

pytestmark = pytest.mark.usefixtures("soon")


@pytest.fixture
def to():
    return f"memory://{uuid4().hex}"


@pytest.fixture
def stall(to, monkeypatch):
    """Lets the first such change in the place wait until the second event is set; the first says that it does."""

    def stall(call, prefix):
        change, stalled, free = getattr(MemoryBackend, call), asyncio.Event(), asyncio.Event()

        async def waiting(self, key, *args, **options):
            if key.startswith(prefix) and self.url == to and not stalled.is_set():
                stalled.set()
                await free.wait()
            return await change(self, key, *args, **options)

        monkeypatch.setattr(MemoryBackend, call, waiting)
        return stalled, free

    return stall


@pytest.mark.parametrize("make", ["copy", "restore"])
async def test_a_copy_does_not_take_back_what_was_saved_in_the_store_that_another_made(
    path, store, to, stall, make
):
    async def made():
        await (statepath.copy(path, to) if make == "copy" else store.restore(at=store.seq, to=to))

    await store.collection("raw").put({"id": "a"})
    stalled, free = stall("write", "state.json")
    first = asyncio.create_task(made())
    await stalled.wait()
    await made()
    async with statepath.open(to, autosave=0) as other:
        await other.collection("raw").put({"id": "b"})
        await other.snapshot()
    free.set()
    with pytest.raises(ConflictError, match="someone else is making a store"):
        await first
    async with statepath.open(to, autosave=0) as other:
        assert await other.collection("raw").find().count() == 2
        assert other.damage == ()


@pytest.fixture
def damaged(path, store, to, places):
    """Makes a replica that the next mirror makes anew, since it is damaged; it has a report that the store has no
    more."""

    async def damaged():
        raw = store.collection("raw")
        await store.save_report("r", {"n": 0})
        for n in range(3):
            await raw.put({"id": "a", "n": n})
            await statepath.mirror(path, to, once=True)
        (key,) = [key for key in await places.keys(to, "journal/") if key.endswith("03.jsonl")]
        await places.write(to, key, (await places.read(to, key)).replace(b"raw", b"rag"))
        await store.delete_report("r")

    return damaged


async def promoted_contents(to, contents):
    await statepath.promote(to)
    async with statepath.open(to, autosave=0) as promoted:
        assert promoted.damage == ()
        return await contents(promoted)


@pytest.mark.parametrize("there", [False, True], ids=["new", "made anew"])
async def test_a_mirror_does_not_take_back_the_documents_that_another_has_shipped(
    path, store, to, stall, contents, damaged, there
):
    if there:
        await damaged()
    raw = store.collection("raw")
    await raw.put({"id": "a", "n": 3})
    stalled, free = stall("write", "state.json")
    async with meanwhile(statepath.mirror(path, to, once=True)):
        await stalled.wait()
        for n in range(4, 7):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
            await statepath.mirror(path, to, once=True)
        free.set()
    assert await promoted_contents(to, contents) == await contents(store)


async def test_a_mirror_does_not_take_back_the_logs_and_reports_that_another_has_shipped(
    path, store, to, stall, contents
):
    await store.append_log("s", "1\n")
    await store.flush()
    stalled, free = stall("write", ("logs/", "reports/"))
    async with meanwhile(statepath.mirror(path, to, once=True)):
        await stalled.wait()
        await store.append_log("s", "2\n")
        await store.save_report("r", {"n": 2})
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
        free.set()
    assert await promoted_contents(to, contents) == await contents(store)


async def test_a_mirror_does_not_remove_the_report_that_another_has_shipped(
    path, store, to, stall, places, damaged
):
    await damaged()
    stalled, free = stall("delete", "reports/")
    async with meanwhile(statepath.mirror(path, to, once=True)):
        await stalled.wait()
        await store.save_report("r", {"n": 1})
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
        await store.collection("raw").put({"id": "later"})
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
        free.set()
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.read_report("r") == {"n": 1}


async def test_a_replica_is_not_emptied_that_another_has_made_anew(path, store, to, stall, contents):
    await store.collection("raw").put({"id": "a"})
    await store.append_log("s", "1\n")
    await statepath.mirror(path, to, once=True)
    recovered = f"memory://{uuid4().hex}"
    await statepath.copy(path, recovered)
    settings = statepath.Settings.load(to)
    target = await connect(to)
    async with statepath.open(recovered, autosave=0) as primary:
        await primary.collection("raw").put({"id": "b"})
        stalled, free = stall("delete", "state.json")
        emptying = asyncio.create_task(
            empty(target, settings, store=store.id, incarnation=primary.incarnation, primary=recovered)
        )
        await stalled.wait()
        await statepath.mirror(recovered, to, once=True, reseed=True)
        free.set()
        with pytest.raises(ConflictError):
            await emptying
        async with statepath.open(to, readonly=True) as replica:
            assert replica.damage == ()
            assert await contents(replica) == await contents(primary)
    await target.close()


async def stored(path):
    backend = await connect(path, readonly=True)
    return {entry.key: (await backend.read(entry.key)).data async for entry in backend.list_keys("")}


@pytest.mark.parametrize("reseed", [False, True])
async def test_a_handle_that_slept_past_the_history_does_not_take_the_replica_back_to_what_it_has(
    to, reseed, monkeypatch
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    path = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        async with statepath.open(path, autosave=0, history=0) as other:
            for n in range(4):
                await other.append_log("s", f"line {n}\n")
                await other.snapshot()
                await statepath.mirror(path, to, once=True)
            assert (await other.stats()).floor > store.seq + 1
        store._engine.log._window = 0
        before = await stored(to)
        primary, connecting = OpenPrimary(store._engine), partial(connect, to)
        mirror = Mirror(primary, to, connecting, store.settings, Events(), reseed=reseed)
        with pytest.raises(DivergedError, match=r"this handle shows seq 1, .* open the store again"):
            async with asyncio.timeout(30):
                await mirror.run()
        assert await stored(to) == before
