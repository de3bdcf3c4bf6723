"""The change feed: every change, once, in order, as it becomes durable."""

import asyncio
from contextlib import aclosing
from datetime import timedelta

import pytest
import statepath
from statepath.engine.documents import decode
from statepath.errors import DivergedError, HistoryTrimmedError, InvalidArgumentError


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def take(changes, count):
    return [await anext(changes) for _ in range(count)]


async def test_it_begins_with_what_changes_from_the_call_on(store, raw):
    await raw.put({"id": "before"})
    async with aclosing(store.watch()) as changes:
        await raw.put({"id": "after"})
        assert (await anext(changes)).id == "after"


async def test_a_change_says_what_happened(store, raw):
    async with aclosing(store.watch()) as changes:
        await raw.put({"id": "a", "logs": []})
        await raw.append("a", "logs", {"n": 1})
        await raw.delete("a")
        await store.append_log("s1", "text\n")
        await store.save_report("r1", {"total": 3})
        told = await take(changes, 5)
    assert [(change.seq, change.kind, change.key, change.field, change.value) for change in told] == [
        (1, "put", "raw/a", None, {"id": "a", "logs": []}),
        (2, "append", "raw/a", "logs", {"n": 1}),
        (3, "delete", "raw/a", None, None),
        (4, "log", "logs/s1", None, "text\n"),
        (5, "report", "reports/r1", None, {"total": 3}),
    ]
    assert told == await store.history()


async def test_the_changes_of_a_transaction_follow_each_other_with_one_seq(store, raw):
    async with aclosing(store.watch()) as changes:
        async with store.transaction() as tx:
            tx.put(raw, {"id": "a"})
            tx.put(raw, {"id": "b"})
        await raw.put({"id": "c"})
        assert [(change.seq, change.id) for change in await take(changes, 3)] == [
            (1, "a"),
            (1, "b"),
            (2, "c"),
        ]


async def test_it_waits_for_the_next_change(store, raw):
    async with aclosing(store.watch()) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        assert not waiting.done()
        await raw.put({"id": "a"})
        assert (await waiting).id == "a"


async def test_a_cursor_goes_on_behind_its_change(store, raw):
    async with aclosing(store.watch()) as changes:
        for id in "abc":
            await raw.put({"id": id})
        cursor = (await anext(changes)).cursor
    async with aclosing(store.watch(since=cursor)) as changes:
        assert [change.id for change in await take(changes, 2)] == ["b", "c"]


async def test_a_cursor_goes_on_in_the_next_process(store, raw, url):
    await raw.put({"id": "a"})
    cursor = (await store.history())[0].cursor
    await raw.put({"id": "b"})
    await store.aclose()
    async with statepath.open(url) as again, aclosing(again.watch(since=cursor)) as changes:
        assert (await anext(changes)).id == "b"


async def put_together(store, raw, ids):
    async with store.transaction() as tx:
        for id in ids:
            tx.put(raw, {"id": id})


async def ids_up_to(last, changes):
    told = []
    while last not in told:
        told.append((await anext(changes)).id)
    return "".join(told)


async def test_a_cursor_goes_on_in_the_middle_of_a_transaction(store, raw):
    await put_together(store, raw, "abc")
    await put_together(store, raw, "de")
    await raw.put({"id": "f"})
    behind = []
    for change in (await store.history())[:-1]:
        async with aclosing(store.watch(since=change.cursor)) as changes:
            behind.append(await ids_up_to("f", changes))
    assert behind == ["bcdef", "cdef", "def", "ef", "f"]


async def test_a_cursor_counts_what_its_watcher_did_not_want_and_ends_behind_what_it_did(store, raw):
    await put_together(store, raw, "abcd")
    await raw.put({"id": "e"})
    async with aclosing(store.watch(since=0, ids=("b", "c"))) as changes:
        first, last = await take(changes, 2)
    async with aclosing(store.watch(since=first.cursor)) as changes:
        assert await ids_up_to("e", changes) == "cde"
    assert last.cursor == f"{first.cursor.partition(':')[0]}:1"


async def test_the_last_change_of_a_transaction_has_the_cursor_of_all_of_it(store, raw):
    await put_together(store, raw, "abc")
    assert [change.cursor.rpartition(":")[2] for change in await store.history()] == ["1.1", "1.2", "1"]


async def test_a_seq_goes_on_behind_it_and_zero_begins_at_the_beginning(store, raw):
    for id in "abc":
        await raw.put({"id": id})
    async with aclosing(store.watch(since=0)) as changes:
        assert [change.id for change in await take(changes, 3)] == ["a", "b", "c"]
    async with aclosing(store.watch(since=2)) as changes:
        assert (await anext(changes)).id == "c"


async def test_a_seq_in_the_middle_of_a_commit_goes_on_behind_it(store, raw):
    await asyncio.gather(*(raw.put({"id": id}) for id in "abcd"))
    async with aclosing(store.watch(since=2)) as changes:
        assert [change.seq for change in await take(changes, 2)] == [3, 4]


async def test_only_the_collections_asked_for_are_told(store, raw):
    async with aclosing(store.watch(collections=("raw",))) as changes:
        await store.collection("other").put({"id": "x"})
        await raw.put({"id": "a"})
        assert (await anext(changes)).key == "raw/a"


async def test_session_logs_and_reports_are_asked_for_like_collections(store, raw):
    async with aclosing(store.watch(collections=("logs", "reports"))) as changes:
        await raw.put({"id": "a"})
        await store.append_log("a", "x")
        await store.save_report("a", 1)
        assert [change.key for change in await take(changes, 2)] == ["logs/a", "reports/a"]


async def test_a_name_that_no_collection_can_have_is_told_as_by_the_collection(store):
    with pytest.raises(InvalidArgumentError) as of_collection:
        store.collection("Tasks")
    with pytest.raises(InvalidArgumentError) as of_watch:
        store.watch(collections=("Tasks",))
    assert str(of_watch.value) == str(of_collection.value)


async def test_two_watchers_are_told_the_same(store, raw):
    async with aclosing(store.watch()) as one, aclosing(store.watch()) as two:
        waiting = asyncio.gather(take(one, 3), take(two, 3))
        for id in "abc":
            await raw.put({"id": id})
        first, second = await waiting
    assert [change.id for change in first] == ["a", "b", "c"]
    assert first == second


async def test_a_slow_watcher_misses_nothing(store, raw, monkeypatch):
    monkeypatch.setattr("statepath.engine.feed._MOST_BYTES", 200)
    async with aclosing(store.watch()) as changes:
        await raw.put({"id": "0"})
        seen = [(await anext(changes)).id]
        for n in range(1, 50):
            await raw.put({"id": str(n)})
        seen += [change.id for change in await take(changes, 49)]
    assert seen == [str(n) for n in range(50)]


async def test_it_is_told_only_what_is_durable(open_on, faulty):
    store = await open_on(faulty)
    gate = faulty.hold("write", "journal/0")
    async with aclosing(store.watch()) as changes:
        saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
        waiting = asyncio.ensure_future(anext(changes))
        await gate.reached.wait()
        assert (waiting.done(), await store.collection("raw").get("a")) == (False, None)
        gate.open()
        assert (await waiting).seq == await saving


async def test_the_iteration_ends_when_the_store_closes(store, raw):
    async def watch_all():
        return [change.id async for change in store.watch(since=0)]

    watching = asyncio.ensure_future(watch_all())
    await raw.put({"id": "a"})
    await store.aclose()
    assert await watching == ["a"]


async def test_closing_the_iterator_leaves_the_store_alone(store, raw):
    changes = store.watch()
    await raw.put({"id": "a"})
    await anext(changes)
    await changes.aclose()
    assert store._engine.stream._feed.followers == 0
    await raw.put({"id": "b"})
    assert await raw.count() == 2


async def test_a_cursor_of_the_future_or_of_another_incarnation_is_refused(store, raw):
    await raw.put({"id": "a"})
    cursor = (await store.history())[0].cursor
    with pytest.raises(DivergedError):
        await anext(store.watch(since=2))
    with pytest.raises(DivergedError, match="another incarnation"):
        store.watch(since="f" * 32 + cursor[32:])


async def test_what_is_no_cursor_is_refused(store):
    for cursor in ("", "x", "x:y", ":", "x:1.", "x:.1", "x:1.2.3", "x:" + "1" * 5000, -1):
        with pytest.raises(InvalidArgumentError):
            store.watch(since=cursor)


async def test_a_cursor_that_the_log_does_not_reach_back_to_is_refused_with_the_next_step(trimmed):
    with pytest.raises(HistoryTrimmedError, match="watch with resync=True") as caught:
        await anext(trimmed.watch(since=0))
    assert caught.value.floor == (await trimmed.stats()).floor > 1


async def test_who_reads_the_log_is_not_told_how_to_watch(trimmed):
    with pytest.raises(HistoryTrimmedError, match=r"what came before was trimmed$"):
        await anext(trimmed._engine.log.read(0))


async def test_a_readonly_handle_watches_what_another_one_writes(store, raw, url):
    await raw.put({"id": "a"})
    async with statepath.open(url, readonly=True) as reader, aclosing(reader.watch()) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await raw.put({"id": "b"})
        assert (await waiting).id == "b"
        assert await reader.collection("raw").get("b") is not None


async def test_a_seq_that_a_readonly_handle_does_not_show_is_refused_with_the_next_step(store, raw, url):
    await raw.put({"id": "a"})
    async with statepath.open(url, readonly=True) as reader:
        with pytest.raises(DivergedError, match=r"if .* only lags, sync\(at_least=2\) waits"):
            await anext(reader.watch(since=2))


async def test_many_watchers_of_a_readonly_handle_are_all_told(store, raw, url):
    await raw.put({"id": "a"})
    async with statepath.open(url, readonly=True) as reader:
        watching = [asyncio.ensure_future(take(reader.watch(since=0), 20)) for _ in range(3)]
        for n in range(19):
            await raw.put({"id": str(n)})
        for told in await asyncio.gather(*watching):
            assert [change.seq for change in told] == list(range(1, 21))


async def test_a_readonly_watch_ends_when_its_handle_closes(store, raw, url):
    await raw.put({"id": "a"})
    reader = await statepath.open(url, readonly=True)
    changes = reader.watch(since=0)
    assert (await anext(changes)).id == "a"
    waiting = asyncio.ensure_future(anext(changes, None))
    await asyncio.sleep(0)
    await reader.aclose()
    assert await waiting is None


async def test_only_the_ids_asked_for_are_told(store, raw):
    async with aclosing(store.watch(ids=("b",))) as changes:
        for id in "abc":
            await raw.put({"id": id})
        await store.append_log("b", "x")
        assert [change.key for change in await take(changes, 2)] == ["raw/b", "logs/b"]


async def test_what_is_not_asked_for_is_not_decoded(store, raw, monkeypatch):
    decoded = []

    def noting(data, key):
        decoded.append(key)
        return decode(data, key)

    monkeypatch.setattr("statepath.watch.decode", noting)
    async with aclosing(store.watch(ids=("b",))) as changes:
        for id in "aab":
            await raw.put({"id": id})
        await anext(changes)
    assert decoded == ["raw/b"]


async def gone_through(changes, count):
    """As `turns_beside`, while so many changes are taken one right after the other."""
    return await turns_beside(take(changes, count))


async def turns_beside(work):
    """How many turns another task had meanwhile."""
    turns = 0

    async def take_turns():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.ensure_future(take_turns())
    await work
    beside.cancel()
    return turns


async def test_a_long_feed_lets_other_tasks_run(store, raw):
    async with aclosing(store.watch()) as changes:
        await raw.put({"id": "first"})
        await anext(changes)
        for n in range(12):
            await raw.put({"id": str(n), "text": "x" * 200_000})
        assert await gone_through(changes, 12) >= 3


async def test_a_commit_of_many_transactions_lets_other_tasks_run_while_it_is_told(store, raw):
    async with aclosing(store.watch()) as changes:
        await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(1000)))
        assert await gone_through(changes, 1000) >= 3


async def test_a_transaction_of_many_changes_lets_other_tasks_run_while_it_is_told(store, raw):
    async with aclosing(store.watch()) as changes:
        async with store.transaction() as tx:
            for n in range(1000):
                tx.put(raw, {"id": str(n)})
        assert await gone_through(changes, 1000) >= 3


async def test_a_long_history_lets_other_tasks_run(store, raw):
    await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(1000)))
    assert await turns_beside(store.history()) >= 3


async def test_who_is_told_many_documents_as_they_are_lets_other_tasks_run(trimmed):
    async with trimmed.transaction() as tx:
        for n in range(1000):
            tx.put(trimmed.collection("raw"), {"id": str(n)})
    async with aclosing(trimmed.watch(since=0, resync=True)) as changes:
        assert (await anext(changes)).kind == "resync"
        assert await gone_through(changes, 1001) >= 3


async def test_a_change_says_how_far_it_lags(store, raw):
    async with aclosing(store.watch()) as changes:
        for n in range(3):
            await raw.put({"id": str(n)})
        assert [change.lag for change in await take(changes, 3)] == [2, 1, 0]


async def test_a_watcher_that_the_log_does_not_reach_back_to_may_begin_anew(trimmed):
    raw = trimmed.collection("raw")
    await raw.put({"id": "b"})
    with pytest.raises(HistoryTrimmedError):
        await anext(trimmed.watch(since=0))
    async with aclosing(trimmed.watch(since=0, resync=True)) as changes:
        begin, *documents = await take(changes, 3)
        await raw.put({"id": "c"})
        behind = await anext(changes)
    assert (begin.kind, begin.value) == ("resync", 2)
    assert [(change.kind, change.id, change.seq) for change in documents] == [
        ("put", "a", 4),
        ("put", "b", 5),
    ]
    assert behind.id == "c"
    # Whoever stops in the middle begins again; whoever has all of it goes on behind it.
    assert [change.cursor.rpartition(":")[2] for change in (begin, *documents)] == ["0", "0", "5"]


async def test_two_handles_are_told_of_each_others_changes_without_changing_anything(store, raw, url):
    async with statepath.open(url, autosave=0) as other, aclosing(other.watch()) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.05)
        await raw.put({"id": "a"})
        async with asyncio.timeout(60):
            assert (await waiting).key == "raw/a"
        assert await other.collection("raw").get("a") == {"id": "a"}


@pytest.mark.parametrize("options", [{}, {"since": 0}, {"since": 0, "resync": True}])
async def test_a_handle_that_is_itself_behind_the_log_has_no_state_to_begin_anew_with(
    store, raw, url, monkeypatch, options
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.opening.KEEP_SECONDS", 0)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    await raw.put({"id": "a", "n": 0})
    async with statepath.open(url, readonly=True) as behind:
        for n in range(1, 6):
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
        with pytest.raises(HistoryTrimmedError, match=r"this handle shows seq 1, .* open the store again"):
            await anext(behind.watch(**options))


@pytest.mark.slow
async def test_watching_goes_on_when_the_storage_did_not_answer_for_a_while(faulty, open_on, url):
    from statepath.errors import UnavailableError

    store = await open_on(faulty)
    async with aclosing(store.watch()) as changes, statepath.open(url, autosave=0) as other:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.05)
        faulty.fail("read", "journal/", UnavailableError("no answer"), times=3)
        await other.collection("raw").put({"id": "a"})
        async with asyncio.timeout(60):
            assert (await waiting).key == "raw/a"


async def test_nobody_asks_the_storage_when_nobody_watches(store, raw):
    async with aclosing(store.watch()) as changes:
        await raw.put({"id": "a"})
        await anext(changes)
        assert store._engine.stream._follower._task is not None
    assert store._engine.stream._follower._task is None
