"""What happens by time: snapshots where anything changed, packs where the journal has become many objects, retention,
and a look at the space that is left."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from statepath.backend import Backend, SupportsSpace
from statepath.engine.committer import Committer
from statepath.engine.replica import Replica
from statepath.engine.snapshotter import Snapshotter
from statepath.engine.trouble import Trouble
from statepath.errors import ClosedError, ConflictError, StateError
from statepath.events import AutosaveTriggered, DiskLow, DiskOk, Events, SaveError
from statepath.settings import Settings

logger = logging.getLogger("statepath.autosave")

_LOOK_AT_SPACE: Final = 30.0
_ENOUGH_AGAIN: Final = 1.1
_RETAIN_EVERY: Final = 3600.0


class _Saved(Protocol):
    backend: Backend
    events: Events
    replica: Replica
    settings: Settings

    @property
    def committer(self) -> Committer: ...

    async def maintain(self) -> bool: ...

    async def look_beside(self) -> None: ...


class Autosave:
    """A task of one handle, at `settings.autosave` seconds (0: it only looks at the space).

    Attributes:
        trouble: why it could not find out at its last turn whether this handle is the one that saves by time.
    """

    def __init__(
        self,
        engine: _Saved,
        snapshotter: Snapshotter,
        archive: Callable[[], Awaitable[object]],
        bound_files: Callable[[], Awaitable[object]],
    ) -> None:
        self._engine = engine
        self._archive = archive
        self._bound_files = bound_files
        self._snapshotter = snapshotter
        self._low = False
        self._due = 0.0
        self.trouble: Trouble | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name="statepath-autosave")

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        pause = self._engine.settings.autosave or _LOOK_AT_SPACE
        while True:
            try:
                await self._check_space()
                await asyncio.sleep(pause)
                await self._turn()
            except ClosedError:
                return  # whoever closes the store saves what is left
            except Exception:
                logger.exception("the autosave failed unexpectedly, and goes on")
                await asyncio.sleep(pause)

    async def _turn(self) -> None:
        engine, snapshotter = self._engine, self._snapshotter
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _RETAIN_EVERY
            if engine.settings.archive:
                await self._try(self._archive, "what is due could not be archived; it stays live")
            await self._try(self._bound_files, "session logs and reports that are due could not be removed")
        if not engine.settings.autosave:
            return
        if not snapshotter.changed:
            await self._look_beside()
        if not snapshotter.changed:
            self.trouble = None  # nothing is left that it kept from being saved
            return
        logger.debug("saving by time", extra={"seq": engine.replica.head})
        engine.events.emit(AutosaveTriggered(engine.replica.head))
        await asyncio.sleep(0)  # what a listener saves now belongs into this snapshot
        await engine.committer.drain()
        if await self._maintains() and snapshotter.due:
            await try_snapshot(snapshotter.snapshot, engine.events)
            await self._try_pack()

    async def _try_pack(self) -> None:
        try:
            await self._snapshotter.pack()
        except StateError as error:
            logger.warning("the journal could not be packed: %s", error, extra={"code": error.code})

    async def _look_beside(self) -> None:
        try:
            await self._engine.look_beside()
        except ClosedError:
            raise
        except StateError as error:
            logger.warning("what others saved cannot be read for now: %s", error, extra={"code": error.code})

    async def _maintains(self) -> bool:
        try:
            ours = await self._engine.maintain()
        except ClosedError:
            raise
        except StateError as error:
            logger.warning("no snapshot for now: %s", error, extra={"code": error.code})
            self.trouble = Trouble(error)
            return False
        self.trouble = None
        return ours

    async def _try(self, work: Callable[[], Awaitable[object]], failure: str) -> None:
        try:
            await work()
        except ClosedError:
            raise
        except StateError as error:
            logger.exception(failure, extra={"code": error.code})
            self._engine.events.emit(SaveError(error, error.key))

    async def _check_space(self) -> None:
        engine = self._engine
        try:
            free = await free_bytes(engine.backend)
        except StateError as error:
            logger.warning("the free space could not be read: %s", error, extra={"code": error.code})
            return
        limit = engine.settings.disk_low
        if free is None:
            return
        if free < limit and not self._low:
            self._low = True
            logger.warning("%d bytes are free at %s, less than %d", free, engine.backend.url, limit)
            engine.events.emit(DiskLow(free, limit))
        elif self._low and free >= limit * _ENOUGH_AGAIN:
            self._low = False
            engine.events.emit(DiskOk(free))


async def try_snapshot(save: Callable[[], Awaitable[object]], events: Events) -> None:
    """A snapshot that may fail: the journal has everything, and the failure is told by an event."""
    try:
        await save()
    except ConflictError as error:
        logger.info("another handle saved meanwhile: %s", error)
    except StateError as error:
        logger.exception("the snapshot could not be written", extra={"code": error.code})
        events.emit(SaveError(error, error.key))


async def free_bytes(backend: Backend) -> int | None:
    """How much may still be written, where the backend can tell."""
    if backend.capabilities.space and isinstance(backend, SupportsSpace):
        return await backend.free_bytes()
    return None
