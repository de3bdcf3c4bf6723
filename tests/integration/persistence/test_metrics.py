"""The metrics: the original server's numbers, kept up to date without being asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import statepath
from statepath.events import AutosaveTriggered
from statepath.models import PersistedState, StateMetrics, Task
from statepath.persistence import StatePersistence
from statepath.store import Store

MakeTask = Callable[..., Task]
SNAPSHOTS = sorted((Path(__file__).parents[2] / "data" / "original-state").glob("state*.json"))
GIVEN = StateMetrics(total_tasks=9, completed_tasks=1, failed_tasks=0, average_completion_time=1.25)


async def metrics(p: StatePersistence) -> StateMetrics:
    state = await p.load_state()
    assert state is not None
    return state.metrics


async def autosave(p: StatePersistence) -> None:
    """As the engine's interval does, and then wait for the listeners."""
    p._engine.events.emit(AutosaveTriggered(p.store.seq))
    await p._engine.events.aclose()


@pytest.mark.parametrize(
    "text", [path.read_text() for path in SNAPSHOTS], ids=[path.name for path in SNAPSHOTS]
)
async def test_they_are_those_that_the_original_server_counted(p: StatePersistence, text: str) -> None:
    original = PersistedState.model_validate_json(text)
    await p.save_state(original.model_copy(update={"metrics": StateMetrics()}))
    assert await metrics(p) == original.metrics


async def test_given_metrics_are_stored_as_given_until_a_task_changes(
    p: StatePersistence, task: MakeTask
) -> None:
    await p.save_state(PersistedState(tasks=[task("a")], metrics=GIVEN))
    assert await metrics(p) == GIVEN
    await p.save_task(task("b", status="failed"))
    assert await metrics(p) == StateMetrics(
        total_tasks=2, completed_tasks=0, failed_tasks=1, average_completion_time=0
    )


async def test_equal_metrics_given_with_a_changed_task_stand(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a")], metrics=GIVEN))
    await p.save_state(PersistedState(tasks=[task("a", status="failed")], metrics=GIVEN))
    assert await metrics(p) == GIVEN


async def test_a_deleted_task_changes_them(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a"), task("b", status="failed")]))
    await p.delete_task("b")
    assert (await metrics(p)).model_dump() == {
        "total_tasks": 1,
        "completed_tasks": 0,
        "failed_tasks": 0,
        "average_completion_time": 0,
    }


async def test_metrics_given_after_a_deletion_stand(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
    await p.delete_task("b")
    await p.save_state(PersistedState(tasks=[task("a")], metrics=GIVEN))
    assert await metrics(p) == GIVEN


async def _delete(store: Store) -> None:
    await store.collection("tasks").delete("b")


async def _archive(store: Store) -> None:
    await store.archive("tasks", older_than="0s", id="b")


@pytest.mark.parametrize("go", [_delete, _archive])
async def test_what_went_while_no_server_ran_is_counted_no_more(
    tmp_path: Path, task: MakeTask, go: Callable[[Store], Any]
) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_state(PersistedState(tasks=[task("a"), task("b", status="failed")]))
    async with statepath.open(str(tmp_path), autosave=0) as store:
        await go(store)
    expected = StateMetrics(total_tasks=1, completed_tasks=0, failed_tasks=0, average_completion_time=0)
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert await metrics(p) == expected
    async with StatePersistence.open(str(tmp_path), readonly=True) as p:
        assert await metrics(p) == expected
        assert await p.store.get_member("metrics") == expected.model_dump()


async def test_given_metrics_stand_though_other_things_are_saved_with_them(
    tmp_path: Path, task: MakeTask
) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
        await asyncio.gather(
            p.delete_task("b"),
            p.save_state(PersistedState(tasks=[task("a", status="failed")], metrics=GIVEN)),
            p.store.collection("agents").put({"id": "agent_1"}),
        )
        assert await metrics(p) == GIVEN
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert await metrics(p) == GIVEN


async def test_fields_of_ones_own_stay_when_they_are_counted_again(
    p: StatePersistence, task: MakeTask
) -> None:
    await p.save_state({"metrics": {"uptime": 17}})
    await p.save_state({})
    await p.save_task(task("a"))
    assert (await metrics(p)).model_dump() == {
        "total_tasks": 1,
        "completed_tasks": 0,
        "failed_tasks": 0,
        "average_completion_time": 0,
        "uptime": 17,
    }


async def test_autosave_stores_them(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a", status="failed"))
    assert await p.store.get_member("metrics") is None
    await autosave(p)
    assert await p.store.get_member("metrics") == {
        "total_tasks": 1,
        "completed_tasks": 0,
        "failed_tasks": 1,
        "average_completion_time": 0,
    }


async def test_autosave_commits_nothing_when_they_are_the_same(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a")]))
    seq = await p.save_task(task("a", tool="CLAUDECODE"))
    await autosave(p)
    assert p.store.seq == seq


async def test_a_task_that_changes_again_is_counted_again(p: StatePersistence, task: MakeTask) -> None:
    await p.save_task(task("a", status="failed"))
    assert (await metrics(p)).failed_tasks == 1
    await p.save_task(task("a", status="completed"))
    assert (await metrics(p)).failed_tasks == 0
    assert (await metrics(p)).completed_tasks == 1


async def test_a_state_that_is_saved_again_is_counted_again(p: StatePersistence, task: MakeTask) -> None:
    await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
    await p.save_state(PersistedState(tasks=[task("a", status="completed"), task("b", status="failed")]))
    expected = StateMetrics(total_tasks=2, completed_tasks=1, failed_tasks=1, average_completion_time=0)
    assert await metrics(p) == expected
    assert await p.store.get_member("metrics") == expected.model_dump()


async def test_a_task_that_is_saved_beside_a_whole_state_is_counted(tmp_path: Path, task: MakeTask) -> None:
    expected = StateMetrics(total_tasks=2, completed_tasks=1, failed_tasks=1, average_completion_time=0)
    async with statepath.open(str(tmp_path), autosave=0) as store:
        p = StatePersistence(store)
        await asyncio.gather(
            p.save_task(task("b", status="failed")),
            p.save_state(PersistedState(tasks=[task("a", status="completed")])),
        )
        assert await metrics(p) == expected
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert await metrics(p) == expected


async def test_a_task_of_another_handle_that_lags_is_counted(task: MakeTask) -> None:
    url = f"memory://{uuid4().hex}"
    async with (
        StatePersistence.open(url, autosave=0) as one,
        StatePersistence.open(url, autosave=0) as other,
    ):
        await other.save_task(task("b"))
        await one.save_state(PersistedState(tasks=[task("a")]))
        await other.store.sync()
        assert [(await metrics(p)).total_tasks for p in (one, other)] == [2, 2]


async def test_metrics_that_a_lagging_handle_counts_are_those_of_all_tasks(task: MakeTask) -> None:
    url = f"memory://{uuid4().hex}"
    async with (
        StatePersistence.open(url, autosave=0) as one,
        StatePersistence.open(url, autosave=0) as other,
    ):
        await one.save_task(task("a"))
        await other.save_task(task("b"))
        await autosave(one)
        await other.store.sync()
        assert [(await metrics(p)).total_tasks for p in (one, other)] == [2, 2]


async def test_of_two_saves_that_wait_the_later_one_stays(p: StatePersistence, task: MakeTask) -> None:
    await asyncio.gather(
        p.save_task(task("a", status="pending")),
        p.save_state(PersistedState(tasks=[task("a", status="failed")])),
        p.save_state(PersistedState(tasks=[task("a", status="completed")])),
    )
    assert await p.load_tasks() == [task("a", status="completed")]
    assert (await metrics(p)).completed_tasks == 1


async def test_metrics_that_others_overtake_each_time_are_left_to_the_next_autosave(
    outrun: Any, task: MakeTask
) -> None:
    tries: list[int] = []

    async def another_task(other: Store, number: int) -> None:
        tries.append(number)
        assert number < 100
        await other.collection("tasks", Task).put(task(f"late {number}"))

    p = outrun.p
    await p.save_task(task("a"))
    outrun.by(another_task)
    await p._update_metrics()
    assert await p.store.get_member("metrics") is None
    outrun.end()
    await p._update_metrics()
    assert (await p.store.get_member("metrics"))["total_tasks"] == len(tries) + 1


async def test_autosave_of_a_store_without_tasks_commits_nothing(p: StatePersistence) -> None:
    seq = await p.store.collection("agents").put({"id": "agent_1"})
    await autosave(p)
    assert p.store.seq == seq


async def test_shutdown_stores_them(tmp_path: Path, task: MakeTask) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_task(task("a", status="failed"))
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert (await p.store.get_member("metrics")) == (await metrics(p)).model_dump()


async def test_given_metrics_survive_a_restart(tmp_path: Path, task: MakeTask) -> None:
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        await p.save_state(PersistedState(tasks=[task("a")], metrics=GIVEN))
    async with StatePersistence.open(str(tmp_path), autosave=0) as p:
        assert await metrics(p) == GIVEN


async def test_times_that_cannot_be_read_do_not_count(p: StatePersistence) -> None:
    begun: dict[str, Any] = {"status": "completed", "created_at": "2024-01-01T10:00:00Z"}
    await p.save_state(
        {
            "tasks": [
                {"id": "a", **begun, "completed_at": "2024-01-01T10:00:00.250Z"},
                {"id": "b", **begun, "completed_at": "2024-01-01T10:00:00.751"},
                {"id": "c", **begun, "completed_at": "soon"},
                {"id": "d", **begun},
            ]
        }
    )
    assert await metrics(p) == StateMetrics(
        total_tasks=4, completed_tasks=4, failed_tasks=0, average_completion_time=501
    )
