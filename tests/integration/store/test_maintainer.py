"""One handle of several saves by time and writes the files of all; nothing depends on there being only one."""

import asyncio
import time
from contextlib import suppress
from unittest.mock import AsyncMock

import pytest
import statepath
from msgspec import Raw
from statepath.commit import FLOOR_KEY, WriteReport
from statepath.engine.leases import Leases
from statepath.engine.maintenance import Maintenance
from statepath.errors import AccessDeniedError


def days_ahead(*_):
    return time.time() + 10 * 86400


async def both_know(*handles):
    return all(handle._engine.vitals.saved[0] for handle in handles)


async def test_a_maintainer_that_is_cancelled_where_it_ends_is_none(faulty, until):
    maintenance = Maintenance(Leases(faulty), ttl=600, alone=False)
    assert await maintenance.attempt()
    gate = faulty.hold("delete", "leases/")
    releasing = asyncio.ensure_future(maintenance.release())
    await gate.reached.wait()
    for _ in range(2):
        releasing.cancel()
        await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.wait([releasing])
    await until(Maintenance(Leases(faulty), ttl=600, alone=False).attempt)


@pytest.mark.slow
async def test_the_maintainer_saves_and_the_other_learns_of_it(url, until):
    async with statepath.open(url, autosave=0.1) as one, statepath.open(url, autosave=0.1) as two:
        for n in range(6):
            for handle in (one, two):
                await handle.collection("raw").put({"id": str(n), "by": handle is one})
            await asyncio.sleep(0.1)
        await until(lambda: both_know(one, two))
        maintainers = [handle._engine._maintenance.ours for handle in (one, two)]
        assert sorted(maintainers) == [False, True]
        written = [handle._engine.vitals.saved[1] is not None for handle in (one, two)]
        assert written == maintainers
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.leases() == []
        assert await reader.verify() == []


async def test_two_who_believe_to_be_the_maintainer_do_no_harm(url, keys):
    async with statepath.open(url, autosave=0) as one, statepath.open(url, autosave=0) as two:
        for handle in (one, two):
            handle._engine._maintenance._alone = True
        for n in range(4):
            for handle in (one, two):
                await handle.collection("raw").put({"id": f"{n}"})
                await handle.append_log("s", f"{n}\n")
                await handle.save_report("r", {"n": n, "by": handle is one})
            await asyncio.gather(one.snapshot(), two.snapshot(), return_exceptions=True)
    assert [key for key in await keys("state.") if "conflict" in key] == []
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.read_log("s") == "".join(f"{n}\n{n}\n" for n in range(4))
        assert await reader.read_report("r") == {"n": 3, "by": False}
        assert await reader.verify() == []


async def test_an_earlier_report_never_replaces_a_later_one(store, other, monkeypatch):
    """The first one's file is about to be written when another handle has saved a second one, and written it."""
    held, go_on = asyncio.Event(), asyncio.Event()
    stored = store._engine.views._view_files._stored

    async def slowly(key):
        found = await stored(key)
        if not held.is_set():
            held.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store._engine.views._view_files, "_stored", slowly)
    first = asyncio.ensure_future(store.save_report("r", 1))
    await held.wait()
    await other.save_report("r", 2)
    go_on.set()
    await first
    await store.flush()
    assert await other.read_report("r") == 2


async def test_the_file_of_a_document_that_another_handle_has_deleted_does_not_come_back(
    url, keys, monkeypatch
):
    """The first one's file is about to be written when another handle has deleted the document, and found no file."""
    async with (
        statepath.open(url, autosave=0, views=True) as store,
        statepath.open(url, autosave=0, views=True) as other,
    ):
        held, go_on = asyncio.Event(), asyncio.Event()
        stored = store._engine.views._view_files._stored

        async def slowly(key):
            found = await stored(key)
            held.set()
            await go_on.wait()
            return found

        monkeypatch.setattr(store._engine.views._view_files, "_stored", slowly)
        await store.collection("raw").put({"id": "a"})
        await held.wait()
        assert await other.collection("raw").delete("a")
        await other.flush()
        go_on.set()
        await store.flush()
        assert await keys("raw/") == []


async def test_a_file_that_cannot_be_removed_keeps_no_other_from_being_written(
    faulty, url, open_on, keys, until
):
    """Another handle deletes a document while its file is written; that cannot be removed, and a second one not be
    written, for a moment."""
    store = await open_on(faulty, views=True, view_interval=3600)
    gate = faulty.hold("write", "raw/a")
    faulty.fail("write", "raw/b", AccessDeniedError("no"))
    faulty.fail("delete", "raw/a", AccessDeniedError("no"))

    async def only_the_second_is_there():
        with suppress(AccessDeniedError):
            await store.flush()
        return await keys("raw/") == ["raw/b.json"]

    async with statepath.open(url, autosave=0) as other:
        async with store.transaction() as tx:
            for id in ("a", "b"):
                tx.put(store.collection("raw"), {"id": id})
        flushing = asyncio.ensure_future(store.flush())
        await gate.reached.wait()
        assert await other.collection("raw").delete("a")
        gate.opened.set()
        with pytest.raises(AccessDeniedError):
            await flushing
        await until(only_the_second_is_there)


async def test_the_file_of_a_report_shows_a_later_one_that_its_writer_has_not_written(
    store, other, memory, monkeypatch
):
    async def later():
        monkeypatch.setattr(store._engine.views._view_files, "_catch_up", catch_up)
        await other._engine.commit([WriteReport("r", Raw(b"2"))])
        await catch_up()

    async def never(*_):
        await asyncio.Event().wait()

    catch_up = store._engine.views._view_files._catch_up
    monkeypatch.setattr(store._engine.views._view_files, "_catch_up", later)
    monkeypatch.setattr(other._engine.views._view_files, "write", never)
    await store.save_report("r", 1)
    assert (await memory.read("reports/r.json")).data == b"2\n"
    await other._engine.release()


async def test_what_was_left_to_others_does_not_replace_a_later_report(store, other):
    await other.save_report("r", 1)
    await store.sync()
    await store.save_report("r", 2)
    await store.flush()
    assert await store.read_report("r") == 2


async def test_what_a_writer_left_when_it_died_is_in_the_next_snapshot_of_another(
    store, url, other, monkeypatch
):
    async def nothing(*_):
        return {}

    monkeypatch.setattr(store._engine.views._view_files, "write", nothing)
    await store.append_log("s", "only in the log\n")
    await store._engine.release()
    await other.sync()
    await other.snapshot()
    async with statepath.open(url, readonly=True) as reader:
        assert await reader.read_log("s") == "only in the log\n"


async def test_who_becomes_the_maintainer_again_writes_the_files_that_others_left(
    open_on, faulty, url, keys, monkeypatch
):
    monkeypatch.setattr("statepath.engine.engine._MAINTAINER_TTL", 0.05)
    store = await open_on(faulty, views=True)
    assert await store._engine.maintain()
    while store._engine._maintenance.ours:  # noqa: ASYNC110 - until its lease has expired
        await asyncio.sleep(0.01)
    async with statepath.open(url, autosave=0, views=False) as without_files:
        await without_files.collection("raw").put({"id": "a"})
    await store.sync()
    assert await store._engine.maintain()
    await store.flush()
    assert await keys("raw/") == ["raw/a.json"]


async def test_a_take_over_that_was_interrupted_is_finished_at_the_next_turn(open_on, faulty, url, keys):
    store = await open_on(faulty, views=True)
    async with statepath.open(url, autosave=0, views=False) as without_files:
        await without_files.collection("raw").put({"id": "a"})
    await store.sync()
    faulty.fail("read", FLOOR_KEY, AccessDeniedError("for a moment"))
    with pytest.raises(AccessDeniedError):
        await store._engine.maintain()
    assert await store._engine.maintain()
    await store.flush()
    assert await keys("raw/") == ["raw/a.json"]


async def test_a_maintainer_whose_clock_is_days_ahead_trims_nothing_that_others_may_rely_on(
    store, zombie, monkeypatch
):
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    monkeypatch.setattr("statepath.engine.snapshotter.unhurried_now", days_ahead)
    monkeypatch.setattr("statepath.engine.snapshotter.earliest_now", AsyncMock(side_effect=days_ahead))
    for n in range(3):
        await raw.put({"id": "b", "n": n})
        await store.snapshot()
    assert store._engine.floor == 1
    assert await zombie.collection("raw").put({"id": "c"}) == 8
