"""Changes of a store that is served from the database are checked, merged and kept as ever."""

import asyncio
from functools import partial

import pytest
import statepath
from pydantic import BaseModel
from statepath import F
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)

unloaded = partial(statepath.open, load=False)


class Task(BaseModel):
    id: str
    status: str = "new"


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
