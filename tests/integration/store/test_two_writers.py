"""Losing the race for a place in the log is normal: the loser reads what came first and goes on.

Neither `memory://` nor PostgreSQL takes a lock, so two handles can write to one store; so can a writer that was
thought dead.
"""

import asyncio
import types
from contextlib import aclosing
from uuid import uuid4

import pytest
import statepath
from msgspec.structs import replace
from pydantic import BaseModel
from statepath.commit import encode_commit, slot_key
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    OutcomeUnknownError,
)


class Note(BaseModel):
    id: str


async def test_a_cursor_that_another_handle_gave_is_watched_from(store, zombie):
    seq = await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    async with aclosing(zombie.watch(since=seq)) as changes:
        assert (await anext(changes)).id == "b"


async def test_watching_begins_behind_what_the_handle_shows(store, zombie):
    await store.collection("raw").put({"id": "a"})
    async with aclosing(zombie.watch()) as changes:
        assert (await anext(changes)).id == "a"
    await store.collection("raw").put({"id": "b"})
    await zombie.sync()
    async with aclosing(zombie.watch()) as changes:
        await store.collection("raw").put({"id": "c"})
        assert (await anext(changes)).id == "c"


@pytest.mark.parametrize("places", [(2, None), (2, 3), (1, 3)])
async def test_a_diff_takes_seqs_that_another_handle_gave(store, zombie, places):
    for n in (1, 2):
        await store.collection("raw").put({"id": "shared", "n": n})
    (told,) = await zombie.diff(*places)
    assert (told.before["n"], told.after["n"]) == (places[0] - 1, 2)


async def test_a_restore_elsewhere_takes_a_seq_that_another_handle_gave(store, zombie, contents):
    seq = await store.collection("raw").put({"id": "shared", "n": 1})
    await store.collection("raw").put({"id": "shared", "n": 2})
    elsewhere = f"memory://{uuid4().hex}"
    await zombie.restore(at=seq, to=elsewhere)
    async with statepath.open(elsewhere, autosave=0) as restored:
        assert await contents(restored) == {"shared": {"id": "shared", "n": 1}}


async def test_a_store_whose_state_path_has_an_escape_is_restored_elsewhere(contents):
    path, elsewhere = f"memory://{uuid4().hex}/a%23b", f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "shared", "n": 1})
        with pytest.raises(InvalidArgumentError, match="within the one"):
            await store.restore(at=1, to=f"{path}/c")
        await store.restore(at=1, to=elsewhere)
    async with statepath.open(elsewhere, autosave=0) as restored:
        assert await contents(restored) == {"shared": {"id": "shared", "n": 1}}


async def test_the_history_behind_a_seq_that_another_handle_gave_is_told(store, zombie):
    seq = await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    assert [change.id for change in await zombie.history(since=seq)] == ["b"]


async def test_what_a_transaction_only_read_was_there_all_at_once(store, zombie):
    pair = store.collection("raw"), zombie.collection("raw")
    for id in "pq":
        await pair[0].put({"id": id, "n": 0})
    await zombie.sync()

    async def look(between):
        async with zombie.transaction() as tx:
            p = await tx.get(pair[1], "p")
            await between()
            await zombie.sync()
            q = await tx.get(pair[1], "q")
        return p["n"], q["n"]

    async def change_both():
        async with store.transaction() as tx:
            for id in "pq":
                tx.put(pair[0], {"id": id, "n": 1})

    with pytest.raises(
        ConflictError, match=r"raw/p is at version 4 now, and this transaction read version 2"
    ):
        await look(change_both)
    assert await look(zombie.sync) == (1, 1)


async def test_nobody_is_refused_by_what_was_read_before_it_came(store, zombie, monkeypatch):
    ours, theirs = store.collection("raw"), zombie.collection("raw")
    await ours.put({"id": "shared", "n": 1})
    lost_to, late = zombie._engine._committer._lost_to, []

    async def losing(commits):
        await lost_to(commits)
        if not late:
            version = await ours.put({"id": "shared", "n": 2})
            late.append(asyncio.ensure_future(theirs.put({"id": "shared", "n": 3}, if_version=version)))
            await asyncio.sleep(0)

    monkeypatch.setattr(zombie._engine._committer, "_lost_to", losing)
    with pytest.raises(ConflictError):
        await theirs.put({"id": "shared", "n": 9}, if_version=1)
    await late[0]
    assert await theirs.get("shared") == {"id": "shared", "n": 3}


async def test_a_transaction_appends_to_what_another_handle_has_just_created(store, zombie):
    await store.collection("raw").put({"id": "new", "logs": []})
    theirs = zombie.collection("raw")
    async with zombie.transaction() as tx:
        tx.append(theirs, "new", "logs", "x")
    assert await theirs.get("new") == {"id": "new", "logs": ["x"]}


async def test_an_unchecked_save_goes_on_behind_the_other_writers_commits(store, zombie, contents):
    await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    assert await zombie.collection("raw").put({"id": "z"}) == 4
    assert await contents(zombie) == await contents(store) | {"z": {"id": "z"}}


async def test_the_loser_of_the_race_fails_only_what_conflicts(store, zombie):
    ours, theirs = store.collection("raw"), zombie.collection("raw")
    await ours.put({"id": "shared", "n": 1})
    await ours.put({"id": "new"})
    outcomes = await asyncio.gather(
        theirs.put({"id": "shared", "n": 9}, if_version=1),
        theirs.create({"id": "new"}),
        theirs.create({"id": "other"}),
        theirs.put({"id": "unchecked"}),
        theirs.append("shared", "logs", "x"),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [ConflictError, AlreadyExistsError, int, int, int]
    assert outcomes[0].theirs == {"id": "shared", "n": 1}
    assert (await theirs.get("shared")) == {"id": "shared", "n": 1, "logs": ["x"]}


@pytest.mark.parametrize("how", ["create", "if_version"])
async def test_a_new_document_has_nothing_of_a_deleted_one_that_was_in_its_place(store, zombie, how):
    await zombie.collection("raw").put({"id": "a", "secret": "old"})
    await store.sync()
    await store.collection("raw").delete("a")
    raw = zombie.collection("raw", Note)
    await (raw.create(Note(id="a")) if how == "create" else raw.put(Note(id="a"), if_version=0))
    assert await zombie.collection("raw").get("a") == {"id": "a"}


async def test_who_loses_again_and_again_does_not_rest_longer_and_longer(store, monkeypatch):
    log = store._engine.log
    append, losses = log.append, iter(range(40))

    async def contended(after, commit):
        if next(losses, None) is not None:
            raise HeadMoved
        await append(after, commit)

    monkeypatch.setattr(log, "append", contended)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with asyncio.timeout(60):
        await store.collection("raw").put({"id": "a"})


@pytest.mark.slow
async def test_one_attempt_that_hung_does_not_make_the_next_rests_long(store, monkeypatch):
    log, sleep, rests = store._engine.log, asyncio.sleep, []
    append, losses = log.append, iter(range(8))

    async def contended(after, commit):
        loss = next(losses, None)
        if loss == 0:
            await sleep(0.5)
        if loss is not None:
            raise HeadMoved
        await append(after, commit)

    async def rest(seconds):
        rests.append(seconds)

    recorded = types.SimpleNamespace(**{**vars(asyncio), "sleep": rest})
    monkeypatch.setattr("statepath.engine.committer.asyncio", recorded)
    monkeypatch.setattr("random.random", lambda: 1.0)
    monkeypatch.setattr(log, "append", contended)
    await store.collection("raw").put({"id": "a"})
    assert len(rests) == 7
    assert rests[-1] < 0.5


async def test_a_transaction_that_read_what_changed_is_refused_whole(store, zombie, contents):
    theirs = zombie.collection("raw")
    with pytest.raises(ConflictError):  # noqa: PT012 - raised at the end of the block
        async with zombie.transaction() as tx:
            shared = await tx.get(theirs, "shared")
            await store.collection("raw").put({"id": "shared", "n": 1})
            tx.put(theirs, {**shared, "n": shared["n"] + 10})
            tx.put(theirs, {"id": "beside"})
    assert await contents(zombie) == await contents(store) == {"shared": {"id": "shared", "n": 1}}


async def test_updates_through_two_handles_all_count(store, zombie, url):
    def bump(document):
        document["n"] += 1

    handles = [store.collection("raw"), zombie.collection("raw")]
    await asyncio.gather(*(handle.update("shared", bump) for handle in handles for _ in range(5)))
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.collection("raw").get("shared"))["n"] == 10


async def test_appends_through_two_handles_all_arrive_once(store, zombie, url):
    handles = [store.collection("raw"), zombie.collection("raw")]
    await asyncio.gather(*(handles[n % 2].append("shared", "logs", n) for n in range(40)))
    async with statepath.open(url, readonly=True) as reader:
        assert sorted((await reader.collection("raw").get("shared"))["logs"]) == list(range(40))


async def test_log_texts_through_two_handles_all_arrive_once(store, zombie):
    await asyncio.gather(*((store, zombie)[n % 2].append_log("s", f"{n}\n") for n in range(20)))
    await store.flush()
    await zombie.flush()
    assert sorted((await store.read_log("s")).split(), key=int) == [str(n) for n in range(20)]


async def test_a_log_that_one_removed_begins_anew_for_both(store, zombie, keys):
    await store.append_log("s", "old, and longer\n")
    await zombie.append_log("s", "older\n")
    await store.delete_log("s")
    await zombie.append_log("s", "new\n")
    await store.append_log("s", "newer\n")
    for one in (store, zombie):
        await one.flush()
    assert await zombie.read_log("s") == await store.read_log("s") == "new\nnewer\n"
    assert await zombie.delete_log("s") is True
    for one in (store, zombie):
        await one.sync()
        await one.flush()
    assert await keys("logs/") == []
    assert await store.verify() == await zombie.verify() == []


async def test_who_learns_late_of_a_removal_takes_nothing_away_that_came_after_it(store, zombie):
    await store.append_log("s", "old\n")
    await store.delete_log("s")
    await zombie.sync()
    await store.append_log("s", "new\n")
    await store.flush()
    await zombie.flush()
    assert await store.read_log("s") == "new\n"
    await zombie.snapshot()
    assert await zombie.read_log("s") == await store.read_log("s") == "new\n"


async def test_a_report_that_one_removed_is_there_again_when_another_saves_it(store, zombie, keys):
    await store.save_report("r", 1)
    await zombie.sync()
    assert await zombie.delete_report("r") is True
    await store.save_report("r", 2)
    await zombie.sync()
    await zombie.snapshot()
    assert await zombie.read_report("r") == await store.read_report("r") == 2
    assert await store.delete_report("r") is True
    await zombie.sync()
    await zombie.snapshot()
    assert await keys("reports/") == []
    assert await store.verify() == await zombie.verify() == []


async def test_both_handles_end_with_the_same_state(store, zombie, url, contents):
    for n in range(20):
        handle = (store, zombie)[n % 3 == 0]
        await handle.collection("raw").put({"id": str(n % 7), "n": n})
        if n % 5 == 0:
            await handle.collection("raw").delete(str((n + 3) % 7))
    for last in (store, zombie, store):
        await last.collection("raw").put({"id": "shared"})
        async with statepath.open(url, readonly=True) as reader:
            assert (await contents(reader), reader.seq) == (await contents(last), last.seq)


async def test_the_change_feed_tells_the_other_writers_changes_in_order(store, zombie):
    changes = zombie.watch()
    await store.collection("raw").put({"id": "theirs"})
    await zombie.collection("raw").put({"id": "ours"})
    told = [await anext(changes), await anext(changes)]
    assert [(change.seq, change.id) for change in told] == [(2, "theirs"), (3, "ours")]
    assert told[0].writer != told[1].writer
    await changes.aclose()


async def test_a_place_in_the_log_that_was_trimmed_never_commits(trimmed, url, memory, contents):
    head = trimmed.seq
    async with statepath.open(url, autosave=0) as sleeper:
        for n in range(3):
            await trimmed.collection("raw").put({"id": "a", "n": n})
            await trimmed.snapshot()
        assert (await trimmed.stats()).floor > head + 1
        sleeper._engine.log._window = 0  # as if it had slept for longer than commits are kept
        with pytest.raises(OutcomeUnknownError):
            await sleeper.collection("raw").put({"id": "z"})
    assert await contents(trimmed) == {"a": {"id": "a", "n": 2}}
    async with statepath.open(url, readonly=True) as reader:
        assert await contents(reader) == await contents(trimmed)


async def test_who_slept_past_the_history_is_told_to_open_the_store_again(trimmed, url):
    async with statepath.open(url, autosave=0) as sleeper:
        for n in range(3):
            await trimmed.collection("raw").put({"id": "a", "n": n})
            await trimmed.snapshot()
        sleeper._engine.log._window = 0
        with pytest.raises(HistoryTrimmedError, match="open the store again"):
            await sleeper.sync()


async def test_a_handle_on_a_store_that_was_replaced_stops(store, zombie, memory, keys, url, contents):
    for key in await keys(""):
        await memory.delete(key)
    async with statepath.open(url) as other:
        for n in range(3):
            await other.collection("raw").put({"id": f"other {n}"})
        with pytest.raises(DivergedError):
            await zombie.collection("raw").put({"id": "z"})
        assert "z" not in await contents(other)


async def test_a_handle_on_a_store_that_was_promoted_stops(store, memory, commits):
    await store.collection("raw").put({"id": "a"})
    (last,) = await commits()
    promoted = replace(last, first=2, last=2, id="another", prev=last.id, incarnation="f" * 32)
    await memory.write(slot_key(2), bytes(encode_commit(promoted)))
    with pytest.raises(DivergedError, match="promoted, imported or replaced"):
        await store.collection("raw").put({"id": "b"})
    assert (store.seq, await store.collection("raw").count()) == (1, 1)
