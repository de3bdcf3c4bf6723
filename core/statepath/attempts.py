"""What is tried again after a conflict: each time a little later, one after the other, and not for ever."""

from __future__ import annotations

import random
from asyncio import Lock, sleep, timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from statepath.errors import ConflictError

T = TypeVar("T")

ATTEMPTS: Final = 32

PATIENCE: Final = 10.0
"""Seconds to wait for a turn: who has it may wait, by whatever way, for the one that waits here."""


async def back_off(attempt: int) -> None:
    """Wait longer after each conflict, by chance: of many who change one document, each gets through in the end."""
    await sleep(random.random() * 0.001 * 2 ** min(attempt, 7))  # noqa: S311 - no secret


async def until_committed(attempt: Callable[[], Awaitable[T]]) -> T:
    """What the attempt gives, which looks anew each time.

    Raises:
        ConflictError: it met one in each of 32 attempts.
    """
    for number in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except ConflictError:
            await back_off(number)
    return await attempt()


class Turns:
    """Of those who try the same again, one at a time: of all in one commit only one would get through.

    A turn keeps nobody else from a change, so each attempt has to be checked all the same. Nothing is kept of what
    nobody waits for.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[tuple[str, ...], Lock] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def turn(self, place: tuple[str, ...], *, surely: bool = False) -> AsyncIterator[None]:
        """Go on when it is this one's turn, in the order of arrival, or when it was waited for long enough. `surely`:
        not before its turn, as nobody who has one there waits for another one."""
        lock = self._locks.setdefault(place, Lock())
        mine = False
        with suppress(TimeoutError):
            async with timeout(None if surely else PATIENCE):
                mine = await lock.acquire()
        try:
            yield
        finally:
            if mine:
                lock.release()
