"""Asking for a turn: who loses place after place puts up a sign, and who wins them all looks for it now and then.

Who never wins, since others are faster or nearer to the storage, is not seen by them. What becomes of the sign decides
nothing but who waits for whom.
"""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Final

import msgspec

from statepath.backend import Backend, ETag
from statepath.commit import JOURNAL
from statepath.errors import NotFoundError, StateError

logger = logging.getLogger("statepath.log")

ASKED_KEY: Final = f"{JOURNAL}asked"

_PATIENCE: Final = 1.0  # seconds of losing before others are asked, and between two times
_LONGEST: Final = 30.0  # seconds: what was lost before that was given up since
_LOOK: Final = 1.0  # seconds, and
_WON: Final = 10  # commits, at least, between two looks
_SOON: Final = 0.5  # seconds: longer than that no save waits for it


class _Asked(msgspec.Struct, frozen=True):
    seconds: float


_decode: Final = msgspec.json.Decoder(_Asked).decode


class Asking:
    """The sign is one object, which each who asks replaces. It counts while it is new to who looks: how old it is, no
    clock has to say. Times are those of the event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.hurries = False
        """Whether it has lost for so long that it asks: it goes on at once, whatever that costs."""

        self._losing_since = math.inf
        self._lost = math.inf
        self._attempt = 0.0
        self._asked = -math.inf
        self._won = 0
        self._looked = -math.inf
        self._seen: ETag | None = None
        self._known = False

    def won(self, now: float) -> None:
        """A commit took a place."""
        self.hurries = False
        self._losing_since = self._lost = math.inf
        if not self._won:
            self._looked = now
        self._won += 1

    def lost(self, now: float) -> None:
        """A place went to somebody else."""
        if not 0 <= now - self._lost < _LONGEST:
            self._losing_since = self._lost = now
        self._attempt, self._lost = now - self._lost, now
        self.hurries = now - self._losing_since >= _PATIENCE

    def is_due(self, now: float) -> bool:
        """Whether it is time to ask, or to look for others that do."""
        if self.hurries:
            return now - self._asked >= _PATIENCE
        return self._won >= _WON and now - self._looked >= _LOOK

    async def speak(self, now: float) -> float:
        """Ask, or look for others that do; for how many seconds they have asked since the last look."""
        if self.hurries:
            self._asked = now
            await self._put_up(self._attempt)
            return 0.0
        self._won = 0
        return await self._look()

    async def _look(self) -> float:
        try:
            async with asyncio.timeout(_SOON):
                blob = await self._backend.read(ASKED_KEY)
            is_new = self._known and blob.etag != self._seen
            self._known, self._seen = True, blob.etag
            return _decode(blob.data).seconds if is_new else 0.0
        except NotFoundError:
            self._known = True
        except (StateError, TimeoutError, msgspec.MsgspecError, RecursionError) as error:
            logger.debug("it cannot be told whether others ask for a turn: %s", error)
        return 0.0

    async def _put_up(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(_SOON):
                self._seen = await self._backend.write(ASKED_KEY, msgspec.json.encode(_Asked(seconds)))
        except (StateError, TimeoutError) as error:
            logger.debug("others cannot be asked for a turn: %s", error)
