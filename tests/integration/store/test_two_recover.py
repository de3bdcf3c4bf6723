"""What two writers make of a store that was changed or damaged by hand, where both of them open it at once."""

import asyncio

import pytest
import statepath
from msgspec.structs import replace
from statepath.commit import MAX_COMMIT_BYTES, decode_commit, encode_commit, slot_key
from statepath.engine.adoption import examine
from statepath.engine.backups import backup_keys
from statepath.errors import CorruptionError, DivergedError, UnavailableError


@pytest.fixture
async def replaced(store, memory, contents):
    """The documents of the backup of seq 1 by which a person replaced the `state.json` of seq 2."""
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    held = await contents(store)
    await store.collection("raw").put({"id": "b"})
    await store.snapshot()
    (backup,) = await backup_keys(memory)
    await memory.write("state.json", (await memory.read(backup)).data)
    return held


@pytest.mark.parametrize("saves", [0, 1, 2])
@pytest.mark.parametrize(("method", "prefix"), [("list", "state.backup."), ("write", "journal/0")])
async def test_a_backup_in_the_place_of_state_json_is_restored_once(
    url, replaced, faulty, open_on, method, prefix, saves, contents
):
    gate = faulty.hold(method, prefix)
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        assert await contents(first) == replaced
        for n in range(saves):
            await first.collection("raw").put({"id": f"saved_{n}"})
            await first.snapshot()
        await first.collection("raw").put({"id": "new"})
        gate.open()
        slower = await opening
        assert (slower.seq, await contents(slower)) == (first.seq, await contents(first))


async def test_a_backup_that_was_restored_and_not_saved_yet_is_not_restored_again(
    store, url, replaced, faulty, open_on, contents
):
    gate = faulty.hold("write", "state.json")
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    await store.collection("raw").put({"id": "new"})
    async with statepath.open(url, autosave=0) as second:
        assert await contents(second) == replaced | {"new": {"id": "new"}}
    gate.open()
    assert (await opening).seq == 4


@pytest.fixture
async def rotten(store, memory):
    """A store in which the commit of seq 2 of 4 was damaged; `store` has it open, and does not know it."""
    for id in "abcd":
        await store.collection("raw").put({"id": id})
    await memory.write(slot_key(2), b"rot")
    return store


async def test_a_writer_of_before_a_recovery_commits_nothing_more(rotten, url, contents):
    async with statepath.open(url, autosave=0) as second:
        for _ in range(2):
            with pytest.raises(DivergedError):
                await rotten.collection("raw").put({"id": "lost"})
        await second.collection("raw").put({"id": "new"})
        held = await contents(second)
    async with statepath.open(url, autosave=0) as third:
        assert (await contents(third), third.damage) == (held, ())


@pytest.mark.parametrize(("lost", "held"), [(2, ["a", "new"]), (3, ["a", "b", "new"])])
async def test_nor_does_one_that_had_not_met_what_was_lost(store, url, memory, lost, held, contents):
    await store.collection("raw").put({"id": "a"})
    other = await statepath.open(url, autosave=0)
    for id in "bcd":
        await other.collection("raw").put({"id": id})
    await other._engine.release()
    await memory.write(slot_key(lost), b"rot")
    async with statepath.open(url, autosave=0) as second:
        for _ in range(4):
            with pytest.raises((CorruptionError, DivergedError)):
                await store.collection("raw").put({"id": "lost"})
        await second.collection("raw").put({"id": "new"})
        assert sorted(await contents(second)) == held


async def test_what_a_writer_of_before_commits_before_it_loses_its_place_is_kept(
    store, memory, faulty, open_on, keys, contents
):
    await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "large", "text": "x" * MAX_COMMIT_BYTES})
    (body,) = await keys("bodies/")
    await memory.delete(body)
    gate = faulty.hold("write", "journal/0")
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    await store.collection("raw").put({"id": "late"})
    gate.open()
    second = await opening
    assert sorted(await contents(second)) == ["a", "late"]
    assert [damage.key for damage in second.damage] == [body]


async def test_what_a_writer_of_before_committed_all_the_same_is_told(rotten, url, memory, contents):
    of_before = decode_commit((await memory.read(slot_key(4))).data)
    async with statepath.open(url, autosave=0) as second:
        await second.collection("raw").put({"id": "new"})
    forked = replace(of_before, first=second.seq + 1, last=second.seq + 1)
    await memory.write(slot_key(forked.first), bytes(encode_commit(forked)))
    async with statepath.open(url, autosave=0) as third:
        assert sorted(await contents(third)) == ["a", "new"]
        assert [damage.key for damage in third.damage] == [slot_key(forked.first)]


async def test_who_recovers_beside_a_recovery_that_is_done_meanwhile_opens_what_that_made(
    rotten, url, faulty, open_on, contents
):
    gate = faulty.hold("list", "state.backup.")
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "new"})
        gate.open()
        second = await opening
        assert sorted(await contents(second)) == ["a", "new"]
        await first.collection("raw").put({"id": "more"})
        assert await second.sync() == first.seq


async def test_a_file_that_a_running_writer_wrote_since_the_log_was_read_is_no_damage(
    memory, faulty, open_on, contents
):
    writing = await open_on(memory, views=True)
    await writing.collection("raw").put({"id": "a", "n": 1})
    await writing.snapshot()
    await writing.flush()
    await memory.delete("state.json")  # so that the files are looked at
    gate = faulty.hold("read", "raw/")
    opening = asyncio.create_task(open_on(faulty, views=True))
    await gate.reached.wait()
    await writing.collection("raw").put({"id": "a", "n": 2})
    await writing.flush()
    gate.open()
    second = await opening
    assert await contents(second) == {"a": {"id": "a", "n": 2}}
    await writing.collection("raw").put({"id": "b"})
    assert [damage.key for damage in second.damage] == ["state.json"]


@pytest.mark.parametrize("key", ["journal/0", "state.json", "journal/floor"])
async def test_of_two_that_recover_at_once_none_takes_away_what_the_other_acknowledges(
    rotten, url, faulty, open_on, key, contents
):
    gate = faulty.hold("write", key)
    opening = asyncio.create_task(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "new"})
        held = await contents(first)
        gate.open()
        second = await opening
        assert await contents(second) == held
    async with statepath.open(url, autosave=0) as third:
        await second.collection("raw").put({"id": "more"})
        await third.sync()
        assert await contents(third) == held | {"more": {"id": "more"}}


async def test_who_never_finds_the_files_of_one_moment_gives_up_after_some_times(
    memory, open_on, monkeypatch
):
    """A server that is busy enough is always ahead of what was read of its log."""
    async with await open_on(memory, views=True) as writing:
        raw = writing.collection("raw")
        await raw.put({"id": "a"})
        await writing.snapshot()
        await writing.flush()
        await memory.delete("state.json")  # so that the files are looked at
        times = 0

        async def look(*args, **options):
            nonlocal times
            times += 1
            assert times < 100, "it does not give up"
            await raw.put({"id": "a", "n": times})
            await writing.flush()
            return await examine(*args, **options)

        monkeypatch.setattr("statepath.engine.recovery.examine", look)
        with pytest.raises(UnavailableError, match="end that process first"):
            await open_on(memory, views=True)
