"""A store encrypted in place, or decrypted, while nobody uses it.

First the key ring says that it is under way, so that nobody opens the store before it is done. Then the journal begins
anew behind the snapshot, which shows everything, with a record that a program which has not noticed cannot read: so it
commits nothing more. And each object is replaced by what it is to be. What an interrupted run has done is found as it
should be by the next one.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final, cast

from msgspec import UNSET
from msgspec.structs import replace

from statepath.aside import why_aside
from statepath.backend import Backend, Blob, CommitLog, IfMatch, Span, SupportsQueries
from statepath.commit import BODIES, FLOOR_KEY, JOURNAL, PROBES, Commit, Note
from statepath.encryption import Converted
from statepath.encryption.journal import SealedCommitLog
from statepath.encryption.keyring import Keys
from statepath.encryption.objects import SealedBackend, is_of_store, is_sealed_key
from statepath.encryption.sealing import HEADER, key_of
from statepath.engine.backups import is_kept
from statepath.engine.floor import Floor, read_floor, write_floor
from statepath.engine.founding import Tell
from statepath.engine.history import next_commit
from statepath.engine.logfiles import lay
from statepath.engine.snapshot import STATE_KEY, read_meta
from statepath.engine.views import is_file_of, parse_view
from statepath.errors import (
    ConflictError,
    CorruptionError,
    HeadMoved,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from statepath.layout import is_document, is_ours
from statepath.log import PortableCommitLog
from statepath.packs import Piece

_PATIENCE: Final = 300.0
"""For how many seconds a storage is asked whether it has let go of the documents."""

_PAUSE: Final = 1.0
"""How many seconds it is left alone in between."""

_BETWEEN: Final = ".earlier.00000000T000000.000000Z"
"""Behind the key of a session log: it is kept there while its file becomes pieces, or they become a file."""

_BEGUN: Final = "begun"
"""Says the closing record of a log that is to begin anew still, and without what it holds: then there is another."""
_DONE: Final = "in place"

_LOG: Final = re.compile(rf"(logs/session_[^/]+\.log)(?:/[0-9]{{20}}|{re.escape(_BETWEEN)})?")


async def check_readable(backend: Backend, keys: Keys | None) -> None:
    """That all that is sealed can be opened, while the store itself can be opened and repaired still.

    Parameters:
        backend: the one below the sealing.
        keys: those of the store; `None`: it is plain, and nothing is to be sealed.

    Raises:
        CorruptionError: something cannot be opened.
    """
    sealed = None if keys is None else SealedBackend(backend, keys)
    async for entry in backend.list_keys(""):
        key = entry.key
        if not is_sealed_key(key) or key.startswith(BODIES) or why_aside(key) == "corrupt":
            continue  # what is not read, or deleted
        if not (is_ours(key) or is_document(key)):
            continue
        try:
            id = key_of((await backend.read(key, span=Span(0, HEADER))).data)
            if not is_of_store(key, id, () if keys is None else keys.ring.ids):
                continue
            if sealed is not None and (id is not None or _LOG.fullmatch(key)):
                await sealed.read(key)
        except NotFoundError:
            continue
        except CorruptionError as error:
            raise CorruptionError(
                f"{error}. Nothing was converted; keep aside what is damaged first: statepath repair, and delete what "
                "that leaves",
                key=key,
            ) from error
        if sealed is None and id is not None:
            raise CorruptionError(
                f"{key} is sealed, and this store is not encrypted: it is another store's. Nothing was converted; move "
                "it elsewhere first",
                key=key,
            )


@dataclass(slots=True)
class Conversion:
    """One run, in either direction, as the ring says. `backend` and `log` are those below the sealing."""

    backend: Backend
    log: CommitLog
    keys: Keys
    limit: int
    tell: Tell
    _sealed: SealedBackend = field(init=False)
    _replaced: int = 0
    _left: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._sealed = SealedBackend(self.backend, self.keys)

    @property
    def encrypts(self) -> bool:
        return self.keys.ring.converting == "encrypt"

    @property
    def _target(self) -> Backend:
        return self._sealed if self.encrypts else self.backend

    async def run(self) -> Converted:
        """
        Raises:
            ConflictError: somebody wrote to the store meanwhile.
            CorruptionError: something cannot be read, or is not what had been written.
        """
        floor = await self._floor()
        shown, end = await self._journal(floor)
        await self._queries(end)
        keys = [key async for key in self._objects(floor) if key != FLOOR_KEY]
        for number, key in enumerate(keys, 1):
            await self._object(key, floor)
            self.tell(f"{number} of {len(keys)} objects")
        await self._put_floor(replace(floor, floor=shown + 1), self._target)
        self._replaced += 1
        self.tell("reading everything back")
        await self._check(end, floor)
        if self.encrypts:
            await self.keys.converting("")
        else:
            await self.keys.destroy()
        return Converted(end, self._replaced, tuple(self._left))

    async def _objects(self, floor: Floor) -> AsyncIterator[str]:
        """What of the store is sealed as a whole, or is to be: all but the key ring, and the records of a journal."""
        self._left.clear()
        async for entry in self.backend.list_keys(""):
            key = entry.key
            if not is_sealed_key(key):
                continue
            if is_ours(key) or (is_document(key) and await self._is_documents(key, floor.store)):
                yield key
            elif not key.startswith(PROBES):
                self._left.append(key)

    async def _is_documents(self, key: str, store: str) -> bool:
        """Whether what lies where a document's file would is of this store."""
        try:
            data = (await self.backend.read(key)).data
        except NotFoundError:
            return False
        if (id := key_of(data)) is not None:
            return is_of_store(key, id, self.keys.ring.ids)
        return why_aside(key) != "" or is_file_of(store, data, key, self.limit)

    async def _read(self, key: str) -> tuple[Blob, bool]:
        """An object's content, whichever it is, and whether it is sealed."""
        blob = await self.backend.read(key)
        if key_of(blob.data) is None:
            return blob, False
        return await self._sealed.read(key), True

    async def _floor(self) -> Floor:
        try:
            _, sealed = await self._read(FLOOR_KEY)
        except NotFoundError:
            raise NotFoundError(f"there is no store at {self.backend.url}", key=self.backend.url) from None
        stored = await read_floor(self._sealed if sealed else self.backend)
        assert stored is not None  # noqa: S101 - it was read
        return stored[0]

    async def _put_floor(self, floor: Floor, backend: Backend) -> None:
        blob = await self.backend.read(FLOOR_KEY)
        await write_floor(backend, floor, blob.etag)

    async def _journal(self, floor: Floor) -> tuple[int, int]:
        """Begin the log anew behind the snapshot; the seq that this shows, and the one that the log ends with."""
        self.tell("beginning the journal anew")
        shown, commit, at = 0, "", 0
        try:
            meta = read_meta((await self._read(STATE_KEY))[0].data, STATE_KEY)
            shown, commit, at = meta.seq, meta.commit, meta.time
        except NotFoundError:
            if floor.snapshots:
                raise
        end, closed = shown, ""
        async for found in self.log.read(max(shown, floor.floor - 1)):
            if end > shown or not self._is_converted(found):
                raise await self._stopped(shown, found.last)
            end, closed = found.last, await self._closed(shown)
        if self.backend.capabilities.exclusive:
            await self.log.restart(shown)
        elif not closed or closed == _BEGUN:
            closing = partial(self._close, shown, commit, at, floor)
            if not isinstance(self.log, PortableCommitLog):  # that one is nothing but its objects
                if not closed:
                    await closing(_BEGUN)
                await self.log.restart(shown)
            end = await closing(_DONE)
        async for entry in self.backend.list_keys(JOURNAL):
            piece = Piece.of(entry.key)
            if entry.key != FLOOR_KEY and (piece is None or piece.first <= shown):
                await self.backend.delete(entry.key)
        return shown, end

    @property
    def _converted_log(self) -> CommitLog:
        return SealedCommitLog(self.log, self.keys) if self.encrypts else self.log

    def _is_converted(self, commit: Commit) -> bool:
        return (commit.sealed is not UNSET) == self.encrypts

    async def _closed(self, shown: int) -> str:
        """What the closing record says; empty: there is none behind the snapshot."""
        first = await next_commit(self.log, shown)
        if first is None or not self._is_converted(first):
            return ""
        closing = await next_commit(self._converted_log, shown)
        for transaction in closing.transactions if closing is not None else ():
            if isinstance(transaction, tuple) and isinstance(note := transaction[0], Note):
                return note.text
        return ""

    async def _close(self, shown: int, commit: str, at: int, floor: Floor, text: str) -> int:
        """Take the place behind the snapshot, so that a program that has not noticed commits nothing more: it loses
        the place to what it cannot read."""
        closing = Commit(
            first=shown + 1,
            last=shown + 1,
            id=secrets.token_hex(12),
            prev=commit,
            writer=f"{os.getpid():x}-{secrets.token_hex(6)}",
            store=floor.store,
            incarnation=floor.incarnation,
            time=datetime.fromtimestamp(max(time.time_ns() // 1000, at + 1) / 1_000_000, UTC),
            durable=shown,
            transactions=((Note("encrypted" if self.encrypts else "decrypted", text),),),
        )
        try:
            await self._converted_log.append(shown, closing)
        except (HeadMoved, CorruptionError):  # what took the place need not be one of those that are to be
            raise await self._stopped(shown, shown + 1) from None
        return closing.last

    async def _stopped(self, shown: int, late: int) -> ConflictError:
        """What to raise about a commit of somebody else. Objects are converted only behind the closing record: where
        that is not, the store is as it was again, since else what was committed could not be had."""
        if not await self._closed(shown):
            if self.encrypts:
                await self.keys.destroy()
            else:
                await self.keys.converting("")
        return _late(late)

    async def _queries(self, seq: int) -> None:
        """What a storage has of the documents to answer queries, it is to have no more.

        Raises:
            UnavailableError: it has them still.
        """
        if not (self.encrypts and self.backend.capabilities.queries):
            return
        self.tell("taking the documents out of the index for queries")
        storage = cast("SupportsQueries", self.backend)
        await storage.show(seq, ())
        until = time.monotonic() + _PATIENCE
        while not await storage.settle(seq):
            if time.monotonic() > until:
                raise UnavailableError(
                    f"{self.backend.url} still holds plain documents for queries, and has not let go of them; the "
                    "store stays closed until that is done. Run the command again; if the log tells that it took too "
                    "long, raise statement_timeout= in the state path before",
                    key=self.backend.url,
                )
            await asyncio.sleep(_PAUSE)  # what is refused for now may be told at once

    async def _object(self, key: str, floor: Floor) -> None:
        if key.startswith(BODIES):
            await self.backend.delete(key)  # the journal has no commit that names it
        elif self.backend.capabilities.append and (log := _LOG.fullmatch(key)):
            await self._log(key, log[1])
        else:
            try:
                blob, sealed = await self._read(key)
            except NotFoundError:
                return
            except CorruptionError as error:
                if why_aside(key) or is_kept(key):
                    await self.backend.delete(key)  # nobody can open it, now or later, and nothing needs it
                    return
                raise CorruptionError(
                    f"{error}; put a copy of it back, or delete it, and run the command again", key=key
                ) from error
            if self.encrypts and not sealed and self._is_view(key, blob.data, floor.store):
                await self.backend.delete(key, when=IfMatch(blob.etag))
            elif sealed != self.encrypts:
                await self._target.write(key, blob.data, when=IfMatch(blob.etag))
                self._replaced += 1

    def _is_view(self, key: str, data: bytes, store: str) -> bool:
        """Whether the object shows a document, which the snapshot has."""
        if why_aside(key) or not is_document(key):
            return False
        try:
            view = parse_view(data, key, self.limit)
        except InvalidArgumentError:
            return False
        return view.ours and view.store == store

    async def _log(self, key: str, whole: str) -> None:
        """A session log, which is a file where it can grow, and pieces where it is sealed."""
        between, piece = f"{whole}{_BETWEEN}", f"{whole}/{0:020d}"
        try:
            if self.encrypts and key == whole:
                await self._sealed.write(between, (await self._read(whole))[0].data)
                await self.backend.delete(whole)
                await self._finish_log(between, piece)
            elif not self.encrypts and key.startswith(f"{whole}/"):
                await self._sealed.write(between, await self._joined(whole))
                await self._finish_log(between, whole)
            elif key == between:
                await self._finish_log(between, piece if self.encrypts else whole)
        except NotFoundError:
            return  # it went with another key of the same log

    async def _finish_log(self, between: str, key: str) -> None:
        data = (await self._sealed.read(between)).data
        for piece in [entry.key async for entry in self.backend.list_keys(f"{key}/")]:
            await self.backend.delete(piece)
        await self._target.write(key, data)
        await self.backend.delete(between)
        self._replaced += 1

    async def _joined(self, whole: str) -> bytes:
        pieces = [entry.key async for entry in self.backend.list_keys(f"{whole}/")]
        if not pieces:
            raise NotFoundError(f"{whole} has no pieces", key=whole)
        log = bytearray()
        for piece in pieces:
            lay(log, int(piece.rpartition("/")[2]), (await self._sealed.read(piece)).data)
        return bytes(log)

    async def _check(self, seq: int, floor: Floor) -> None:
        """Nothing is left of what was, and what is can be read."""
        async for key in self._objects(floor):
            if (await self._read(key))[1] != self.encrypts:
                raise ConflictError(
                    f"{key} was written meanwhile: end every program that uses the store, and try again",
                    key=key,
                )
        async for commit in self.log.read(seq):
            raise _late(commit.last)


def _late(seq: int) -> ConflictError:
    return ConflictError(
        f"seq {seq} was committed meanwhile: end every program that uses the store, and try again"
    )
