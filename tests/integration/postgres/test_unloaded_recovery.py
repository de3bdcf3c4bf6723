"""What a store that is served from the database goes on from: snapshots, backups, and what a crash left."""

import asyncio
from functools import partial
from uuid import uuid4

import pytest
import statepath
from statepath import F
from statepath.commit import RemoveLog
from statepath.errors import DivergedError, UnavailableError, UnsupportedError

unloaded = partial(statepath.open, load=False)

MAKE_STALE = """
UPDATE statepath.views SET shown = -1 WHERE store = (SELECT id FROM statepath.stores WHERE name = $1)
"""
TAKE_BACK = """
UPDATE statepath.views SET shown = shown - 1 WHERE store = (SELECT id FROM statepath.stores WHERE name = $1)
"""
LOSE_A_COMMIT = """
DELETE FROM statepath.log WHERE first = 1 AND store = (SELECT id FROM statepath.stores WHERE name = $1)
"""
LOSE_THE_LAST = """
WITH gone AS (
    DELETE FROM statepath.log l USING statepath.stores s WHERE s.name = $1 AND l.store = s.id AND l.last = s.head
)
UPDATE statepath.stores s SET head = head - 1, tip = (
    SELECT id FROM statepath.log l WHERE l.store = s.id AND l.last = s.head - 1
) WHERE name = $1
"""
LOSE_THE_FLOOR = """
DELETE FROM statepath.objects
WHERE key = 'journal/floor' AND store = (SELECT id FROM statepath.stores WHERE name = $1)
"""


def name_of(path):
    return path.partition("store=")[2]


async def abandon(store):
    """What a crash leaves: nothing that is done behind a commit is done any more."""
    await store._engine.release()


async def test_it_goes_on_behind_a_snapshot_and_a_loading_handle_behind_it(path):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.append_log("s", "one\n")
        await store.snapshot()
        await store.collection("raw").put({"id": "b"})
        await store.append_log("s", "two\n")
        await abandon(store)
    async with unloaded(path) as store:
        assert (store.seq, await store.collection("raw").count()) == (4, 2)
        await store.append_log("s", "three\n")
        assert await store.read_log("s") == "one\ntwo\nthree\n"
        await store.collection("raw").put({"id": "c"})
        assert [change.key for change in await store.history()][-1] == "raw/c"
    async with statepath.open(path) as store:
        assert await store.read_log("s") == "one\ntwo\nthree\n"
        assert [document["id"] async for document in store.collection("raw").find()] == ["a", "b", "c"]
        assert await store.verify() == []


async def test_a_removed_log_stays_removed_after_a_crash_and_begins_anew(path):
    async with unloaded(path, view_interval="1h") as store:
        await store.append_log("s", "one\n")
        await store.append_log("t", "one\n")
        await store.snapshot()
        await store.append_log("s", "two\n")
        await store._engine.commit([RemoveLog("s"), RemoveLog("t")])
        await store.append_log("s", "three\n")
        await abandon(store)
    async with unloaded(path) as store:
        assert (await store.logs(), (await store.stats()).logs) == (["s"], 1)
        assert await store.read_log("s") == "three\n"
        assert await store.delete_log("s") is True
        assert await store.logs() == []
    async with statepath.open(path) as store:
        assert await store.logs() == []
        assert await store.verify() == []


async def test_its_snapshots_and_backups_are_those_of_any_store(path):
    async with unloaded(path, history_bytes=0) as store:
        raw = store.collection("raw")
        await asyncio.gather(*(raw.put({"id": f"{n:03}", "n": 1e22, "text": "x" * 1000}) for n in range(500)))
        async with store.transaction() as tx:
            tx.put_member("metrics", {"done": 1})
        await store.append_log("s", "text")
        assert await store.snapshot() == store.seq
        await raw.put({"id": "000", "n": 2})
        key = await store.backup()
        assert key in await store.backups()
        assert await store.verify() == []
        await raw.put({"id": "001", "n": 3})
    async with statepath.open(path) as store:
        assert (store.damage, await store.members()) == ((), {"metrics": {"done": 1}})
        raw = store.collection("raw")
        assert await raw.count() == 500
        assert [(await raw.get(id))["n"] for id in ("000", "001", "002")] == [2, 3, 1e22]
        assert (await raw.get_document("002")).version <= 500
        assert await store.verify() == []
        health = await store.health()
        assert health.snapshot_seq == store.seq
        assert await store.restore(at=health.seq - 1)
        assert (await raw.get("001"))["n"] == 1e22


async def test_a_snapshot_is_written_while_others_save(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        stop = asyncio.Event()

        async def save(raw):
            n = 0
            while not stop.is_set():
                n += 1
                await raw.put({"id": str(n % 50), "n": n, "text": "x" * 20_000})

        saving = [asyncio.create_task(save(one.collection("raw"))) for one in (store, other)]
        seqs = []
        for _ in range(4):
            begun = store.seq
            while store.seq <= begun:  # noqa: ASYNC110 - whichever of them saves
                await asyncio.sleep(0.01)
            seqs.append(await store.snapshot())
        stop.set()
        await asyncio.gather(*saving)
        assert sorted(set(seqs)) == seqs
    async with unloaded(path) as store:
        kept = await store.collection("raw").find().all()
    async with statepath.open(path) as store:
        assert store.damage == ()
        assert await store.collection("raw").find().all() == kept
        assert await store.verify() == []


async def test_a_snapshot_has_the_logs_as_others_wrote_them_meanwhile(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        other = await statepath.open(path)
        await other.append_log("s", "one\n")
        await other.flush()
        await abandon(other)
    async with statepath.open(path) as store:
        await store.append_log("s", "two\n")
        assert await store.read_log("s") == "one\ntwo\n"


async def test_a_snapshot_of_an_attempt_that_was_interrupted_is_gone_on_from(path, monkeypatch):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        await store.collection("raw").put({"id": "b"})

        async def crash(mark):
            raise UnavailableError("the power is off")

        monkeypatch.setattr(store._engine._snapshotter, "_mark", crash)
        with pytest.raises(UnavailableError):
            await store.snapshot()
        await abandon(store)
    async with unloaded(path) as store:
        assert await store.collection("raw").count() == 2
        assert await store.snapshot() == 2
        assert await store.verify() == []


async def test_an_operator_s_restore_is_left_to_who_loads_the_store(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.backup()
        await store.collection("raw").put({"id": "b"})
        await store.snapshot()
        [backup, *_] = await store.backups()
        earlier = (await store._engine.backend.read(backup)).data
        await store._engine.backend.write("state.json", earlier)
        await abandon(store)
    with pytest.raises(UnsupportedError, match=r"state\.json is another snapshot") as caught:
        await unloaded(path)
    assert caught.value.code == "needs_recovery"


async def test_a_store_whose_log_is_empty_goes_on_from_its_snapshot(path, postgres):
    place = postgres.url(store=uuid4().hex)
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.restore(at=1, to=place)
    async with statepath.open(place):
        pass  # the documents are filled by who loads them
    async with unloaded(place) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
        await store.collection("raw").put({"id": "b"})
    async with statepath.open(place) as store:
        assert (store.damage, await store.collection("raw").count()) == ((), 2)


async def test_what_a_crash_left_behind_is_caught_up_at_open(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
        await store._engine.backend._documents.close()  # nothing shows what comes now
        await store.collection("raw").put({"id": "a", "n": 2})
        await store.append_log("s", "text")
        await abandon(store)
    async with unloaded(path) as store:
        assert await store.collection("raw").get("a") == {"id": "a", "n": 2}
        assert await store.read_log("s") == "text"


async def test_what_a_crash_of_the_server_took_back_from_the_documents_is_shown_again(path, around):
    async with unloaded(path) as store:
        raw = store.collection("raw")
        seq = await raw.put({"id": "a", "n": 1})
        reads = [
            lambda: raw.get("a"),
            lambda: raw.find(F("n") == 1).first(),
            store.stats,
            lambda: raw.append("a", "list", 1),
        ]
        for read in reads:
            await store.flush()
            await around.execute(TAKE_BACK, name_of(path))
            async with asyncio.timeout(60):
                assert await read()
        assert (await raw.get_document("a")).version == seq + 1


async def test_a_document_that_the_server_lost_in_a_fail_over_is_not_shown(path, around):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a", "by": "nobody"})
        await store.flush()
        await store._engine.backend._documents.close()  # nothing shows what comes now
        await store.collection("raw").put({"id": "a", "by": "who was lost"})
        await around.execute(LOSE_THE_LAST, name_of(path))
        async with unloaded(path) as other:
            await other._engine.backend._documents.close()
            await other.collection("raw").put({"id": "a", "by": "other"})
            await abandon(other)
        view = store._engine.backend._documents
        with pytest.raises(DivergedError):
            await view._catch_up(await store._engine.backend.store())
        await abandon(store)
    async with unloaded(path) as store:
        assert await store.collection("raw").get("a") == {"id": "a", "by": "other"}


async def test_documents_that_the_log_cannot_bring_up_to_date_are_made_by_who_loads_them(path, around):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a", "n": 1e22})
    await around.execute(MAKE_STALE, name_of(path))
    for readonly in (False, True):
        with pytest.raises(UnsupportedError, match="STATE_LOAD=true") as caught:
            await unloaded(path, readonly=readonly)
        assert caught.value.code == "needs_recovery"
    async with statepath.open(path):
        pass
    async with unloaded(path) as store:
        assert repr(await store.collection("raw").get("a")) == "{'id': 'a', 'n': 1e+22}"


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (LOSE_A_COMMIT, "is missing, and the log says that it was durable"),
        (LOSE_THE_FLOOR, "no record of where the log begins"),
    ],
)
async def test_a_store_that_has_to_be_recovered_is_not_served(path, around, damage, cause):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.collection("raw").put({"id": "b"})
        await abandon(store)
    await around.execute(damage, name_of(path))
    with pytest.raises(UnsupportedError, match=f"has to be recovered.*{cause}.*STATE_LOAD=true") as caught:
        await unloaded(path)
    assert caught.value.code == "needs_recovery"
