"""The log as a table: what is done to its rows behind everybody's back is noticed."""

import asyncio
import time
from itertools import pairwise

import asyncpg
import pytest
import statepath
from msgspec.structs import replace
from servers.postgres import session
from statepath.backend import IF_ABSENT, IfMatch, Span
from statepath.engine.engine import Engine
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    OutcomeUnknownError,
    StateError,
)
from statepath.events import CorruptionDetected
from statepath.testing.commits import Writer
from statepath_postgres.connections import Connections
from statepath_postgres.documents import _CLEAR
from statepath_postgres.log import _NOTHING, _SET_ASIDE, _TRIM
from statepath_postgres.objects import PIECE

REMOVE = (
    "DELETE FROM statepath.log WHERE store = (SELECT id FROM statepath.stores WHERE name = $1) AND first = $2"
)
ALTER = """
UPDATE statepath.log SET record = overlay(record placing '\\x00' from 9)
WHERE store = (SELECT id FROM statepath.stores WHERE name = $1) AND first = $2
"""
CONFUSE = """
UPDATE statepath.log l SET record = o.record FROM statepath.log o
WHERE l.store = (SELECT id FROM statepath.stores WHERE name = $1) AND o.store = l.store
    AND l.first = $2 AND o.first = $2 + 1
"""
SET_ASIDE = """
SELECT key FROM statepath.objects
WHERE store = (SELECT id FROM statepath.stores WHERE name = $1) AND key LIKE 'journal/%corrupt%'
"""
RECORDS = """
SELECT record FROM statepath.log WHERE store = (SELECT id FROM statepath.stores WHERE name = $1) ORDER BY first
"""
LOSE_THE_LAST = """
UPDATE statepath.stores s SET head = head - 1, tip = (
    SELECT id FROM statepath.log l WHERE l.store = s.id AND l.first = s.head - 1
) WHERE name = $1
"""
SHOWN = "SELECT shown FROM statepath.views v JOIN statepath.stores s ON s.id = v.store WHERE name = $1"
FORGET = "UPDATE statepath.stores SET head = 0, tip = '' WHERE name = $1"
LEFT_OVER = """
SELECT count(*) FROM statepath.pieces p
WHERE NOT EXISTS (SELECT FROM statepath.objects o WHERE o.version = p.version)
"""

LOSE_A_PIECE = """
DELETE FROM statepath.pieces p USING statepath.objects o, statepath.stores s
WHERE o.version = p.version AND o.key = 'a' AND o.store = s.id AND s.name = $1 AND p.place = $2
"""

LOCK = "SELECT FROM statepath.stores WHERE name = $1 FOR UPDATE"
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"


@pytest.fixture
async def filled(path):
    """A store of ten commits."""
    async with statepath.open(path, autosave=0) as store:
        for n in range(10):
            await store.collection("raw").put({"id": f"d{n}", "n": n})


async def read(backend, after=0):
    return [commit async for commit in backend.commit_log().read(after)]


async def blocked(connection):
    """Wait until somebody waits for what the connection has locked."""
    async with asyncio.timeout(60):
        while not await connection.fetchval(f"{WAITING} AND pg_sleep(0.01) IS NOT NULL"):
            pass


@pytest.mark.parametrize(
    ("damage", "first"), [(REMOVE, 5), (REMOVE, 1), (REMOVE, 10), (ALTER, 5), (CONFUSE, 5)]
)
async def test_damage_is_told_behind_the_last_good_commit(filled, path, name, around, connect, damage, first):
    await around.execute(damage, name, first)
    backend = await connect(path, readonly=True)
    found = []

    async def read():
        async for commit in backend.commit_log().read(0):
            found.append(commit)  # noqa: PERF401 - what was read counts

    with pytest.raises(CorruptionError, match=f"{first:020d}"):
        await read()
    assert [commit.first for commit in found] == list(range(1, first))


async def test_who_reads_what_was_trimmed_is_not_told_how_to_watch(filled, path, connect):
    backend = await connect(path)
    await backend.commit_log().trim(3)
    with pytest.raises(HistoryTrimmedError, match=r"begins at seq 4; what came before was trimmed$"):
        await read(backend)


async def test_a_store_with_a_damaged_log_is_recovered_from_its_snapshot(filled, path, name, around):
    await around.execute(REMOVE, name, 5)
    async with statepath.open(path, autosave=0) as store:
        assert await store.collection("raw").count() == 10
        await store.collection("raw").put({"id": "more"})
    async with statepath.open(path, readonly=True) as reader:
        assert await reader.collection("raw").count() == 11


async def test_commits_that_the_snapshot_does_not_show_are_missed_and_told(path, name, around):
    store = await statepath.open(path, autosave=0)
    for n in range(6):
        await store.collection("raw").put({"id": f"d{n}"})
        if n == 2:
            await store.snapshot()
    await store._engine._committer.close()
    await store._engine.release()
    await around.execute(REMOVE, name, 5)
    told = []
    events = statepath.Events()
    events.on(CorruptionDetected, told.append)
    async with statepath.open(path, autosave=0, events=events) as store:
        assert [document["id"] async for document in store.collection("raw")] == ["d0", "d1", "d2", "d3"]
        assert told
        head = store.seq
        assert await store.collection("raw").put({"id": "new"}) == head + 1
    assert len(await around.fetch(SET_ASIDE, name)) == 5


async def test_a_recovery_that_stalled_takes_nothing_away_from_one_that_went_on(
    path, name, around, monkeypatch
):
    store = await statepath.open(path, autosave=0)
    for n in range(4):
        await store.collection("raw").put({"id": f"d{n}"})
    await store._engine.release()
    await around.execute(ALTER, name, 2)
    saved, resumed = asyncio.Event(), asyncio.Event()
    save = Engine.snapshot_as_is

    async def stall(engine):
        seq = await save(engine)
        if not saved.is_set():
            saved.set()
            await resumed.wait()
        return seq

    monkeypatch.setattr(Engine, "snapshot_as_is", stall)
    opening = asyncio.ensure_future(statepath.open(path, autosave=0))
    await saved.wait()
    async with statepath.open(path, autosave=0) as second:
        await second.collection("raw").put({"id": "new"})
        resumed.set()
        async with await opening as first:
            assert [document["id"] async for document in first.collection("raw")] == ["d0", "new"]


async def test_a_writer_of_before_a_recovery_commits_nothing_more(path, name, around):
    async with statepath.open(path, autosave=0) as behind:
        await behind.collection("raw").put({"id": "d0"})
        other = await statepath.open(path, autosave=0)
        for n in range(1, 4):
            await other.collection("raw").put({"id": f"d{n}"})
        await other._engine.release()
        await around.execute(ALTER, name, 2)
        async with statepath.open(path, autosave=0) as second:
            for _ in range(2):
                with pytest.raises(DivergedError):
                    await behind.collection("raw").put({"id": "lost"})
            await second.collection("raw").put({"id": "new"})
            assert [document["id"] async for document in second.collection("raw")] == ["d0", "new"]


async def test_a_server_that_lost_commits_does_not_go_on_as_if_nothing_were_missing(path, name, around):
    async with statepath.open(path, autosave=0) as store:
        for n in range(3):
            await store.collection("raw").put({"id": f"d{n}"})
        await around.execute(REMOVE, name, 3)
        await around.execute(LOSE_THE_LAST, name)
        with pytest.raises(DivergedError, match="the server lost commits"):
            await store.collection("raw").put({"id": "more"})


async def test_a_log_that_goes_on_another_way_is_not_told_as_damage_to_who_follows_it(path, name, around):
    async with statepath.open(path, autosave=0) as store, statepath.open(path, readonly=True) as reader:
        await store.collection("raw").put({"id": "kept"})
        await reader.sync()
        changes = reader.watch()
        following = asyncio.ensure_future(anext(changes))
        await store.collection("raw").put({"id": "lost"})
        assert (await following).id == "lost"
        async with around.transaction():
            await around.execute(REMOVE, name, 2)
            await around.execute(LOSE_THE_LAST, name)
        following = asyncio.ensure_future(anext(changes))
        async with statepath.open(path, autosave=0) as other:
            for n in range(2):
                await other.collection("raw").put({"id": f"d{n}"})
            with pytest.raises(DivergedError):
                await following


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("others", [0, 1])
async def test_who_has_what_the_server_lost_makes_no_snapshot_of_it(path, name, around, others, closed):
    store = await statepath.open(path, autosave=0)
    for n in range(3):
        await store.collection("raw").put({"id": f"d{n}"})
    await around.execute(REMOVE, name, 3)
    await around.execute(LOSE_THE_LAST, name)
    other = await statepath.open(path, autosave=0)
    for n in range(others):
        await other.collection("raw").put({"id": f"other {n}"})
    if closed:
        await store.aclose()
    else:
        with pytest.raises(DivergedError, match="the server lost commits"):
            await store.snapshot()
    for each in (store, other):
        await each._engine.release()
    async with statepath.open(path) as later:
        assert later.seq == await later.collection("raw").count() == 2 + others
        await later.collection("raw").put({"id": "more"})


async def test_a_store_that_is_deleted_while_it_is_open_is_told(path, name, around):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        await around.execute("DELETE FROM statepath.stores WHERE name = $1", name)
        with pytest.raises(DivergedError, match="was deleted"):
            await store.collection("raw").put({"id": "b"})


@pytest.mark.parametrize("readonly", [False, True])
async def test_a_store_that_is_deleted_while_it_is_followed_is_told(
    filled, path, name, around, connect, readonly
):
    backend = await connect(path, readonly=readonly)
    following = aiter(backend.commit_log().follow(9))
    assert (await anext(following)).first == 10
    await around.execute("DELETE FROM statepath.stores WHERE name = $1", name)
    async with asyncio.timeout(60):
        with pytest.raises(DivergedError, match="was deleted"):
            await anext(following)


async def test_a_store_that_is_deleted_is_told_to_who_goes_on_from_a_snapshot(
    filled, path, name, around, connect
):
    backend = await connect(path, readonly=True)
    assert await read(backend, after=10) == []
    await around.execute("DELETE FROM statepath.stores WHERE name = $1", name)
    with pytest.raises(DivergedError, match="was deleted"):
        await read(backend, after=10)


async def test_a_log_is_set_aside_a_part_at_a_time(filled, path, connect, around, name, monkeypatch):
    monkeypatch.setattr("statepath_postgres.log._ASIDE", 4)
    backend = await connect(path)
    commits = await read(backend)
    records = await around.fetch(RECORDS, name)
    parts = []
    fetch = asyncpg.connection.Connection.fetch

    async def noted(self, statement, *arguments):
        rows = await fetch(self, statement, *arguments)
        if "corrupt" in statement:
            parts.append([row["first"] for row in rows])
        return rows

    monkeypatch.setattr(asyncpg.connection.Connection, "fetch", noted)
    kept = await backend.commit_log().restart(20)
    assert parts == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10], []]
    assert [(await backend.read(key)).data for key in kept] == [row["record"] for row in records]
    assert [key[8:28] for key in kept] == [f"{commit.first:020}" for commit in commits]
    assert await around.fetch(RECORDS, name) == []


async def test_a_large_log_is_set_aside_a_part_at_a_time(filled, path, connect, monkeypatch):
    monkeypatch.setattr("statepath_postgres.log._ASIDE_BYTES", 1)
    backend = await connect(path)
    assert len(await backend.commit_log().restart(20)) == 10


async def test_a_log_of_many_pages_is_read_without_a_gap(path, connect):
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        for n in range(300):
            await raw.put({"id": "a", "n": n})
        for n in range(6):
            await raw.put({"id": "b", "text": str(n) * 3_000_000})
    commits = await read(await connect(path, readonly=True))
    assert len(commits) == 306
    assert all(later.first == earlier.last + 1 for earlier, later in pairwise(commits))


@pytest.mark.parametrize("size", [0, 1, 4 * 1024 * 1024, 4 * 1024 * 1024 + 1, 20_000_001])
async def test_an_object_of_any_size_is_whole_and_can_be_read_in_parts(path, connect, around, size):
    backend = await connect(path)
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    etag = await backend.write("a", data)
    with pytest.raises(AlreadyExistsError):
        await backend.write("a", data, when=IF_ABSENT)
    for start, stop in (
        (0, None),
        (0, 10),
        (size // 2, size // 2 + 10),
        (4_194_300, 4_194_310),
        (max(size - 3, 0), None),
    ):
        blob = await backend.read("a", span=Span(start, stop))
        assert (blob.data, blob.etag) == (data[start:stop], etag)
    await backend.copy("a", "b")
    await backend.delete("a")
    assert (await backend.read("b")).data == data
    await backend.write("b", b"small")
    assert await around.fetchval(LEFT_OVER) == 0


async def test_a_log_is_trimmed_a_part_at_a_time(path, connect, monkeypatch):
    monkeypatch.setattr("statepath_postgres.log._TRIMMED", 3)
    log = (await connect(path)).commit_log()
    writer = Writer(log)
    for _ in range(9):
        await writer.append()
    trimmed = []
    change = Connections.change

    async def noted(self, statement, *arguments):
        row = await change(self, statement, *arguments)
        trimmed.append(row["trimmed"])
        return row

    monkeypatch.setattr(Connections, "change", noted)
    await log.trim(8)
    assert trimmed == [3, 3, 2]
    with pytest.raises(HistoryTrimmedError) as told:
        await anext(log.read(7))
    assert told.value.floor == 9
    assert [commit.first async for commit in log.read(8)] == [9]


async def test_to_trim_looks_at_no_commit_that_stays(filled, name, around):
    store = await around.fetchval("SELECT id FROM statepath.stores WHERE name = $1", name)
    async with around.transaction():
        await around.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = await around.fetch(f"EXPLAIN (ANALYZE) {_TRIM}", store, 3, 100)
    assert "Rows Removed by Filter" not in "\n".join(row["QUERY PLAN"] for row in plan)


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [(_TRIM, (900, 500)), (_SET_ASIDE, ("now", 0, 500, 2**30)), (_CLEAR, ("", "", 500))],
)
async def test_what_takes_a_part_away_looks_at_each_row_once_where_the_statistics_know_of_one(
    postgres, database, statement, arguments
):
    async with statepath.open(postgres.url(database)) as store:
        await store.collection("raw").put({"id": "a"})
    async with session(postgres.url(database)) as around, around.transaction():
        await around.execute("ANALYZE statepath.log; ANALYZE statepath.documents")
        for rows in (
            "log (store, first, last, id, record) SELECT 1, n, n, n::text, ''",
            "documents (store, collection, id, version, modified) SELECT 1, 'raw', n::text, n, now()",
        ):
            await around.execute(f"INSERT INTO statepath.{rows} FROM generate_series(2, 10000) n")
        plan = await around.fetch(f"EXPLAIN (ANALYZE) {statement}", 1, *arguments)
    assert "rows=500" in "\n".join(row["QUERY PLAN"] for row in plan)
    assert "Rows Removed" not in "\n".join(row["QUERY PLAN"] for row in plan)


async def test_an_object_may_come_slower_than_the_server_lets_transactions_take(
    postgres, database, hurried, connect
):
    await connect(postgres.url(database))
    await hurried()
    backend = await connect(postgres.url(database))

    def slowly():
        yield bytes(2 * PIECE + 1)
        time.sleep(2)  # in a worker thread, where the chunks are drawn
        yield b"end"

    await backend.write_stream("a", slowly())
    assert (await backend.read("a", span=Span(2 * PIECE))).data == b"\0end"


async def test_a_large_object_is_copied_a_part_at_a_time(path, connect, monkeypatch):
    monkeypatch.setattr("statepath_postgres.objects.PIECE", 10)
    monkeypatch.setattr("statepath_postgres.objects._COPIED", 4)
    backend = await connect(path)
    data = bytes(range(95))
    await backend.write("a", data)
    done = []
    execute = asyncpg.connection.Connection.execute

    async def noted(self, statement, *arguments):
        done.append((statement, await execute(self, statement, *arguments)))

    monkeypatch.setattr(asyncpg.connection.Connection, "execute", noted)
    await backend.copy("a", "b")
    assert (await backend.read("b")).data == data
    assert [status for statement, status in done if "pieces" in statement] == [
        "INSERT 0 4",
        "INSERT 0 4",
        "INSERT 0 2",
    ]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_an_object_that_has_lost_a_piece_is_told_as_damage(path, connect, around, name, place):
    backend = await connect(path)
    await backend.write("a", bytes(PIECE * 2 + 10))
    await around.execute(LOSE_A_PIECE, name, place)
    async with asyncio.timeout(60):
        with pytest.raises(CorruptionError, match="lost a piece") as damage:
            await backend.read("a")
    assert damage.value.key == "a"


async def test_a_record_that_is_longer_than_a_piece_is_set_aside_whole(
    filled, path, connect, around, name, monkeypatch
):
    monkeypatch.setattr("statepath_postgres.objects.PIECE", 10)
    records = [row["record"] for row in await around.fetch(RECORDS, name)]
    backend = await connect(path)
    kept = await backend.commit_log().restart(20)
    assert [(await backend.read(key)).data for key in kept] == records
    assert [(await backend.read(key, span=Span(15))).data for key in kept] == [one[15:] for one in records]
    assert [(await backend.read(key, span=Span(15, 40))).data for key in kept] == [
        one[15:40] for one in records
    ]


@pytest.mark.parametrize("place", [0, 1])
async def test_a_store_whose_snapshot_has_lost_a_piece_is_recovered(path, around, name, monkeypatch, place):
    monkeypatch.setattr("statepath_postgres.objects.PIECE", 100)
    async with statepath.open(path) as store:
        await store.collection("tasks").put({"id": "a", "text": "x" * 200})
    await around.execute(LOSE_A_PIECE.replace("'a'", "'state.json'"), name, place)
    async with statepath.open(path) as store:
        assert [damage.key for damage in store.damage] == ["state.json"]
        assert await store.collection("tasks").get("a")


async def test_an_object_that_is_replaced_while_it_is_read_is_read_anew(path, connect, monkeypatch):
    backend = await connect(path)
    await backend.write("a", bytes(PIECE + 1))
    connections = backend._connections
    fetch, new = connections.fetch, b"x" * (PIECE + 2)

    async def meanwhile(statement, *arguments, **limits):
        rows = await fetch(statement, *arguments, **limits)
        if "modified" in statement:
            monkeypatch.setattr(connections, "fetch", fetch)
            await backend.write("a", new)
        return rows

    monkeypatch.setattr(connections, "fetch", meanwhile)
    assert (await backend.read("a")).data == new


TAKE_BACK = """
WITH lost AS (DELETE FROM statepath.objects RETURNING version)
SELECT setval('statepath.versions', version, false) FROM lost
"""


async def test_an_object_that_a_fail_over_took_back_is_not_taken_for_the_one_in_its_place(
    postgres, database, connect
):
    backend = await connect(postgres.url(database))
    lost = await backend.write("a", b"lost")
    async with session(postgres.url(database)) as around:
        await around.execute(TAKE_BACK)
    kept = await backend.write("a", b"kept")
    with pytest.raises(ConflictError):
        await backend.write("a", b"more", when=IfMatch(lost))
    with pytest.raises(ConflictError):
        await backend.copy("a", "b", when=IfMatch(lost))
    with pytest.raises(ConflictError):
        await backend.delete("a", when=IfMatch(lost))
    assert (await backend.read("a")).etag == kept != lost


async def test_a_store_that_was_copied_here_without_its_history_goes_on(path, postgres):
    there = f"{path}_there"
    async with statepath.open(path) as store:
        for n in range(3):
            await store.collection("raw").put({"id": str(n)})
        await store.restore(at=2, to=there)
    async with statepath.open(there) as store, statepath.open(there) as other:
        assert await store.collection("raw").put({"id": "more"}) == 3
        assert await other.collection("raw").put({"id": "yet more"}) == 4
    async with statepath.open(there) as store:
        assert (store.damage, await store.collection("raw").count()) == ((), 4)


async def test_a_log_that_has_lost_everything_is_not_begun_anew(path, around, name):
    async with statepath.open(path) as store:
        await store.collection("raw").put({"id": "a"})
        await around.execute(FORGET, name)
        with pytest.raises(DivergedError, match="open the store again"):
            await store.collection("raw").put({"id": "b"})


async def test_who_loses_a_place_is_told_all_that_came_instead(filled, path, around, name):
    async with statepath.open(path, autosave=0) as store, statepath.open(path, autosave=0) as late:
        for n in range(3):
            await store.collection("raw").put({"id": "a", "n": n})
        (last,) = [commit async for commit in late._engine.log.read(9) if commit.first == 10]
        mine = replace(last, first=11, last=11, id="mine", prev=last.id)
        with pytest.raises(HeadMoved) as lost:
            await late._engine.log.append(10, mine)
        assert [commit.first for commit in lost.value.commits] == [11, 12, 13]
        # What is not sound is not brought along: who reads on finds out.
        await around.execute(REMOVE, name, 12)
        with pytest.raises(HeadMoved) as lost:
            await late._engine.log.append(10, mine)
        assert lost.value.commits == ()


async def test_a_commit_is_not_confirmed_by_a_server_that_does_not_have_it(
    path, connect, around, name, monkeypatch
):
    backend = await connect(path)
    writer = Writer(backend.commit_log())
    commit = await writer.append()
    stands = writer.log._stands

    async def lost_meanwhile(*arguments, **whether):
        found = await stands(*arguments, **whether)
        await around.execute(REMOVE, name, 1)
        await around.execute(FORGET, name)
        return found

    monkeypatch.setattr(writer.log, "_seen", _NOTHING)  # as who has lost the answer
    monkeypatch.setattr(writer.log, "_stands", lost_meanwhile)
    await writer.log.append(0, commit)
    assert await read(backend) == [commit]


async def test_of_commits_that_are_shipped_together_all_stand_in_the_log_or_none(path, connect):
    backend = await connect(path)
    writer = Writer(backend.commit_log())
    await writer.append()
    head, before = writer.head, list(writer.commits)
    for _ in range(3):
        writer.commits.append(writer.make())
    *first, last = writer.commits[1:]
    with pytest.raises(StateError):
        # The id stands in the log already.
        await writer.log.extend(head, [*first, replace(last, id=before[0].id)])
    assert await read(backend) == before
    await writer.log.extend(head, [*first, last])
    assert await read(backend) == writer.commits


async def test_commits_that_do_not_follow_each_other_are_not_taken(path, connect):
    backend = await connect(path)
    writer = Writer(backend.commit_log())
    for _ in range(3):
        writer.commits.append(writer.make())
    with pytest.raises(InvalidArgumentError, match="begins at 2, not 3"):
        await writer.log.extend(0, [writer.commits[0], writer.commits[2]])
    assert await read(backend) == []


async def test_the_documents_of_commits_that_were_shipped_are_shown(path, connect, around, name):
    backend = await connect(path)
    await backend.show(0, ())
    writer = Writer(backend.commit_log())
    for _ in range(3):
        writer.commits.append(writer.make())
    await writer.log.extend(0, writer.commits)
    await backend.settle(writer.head)
    assert await around.fetchval(SHOWN, name) == writer.head


@pytest.mark.parametrize("cancelled", ["append", "close", "neither"])
async def test_what_still_waits_for_a_connection_when_it_is_closed_is_never_sent(
    path, connect, monkeypatch, cancelled
):
    monkeypatch.setattr("statepath_postgres.held._CLOSING", 3600 if cancelled == "close" else 0.01)
    connecting, connected = asyncio.Event(), asyncio.Event()

    async def slowly(connections, **arguments):
        connecting.set()
        await connected.wait()
        return await made(connections, **arguments)

    made = Connections.connect
    backend = await connect(path)
    log = backend.commit_log()
    monkeypatch.setattr(Connections, "connect", slowly)
    appending = asyncio.ensure_future(Writer(log).append())
    await connecting.wait()
    if cancelled == "append":
        appending.cancel()
        await asyncio.wait([appending])
    closing = asyncio.ensure_future(log.close())
    if cancelled == "close":
        while not log._held._closed:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        closing.cancel()
    await asyncio.wait([closing])
    connected.set()
    await asyncio.wait([appending])
    assert await read(await connect(path, readonly=True)) == []
    if cancelled != "append":
        with pytest.raises(ClosedError):
            await appending


async def test_a_cancelled_append_that_the_server_has_not_done_is_not_done_later(path, connect, around, name):
    log = (await connect(path)).commit_log()
    writer = Writer(log)
    await writer.append()
    async with around.transaction():
        await around.execute(LOCK, name)
        appending = asyncio.ensure_future(writer.append())
        await blocked(around)
        appending.cancel()
        await asyncio.wait([appending])
        await log.close()
        assert not await around.fetchval(WAITING)
    assert await read(await connect(path, readonly=True)) == writer.commits[:1]


async def test_behind_a_cancelled_append_the_same_commit_is_taken_on_another_connection(
    path, connect, around, name
):
    log = (await connect(path)).commit_log()
    writer = Writer(log)
    await writer.append()
    commit = writer.make()
    async with around.transaction():
        await around.execute(LOCK, name)
        appending = asyncio.ensure_future(log.append(1, commit))
        await blocked(around)
        appending.cancel()
        await asyncio.wait([appending])
    with pytest.raises(OutcomeUnknownError):
        await log.append(1, writer.make())
    await log.append(1, commit)
    await log.close()
    assert await read(await connect(path, readonly=True)) == [*writer.commits, commit]
