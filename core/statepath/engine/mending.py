"""Mending what verification finds and opening the store does not: opening reads no more than it needs.

What is damaged is kept aside before it is replaced. What is in nobody's hands any more is left to the person: a report
or a log that the history does not reach back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from statepath.aside import aside_key, why_aside
from statepath.backend import Backend, IfMatch
from statepath.commit import BODIES, FLOOR_KEY, JOURNAL, FileChange, WriteLog
from statepath.encryption import look, storage_of
from statepath.engine.adoption import examine
from statepath.engine.archiving import ARCHIVE, Segment, rebuild
from statepath.engine.backups import is_kept, reached
from statepath.engine.engine import Engine
from statepath.engine.history import transactions
from statepath.engine.ids import log_key
from statepath.engine.lagging import find_wrong
from statepath.engine.leases import LEASES
from statepath.engine.logfiles import log_pieces, read_log
from statepath.engine.migration import is_migration_log
from statepath.engine.opening import put_aside
from statepath.engine.replay import file_key
from statepath.engine.snapshot import STATE_KEY
from statepath.engine.verification import Finding
from statepath.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
)


def needs_new_log(findings: Sequence[Finding]) -> bool:
    """Whether the log cannot be continued as it is: it has a damage that lies behind the snapshot."""
    return any(
        finding.key.startswith((JOURNAL, BODIES)) and finding.key != FLOOR_KEY
        for finding in findings
        if finding.severity == "damage"
    )


def remedy(key: str) -> str:
    """What is done about damage of the key, in words."""
    if key == STATE_KEY:
        return "is kept aside, and written again from the newest backup and the journal"
    if is_kept(key) or is_migration_log(key) or why_aside(key):
        return "is kept aside"
    if key.startswith(LEASES):
        return "is removed: it does not say any more who has the lease"
    if key == FLOOR_KEY:
        return "is kept aside, and written again"
    if key.startswith((JOURNAL, BODIES)):
        return "the journal is kept aside and begins anew with the state of now; the history of before is given up"
    if key.startswith("logs/"):
        return "is kept aside, and what the history has of it is written again"
    if key.startswith("reports/"):
        return "is kept aside, and written again if the history has it"
    if key.startswith(ARCHIVE):
        return (
            "is kept aside, and written again if the history reaches back to when it was archived; else the archive "
            "gives its documents up, unless a copy of it is put back before"
        )
    return "its file is written again from the document"


@dataclass(frozen=True, slots=True)
class Mended:
    """The keys under which damaged objects were kept, the segments of the archive that were given up, and what keeps a
    file from being written."""

    kept: tuple[str, ...]
    lost: tuple[str, ...]
    barred: Finding | None


async def mend(engine: Engine, findings: Sequence[Finding]) -> Mended:
    """Put right what can be."""
    damaged = [finding.key for finding in findings if finding.severity == "damage"]
    kept = [
        await put_aside(engine.backend, key, "corrupt")
        for key in damaged
        if is_kept(key) or is_migration_log(key) or why_aside(key) or key.startswith(("reports/", ARCHIVE))
    ]
    for key in damaged:
        if key.startswith(LEASES):
            await _remove_lease(engine.backend, key)
    lost: tuple[Segment, ...] = ()
    if any(key.startswith(ARCHIVE) for key in damaged):
        lost = await rebuild(engine, frozenset(damaged))
    # Of one that is given up, the part that is sound is somebody's last resort.
    for segment in lost:
        kept += [await put_aside(engine.backend, key, "corrupt") for key in segment.keys]
    if any(key.startswith(("logs/", "reports/")) for key in damaged):
        kept += await _files(engine, frozenset(damaged))
    if engine.views is not None and not engine.backend.capabilities.editable and engine.views.documents:
        limit = engine.settings.max_document
        async for one in find_wrong(engine.backend, engine.replica, engine.store, limit=limit):
            if one.unread is not None:
                raise one.unread
            if one.reason:
                kept.append(await put_aside(engine.backend, one.key, "corrupt"))
            engine.views.mark(one.collection, one.id)
    elif engine.views is not None and engine.backend.capabilities.editable:
        examined = await examine(
            engine.backend, engine.replica, engine.store, limit=engine.settings.max_document, thorough=True
        )
        for collection, id in examined.altered:
            engine.views.mark(collection, id)
    barred = None
    try:
        await engine.flush()
    except (AccessDeniedError, InvalidArgumentError) as error:
        # A folder or a link where a file belongs is a person's, and in nothing else's way.
        barred = Finding(error.key or "", str(error))
    await engine.snapshot()
    if engine.replica.head and not await reached(engine.backend, engine.record):
        await engine.backup()
    return Mended(tuple(key for key in kept if key), tuple(segment.key for segment in lost), barred)


async def _remove_lease(backend: Backend, key: str) -> None:
    """Remove what cannot be opened in the place of a lease: kept aside it would be one of another name."""
    with suppress(NotFoundError, ConflictError):
        stored, etag = await look(backend, key)
        if stored is None:
            await backend.delete(key, when=IfMatch(etag))


async def _files(engine: Engine, damaged: frozenset[str]) -> list[str]:
    """Write again what the history has of logs and reports; where the logs were kept."""
    views = engine.views
    if views is None:
        return []
    changes = [
        change
        async for _, _, transaction in transactions(engine.backend, engine.log, engine.floor - 1)
        for change in transaction
        if isinstance(change, FileChange) and file_key(change) in damaged
    ]
    kept: list[str] = []
    begins: dict[str, int] = {}
    for change in changes:
        if isinstance(change, WriteLog):
            begins.setdefault(change.id, change.offset)
    for id, offset in begins.items():
        with suppress(NotFoundError):
            kept += await _keep_log(engine.backend, id)
        await _remove_pieces(engine.backend, id, offset)
    for change in changes:
        views.mark_file(change)
    return kept


async def _keep_log(backend: Backend, id: str) -> list[str]:
    """Keep a session log aside as one object; one that cannot be opened as the objects that it consists of."""
    key = log_key(id)
    try:
        log = await read_log(backend, id)
    except CorruptionError:
        stored = storage_of(backend)
        parts = [(await stored.read(piece)).data for piece, _ in await log_pieces(stored, id)]
    else:
        stored, parts = backend, [log]
    kept: list[str] = []
    for part in parts:
        kept.append(aside_key(key, "corrupt"))
        await stored.write(kept[-1], part)
    return kept


async def _remove_pieces(backend: Backend, id: str, offset: int) -> None:
    """Remove the objects of a session log from there on: they are not always written again under the same names."""
    for key, begin in await log_pieces(backend, id):
        if begin >= offset:
            await backend.delete(key)
