"""Losing the race for a place in the log is normal: the loser reads what came first and goes on.

Neither `memory://` nor PostgreSQL takes a lock, so two handles can write to one store; so can a writer that was
thought dead.
"""

import asyncio
import time
import types
from contextlib import aclosing
from uuid import uuid4

import pytest
import statepath
from msgspec import Raw
from msgspec.structs import replace
from pydantic import BaseModel
from statepath.commit import FLOOR_KEY, MAX_COMMIT_BYTES, Put, encode_commit, slot_key
from statepath.engine import opening
from statepath.engine.committer import Decision
from statepath.engine.opening import open_engine
from statepath.engine.validating import UNTOUCHED
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    OutcomeUnknownError,
)
from statepath.events import CorruptionDetected, Events, SaveError
from statepath.settings import Settings
from statepath.store import Store


class Note(BaseModel):
    id: str


@pytest.fixture
async def zombie(store, url):
    """Another handle on the store, which does not know yet what `store` writes from now on."""
    await store.collection("raw").put({"id": "shared", "n": 0, "logs": []})
    async with statepath.open(url, autosave=0) as zombie:
        yield zombie


async def contents(store):
    return {document["id"]: document async for document in store.collection("raw")}


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


async def test_a_restore_elsewhere_takes_a_seq_that_another_handle_gave(store, zombie):
    seq = await store.collection("raw").put({"id": "shared", "n": 1})
    await store.collection("raw").put({"id": "shared", "n": 2})
    elsewhere = f"memory://{uuid4().hex}"
    await zombie.restore(at=seq, to=elsewhere)
    async with statepath.open(elsewhere, autosave=0) as restored:
        assert await contents(restored) == {"shared": {"id": "shared", "n": 1}}


async def test_a_store_whose_state_path_has_an_escape_is_restored_elsewhere():
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


async def test_an_unchecked_save_goes_on_behind_the_other_writers_commits(store, zombie):
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


async def test_a_restore_takes_back_what_the_other_writer_has_just_committed(store, zombie):
    await store.collection("raw").put({"id": "shared", "n": 1})
    await store.collection("raw").put({"id": "new"})
    restored = await zombie.restore(at=1)
    assert (restored.to, restored.seq) == (1, 4)
    assert await contents(zombie) == {"shared": {"id": "shared", "n": 0, "logs": []}}


async def test_a_restore_follows_what_it_takes_back_whoever_is_first(store, zombie, monkeypatch):
    append, theirs = zombie._engine.log.append, iter(range(3))

    async def append_late(after, commit):
        for n in theirs:
            await store.collection("raw").put({"id": f"late {n}"})
            break
        await append(after, commit)

    await zombie.collection("raw").put({"id": "z"})
    monkeypatch.setattr(zombie._engine.log, "append", append_late)
    restored = await zombie.restore(at=1)
    await store.sync()
    assert await store.diff(1, restored.seq) == []


async def test_what_depends_on_all_that_is_stored_is_asked_about_what_others_have_committed(store, zombie):
    await store.collection("raw").put({"id": "new"})
    heads = []

    def decide(now):
        heads.append(now.head)
        return ()

    assert await zombie._engine.decide(decide) == 0
    assert heads == [2]


@pytest.mark.parametrize("how", ["create", "if_version"])
async def test_a_new_document_has_nothing_of_a_deleted_one_that_was_in_its_place(store, zombie, how):
    await zombie.collection("raw").put({"id": "a", "secret": "old"})
    await store.sync()
    await store.collection("raw").delete("a")
    raw = zombie.collection("raw", Note)
    await (raw.create(Note(id="a")) if how == "create" else raw.put(Note(id="a"), if_version=0))
    assert await zombie.collection("raw").get("a") == {"id": "a"}


async def test_a_decision_that_fails_is_the_callers_alone(zombie):
    def decide(now):
        raise ArithmeticError("it cannot be counted")

    with pytest.raises(ArithmeticError):
        await zombie._engine.decide(decide)
    await zombie.collection("raw").put({"id": "z"})
    assert zombie._engine.committer.trouble is None


async def test_a_backup_that_another_handle_has_put_in_place_of_a_bad_one_stays(store, memory, monkeypatch):
    await store.collection("raw").put({"id": "a"})
    backups, backend = store._engine._snapshotter.backups, store._engine.backend
    read_back, delete, removed = backups._read_back, backend.delete, []

    async def replaced_meanwhile(key, state):
        await memory.write(key, (await memory.read("state.json")).data)
        monkeypatch.setattr(backups, "_read_back", read_back)
        raise CorruptionError("it is another snapshot")

    async def telling(key, **options):
        removed.append((key, await delete(key, **options)))

    monkeypatch.setattr(backups, "_read_back", replaced_meanwhile)
    monkeypatch.setattr(backend, "delete", telling)
    await store.backup()
    assert removed == []


@pytest.fixture
def outrun(store, zombie, monkeypatch):
    """From now on, `store` saves something right before each commit of `zombie`, as often as told."""
    append = zombie._engine.log.append

    def saving(name, *, times=10**6):
        left = iter(range(times))

        async def append_late(after, commit):
            for n in left:
                await store.collection(name).put({"id": f"late {n}"})
                break
            await append(after, commit)

        monkeypatch.setattr(zombie._engine.log, "append", append_late)

    return saving


async def test_a_restore_that_others_never_let_through_is_told(store, zombie, outrun, monkeypatch):
    await store.collection("raw").put({"id": "new"})
    outrun("raw")
    with pytest.raises(ConflictError, match="others commit all the time"):
        await zombie.restore(at=1)
    monkeypatch.undo()
    assert await zombie.collection("raw").put({"id": "z"}) == store.seq + 1


async def test_a_decision_that_others_overtake_lets_those_go_first_that_wait(zombie, outrun):
    seqs = []
    outrun("raw", times=3)

    def decide(now):
        seqs.append(now.head)
        return (Put("raw", "d", Raw(b'{"id":"d"}')),)

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    saving = asyncio.ensure_future(zombie.collection("raw").put({"id": "z"}))
    done, _ = await asyncio.wait({deciding, saving}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {saving}
    assert await deciding == seqs[-1] + 1


async def test_a_flush_waits_for_a_decision_that_others_overtake(zombie, outrun):
    outrun("raw", times=3)
    begun = asyncio.Event()

    def decide(now):
        begun.set()
        return (Put("raw", "d", Raw(b'{"id":"d"}')),)

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    await begun.wait()
    await zombie.flush()
    assert deciding.done()
    assert await zombie.collection("raw").get("d") == {"id": "d"}


async def test_a_decision_stands_while_what_it_depends_on_does(store, zombie, outrun):
    seqs = []
    outrun("raw", times=40)

    def decide(now):
        seqs.append(now.head)
        return Decision((Put("tasks", "d", Raw(b'{"id":"d"}'), 0),), [("tasks", UNTOUCHED, now.head)])

    assert await zombie._engine.decide(decide) == store.seq + 1
    assert seqs == [1]


async def test_a_member_does_not_get_the_name_of_a_collection_that_is_made_before_the_commit(zombie, outrun):
    outrun("agents", times=1)
    with pytest.raises(ConflictError):
        async with zombie.transaction() as tx:
            tx.put_member("agents", "none")
    assert await zombie.get_member("agents") is None


async def test_a_decision_that_nobody_waits_for_any_more_is_not_made(store, zombie):
    asked = []

    def decide(now):
        asked.append(now.head)
        return ()

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    await asyncio.sleep(0)
    deciding.cancel()
    await zombie.collection("raw").put({"id": "z"})
    assert asked == []


async def test_no_commit_is_larger_than_commits_are_where_a_later_decision_is(zombie, outrun, monkeypatch):
    outrun("raw", times=1)
    append, sizes, large = zombie._engine.log.append, [], "x" * (MAX_COMMIT_BYTES // 4 * 3)

    async def measured(after, commit):
        sizes.append(len(encode_commit(commit)))
        await append(after, commit)

    def decide(now):
        text = large if sizes else ""
        return (Put("raw", "d", Raw(b'{"id":"d","text":"%s"}' % text.encode())),)

    monkeypatch.setattr(zombie._engine.log, "append", measured)
    await asyncio.gather(
        zombie._engine.decide(decide), zombie.collection("raw").put({"id": "z", "text": large})
    )
    assert max(sizes) < MAX_COMMIT_BYTES


async def test_a_snapshot_does_not_take_the_place_of_a_later_one_that_is_not_marked_yet(faulty, url, open_on):
    async with statepath.open(url, autosave=0) as late:
        store = await open_on(faulty, deadline=30)
        await store._engine.maintain()
        await store.collection("raw").put({"id": "a"})
        await store.snapshot()
        await late.collection("raw").put({"id": "b"})
        await store.collection("raw").put({"id": "c"})
        marking = faulty.hold("write", FLOOR_KEY)
        saving = asyncio.ensure_future(store.snapshot())
        await marking.reached.wait()
        assert not await late._engine.maintain()
        marking.opened.set()
        assert await saving == 3
        with pytest.raises(ConflictError, match="shows seq 3 already"):
            await late._engine.snapshot_as_is()  # as it does when it is closed
        await store.aclose()
    async with statepath.open(url, autosave=0) as again:
        assert set(await contents(again)) == {"a", "b", "c"}


async def test_who_loses_again_and_again_does_not_rest_longer_and_longer(store, monkeypatch):
    log = store._engine.log
    append, losses = log.append, iter(range(40))

    async def contended(after, commit):
        if next(losses, None) is not None:
            raise HeadMoved
        await append(after, commit)

    monkeypatch.setattr(log, "append", contended)
    monkeypatch.setattr("random.random", lambda: 1.0)
    async with asyncio.timeout(10):
        await store.collection("raw").put({"id": "a"})


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


async def test_a_transaction_that_read_what_changed_is_refused_whole(store, zombie):
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


async def test_both_handles_end_with_the_same_state(store, zombie, url):
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


async def test_a_snapshot_of_one_handle_does_not_harm_the_other(store, zombie, url, keys):
    failed = []
    for handle in (store, zombie):
        handle.events.on(SaveError, failed.append)
    for n in range(4):
        handle = (store, zombie)[n % 2]
        await handle.collection("raw").put({"id": str(n)})
        await handle.snapshot()
    assert [key for key in await keys("state.") if "conflict" in key] == []
    assert failed == []
    async with statepath.open(url, readonly=True) as reader:
        assert await contents(reader) == await contents(zombie)


async def test_the_snapshots_seq_never_decreases(store, zombie):
    await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    await store.snapshot()
    zombie._engine._snapshotter.saved = 0
    with pytest.raises(ConflictError, match="shows seq 3 already"):
        await zombie._engine._snapshotter.snapshot()


async def test_a_place_in_the_log_that_was_trimmed_never_commits(trimmed, url, memory):
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


async def test_who_becomes_the_maintainer_again_writes_the_files_that_others_left(
    open_on, faulty, url, keys, monkeypatch
):
    monkeypatch.setattr("statepath.engine.engine._MAINTAINER_TTL", 0.05)
    store = await open_on(faulty, views=True)
    assert await store._engine.maintain()
    while store._engine._maintenance.ours:  # noqa: ASYNC110 - until its lease has expired
        await asyncio.sleep(0.01)
    async with statepath.open(url, autosave=0, views=False) as without_files:
        await without_files.collection("raw").put({"id": "a"})
    await store.sync()
    assert await store._engine.maintain()
    await store.flush()
    assert await keys("raw/") == ["raw/a.json"]


async def test_a_take_over_that_was_interrupted_is_finished_at_the_next_turn(open_on, faulty, url, keys):
    store = await open_on(faulty, views=True)
    async with statepath.open(url, autosave=0, views=False) as without_files:
        await without_files.collection("raw").put({"id": "a"})
    await store.sync()
    faulty.fail("read", FLOOR_KEY, AccessDeniedError("for a moment"))
    with pytest.raises(AccessDeniedError):
        await store._engine.maintain()
    assert await store._engine.maintain()
    await store.flush()
    assert await keys("raw/") == ["raw/a.json"]


async def test_a_maintainer_whose_clock_is_days_ahead_trims_nothing_that_others_may_rely_on(
    store, zombie, monkeypatch
):
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    ahead = types.SimpleNamespace(time=lambda: time.time() + 10 * 86400, monotonic=time.monotonic)
    monkeypatch.setattr("statepath.engine.snapshotter.time", ahead)
    for n in range(3):
        await raw.put({"id": "b", "n": n})
        await store.snapshot()
    assert store._engine.floor == 1
    assert await zombie.collection("raw").put({"id": "c"}) == 8


async def test_the_floor_never_decreases(trimmed, url):
    async with statepath.open(url, autosave=0) as other:
        for n in range(3):
            await trimmed.collection("raw").put({"id": "a", "n": n})
            await trimmed.snapshot()
        floor = (await trimmed.stats()).floor
        assert floor > (await other.stats()).floor
        await other._engine._snapshotter.save_floor()
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.stats()).floor == floor


async def test_a_handle_on_a_store_that_was_replaced_stops(store, zombie, memory, keys, url):
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


@pytest.fixture
async def recovered(store, zombie, memory, url):
    """The store as another handle recovered it, in an incarnation of its own, and saved in it."""
    for n in range(3):
        await zombie.collection("raw").put({"id": f"lost {n}"})
    await memory.write(slot_key(3), b"damaged")
    async with statepath.open(url, autosave=0) as recovered:
        for n in range(3):
            await recovered.collection("raw").put({"id": f"kept {n}"})
        yield recovered


@pytest.mark.parametrize(
    "save",
    [
        lambda zombie: zombie._engine.snapshot_as_is(),
        lambda zombie: zombie._engine.trim(),
        lambda zombie: zombie._engine._snapshotter.refresh(),
    ],
    ids=["closing", "trim", "refresh"],
)
async def test_a_handle_on_a_store_that_another_one_recovered_saves_nothing(
    zombie, recovered, memory, url, save
):
    saved = (await memory.read("state.json")).data, (await memory.read(FLOOR_KEY)).data
    with pytest.raises(DivergedError, match="recovered or replaced by another writer"):
        await save(zombie)
    assert ((await memory.read("state.json")).data, (await memory.read(FLOOR_KEY)).data) == saved
    await zombie.aclose()
    async with statepath.open(url, readonly=True) as again:
        assert await contents(again) == await contents(recovered)


async def test_a_handle_does_not_learn_what_the_maintainer_saved_in_another_incarnation(zombie, recovered):
    assert await recovered._engine.maintain()
    before = zombie._engine.record
    with pytest.raises(DivergedError, match="recovered or replaced by another writer"):
        await zombie._engine.maintain()
    assert zombie._engine.record == before


async def saved_later(store):
    """Save what is behind what others know of; the snapshot's bytes."""
    for n in range(3):
        await store.collection("raw").put({"id": f"late {n}"})
    assert await store.snapshot() == store.seq
    return (await store._engine.backend.read("state.json")).data


async def test_a_snapshot_that_another_handle_saved_is_not_put_aside_for_what_was_there_before(
    faulty, open_on, memory, keys, url
):
    slow = await open_on(faulty)
    await slow.collection("raw").put({"id": "a"})
    await slow.snapshot()
    async with statepath.open(url, autosave=0) as store:
        await slow.collection("raw").put({"id": "b"})
        await memory.write("state.json", b"damaged")
        gate = faulty.hold("delete", "state.json")
        saving = asyncio.ensure_future(slow._engine.snapshot_as_is())
        await gate.reached.wait()
        later = await saved_later(store)
        gate.open()
        with pytest.raises(ConflictError, match="shows seq 5 already"):
            await saving
        assert (await memory.read("state.json")).data == later
        [kept] = await keys("state.json.")
        assert (await memory.read(kept)).data == b"damaged"


async def test_a_snapshot_does_not_take_the_place_of_a_later_one_that_was_removed(store, zombie, memory, url):
    await zombie.collection("raw").put({"id": "z"})
    await saved_later(store)
    await memory.delete("state.json")
    with pytest.raises(ConflictError, match="a snapshot shows seq 5 already"):
        await zombie._engine.snapshot_as_is()
    await zombie.aclose()
    async with statepath.open(url, readonly=True) as again:
        assert await contents(again) == await contents(store)


async def test_a_backup_that_another_handle_keeps_stays_as_it_is(faulty, open_on, memory, keys, url):
    slow = await open_on(faulty)
    await slow.collection("raw").put({"id": "a"})
    await slow.snapshot()
    async with statepath.open(url, autosave=0) as store:
        gate = faulty.hold("read", "state.json")
        keeping = asyncio.ensure_future(slow._engine._snapshotter.backup())
        await gate.reached.wait()
        await store.collection("raw").put({"id": "b"})
        await store.snapshot()
        [key] = await keys("state.backup.")
        kept = (await memory.read(key)).data
        gate.open()
        with pytest.raises(ConflictError, match="shows seq 2 already"):
            await keeping
        assert (await memory.read(key)).data == kept


@pytest.mark.parametrize("key", ["state.json", FLOOR_KEY])
async def test_who_opens_does_not_put_aside_what_another_one_has_mended(faulty, open_on, memory, url, key):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
    await memory.write(key, b"damaged")
    gate = faulty.hold("delete", key)
    opening = asyncio.ensure_future(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as store:
        await saved_later(store)
        mended = (await memory.read(key)).data
        gate.open()
        await opening
        assert (await memory.read(key)).data == mended


@pytest.mark.parametrize(
    ("method", "key"),
    [("write", "journal/floor"), ("read", "state.json")],
    ids=["both found it", "founded while it is read"],
)
async def test_two_that_open_a_new_store_at_once_open_the_same_one(faulty, url, method, key):
    events, told = Events(), []
    events.on(CorruptionDetected, told.append)
    gate = faulty.hold(method, key)
    late = asyncio.ensure_future(open_engine(faulty, Settings(path=url, autosave=0), events))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "a"})
        gate.open()
        async with Store(await late) as second:
            assert (second.id, second.incarnation) == (first.id, first.incarnation)
            assert await second.collection("raw").get("a") == {"id": "a"}
    assert told == []


async def test_a_store_that_is_founded_while_a_reader_opens_it_is_no_original_directory(url, monkeypatch):
    read = opening.read_original
    made = []

    async def reading(*args, **options):
        if not made:
            monkeypatch.setattr(opening, "read_original", read)
            made.append(await statepath.open(url, autosave=0))
            await made[0].collection("raw").put({"id": "a"})
            await made[0].snapshot()
        return await read(*args, **options)

    monkeypatch.setattr(opening, "read_original", reading)
    async with statepath.open(url, readonly=True) as reader:
        assert (reader.id, reader.seq) == (made[0].id, 1)
        await made[0].collection("raw").put({"id": "b"})
        assert await reader.sync() == 2
    await made[0].aclose()


async def test_two_that_open_an_original_directory_at_once_import_it_once(faulty, memory, url, open_on, keys):
    await memory.write("state.json", b'{"tasks": [], "raw": [{"id": "a", "n": 0}]}')
    await memory.write("logs/session_a b.log", b"old\n")
    gate = faulty.hold("write", "journal/0")
    late = asyncio.ensure_future(open_on(faulty))
    await gate.reached.wait()
    async with statepath.open(url, autosave=0) as first:
        await first.collection("raw").put({"id": "a", "n": 1})
        await first.append_log("a b", "new\n")
        await first.flush()
        logs = [(await memory.read(key)).data for key in await keys("logs/")]
        gate.open()
        second = await late
        assert await second.collection("raw").get("a") == {"id": "a", "n": 1}
        await first.sync()
        assert await first.collection("raw").get("a") == {"id": "a", "n": 1}
        assert [(await memory.read(key)).data for key in await keys("logs/")] == logs
