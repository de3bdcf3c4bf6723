"""How long a check waits for what a sound backend gives soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds."""

AT_MOST = 120.0
"""Seconds: with a broken backend two that write may wait for each other for ever."""


async def soon(awaitable: Awaitable[T]) -> T:
    """What a sound backend gives at once must not hang the tests of another."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable
