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

    async def keep(self, state: SnapshotMark, etag: ETag | None) -> str:
        """Keep the state that `state.json` shows; the backup's key. One that is kept already is not kept twice.

        Parameters:
            etag: the version of `state.json` that showed it when it was looked at last.

        Raises:
            ConflictError: another handle has replaced it.
            StateError: it could not be written, or was not what it should be when it was read back.
        """
        key = backup_key(state.time)
        if self._backend.capabilities.editable:
            # A copy that shares nothing with `state.json`, whatever `copy` does: a person may write into either.
            await self._write(key, state)
        elif key in await backup_keys(self._backend):
            await self._read_back(key, state)
        else:
            await self._copy(key, state, await self._version(state, etag))
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
            etag = await self._version(state, etag)
            await self._copy(key, state, etag)
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

    async def _version(self, state: SnapshotMark, etag: ETag | None) -> ETag:
        """The version of `state.json` that shows the state, which `etag` did when it was looked at last.

        Raises:
            ConflictError: none does any more.
        """
        present = (await self._backend.read(STATE_KEY, span=Span(0, 0))).etag
        # Another program that exchanges the key seals the same snapshot anew.
        if present != etag:
            stored = await check_snapshot(self._backend, STATE_KEY)
            if stored.digest != state.digest:
                raise ConflictError(
                    f"{STATE_KEY} is not the snapshot of seq {state.seq} any more: it shows seq {stored.seq}",
                    key=STATE_KEY,
                )
        return present

    async def _copy(self, key: str, state: SnapshotMark, etag: ETag) -> None:
        """Keep the snapshot, which that version of `state.json` is, and read it back; what is not what it should be
        does not stay. It may go over what is there: another handle can have kept the same snapshot, and no other.

        Raises:
            CorruptionError: it is not.
            ConflictError: another handle has replaced `state.json`. Its backups are as they were.
        """
        backend = self._backend
        if backend.capabilities.copy and isinstance(backend, SupportsCopy):
            await self._check(key, state, await backend.copy(STATE_KEY, key, when=IfMatch(etag)))
        else:
            await self._write(key, state)

    async def _write(self, key: str, state: SnapshotMark) -> None:
        """As `_copy`, of whatever version shows the snapshot."""
        data = (await self._backend.read(STATE_KEY)).data
        stored = await in_thread(lambda: check_bytes(data, STATE_KEY))
        check_same(stored, STATE_KEY, store=self._store, digest=state.digest, seq=state.seq)
        await self._check(key, state, await self._backend.write(key, data))

    async def _check(self, key: str, state: SnapshotMark, made: ETag) -> None:
        """Read back the version that was made, and remove it if it is not what it should be.

        Raises:
            ConflictError: another handle has kept the snapshot anew.
        """
        try:
            await self._read_back(key, state)
        except (CorruptionError, ConflictError):
            await self._backend.delete(key, when=IfMatch(made))
            raise

    async def _read_back(self, key: str, state: SnapshotMark) -> None:
        await read_back(self._backend, key, store=self._store, digest=state.digest, seq=state.seq)
