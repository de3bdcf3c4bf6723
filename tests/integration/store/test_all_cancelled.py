"""`asyncio.run` cancels every task at its end, those of a store, too: who saves or closes then is served still. So is
who does where a listener ends the program within such a task."""

import asyncio
import sys
from unittest.mock import AsyncMock

import pytest
import statepath
from statepath.commit import Note
from statepath.errors import ClosedError, OutcomeUnknownError, UnavailableError
from statepath.events import SaveError
from statepath_local.journal import LocalCommitLog


def cancel_all():
    """Cancel every other task, as `asyncio.run` does at its end."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


async def cancel_and_end_all():
    others = asyncio.all_tasks() - {asyncio.current_task()}
    cancel_all()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.timeout(60)
def test_a_store_of_a_task_that_outlives_the_program_is_closed_with_all_that_was_saved(tmp_path):
    path, opened, stores = tmp_path / "state", asyncio.Event(), []

    async def server():
        async with statepath.open(path, view_interval=3600) as store:
            stores.append(store)
            tasks = store.collection("tasks")
            await tasks.put({"id": "task_1", "status": "running"})
            opened.set()
            try:
                await asyncio.Event().wait()
            finally:
                await tasks.put({"id": "task_1", "status": "interrupted"})

    async def main():
        serving = asyncio.create_task(server())
        await opened.wait()
        assert not serving.done()

    asyncio.run(main())
    assert stores[0].closed
    for file in ("state.json", "tasks/task_1.json"):
        assert "interrupted" in (path / file).read_text(), file


@pytest.fixture
def end_the_program():
    """A listener that does so at the first event."""
    told = []

    def end(event):
        told.append(event)
        if len(told) == 1:
            sys.exit("cannot save")

    return end


@pytest.mark.timeout(60)
def test_a_listener_may_end_the_program_where_a_file_cannot_be_written(tmp_path, end_the_program):
    (tmp_path / "raw").write_text("in the way")
    flushed = []

    async def main():
        async with statepath.open(tmp_path) as store:
            store.events.on(SaveError, end_the_program)
            try:
                await store.collection("raw").put({"id": "a"})
                await asyncio.Event().wait()
            finally:
                flushed.extend(await asyncio.gather(store.flush(), return_exceptions=True))

    with pytest.raises(SystemExit, match="cannot save"):
        asyncio.run(main())
    assert [type(error) for error in flushed] == [ClosedError]


@pytest.mark.timeout(60)
def test_a_listener_may_end_the_program_where_a_change_cannot_be_committed(
    tmp_path, end_the_program, monkeypatch
):
    monkeypatch.setattr(LocalCommitLog, "append", AsyncMock(side_effect=UnavailableError("the disk is full")))
    saved = []

    async def main():
        async with statepath.open(tmp_path) as store:
            store.events.on(SaveError, end_the_program)
            saving = store._engine.committer.submit([Note("note", "")], 1)
            try:
                await asyncio.Event().wait()
            finally:
                saved.extend(await asyncio.gather(saving, return_exceptions=True))

    with pytest.raises(SystemExit, match="cannot save"):
        asyncio.run(main())
    assert [type(error) for error in saved] == [UnavailableError]


async def test_what_is_saved_after_all_tasks_were_cancelled_is_committed(store):
    raw = store.collection("raw")
    await raw.put({"id": "before"})
    cancel_all()
    assert await raw.put({"id": "at once"}) == 2
    await cancel_and_end_all()
    assert await raw.put({"id": "later"}) == 3


async def test_where_nobody_closes_the_store_nothing_waits_for_more_to_commit(store):
    await store.collection("raw").put({"id": "before"})
    await cancel_and_end_all()
    for n in range(3):
        await store.collection("raw").put({"id": "later", "n": n})
        await asyncio.sleep(0)
        assert "statepath-committer" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_what_waited_for_its_commit_is_committed(store):
    raw = store.collection("raw")
    saving = store._engine.committer.submit((), 0)
    cancel_all()
    assert await saving == 0
    assert await raw.put({"id": "later"}) == 1


async def test_what_waits_when_the_store_closes_is_committed(store):
    saving = store._engine.committer.submit((), 0)
    cancel_all()
    await store.aclose()
    assert await saving == 0


async def test_a_commit_that_is_cut_off_leaves_the_handle_stopped(open_on, faulty):
    store = await open_on(faulty)
    raw = store.collection("raw")
    gate = faulty.hold("write", "journal/0")
    saving = store._engine.committer.put(("raw", "a", b'{"id":"a"}', None))
    await gate.reached.wait()
    await cancel_and_end_all()
    for waiting in (saving, raw.put({"id": "later"})):
        with pytest.raises(OutcomeUnknownError, match="in the middle of a commit"):
            await waiting


async def test_files_that_were_not_begun_are_written_when_the_store_is_closed(tmp_path):
    async with statepath.open(tmp_path, view_interval=3600) as store:
        await store.collection("raw").put({"id": "a"})
        await cancel_and_end_all()
    assert (tmp_path / "raw" / "a.json").exists()


async def test_who_waits_for_files_whose_write_is_cut_off_is_told(open_on, faulty, keys):
    store = await open_on(faulty)
    gate = faulty.hold("write", "reports/")
    await store.collection("raw").put({"id": "a"})
    saving = asyncio.ensure_future(store.save_report("r", 1))
    await gate.reached.wait()
    (writing,) = [task for task in asyncio.all_tasks() if task.get_name() == "statepath-views"]
    writing.cancel()
    await saving  # it is in the log, and so whoever opens the store next writes the file
    with pytest.raises(ClosedError, match="they are written when the store is opened again"):
        await store.flush()
    await store.aclose()
    assert await keys("reports/") == []
    async with statepath.open(store.url) as store:
        assert await store.read_report("r") == 1
    assert await keys("reports/") == ["reports/r.json"]


async def test_who_has_stopped_leaves_no_task_behind(url):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
        cancel_all()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
