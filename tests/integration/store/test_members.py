"""Members: what stands in `state.json` beside the collections, such as the metrics."""

import asyncio
import json
from functools import partial

import pytest
import statepath
from msgspec import Raw
from statepath.commit import Put
from statepath.engine.replica import MEMBERS
from statepath.errors import ConflictError, InvalidArgumentError


async def test_a_member_is_stored_and_read(store):
    async with store.transaction() as tx:
        tx.put_member("metrics", {"total_tasks": 3})
        assert tx.get_member("metrics") == {"total_tasks": 3}
    assert await store.get_member("metrics") == {"total_tasks": 3}
    assert await store.members() == {"metrics": {"total_tasks": 3}}


async def test_a_missing_member_is_none(store):
    assert await store.get_member("metrics") is None
    assert await store.members() == {}


async def test_members_are_no_collection(store):
    async with store.transaction() as tx:
        tx.put_member("metrics", 1)
    assert store.collections() == ()
    assert (await store.stats()).documents == {}


async def test_a_member_can_be_removed(store):
    async with store.transaction() as tx:
        tx.put_member("metrics", 1)
    async with store.transaction() as tx:
        tx.delete_member("metrics")
        assert tx.get_member("metrics") is None
    assert await store.members() == {}


async def test_what_is_no_name_of_a_member_is_refused(store):
    async with store.transaction() as tx:
        for name in (["metrics"], {}, None, ""):
            with pytest.raises(InvalidArgumentError):
                tx.delete_member(name)


async def test_a_member_cannot_take_the_name_of_a_collection_that_the_transaction_itself_makes(store):
    async with store.transaction() as tx:
        tx.put(store.collection("notes"), {"id": "a"})
        with pytest.raises(InvalidArgumentError, match="take another name"):
            tx.put_member("notes", 1)
    assert await store.members() == {}
    assert store.collections() == ("notes",)


async def test_a_collection_cannot_begin_under_the_name_of_a_member_which_it_would_hide(store):
    notes = store.collection("notes")
    async with store.transaction() as tx:
        tx.put_member("notes", {"theme": "dark"})
        with pytest.raises(InvalidArgumentError, match="'notes' is a member"):
            tx.put(notes, {"id": "a"})
    for put in (notes.put, notes.create, partial(notes.put, if_version=0)):
        with pytest.raises(InvalidArgumentError, match="'notes' is a member"):
            await put({"id": "a"})
    assert await store.members() == {"notes": {"theme": "dark"}}
    async with store.transaction() as tx:
        tx.delete_member("notes")
        tx.put(notes, {"id": "a"})
    assert await notes.count() == 1


async def test_a_collection_that_hides_a_member_already_takes_documents(store):
    # As another handle's put, which had not seen the member yet.
    await store._engine.commit([Put(MEMBERS, "notes", Raw(b"1")), Put("notes", "a", Raw(b'{"id":"a"}'))])
    notes = store.collection("notes")
    await notes.put({"id": "a", "n": 1})
    await notes.create({"id": "b"})
    async with store.transaction() as tx:
        tx.put(notes, {"id": "c"})
    assert await notes.count() == 3


@pytest.mark.parametrize("by", ["put", "create", "put_if", "transaction"])
async def test_an_empty_list_makes_way_for_documents(store, by):
    async with store.transaction() as tx:
        tx.put_member("notes", [])
    notes = store.collection("notes")
    match by:
        case "put":
            await asyncio.gather(notes.put({"id": "a"}), notes.put({"id": "b"}))
        case "create":
            await notes.create({"id": "a"})
        case "put_if":
            await notes.put({"id": "a"}, if_version=0)
        case _:
            async with store.transaction() as tx:
                tx.put(notes, {"id": "a"})
    assert await notes.get("a") == {"id": "a"}
    # Both would stand under the name in state.json.
    assert await store.members() == {}


async def test_a_member_that_was_read_must_still_hold(store):
    with pytest.raises(ConflictError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            tx.get_member("metrics")
            async with store.transaction() as other:
                other.put_member("metrics", 1)
            tx.put_member("metrics", 2)
    assert await store.get_member("metrics") == 1


async def test_members_and_documents_are_one_transaction(store):
    tasks = store.collection("tasks")
    with pytest.raises(InvalidArgumentError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            tx.put_member("metrics", 1)
            tx.put(tasks, {"no": "id"})
    assert await store.members() == {}


async def test_members_survive_reopening_and_stand_in_the_snapshot(store, url, memory):
    async with store.transaction() as tx:
        tx.put_member("metrics", {"n": 1})
    await store.aclose()
    assert json.loads((await memory.read("state.json")).data)["metrics"] == {"n": 1}
    async with statepath.open(url) as again:
        assert await again.members() == {"metrics": {"n": 1}}


async def test_members_are_restored_with_the_documents(store):
    async with store.transaction() as tx:
        tx.put_member("metrics", 1)
    async with store.transaction() as tx:
        tx.put_member("metrics", 2)
    await store.restore(at=1)
    assert await store.get_member("metrics") == 1
