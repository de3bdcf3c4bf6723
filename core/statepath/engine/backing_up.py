"""Backing up: the state that `state.json` shows is kept under a name of its own, read back, and removed in time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from statepath.backend import Backend, ETag, IfMatch, Span, SupportsCopy
from statepath.engine.backups import backup_key, backup_keys, backup_time
from statepath.engine.checking import check_bytes, check_snapshot
from statepath.engine.floor import SnapshotMark
from statepath.engine.readback import check_same, read_back
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.trouble import Trouble
from statepath.errors import ConflictError, CorruptionError, StateError
from statepath.events import BackupCreated, BackupError, Events
from statepath.settings import Settings
from statepath.threads import in_thread

logger = logging.getLogger("statepath.snapshots")


class Backups:
    """Those that one handle of the store makes, one at a time.

    Attributes:
        trouble: why the last attempt to make or remove one failed, if it did.
    """

    def __init__(self, backend: Backend, store: str, events: Events, settings: Settings) -> None:
        self._backend = backend
        self._store = store
        self._events = events
        self._most = settings.backups
        self._max_age = settings.snapshot_age.total_seconds()
        self.trouble: Trouble | None = None

    async def keep(self, state: SnapshotMark) -> str:
        """Keep the state that `state.json` shows; the backup's key. One that is kept already is not kept twice.

        Raises:
            StateError: it could not be written, or was not what it should be when it was read back.
        """
        key = backup_key(state.time)
        if self._backend.capabilities.editable:
            # A copy that shares nothing with `state.json`, whatever `copy` does: a person may write into either.
            await self._write(key, state)
        elif key in await backup_keys(self._backend):
            await self._read_back(key, state)
        else:
            await self._copy(key, state)
        self._kept(key, state)
        return key

    async def keep_replaced(self, state: SnapshotMark, etag: ETag | None, *, ending: bool) -> ETag | None:
        """Keep the state that is about to be replaced, unless an earlier attempt did. That it is not kept is told, and
        fails nothing.

        Parameters:
            etag: the version of `state.json` that showed it when it was looked at last; returns the one that does.
            ending: the program ends: keep it only where the newest backup is older than `snapshot_age`, or many short
                runs would push the good ones out.
        """
        key = backup_key(state.time)
        try:
            kept = await backup_keys(self._backend)
            if key in kept or (ending and kept and not self._is_old(kept[-1])):
                return etag
            present = (await self._backend.read(STATE_KEY, span=Span(0, 0))).etag
            if present != etag:
                # Another program that exchanges the key seals the same snapshot anew.
                if (await check_snapshot(self._backend, STATE_KEY)).digest != state.digest:
                    return etag
                etag = present
            await self._copy(key, state)
        except ConflictError as error:
            logger.info("another handle saved meanwhile: %s", error)
        except StateError as error:
            logger.warning("the backup could not be written: %s", error, extra={"code": error.code})
            self._failed(error)
        else:
            self._kept(key, state)
        return etag

    async def prune(self, needed: Callable[[list[str]], list[SnapshotMark]]) -> None:
        """Remove the oldest backups, but for those that are `needed` of the keys that there are. That one stays is
        told, and fails nothing: the state is saved."""
        try:
            keys = await backup_keys(self._backend)
            kept = {backup_key(mark.time) for mark in needed(keys)}
            for key in keys[: max(0, len(keys) - self._most)]:
                if key not in kept:
                    await self._backend.delete(key)
        except StateError as error:
            logger.warning("an old backup could not be removed: %s", error, extra={"code": error.code})
            self._failed(error)

    def _is_old(self, key: str) -> bool:
        return time.time() - backup_time(key).timestamp() >= self._max_age

    def _kept(self, key: str, state: SnapshotMark) -> None:
        self.trouble = None
        logger.debug("kept a backup", extra={"key": key, "seq": state.seq})
        self._events.emit(BackupCreated(key, state.seq))

    def _failed(self, error: StateError) -> None:
        self.trouble = Trouble(error)
        self._events.emit(BackupError(error))

    async def _copy(self, key: str, state: SnapshotMark) -> None:
        """Keep the snapshot under a key that was free, and read it back; what is not what it should be does not stay.

        Raises:
            CorruptionError: it is not.
            ConflictError: what was copied had been replaced by another handle.
        """
        backend = self._backend
        if not backend.capabilities.copy or not isinstance(backend, SupportsCopy):
            await self._write(key, state)
            return
        await backend.copy(STATE_KEY, key)
        try:
            await self._read_back(key, state)
        except (CorruptionError, ConflictError):
            await backend.delete(key)
            raise

    async def _write(self, key: str, state: SnapshotMark) -> None:
        """As `_copy`, over whatever is there: another handle may have kept the same snapshot."""
        data = (await self._backend.read(STATE_KEY)).data
        stored = await in_thread(lambda: check_bytes(data, STATE_KEY))
        check_same(stored, STATE_KEY, store=self._store, digest=state.digest, seq=state.seq)
        etag = await self._backend.write(key, data)
        try:
            await self._read_back(key, state)
        except CorruptionError:
            await self._backend.delete(key, when=IfMatch(etag))
            raise

    async def _read_back(self, key: str, state: SnapshotMark) -> None:
        await read_back(self._backend, key, store=self._store, digest=state.digest, seq=state.seq)
