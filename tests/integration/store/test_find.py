"""Finding documents, as callers use it; the rules of filters are specified elsewhere."""

import pytest
from pydantic import BaseModel
from statepath import F
from statepath.errors import InvalidArgumentError


class Task(BaseModel):
    id: str
    status: str = "pending"
    priority: int = 0


@pytest.fixture
async def tasks(store):
    tasks = store.collection("tasks", Task)
    for n in range(6):
        await tasks.put(Task(id=f"t{n}", status="failed" if n % 2 else "done", priority=n))
    return tasks


async def test_equal_fields_select(tasks):
    assert [task.id async for task in tasks.find(status="failed")] == ["t1", "t3", "t5"]


async def test_filters_join_and_results_are_ordered_and_limited(tasks):
    where = (F("priority") > 0) & (F("status") == "failed")
    assert [task.id for task in await tasks.find(where, order_by="-priority", limit=2).all()] == ["t5", "t3"]


async def test_first_and_count(tasks):
    assert (await tasks.find(status="done", order_by="-priority").first()).id == "t4"
    assert await tasks.find(status="nowhere").first() is None
    assert await tasks.find(status="done").count() == 3


async def test_pages_follow_each_other(tasks):
    page = await tasks.find(limit=4).page()
    rest = await tasks.find(limit=4, after=page.next).page()
    assert [task.id for task in (*page.items, *rest.items)] == [f"t{n}" for n in range(6)]
    assert rest.next is None


async def test_a_query_sees_one_seq_whatever_changes_meanwhile(tasks):
    seen = []
    async for task in tasks.find():
        seen.append(task.id)
        await tasks.delete("t5")
        await tasks.put(Task(id="t9"))
    assert seen == [f"t{n}" for n in range(6)]


async def test_a_page_says_which_seq_it_shows(tasks, store):
    assert (await tasks.find().page()).seq == store.seq


async def test_an_unknown_field_is_refused_at_once(tasks):
    with pytest.raises(InvalidArgumentError, match="prioritty"):
        tasks.find(F("prioritty") > 1)


async def test_what_is_found_is_fresh(tasks):
    (await tasks.find(status="done").first()).priority = 99
    assert await tasks.find(priority=99).count() == 0


async def test_a_document_that_does_not_fit_the_model_is_not_passed_over(tasks, store):
    await store.collection("tasks").put({"id": "t7", "priority": "high"})
    with pytest.raises(InvalidArgumentError, match="tasks/t7"):
        await tasks.find().all()
