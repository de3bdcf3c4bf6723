"""Who tries again takes turns with those who change the same thing."""

import asyncio
import gc
from contextlib import suppress

import pytest
from statepath.attempts import Turns

PLACE = ("tasks", "a")


@pytest.fixture
def turns():
    return Turns()


@pytest.fixture
def take(turns):
    """A task that takes its turn, and keeps it until the event is set."""

    def take(went, name, done):
        async def taking():
            async with turns.turn(PLACE):
                went.append(name)
                await done.wait()

        return asyncio.ensure_future(taking())

    return take


async def run_all():
    """Let every task come as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_one_goes_at_a_time_in_the_order_of_arrival(take):
    went, ends = [], [asyncio.Event() for _ in range(3)]
    tasks = [take(went, n, end) for n, end in enumerate(ends)]
    for n, end in enumerate(ends):
        await run_all()
        assert went == list(range(n + 1))
        end.set()
    await asyncio.gather(*tasks)


async def test_another_place_has_turns_of_its_own(turns):
    async with turns.turn(PLACE), turns.turn(("tasks", "b")):
        assert len(turns) == 2


async def test_who_gives_up_while_waiting_bars_nobody(take):
    went, end = [], asyncio.Event()
    tasks = [take(went, n, end) for n in range(3)]
    await run_all()
    tasks[1].cancel()
    end.set()
    with suppress(asyncio.CancelledError):
        await tasks[1]
    await asyncio.gather(tasks[0], tasks[2])
    assert went == [0, 2]


async def test_who_is_cancelled_or_fails_in_its_turn_passes_it_on(turns, take):
    went, end = [], asyncio.Event()
    cancelled = take(went, "cancelled", end)
    await run_all()
    cancelled.cancel()
    with suppress(ZeroDivisionError):
        async with turns.turn(PLACE):
            raise ZeroDivisionError
    async with turns.turn(PLACE):
        assert went == ["cancelled"]


async def test_who_has_waited_for_long_waits_no_longer(turns, monkeypatch):
    monkeypatch.setattr("statepath.attempts.PATIENCE", 0)
    went = []
    async with turns.turn(PLACE):
        async with turns.turn(PLACE):
            went.append("behind")
        went.append("before")
    assert went == ["behind", "before"]


async def test_nothing_is_kept_of_what_nobody_waits_for(turns, take):
    end = asyncio.Event()
    tasks = [take([], n, end) for n in range(3)]
    await run_all()
    assert len(turns) == 1
    tasks[2].cancel()
    end.set()
    await asyncio.wait(tasks)
    del tasks  # how it was cancelled tells where it waited
    gc.collect()
    assert len(turns) == 0
