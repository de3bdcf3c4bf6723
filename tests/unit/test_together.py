"""Several calls at once: none goes on unattended."""

import asyncio

import pytest
from statepath.together import together


async def test_what_the_calls_give_has_their_order():
    first_may_end = asyncio.Event()

    async def first():
        await first_may_end.wait()
        return 1

    async def second():
        first_may_end.set()
        return 2

    assert await together([first(), second()]) == [1, 2]


@pytest.fixture
def endless():
    """A call that never ends by itself, and takes a moment to end when it is cancelled."""

    async def call():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    begun, ended = asyncio.Event(), asyncio.Event()
    return call, begun, ended


async def test_where_one_fails_the_others_have_ended_before_its_error_is_raised(endless):
    call, begun, ended = endless

    async def fail():
        await begun.wait()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - raised right above
        await together([call(), fail()])
    assert ended.is_set()


async def test_where_it_is_cancelled_so_are_they(endless):
    call, begun, ended = endless
    calling = asyncio.ensure_future(together([call(), call()]))
    await begun.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert ended.is_set()
