"""A commit that depends on nothing goes behind others, and who loses again and again is let go first."""

import asyncio
import math
import time

import pytest
from statepath.errors import HeadMoved, OutcomeUnknownError, UnavailableError
from statepath.testing.commits import Writer
from statepath_postgres import log

ROWS = """
SELECT l.* FROM statepath.log l JOIN statepath.stores s ON s.id = l.store WHERE s.name = $1 ORDER BY first
"""


@pytest.fixture
async def writers(path, connect):
    """Three, who have seen the first commit."""
    all_of = [Writer((await connect(path)).commit_log(), name) for name in "abc"]
    first = await all_of[0].append()
    for other in all_of[1:]:
        other.commits.append(first)
    return all_of


async def place(writer):
    placed, before = await writer.log.place(writer.head, writer.make())
    writer.commits += [*before, placed]
    return placed


async def test_a_row_tells_where_its_record_stands(writers, name, around):
    one, other, _ = writers
    await place(one)
    made = other.make()
    placed, _ = await other.log.place(other.head, made)
    kept, moved = (await around.fetch(ROWS, name))[1:]
    assert (kept["prev"], kept["made"]) == (None, None)
    assert (moved["first"], moved["prev"]) == (3, one.commits[-1].id)
    assert b'"first":2' in moved["record"]
    assert [commit async for commit in one.log.read(2)] == [placed]
    assert (placed.first, placed.transactions) == (3, made.transactions)


async def test_what_a_commit_goes_behind_is_read_once(writers, monkeypatch):
    one, other, _ = writers
    for _ in range(3):
        await place(one)
    await place(other)
    assert other.commits[:-1] == one.commits
    monkeypatch.setattr(log, "_PAGE_BYTES", 1)
    for _ in range(2):
        await place(one)
    placed, before = await other.log.place(other.head, other.make())
    assert (placed.first, list(before)) == (8, []), "much is left to whoever reads on"


async def test_nothing_goes_behind_what_it_has_much_to_read_of(writers):
    one, other, _ = writers
    placed, _ = await one.log.place(one.head, one.make(transactions=2_000))
    one.commits.append(placed)
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())


async def test_nothing_is_placed_when_the_wait_for_its_answer_is_over(writers, path):
    one, other, _ = writers
    await place(one)
    other.log._deadline = -60.0
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())


async def test_nothing_is_placed_behind_a_log_that_was_begun_anew(writers):
    one, other, _ = writers
    await place(one)
    await one.log.restart(one.head)
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())


async def test_who_loses_again_and_again_is_let_go_first(writers, monkeypatch):
    monkeypatch.setattr(log, "_PATIENCE", -1.0)
    monkeypatch.setattr(log, "_ASKED", 50.0)
    monkeypatch.setattr(log, "_COURTESY", (600.0, 600.0))
    loser, *others = writers
    await place(others[0])
    with pytest.raises(HeadMoved) as lost:
        await loser.append()
    assert lost.value.kept
    await loser.catch_up()
    await place(others[0])
    others[1].commits = list(others[0].commits)
    await others[1].append()
    for writer in others:
        writer.commits = list(others[1].commits)
    resting = [asyncio.ensure_future(attempt) for attempt in (place(others[0]), others[1].append())]
    await loser.catch_up()
    await loser.append()
    assert not any(attempt.done() for attempt in resting)
    for attempt in resting:
        attempt.cancel()
    await asyncio.wait(resting)


async def test_nobody_rests_whom_nobody_asks(writers, monkeypatch):
    monkeypatch.setattr(log, "_COURTESY", (600.0, 600.0))
    loser, other, _ = writers
    await place(other)
    with pytest.raises(HeadMoved) as lost:
        await loser.append()
    assert not lost.value.kept
    await place(other)
    await other.append()


async def test_nobody_rests_for_what_was_asked_before_the_clock_was_set_back(writers, name, around):
    one, *_ = writers
    await around.execute(
        "UPDATE statepath.stores SET asked = clock_timestamp() + interval '1 hour' WHERE name = $1", name
    )
    await one.append()
    await place(one)
    assert one.log._rests_until == -math.inf


async def test_an_append_whose_answer_was_lost_where_nothing_could_be_placed_is_taken_again(
    writers, monkeypatch
):
    one, *_ = writers
    made, fetchval = one.make(), one.log._held.fetchval

    async def lost(*arguments, sending):
        if await fetchval(*arguments, sending=sending) is not None:
            raise UnavailableError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(one.log, "_deadline", -60.0)
        patch.setattr(one.log._held, "fetchval", lost)
        with pytest.raises(OutcomeUnknownError):
            await one.log.place(one.head, made)
    assert await one.log.place(one.head, made) == (made, ())
    assert [commit async for commit in one.log.read(one.head)] == [made]


async def test_a_commit_whose_sender_was_cancelled_while_it_looked_before_it_stands_once(
    writers, monkeypatch
):
    one, other, _ = writers
    await place(one)
    made, looking = other.make(), asyncio.Event()

    async def look(*_):
        looking.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(other.log._held, "fetch", look)
        placing = asyncio.ensure_future(other.log.place(other.head, made))
        await looking.wait()
        placing.cancel()
        await asyncio.wait([placing])
    with pytest.raises(OutcomeUnknownError):
        await other.log.place(other.head, other.make())
    placed, before = await other.log.place(other.head, made)
    assert [commit async for commit in one.log.read(1)] == [*before, placed]


async def test_what_became_of_a_commit_is_asked_of_the_server_that_was_told_to_bar_it(writers, monkeypatch):
    one, *_ = writers
    await place(one)
    fetchval, answers = one.log._held.fetchval, iter([UnavailableError("the answer was lost")])

    async def lost(*arguments, sending):
        value = await fetchval(*arguments, sending=sending)
        for error in answers:
            raise error
        return value

    async def elsewhere(*_, **__):
        raise AssertionError("the pool may still be connected to a server that failed over")

    monkeypatch.setattr(one.log._held, "fetchval", lost)
    monkeypatch.setattr(one.log._connections, "fetch", elsewhere)
    placed = await place(one)
    monkeypatch.undo()
    assert [commit async for commit in one.log.read(one.head - 1)] == [placed]


async def test_nothing_is_placed_right_behind_what_was_appended(writers):
    one, other, _ = writers
    await one.append()
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())


async def test_nothing_is_placed_by_who_knows_another_log(writers):
    one, other, _ = writers
    for _ in range(2):
        await place(one)
    other.commits.append(other.make())
    with pytest.raises(HeadMoved):
        await other.log.place(other.head, other.make())


async def test_what_arrives_behind_the_bar_does_not_take_its_own_place_either(writers):
    one, *_ = writers
    store, group = await one.log._store(), log._Group.of(one.head, (one.make(),), placing=True)
    await one.log._held.fetchval(log.BAR, store, one.head, sending=lambda: None)
    assert await one.log._send_behind(store, one.head, group, time.time() + 60) is None


async def test_what_a_commit_went_behind_is_not_read_again_for_the_view(path, connect):
    backends = [await connect(path) for _ in range(2)]
    one, other = (Writer(backend.commit_log()) for backend in backends)
    other.commits.append(await one.append())
    for writer in (one, one, other):
        await place(writer)
    assert [commit.first for commit, _ in backends[1]._documents._recent] == [2, 3, 4]
