"""How long a request is waited for that does not get on.

The limit of the client libraries counts the seconds without a byte of an answer: it begins only when all of a body has
left, and one byte now and then keeps it from ending.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar

T = TypeVar("T")

_RATE: Final = 1024
"""Bytes a second that an answer has to bring."""


class Patience:
    """What is done within it ends with `TimeoutError` once it has not got on for so many seconds. It gets on with each
    block that leaves, and with as many bytes that arrive as these seconds have to bring."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._arrived = 0
        self._limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> Self:
        await self._limit.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._limit.__aexit__(kind, error, trace)

    async def sending(self, blocks: AsyncIterable[T]) -> AsyncIterator[T]:
        """The blocks of a body; behind the last the answer has to come in time."""
        async for block in blocks:
            self._renew()
            yield block
        self._renew()

    async def receiving(self, blocks: AsyncIterable[bytes]) -> bytes:
        """The body of an answer as a whole."""
        whole = io.BytesIO()  # it gives away what it has; joined, the blocks would stand beside it
        async for block in blocks:
            whole.write(block)
            self.received(len(block))
        return whole.getvalue()

    def received(self, size: int) -> None:
        """So many bytes of an answer have arrived."""
        self._arrived += size
        if self._arrived >= _RATE * self._seconds:
            self._arrived = 0
            self._renew()

    def _renew(self) -> None:
        # A body may still be on its way when the request is over already.
        with suppress(RuntimeError):
            self._limit.reschedule(asyncio.get_running_loop().time() + self._seconds)
