"""`save_state`: one transaction that puts what differs, skips what is older, and deletes only when told."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from pydantic import BaseModel, Field
from statepath import F
from statepath.commit import Put
from statepath.engine.replica import MEMBERS
from statepath.errors import ConflictError, InvalidArgumentError
from statepath.models import PersistedState, SessionInfo, StateMetrics, Task
from statepath.persistence import StatePersistence
from statepath.state_save import Plan, StateSave
from statepath.store import Store

MakeTask = Callable[..., Task]
EARLY, LATE = "2024-01-01T10:00:00Z", "2024-01-01T11:30:00.000Z"


async def test_what_was_saved_is_loaded(p: StatePersistence, task: MakeTask) -> None:
    state = PersistedState(
        tasks=[task("a", status="failed", error="no space"), task("b")],
        sessions=[SessionInfo(id="s", status="busy", task_id="a")],
        metrics=StateMetrics(total_tasks=2, completed_tasks=0, failed_tasks=1, average_completion_time=17.5),
    )
    await p.save_state(state)
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.tasks == state.tasks
    assert loaded.sessions == state.sessions
    assert loaded.metrics == state.metrics


async def test_a_plain_mapping_is_taken_too(p: StatePersistence, original: dict[str, Any]) -> None:
    result = await p.save_state(original)
    loaded = await p.load_state()
    assert loaded is not None
    written = loaded.model_dump(mode="json")
    assert {name: written[name] for name in ("tasks", "sessions", "metrics")} == {
        name: original[name] for name in ("tasks", "sessions", "metrics")
    }
    assert len(result.saved) == len(original["tasks"]) + len(original["sessions"])


async def test_the_whole_state_is_one_transaction(p: StatePersistence, original: dict[str, Any]) -> None:
    before = p.store.seq
    result = await p.save_state({**original, "theme": "dark"})
    assert result.seq == p.store.seq == before + 1


async def test_a_state_with_one_bad_document_changes_nothing(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a"))
    before = await p.load_state()
    bad = task("b", result={"ratio": float("nan")})
    with pytest.raises(InvalidArgumentError, match=r"tasks/b.*nan"):
        await p.save_state(PersistedState(tasks=[task("a", status="failed"), bad]))
    assert await p.load_state() == before


async def test_a_state_that_is_none_is_refused_with_its_faults(p: StatePersistence) -> None:
    with pytest.raises(InvalidArgumentError, match=r"tasks\.0\.id: Field required"):
        await p.save_state({"tasks": [{"description": "no id"}]})


async def test_a_document_given_twice_is_refused(p: StatePersistence, task: MakeTask) -> None:
    with pytest.raises(InvalidArgumentError, match="tasks/a is twice"):
        await p.save_state(PersistedState(tasks=[task("a"), task("b"), task("a")]))
    assert p.store.seq == 0


async def test_only_what_differs_is_put(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
    result = await p.save_state(PersistedState(tasks=[task("a"), task("b", status="failed"), task("c")]))
    assert result.saved == ("tasks/b", "tasks/c")


async def test_an_equal_state_makes_no_commit(p: StatePersistence, original: dict[str, Any]) -> None:
    first = await p.save_state(original | {"theme": {"dark": True, "size": 1}})
    reordered = {
        **original,
        "theme": {"size": 1, "dark": True},
        "tasks": [dict(reversed(one.items())) for one in reversed(original["tasks"])],
    }
    again = await p.save_state(reordered)
    assert (again.seq, again.saved, again.deleted, again.skipped) == (first.seq, (), (), ())
    assert p.store.seq == first.seq


async def test_a_number_that_only_compares_equal_is_a_difference(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a", result={"tests_passed": True})]))
    result = await p.save_state(PersistedState(tasks=[task("a", result={"tests_passed": 1})]))
    assert result.saved == ("tasks/a",)


async def test_what_is_older_than_the_stored_is_skipped_with_a_warning(
    p: StatePersistence, task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    await p.save_task(task("a", updated_at=LATE, status="completed"))
    state = PersistedState(tasks=[task("a", updated_at=EARLY), task("b", updated_at=EARLY)])
    with caplog.at_level(logging.WARNING):
        result = await p.save_state(state)
    assert (result.saved, result.skipped) == (("tasks/b",), ("tasks/a",))
    assert [one.status for one in await p.load_tasks()] == ["completed", "pending"]
    assert [record.getMessage() for record in caplog.records] == [
        "tasks/a was not saved: the stored one has a later updated_at"
    ]


@pytest.mark.parametrize(
    ("stored", "given"),
    [
        (LATE, LATE),
        (EARLY, LATE),
        (LATE, None),
        (None, EARLY),
        (LATE, "yesterday"),
        ("2024-01-01T11:30:00+02:00", EARLY),
        ("2024-01-01T09:59:59.999999", EARLY),
    ],
)
async def test_what_is_not_older_is_put(
    p: StatePersistence, task: MakeTask, stored: str | None, given: str | None
) -> None:
    await p.save_task(task("a", updated_at=stored, status="pending"))
    result = await p.save_state(PersistedState(tasks=[task("a", updated_at=given, status="failed")]))
    assert (result.saved, result.skipped) == (("tasks/a",), ())


async def test_an_older_session_is_skipped_too(p: StatePersistence) -> None:
    await p.save_state(PersistedState(sessions=[SessionInfo(id="s", status="done", updated_at=LATE)]))
    result = await p.save_state(PersistedState(sessions=[SessionInfo(id="s", updated_at=EARLY)]))
    assert result.skipped == ("sessions/s",)


async def test_nothing_is_deleted(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a"), task("b")], sessions=[SessionInfo(id="s")]))
    result = await p.save_state(PersistedState(tasks=[task("b")]))
    assert result.deleted == ()
    assert [one.id for one in await p.load_tasks()] == ["a", "b"]


async def test_replace_makes_the_collections_equal_to_the_state(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(
        PersistedState(tasks=[task("a", updated_at=LATE), task("b")], sessions=[SessionInfo(id="s")])
    )
    older = task("a", updated_at=EARLY, status="failed")
    result = await p.save_state(PersistedState(tasks=[older]), replace=True)
    assert (result.saved, result.deleted, result.skipped) == (
        ("tasks/a",),
        ("tasks/b", "sessions/s"),
        (),
    )
    loaded = await p.load_state()
    assert loaded is not None
    assert (loaded.tasks, loaded.sessions, loaded.metrics.total_tasks) == ([older], [], 1)


async def test_replace_leaves_collections_alone_that_the_state_does_not_name(
    p: StatePersistence, task: MakeTask
) -> None:
    await p.store.collection("agents").put({"id": "agent_1"})
    await p.save_state(PersistedState(tasks=[task("a")]), replace=True)
    assert p.store.collections() == ("agents", "tasks")


async def test_an_empty_list_under_the_name_of_a_collection_is_that_one_empty(p: StatePersistence) -> None:
    await p.save_state({"agents": [{"id": "agent_1"}]})
    await p.save_state({"agents": []})
    assert p.store.collections() == ("agents",)
    result = await p.save_state({"agents": []}, replace=True)
    assert (result.deleted, p.store.collections()) == (("agents/agent_1",), ())


async def test_an_empty_list_becomes_a_collection_with_its_first_documents(p: StatePersistence) -> None:
    await p.save_state({"agents": []})
    await p.save_state({"agents": [{"id": "agent_1"}]})
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == {"agents": [{"id": "agent_1"}]}
    assert list(await p.store.members()) == ["metrics"]


async def test_a_collection_is_loaded_in_place_of_a_member_of_its_name(p: StatePersistence) -> None:
    async with p.store.transaction() as tx:
        tx.put_member("agents", "none yet")
    # As another handle's put, which had not seen the member yet.
    await p.store._engine.commit([Put("agents", "agent_1", Raw(b'{"id":"agent_1"}'))])
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == {"agents": [{"id": "agent_1"}]}


@pytest.mark.parametrize("collection", ["tasks", "things"])
async def test_a_document_that_cannot_be_read_is_replaced(
    p: StatePersistence, put_unreadable: Callable[[str], Awaitable[None]], collection: str
) -> None:
    await put_unreadable(collection)
    result = await p.save_state({collection: [{"id": "odd", "updated_at": EARLY}]})
    assert result.saved == (f"{collection}/odd",)
    assert await p.store.collection(collection).count() == 1


async def test_replace_does_not_delete_what_cannot_be_read(
    p: StatePersistence, put_unreadable: Callable[[str], Awaitable[None]]
) -> None:
    await put_unreadable("things")
    result = await p.save_state({"things": [{"id": "a"}]}, replace=True)
    assert (result.saved, result.deleted) == (("things/a",), ())


async def test_replace_does_not_delete_what_load_state_left_out(p: StatePersistence, task: MakeTask) -> None:
    await p.store.collection("tasks").put({"id": "odd", "logs": "none yet"})
    state = await p.load_state()
    assert state is not None
    result = await p.save_state(state, replace=True)
    assert result.deleted == ()
    assert await p.store.collection("tasks").get("odd") == {"id": "odd", "logs": "none yet"}


async def test_members_that_the_model_does_not_know_are_kept(p: StatePersistence) -> None:
    state = PersistedState.model_validate(
        {"theme": {"dark": True}, "order": ["b", "a"], "note": None, "ratio": 1.0, "leases": 3}
    )
    await p.save_state(state)
    await p.save_state(PersistedState())
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == state.model_extra


async def test_fields_of_a_state_class_of_ones_own_are_members_and_collections(p: StatePersistence) -> None:
    class Note(BaseModel):
        id: str
        at: datetime

    class Measured(StateMetrics):
        slowest: int = Field(0, alias="slowestTask")

    class Notebook(PersistedState):
        title: str = "untitled"
        notes: list[Note] = Field(default_factory=list)
        open_since: date | None = Field(None, alias="openSince")
        never_given: str | None = None

    note = Note(id="n1", at=datetime(2024, 1, 1, tzinfo=UTC))
    await p.save_state(
        Notebook(notes=[note], openSince=date(2024, 1, 1), metrics=Measured(slowestTask=7), theme="dark")
    )
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == {
        "title": "untitled",
        "notes": [{"id": "n1", "at": "2024-01-01T00:00:00Z"}],
        "openSince": "2024-01-01",
        "theme": "dark",
    }
    assert loaded.metrics.model_extra == {"slowestTask": 7}
    assert p.store.collections() == ("notes",)


async def test_a_field_of_ones_own_that_is_no_json_is_refused(p: StatePersistence) -> None:
    class Odd(PersistedState):
        handle: Any = None

    with pytest.raises(InvalidArgumentError, match=r"a field of Odd cannot be stored: .*object"):
        await p.save_state(Odd(handle=object()))
    assert await p.load_state() is None


@pytest.mark.parametrize(
    ("value", "at"),
    [(float("inf"), ""), ({"a": [float("nan")]}, " at a[0]"), ([{"id": "b", "n": float("nan")}], "")],
)
async def test_nor_does_a_number_that_json_does_not_have_become_null_in_one(
    p: StatePersistence, value: object, at: str
) -> None:
    class Odd(PersistedState):
        limit: Any = None

    with pytest.raises(InvalidArgumentError, match=rf"limit: the number{re.escape(at)}.* JSON does not have"):
        await p.save_state(Odd(limit=value))
    assert await p.load_state() is None


async def test_a_list_of_objects_with_ids_is_a_collection(p: StatePersistence) -> None:
    agents = [{"id": "agent_1", "port": 8080}, {"id": "agent_2"}]
    await p.save_state({"agents": agents})
    assert await p.store.collection("agents").get("agent_1") == agents[0]
    loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == {"agents": agents}


@pytest.mark.parametrize("more", [{}, {"id": "of the job"}, {"after": "r0"}], ids=repr)
async def test_a_collection_whose_ids_are_in_another_field_is_saved_as_it_was_loaded(
    p: StatePersistence, task: MakeTask, more: dict[str, str]
) -> None:
    await p.save_task(task("a"))
    runs = p.store.collection("runs", id="run")
    await runs.put({"run": "r0", **more})
    await runs.put({"run": "r1", **more})
    loaded = await p.load_state()
    assert loaded is not None
    assert (await p.save_state(loaded)).saved == ()
    loaded = PersistedState(**dict(loaded) | {"runs": [{"run": "r1", "done": True}, {"run": "r2"}]})
    result = await p.save_state(loaded, replace=True)
    assert (result.saved, result.deleted) == (("runs/r1", "runs/r2"), ("runs/r0",))


async def test_a_member_cannot_take_the_name_of_a_collection(p: StatePersistence) -> None:
    await p.store.collection("agents").put({"id": "agent_1"})
    with pytest.raises(InvalidArgumentError, match="'agents' is a collection"):
        await p.save_state({"agents": "none"})


async def test_a_member_cannot_take_the_name_of_a_collection_that_is_made_right_before_it(
    p: StatePersistence,
) -> None:
    _, refused = await asyncio.gather(
        p.store.collection("agents").put({"id": "agent_1"}),
        p.save_state({"agents": "none"}),
        return_exceptions=True,
    )
    assert isinstance(refused, InvalidArgumentError)
    assert await p.store.members() == {}


async def test_a_collection_that_others_make_before_the_commit_is_told(outrun: Any) -> None:
    async def an_agent(other: Store, number: int) -> None:
        if not number:
            await other.collection("agents").put({"id": "agent_1"})

    outrun.by(an_agent)
    with pytest.raises(InvalidArgumentError, match="'agents' is a collection"):
        await outrun.p.save_state({"agents": "none"})


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb"], ids=["empty", "long", "control"])
async def test_a_member_that_an_earlier_version_took_is_saved_and_removed_whatever_its_name(
    p: StatePersistence, name: str
) -> None:
    await p.store._engine.commit([Put(MEMBERS, name, Raw(b"1"))])
    state = await p.load_state()
    assert state is not None
    await p.save_state(state)
    await p.save_state({name: 2})
    assert (await p.store.members())[name] == 2
    async with p.store.transaction() as tx:
        tx.delete_member(name)
    assert name not in await p.store.members()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "empty"),
        ("x" * 201, "200 UTF-8 bytes"),
        ("a\0b", "NUL"),
        ("a\nb", "control"),
    ],
)
async def test_a_member_has_a_name_that_a_backup_can_hold(p: StatePersistence, name: str, fault: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"cannot name a member of the state: .*{fault}"):
        await p.save_state({name: 1})
    assert p.store.seq == 0


async def test_a_state_json_can_be_saved_as_it_stands(p: StatePersistence, task: MakeTask) -> None:
    """What the store itself adds to `state.json` is not taken for the application's."""
    state = PersistedState.model_validate(
        {"version": "0.9", "seq": 12, "last_saved": LATE, "_statepath": {"store": "x"}, "tasks": [task("a")]}
    )
    await p.save_state(state)
    assert await p.store.members() == {"metrics": state.metrics.model_dump() | {"total_tasks": 1}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schema_versions", "1.2"),
        ("schema_versions", {"tasks": 2}),
        ("archive_segments", [{"v": 1}]),
        ("archive_segments", [{"id": "a"}]),
        ("lease/leader", {"name": "leader"}),
    ],
)
async def test_the_stores_own_members_are_not_taken_from_a_state(
    tmp_path: Path, name: str, value: object
) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_state({name: value, "theme": "dark"})
        assert sorted(p.store._engine.replica.members) == ["metrics", "theme"]
        assert p.store.collections() == ()
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert [one async for one in p.store.archived()] == []
        loaded = await p.load_state()
    assert loaded is not None
    assert loaded.model_extra == {"theme": "dark"}


async def test_a_member_has_any_name_that_is_an_id(p: StatePersistence) -> None:
    state = {"queue": [1], "_state": 5, "a/b": None}
    await p.save_state(state)
    assert (await p.save_state(state)).seq == p.store.seq == 1
    assert await p.store.members() | state == await p.store.members()


async def test_a_state_that_was_loaded_before_does_not_take_documents_from_the_archive(
    p: StatePersistence, task: MakeTask
) -> None:
    await p.save_state(PersistedState(tasks=[task("a", status="completed"), task("b"), task("c")]))
    await p.store.archive("tasks", older_than=timedelta(0), status="completed")
    state = await p.load_state()
    assert state is not None
    assert state.model_extra == {}
    await p.store.archive("tasks", F("id") == "b", older_than=timedelta(0))
    await p.save_state(PersistedState(**dict(state) | {"tasks": [task("c", status="failed")]}, theme="dark"))
    assert sorted([one.id async for one in p.store.archived()]) == ["a", "b"]


async def test_a_save_that_comes_before_the_decision_is_seen(
    p: StatePersistence, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    await p.save_task(task("a", updated_at=EARLY))
    engine = p.store._engine
    decide = engine.decide

    async def raced(*args: Any) -> int:
        monkeypatch.setattr(engine, "decide", decide)
        await p.save_task(task("a", updated_at=LATE, status="completed"))
        return await decide(*args)

    monkeypatch.setattr(engine, "decide", raced)
    middle = "2024-01-01T11:00:00Z"
    result = await p.save_state(PersistedState(tasks=[task("a", updated_at=middle), task("b")]))
    assert (result.saved, result.skipped) == (("tasks/b",), ("tasks/a",))
    assert [one.status for one in await p.load_tasks()] == ["completed", "pending"]


# Beside other programs


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One for each time that it was planned how to save a state."""
    plan, planned = StateSave.plan, []

    def noted(*args: Any, **options: Any) -> Plan:
        planned.append(args)
        return plan(*args, **options)

    monkeypatch.setattr(StateSave, "plan", noted)
    return planned


async def test_a_state_is_planned_once_while_others_save_other_things(
    outrun: Any, task: MakeTask, planned: list[object]
) -> None:
    async def once_more(other: Store, number: int) -> None:
        if number < 5:
            await other.collection("agents").put({"id": f"{number}"})

    outrun.by(once_more)
    result = await outrun.p.save_state(PersistedState(tasks=[task("a")]))
    assert (result.seq, len(planned)) == (6, 1)


async def test_a_state_gets_through_although_others_save_tasks_all_the_time(
    outrun: Any, task: MakeTask, planned: list[object]
) -> None:
    async def another_task(other: Store, number: int) -> None:
        if number < 40:
            await other.collection("tasks", Task).put(task(f"late {number}"))

    p = outrun.p
    await p.save_task(task("b"))
    outrun.by(another_task)
    await p.save_state(PersistedState(tasks=[task("a", status="failed")]))
    assert len(planned) == 5
    state = await p.load_state()
    assert state is not None
    assert state.metrics.total_tasks == len(state.tasks)
    assert state.metrics.failed_tasks == 1


async def test_metrics_of_ones_own_are_right_where_others_save_tasks(outrun: Any, task: MakeTask) -> None:
    async def another_task(other: Store, number: int) -> None:
        if number < 6:
            await other.collection("tasks", Task).put(task(f"late {number}"))

    outrun.by(another_task)
    await outrun.p.save_state({"tasks": [task("a")], "metrics": {"uptime": 17}})
    assert await outrun.p.store.get_member("metrics") == {
        "total_tasks": 7,
        "completed_tasks": 0,
        "failed_tasks": 0,
        "average_completion_time": 0,
        "uptime": 17,
    }


async def test_a_replacement_takes_out_what_others_save_before_it(outrun: Any, task: MakeTask) -> None:
    async def another_task(other: Store, number: int) -> None:
        if number < 6:
            await other.collection("tasks", Task).put(task(f"late {number}"))

    outrun.by(another_task)
    result = await outrun.p.save_state(PersistedState(tasks=[task("a")]), replace=True)
    assert len(result.deleted) == 6
    assert [one.id for one in await outrun.p.load_tasks()] == ["a"]


async def test_a_task_that_others_change_each_time_is_a_conflict_at_last(outrun: Any, task: MakeTask) -> None:
    async def changed(other: Store, number: int) -> None:
        await other.collection("tasks", Task).put(task("a", thought=f"{number}"))

    outrun.by(changed)
    with pytest.raises(ConflictError, match="in each of 32 attempts") as caught:
        await outrun.p.save_state(PersistedState(tasks=[task("a", status="failed")]))
    assert caught.value.key == "tasks/a"
