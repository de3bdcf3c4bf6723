"""Leases: one holder of a name at a time, and what a holder changes is fenced.

async with store.lease("leader", ttl=15) as lease:
    ...  # every change in here is refused once somebody else has taken the lease over
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from contextlib import suppress
from hashlib import sha256
from typing import Final, Self

import msgspec
from msgspec import Raw

from statepath.arguments import wrong_kind
from statepath.clock import clock
from statepath.commit import Delete, Put
from statepath.engine.committer import FENCES, Fence, unfenced
from statepath.engine.engine import Engine
from statepath.engine.ids import check_id
from statepath.engine.leases import MAINTAINER, Hold, Holder, at_once, finish, see_off
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import ConflictError, InvalidArgumentError, LeaseHeldError, LeaseLostError, StateError
from statepath.events import LeaseLost

logger = logging.getLogger("statepath.leases")

_LONGEST_NAME: Final = 180
_BEATS: Final = 3  # signs of life within the time to live
_SHORTEST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 1.0


class Lease:
    """A name that one holder has at a time, over all processes that open the store. Get one from `Store.lease`.

    While it is held, signs of life are given in the background. Whoever waits gets it when it is given back, or when
    its holder gave no sign of life for `ttl` seconds. Changes that are made inside of the `async with` block, by the
    task itself or by one that it starts, carry the lease's epoch: once somebody else has taken the lease, the log
    refuses them with `LeaseLostError`, however late the former holder wakes up.

    Attributes:
        name: of the lease. `ttl`: its time to live, in seconds.
        epoch: the seq of the commit by which it was taken; it rises with each holder.
        lost: set when it turns out that somebody else has the lease, and when somebody may have it: no sign of life
        was answered for `ttl` seconds, or the store was closed. What goes on outside of the store should stop then.
    """

    def __init__(self, engine: Engine, name: str, ttl: float, wait: float | None) -> None:
        if len(check_id(name).encode()) > _LONGEST_NAME or name == MAINTAINER:
            raise InvalidArgumentError(
                f"{name!r} cannot name a lease: at most {_LONGEST_NAME} UTF-8 bytes, and not {MAINTAINER!r}"
            )
        ttl = _seconds(ttl, "a lease's time to live")
        if not 0 < ttl < math.inf:
            raise InvalidArgumentError(f"a lease's time to live is a number of seconds above 0, not {ttl!r}")
        wait = None if wait is None else _seconds(wait, "how long to wait for a lease")
        if wait is not None and math.isnan(wait):
            raise InvalidArgumentError(
                "how long to wait for a lease is a number of seconds, or None, not nan"
            )
        self._engine = engine
        self.name = name
        self.ttl = ttl
        self.epoch = 0
        self.lost = asyncio.Event()
        self._wait = wait
        self._hold: Hold | None = None
        self._fence: Fence | None = None
        self._beats: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether the lease is held, as far as this process knows: it may be wrong for a moment, and the log is not."""
        return self._hold is not None and self._hold.valid and not self.lost.is_set()

    async def acquire(self) -> None:
        """Wait for the lease and take it. Changes are fenced only within `async with`.

        Raises:
            LeaseHeldError: somebody else had it for as long as this was to wait; names the holder.
        """
        if self._hold is not None:
            raise InvalidArgumentError(f"this lease {self.name!r} was taken already: get another one")
        self.lost.clear()
        until = None if self._wait is None else clock() + self._wait
        pause = min(max(self.ttl / 50, _SHORTEST_LOOK), _LONGEST_LOOK)
        while (holder := await self._attempt()) is not None:
            if until is not None and clock() >= until:
                raise LeaseHeldError(
                    f"the lease {self.name!r} is held by {holder}", key=self.name, holder=holder.facts
                )
            left = pause if until is None else min(pause, max(until - clock(), 0.0))
            await asyncio.sleep(left * random.uniform(0.5, 1))  # noqa: S311 - no secret

    async def release(self) -> None:
        """Give the lease back, so that whoever waits gets it at once, also when whoever gives it back is cancelled."""
        self._engine.check_loop()
        await finish(self._release())  # half given back, it would be nobody's until it expires

    async def _release(self) -> None:
        hold, self._hold = self._hold, None
        if self._beats is not None:
            self._beats.cancel()
            await asyncio.wait([self._beats])
            self._beats = None
        if hold is None or self._engine.gone:
            return
        if self.lost.is_set() or self._engine.closed:
            # It may be this process's still, which gives no more signs of life: others would wait for all of its time.
            await see_off(self._let_go(hold))
            return
        try:
            # First the epoch: nobody may have the lease while a change of this holder could still get through.
            await self._end_epoch(self.epoch)
            await self._engine.leases.drop(hold)
        except StateError as error:
            logger.warning("the lease %s could not be given back, and will expire: %s", self.name, error)

    async def _let_go(self, hold: Hold) -> None:
        """End the epoch, too, if that can still be done: whoever takes the lease next commits another one anyway."""
        with suppress(StateError):
            await self._end_epoch(self.epoch)
        await self._engine.leases.drop(hold)

    async def _take_back(self, hold: Hold, beginning: asyncio.Future[int]) -> None:
        """Leave nothing of a lease that nobody waits for any more: its epoch may still be committed."""
        try:
            await self._engine.leases.drop(hold)
        finally:
            await self._end_epoch(await beginning)

    async def _end_epoch(self, epoch: int) -> None:
        with suppress(ConflictError), unfenced():
            await self._engine.commit([Delete(MEMBERS, self._member, epoch)])

    def raise_fence(self) -> None:
        """From here on, what this task (or thread) changes is made under the lease."""
        self._fence = Fence(self._engine.committer, (MEMBERS, self._member, self.epoch))
        FENCES.set((*FENCES.get(), self._fence))

    def lower_fence(self) -> None:
        """The end of that."""
        FENCES.set(tuple(fence for fence in FENCES.get() if fence is not self._fence))

    async def __aenter__(self) -> Self:
        await self.acquire()
        self.raise_fence()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.lower_fence()
        await self.release()

    @property
    def _member(self) -> str:
        return f"{LEASE_MEMBERS}{self.name}"

    async def _attempt(self, *, again: bool = True) -> Holder | None:
        """Try to take the lease; who has it, if that fails. `again`: once more if somebody was faster."""
        engine = self._engine
        engine.check_open()
        engine.committer  # noqa: B018 - a handle that cannot write holds nothing
        await engine.catch_up()
        entry = engine.get(MEMBERS, self._member)
        base = 0 if entry is None else entry.version
        taken = await engine.leases.take(self.name, self.ttl)
        if isinstance(taken, Holder):
            return taken
        document = msgspec.json.encode(taken.holder.facts)
        beginning = asyncio.ensure_future(engine.commit([Put(MEMBERS, self._member, Raw(document), base)]))
        try:
            # Whoever was faster since has committed another epoch: then this one is over before it began.
            self.epoch = await asyncio.shield(beginning)
        except ConflictError:
            await finish(engine.leases.drop(taken))
            # Who had it before may only have given it back: then it is free.
            return await self._attempt(again=False) if again else taken.holder
        except BaseException:
            await see_off(self._take_back(taken, beginning))
            raise
        self._hold = taken
        self._beats = asyncio.get_running_loop().create_task(self._beat(taken), name="statepath-lease")
        engine.beats.add(self._beats)
        self._beats.add_done_callback(engine.beats.discard)
        return None

    async def _beat(self, hold: Hold) -> None:
        """Give signs of life until the lease is given back or lost."""
        epoch, taken_away = self.epoch, False
        try:
            taken_away = await self._give_signs(hold)
        except asyncio.CancelledError:
            if self._hold is not None:  # the store is closed, and the lease not given back
                self.lost.set()
            raise
        except Exception:
            logger.exception("the lease %s has no signs of life any more", self.name)
        self.lost.set()
        logger.warning("the lease %s was lost", self.name)
        self._engine.events.emit(LeaseLost(self.name, epoch))
        if taken_away:
            # Whoever broke it may have done that before the epoch was there: nobody else would end it.
            await see_off(self._end_epoch(epoch))

    async def _give_signs(self, hold: Hold) -> bool:
        """Do that until there is no more use; whether the lease was taken away."""
        epoch, late = self.epoch, hold.left < self.ttl / 2  # it may take long until the epoch is durable
        while True:
            # Whoever comes late finds out whether somebody has taken it: that needs a moment, however little is left.
            patience = max(hold.left, self.ttl / _BEATS) if late else hold.left
            try:
                async with asyncio.timeout(patience):
                    if not await at_once(self._engine.leases.renew(hold, epoch=epoch)):
                        return True
            except TimeoutError:
                return False
            except StateError as error:
                if not error.retryable or not hold.valid:
                    return False
                logger.warning("no sign of life of the lease %s for now: %s", self.name, error)
                await _rest(hold)
                if not hold.valid:
                    return False
                late = False  # but behind one that failed it is all there is
            else:
                epoch = self.epoch
                late = await _rest(hold)


async def _rest(hold: Hold) -> bool:
    """Wait before the next sign of life, so that others fit in behind it; whether that comes late: most of the time
    that was to be left is gone, as the event loop stood still, or the machine."""
    left = hold.left
    rest = min(max(left / _BEATS, _SHORTEST_LOOK), max(left, 0.0))
    await asyncio.sleep(rest)
    return hold.left < (left - rest) / 2


def _seconds(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_kind(what, "a number of seconds", value)
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgumentError(f"{what} is a number of seconds, and this one is too large") from None


def claim_name(task_id: str) -> str:
    """The lease of a task, however long its id is."""
    name = f"claim/{check_id(task_id)}"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"claim/~{sha256(task_id.encode()).hexdigest()}"


__all__ = ["Lease", "LeaseHeldError", "LeaseLostError"]
