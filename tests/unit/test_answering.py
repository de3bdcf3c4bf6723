"""Who is told that a save is durable, and when: all at once, or in halves where the next commit overlaps with that."""

import asyncio

import pytest
from statepath.engine.answering import Answers


class Loop:
    """A loop's clock and turns, by hand."""

    def __init__(self):
        self.now = 0.0
        self._soon = []

    def time(self):
        return self.now

    def call_soon(self, call, *arguments):
        self._soon.append((call, arguments))

    def turn(self):
        soon, self._soon = self._soon, []
        for call, arguments in soon:
            call(*arguments)


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def answers(loop):
    return Answers(loop, overlapping=True)


async def saves(count):
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


def told(saves):
    return [done.result() if done.done() else None for done in saves]


async def commit(answers, loop, count, first, *, prepared, took, waiting=0):
    """A commit of so many saves that were prepared for so many seconds, and durable after as many as it took."""
    loop.now += prepared
    answers.begin()
    loop.now += took
    these = await saves(count)
    answers.durable(these, first, waiting=waiting)
    return these


@pytest.fixture
async def prepared(answers, loop):
    """64 were told, and come back with their next save."""
    await commit(answers, loop, 64, 1, prepared=0.0, took=1.0)


async def test_all_are_told_at_once_where_the_storage_does_not_overlap(loop):
    answers = Answers(loop, overlapping=False)
    for first in (1, 65, 129):
        these = await commit(answers, loop, 64, first, prepared=0.004, took=0.001)
        assert told(these) == list(range(first, first + 64))


async def test_one_half_is_told_first_where_preparing_takes_longer_than_a_commit(answers, loop, prepared):
    these = await commit(answers, loop, 64, 65, prepared=0.004, took=0.003)
    assert told(these) == [*range(65, 97), *[None] * 32]
    assert answers.halved


async def test_all_are_told_at_once_where_a_commit_takes_longer(answers, loop, prepared):
    these = await commit(answers, loop, 64, 65, prepared=0.003, took=0.004)
    assert told(these) == list(range(65, 129))
    assert not answers.halved


async def test_few_are_told_at_once(answers, loop):
    await commit(answers, loop, 16, 1, prepared=0.0, took=0.001)
    these = await commit(answers, loop, 16, 17, prepared=0.004, took=0.001)
    assert told(these) == list(range(17, 33))


async def test_how_long_preparing_takes_is_not_told_by_a_commit_that_others_waited_behind(answers, loop):
    await commit(answers, loop, 10, 1, prepared=0.0, took=0.001, waiting=10)
    these = await commit(answers, loop, 64, 11, prepared=1.0, took=0.003)
    assert told(these) == list(range(11, 75))


async def test_the_other_half_is_told_when_the_next_commit_is_on_its_way(answers, loop, prepared):
    these = await commit(answers, loop, 64, 65, prepared=0.004, took=0.003)
    answers.begin()
    loop.turn()
    assert told(these)[32:] == [None] * 32
    loop.turn()
    loop.turn()
    assert told(these) == list(range(65, 129))


async def test_who_has_as_many_waiting_behind_is_told_when_these_are_on_their_way(answers, loop):
    these = await commit(answers, loop, 32, 1, prepared=0.0, took=0.003, waiting=32)
    assert told(these) == [None] * 32
    assert not answers.halved
    answers.begin()
    for _ in range(3):
        loop.turn()
    assert told(these) == list(range(1, 33))


async def test_unequal_halves_become_equal(answers, loop, prepared):
    these = await commit(answers, loop, 54, 65, prepared=0.004, took=0.003, waiting=10)
    assert told(these).count(None) == 32


async def test_the_next_commit_to_be_durable_is_never_told_before(answers, loop, prepared):
    these = await commit(answers, loop, 64, 65, prepared=0.004, took=0.003)
    later = await commit(answers, loop, 64, 129, prepared=0.0, took=0.0)
    assert None not in told(these)
    assert None not in told(later)


async def test_finish_tells_all(answers, loop, prepared):
    these = await commit(answers, loop, 64, 65, prepared=0.004, took=0.003)
    answers.finish()
    assert told(these) == list(range(65, 129))
    assert not answers.halved


async def test_who_does_not_wait_any_more_is_passed_over(answers, loop):
    these = await saves(3)
    these[1].cancel()
    answers.durable(these, 1, waiting=0)
    assert (these[0].result(), these[2].result()) == (1, 3)
