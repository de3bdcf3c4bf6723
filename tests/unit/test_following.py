"""What follows the log for all who want to know of other writers' commits."""

import asyncio

from statepath.engine.following import Follower
from statepath.errors import UnavailableError


class Log:
    """It answers once, and then no more."""

    def __init__(self):
        self.asked = asyncio.Queue()

    async def follow(self, after, known):
        self.asked.put_nowait((after, known()))
        if after < 7:
            raise UnavailableError("no answer")
        await asyncio.Event().wait()
        yield


async def test_after_an_outage_it_goes_on_behind_what_is_known():
    log, head = Log(), 3
    follower = Follower(log, lambda: head, None, None)
    follower.join(3)
    assert await log.asked.get() == (3, 3)
    head = 7
    async with asyncio.timeout(30):
        assert await log.asked.get() == (7, 7)
    await follower.stop()
