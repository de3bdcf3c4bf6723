"""The end of a handle: closed, cancelled, or left behind by a fork."""

import asyncio
import gc
import json
import os
import weakref
from uuid import uuid4

import pytest
import statepath
from statepath.discovery import connect
from statepath.engine.mirror import Mirror
from statepath.engine.opening import open_engine
from statepath.engine.primary import OpenPrimary
from statepath.errors import ClosedError, OutcomeUnknownError, StoreLockedError, UnsupportedError
from statepath.events import Events, MirrorCaughtUp, StateLoaded, StateSaved
from statepath.persistence import StatePersistence
from statepath.settings import Settings
from statepath_local.journal import LocalCommitLog


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def stored(url):
    """What another process would find."""
    async with statepath.open(url, readonly=True) as reader:
        return [document["id"] async for document in reader.collection("raw")]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda store: store.save_report("new", 1), (1, 2)),
        (lambda store: store.delete_report("r"), (1, 0)),
        (lambda store: store.delete_log("s"), (0, 1)),
    ],
    ids=["save_report", "delete_report", "delete_log"],
)
async def test_a_change_of_a_file_that_becomes_durable_while_the_handle_closes_has_succeeded(
    open_on, faulty, keys, change, left
):
    store = await open_on(faulty)
    await store.save_report("r", 1)
    await store.append_log("s", "x")
    gate = faulty.hold("write", "journal/0")
    changing = asyncio.ensure_future(change(store))
    await gate.reached.wait()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    assert store.closed
    gate.open()
    await closing
    assert await changing
    assert (len(await keys("logs/")), len(await keys("reports/"))) == left


@pytest.mark.slow
async def test_nothing_of_a_large_store_stays_in_memory_when_it_is_closed(tmp_path):
    async with statepath.open(tmp_path, views=False) as store, store.transaction() as tx:
        raw = store.collection("raw")
        for n in range(10_001):
            tx.put(raw, {"id": str(n)})
    async with statepath.open(tmp_path, views=False) as store:
        replica = weakref.ref(store._engine.replica)
        assert len(replica()) == 10_001
    del store
    gc.collect()
    assert replica() is None


USES_OF_A_STORE = [
    lambda store: store.collection("raw").put({"id": "x"}),
    lambda store: store.collection("raw").create({"id": "x"}),
    lambda store: store.collection("raw").get("a"),
    lambda store: store.collection("raw").get_document("a"),
    lambda store: store.collection("raw").delete("a"),
    lambda store: store.collection("raw").append("a", "logs", 1),
    lambda store: store.collection("raw").update("a", lambda document: None),
    lambda store: store.collection("raw").count(),
    lambda store: store.collection("raw").find().all(),
    lambda store: store.get_member("metrics"),
    lambda store: store.members(),
    lambda store: store.append_log("s", "x"),
    lambda store: store.read_log("s"),
    lambda store: store.logs(),
    lambda store: store.save_report("r", 1),
    lambda store: store.read_report("r"),
    lambda store: store.reports(),
    lambda store: store.history(),
    lambda store: store.restore(at=0),
    lambda store: store.snapshot(),
    lambda store: store.backup(),
    lambda store: store.backups(),
    lambda store: store.flush(),
    lambda store: store.sync(),
    lambda store: store.verify(),
    lambda store: store.stats(),
]


@pytest.mark.parametrize("readonly", [False, True])
async def test_after_closing_every_use_is_a_closed_error(store, raw, url, readonly):
    await raw.put({"id": "a", "logs": []})
    if readonly:
        store = await statepath.open(url, readonly=True)
    await store.aclose()
    for _number, use in enumerate(USES_OF_A_STORE):
        with pytest.raises(ClosedError):
            await use(store)


async def test_after_closing_there_are_no_transactions_and_no_watchers(store, raw):
    await store.aclose()
    assert store.closed
    with pytest.raises(ClosedError):
        store.transaction()
    with pytest.raises(ClosedError):
        store.watch()
    with pytest.raises(ClosedError):
        store.collections()


async def test_health_tells_that_it_is_closed(store):
    await store.aclose()
    health = await store.health()
    assert (health.healthy, health.writable) == (False, False)
    assert health.problems == ("the store is closed",)


async def test_it_may_be_closed_twice(store):
    await store.aclose()
    await store.aclose()


async def test_who_closes_it_at_the_same_time_waits_for_the_end(open_on, faulty):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    gate = faulty.hold("write", "state.json")
    first = asyncio.ensure_future(store.aclose())
    await gate.reached.wait()
    second = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    assert not second.done()
    gate.open()
    await asyncio.gather(first, second)
    assert faulty.closed


async def test_closing_that_is_cancelled_releases_the_storage(open_on, faulty, url):
    store = await open_on(faulty)
    await store.collection("raw").put({"id": "a"})
    gate = faulty.hold("write", "state.json")
    closing = asyncio.ensure_future(store.aclose())
    await gate.reached.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert faulty.closed
    assert await stored(url) == ["a"]


async def test_closing_that_is_cancelled_while_files_are_written_waits_for_no_look_at_the_log(
    open_on, faulty, keys, until
):
    """A file that is new may be of a document that another handle has deleted: so the log is looked at behind it."""
    store = await open_on(faulty, views=True, view_interval=3600)
    raw, slow = store.collection("raw"), faulty.hold("write", "raw/b.json")
    await asyncio.gather(*(raw.put({"id": id}) for id in "ab"))
    closing = asyncio.ensure_future(store.aclose())
    await slow.reached.wait()

    async def is_new():
        return await keys("raw/") == ["raw/a.json"]

    await until(is_new)
    looked = faulty.hold("read", "journal/")
    closing.cancel()
    async with asyncio.timeout(60):
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert (looked.reached.is_set(), faulty.closed) == (False, True)


@pytest.fixture
async def mirrored(open_on, faulty, monkeypatch):
    """A store whose mirror ships to a faulty replica."""
    monkeypatch.setattr("statepath.engine.mirror._GRACE", 0.05)
    monkeypatch.setattr("statepath.engine.mirror._RELEASE", 0.05)
    store = await open_on(await connect(f"memory://{uuid4().hex}"))

    async def to_replica():
        return faulty

    mirror = Mirror(OpenPrimary(store._engine), "replica", to_replica, store.settings, store.events)
    store._engine.attach(mirror)
    async with store.events.stream() as stream:
        mirror.start()
        await anext(event async for event in stream if isinstance(event, MirrorCaughtUp))
    return store


@pytest.mark.slow
async def test_a_replica_that_does_not_answer_holds_closing_up_for_a_moment_only(mirrored, faulty):
    shipping = faulty.hold("write", "journal/0")
    faulty.hold("delete", "leases/")
    await mirrored.collection("raw").put({"id": "a"})
    await shipping.reached.wait()
    async with asyncio.timeout(60):
        await mirrored.aclose()
    assert faulty.closed


async def test_closing_that_fails_unexpectedly_ships_what_is_left_and_gives_the_lease_back(
    mirrored, faulty, monkeypatch
):
    released = []

    async def release():
        released.append(True)

    async def fail():
        raise OSError("no such luck")

    shipping = faulty.hold("write", "journal/0")
    monkeypatch.setattr(mirrored._engine._maintenance, "release", release)
    monkeypatch.setattr(mirrored._engine._snapshotter, "snapshot", fail)
    monkeypatch.setattr("statepath.engine.mirror._GRACE", 60)
    await mirrored.collection("raw").put({"id": "a"})
    await shipping.reached.wait()
    closing = asyncio.ensure_future(mirrored.aclose())
    async with asyncio.timeout(60):
        await mirrored._engine._companion._finishing.wait()
    shipping.open()
    with pytest.raises(OSError, match="no such luck"):
        await closing
    assert released == [True]
    assert await stored(faulty.url) == ["a"]


@pytest.mark.slow
async def test_closing_that_cuts_a_mirrors_end_off_closes_its_connection(mirrored, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.mirror._RELEASE", 60)
    giving_back = faulty.hold("delete", "leases/")
    closing = asyncio.ensure_future(mirrored.aclose())
    await giving_back.reached.wait()
    await closing
    assert faulty.closed


@pytest.mark.slow
async def test_closing_that_is_cancelled_while_a_mirror_ends_releases_the_storage(
    mirrored, faulty, monkeypatch
):
    monkeypatch.setattr("statepath.engine.mirror._RELEASE", 60)
    backend, released = mirrored._engine.backend, []
    close = backend.close

    async def closing_it():
        await close()
        released.append(True)

    monkeypatch.setattr(backend, "close", closing_it)
    shipping, giving_back = faulty.hold("write", "journal/0"), faulty.hold("delete", "leases/")
    await mirrored.collection("raw").put({"id": "a"})
    await shipping.reached.wait()
    closing = asyncio.ensure_future(mirrored.aclose())
    await giving_back.reached.wait()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert (released, faulty.closed) == ([True], True)


async def test_what_is_queued_is_committed(open_on, faulty, url):
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    saving = [asyncio.ensure_future(raw.put({"id": "0"}))]
    await gate.reached.wait()
    saving += [asyncio.ensure_future(raw.put({"id": str(n)})) for n in range(1, 5)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await raw.put({"id": "too late"})
    gate.open()
    await closing
    assert await asyncio.gather(*saving) == [1, 2, 3, 4, 5]
    assert await stored(url) == ["0", "1", "2", "3", "4"]


async def test_everything_is_there_after_reopening(store, raw, url):
    await raw.put({"id": "a", "n": 1})
    await raw.append("a", "logs", "x")
    version = (await raw.get_document("a")).version
    identity = (store.id, store.incarnation)
    await store.aclose()
    async with statepath.open(url) as again:
        document = await again.collection("raw").get_document("a")
        assert (document.value, document.version) == ({"id": "a", "n": 1, "logs": ["x"]}, version)
        assert (again.id, again.incarnation) == identity
        assert await again.collection("raw").put({"id": "b"}) == version + 1


async def test_a_handle_that_is_never_closed_loses_nothing_acknowledged(url):
    left_behind = await statepath.open(url)
    await left_behind.collection("raw").put({"id": "a"})
    async with statepath.open(url) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
    left_behind._engine._snapshotter.saved = left_behind.seq
    await left_behind.aclose()


async def test_a_store_can_be_opened_with_await_or_async_with(url):
    store = await statepath.open(url)
    await store.collection("raw").put({"id": "a"})
    async with store:
        pass
    assert store.closed


async def test_opening_and_closing_are_told(url):
    events, told = statepath.Events(), []
    events.on("*", told.append)
    async with statepath.open(url, events=events) as store:
        assert store.events is events
        await store.collection("raw").put({"id": "a"})
    assert [type(event) for event in told] == [StateLoaded, StateSaved]
    assert (told[0].seq, told[0].documents) == (0, 0)


async def test_a_stream_of_the_stores_own_events_ends_when_it_closes(store, raw):
    async with store.events.stream() as stream:
        await raw.put({"id": "a"})
        await store.aclose()
        assert [type(event) async for event in stream] == [StateSaved]


async def test_a_stream_of_the_stores_own_events_ends_when_closing_is_cancelled(store, raw):
    async with store.events.stream() as stream:
        await raw.put({"id": "a"})
        closing = asyncio.ensure_future(store.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with asyncio.timeout(60):
            assert [event async for event in stream] == []


async def test_a_cancelled_save_never_disturbs_the_others(open_on, faulty, url):
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    under_way = asyncio.ensure_future(raw.put({"id": "under way"}))
    await gate.reached.wait()
    queued = asyncio.ensure_future(raw.put({"id": "queued"}))
    other = asyncio.ensure_future(raw.put({"id": "other"}))
    await asyncio.sleep(0)
    under_way.cancel()
    queued.cancel()
    gate.open()
    assert await other == 2
    outcomes = await asyncio.gather(under_way, queued, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert await stored(url) == ["other", "under way"]
    assert await raw.put({"id": "later"}) == 3


async def test_a_cancelled_transaction_is_made_whole_or_not_at_all(open_on, faulty, url):
    store = await open_on(faulty)
    raw = store.collection("raw")

    async def save(n):
        async with store.transaction() as tx:
            tx.put(raw, {"id": f"{n} left"})
            tx.put(raw, {"id": f"{n} right"})

    for n in range(10):
        saving = asyncio.ensure_future(save(n))
        for _ in range(n):
            await asyncio.sleep(0)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    await raw.put({"id": "end"})
    found = await stored(url)
    for n in range(10):
        assert (f"{n} left" in found) == (f"{n} right" in found)


async def test_a_cancelled_flush_cancels_nobodys_saves(open_on, faulty):
    store = await open_on(faulty)
    gate = faulty.hold("write", "journal/0")
    saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
    await gate.reached.wait()
    queued = asyncio.ensure_future(store.collection("raw").put({"id": "b"}))
    await asyncio.sleep(0)
    flushing = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.gather(flushing, return_exceptions=True)
    gate.open()
    assert await asyncio.gather(saving, queued) == [1, 2]


async def test_who_waits_when_closing_is_cancelled_is_told(open_on, faulty):
    store = await open_on(faulty)
    gate = faulty.hold("write", "journal/0")
    saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
    await gate.reached.wait()
    closing = asyncio.ensure_future(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    with pytest.raises(OutcomeUnknownError, match="in the middle of a commit"):
        await saving
    assert faulty.closed


async def test_cancelling_everyone_of_a_group_leaves_the_committer_running(open_on, faulty):
    store = await open_on(faulty)
    raw = store.collection("raw")
    saving = [asyncio.ensure_future(raw.put({"id": str(n)})) for n in range(5)]
    await asyncio.sleep(0)
    for one in saving:
        one.cancel()
    await asyncio.gather(*saving, return_exceptions=True)
    assert isinstance(await raw.put({"id": "later"}), int)


def in_a_fork(use):
    """What the coroutine function gives in a child process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        try:
            asyncio.events._set_running_loop(None)
            told = asyncio.new_event_loop().run_until_complete(use())
            os.write(theirs, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return json.loads(told)


@pytest.mark.slow
@pytest.mark.parametrize("readonly", [False, True])
async def test_a_forked_handle_is_refused_in_the_child(store, raw, url, readonly):
    await raw.put({"id": "a", "logs": []})
    handle = await statepath.open(url, readonly=True) if readonly else store
    uses = {
        "put": lambda: handle.collection("raw").put({"id": "x"}),
        "append": lambda: handle.collection("raw").append("a", "logs", 1),
        "append_log": lambda: handle.append_log("s", "x"),
        "save_report": lambda: handle.save_report("r", 1),
        "restore": lambda: handle.restore(at=0),
        "snapshot": handle.snapshot,
        "flush": handle.flush,
        "sync": handle.sync,
        "read_log": lambda: handle.read_log("s"),
        "history": handle.history,
    }

    async def use_all():
        told = {}
        for name, use in uses.items():
            try:
                told[name] = repr(await asyncio.wait_for(use(), 60))
            except Exception as error:  # noqa: BLE001 - told to the parent
                told[name] = f"{type(error).__name__}: {error}"
        await handle.aclose()
        return told

    told = in_a_fork(use_all)
    assert told.keys() == uses.keys()
    for name, outcome in told.items():
        assert outcome.startswith("ClosedError"), f"{name}: {outcome}"
        assert "forked" in outcome, f"{name}: {outcome}"
    assert await raw.put({"id": "b"}) == 2
    assert await handle.sync() == 2
    await handle.aclose()
    assert await stored(url) == ["a", "b"]


USES = {
    "put": lambda store: store.collection("raw").put({"id": "x"}),
    "create": lambda store: store.collection("raw").create({"id": "x"}),
    "append_log": lambda store: store.append_log("s", "x"),
    "transact": lambda store: store.transact(lambda tx: asyncio.sleep(0)),
    "get": lambda store: store.collection("raw").get("a", fresh=True),
    "snapshot": lambda store: store.snapshot(),
    "backup": lambda store: store.backup(),
    "flush": lambda store: store.flush(),
    "verify": lambda store: store.verify(),
    "sync": lambda store: store.sync(),
    "read_log": lambda store: store.read_log("s"),
    "health": lambda store: store.health(),
    "aclose": lambda store: store.aclose(),
}


async def test_another_event_loop_is_refused_and_harms_nobody(store, raw):
    await raw.put({"id": "a"})

    async def elsewhere(use):
        with pytest.raises(UnsupportedError, match="open the store in this one") as refused:
            await use(store)
        return refused.value.code

    for seq, (name, use) in enumerate(USES.items(), start=2):
        assert await asyncio.to_thread(asyncio.run, elsewhere(use)) == "other_loop", name
        assert await raw.put({"id": "b"}) == seq, name


async def test_a_watch_that_is_iterated_in_another_event_loop_is_refused(store, raw):
    changes = store.watch()

    async def elsewhere():
        await asyncio.wait_for(anext(changes), 60)

    with pytest.raises(UnsupportedError, match="open the store in this one") as refused:
        await asyncio.to_thread(asyncio.run, elsewhere())
    assert refused.value.code == "other_loop"
    assert await raw.put({"id": "a"}) == 1


async def test_closing_in_another_event_loop_leaves_who_listens_alone(store):
    async with store.events.stream() as events:
        with pytest.raises(UnsupportedError):
            await asyncio.to_thread(asyncio.run, store.aclose())
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        assert isinstance(await asyncio.wait_for(anext(aiter(events)), 60), StateSaved)


async def test_a_lease_that_another_event_loop_gives_back_is_held_on(store):
    lease = store.lease("l")

    async def elsewhere():
        await asyncio.wait_for(lease.release(), 60)

    async with lease:
        with pytest.raises(UnsupportedError):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert [held.name for held in await store.leases()] == ["l"]
    assert await store.leases() == []


def test_a_store_whose_event_loop_has_ended_is_to_be_opened_again(tmp_path):
    async def opened():
        return await statepath.open(tmp_path / "state")

    left = asyncio.run(opened())
    with pytest.raises(
        UnsupportedError,
        match=r"in an event loop that has ended: close this handle, and open the store in this one$",
    ):
        asyncio.run(left.collection("raw").put({"id": "a"}))


async def alone(path):
    """Open the store for this handle alone, which no other one lets it."""
    settings = Settings.load(path, autosave=0)
    engine = await open_engine(await connect(path), settings, Events(), alone=True)
    try:
        return [(id, entry.version) for _, id, entry in engine.replica]
    finally:
        await engine.close()


def of_a_loop_that_has_ended(log):
    raise RuntimeError("Event loop is closed")


@pytest.mark.parametrize("wake", [LocalCommitLog.wake, of_a_loop_that_has_ended], ids=["idle", "followed"])
def test_a_store_whose_event_loop_has_ended_is_closed_in_another_one(tmp_path, monkeypatch, wake):
    path = tmp_path / "state"

    async def opened():
        store = await statepath.open(path)
        await store.collection("raw").put({"id": "a"})
        return store

    left = asyncio.run(opened())
    with pytest.raises(StoreLockedError):
        asyncio.run(alone(path))
    with monkeypatch.context() as patched:
        patched.setattr(LocalCommitLog, "wake", wake)
        asyncio.run(left.aclose())
    assert left.closed
    assert asyncio.run(alone(path)) == [("a", 1)]
    with pytest.raises(ClosedError):
        asyncio.run(left.collection("raw").put({"id": "b"}))
    asyncio.run(left.aclose())


def test_the_original_api_is_closed_in_another_event_loop_when_its_own_has_ended(tmp_path):
    async def opened():
        return await StatePersistence.open(tmp_path / "state")

    left = asyncio.run(opened())
    asyncio.run(left.shutdown())
    assert asyncio.run(alone(tmp_path / "state")) == []
