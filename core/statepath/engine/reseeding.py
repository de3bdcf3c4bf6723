"""A replica that is emptied, to be made anew from a primary that it cannot follow.

What it had is kept aside as one snapshot, and with it the segments of the archive that this names. Then its record says
that it is unfinished, so that nobody opens or promotes it, until all of the primary's state is there. An attempt that
was interrupted can be repeated.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from statepath.aside import aside_key, why_aside
from statepath.backend import Backend, CommitLog, ETag, IfMatch, Span
from statepath.commit import FLOOR_KEY, JOURNAL
from statepath.encryption import RING_KEY, look, storage_of, unsealed
from statepath.engine.archiving import named_by
from statepath.engine.checking import keep_snapshot
from statepath.engine.floor import Floor, check_ours, read_floor, write_floor
from statepath.engine.leases import LEASES
from statepath.engine.opening import commit_log
from statepath.engine.recovery import recover
from statepath.engine.snapshot import STATE_KEY, SnapshotStream
from statepath.engine.views import is_file_of
from statepath.errors import AlreadyExistsError, CorruptionError, DivergedError, NotFoundError
from statepath.layout import is_document, is_ours
from statepath.log import PortableCommitLog
from statepath.settings import Settings

_EARLIER: Final = "earlier"


async def empty(target: Backend, settings: Settings, *, store: str, incarnation: str, primary: str) -> None:
    """Make room for a replica of this incarnation. Where nothing is, or one has been begun already, that is nothing.

    Raises:
        AlreadyExistsError: there is something else than a replica of the store.
        CorruptionError: its record is damaged, and nothing else says for sure whose it is.
        DivergedError: it was promoted.
        ConflictError: another makes it anew meanwhile.
    """
    log = commit_log(target, settings)
    try:
        stored = await read_floor(target)
    except CorruptionError as error:
        ours = Floor(store=store, incarnation=incarnation, replica_of=primary)
        stored = await _as(ours, target, log, settings, error)
    if stored is None:
        return
    floor, etag = stored
    _check_is_replica(target, floor, store)
    if floor.unfinished and floor.incarnation == incarnation:
        return
    if not floor.unfinished:
        await _keep(target, log, floor, settings)
        # Of no incarnation that is shipped: until all is gone, nobody takes it for one that has been begun.
        emptied = replace(floor, unfinished=primary, incarnation=uuid4().hex)
        etag = await write_floor(target, emptied, etag)
    portable = isinstance(unsealed(log), PortableCommitLog)
    keys = [entry.key async for entry in target.list_keys("")]
    # Those of an attempt that was interrupted, too.
    states = [key for key in keys if key.startswith(f"{STATE_KEY}.{_EARLIER}.")]
    archived = {key for one in await named_by(target, states) for key in one.keys}
    for key in keys:
        native = key.startswith(JOURNAL) and not portable
        kept = key in (FLOOR_KEY, RING_KEY, *states) or key in archived or key.startswith(LEASES)
        if not native and not kept and await _is_of_store(target, key, store, settings.max_document):
            with suppress(NotFoundError):
                found = (await storage_of(target).read(key, span=Span(0, 0))).etag
                await check_ours(target, etag)  # another may have made it anew where this one stalled
                await target.delete(key, when=IfMatch(found))
    if not portable:
        await check_ours(target, etag)
        for key in await log.restart(0):
            await target.delete(key)
    begun = Floor(store=store, incarnation=incarnation, unfinished=primary, replica_of=primary)
    await write_floor(target, begun, etag)


async def _as(
    ours: Floor, target: Backend, log: CommitLog, settings: Settings, damage: CorruptionError
) -> tuple[Floor, ETag]:
    """What stands for a replica's record that is damaged: that it is ours, its state and its log tell. A store that was
    copied by a command or promoted is of an incarnation of its own; a plain copy of the files is not, but where it has
    the documents' own files, it is no replica.

    Raises:
        CorruptionError: they tell something else, or not for sure.
    """
    _, etag = await look(target, FLOOR_KEY)
    found = await recover(target, log, limit=settings.max_document, editable=False)
    other = (found.store, found.incarnation) != (ours.store, ours.incarnation)
    if found.broken or other or await _has_documents(target, ours.store, settings.max_document):
        raise CorruptionError(
            f"{damage}, and nothing else says that {target.url} is a replica of this store; nothing was written. "
            "Mirror to a place where nothing is",
            key=FLOOR_KEY,
        ) from damage
    return ours, etag


async def _has_documents(target: Backend, store: str, limit: int) -> bool:
    """Whether there are documents' own files: a replica has none."""
    async for entry in target.list_keys(""):
        view = is_document(entry.key) and not why_aside(entry.key)
        if view and await _is_of_store(target, entry.key, store, limit):
            return True
    return False


async def _is_of_store(target: Backend, key: str, store: str, limit: int) -> bool:
    if not is_document(key) or why_aside(key):
        return is_ours(key) or is_document(key)
    try:
        return is_file_of(store, (await target.read(key)).data, key, limit)
    except (NotFoundError, CorruptionError):
        return False


def _check_is_replica(target: Backend, floor: Floor, store: str) -> None:
    if floor.store != store:
        raise AlreadyExistsError(
            f"{target.url} has another store, {floor.store}; nothing was written. Mirror to a place where nothing is",
            key=FLOOR_KEY,
        )
    if not floor.replica_of:
        raise DivergedError(
            f"{target.url} is no replica, or was promoted: it is not written over. Mirror to a place where nothing is",
            code="promoted" if floor.earlier else None,
        )


async def _keep(target: Backend, log: CommitLog, floor: Floor, settings: Settings) -> None:
    """Keep the documents that the replica has."""
    found = await recover(target, log, limit=settings.max_document, editable=False)
    stream = SnapshotStream(found.replica.cut(), store=floor.store, incarnation=floor.incarnation)
    await keep_snapshot(target, aside_key(STATE_KEY, _EARLIER), stream)
