"""Recovering: what `recovery` found to be left of a store is made its state, in the log and on the storage.

Each step may be the last one before a crash: the next opener does it again.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import suppress
from datetime import UTC, datetime

from statepath.commit import Commit, Note
from statepath.encryption import unsealed
from statepath.engine.archiving import leave_out_lost
from statepath.engine.backups import reached
from statepath.engine.engine import Engine
from statepath.engine.floor import read_floor
from statepath.engine.history import way_back
from statepath.engine.recovery import Recovered, saved_since
from statepath.engine.replay import RECOVERY
from statepath.engine.snapshot import STATE_KEY
from statepath.errors import ConflictError, DivergedError, HeadMoved, StateError
from statepath.events import BackupError, StateRestored
from statepath.log import PortableCommitLog

logger = logging.getLogger("statepath.opening")


class Outrun(Exception):  # noqa: N818 - a signal, never seen by callers
    """Another writer founded or recovered the store, or saved, meanwhile: what there is has to be read again. `closed`:
    writers of before have lost their place in the log, and commit nothing more."""

    def __init__(self, *, closed: bool = False) -> None:
        super().__init__()
        self.closed = closed


async def take_next_place(engine: Engine, found: Recovered, log: PortableCommitLog, *, closed: bool) -> None:
    """Begin the incarnation behind all that the log has given away: a writer that has not noticed meets it there.
    What lies before it is below the floor from then on, and in such a writer's way. `closed`: an earlier attempt has
    taken a place there.

    Raises:
        Outrun: another writer was first, or may have been.
    """
    replica, floor = engine.replica, found.floor
    known = max(replica.head, floor[0].floor - 1, floor[0].packed) if floor else replica.head
    while True:
        last, id = await log.newest()
        first = max(last, known) + 1
        commit = Commit(
            first=first,
            last=first,
            id=secrets.token_hex(12),
            prev=id,
            writer=RECOVERY,
            store=engine.store,
            incarnation=engine.incarnation,
            time=datetime.fromtimestamp(replica.time / 1_000_000, UTC),
            durable=0,
            transactions=((_recovered(found),),),
        )
        with suppress(HeadMoved):
            await engine.log.append(first - 1, commit)
            break
    if last > known and not closed:
        raise Outrun(closed=True)  # it may have been committed since the log was read
    if await saved_since(engine.backend, found):
        raise Outrun  # another one was done; one that is not yet has lost its next place, and acknowledges nothing
    replica.head, replica.commit = first, commit.id


async def begin_anew(engine: Engine, found: Recovered) -> None:
    """Save the state, and have the log begin anew behind it.

    Raises:
        Outrun: another writer did so meanwhile.
    """
    try:
        await engine.snapshot_as_is()
    except (ConflictError, DivergedError) as error:
        raise Outrun from error
    if isinstance(log := unsealed(engine.log), PortableCommitLog):
        await log.keep(found.floor[0].floor if found.floor else 1, engine.replica.head)
        return
    stored = await read_floor(engine.backend)
    if stored is None or stored[0].incarnation != engine.incarnation:
        raise Outrun  # the log is that of another recovery
    await engine.log.restart(engine.replica.head)
    if engine.backend.capabilities.exclusive:
        return
    try:
        await engine.commit([_recovered(found)])
    except DivergedError as error:
        raise Outrun from error  # it was not there yet when a writer that has not noticed took the place


async def cover(engine: Engine) -> None:
    """Where the log begins right behind its first snapshot, keep that one twice: nothing else has what it shows.

    Raises:
        Outrun: another writer has saved meanwhile.
    """
    record = engine.record
    shown = [mark.seq for mark in record.snapshots if mark.seq >= record.floor - 1]
    begun = bool(shown) and shown[0] == record.floor - 1
    if engine.elsewhere is not None or not begun or await reached(engine.backend, record):
        return
    try:
        await engine.backup()
    except (ConflictError, DivergedError) as error:
        raise Outrun from error
    except StateError as error:  # the next one to open the store tries again
        logger.warning("the backup could not be written: %s", error, extra={"code": error.code})
        engine.events.emit(BackupError(error))


async def restore_replaced(engine: Engine, found: Recovered) -> None:
    """Where an operator put an older snapshot in the place of `state.json`, that is a restore, which can be undone. It
    happens once, whoever opens the store: the note says which one it is."""
    if found.restore is None:
        return
    meta, then = found.restore
    replaced = f"{STATE_KEY} of seq {found.marks[-1].seq}"
    note = Note("restored", f"{replaced} was replaced by the snapshot of seq {meta.seq}")
    await leave_out_lost(engine, then)
    if seq := await engine.decide(lambda now: () if note in found.beside else way_back(now, then, note)):
        undo = f"statepath restore --at {seq - 1}"
        logger.warning(
            "%s was replaced by the snapshot of seq %d: restored as seq %d; to undo it: %s",
            STATE_KEY,
            meta.seq,
            seq,
            undo,
        )
        engine.events.emit(StateRestored(meta.seq, seq, undo))
    await engine.snapshot()


def _recovered(found: Recovered) -> Note:
    return Note("recovered", f"from {found.source}")
