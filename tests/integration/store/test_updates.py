"""Updates and appends: changes of what is stored, safe beside other changes."""

import asyncio
from typing import Any, Literal

import pytest
import statepath
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from statepath.errors import ConflictError, InvalidArgumentError, NotFoundError


class Task(BaseModel):
    id: str
    n: int = 0
    logs: list[str] = []
    owner: str | None = None


@pytest.fixture
async def tasks(store):
    tasks = store.collection("tasks", Task)
    await tasks.put(Task(id="a"))
    return tasks


async def test_update_stores_what_the_function_changed_in_place(tasks):
    def bump(task):
        task.n += 1

    assert (await tasks.update("a", bump)).n == 1
    assert (await tasks.get("a")).n == 1


async def test_update_stores_what_the_function_returns(tasks):
    await tasks.update("a", lambda task: task.model_copy(update={"n": 7}))
    assert (await tasks.get("a")).n == 7


async def test_update_awaits_an_asynchronous_function(tasks):
    async def bump(task):
        await asyncio.sleep(0)
        task.n += 1

    await tasks.update("a", bump)
    assert (await tasks.get("a")).n == 1


async def test_concurrent_updates_all_count(tasks):
    def bump(task):
        task.n += 1

    await asyncio.gather(*(tasks.update("a", bump) for _ in range(10)))
    assert (await tasks.get("a")).n == 10


async def test_updates_of_one_handle_that_meet_are_repeated_one_by_one(store, tasks, at_once):
    calls = []

    def bump(task):
        calls.append(task.n)
        task.n += 1

    await asyncio.gather(*(store.collection("tasks", Task).update("a", bump) for _ in range(60)))
    assert (await tasks.get("a")).n == 60
    assert len(calls) <= 2 * 60


async def test_who_met_other_handles_twice_looks_before_it_tries_again(store, tasks, url, monkeypatch):
    async with statepath.open(url, autosave=0) as other:
        theirs = other.collection("tasks", Task)

        async def meanwhile(attempt):
            await theirs.append("a", "logs", "theirs")

        monkeypatch.setattr("statepath.collection.back_off", meanwhile)
        await meanwhile(0)
        seen = []
        await tasks.update("a", lambda task: seen.append(len(task.logs)))
    assert seen == [0, 1, 3]


async def test_a_function_may_update_its_own_document_while_it_is_repeated(tasks, at_once, monkeypatch):
    monkeypatch.setattr("statepath.attempts.PATIENCE", 0)
    calls = []

    async def nesting(task):
        calls.append(task.n)
        if len(calls) < 4:
            await tasks.update("a", inner)
        task.owner = "outer"

    inner_calls = []

    async def inner(task):
        inner_calls.append(task.n)
        if len(inner_calls) % 2:
            await tasks.append("a", "logs", "meanwhile")
        task.n += 1

    async with asyncio.timeout(60):
        await tasks.update("a", nesting)
    stored = await tasks.get("a")
    assert (stored.owner, stored.n) == ("outer", 3)


async def test_update_calls_the_function_again_with_what_someone_else_stored(tasks):
    seen = []

    async def claim(task):
        seen.append(task.n)
        if len(seen) == 1:
            await tasks.put(Task(id="a", n=5))
        task.n += 1

    await tasks.update("a", claim)
    assert seen == [0, 5]
    assert (await tasks.get("a")).n == 6


async def test_update_gives_up_after_32_conflicts(tasks, at_once):
    calls = []

    async def always_late(task):
        calls.append(task.n)
        await tasks.put(Task(id="a", n=len(calls)))

    with pytest.raises(ConflictError):
        await tasks.update("a", always_late)
    assert len(calls) == 32


async def test_update_of_nothing_is_not_found(tasks):
    with pytest.raises(NotFoundError) as caught:
        await tasks.update("nobody", lambda task: None)
    assert caught.value.key == "tasks/nobody"


async def test_update_must_not_change_the_id(tasks):
    with pytest.raises(InvalidArgumentError, match="must not change its id"):
        await tasks.update("a", lambda task: task.model_copy(update={"id": "b"}))
    assert await tasks.count() == 1


async def test_a_function_that_raises_changes_nothing(tasks, store):
    head = store.seq

    def fail(task):
        task.n = 99
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await tasks.update("a", fail)
    assert (store.seq, (await tasks.get("a")).n) == (head, 0)


async def test_update_keeps_unknown_fields(store, tasks):
    await store.collection("tasks").put({"id": "a", "n": 0, "unknown": [1]})
    await tasks.update("a", lambda task: setattr(task, "n", 1))
    assert (await store.collection("tasks").get("a"))["unknown"] == [1]


async def test_append_adds_to_the_end_of_the_list(tasks):
    await tasks.append("a", "logs", "one")
    seq = await tasks.append("a", "logs", "two")
    document = await tasks.get_document("a")
    assert (document.value.logs, document.version) == (["one", "two"], seq)


async def test_concurrent_appends_all_arrive(tasks):
    await asyncio.gather(*(tasks.append("a", "logs", str(n)) for n in range(50)))
    assert (await tasks.get("a")).logs == [str(n) for n in range(50)]


async def test_an_append_makes_a_missing_or_null_field_a_list(store):
    raw = store.collection("raw")
    await raw.put({"id": "a", "null": None})
    await raw.append("a", "null", 1)
    await raw.append("a", "missing", {"x": 2})
    assert await raw.get("a") == {"id": "a", "null": [1], "missing": [{"x": 2}]}


class Renamed(BaseModel):
    id: str
    events: list[str] = Field(default=[], validation_alias=AliasChoices("events", "lines"))


async def test_an_append_hides_no_list_that_is_stored_under_an_earlier_name(store):
    await store.collection("jobs").put({"id": "a", "lines": ["one"]})
    jobs = store.collection("jobs", Renamed)
    with pytest.raises(
        InvalidArgumentError, match="jobs/a holds 'events' under an earlier name, 'lines': update it"
    ):
        await jobs.append("a", "events", "two")
    await jobs.update("a", lambda job: job)
    await jobs.append("a", "events", "two")
    assert (await jobs.get("a")).events == ["one", "two"]


async def test_a_transaction_appends_under_the_present_name_to_what_it_has_put(store):
    await store.collection("jobs").put({"id": "a", "lines": ["one"]})
    jobs = store.collection("jobs", Renamed)
    async with store.transaction() as tx:
        tx.put(jobs, await tx.get(jobs, "a"))
        tx.append(jobs, "a", "events", "two")
    assert (await jobs.get("a")).events == ["one", "two"]


async def test_append_takes_models(store):
    class Entry(BaseModel):
        message: str

    raw = store.collection("raw")
    await raw.put({"id": "a"})
    await raw.append("a", "logs", Entry(message="hi"))
    assert (await raw.get("a"))["logs"] == [{"message": "hi"}]


async def test_append_to_nothing_is_not_found(tasks):
    with pytest.raises(NotFoundError, match="tasks/nobody"):
        await tasks.append("nobody", "logs", "x")


async def test_append_to_what_is_no_list_is_refused(tasks, store):
    head = store.seq
    with pytest.raises(InvalidArgumentError, match="'n' does not hold a list"):
        await tasks.append("a", "n", 1)
    assert store.seq == head


async def test_append_to_a_field_that_the_model_does_not_know_is_refused(tasks):
    with pytest.raises(InvalidArgumentError, match="no field 'log'"):
        await tasks.append("a", "log", "typo")


async def test_append_to_a_field_that_the_next_put_would_leave_out_is_refused(store):
    class Hidden(BaseModel):
        id: str
        notes: list[str] = Field(default_factory=list, exclude=True)

    hidden = store.collection("hidden", Hidden)
    await hidden.put(Hidden(id="a"))
    with pytest.raises(InvalidArgumentError, match="does not store its field 'notes'"):
        await hidden.append("a", "notes", "gone with the next put")


async def test_append_of_what_is_not_json_is_refused(tasks):
    with pytest.raises(InvalidArgumentError):
        await tasks.append("a", "logs", object())


async def test_puts_and_appends_take_turns(tasks):
    await tasks.append("a", "logs", "one")
    await tasks.put(Task(id="a", logs=["anew"]))
    await tasks.append("a", "logs", "two")
    assert (await tasks.get("a")).logs == ["anew", "two"]


async def test_an_append_writes_the_element_and_not_the_document(store, commits):
    raw = store.collection("raw")
    await raw.put({"id": "a", "logs": ["x" * 10_000]})
    await raw.append("a", "logs", "y")
    last = (await commits())[-1]
    ((change,),) = last.transactions
    assert (change.field, bytes(change.value)) == ("logs", b'"y"')


async def test_many_appends_keep_their_order_and_the_rest_of_the_document(store):
    raw = store.collection("raw")
    await raw.put({"id": "a", "name": "kept", "logs": [], "other": []})
    await asyncio.gather(*(raw.append("a", "logs" if n % 3 else "other", n) for n in range(1500)))
    document = await raw.get("a")
    assert document["name"] == "kept"
    assert document["logs"] == [n for n in range(1500) if n % 3]
    assert document["other"] == [n for n in range(1500) if not n % 3]


class Line(BaseModel):
    message: str
    level: Literal["info", "error"] = "info"


class Job(BaseModel):
    model_config = ConfigDict(extra="allow")

    id: str
    lines: list[Line] = []
    seen: set[int] | None = None
    mixed: list[int] | str = []
    either: list[int | None] | list[str] = []
    notes: list[str] = Field(default=[], alias="Notes", max_length=2)
    anything: Any = None
    title: str | None = None
    pair: tuple[int, str] | None = None


REFUSED = {
    "of another type": ("lines", "a text"),
    "without a field": ("lines", {"level": "info"}),
    "with a wrong field": ("lines", {"message": "x", "level": "loud"}),
    "null": ("lines", None),
    "of no element type of several": ("mixed", "x"),
    "of no list of several": ("either", 1.5),
    "that a set does not take": ("seen", "x"),
    "that a field with an alias does not take": ("notes", 1),
    "for a missing field that is no list": ("title", "x"),
    "for pairs, which no append fills": ("pair", 1),
}


@pytest.fixture
async def jobs(store):
    jobs = store.collection("jobs", Job)
    await jobs.put(Job(id="a"))
    return jobs


async def test_an_element_that_the_model_would_not_read_again_is_refused(jobs, store):
    head = store.seq
    for how, (field, item) in REFUSED.items():
        with pytest.raises(InvalidArgumentError, match=f"jobs/a: .*'{field}'.* append"):
            await jobs.append("a", field, item)
        async with store.transaction() as tx:
            with pytest.raises(InvalidArgumentError, match=f"jobs/a: .*'{field}'"):
                tx.append(jobs, "a", field, item)
        assert (store.seq, await jobs.get("a")) == (head, Job(id="a")), how


TAKEN = [
    ("lines", Line(message="x")),
    ("lines", {"message": "x", "unknown": 1}),
    ("seen", 3),
    ("mixed", 3),
    ("either", "x"),
    ("either", None),
    ("notes", "x"),
    ("Notes", "x"),
    ("anything", {"x": [1]}),
    ("extra", 1),
]


async def test_what_an_append_takes_the_model_reads(jobs):
    for field, item in TAKEN:
        await jobs.put(Job(id="b"))
        await jobs.append("b", field, item)
        held = (await jobs.get("b")).model_dump()["notes" if field == "Notes" else field]
        assert len(held) == 1, (field, item)
        await jobs.delete("b")


async def test_what_a_model_says_of_the_whole_list_is_not_asked(jobs):
    # It would cost as much as the list is long: who sets such limits keeps them by `update`.
    for text in ("one", "two", "three"):
        await jobs.append("a", "notes", text)
    with pytest.raises(InvalidArgumentError, match="at most 2 items"):
        await jobs.get("a")


async def test_an_append_makes_no_document_deeper_or_larger_than_a_put_may(store):
    raw = store.collection("raw")
    deep: list[Any] = []
    for _ in range(97):
        deep = [deep]
    await raw.put({"id": "a", "deep": [deep]})
    await raw.put({"id": "b"})
    await raw.append("b", "deep", deep)
    with pytest.raises(InvalidArgumentError, match="deeper"):
        await raw.put({"id": "a", "deep": [[deep]]})
    with pytest.raises(InvalidArgumentError, match="deeper"):
        await raw.append("b", "deep", [deep])
