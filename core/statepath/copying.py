"""A store taken to another place: from a store, or from a portable backup, to any backend."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from statepath.arguments import path_text
from statepath.discovery import check_apart, connect
from statepath.engine.filekeys import file_key_of
from statepath.engine.founding import Founded, silent
from statepath.engine.opening import found, open_engine
from statepath.engine.origin import present
from statepath.engine.portable import MAX_BYTES, open_portable
from statepath.errors import NotFoundError
from statepath.events import Events, StoreCopied
from statepath.settings import Settings

__all__ = ["Copied", "copy", "import_backup"]

Path = str | os.PathLike[str]
Progress = Callable[[str], None]
"""Is told in words what is being done."""


@dataclass(frozen=True, slots=True)
class Copied:
    """A store that was made of another one.

    Attributes:
        target: where it is.
        seq: its head; the store that it was made of had that seq, too.
        incarnation: its own, so that the two histories are told apart from here on.
        commits: how much of the history went with it.
    """

    target: str
    seq: int
    incarnation: str
    documents: int
    logs: int
    reports: int
    commits: int


async def copy(
    source: Path,
    target: Path,
    *,
    history: bool = False,
    progress: Progress = silent,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Copied:
    """Make a store at `target`, where nothing is yet, that holds what the one at `source` holds now: documents, session
    logs and reports. Everything is read back and compared. The source may be in use; it is only read.

    A copy that was interrupted is finished by the same call: what is there already is not written again.

    Parameters:
        history: the commits that the log has and the backups, too: what `history` and `restore` need.

    Raises:
        NotFoundError: there is no store at `source`.
        AlreadyExistsError: there is something at `target`.
        InvalidArgumentError: both are one place.
        UnsupportedError: the source is a directory of the original server, and no store yet (`not_upgraded`).
        CorruptionError: what it is read from is damaged, or what was written is not what was read back.
    """
    check_apart(source, target)
    used = settings if settings is not None else Settings.load(source)
    bus = Events() if events is None else events
    stored = await connect(source, readonly=True, deadline=used.deadline)
    try:
        engine = await open_engine(stored, used, bus, readonly=True)
    except NotFoundError:
        raise NotFoundError(f"there is no store at {stored.url} to be copied", key=stored.url) from None
    try:
        progress(f"reading {engine.backend.url}")
        origin = await present(engine, history=history)
        backend = await connect(target, deadline=used.deadline)
        founded = await found(origin, backend, used, progress)
    finally:
        await engine.close()
    return _told(backend.url, founded, bus)


async def import_backup(
    file: Path,
    target: Path | None = None,
    *,
    limit: int = MAX_BYTES,
    progress: Progress = silent,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Copied:
    """Make a store at `target`, where nothing is yet, of what `Store.export` wrote. The file is not trusted: all of it
    is checked before anything is written.

    Parameters:
        target: default: `STATE_PATH`, else `./coding-agent-state`.
        limit: the most bytes that it may hold, unpacked.

    Raises:
        CorruptionError: the file was cut short or altered, or holds what no store has.
        InvalidArgumentError: it holds more than the limit.
        AlreadyExistsError: there is something at `target`.
    """
    path = path_text(file, "the file to import")
    used = settings if settings is not None else Settings.load(target)
    key = await file_key_of(path, used)
    with open_portable(path, limit=limit, key=key) as portable:
        progress("checking the file")
        await asyncio.to_thread(portable.load)
        backend = await connect(used.path if target is None else target, deadline=used.deadline)
        founded = await found(portable, backend, used, progress)
    return _told(backend.url, founded, Events() if events is None else events)


def _told(target: str, founded: Founded, events: Events) -> Copied:
    events.emit(StoreCopied(target, founded.seq, founded.documents))
    return Copied(
        target,
        founded.seq,
        founded.incarnation,
        founded.documents,
        founded.logs,
        founded.reports,
        founded.commits,
    )
