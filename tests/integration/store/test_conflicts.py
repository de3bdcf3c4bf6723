"""What becomes of a conflict, where a collection says so."""

import asyncio
import time
from datetime import datetime
from uuid import uuid4

import pytest
import statepath
from pydantic import AliasChoices, BaseModel, Field, model_validator
from statepath.collection import Collection
from statepath.errors import ConflictError, InvalidArgumentError


class Task(BaseModel):
    id: str
    status: str = "pending"
    owner: str = ""
    logs: list[str] = []


@pytest.fixture
async def based(store):
    """The document as it was read before somebody else changed it."""
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a", logs=["x"]))
    return await tasks.get_document("a")


async def change(other, **fields):
    """Somebody else's change."""
    tasks = other.collection("tasks", Task)
    await other.sync()
    task = await tasks.get("a")
    await tasks.put(task.model_copy(update=fields))


async def test_by_default_it_is_raised_with_all_that_met(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", Task)
    with pytest.raises(ConflictError) as raised:
        await tasks.put(based.value.model_copy(update={"owner": "me"}), if_version=based.version)
    error = raised.value
    assert (error.key, error.base, error.current) == ("tasks/a", 1, 2)
    assert (error.theirs["status"], error.ours["owner"]) == ("failed", "me")


async def test_the_last_write_wins_where_that_is_asked_for(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", Task, on_conflict="last_write_wins")
    await tasks.put(based.value.model_copy(update={"owner": "me"}), if_version=based.version)
    assert await tasks.get("a") == Task(id="a", owner="me", logs=["x"])


@pytest.mark.parametrize("version", [0, 1])
async def test_the_last_write_keeps_what_its_model_does_not_know(store, based, other, version):
    raw = other.collection("tasks")
    await raw.put(based.value.model_dump() | {"priority": 9})
    tasks = store.collection("tasks", Task, on_conflict="last_write_wins")
    await tasks.put(Task(id="a", owner="me"), if_version=version)
    assert await store.collection("tasks").get("a") == Task(id="a", owner="me").model_dump() | {"priority": 9}


async def test_the_last_write_brings_back_nothing_that_its_model_does_not_know(store, based, other):
    raw, known = store.collection("tasks"), based.value.model_dump()
    seen = await raw.put(known | {"priority": 1, "gone": True})
    await other.sync()
    await other.collection("tasks").put(known | {"priority": 9})
    tasks = store.collection("tasks", Task, on_conflict="last_write_wins")
    await tasks.put(Task(id="a", owner="me"), if_version=seen)
    assert await raw.get("a") == Task(id="a", owner="me").model_dump() | {"priority": 9}


async def test_the_last_write_has_nothing_of_a_document_that_was_deleted_meanwhile(store, based, other):
    seen = await store.collection("tasks").put(based.value.model_dump() | {"secret": "old"})
    await other.collection("tasks").delete("a")
    tasks = store.collection("tasks", Task, on_conflict="last_write_wins")
    await tasks.put(Task(id="a", owner="me"), if_version=seen)
    assert await store.collection("tasks").get("a") == Task(id="a", owner="me").model_dump()


async def test_a_checked_put_keeps_what_its_model_does_not_know_of_that_version(store, based, other):
    raw, known = other.collection("tasks"), based.value.model_dump()
    await raw.put(known | {"gone": True})
    await store.sync()
    told = await raw.put(known | {"priority": 9})
    await store.collection("tasks", Task).put(Task(id="a", owner="me"), if_version=told)
    await other.sync()
    assert await raw.get("a") == Task(id="a", owner="me").model_dump() | {"priority": 9}


async def test_a_merge_keeps_what_both_sides_did(store, based, other):
    await change(other, status="failed", logs=["x", "theirs"])
    tasks = store.collection("tasks", Task, on_conflict="merge")
    ours = based.value.model_copy(update={"owner": "me", "logs": ["x", "ours"]})
    await tasks.put(ours, if_version=based.version)
    assert await tasks.get("a") == Task(id="a", status="failed", owner="me", logs=["x", "theirs", "ours"])


@pytest.mark.parametrize(
    ("stored", "theirs"),
    [
        ({}, {"owner": "them"}),
        ({}, {"logs": ["theirs"]}),
        ({"assignee": "nobody"}, {"owner": "them"}),
        ({"due": "2024-01-01T00:00:00.000Z"}, {"due": "2025-01-01T00:00:00Z"}),
    ],
    ids=["default", "list", "alias", "form"],
)
async def test_what_the_model_makes_of_the_stored_document_is_no_change_that_a_merge_counts(
    store, stored, theirs
):
    class Due(Task):
        owner: str = Field("", validation_alias=AliasChoices("owner", "assignee"))
        due: datetime | None = None

    raw = store.collection("tasks")
    seen = await raw.put({"id": "a", **stored})
    tasks = store.collection("tasks", Due, on_conflict="merge")
    ours = await tasks.get("a")
    await tasks.put(Due.model_validate(ours.model_dump() | theirs))
    await tasks.put(ours.model_copy(update={"status": "done"}), if_version=seen)
    merged = await raw.get("a")
    assert merged == merged | {"status": "done"} | theirs


async def test_a_default_that_is_another_one_each_time_hinders_no_merge(store):
    class Seen(Task):
        seen: str = Field(default_factory=lambda: uuid4().hex)

    raw = store.collection("tasks")
    version = await raw.put({"id": "a", "status": "new", "owner": ""})
    tasks = store.collection("tasks", Seen, on_conflict="merge")
    ours = await tasks.get("a")
    await raw.put({"id": "a", "status": "new", "owner": "them"})
    await tasks.put(ours.model_copy(update={"status": "done"}), if_version=version)
    assert await tasks.get("a") == ours.model_copy(update={"status": "done", "owner": "them"})


async def test_a_merge_keeps_what_the_model_does_not_hold_of_the_other_side(store):
    class Hiding(Task):
        token: str = Field("", exclude=True)

    tasks, raw = store.collection("tasks", Hiding, on_conflict="merge"), store.collection("tasks")
    version = await tasks.put(Hiding(id="a"))
    ours = await tasks.get("a")
    await raw.update("a", lambda document: document | {"token": "theirs"})
    await tasks.put(ours.model_copy(update={"status": "done"}), if_version=version)
    merged = await raw.get("a")
    assert merged == merged | {"status": "done", "token": "theirs"}


@pytest.fixture
async def unknown(store):
    """The document as it was read with fields that its model does not know, and changed in them behind that."""
    raw = store.collection("tasks")
    seen = await raw.put({"id": "a", "history": ["x"], "priority": 1})
    await raw.append("a", "history", "y")
    await raw.update("a", lambda document: document | {"priority": 2})
    return raw, seen


@pytest.mark.parametrize("patience", [0, 10])
async def test_as_many_merges_of_one_document_as_meet_are_all_kept(at_once, monkeypatch, patience):
    """However long a commit takes."""
    monkeypatch.setattr("statepath.attempts.PATIENCE", patience)
    logs = [str(number) for number in range(50)]
    async with statepath.open("memory://as-many-merges") as store:
        tasks = store.collection("tasks", Task, on_conflict="merge")
        version = await tasks.put(Task(id="a"))
        await asyncio.gather(*(tasks.put(Task(id="a", logs=[line]), if_version=version) for line in logs))
        assert sorted((await tasks.get("a")).logs) == sorted(logs)


async def test_a_merge_may_be_a_part_of_an_update_that_is_repeated():
    async with statepath.open("memory://merges-in-an-update") as store:
        tasks = store.collection("tasks", Task, on_conflict="merge")
        version = await tasks.put(Task(id="a"))
        calls = []

        async def merging(task):
            calls.append(task.owner)
            if len(calls) < 3:
                await tasks.append("a", "logs", "meanwhile")
                await tasks.put(Task(id="a", owner="me"), if_version=version)

        async with asyncio.timeout(60):
            await tasks.update("a", merging)
        assert calls == ["", "me", "me"]


async def test_a_merge_counts_as_ours_only_what_the_model_knows(store, unknown):
    raw, seen = unknown
    tasks = store.collection("tasks", Task, on_conflict="merge")
    await tasks.put(Task(id="a", owner="me"), if_version=seen)
    kept = {"history": ["x", "y"], "priority": 2}
    assert await raw.get("a") == Task(id="a", owner="me").model_dump() | kept


async def test_a_merge_that_meets_one_more_version_counts_nothing_twice(store, unknown, monkeypatch):
    raw, seen = unknown
    resolve, late = Collection.resolve, iter("z")

    async def overtaken(self, *refused):
        resolved = await resolve(self, *refused)
        for item in late:
            await raw.append("a", "history", item)
        return resolved

    monkeypatch.setattr(Collection, "resolve", overtaken)
    tasks = store.collection("tasks", Task, on_conflict="merge")
    await tasks.put(Task(id="a", logs=["mine"]), if_version=seen)
    kept = {"history": ["x", "y", "z"], "priority": 2}
    assert await raw.get("a") == Task(id="a", logs=["mine"]).model_dump() | kept


async def test_a_function_is_given_ours_with_what_the_model_does_not_know_of_the_base(store, unknown):
    _, seen = unknown
    asked = []

    def decide(base, theirs, ours):
        asked.append([side["priority"] for side in (base, theirs, ours)])
        return theirs

    await store.collection("tasks", Task, on_conflict=decide).put(Task(id="a"), if_version=seen)
    assert asked == [[1, 2, 1]]


async def test_a_function_is_given_nothing_of_a_document_that_was_deleted_meanwhile(store, unknown):
    raw, seen = unknown
    await raw.delete("a")
    tasks = store.collection("tasks", Task, on_conflict=lambda base, theirs, ours: ours)
    await tasks.put(Task(id="a", owner="me"), if_version=seen)
    assert await raw.get("a") == Task(id="a", owner="me").model_dump()


async def test_a_function_is_given_nothing_of_a_document_that_was_deleted_after_it_had_decided(
    store, unknown, monkeypatch
):
    raw, seen = unknown
    resolve, late = Collection.resolve, iter("a")

    async def overtaken(self, *refused):
        resolved = await resolve(self, *refused)
        for id in late:
            await raw.delete(id)
        return resolved

    monkeypatch.setattr(Collection, "resolve", overtaken)
    tasks = store.collection("tasks", Task, on_conflict=lambda base, theirs, ours: ours)
    await tasks.put(Task(id="a", owner="me"), if_version=seen)
    assert await raw.get("a") == Task(id="a", owner="me").model_dump()


async def test_a_transactions_merge_counts_as_its_own_only_what_the_model_knows(store, unknown):
    raw, _ = unknown
    tasks = store.collection("tasks", Task, on_conflict="merge")
    async with store.transaction() as tx:
        task = await tx.get(tasks, "a")
        await raw.append("a", "history", "z")
        tx.put(tasks, task.model_copy(update={"owner": "me"}))
    kept = {"history": ["x", "y", "z"], "priority": 2}
    assert await raw.get("a") == Task(id="a", owner="me").model_dump() | kept


async def test_a_real_clash_is_raised_and_says_where(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", Task, on_conflict="merge")
    with pytest.raises(ConflictError, match="both sides changed status") as raised:
        await tasks.put(based.value.model_copy(update={"status": "completed"}), if_version=based.version)
    assert raised.value.ancestor["status"] == "pending"
    assert (await tasks.get("a")).status == "failed"


@pytest.mark.parametrize("fields", [{}, {"owner": "me"}], ids=["unchanged", "changed"])
async def test_what_the_other_side_deleted_is_a_conflict(store, based, other, fields):
    await other.collection("tasks").delete("a")
    tasks = store.collection("tasks", Task, on_conflict="merge")
    with pytest.raises(ConflictError, match="the other side deleted it") as raised:
        await tasks.put(based.value.model_copy(update=fields), if_version=based.version)
    assert (raised.value.current, raised.value.ancestor["logs"]) == (0, ["x"])
    assert await tasks.get("a") is None


async def test_what_was_deleted_meanwhile_lets_transact_begin_again(store, based, other):
    tasks = store.collection("tasks", Task, on_conflict="merge")
    seen = []

    async def keep(tx):
        seen.append(task := await tx.get(tasks, "a"))
        if len(seen) == 1:
            await other.collection("tasks").delete("a")
        tx.put(tasks, task or Task(id="a", owner="anew"))

    await store.transact(keep)
    assert seen == [based.value, None]
    assert await tasks.get("a") == Task(id="a", owner="anew")


@pytest.mark.parametrize("policy", ["merge", lambda base, theirs, ours: ours], ids=["merge", "function"])
async def test_a_version_that_never_was_is_a_conflict(store, based, policy):
    tasks = store.collection("tasks", Task, on_conflict=policy)
    with pytest.raises(ConflictError, match="tasks/a is at version 1 now") as raised:
        await tasks.put(based.value, if_version=99_999)
    assert (raised.value.base, raised.value.current) == (99_999, 1)


async def test_a_function_decides_where_it_is_given(store, based, other):
    await change(other, status="failed")
    asked = []

    def decide(base, theirs, ours):
        asked.append((base["status"], theirs["status"], ours["status"]))
        return theirs | {"owner": "decided"}

    tasks = store.collection("tasks", Task, on_conflict=decide)
    await tasks.put(based.value.model_copy(update={"status": "completed"}), if_version=based.version)
    assert asked == [("pending", "failed", "completed")]
    assert await tasks.get("a") == Task(id="a", status="failed", owner="decided", logs=["x"])


async def test_what_a_function_returns_has_to_be_that_document(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", Task, on_conflict=lambda base, theirs, ours: {"id": "b"})
    with pytest.raises(InvalidArgumentError, match="no document of that id"):
        await tasks.put(based.value, if_version=based.version)


async def test_what_a_function_returns_has_to_fit_the_model(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", Task, on_conflict=lambda base, theirs, ours: {"id": "a", "logs": 1})
    with pytest.raises(
        InvalidArgumentError, match="Task does not accept what on_conflict returned for tasks/a: logs"
    ):
        await tasks.put(based.value, if_version=based.version)


async def test_a_merge_that_does_not_fit_the_model_is_a_conflict(store, based, other):
    class Owned(Task):
        @model_validator(mode="after")
        def check(self):
            if self.status == "failed" and self.owner:
                raise ValueError("what has failed has no owner")
            return self

    await change(other, status="failed")
    tasks = store.collection("tasks", Owned, on_conflict="merge")
    ours = Owned(**based.value.model_dump()).model_copy(update={"owner": "me"})
    with pytest.raises(
        ConflictError, match=r"tasks/a cannot be merged: Owned does not accept .* no owner"
    ) as raised:
        await tasks.put(ours, if_version=based.version)
    assert (raised.value.theirs["status"], raised.value.ours["owner"]) == ("failed", "me")


async def test_without_a_model_what_a_function_returns_has_to_be_that_document_too(store, based, other):
    await change(other, status="failed")
    tasks = store.collection("tasks", on_conflict=lambda base, theirs, ours: {"status": "failed"})
    with pytest.raises(InvalidArgumentError, match="no document of that id"):
        await tasks.put({"id": "a"}, if_version=based.version)


class Aliased(BaseModel):
    id: str = Field(alias="taskId")
    status: str = "pending"
    owner: str = ""


@pytest.mark.parametrize(
    "policy",
    ["merge", lambda base, theirs, ours: theirs | {"owner": ours["owner"]}],
    ids=["merge", "function"],
)
async def test_an_id_that_is_stored_under_an_alias_is_resolved_like_any_other(store, other, policy):
    jobs = store.collection("jobs", Aliased, on_conflict=policy)
    base = await jobs.put(Aliased(taskId="a"))
    await other.sync()
    await other.collection("jobs", Aliased).put(Aliased(taskId="a", status="failed"))
    await jobs.put(Aliased(taskId="a", owner="me"), if_version=base)
    assert await jobs.get("a") == Aliased(taskId="a", status="failed", owner="me")


async def test_a_transaction_merges_what_it_had_read_and_put(store, based, other):
    tasks, beside = store.collection("tasks", Task, on_conflict="merge"), store.collection("beside")
    async with store.transaction() as tx:
        task = await tx.get(tasks, "a")
        await change(other, status="failed")
        tx.put(tasks, task.model_copy(update={"owner": "me"}))
        tx.put(beside, {"id": "b"})
    assert await tasks.get("a") == Task(id="a", status="failed", owner="me", logs=["x"])
    assert await beside.get("b") == {"id": "b"}


async def test_a_transaction_merges_what_it_has_put_twice(store, based, other):
    tasks, beside = store.collection("tasks", Task, on_conflict="merge"), store.collection("beside")
    async with store.transaction() as tx:
        task = await tx.get(tasks, "a")
        await change(other, status="failed", logs=["x", "theirs"])
        tx.put(tasks, task.model_copy(update={"owner": "me"}))
        tx.put(beside, {"id": "b"})
        tx.put(tasks, task.model_copy(update={"owner": "me", "logs": ["x", "ours"]}))
    assert await tasks.get("a") == Task(id="a", status="failed", owner="me", logs=["x", "theirs", "ours"])
    assert await beside.get("b") == {"id": "b"}


async def test_what_a_transaction_has_put_through_two_models_is_not_merged(store, based, other):
    tasks, raw = store.collection("tasks", Task, on_conflict="merge"), store.collection("tasks")
    with pytest.raises(ConflictError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            task = await tx.get(tasks, "a")
            await change(other, status="failed")
            tx.put(raw, task.model_dump() | {"priority": 9})
            tx.put(tasks, task.model_copy(update={"owner": "me"}))
    assert (await store.collection("tasks").get("a", fresh=True)).get("priority") is None


async def test_a_merge_counts_nothing_twice_of_what_a_transaction_reads_again(store, based, other):
    tasks = store.collection("tasks", Task, on_conflict="merge")
    async with store.transaction() as tx:
        await tx.get(tasks, "a")
        await change(other, logs=["x", "theirs"])
        await store.sync()
        task = await tx.get(tasks, "a")
        tx.put(tasks, task.model_copy(update={"logs": [*task.logs, "ours"]}))
    assert (await tasks.get("a")).logs == ["x", "theirs", "ours"]


async def test_what_a_transaction_only_read_is_never_merged(store, based, other):
    tasks, beside = store.collection("tasks", Task, on_conflict="merge"), store.collection("beside")
    with pytest.raises(ConflictError):  # noqa: PT012 - raised at the end of the block
        async with store.transaction() as tx:
            await tx.get(tasks, "a")
            await change(other, status="failed")
            tx.put(beside, {"id": "b"})
    assert await beside.get("b") is None


async def test_nothing_is_refused_by_what_a_handle_has_not_seen_yet(store, other):
    mine = store.collection("tasks", Task)
    theirs = other.collection("tasks", Task)
    version = await theirs.put(Task(id="new"))
    await mine.append("new", "logs", "x")
    assert await mine.put(Task(id="new", owner="me"), if_version=version + 1) == version + 2
    assert await theirs.delete("new") is True
    assert await mine.create(Task(id="new")) == version + 4
    assert await theirs.update("new", lambda task: setattr(task, "owner", "them")) == Task(
        id="new", owner="them"
    )
    assert await mine.delete("new") is True
    assert await theirs.delete("new") is False


async def test_a_fresh_read_sees_what_others_committed(store, other):
    mine, theirs = store.collection("raw"), other.collection("raw")
    seq = await theirs.put({"id": "a"})
    assert await mine.get("a") is None
    assert await mine.get("a", fresh=True) == {"id": "a"}
    seq = await theirs.put({"id": "a", "n": 1})
    assert (await mine.get_document("a", fresh=True)).version == seq


async def test_a_handle_waits_for_a_seq_of_another_writer(store, other):
    waiting = asyncio.ensure_future(store.sync(at_least=2))
    theirs = other.collection("raw")
    await theirs.put({"id": "a"})
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await theirs.put({"id": "b"})
    async with asyncio.timeout(60):
        assert await waiting == 2


async def test_staleness_tells_how_old_reads_may_be(store, other):
    await store.collection("raw").put({"id": "a"})
    await asyncio.sleep(0.05)
    assert store.staleness >= 0.05
    begun = time.monotonic()
    await store.sync()
    assert store.staleness <= time.monotonic() - begun
