"""Events, failures, and the end: what is told, and that nothing is lost silently."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pytest
import statepath
from statepath.errors import ClosedError, UnavailableError, UnsupportedError
from statepath.events import EmergencySave, Event, Events, SaveError, ShutdownSave, StateLoaded, StateSaved
from statepath.models import PersistedState, Task
from statepath.persistence import StatePersistence

MakeTask = Callable[..., Task]


def full(*_: object, **__: object) -> NoReturn:
    raise UnavailableError("no space left", code="disk_full")


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def saved_tasks(folder: Path) -> list[str]:
    return [one["id"] for one in json.loads((folder / "state.json").read_text())["tasks"]]


def emergency_files(folder: Path) -> list[Path]:
    return list(folder.glob("statepath-emergency-*.json"))


async def fail_after_saving(p: StatePersistence, task: Task) -> NoReturn:
    await p.save_task(task)
    raise ZeroDivisionError


@pytest.fixture
def heard(p: StatePersistence) -> list[Event]:
    events: list[Event] = []
    p.on(Event, events.append)
    return events


# Events


async def test_save_state_tells_what_it_saved(
    p: StatePersistence, heard: list[Event], task: MakeTask
) -> None:
    result = await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
    [event] = heard
    assert isinstance(event, StateSaved)
    assert (event.seq, event.documents) == (result.seq, 2)
    assert event.bytes > 100
    assert event.seconds > 0


async def test_opening_tells_how_many_documents_there_are(tmp_path: Path, task: MakeTask) -> None:
    async with StatePersistence.open(tmp_path) as p:
        await p.save_state(PersistedState(tasks=[task("a"), task("b")]))
    heard: list[StateLoaded] = []
    events = Events()
    events.on(StateLoaded, heard.append)
    async with StatePersistence.open(tmp_path, events=events):
        assert [event.documents for event in heard] == [2]


async def test_a_listener_that_raises_harms_nobody(
    p: StatePersistence, heard: list[Event], task: MakeTask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: StateSaved) -> NoReturn:
        raise ValueError("the pager is down")

    p.on("state:saved", broken)
    await p.save_state(PersistedState(tasks=[task("a")]))
    assert await p.load_tasks() == [task("a")]
    assert names(heard) == ["state:saved"]
    assert "the pager is down" in caplog.text


async def test_off_ends_a_subscription(p: StatePersistence, task: MakeTask) -> None:
    heard: list[StateSaved] = []
    p.on(StateSaved, heard.append)
    assert p.off(StateSaved, heard.append)
    await p.save_state(PersistedState(tasks=[task("a")]))
    assert heard == []


async def test_events_can_be_iterated(p: StatePersistence, task: MakeTask) -> None:
    events = aiter(p)
    first = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await p.save_state(PersistedState(tasks=[task("a")]))
    assert (await first).name == "state:saved"
    await events.aclose()  # type: ignore[attr-defined]  # an asynchronous generator


async def test_autosave_tells_that_it_begins_and_that_it_saved(tmp_path: Path, task: MakeTask) -> None:
    async with (
        StatePersistence.open(str(tmp_path), autosave=0.01) as p,
        p.events.stream("autosave:triggered", "state:saved") as stream,
    ):
        await p.save_task(task("a"))
        assert [(await anext(stream)).name, (await anext(stream)).name] == [
            "autosave:triggered",
            "state:saved",
        ]


@pytest.mark.parametrize(
    "save",
    [
        lambda p: p.save_task({"id": "a"}),
        lambda p: p.save_state({"tasks": [{"id": "a"}]}),
        lambda p: p.delete_task("b"),
        lambda p: p.save_session_log("s", "text"),
        lambda p: p.save_report("r", {}),
    ],
)
async def test_a_save_that_fails_raises_and_tells_once(
    p: StatePersistence, heard: list[Event], monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    await p.save_task({"id": "b"})
    with monkeypatch.context() as patch:
        patch.setattr(p.store._engine.log, "append", full)
        with pytest.raises(UnavailableError) as caught:
            await save(p)
    [event] = [one for one in heard if isinstance(one, SaveError)]
    assert str(event.error) == str(caught.value)


# The end


async def test_shutdown_saves_tells_and_closes(tmp_path: Path, task: MakeTask) -> None:
    heard: list[Event] = []
    p = await StatePersistence.open(str(tmp_path), autosave=0)
    p.on("*", heard.append)
    await p.save_task(task("a"))
    await p.shutdown()
    assert names(heard) == ["state:saved", "shutdown:save"]
    assert heard[-1] == ShutdownSave(seq=p.store.seq, signal=None)
    assert saved_tasks(tmp_path) == ["a"]
    assert p.store.closed


@pytest.mark.parametrize("step", ["snapshot", "flush"])
async def test_what_is_saved_while_a_signal_saves_is_saved_at_shutdown(
    task: MakeTask, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with statepath.open("memory://", autosave=0) as store:
        heard: list[ShutdownSave] = []
        store.events.on(ShutdownSave, heard.append)
        p = StatePersistence(store)
        await p.save_task(task("a"))
        with monkeypatch.context() as patch:
            go_on = getattr(store, step)

            async def later(*args: Any) -> Any:
                patch.undo()
                await p.save_task(task("b"))
                return await go_on(*args)

            patch.setattr(store, step, later)
            await p._end(signal.SIGTERM)
        await p.shutdown()
        assert (await store.get_member("metrics"))["total_tasks"] == 2
        assert [event.signal for event in heard] == [signal.SIGTERM, None]
        assert heard[-1].seq == store.seq


async def test_after_shutdown_every_call_is_refused(p: StatePersistence, task: MakeTask) -> None:
    await p.shutdown()
    await p.shutdown()
    for call in (
        p.save_state({}),
        p.save_task(task()),
        p.delete_task("a"),
        p.save_session_log("s", "text"),
        p.save_report("r", {}),
        p.load_state(),
        p.load_tasks(),
    ):
        with pytest.raises(ClosedError):
            await call


async def test_a_store_of_ones_own_stays_open(task: MakeTask) -> None:
    async with statepath.open("memory://", autosave=0) as store:
        heard: list[Event] = []
        store.events.on("shutdown:save", heard.append)
        async with StatePersistence(store) as p:
            await p.save_task(task("a"))
        assert heard == [ShutdownSave(seq=store.seq, signal=None)]
        with pytest.raises(ClosedError):
            await p.save_task(task("b"))
        assert not store.closed


async def test_an_exception_that_leaves_the_block_passes_after_the_save(
    tmp_path: Path, task: MakeTask
) -> None:
    p = await StatePersistence.open(str(tmp_path), autosave=0)
    with pytest.raises(ZeroDivisionError):
        async with p:
            await fail_after_saving(p, task("a"))
    assert saved_tasks(tmp_path) == ["a"]


async def test_when_the_end_cannot_be_saved_the_state_is_in_a_local_file(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    heard: list[Event] = []
    p = await StatePersistence.open("memory://", autosave=0)
    p.on("*", heard.append)
    await p.save_task(task("a"))
    monkeypatch.setattr(p.store, "snapshot", full)
    with caplog.at_level(logging.ERROR), pytest.raises(UnavailableError):
        await p.shutdown()
    [dump] = emergency_files(tmp_path)
    assert stat.S_IMODE(dump.stat().st_mode) == 0o600
    state = json.loads(dump.read_text())
    assert [one["id"] for one in state["tasks"]] == ["a"]
    assert state["metrics"]["total_tasks"] == 1
    [event] = [event for event in heard if isinstance(event, EmergencySave)]
    assert event.path == str(dump)
    assert names(heard)[:2] == ["state:save-error", "emergency:save"]
    assert "shutdown:save" not in names(heard)
    assert str(dump) in caplog.text
    assert p.store.closed


async def test_the_last_resort_is_there_when_the_main_thread_has_ended(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    p = await StatePersistence.open("memory://", autosave=0)
    await p.save_task(task("a"))
    monkeypatch.setattr(p.store, "snapshot", full)
    ended = ThreadPoolExecutor()
    ended.shutdown()  # as Python does then
    asyncio.get_running_loop().set_default_executor(ended)
    with pytest.raises(UnavailableError):
        await p.shutdown()
    assert len(emergency_files(tmp_path)) == 1


async def test_who_closes_the_store_meanwhile_saves_and_nothing_is_told_as_lost(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = await statepath.open(tmp_path / "state", autosave=0)
    p = StatePersistence(store)
    heard: list[Event] = []
    p.on(Event, heard.append)
    await p.save_task(task("a"))
    await asyncio.gather(p.shutdown(), store.aclose())
    assert saved_tasks(tmp_path / "state") == ["a"]
    assert names(heard) == ["state:saved"]
    assert emergency_files(tmp_path) == []


async def test_the_end_of_who_closes_the_store_behind_the_snapshot_is_no_failure(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await statepath.open(tmp_path / "state", autosave=0)
    p = StatePersistence(store)
    await p.save_task(task("a"))
    snapshot = store.snapshot

    async def and_closed() -> int:
        seq = await snapshot()
        await store.aclose()
        return seq

    monkeypatch.setattr(store, "snapshot", and_closed)
    await p.shutdown()
    assert saved_tasks(tmp_path / "state") == ["a"]


async def test_a_shutdown_in_another_event_loop_ends_nothing(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with StatePersistence.open(tmp_path / "state", autosave=0) as p:
        await p.save_task(task("a"))
        with pytest.raises(UnsupportedError):
            await asyncio.to_thread(asyncio.run, p.shutdown())
        assert emergency_files(tmp_path) == []
        await p.save_task(task("b"))
    assert saved_tasks(tmp_path / "state") == ["a", "b"]


async def test_the_emergency_file_goes_to_the_working_directory_where_there_is_no_other(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.chdir(tmp_path)
    p = await StatePersistence.open("memory://", autosave=0)
    await p.save_task(task("a"))
    monkeypatch.setattr(p.store, "snapshot", full)
    with pytest.raises(UnavailableError):
        await p.shutdown()
    assert len(emergency_files(tmp_path)) == 1


async def test_when_no_file_can_be_written_either_that_is_told(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr("os.getcwd", lambda: str(tmp_path / "missing"))
    p = await StatePersistence.open("memory://", autosave=0)
    await p.save_task(task("a"))
    monkeypatch.setattr(p.store, "snapshot", full)
    with pytest.raises(UnavailableError):
        await p.shutdown()
    assert "neither to memory:// nor to a local file" in caplog.text


async def test_a_failing_save_at_the_end_does_not_hide_the_blocks_exception(
    tmp_path: Path, task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    p = await StatePersistence.open("memory://", autosave=0)
    monkeypatch.setattr(p.store, "snapshot", full)
    with pytest.raises(ZeroDivisionError) as caught:
        async with p:
            await fail_after_saving(p, task("a"))
    assert caught.value.__notes__ == ["The state could not be saved afterwards: no space left"]


async def test_signals_outside_the_main_thread_are_refused_and_the_store_is_closed(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def elsewhere() -> None:
        async def run() -> None:
            async with StatePersistence.open(str(tmp_path), handle_signals=True):
                pass

        try:
            asyncio.run(run())
        except UnsupportedError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert ["main thread" in str(error) for error in caught] == [True]
    async with StatePersistence.open(str(tmp_path)):
        pass
