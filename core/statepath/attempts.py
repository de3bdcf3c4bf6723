"""What is tried again after a conflict: each time a little later, and not for ever."""

from __future__ import annotations

import random
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from statepath.errors import ConflictError

T = TypeVar("T")

ATTEMPTS: Final = 32


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
