"""A store that is served from the database: the documents stay there, and everything else is as it was."""

import asyncio
import gc
import sys
import tracemalloc
from contextlib import aclosing
from functools import partial
from uuid import uuid4

import pytest
import statepath
from servers.postgres import session
from statepath import F
from statepath.engine import surveying
from statepath.engine.replica import Entry
from statepath.errors import InvalidArgumentError, NotFoundError, UnavailableError, UnsupportedError
from statepath.persistence import StatePersistence

unloaded = partial(statepath.open, load=False)


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

        async with asyncio.timeout(60):
            await asyncio.gather(*(nested(1) for _ in range(6)))


async def test_a_query_is_gone_through_slower_than_the_server_lets_transactions_take(
    postgres, database, hurried
):
    path = postgres.url(database)
    async with unloaded(path) as store, store.transaction() as tx:
        for number in range(10_000):
            tx.put(store.collection("tasks"), {"id": f"{number:05d}"})
    await hurried()
    async with session(postgres.url()) as admin, unloaded(path) as store:
        found = []
        async for task in store.collection("tasks").find():
            if not found:
                await admin.execute("SELECT pg_sleep(2)")
            found.append(task["id"])
    assert found == [f"{number:05d}" for number in range(10_000)]


async def test_the_original_api_needs_the_documents(path):
    with pytest.raises(UnsupportedError, match="load=False") as caught:
        await StatePersistence.open(path, load=False)
    assert caught.value.code == "not_loaded"


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A module with a migration of the collection raw."""
    (tmp_path / "steps.py").write_text(
        "from statepath import migration\n"
        "@migration('raw', 1, 2)\n"
        "def second(document):\n"
        "    return document | {'second': True}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "steps"
    sys.modules.pop("steps", None)


async def test_a_migration_that_is_due_needs_the_documents(path, steps):
    async with unloaded(path) as store:
        await store.collection("raw").put({"id": "a"})
    with pytest.raises(UnsupportedError, match="raw from 1 to 2 is to be migrated") as caught:
        await unloaded(path, migrations=steps)
    assert caught.value.code == "not_loaded"
    async with statepath.open(path, migrations=steps):
        pass
    async with unloaded(path, migrations=steps) as store:
        assert await store.collection("raw").get("a") == {"id": "a", "second": True}


async def test_a_new_store_has_the_version_of_its_program_without_any_document_in_memory(path, steps):
    async with unloaded(path, migrations=steps) as store:
        assert store.schema_versions == {"raw": 2}
        await store.collection("raw").put({"id": "a"})
    async with unloaded(path, migrations=steps) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}


async def test_a_collection_begins_where_no_member_has_its_name(path):
    async with unloaded(path) as store:
        async with store.transaction() as tx:
            tx.put_member("empty", [])
            tx.put_member("theme", "dark")
        await store.collection("empty").put({"id": "a"})
        with pytest.raises(InvalidArgumentError, match="'theme' is a member"):
            await store.collection("theme").put({"id": "a"})
        assert await store.members() == {"theme": "dark"}
        assert await store.collection("empty").count() == 1


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
