"""The mirror: ships the commits of a primary to its replica as they happen, again and again if the replica is down.

Of several processes that are to ship to one replica, one does at a time: who is the replica's maintainer. The others
take over from it. Nothing depends on there being only one: a replica takes each commit once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Final

from statepath.backend import Backend
from statepath.clock import clock
from statepath.engine.companion import MirrorLag
from statepath.engine.founding import Tell, silent
from statepath.engine.leases import Leases
from statepath.engine.maintenance import Maintenance
from statepath.engine.opening import attach
from statepath.engine.primary import ANEW, Primary
from statepath.engine.shipping import ReplicaDamagedError, Shipping, check_place
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    DivergedError,
    HistoryTrimmedError,
    InvalidArgumentError,
    StateError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from statepath.events import Events, MirrorCaughtUp, MirrorFailed, MirrorLagging, MirrorRebased
from statepath.settings import Settings

logger = logging.getLogger("statepath.mirror")

_FINAL: Final = (
    AlreadyExistsError,
    ConfigurationError,
    DivergedError,
    InvalidArgumentError,
    UnsupportedError,
)
_SOONEST: Final = 0.5
_LATEST: Final = 30.0
_LOOK: Final = 0.5
_CREDIT: Final = 1.0
"""Seconds in which nothing was shipped that may be made up for."""
_GRACE: Final = 5.0
"""For how many seconds at most a store that is closed waits for its replica."""
_RELEASE: Final = 2.0
"""Seconds for giving the replica's lease back, which expires without that."""
_TTL: Final = 15.0
_TURN: Final = _TTL / 3
"""How often, in seconds, a mirror looks whether the one that ships does so still."""


class _AnotherShipsError(Exception):
    """Another mirror has taken over."""


class Mirror:
    """Ships commits from one primary to one replica.

    Parameters:
        target: where the replica is, as it may be shown.
        connect: makes a connection to it, for writing.
        tell: is told in words what is being done.
        reseed: make the replica anew first, even where it cannot follow the primary.
    """

    def __init__(
        self,
        primary: Primary,
        target: str,
        connect: Callable[[], Awaitable[Backend]],
        settings: Settings,
        events: Events,
        tell: Tell = silent,
        *,
        reseed: bool = False,
    ) -> None:
        self._primary = primary
        self._target = target
        self._connect = connect
        self._settings = settings
        self._events = events
        self._tell = tell
        self._reseed = reseed
        self._limit = settings.mirror_lag.total_seconds()
        self._seq: int | None = None
        self._failure: StateError | None = None
        self._stopped = False
        self._anew = ""
        self._elsewhere = False
        self._finishing = asyncio.Event()
        self._connection: Backend | None = None
        self._lagging: bool | None = None
        self._since: float | None = None
        self._met: tuple[int, float] | None = None  # a head that is not shipped yet, and when it was there
        self._shipped = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def lag(self) -> MirrorLag:
        behind, oldest = self._primary.behind(self._seq or 0)
        if not behind:
            self._since = None
        elif self._since is None:
            self._since = time.time()
        # What is too far behind to be known is no older than what was shipped last, nor than when it was noticed.
        since = oldest or max(self._since or 0.0, self._shipped)
        # Who set the machine's clock back learns by the other one how long it has been at the least.
        seconds = max(time.time() - since, self._waiting(behind)) if behind else 0.0
        failure = None if self._failure is None else str(self._failure)
        if self._elsewhere:
            return MirrorLag(self._target, self._seq, 0, 0.0, failure, self._stopped, elsewhere=True)
        return MirrorLag(self._target, self._seq, behind, seconds, failure, self._stopped)

    def _waiting(self, behind: int) -> float:
        """For how many seconds, at the least, something has been waiting to be shipped."""
        seq, now = self._seq or 0, clock()
        if self._met is None or self._met[0] <= seq:
            self._met = seq + behind, now
        return now - self._met[1]

    async def run(self, until: int | None = None) -> None:
        """Ship until it is cancelled or the primary is closed; with `until`, up to that seq, and without patience.

        Raises:
            AlreadyExistsError, DivergedError: the place is not that of a replica of this primary, or no more.
        """
        watching = asyncio.create_task(self._watch(), name="statepath-mirror-lag")
        pause = _SOONEST
        try:
            while True:
                before = self._seq
                try:
                    await self._session(until)
                except ClosedError:
                    raise
                except (ConflictError, _AnotherShipsError) as error:
                    logger.debug("the mirror to %s begins again: %s", self._target, error)
                except HistoryTrimmedError as error:
                    self._anew = f"the primary's log does not reach back to it: {error}"
                except StateError as error:
                    self._stopped = until is not None or isinstance(error, _FINAL)
                    self._fail(error)
                    if self._stopped:
                        raise
                else:
                    return
                if self._seq != before:
                    pause = _SOONEST
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LATEST)
        finally:
            watching.cancel()
            if self._connection is not None:
                await self._connection.close()

    def start(self) -> None:
        """Run in the background."""
        self._task = asyncio.create_task(self._run(), name="statepath-mirror")

    async def _run(self) -> None:
        try:
            await self.run()
        except ClosedError:
            pass
        except StateError as error:
            logger.error("the mirror to %s has stopped: %s", self._target, error, extra={"code": error.code})  # noqa: TRY400
        except Exception as error:
            logger.exception("the mirror to %s failed unexpectedly", self._target)
            self._stopped = True
            self._fail(StateError(f"the mirror failed unexpectedly: {error!r}"))

    async def finish(self) -> None:
        """The primary takes no more commits: ship what is left, unless the replica is down, another process ships, or
        that takes too long."""
        self._finishing.set()
        if self._task is not None and self._failure is None:
            await asyncio.wait([self._task], timeout=_GRACE)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _session(self, until: int | None) -> None:
        target = self._connection or await attach(await self._connect(), self._settings)
        self._connection = None
        shipping: Shipping | None = None
        lead = Maintenance(Leases(target), ttl=_TTL, alone=target.capabilities.exclusive)
        beating: asyncio.Task[None] | None = None
        try:
            if not self._reseed:
                await check_place(self._primary, target, self._settings)
            if until is None:  # who ships up to a seq waits for nobody
                if not await self._turn(lead):
                    return
                beating = asyncio.create_task(self._beat(lead), name="statepath-mirror-lease")
            anew, self._anew = self._anew, ""
            shipping = await self._begin(target, anew)
            if self._failure is not None:
                await self._primary.head()  # so that it is known what is behind, or why it is not
            self._arrived(shipping)
            if until is None or shipping.position.seq < until:
                await self._ship(shipping, until, lead)
            await shipping.settle()
        except (ThrottledError, UnavailableError):
            if target.capabilities.remote:  # the next attempt is the cheaper
                self._connection = target
            raise
        finally:
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            try:
                with suppress(StateError, TimeoutError):
                    async with asyncio.timeout(_RELEASE):
                        if shipping is not None:
                            await shipping.close()
                        await lead.release()
            finally:
                if self._connection is None:
                    with suppress(StateError):
                        await target.close()

    async def _turn(self, lead: Maintenance) -> bool:
        """Wait while another mirror ships to the replica; whether it is this one's turn. It is not if its own store
        is closing."""
        while not await lead.attempt():
            if not self._elsewhere:
                self._elsewhere, self._failure = True, None
                self._tell("another process ships there")
            if self._finishing.is_set():
                return False
            with suppress(TimeoutError):
                async with asyncio.timeout(_TURN):
                    await self._finishing.wait()
        self._elsewhere = False
        return True

    async def _beat(self, lead: Maintenance) -> None:
        """Give signs of life while this mirror ships."""
        while True:
            await asyncio.sleep(_TURN)
            try:
                if not await lead.attempt():
                    return
            except StateError as error:
                logger.debug("no sign of life of the mirror to %s for now: %s", self._target, error)

    async def _begin(self, target: Backend, anew: str) -> Shipping:
        primary, settings = self._primary, self._settings
        if self._reseed:
            shipping = await Shipping.begin(primary, target, settings, self._tell, reseed=True)
            self._reseed = False
            self._events.emit(MirrorRebased(self._target, shipping.position.seq, "that was asked for"))
            return shipping
        try:
            shipping = await Shipping.begin(primary, target, settings, self._tell, anew=bool(anew))
        except ReplicaDamagedError as error:
            anew = f"it is damaged: {error}"
            try:
                shipping = await Shipping.begin(primary, target, settings, self._tell, anew=True)
            except ReplicaDamagedError as still:
                raise CorruptionError(
                    f"{target.url} was made anew, since it was damaged, and is damaged still: {still}; {ANEW}"
                ) from still
        if anew:
            logger.warning("the replica at %s was made anew: %s", self._target, anew)
            self._events.emit(MirrorRebased(self._target, shipping.position.seq, anew))
        return shipping

    async def _ship(self, shipping: Shipping, until: int | None, lead: Maintenance) -> None:
        free = time.monotonic()
        async with aclosing(self._primary.commits(shipping.position.seq)) as gathered:
            async for commits in gathered:
                if until is None and not lead.ours:
                    raise _AnotherShipsError
                free = max(free, time.monotonic() - _CREDIT)
                async for size in shipping.ship(commits):
                    self._arrived(shipping)
                    free += self._primary.worth(size)
                    await asyncio.sleep(max(free - time.monotonic(), 0.0))
                await shipping.keep_up()
                if until is not None and shipping.position.seq >= until:
                    return

    def _arrived(self, shipping: Shipping) -> None:
        """The replica is there, and has got so far."""
        before, self._seq = self._seq, shipping.position.seq
        self._shipped = shipping.position.time / 1_000_000
        behind, _ = self._primary.behind(self._seq)
        if self._seq != before or not behind:  # what kept the next commit from being shipped may do so still
            self._failure = None
        self._tell(f"shipped seq {self._seq}" + (f", {behind} behind" if behind else ""))
        if not behind and self._lagging is not False:
            self._lagging = False
            self._events.emit(MirrorCaughtUp(self._target, self._seq))

    def _fail(self, error: StateError) -> None:
        known = self._failure is not None and self._failure.code == error.code
        self._failure = error
        self._lagging = self._lagging or None  # when it has everything again, that is told
        if known and not self._stopped:
            return
        if not self._stopped:
            logger.warning(
                "the mirror to %s is tried again: %s", self._target, error, extra={"code": error.code}
            )
        self._events.emit(MirrorFailed(self._target, error, not self._stopped))

    async def _watch(self) -> None:
        """Tell when the replica is too far behind, whatever the reason."""
        while True:
            await asyncio.sleep(_LOOK)
            lag = self.lag
            if lag.seconds > self._limit and not self._lagging:
                self._lagging = True
                self._events.emit(MirrorLagging(self._target, lag.behind, lag.seconds))
