"""Transactions: changes over several collections that are all made, or none."""

import asyncio

import pytest
import statepath
from pydantic import BaseModel, Field
from statepath.errors import ClosedError, ConflictError, InvalidArgumentError, NotFoundError


class Task(BaseModel):
    id: str
    status: str = "pending"
    logs: list[str] = []


class Session(BaseModel):
    id: str
    task: str | None = None


@pytest.fixture
async def tasks(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="task_1"))
    return tasks


@pytest.fixture
def sessions(store):
    return store.collection("sessions", Session)


async def test_all_changes_are_one_seq(store, tasks, sessions):
    async with store.transaction() as tx:
        tx.put(tasks, Task(id="task_2"))
        tx.put(sessions, Session(id="s", task="task_2"))
        tx.delete(tasks, "task_1")
        tx.append(tasks, "task_2", "logs", "begun")
    assert tx.seq == store.seq == 2
    assert (await tasks.get_document("task_2")).version == 2
    assert (await sessions.get_document("s")).version == 2
    assert (await tasks.get("task_2")).logs == ["begun"]
    assert await tasks.get("task_1") is None


async def test_nobody_sees_a_change_before_the_end(store, tasks):
    async with store.transaction() as tx:
        tx.put(tasks, Task(id="task_1", status="done"))
        assert (await tasks.get("task_1")).status == "pending"
    assert (await tasks.get("task_1")).status == "done"


async def test_a_put_keeps_what_the_transaction_itself_has_stored_before(store, tasks):
    raw = store.collection("tasks")
    async with store.transaction() as tx:
        tx.put(raw, {"id": "task_1", "owner": "ann"})
        tx.put(tasks, Task(id="task_1", status="done"))
    assert await raw.get("task_1") == {"id": "task_1", "status": "done", "logs": [], "owner": "ann"}


async def test_a_put_keeps_what_the_transaction_itself_has_appended_before(store, tasks):
    raw = store.collection("tasks")
    await raw.put({"id": "task_1", "more": [1]})
    async with store.transaction() as tx:
        tx.append(raw, "task_1", "more", 2)
        tx.put(tasks, Task(id="task_1", status="done"))
    assert (await raw.get("task_1"))["more"] == [1, 2]


async def test_a_put_keeps_nothing_of_what_the_transaction_itself_has_deleted(store, tasks):
    raw = store.collection("tasks")
    await raw.put({"id": "task_1", "owner": "ann"})
    async with store.transaction() as tx:
        tx.delete(raw, "task_1")
        tx.put(tasks, Task(id="task_1", status="anew"))
    assert await raw.get("task_1") == {"id": "task_1", "status": "anew", "logs": []}


async def test_an_exception_drops_all_changes(store, tasks):
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            tx.put(tasks, Task(id="task_2"))
            raise ZeroDivisionError
    assert (store.seq, await tasks.count(), tx.seq) == (1, 1, None)


async def test_a_transaction_sees_its_own_changes(store, tasks):
    async with store.transaction() as tx:
        tx.put(tasks, Task(id="task_2"))
        assert await tx.get(tasks, "task_2") == Task(id="task_2")
        tx.append(tasks, "task_2", "logs", "one")
        tx.append(tasks, "task_1", "logs", "two")
        assert (await tx.get(tasks, "task_2")).logs == ["one"]
        assert (await tx.get(tasks, "task_1")).logs == ["two"]
        tx.delete(tasks, "task_1")
        assert await tx.get(tasks, "task_1") is None
        assert await tx.get(tasks, "nobody") is None


async def test_later_changes_of_one_document_build_on_earlier_ones(store, tasks):
    async with store.transaction() as tx:
        tx.append(tasks, "task_1", "logs", "one")
        tx.append(tasks, "task_1", "logs", "two")
        tx.delete(tasks, "task_1")
        tx.put(tasks, Task(id="task_1", status="anew"))
        tx.append(tasks, "task_1", "logs", "three")
    assert await tasks.get("task_1") == Task(id="task_1", status="anew", logs=["three"])


async def test_what_it_read_must_still_hold_at_the_end(store, tasks, sessions):
    with pytest.raises(ConflictError) as caught:  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            task = await tx.get(tasks, "task_1")
            await tasks.put(Task(id="task_1", status="changed by someone else"))
            tx.put(sessions, Session(id="s", task=task.id))
    assert caught.value.key == "tasks/task_1"
    assert await sessions.count() == 0
    assert (await tasks.get("task_1")).status == "changed by someone else"


async def test_what_it_read_as_missing_must_still_be_missing(store, tasks):
    with pytest.raises(ConflictError) as caught:  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            assert await tx.get(tasks, "task_2") is None
            await tasks.put(Task(id="task_2", status="theirs"))
            tx.put(tasks, Task(id="task_2", status="mine"))
    assert caught.value.base == 0
    assert (await tasks.get("task_2")).status == "theirs"


async def test_what_it_did_not_read_may_change(store, tasks):
    async with store.transaction() as tx:
        await tasks.put(Task(id="task_1", status="theirs"))
        tx.put(tasks, Task(id="task_1", status="mine"))
    assert (await tasks.get("task_1")).status == "mine"


async def test_of_two_that_read_and_write_the_same_one_wins(store, tasks):
    async def claim(name):
        async with store.transaction() as tx:
            task = await tx.get(tasks, "task_1")
            await asyncio.sleep(0)
            tx.put(tasks, task.model_copy(update={"status": name}))

    outcomes = await asyncio.gather(claim("one"), claim("two"), return_exceptions=True)
    assert sorted(type(outcome) for outcome in outcomes if outcome) == [ConflictError]


async def test_a_transaction_without_changes_commits_nothing(store, tasks):
    async with store.transaction() as tx:
        await tx.get(tasks, "task_1")
    assert (tx.seq, store.seq) == (None, 1)


async def test_a_transaction_cannot_be_used_after_its_end(store, tasks):
    async with store.transaction() as tx:
        pass
    with pytest.raises(ClosedError):
        tx.put(tasks, Task(id="x"))
    with pytest.raises(ClosedError):
        await tx.get(tasks, "task_1")
    with pytest.raises(ClosedError):
        async with tx:
            pass


async def test_a_bad_change_is_told_where_it_is_made(store, tasks):
    async with store.transaction() as tx:
        with pytest.raises(InvalidArgumentError):
            tx.put(tasks, Session(id="s"))
        with pytest.raises(InvalidArgumentError):
            tx.append(tasks, "task_1", "status", "x")
        with pytest.raises(InvalidArgumentError):
            tx.delete(tasks, "")
    assert store.seq == 1


async def test_an_append_to_what_is_nowhere_refuses_the_whole(store, tasks, sessions):
    with pytest.raises(NotFoundError, match="tasks/nobody does not exist") as caught:  # noqa: PT012 - at the end
        async with store.transaction() as tx:
            tx.put(sessions, Session(id="s"))
            tx.append(tasks, "nobody", "logs", "x")
    assert caught.value.key == "tasks/nobody"
    assert await sessions.count() == 0


async def test_an_append_to_what_the_transaction_itself_has_deleted_is_told_where_it_is_made(store, tasks):
    async with store.transaction() as tx:
        tx.delete(tasks, "task_1")
        with pytest.raises(NotFoundError, match="tasks/task_1 does not exist"):
            tx.append(tasks, "task_1", "logs", "x")
    assert await tasks.get("task_1") is None


async def test_an_append_by_the_model_s_name_of_a_field_is_seen_under_the_stored_one(store):
    class Named(BaseModel):
        id: str
        lines: list[str] = Field(default=[], alias="logs", serialization_alias="logs")

    named = store.collection("tasks", Named)
    async with store.transaction() as tx:
        tx.put(named, Named(id="own", logs=["one"]))
        tx.append(named, "own", "lines", "two")
        assert (await tx.get(named, "own")).lines == ["one", "two"]


async def test_an_append_to_what_is_no_list_names_the_document(store):
    raw = store.collection("raw")
    await raw.put({"id": "stored", "n": 1})
    async with store.transaction() as tx:
        tx.put(raw, {"id": "own", "n": 1})
        for id in ("stored", "own"):
            with pytest.raises(InvalidArgumentError, match=f"raw/{id}: field 'n'") as caught:
                tx.append(raw, id, "n", 2)
            assert caught.value.key == f"raw/{id}"
        tx.append(raw, "own", "list", 1)
        tx.append(raw, "own", "list", 2)
        assert (await tx.get(raw, "own"))["list"] == [1, 2]


async def test_an_append_to_what_someone_deletes_meanwhile_refuses_the_whole(store, tasks, sessions):
    with pytest.raises(NotFoundError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            tx.put(sessions, Session(id="s"))
            tx.append(tasks, "task_1", "logs", "x")
            await tasks.delete("task_1")
    assert await sessions.count() == 0


async def test_transact_runs_again_after_a_conflict(store, tasks):
    attempts = []

    async def claim(tx):
        task = await tx.get(tasks, "task_1")
        attempts.append(task.status)
        if len(attempts) == 1:
            await tasks.put(Task(id="task_1", status="theirs"))
        tx.put(tasks, task.model_copy(update={"status": f"after {task.status}"}))
        return len(attempts)

    assert await store.transact(claim) == 2
    assert attempts == ["pending", "theirs"]
    assert (await tasks.get("task_1")).status == "after theirs"


async def test_transact_gives_up_after_32_conflicts(store, tasks, at_once):
    attempts = []

    async def always_late(tx):
        task = await tx.get(tasks, "task_1")
        attempts.append(task)
        await tasks.put(Task(id="task_1", status=str(len(attempts))))
        tx.put(tasks, task)

    with pytest.raises(ConflictError):
        await store.transact(always_late)
    assert len(attempts) == 32


async def test_transact_lets_other_errors_through_at_once(store, tasks):
    attempts = []

    async def fail(tx):
        attempts.append(tx)
        tx.put(tasks, Task(id="x"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.transact(fail)
    assert (len(attempts), await tasks.count()) == (1, 1)


async def test_concurrent_counters_lose_nothing(store):
    raw = store.collection("raw")
    await raw.put({"id": "counter", "n": 0})

    async def bump(tx):
        counter = await tx.get(raw, "counter")
        tx.put(raw, {**counter, "n": counter["n"] + 1})

    await asyncio.gather(*(store.transact(bump) for _ in range(8)))
    assert (await raw.get("counter"))["n"] == 8


async def test_a_transaction_is_whole_after_reopening(url, tasks, store):
    async with store.transaction() as tx:
        tx.put(tasks, Task(id="task_2"))
        tx.delete(tasks, "task_1")
    await store.aclose()
    async with statepath.open(url) as again:
        assert [task.id async for task in again.collection("tasks", Task)] == ["task_2"]
