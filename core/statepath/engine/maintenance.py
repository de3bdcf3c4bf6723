"""One maintainer: of several handles that write to a store, one saves by time, writes the views of all, and trims.

Nothing depends on there being only one: what it writes is compared-and-swapped, and never goes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from statepath.engine.leases import MAINTAINER, Hold, Leases, finish
from statepath.errors import StateError

logger = logging.getLogger("statepath.maintenance")


class Maintenance:
    """Whether this handle is the maintainer. `alone` says that there can be no other. Where the storage itself lets one
    of several be it, `claim` asks for that, and no lease is needed."""

    def __init__(
        self,
        leases: Leases,
        *,
        ttl: float,
        alone: bool,
        claim: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        self._claim = claim
        self._claimed = False
        self._leases = leases
        self._ttl = ttl
        self._alone = alone
        self._hold: Hold | None = None
        self._trying = asyncio.Lock()
        self._released = False
        self.elsewhere = False
        """Whether another handle was the maintainer when this one last looked."""

    @property
    def ours(self) -> bool:
        """Whether it is this handle, as far as it knows."""
        return self._alone or self._claimed or (self._hold is not None and self._hold.valid)

    async def attempt(self) -> bool:
        """Be the maintainer, or become it; whether this handle is it now."""
        if self._alone:
            return True
        async with self._trying:
            if self._released:
                return False
            if self._claim is not None:
                self._claimed = await self._claim()
                self.elsewhere = not self._claimed
                return self._claimed
            hold = self._hold
            if hold is not None and await self._leases.renew(hold):
                return True
            self._hold = None
            taken = await self._leases.take(MAINTAINER, self._ttl)
            self.elsewhere = not isinstance(taken, Hold)
            if isinstance(taken, Hold):
                self._hold = taken
            return not self.elsewhere

    async def release(self) -> None:
        """Let the next one have it at once, and take it no more, also when whoever does that is cancelled."""
        await finish(self._release())

    async def _release(self) -> None:
        async with self._trying:
            self._released = True
            hold, self._hold = self._hold, None
            if hold is None:
                return
            try:
                await self._leases.drop(hold)
            except StateError as error:
                logger.debug("the lease could not be given back, and will expire: %s", error)
