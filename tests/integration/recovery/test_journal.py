"""A journal that ends in the middle of a record, or is damaged before its end."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import pytest
import statepath
from statepath.commit import decode_commit, slot_key
from statepath.errors import AccessDeniedError, CorruptionError, HistoryTrimmedError, UnavailableError
from statepath.events import CorruptionDetected, DocumentRecovered

SEGMENT = "journal/00000000000000000001.jsonl"
COUNT = 6


@pytest.fixture
async def counted(folder: Any) -> Any:
    """A store that was killed after it had put the documents 1 to 6, a commit each; only the journal has them."""
    async with folder.open() as store:
        for n in range(1, COUNT + 1):
            await store.collection("tasks").put({"id": str(n), "n": n})
        return folder.copy("killed")


@pytest.fixture
def lines(counted: Any) -> list[bytes]:
    """The journal's lines."""
    return counted.read(SEGMENT).rstrip(b" \0").splitlines(keepends=True)


async def ids(store: statepath.Store) -> list[str]:
    return sorted([task["id"] async for task in store.collection("tasks")])


def first(count: int) -> list[str]:
    return [str(n) for n in range(1, count + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("fill", [b"", b" " * 100, b"\0" * 100], ids=["cut", "spaces", "zeros"])
async def test_a_torn_tail_leaves_exactly_the_commits_before_it(counted, lines, fill):
    whole = b"".join(lines)
    start = len(whole) - len(lines[-1])
    for end in [*range(start, len(whole), 11), len(whole) - 2, len(whole) - 1]:
        counted.write(SEGMENT, whole[:end] + fill)
        async with counted.open(readonly=True) as store:
            assert await ids(store) == first(COUNT - 1), end
    assert counted.told(CorruptionDetected) == []


@pytest.mark.parametrize("cut", [0, 1, 200, -2, -1])
async def test_behind_a_torn_tail_commits_go_on(counted, lines, cut):
    counted.write(SEGMENT, b"".join(lines[:-1]) + lines[-1][:cut])
    async with counted.open() as store:
        assert await ids(store) == first(COUNT - 1)
        assert await store.collection("tasks").put({"id": "new"}) == COUNT
        incarnation = store.incarnation
    async with counted.open() as store:
        assert await ids(store) == [*first(COUNT - 1), "new"]
        assert (store.incarnation, await store.verify()) == (incarnation, [])


@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.slow)])
async def test_a_journal_cut_off_anywhere_gives_a_prefix(counted, lines, step):
    whole, ends = b"".join(lines), []
    for line in lines:
        ends.append(len(line) + (ends[-1] if ends else 0))
    for end in range(0, len(whole), step):
        counted.write(SEGMENT, whole[:end])
        async with counted.open(readonly=True) as store:
            assert await ids(store) == first(sum(stop <= end for stop in ends)), end


@pytest.mark.parametrize("damaged", range(COUNT - 1))
async def test_a_record_damaged_in_the_middle_is_told_and_what_came_before_it_is_kept(
    counted, lines, damaged
):
    incarnation = decode_commit(lines[0]).incarnation
    lines[damaged] = lines[damaged][:60] + b"?" + lines[damaged][61:]
    counted.write(SEGMENT, bad := b"".join(lines))
    async with counted.open() as store:
        assert await ids(store) == first(damaged)
        assert store.incarnation != incarnation
        assert any("damaged" in sentence for sentence in (await store.health()).damage)
        await store.collection("tasks").put({"id": "new"})
    assert any(told.key.startswith("journal/") for told in counted.told(CorruptionDetected))
    (kept,) = [name for name in counted.names("journal/") if ".corrupt." in name]
    assert counted.read(kept) == bad
    async with counted.open() as store:
        assert await ids(store) == [*first(damaged), "new"]
        assert (await store.health()).damage == ()
        assert await store.verify() == []
    assert counted.told(CorruptionDetected) == []


async def test_what_a_damaged_journal_lost_is_taken_from_the_views(folder):
    async with folder.open() as store:
        tasks = store.collection("tasks")
        for n in range(1, 4):
            await tasks.put({"id": str(n), "n": n})
        await tasks.put({"id": "1", "n": 10})
        await tasks.delete("2")
        await store.flush()
        await tasks.put({"id": "unseen"})
        place = folder.copy("killed")
    lines = place.read(SEGMENT).splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"n":2', b'"n":7')
    place.write(SEGMENT, b"".join(lines))
    async with place.open() as store:
        tasks = store.collection("tasks")
        assert [task async for task in tasks] == [{"id": "1", "n": 10}, {"id": "3", "n": 3}]
        assert (await tasks.get_document("1")).modified.year > 2000
        assert await tasks.put({"id": "4"}) > 4
    assert {told.key for told in place.told(DocumentRecovered)} == {"tasks/1", "tasks/3"}
    async with place.open() as store:
        assert await ids(store) == ["1", "3", "4"]
        assert await store.verify() == []


async def test_an_edit_of_a_version_that_the_journal_lost_is_kept(folder):
    async with folder.open() as store:
        for n in range(1, 5):
            await store.collection("tasks").put({"id": "a", "n": n})
        await store.flush()
        place = folder.copy("killed")
    lines = place.read(SEGMENT).splitlines(keepends=True)
    place.write(SEGMENT, lines[0] + b"?" + b"".join(lines[1:]))
    place.write("tasks/a.json", place.read("tasks/a.json").replace(b'"n": 4', b'"n": 400'))
    async with place.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "n": 400}


async def test_damage_that_the_snapshot_covers_loses_nothing_and_commits_go_on(counted, lines):
    async with counted.open() as store:
        await store.snapshot()
    counted.write(SEGMENT, b"".join(lines[:2]) + b"?" + b"".join(lines[3:]))
    async with counted.open() as store:
        assert await ids(store) == first(COUNT)
        await store.collection("tasks").put({"id": "new"})
    assert counted.told(CorruptionDetected)
    async with counted.open() as store:
        assert await ids(store) == [*first(COUNT), "new"]
        assert await store.verify() == []


@pytest.mark.parametrize("lost", ["journal", "segments"])
async def test_a_deleted_journal_is_told_and_the_views_give_what_the_snapshot_lacks(folder, lost):
    async with folder.open() as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "n": 1})
        await tasks.put({"id": "b"})
        await store.snapshot()
        await tasks.put({"id": "a", "n": 2})
        await tasks.put({"id": "c"})
        await store.append_log("1", "before\n")
        await store.flush()
        place = folder.copy("killed")
    for name in place.names("journal/"):
        if lost == "journal" or name != "journal/floor":
            place.remove(name)
    async with place.open() as store:
        assert [task async for task in store.collection("tasks")] == [
            {"id": "a", "n": 2},
            {"id": "b"},
            {"id": "c"},
        ]
        await store.append_log("1", "after\n")
        assert await store.read_log("1") == "before\nafter\n"
    assert place.told(CorruptionDetected)
    async with place.open() as store:
        assert await ids(store) == ["a", "b", "c"]
        assert await store.verify() == []


async def test_a_journal_whose_end_is_missing_is_continued_behind_the_snapshot(counted, lines):
    async with counted.open() as store:
        await store.snapshot()
    counted.write(SEGMENT, b"".join(lines[:3]))
    async with counted.open() as store:
        assert await ids(store) == first(COUNT)
        assert await store.collection("tasks").put({"id": "new"}) == COUNT + 1
    assert counted.told(CorruptionDetected)
    async with counted.open() as store:
        assert await ids(store) == [*first(COUNT), "new"]
        assert await store.verify() == []


async def test_a_journal_whose_end_is_missing_gives_no_part_of_the_history_for_the_whole(counted, lines):
    async with counted.open() as store:
        await store.snapshot()
    counted.write(SEGMENT, b"".join(lines[:3]))
    later = decode_commit(lines[3]).time
    async with counted.open(readonly=True) as store:
        for asked in (store.history(), store.diff(4), store.diff(5, 6), store.diff(later)):
            with pytest.raises(CorruptionError, match="the journal ends at seq 3, and the state shows seq 6"):
                await asked
        assert [one.key for one in await store.diff(2)] == [f"tasks/{n}" for n in range(3, COUNT + 1)]


@pytest.fixture
async def endless(counted: Any, lines: list[bytes]) -> Any:
    """A store whose snapshot shows six commits, and whose journal has the first three of them."""
    async with counted.open() as store:
        await store.snapshot()
    counted.write(SEGMENT, b"".join(lines[:3]))
    return counted


async def test_who_watches_a_journal_whose_end_is_missing_is_told_what_there_is_and_then_that(endless):
    async with endless.open(readonly=True, deadline=0.3) as store:
        changes = store.watch(since=1)
        assert [(await anext(changes)).seq for _ in range(2)] == [2, 3]
        with pytest.raises(CorruptionError, match="the journal ends at seq 3, and the state shows seq 6"):
            await anext(changes)


async def test_who_watches_waits_anew_for_the_end_of_a_journal_that_could_not_be_read_for_a_while(
    endless, lines, monkeypatch
):
    now = 0.0
    monkeypatch.setattr("statepath.engine.stream.monotonic", lambda: now)
    async with endless.open(readonly=True) as store:
        looks, read = 0, store._engine.log.read

        def meanwhile(after):
            nonlocal looks, now
            looks += 1
            if looks == 3:
                now = 1000.0
                raise UnavailableError("no answer")
            if looks == 5:
                endless.write(SEGMENT, b"".join(lines))
            return read(after)

        monkeypatch.setattr(store._engine.log, "read", meanwhile)
        async with aclosing(store.watch(since=1)) as changes:
            assert [(await anext(changes)).seq for _ in range(5)] == [2, 3, 4, 5, 6]


async def test_who_watches_from_before_a_journal_that_was_begun_anew_is_told_at_once(endless):
    async with endless.open() as store:
        with pytest.raises(HistoryTrimmedError, match="the log begins at seq 7"):
            await anext(store.watch(since=1))
        async with aclosing(store.watch(since=1, resync=True)) as changes:
            assert (await anext(changes)).kind == "resync"


async def test_a_reader_whose_journal_has_lost_its_end_is_not_well(endless):
    async with endless.open(readonly=True) as store:
        health = await store.health()
    assert not health.healthy
    assert health.damage == ("the journal ends before seq 6, which the state shows",)


async def test_a_journal_that_has_lost_its_end_is_told_however_short_the_storage_has_to_answer(endless):
    async with endless.open(readonly=True, health_timeout=0.7) as store:
        assert (await store.health()).damage == ("the journal ends before seq 6, which the state shows",)


async def test_a_journal_that_was_begun_anew_behind_the_snapshot_is_well(endless):
    async with endless.open():
        pass
    async with endless.open(readonly=True) as store:
        assert (await store.health()).status == "ok"


async def test_commits_behind_a_recovery_that_an_older_backup_does_not_know_are_told(memory):
    """Nothing but the log's own record and a later snapshot says what they are built on; both are lost here."""
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "1"})
        await store.collection("tasks").put({"id": "2"})
        await store.backup()
        older = memory.names("state.backup.")
    memory.write(memory.names("journal/0")[0], b"rot")
    assert (await statepath.repair(memory.url)).left == ()
    async with memory.open() as store:
        behind = await store.collection("tasks").put({"id": "3"})
    for name in ("journal/floor", "state.json", *memory.names("state.backup.")):
        if name not in older:
            memory.remove(name)
    memory.told()
    async with memory.open() as store:
        assert await ids(store) == ["1", "2"]
    assert slot_key(behind) in [told.key for told in memory.told(CorruptionDetected)]


async def test_the_journal_of_another_store_is_not_replayed(counted, folder, tmp_path):
    other = type(folder)(str(tmp_path / "other"))
    async with other.open() as store:
        await store.collection("tasks").put({"id": "theirs"})
        await store.collection("tasks").put({"id": "theirs", "n": 2})
    async with counted.open() as store:
        await store.snapshot()
    counted.write(SEGMENT, other.read(SEGMENT))
    async with counted.open() as store:
        assert await ids(store) == first(COUNT)
        await store.collection("tasks").put({"id": "new"})
    assert counted.told(CorruptionDetected)


async def test_a_segment_that_cannot_be_opened_is_not_given_up_with_a_lost_floor(folder, tmp_path):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "large", "text": "x" * 2**20})
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "in the next segment"})
    (folder.path / SEGMENT).rename(tmp_path / "moved")
    (folder.path / SEGMENT).symlink_to(tmp_path / "moved")
    folder.remove("journal/floor")
    with pytest.raises(AccessDeniedError, match=f"{SEGMENT} is a symbolic link"):
        async with folder.open():
            pass
    (tmp_path / "moved").replace(folder.path / SEGMENT)
    async with folder.open() as store:
        assert [change.seq for change in await store.history("tasks/large")] == [1]


@pytest.fixture
async def second(folder, tmp_path):
    """A store that was killed with a commit in its second segment, which another store has in its place."""
    killed = []
    for place in (folder, type(folder)(str(tmp_path / "other"))):
        async with place.open() as store:
            await store.collection("tasks").put({"id": "large", "text": "x" * 2**20})
        async with place.open() as store:
            await store.collection("tasks").put({"id": "in the next segment"})
            await store.flush()
            killed.append(place.copy("killed"))
    ours, others = killed
    ours.write(slot_key(2), others.read(slot_key(2)))
    return ours


@pytest.mark.timeout(60)
async def test_a_segment_of_another_store_behind_the_head_keeps_nobody_waiting(second):
    async with second.open() as store:
        assert await ids(store) == ["in the next segment", "large"]
        assert store.damage
    async with second.open() as store:
        assert (store.damage, await store.verify()) == ((), [])


@pytest.mark.parametrize("readonly", [True, False])
async def test_a_segment_that_was_copied_under_another_name_hides_no_commits(folder, readonly):
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "large", "text": "x" * 2**20})
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "in the snapshot"})
        await store.snapshot()
        await store.collection("tasks").put({"id": "behind it"})
        killed = folder.copy("killed")
    killed.write(slot_key(3), killed.read(SEGMENT))
    async with killed.open(readonly=readonly) as store:
        assert await ids(store) == ["behind it", "in the snapshot", "large"]
        assert (store.damage, [one for one in await store.verify() if one.severity == "damage"]) == ((), [])
