"""Verification finds what a reader would trip over later."""

from __future__ import annotations

import pytest
import statepath
from statepath.engine.verification import _Verification

SEGMENT = "journal/00000000000000000001.jsonl"


async def test_a_journal_that_ends_before_the_snapshot_is_found(folder):
    async with folder.open() as store:
        tasks = store.collection("tasks")
        for n in range(3):
            await tasks.put({"id": f"t{n}"})
    [segment] = [key for key in folder.names("journal/") if key.endswith(".jsonl")]
    lines = folder.read(segment).splitlines(keepends=True)
    folder.write(segment, b"".join(lines[:-1]))
    async with folder.open(readonly=True) as reader:
        assert [finding.key for finding in await reader.verify()] == ["journal/"]


@pytest.fixture
async def ahead(folder):
    """A store that was killed, and whose journal has lost the last commit: that document's file has it."""
    async with folder.open() as store:
        for n in range(3):
            await store.collection("tasks").put({"id": f"t{n}"})
        await store.flush()
        killed = folder.copy("killed")
    lines = killed.read(SEGMENT).rstrip().splitlines(keepends=True)
    killed.write(SEGMENT, b"".join(lines[:-1]))
    return killed


async def test_a_journal_whose_end_only_the_documents_files_have_is_found(ahead):
    async with ahead.open(readonly=True) as reader:
        [found] = await reader.verify()
    assert found.key == "journal/"
    assert found.reason == "journal/ has lost its end: the files of 1 documents show later versions"


async def test_it_is_repaired_from_them(ahead):
    done = await statepath.repair(ahead.url)
    assert (done.damaged, done.recovered, done.left) == (True, ("tasks/t2",), ())
    async with ahead.open() as store:
        assert store.damage == ()
        assert sorted([task["id"] async for task in store.collection("tasks")]) == ["t0", "t1", "t2"]


async def test_files_that_a_writer_beside_the_reader_has_written_since_are_no_damage(folder):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        async with folder.open(readonly=True) as reader:
            chain = _Verification._chain

            async def meanwhile(self, last):
                await chain(self, last)
                await store.collection("tasks").put({"id": "b"})
                await store.flush()

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(_Verification, "_chain", meanwhile)
                assert [one for one in await reader.verify() if one.severity == "damage"] == []


async def test_what_is_committed_while_the_journal_is_read_is_no_damage(folder, monkeypatch):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        read = store._engine.log.read

        async def meanwhile(after):
            async for commit in read(after):
                yield commit
            if after == 0:
                await store.collection("tasks").put({"id": "b"})

        monkeypatch.setattr(store._engine.log, "read", meanwhile)
        assert [one for one in await store.verify() if one.severity == "damage"] == []


async def test_a_whole_store_has_no_finding(folder):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
    async with folder.open(readonly=True) as reader:
        assert await reader.verify() == []


async def test_a_file_that_cannot_be_written_is_told_with_what_else_is_found(folder):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        (folder.path / "tasks" / "a.json").mkdir(parents=True)
        found = {(finding.key, finding.severity) for finding in await store.verify()}
    assert found == {("tasks/a.json", "notice"), ("tasks/a", "notice")}


async def test_a_backup_in_the_place_of_the_state_is_told_before_it_is_restored(folder):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store.snapshot()
        await store.collection("tasks").put({"id": "b"})
    [backup] = folder.names("state.backup.")
    folder.write("state.json", folder.read(backup))
    async with folder.open(readonly=True) as reader:
        [found] = await reader.verify()
    assert (found.key, found.severity) == ("state.json", "notice")
    assert found.reason.startswith("state.json of seq 2 was replaced by the snapshot of seq 1;")
