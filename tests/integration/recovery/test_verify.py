"""Verification finds what a reader would trip over later."""

from __future__ import annotations


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
