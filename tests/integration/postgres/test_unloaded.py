"""A store that is served from the database: the documents stay there, and everything else is as it was."""

import asyncio
import gc
import tracemalloc
from contextlib import aclosing
from uuid import uuid4

import pytest
import statepath
from pydantic import BaseModel
from servers.postgres import session
from statepath import F
from statepath.commit import RemoveLog
from statepath.engine import surveying
from statepath.engine.replica import Entry
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    DivergedError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from statepath.persistence import StatePersistence

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


class Task(BaseModel):
    id: str
    status: str = "new"


def unloaded(path, **more):
    return statepath.open(path, load=False, **more)


def name_of(path):
    return path.partition("store=")[2]


async def abandon(store):
    """What a crash leaves: nothing that is done behind a commit is done any more."""
    await store._engine.release()


# What memory holds


def entries_held():
    """The entries that anything in the process holds, by identity."""
    gc.collect()
    holders = [each for each in gc.get_objects() if type(each) in (dict, list, tuple)]
    return {
        id(item): item
        for each in holders
        for item in (each.values() if type(each) is dict else each)
        if type(item) is Entry
    }


async def test_no_document_is_held(path):
    size, count, before = 50_000, 400, entries_held()
    async with unloaded(path) as store:
        raw = store.collection("raw")
        await asyncio.gather(*(raw.put({"id": f"{n:04}", "n": n, "text": "x" * size}) for n in range(count)))
        await raw.update("0007", lambda document: document | {"n": -1})
        await store.flush()
    async with unloaded(path) as store:
        raw = store.collection("raw")
        tracemalloc.start()
        try:
            assert await raw.find(F("n") < 0).count() == 1
            assert await raw.count() == count
            seen = 0
            async for document in raw.find():
                seen += len(document["text"])
            assert seen == size * count
            assert tracemalloc.get_traced_memory()[1] < size * count / 3
        finally:
            tracemalloc.stop()
        assert len(store._engine.replica) == 0
        assert entries_held().keys() <= before.keys()


async def test_the_members_of_the_state_are_in_memory(path):
    async with unloaded(path) as store:
        async with store.transaction() as tx:
            tx.put_member("metrics", {"done": 1})
        await store.collection("tasks").put({"id": "a"})
        with pytest.raises(InvalidArgumentError, match="a collection"):
            async with store.transaction() as tx:
                tx.put_member("tasks", 1)
    async with unloaded(path) as store:
        assert await store.members() == {"metrics": {"done": 1}}
        async with store.transaction() as tx:
            assert tx.get_member("metrics") == {"done": 1}
            tx.delete_member("metrics")
        assert await store.get_member("metrics") is None


# Reading what was written


async def test_reads_are_never_older_than_the_handle_s_own_commits(path):
    async with unloaded(path) as store:
        raw = store.collection("raw")
        for n in range(20):
            seq = await raw.put({"id": "a", "n": n})
            assert (await raw.get_document("a")).version == seq
            assert await raw.find(n=n).count() == 1
            page = await raw.find(n=n).page()
            assert [document["n"] for document in page.items] == [n]
            assert page.seq == seq


async def test_a_document_has_the_version_and_the_time_of_its_last_change(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.collection("raw").append("a", "list", 1)
        found = await store.collection("raw").get_document("a")
    async with statepath.open(path) as store:
        assert found == await store.collection("raw").get_document("a")


async def test_a_query_is_as_of_one_seq_while_others_write(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw")
        async with store.transaction() as tx:
            for n in range(300):
                tx.put(raw, {"id": f"{n:03}", "n": 0, "text": "x" * 10_000})
        seen = set()
        async with aclosing(raw.find().__aiter__()) as found:
            async for document in found:
                if not seen:
                    async with other.transaction() as tx:
                        for n in range(300):
                            tx.put(other.collection("raw"), {"id": f"{n:03}", "n": 1})
                    await other.flush()
                seen.add(document["n"])
        assert seen == {0}
        assert {document["n"] async for document in raw.find()} == {1}


async def test_more_queries_at_once_than_the_pool_has_connections(path):
    async with unloaded(f"{path}&pool=2") as store:
        raw = store.collection("raw")
        for n in range(3):  # so large that a query is still under way when the first one is at hand
            await raw.put({"id": str(n), "text": "x" * 600_000})

        async def nested(depth):
            async for document in raw.find():
                assert await raw.get(document["id"]) == document
                if depth:
                    await nested(depth - 1)

        async with asyncio.timeout(30):
            await asyncio.gather(*(nested(1) for _ in range(6)))


async def test_a_query_is_gone_through_slower_than_the_server_lets_sessions_idle(postgres, database):
    path = postgres.url(database)
    async with unloaded(path) as store, store.transaction() as tx:
        for number in range(10_000):
            tx.put(store.collection("tasks"), {"id": f"{number:05d}"})
    async with session(postgres.url()) as admin:
        await admin.execute(f"ALTER DATABASE {database} SET idle_in_transaction_session_timeout = '1s'")
        async with unloaded(path) as store:
            found = []
            async for task in store.collection("tasks").find():
                if not found:
                    await admin.execute("SELECT pg_sleep(2)")
                found.append(task["id"])
    assert found == [f"{number:05d}" for number in range(10_000)]


# Changes


async def test_checked_changes_are_checked_against_what_the_database_holds(path):
    async with unloaded(path) as store:
        raw = store.collection("raw")
        seq = await raw.put({"id": "a", "list": []})
        with pytest.raises(AlreadyExistsError, match=f"at version {seq}"):
            await raw.create({"id": "a"})
        with pytest.raises(ConflictError) as caught:
            await raw.put({"id": "a"}, if_version=7)
        assert (caught.value.current, caught.value.theirs) == (seq, {"id": "a", "list": []})
        with pytest.raises(ConflictError):
            await raw.delete("a", if_version=7)
        with pytest.raises(NotFoundError, match="raw/b does not exist"):
            await raw.append("b", "list", 1)
        with pytest.raises(InvalidArgumentError, match="does not hold a list"):
            await raw.append("a", "id", 1)
        assert not await raw.delete("b")
        assert await raw.delete("a", if_version=seq)
        assert await raw.get("a") is None
        assert await raw.create({"id": "a"}) == 3


async def test_a_plain_save_does_not_fail_with_who_waits_for_the_documents_in_vain(path, monkeypatch):
    async def in_vain(keys):
        raise UnavailableError("the documents are behind")

    async with unloaded(path) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "list": []})
        monkeypatch.setattr(store._engine.elsewhere, "read", in_vain)
        told = await asyncio.gather(
            raw.append("a", "list", 1), raw.put({"id": "b"}), raw.delete("a"), return_exceptions=True
        )
        assert [type(one) for one in told] == [UnavailableError, int, UnavailableError]
        monkeypatch.undo()
        assert await raw.append("a", "list", 1) == 3


async def test_a_plain_save_that_is_outrun_waits_no_more_for_the_documents_of_who_was_refused(
    path, monkeypatch
):
    asked = []

    async def in_vain(keys):
        asked.append(keys)
        raise UnavailableError("the documents are behind")

    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw")
        await other.collection("raw").put({"id": "a", "list": []})
        monkeypatch.setattr(store._engine.elsewhere, "read", in_vain)
        told = await asyncio.gather(raw.append("a", "list", 1), raw.put({"id": "b"}), return_exceptions=True)
        assert [type(one) for one in told] == [UnavailableError, int]
        assert len(asked) == 1


async def test_a_transaction_is_refused_when_what_it_read_has_changed(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw")
        await raw.put({"id": "a", "n": 0})
        tx = store.transaction()
        document = await tx.get(raw, "a")
        await other.collection("raw").put({"id": "a", "n": 1})
        tx.put(raw, document | {"n": 2})
        with pytest.raises(ConflictError):
            await tx.__aexit__(None, None, None)
        assert await raw.get("a") == {"id": "a", "n": 1}
        tx = store.transaction()
        tx.put(raw, {"id": "b"})
        tx.append(raw, "missing", "list", 1)
        with pytest.raises(NotFoundError):
            await tx.__aexit__(None, None, None)
        assert await raw.get("b") is None
        async with store.transaction() as tx:
            tx.append(raw, "a", "list", 1)
            assert await tx.get(raw, "a") == {"id": "a", "n": 1, "list": [1]}
            tx.delete(raw, "a")
            assert await tx.get(raw, "a") is None


async def test_what_a_transaction_appended_to_no_list_is_named_when_it_reads_that(path):
    async with unloaded(path) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "n": 1})
        tx = store.transaction()
        tx.append(raw, "a", "n", 2)
        with pytest.raises(InvalidArgumentError, match="raw/a: field 'n'") as caught:
            await tx.get(raw, "a")
        assert caught.value.key == "raw/a"


@pytest.mark.parametrize("appended", [False, True])
async def test_a_conflict_is_resolved_from_what_the_log_tells_of_the_base(path, appended):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw", on_conflict="merge")
        await raw.put({"id": "other", "list": []})
        base = await raw.put({"id": "a", "list": [1] if appended else [1, 2]})
        if appended:
            await raw.append("other", "list", 3)
            base = await raw.append("a", "list", 2)
        await other.collection("raw").update("a", lambda document: document | {"theirs": 1})
        await raw.put({"id": "a", "list": [1, 2, 3]}, if_version=base)
        assert await raw.get("a") == {"id": "a", "list": [1, 2, 3], "theirs": 1}


class Known(BaseModel):
    id: str
    owner: str = ""


async def test_a_merge_counts_as_ours_only_what_the_model_knows(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw")
        base = await raw.put({"id": "a", "history": ["x"]})
        known = store.collection("raw", Known, on_conflict="merge")
        async with store.transaction() as tx:
            read = await tx.get(known, "a")
            await other.collection("raw").append("a", "history", "y")
            tx.put(known, read.model_copy(update={"owner": "me"}))
        await known.put(Known(id="a", owner="me"), if_version=base)
        assert await raw.get("a") == {"id": "a", "history": ["x", "y"], "owner": "me"}


async def test_a_checked_put_keeps_what_its_model_does_not_know_of_that_version(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        await store.collection("raw").put({"id": "a", "gone": True})
        told = await other.collection("raw").put({"id": "a", "priority": 9})
        await store.collection("raw", Known).put(Known(id="a", owner="me"), if_version=told)
        assert await store.collection("raw").get("a") == {"id": "a", "priority": 9, "owner": "me"}


async def test_a_transaction_that_meets_another_version_is_resolved(path):
    seen = []

    def decide(base, theirs, ours):
        seen.append((base, theirs, ours))
        return theirs | ours

    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw", on_conflict=decide)
        await raw.put({"id": "a"})
        async with store.transaction() as tx:
            document = await tx.get(raw, "a")
            await other.collection("raw").put({"id": "a", "theirs": 1})
            tx.put(raw, document | {"ours": 1})
        assert await raw.get("a") == {"id": "a", "theirs": 1, "ours": 1}
        assert seen == [({"id": "a"}, {"id": "a", "theirs": 1}, {"id": "a", "ours": 1})]


async def test_a_conflict_whose_base_the_log_has_no_more_stays_one(path, around):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw = store.collection("raw", on_conflict="merge")
        await raw.put({"id": "a", "list": []})
        base = await raw.append("a", "list", 1)
        await other.collection("raw").update("a", lambda document: document | {"theirs": 1})
        await store.snapshot()
        await store._engine.log.trim(1)
        for version in (1, base, 77):
            with pytest.raises(ConflictError) as caught:
                await raw.put({"id": "a", "ours": 1}, if_version=version)
            assert caught.value.current == 3
        assert await raw.get("a") == {"id": "a", "list": [1], "theirs": 1}


async def test_updates_of_many_handles_are_all_counted(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a", "n": 0})
    async with unloaded(path) as one, unloaded(path) as two, statepath.open(path) as three:

        async def count(store):
            for _ in range(10):
                await store.collection("raw").update(
                    "a", lambda document: document | {"n": document["n"] + 1}
                )

        await asyncio.gather(count(one), count(one), count(two), count(three))
    async with unloaded(path) as store:
        assert (await store.collection("raw").get("a"))["n"] == 40


async def test_fields_that_the_model_does_not_know_are_kept(path):
    async with unloaded(path) as store:
        raw, tasks = store.collection("tasks"), store.collection("tasks", Task)
        await raw.put({"id": "a", "more": {"n": 1}})
        await tasks.put(Task(id="a", status="put"))
        assert await raw.get("a") == {"id": "a", "status": "put", "more": {"n": 1}}
        await tasks.update("a", lambda task: task.model_copy(update={"status": "updated"}))
        assert await raw.get("a") == {"id": "a", "status": "updated", "more": {"n": 1}}
        async with store.transaction() as tx:
            tx.put(tasks, Task(id="a", status="in a transaction"))
            tx.put(tasks, Task(id="b"))
        assert await raw.get("a") == {"id": "a", "status": "in a transaction", "more": {"n": 1}}


async def test_fields_that_the_model_does_not_know_are_kept_from_one_change_of_a_transaction_to_the_next(
    path,
):
    async with unloaded(path) as store:
        raw, tasks = store.collection("tasks"), store.collection("tasks", Task)
        await raw.put({"id": "a", "more": [1]})
        await raw.put({"id": "b", "more": [1]})
        async with store.transaction() as tx:
            tx.append(raw, "a", "more", 2)
            tx.put(tasks, Task(id="a"))
            tx.put(tasks, Task(id="a", status="again"))
            tx.delete(raw, "b")
            tx.put(tasks, Task(id="b"))
            tx.put(raw, {"id": "c", "more": [1]})
            tx.put(tasks, Task(id="c"))
        assert [await raw.get(id) for id in "abc"] == [
            {"id": "a", "status": "again", "more": [1, 2]},
            {"id": "b", "status": "new"},
            {"id": "c", "status": "new", "more": [1]},
        ]


async def test_a_transaction_reads_through_one_model_what_it_has_put_through_another_whole(path):
    async with unloaded(path) as store:
        raw, tasks = store.collection("tasks"), store.collection("tasks", Task)
        await raw.put({"id": "a", "more": [1]})
        async with store.transaction() as tx:
            tx.put(tasks, Task(id="a", status="put"))
            tx.append(raw, "a", "more", 2)
            document = await tx.get(raw, "a")
            assert await tx.get(tasks, "a") == Task(id="a", status="put")
            tx.put(raw, document | {"seen": True})
        assert document == {"id": "a", "status": "put", "more": [1, 2]}
        assert await raw.get("a") == document | {"seen": True}


async def test_a_transaction_is_refused_when_what_it_read_through_another_model_has_changed(path):
    async with unloaded(path) as store, statepath.open(path) as other:
        raw, tasks = store.collection("tasks"), store.collection("tasks", Task)
        await raw.put({"id": "a", "more": 1})
        tx = store.transaction()
        tx.put(tasks, Task(id="a", status="put"))
        document = await tx.get(raw, "a")
        await other.collection("tasks").put({"id": "a", "more": 2})
        tx.put(raw, document)
        with pytest.raises(ConflictError):
            await tx.__aexit__(None, None, None)
        assert await raw.get("a") == {"id": "a", "more": 2}


async def test_a_document_is_stored_as_it_was_when_it_was_put(path):
    async with unloaded(path) as store:
        tasks = store.collection("tasks", Task)
        task = Task(id="a", status="put")
        async with store.transaction() as tx:
            tx.put(tasks, task)
            task.status = "changed afterwards"
        assert await tasks.get("a") == Task(id="a", status="put")


async def test_a_new_document_has_nothing_of_one_in_its_place(path):
    async with unloaded(path) as store:
        raw, tasks = store.collection("tasks"), store.collection("tasks", Task)
        await raw.put({"id": "a", "more": 1})
        with pytest.raises(AlreadyExistsError):
            await tasks.create(Task(id="a"))
        with pytest.raises(ConflictError) as caught:
            await tasks.put(Task(id="a"), if_version=0)
        assert caught.value.ours == {"id": "a", "status": "new"}


async def test_a_document_comes_back_value_by_value(path):
    document = {"id": "a", "numbers": [1e22, 1e16, -0.0, 1e-7, 2**70, 0.1], "text": "a\0b", "list": []}
    async with unloaded(path) as store:
        raw = store.collection("raw")
        await raw.put(document)
        await raw.put({"id": "b", "list": []})
        await raw.append("b", "list", 1e22)
        await store.flush()
        await raw.append("b", "list", 2)
        await raw.append("a", "list", "\0")
        for found in (await raw.get("b"), await raw.find(F("id") == "b").first()):
            assert repr(found["list"]) == "[1e+22, 2]"
        assert repr(await raw.get("a")) == repr(document | {"list": ["\0"]})


# Opening


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


async def test_the_original_api_needs_the_documents(path):
    with pytest.raises(UnsupportedError, match="load=False") as caught:
        await StatePersistence.open(path, load=False)
    assert caught.value.code == "not_loaded"


async def test_a_migration_that_is_due_needs_the_documents(path, tmp_path, monkeypatch):
    (tmp_path / "steps.py").write_text(
        "from statepath import migration\n"
        "@migration('raw', 1, 2)\n"
        "def second(document):\n"
        "    return document | {'second': True}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
    with pytest.raises(UnsupportedError, match="load=False") as caught:
        await unloaded(path, migrations="steps")
    assert caught.value.code == "not_loaded"
    async with statepath.open(path, migrations="steps"):
        pass
    async with unloaded(path, migrations="steps") as store:
        assert await store.collection("raw").get("a") == {"id": "a", "second": True}


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


async def test_a_reader_reads_beside_a_writer(path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
        async with unloaded(path, readonly=True) as reader:
            assert await reader.collection("raw").get("a") == {"id": "a", "n": 1}
            seq = await store.collection("raw").put({"id": "a", "n": 2})
            assert await reader.sync(at_least=seq) == seq
            assert await reader.collection("raw").get("a") == {"id": "a", "n": 2}
            assert await reader.collection("raw").find(n=2).count() == 1


async def test_a_reader_says_so_when_nobody_brings_the_documents_up_to_date(path, monkeypatch):
    monkeypatch.setattr("statepath_postgres.reading.PATIENCE", 0.2)
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        await store.flush()
        await store._engine.backend._documents.close()
        await store.collection("raw").put({"id": "b"})
        with pytest.raises(UnavailableError, match="show seq 1, and seq 2 is needed; is a writer running"):
            await unloaded(path, readonly=True)


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


async def test_a_store_that_another_server_founds_meanwhile_is_served(path, monkeypatch):
    read_floor = surveying.read_floor

    async def read_before_it_is_founded(backend):
        monkeypatch.undo()
        assert await read_floor(backend) is None
        async with unloaded(path) as first:
            await first.collection("raw").put({"id": "a"})

    monkeypatch.setattr(surveying, "read_floor", read_before_it_is_founded)
    async with unloaded(path) as second:
        assert await second.collection("raw").get("a") == {"id": "a"}


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


@pytest.mark.parametrize("place", ["memory", "folder", "sqlite"])
async def test_a_backend_that_keeps_no_documents_says_what_to_do(place, tmp_path):
    state_path = {
        "memory": f"memory://{uuid4().hex}",
        "folder": str(tmp_path / "state"),
        "sqlite": f"sqlite://{tmp_path}/state.db",
    }[place]
    with pytest.raises(UnsupportedError, match=r"open the store without it \(STATE_LOAD=true\)") as caught:
        await unloaded(state_path, views=False)
    assert caught.value.code == "no_documents"


async def test_the_archive_is_not_kept_by_rules(path):
    with pytest.raises(UnsupportedError, match="STATE_ARCHIVE"):
        await unloaded(path, archive="tasks older_than=30d")


async def test_a_mirror_is_left_to_a_process_of_its_own(path, tmp_path):
    with pytest.raises(UnsupportedError, match=r"statepath mirror SRC DST"):
        await unloaded(path, mirror=tmp_path / "replica")
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        assert (await statepath.mirror(path, tmp_path / "replica", once=True)).seq == store.seq
        async with unloaded(path, readonly=True, mirror=tmp_path / "replica") as reader:
            assert await reader.collection("raw").get("a") == {"id": "a"}


async def test_files_of_the_documents_are_not_written(path):
    with pytest.raises(UnsupportedError, match="STATE_VIEWS=auto") as caught:
        await unloaded(path, views=True)
    assert caught.value.code == "no_documents"


async def test_there_is_nothing_to_read_where_there_is_no_store(path):
    with pytest.raises(NotFoundError):
        await unloaded(path, readonly=True)


async def test_what_needs_all_documents_is_refused(path, tmp_path):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
        calls = [
            lambda: store.restore(at=0),
            lambda: store.restore(at=1, to=str(tmp_path / "there")),
            lambda: store.diff(0),
            lambda: store.export(tmp_path / "file"),
            lambda: store.archive("raw", older_than="1d"),
        ]
        for call in calls:
            with pytest.raises(UnsupportedError, match="load=False") as caught:
                await call()
            assert caught.value.code == "not_loaded"
        with pytest.raises(UnsupportedError, match="load=False"):
            store.collections()
        assert store.seq == 1
        assert not any(tmp_path.iterdir())
        stats = await store.stats()
        assert (stats.documents, stats.seq) == ({"raw": 1}, 1)
        assert stats.bytes["raw"] > 0
        assert await store.verify() == []
        assert (await store.health()).healthy


async def test_changes_are_told_as_ever(path):
    async with unloaded(path) as store, unloaded(path, readonly=True) as reader:
        told = [aiter(store.watch(since=0)), aiter(reader.watch(since=0))]
        await store.collection("raw").put({"id": "a"})
        await store.collection("raw").delete("a")
        for changes in told:
            assert [(change := await anext(changes)).seq, change.key] == [1, "raw/a"]
            assert (await anext(changes)).seq == 2
            await changes.aclose()


@pytest.mark.parametrize("readonly", [False, True])
async def test_who_the_log_does_not_reach_back_to_is_told_the_documents_as_they_are(path, readonly):
    async with unloaded(path) as writer:
        raw = writer.collection("raw")
        for n in range(50):
            await raw.put({"id": f"{n:02}", "text": "x" * 100_000})
        await writer.collection("tasks").put({"id": "a"})
        async with writer.transaction() as tx:
            tx.put_member("metrics", {"done": 1})
        await writer.snapshot()
        await writer._engine.log.trim(51)
        told = []
        async with (
            unloaded(path, readonly=readonly) as store,
            aclosing(store.watch(since=0, resync=True)) as changes,
        ):
            while len(told) < 52:
                told.append(await anext(changes))
                if len(told) == 10:  # not among those that are as of the seq of before
                    await raw.put({"id": "10", "text": "later"})
            behind = await anext(changes)
        begin, *documents = told
        assert (begin.kind, begin.value, begin.seq) == ("resync", 51, 52)
        assert [change.key for change in documents] == [*(f"raw/{n:02}" for n in range(50)), "tasks/a"]
        assert {len(change.value["text"]) for change in documents[:50]} == {100_000}
        assert [change.seq for change in documents] == list(range(1, 52))
        assert [change.cursor.rpartition(":")[2] for change in told] == [*(["0"] * 51), "52"]
        assert (behind.seq, behind.value["text"]) == (53, "later")


async def test_only_the_documents_asked_for_are_told_as_they_are(path):
    async with unloaded(path) as store:
        for n in range(3):
            await store.collection("raw").put({"id": str(n)})
            await store.collection("tasks").put({"id": str(n)})
        await store.snapshot()
        await store._engine.log.trim(6)
        wanted = store.watch(since=0, resync=True, collections=("tasks",), ids=("1", "nowhere"))
        async with aclosing(wanted) as changes:
            assert (await anext(changes)).value == 1
            assert (await anext(changes)).key == "tasks/1"


def test_the_blocking_store_is_served_from_the_database_too(path, monkeypatch):
    monkeypatch.setenv("STATE_LOAD", "false")
    with statepath.open_sync(path) as store:
        store.collection("raw").put({"id": "a", "n": 1})
        assert list(store.collection("raw").find(n=1)) == [{"id": "a", "n": 1}]
        assert len(store._store._engine.replica) == 0
