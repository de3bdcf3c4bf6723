"""What a person does to a store by hand while no server runs: the recipes of the handbook, and slips."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta
from typing import Any

import pytest
import statepath
from statepath.events import (
    BackupCreated,
    CorruptionDetected,
    EditAdopted,
    EditConflict,
    StateRestored,
    StateSaved,
)
from statepath_local.port import read_all


async def change(store: Any, n: int) -> int:
    return await store.collection("tasks").put({"id": "task_1", "n": n})


async def n_of(store: Any) -> int:
    return (await store.collection("tasks").get("task_1"))["n"]


@pytest.fixture(params=["closed", "killed", "lagging"])
async def stopped(request: pytest.FixtureRequest, folder: Any) -> Any:
    """A store with the states 1 to 5 of a task, two snapshots and a backup. Its server was closed, or killed, and in
    the last case before it had written the view of the last state."""
    async with folder.open() as store:
        for n in range(1, 4):
            await change(store, n)
            if n > 1:
                await store.snapshot()
        await change(store, 4)
        await store.flush()
        await store.collection("tasks").put({"id": "other", "text": "ä"})
        await change(store, 5)
        if request.param == "killed":
            await store.flush()
        killed = folder.copy("killed")
    folder.heard.clear()
    return folder if request.param == "closed" else killed


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes were read at once from files."""
    sizes: list[int] = []

    def read(port: Any, fd: int, start: int, stop: int) -> bytes:
        data = read_all(port, fd, start, stop)
        sizes.append(len(data))
        return data

    monkeypatch.setattr("statepath_local.objects.read_all", read)
    return sizes


def edit(place: Any, name: str, **values: Any) -> None:
    """Change a file as an editor does."""
    document = json.loads(place.read(name))
    place.write(name, json.dumps(document | values, indent=4).encode())


async def lose_the_log(folder, left):
    """Three changes, of which nothing but the documents' files has the last two: the log is gone, and `left` is as of
    the first. The incarnation in which they were made."""
    async with folder.open() as store:
        await change(store, 1)
        await store.snapshot()
        older = folder.read("state.json")
        await change(store, 2)
        await change(store, 3)
        await store.snapshot()
        incarnation = store._engine.incarnation
    for key in folder.names("journal/0"):
        folder.remove(key)
    if left == "a backup":
        folder.remove("state.json")
    else:
        for key in folder.names("state.backup."):
            folder.remove(key)
        folder.write("state.json", older)
    return incarnation


class TestSnapshots:
    async def test_rm_state_json_rebuilds_it(self, stopped):
        stopped.remove("state.json")
        async with stopped.open() as store:
            assert await n_of(store) == 5
            (told,) = stopped.told(CorruptionDetected)
            assert told.reason == "state.json is missing"
        assert {"id": "task_1", "n": 5} in json.loads(stopped.read("state.json"))["tasks"]

    @pytest.mark.parametrize("which", [0, -1], ids=["oldest", "newest"])
    async def test_cp_backup_state_json_is_a_restore_that_can_be_undone(self, stopped, which, caplog):
        backup = stopped.names("state.backup.")[which]
        (then,) = [task["n"] for task in json.loads(stopped.read(backup))["tasks"] if task["id"] == "task_1"]
        shutil.copyfile(stopped.path / backup, stopped.path / "state.json")
        async with stopped.open() as store:
            assert await n_of(store) == then
            (told,) = stopped.told(StateRestored)
            assert told.seq == store.seq
            assert told.undo in caplog.text
            assert (await store.history())[-1].seq == store.seq
            await store.restore(at=told.seq - 1)
            assert await n_of(store) == 5
            assert await store.collection("tasks").get("other") is not None
        stopped.heard.clear()
        async with stopped.open() as store:
            assert await n_of(store) == 5
            assert await store.verify() == []
        assert stopped.told(StateRestored, CorruptionDetected) == []

    async def test_the_last_backup_that_is_moved_there_takes_nothing_along_that_came_behind_it(
        self, folder, monkeypatch
    ):
        monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
        async with folder.open(history=timedelta(microseconds=1)) as store:
            for n in range(1, 6):
                await change(store, n)
                await store.snapshot()
            assert (await store.stats()).floor == 5
        *others, last = folder.names("state.backup.")
        for key in others:
            folder.remove(key)
        (folder.path / last).rename(folder.path / "state.json")
        async with folder.open() as store:
            assert await n_of(store) == 4
            (told,) = folder.told(StateRestored)
            await store.restore(at=told.seq - 1)
            assert await n_of(store) == 5
        async with folder.open() as store:
            assert await store.verify() == []

    @pytest.mark.parametrize("what", ["an older state", "a backup"])
    async def test_where_the_log_is_lost_behind_what_is_left_its_seqs_are_not_given_again(self, folder, what):
        incarnation = await lose_the_log(folder, what)
        for key in folder.names("tasks/"):
            folder.remove(key)
        async with folder.open() as store:
            assert await n_of(store) == 1
            assert store._engine.incarnation != incarnation
            assert await store.collection("tasks").put({"id": "task_2"}) > 3
        assert "the journal ends at seq 1, and had reached seq 3" in {
            told.reason for told in folder.told(CorruptionDetected)
        }
        async with folder.open() as store:
            assert await n_of(store) == 1
            assert await store.verify() == []

    @pytest.mark.parametrize("what", ["an older state", "a backup"])
    async def test_what_is_lost_with_the_log_is_had_again_from_the_documents_files(self, folder, what):
        await lose_the_log(folder, what)
        async with folder.open() as store:
            if what == "an older state":  # who put it there may have meant to go back
                (told,) = folder.told(StateRestored)
                assert await n_of(store) == 1
                await store.restore(at=told.seq - 1)
            assert await n_of(store) == 3
        async with folder.open() as store:
            assert await n_of(store) == 3
            assert await store.verify() == []

    async def test_who_only_reads_where_the_log_is_lost_shows_the_seq_of_what_is_left(self, folder):
        async with folder.open() as store:
            await change(store, 1)
            await store.snapshot()
            older = folder.read("state.json")
            for n in (2, 3):
                await change(store, n)
                await store.snapshot()
        for key in (*folder.names("tasks/"), *folder.names("journal/0"), *folder.names("state.backup.")):
            folder.remove(key)
        folder.write("state.json", older)
        async with folder.open(readonly=True) as reader:
            assert (await n_of(reader), reader.seq) == (1, 1)
            assert (await reader.health()).damage

    async def test_backups_that_were_exchanged_are_told_and_lose_nothing(self, folder):
        async with folder.open() as store:
            keys = []
            for n in (1, 2):
                await change(store, n)
                keys.append(await store.backup())
            await change(store, 3)
        one, other = keys
        states = folder.read(one), folder.read(other)
        folder.write(one, states[1])
        folder.write(other, states[0])
        folder.remove("state.json")
        async with folder.open() as store:
            assert await n_of(store) == 3
            (told,) = (damage for damage in store.damage if damage.key != "state.json")
            assert f"shows the state of {one}" in told.reason

    async def test_a_restore_is_told_once(self, stopped):
        shutil.copyfile(stopped.path / stopped.names("state.backup.")[0], stopped.path / "state.json")
        async with stopped.open() as store:
            then, killed = await n_of(store), stopped.copy("again")
        async with killed.open() as store:
            assert await n_of(store) == then
        assert killed.told(StateRestored) == []

    async def test_the_backup_that_was_copied_is_not_changed_by_what_follows(self, stopped):
        backup = stopped.names("state.backup.")[0]
        before = stopped.read(backup)
        shutil.copyfile(stopped.path / backup, stopped.path / "state.json")
        async with stopped.open() as store:
            await change(store, 9)
            await store.snapshot()
        assert stopped.read(backup) == before

    async def test_copying_over_a_backup_made_on_request_leaves_the_backup_alone(self, folder):
        async with folder.open() as store:
            await change(store, 1)
            await store.snapshot()
            await change(store, 2)
            key = await store.backup()
        kept = folder.read(key)
        older = next(name for name in folder.names("state.backup.") if name != key)
        # An editor and `cp` write into the file that is there; a link to it would be changed, too.
        (folder.path / "state.json").write_bytes(folder.read(older))
        assert folder.read(key) == kept

    async def test_a_snapshot_that_a_person_edited_is_kept_aside(self, stopped):
        stopped.write("state.json", edited := stopped.read("state.json").replace(b'"n":', b'"n":4'))
        async with stopped.open() as store:
            assert await n_of(store) == 5
        (told,) = stopped.told(CorruptionDetected)
        assert stopped.read(told.kept_as) == edited

    async def test_a_state_json_of_another_program_is_kept_aside(self, stopped):
        stopped.write("state.json", theirs := b'{"tasks": [], "sessions": []}')
        async with stopped.open() as store:
            assert await n_of(store) == 5
        (told,) = stopped.told(EditConflict)
        assert (told.key, stopped.read(told.kept_as)) == ("state.json", theirs)


class TestEdits:
    async def test_nano_of_a_file_is_adopted(self, folder):
        async with folder.open() as store:
            seq = await change(store, 1)
        edit(folder, "tasks/task_1.json", n=2, note="by hand")
        async with folder.open() as store:
            assert await store.collection("tasks").get("task_1") == {
                "id": "task_1",
                "n": 2,
                "note": "by hand",
            }
            (told,) = folder.told(EditAdopted)
            assert (told.key, told.seq) == ("tasks/task_1.json", seq + 1)
            await store.flush()
        before = folder.tree()
        async with folder.open() as store:
            assert store.seq == seq + 1
        assert folder.told(EditAdopted) == []
        assert folder.tree() == before

    @pytest.mark.parametrize(("stored", "edited"), [(True, 1), (1, True), (1, 1.0), ([False], [0])])
    async def test_what_only_python_takes_for_the_same_is_an_edit(self, folder, stored, edited):
        async with folder.open() as store:
            await store.collection("tasks").put({"id": "task_1", "n": stored})
        edit(folder, "tasks/task_1.json", n=edited)
        async with folder.open() as store:
            assert repr(await n_of(store)) == repr(edited)
        assert len(folder.told(EditAdopted)) == 1

    async def test_after_a_kill_too(self, stopped):
        shown = json.loads(stopped.read("tasks/task_1.json"))["n"]
        edit(stopped, "tasks/task_1.json", n=50)
        async with stopped.open() as store:
            # Where the view lagged behind the document, the edit is based on an older version.
            assert await n_of(store) == (50 if shown == 5 else 5)
            assert len(stopped.told(EditAdopted if shown == 5 else EditConflict)) == 1

    async def test_an_edit_of_an_older_version_is_kept_aside_and_the_store_wins(self, folder):
        async with folder.open() as store:
            await change(store, 1)
            await store.flush()
            old = folder.read("tasks/task_1.json")
            await change(store, 2)
        folder.write("tasks/task_1.json", edited := old.replace(b'"n": 1', b'"n": 100'))
        folder.heard.clear()
        async with folder.open() as store:
            assert await n_of(store) == 2
            await store.flush()
        (told,) = folder.told(EditConflict)
        assert told.kept_as.startswith("tasks/task_1.json.conflict.")
        assert folder.read(told.kept_as) == edited
        assert json.loads(folder.read("tasks/task_1.json"))["n"] == 2

    async def test_a_new_one_under_the_name_of_a_member_which_it_would_hide_is_kept_aside(self, folder):
        async with folder.open() as store, store.transaction() as tx:
            tx.put_member("notes", {"theme": "dark"})
            tx.put_member("plans", [])
        for name in ("notes", "plans"):
            (folder.path / name).mkdir()
        for file in ("notes/a.json", "plans/a.json", "plans/b.json"):
            folder.write(file, json.dumps({"id": file[6]}).encode())
        async with folder.open() as store:
            assert (await store.members(), store.collections()) == ({"notes": {"theme": "dark"}}, ("plans",))
        (told,) = folder.told(EditConflict)
        assert told.kept_as.startswith("notes/a.json.conflict.")

    async def test_what_is_no_json_is_kept_aside_and_the_file_rebuilt(self, stopped):
        stopped.write("tasks/task_1.json", broken := stopped.read("tasks/task_1.json")[:-10])
        async with stopped.open() as store:
            assert await n_of(store) == 5
            assert any("tasks/task_1.json" in sentence for sentence in (await store.health()).damage)
            await store.flush()
        (told,) = stopped.told(CorruptionDetected)
        assert told.kept_as.startswith("tasks/task_1.json.corrupt.")
        assert stopped.read(told.kept_as) == broken
        assert json.loads(stopped.read("tasks/task_1.json"))["n"] == 5

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param(b'{"id": "task_1", "n": 1, "n": 2}', id="a key twice"),
            pytest.param(b'{"id": "task_1", "n": NaN}', id="NaN"),
            pytest.param(b'{"id": "task_1", "n": ' + b"[" * 200 + b"]" * 200 + b"}", id="too deep"),
            pytest.param(b'["task_1"]', id="no object"),
            pytest.param(b" ", id="blank"),
            pytest.param(b'{"id": "task_1", "n": "\xff"}', id="no UTF-8"),
        ],
    )
    async def test_what_no_document_may_be_is_kept_aside(self, folder, text):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/task_1.json", text)
        async with folder.open() as store:
            assert await n_of(store) == 1
        (told,) = folder.told(CorruptionDetected)
        assert folder.read(told.kept_as) == text

    @pytest.mark.parametrize("text", [b"", bytes(100)])
    async def test_an_empty_file_is_rebuilt_as_a_missing_one(self, folder, text):
        async with folder.open() as store:
            seq = await change(store, 1)
        folder.write("tasks/task_1.json", text)
        folder.write("tasks/unknown.json", text)
        async with folder.open() as store:
            assert (await n_of(store), store.seq) == (1, seq)
            await store.flush()
        assert folder.told(CorruptionDetected, EditConflict) == []
        assert json.loads(folder.read("tasks/task_1.json"))["n"] == 1

    @pytest.mark.parametrize("text", [b"", bytes(100)])
    async def test_an_emptied_file_is_rebuilt_although_it_kept_its_time(self, folder, text):
        """The clock of the file system ticks so coarsely that this happens."""
        async with folder.open() as store:
            await change(store, 1)
        times = os.stat(folder.path / "tasks/task_1.json")
        folder.write("tasks/task_1.json", text)
        os.utime(folder.path / "tasks/task_1.json", ns=(times.st_atime_ns, times.st_mtime_ns))
        async with folder.open() as store:
            await store.flush()
        assert json.loads(folder.read("tasks/task_1.json"))["n"] == 1

    async def test_a_file_that_grew_too_large_is_kept_aside(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        edit(folder, "tasks/task_1.json", text="x" * 2000)
        async with folder.open(max_document=1024) as store:
            assert await n_of(store) == 1
        assert len(folder.told(CorruptionDetected)) == 1

    async def test_a_file_that_no_document_can_be_is_kept_aside_unread(self, folder, reads):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/dump.json", dump := b'{"id": "dump", "text": "%s"}' % (b"x" * 3_000_000))
        reads.clear()
        async with folder.open(max_document=1_000_000) as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(CorruptionDetected)
        assert (told.key, folder.read(told.kept_as)) == ("tasks/dump.json", dump)
        assert max(reads) < 1_000_000

    async def test_an_old_file_that_was_kept_aside_just_now_is_not_cleaned(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/b.json", b"{")
        os.utime(folder.path / "tasks/b.json", (1_700_000_000, 1_700_000_000))
        async with folder.open() as store:
            assert (await store.clean()).objects == ()
        (told,) = folder.told(CorruptionDetected)
        assert folder.read(told.kept_as) == b"{"

    async def test_a_file_that_is_larger_than_its_document_may_be_is_sound(self, folder):
        async with folder.open(max_document=1024) as store:
            await store.collection("tasks").put({"id": "task_1", "n": [1] * 400})
            await store.flush()
            assert len(folder.read("tasks/task_1.json")) > 1024
            assert await store.verify() == []
            folder.write("tasks/task_1.json", shown := folder.read("tasks/task_1.json"))
        async with folder.open(max_document=1024) as store:
            await store.flush()
        assert folder.told(CorruptionDetected, EditConflict) == []
        assert folder.read("tasks/task_1.json") == shown

    async def test_the_same_content_formatted_otherwise_is_no_commit(self, folder):
        async with folder.open() as store:
            seq = await change(store, 1)
        document = json.loads(folder.read("tasks/task_1.json"))
        folder.write("tasks/task_1.json", json.dumps(document).encode())
        async with folder.open() as store:
            assert store.seq == seq
            await store.flush()
        assert folder.told(EditAdopted, EditConflict, CorruptionDetected) == []
        assert b'\n  "n": 1' in folder.read("tasks/task_1.json")

    async def test_a_file_that_was_only_touched_is_no_commit(self, folder):
        async with folder.open() as store:
            seq = await change(store, 1)
        os.utime(folder.path / "tasks/task_1.json")
        async with folder.open() as store:
            assert store.seq == seq

    async def test_a_deleted_file_is_rebuilt_and_is_no_deletion(self, stopped):
        stopped.remove("tasks/task_1.json")
        async with stopped.open() as store:
            assert await n_of(store) == 5
            await store.flush()
        assert json.loads(stopped.read("tasks/task_1.json"))["n"] == 5

    @pytest.mark.parametrize("collection", ["tasks", "raw"])
    async def test_the_file_of_a_document_that_was_deleted_is_removed(self, folder, collection):
        async with folder.open() as store:
            await store.collection(collection).put({"id": "task_1"})
            await store.flush()
            await store.collection(collection).delete("task_1")
            killed = folder.copy("killed")
        async with killed.open() as store:
            assert await store.collection(collection).get("task_1") is None
        assert killed.names(f"{collection}/") == []

    async def test_so_is_that_of_one_that_came_together_with_another_of_its_id(self, folder):
        async with folder.open() as store:
            async with store.transaction() as tx:
                tx.put(store.collection("tasks"), {"id": "task_1"})
                tx.put(store.collection("raw"), {"id": "task_1", "n": 1})
            await store.flush()
            await store.collection("raw").delete("task_1")
            killed = folder.copy("killed")
        async with killed.open() as store:
            assert await store.collection("tasks").get("task_1") == {"id": "task_1"}
        assert killed.names("raw/") == []
        assert killed.told(EditConflict) == []

    @pytest.mark.parametrize("collection", ["tasks", "raw"])
    async def test_the_file_of_the_last_document_of_a_collection_that_comes_back_is_removed(
        self, folder, collection
    ):
        async with folder.open() as store:
            await store.collection(collection).put({"id": "task_1"})
            await store.flush()
            shown = folder.read(f"{collection}/task_1.json")
            await store.collection(collection).delete("task_1")
        folder.write(f"{collection}/task_1.json", shown)
        async with folder.open() as store:
            assert await store.collection(collection).get("task_1") is None
        assert folder.told(EditConflict) == []
        assert folder.names(f"{collection}/") == []

    async def test_an_edit_of_the_last_document_of_a_collection_is_kept_aside_as_of_one_that_was_deleted(
        self, folder, caplog
    ):
        async with folder.open() as store:
            await store.collection("raw").put({"id": "task_1"})
            await store.flush()
            shown = folder.read("raw/task_1.json")
            await store.collection("raw").delete("task_1")
        folder.write("raw/task_1.json", shown)
        edit(folder, "raw/task_1.json", n=2)
        async with folder.open() as store:
            assert await store.collection("raw").get("task_1") is None
        (told,) = folder.told(EditConflict)
        assert json.loads(folder.read(told.kept_as))["n"] == 2
        assert "raw/task_1 was deleted after the version" in caplog.text

    async def test_an_edit_of_a_document_that_was_deleted_is_kept_aside(self, folder):
        async with folder.open() as store:
            await change(store, 1)
            await store.flush()
            await store.collection("tasks").delete("task_1")
            killed = folder.copy("killed")
        edit(killed, "tasks/task_1.json", n=2)
        async with killed.open() as store:
            assert await store.collection("tasks").get("task_1") is None
        (told,) = killed.told(EditConflict)
        assert json.loads(killed.read(told.kept_as))["n"] == 2


class TestNewFiles:
    async def test_a_file_made_by_hand_is_a_new_document(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        (folder.path / "notes").mkdir()
        folder.write("notes/a.json", b'{"id": "a", "text": "by hand"}')
        folder.write("tasks/b.json", b'{"id": "b"}')
        async with folder.open() as store:
            assert await store.collection("notes").get("a") == {"id": "a", "text": "by hand"}
            assert await store.collection("tasks").get("b") == {"id": "b"}
        assert sorted(told.key for told in folder.told(EditAdopted)) == ["notes/a.json", "tasks/b.json"]

    async def test_a_copy_with_another_id_is_a_new_document(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/task_2.json", folder.read("tasks/task_1.json"))
        edit(folder, "tasks/task_2.json", id="task_2")
        async with folder.open() as store:
            assert await store.collection("tasks").get("task_2") == {"id": "task_2", "n": 1}

    async def test_a_plain_copy_is_kept_aside_and_not_removed(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/task_1.old.json", copied := folder.read("tasks/task_1.json"))
        async with folder.open() as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(EditConflict)
        assert folder.read(told.kept_as) == copied

    @pytest.mark.parametrize("into", ["backup", "raw"], ids=["of_ones_own", "of_another_collection"])
    async def test_a_plain_copy_in_another_folder_is_not_removed(self, folder, into):
        async with folder.open() as store:
            await change(store, 1)
            await store.collection("raw").put({"id": "a"})
        (folder.path / into).mkdir(exist_ok=True)
        folder.write(f"{into}/task_1.json", copied := folder.read("tasks/task_1.json"))
        async with folder.open() as store:
            assert store.collections() == ("raw", "tasks")
            assert await store.collection("raw").count() == 1
        (told,) = folder.told(EditConflict)
        assert folder.read(told.kept_as) == copied

    async def test_of_several_files_with_one_new_document_that_of_its_name_is_adopted(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/b.json", b'{"id": "b", "n": 1}')
        folder.write("tasks/b (copy).json", copied := b'{"id": "b", "n": 2}')
        async with folder.open() as store:
            assert await store.collection("tasks").get("b") == {"id": "b", "n": 1}
        (told,) = folder.told(EditConflict)
        assert folder.read(told.kept_as) == copied

    async def test_a_file_that_would_be_written_too_large_is_kept_aside(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/b.json", short := b'{"id": "b", "n": [%s]}' % b",".join([b"1e9"] * 220))
        async with folder.open(max_document=1024) as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(CorruptionDetected)
        assert folder.read(told.kept_as) == short

    async def test_a_name_that_is_not_the_one_of_the_id_becomes_it(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/Task_2.json", b'{"id": "Task_2"}')
        async with folder.open() as store:
            assert await store.collection("tasks").get("Task_2") == {"id": "Task_2"}
            await store.flush()
        assert folder.names("tasks/") == ["tasks/%54ask_2.json", "tasks/task_1.json"]

    async def test_a_document_without_an_id_is_kept_aside(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("tasks/what.json", b'{"text": "?"}')
        async with folder.open() as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(EditConflict)
        assert folder.read(told.kept_as) == b'{"text": "?"}'

    @pytest.mark.parametrize("name", ["語" * 60, "語" * 30, "x" * 230], ids=["60 CJK", "30 CJK", "230 ASCII"])
    async def test_a_file_of_a_long_name_bars_nothing(self, folder, name):
        async with folder.open() as store:
            await change(store, 1)
        folder.write(f"tasks/{name}.json", b"{")
        async with folder.open() as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(CorruptionDetected)
        assert folder.read(told.kept_as) == b"{"
        folder.write(f"tasks/{name}.json", b'{"text": "?"}')
        async with folder.open() as store:
            assert await store.collection("tasks").count() == 1
        (told,) = folder.told(EditConflict)
        assert folder.read(told.kept_as) == b'{"text": "?"}'
        assert f"tasks/{name}.json" not in folder.names("tasks/")

    async def test_a_document_in_a_file_of_a_long_name_is_adopted(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write(f"tasks/{'語' * 60}.json", json.dumps({"id": "語" * 60}).encode())
        async with folder.open() as store:
            assert await store.collection("tasks").get("語" * 60) == {"id": "語" * 60}
            await store.flush()
            assert await store.verify() == []
        assert len(folder.names("tasks/")) == 2

    async def test_other_files_are_nobodys_business(self, folder):
        async with folder.open() as store:
            await change(store, 1)
        folder.write("README.txt", b"mine")
        folder.write("tasks/notes.txt", b"mine, too")
        (folder.path / "Photos").mkdir()
        folder.write("Photos/a.json", b"{")
        async with folder.open() as store:
            assert store.collections() == ("tasks",)
        assert folder.told(EditConflict, EditAdopted, CorruptionDetected) == []
        assert folder.read("Photos/a.json") == b"{"

    async def test_beside_a_store_in_the_folder_of_a_collection_ones_own_files_are_ones_own(self, folder):
        async with folder.open() as store:
            for id in ("aaa", "zzz"):  # before and behind the other one's journal
                await store.collection("tasks").put({"id": id, "n": 1})
        nested = str(folder.path / "tasks")
        async with statepath.open(nested, autosave=0) as store:
            await store.collection("raw").put({"id": "theirs"})
        state = folder.read("tasks/state.json")
        for id in ("aaa", "zzz"):
            edit(folder, f"tasks/{id}.json", n=2)
        async with folder.open() as store:
            assert await store.collection("tasks").get("aaa") == {"id": "aaa", "n": 2}
            assert await store.collection("tasks").get("zzz") == {"id": "zzz", "n": 2}
        assert folder.read("tasks/state.json") == state

    async def test_a_file_from_another_store_is_a_new_document(self, folder, tmp_path):
        other = type(folder)(str(tmp_path / "other"))
        for place, id in ((folder, "task_1"), (other, "theirs")):
            async with place.open() as store:
                await store.collection("tasks").put({"id": id})
        folder.write("tasks/theirs.json", other.read("tasks/theirs.json"))
        async with folder.open() as store:
            assert await store.collection("tasks").get("theirs") == {"id": "theirs"}
            await store.flush()
            assert await store.verify() == []


async def test_without_views_files_are_not_looked_at(folder):
    async with folder.open() as store:
        await change(store, 1)
    edit(folder, "tasks/task_1.json", n=2)
    async with folder.open(views=False) as store:
        assert await n_of(store) == 1
    assert folder.told(EditAdopted) == []


async def test_a_reader_adopts_nothing_and_writes_nothing(folder):
    async with folder.open() as store:
        await change(store, 1)
    edit(folder, "tasks/task_1.json", n=2)
    before = folder.tree()
    async with folder.open(readonly=True) as store:
        assert await n_of(store) == 1
    assert folder.tree() == before


async def test_opening_and_closing_changes_nothing(stored):
    place, _ = stored
    async with place.open() as store:
        await store.flush()
    before = place.tree()
    place.heard.clear()
    for _ in range(3):
        async with place.open():
            pass
    assert place.tree() == before
    assert place.told(StateSaved, BackupCreated) == []
