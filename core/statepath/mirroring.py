"""Replicas: a store's commits shipped to another place as they happen, and a replica that takes the primary's place."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from statepath.discovery import check_apart, connect
from statepath.engine import promoting
from statepath.engine.floor import read_floor
from statepath.engine.founding import silent
from statepath.engine.mirror import Mirror
from statepath.engine.opening import attach, commit_log
from statepath.engine.primary import DistantPrimary, read_position
from statepath.engine.recovery import check_finished
from statepath.errors import NotFoundError
from statepath.events import Events, StorePromoted
from statepath.settings import Settings
from statepath.url import StateURL

__all__ = ["Mirrored", "Promoted", "mirror", "promote", "reached"]

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A replica at `target` that has everything up to the seq."""

    target: str
    seq: int


@dataclass(frozen=True, slots=True)
class Promoted:
    """A replica that is a store of its own now.

    Attributes:
        url: where it is; incarnation: its own, from now on.
        primary: where the primary was that it had been a replica of.
        seq: the last one that it got from there, and `time` that of its commit. What the primary acknowledged later is
            not here.
    """

    url: str
    store: str
    incarnation: str
    primary: str
    seq: int
    time: datetime | None


async def mirror(
    source: Path,
    target: Path,
    *,
    once: bool = False,
    reseed: bool = False,
    progress: Callable[[str], None] = silent,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Mirrored:
    """Make a replica of the store at `source`, or bring it up to date, and then ship each commit as it happens, until
    this is cancelled. The source may be in use; it is only read.

    Parameters:
        target: a place where nothing is yet, or a replica of that store. It may be interrupted at any time: the next
            call goes on.
        once: only up to where the source is now. Then a replica that does not answer is an error; without it, it is
            tried again, and told by `mirror:failed`.
        reseed: make the replica at `target` anew from the source, where it cannot follow that any more: the source
            is in another incarnation, or has not what the replica has. The documents of the replica are kept aside
            there, as `state.json.earlier.<UTC time>`; its logs, reports and history are not. What is no replica of the
            store, or was promoted, is refused still.

    Raises:
        NotFoundError: there is no store at `source`.
        InvalidArgumentError: both are one place, or one lies within the other.
        AlreadyExistsError: there is something else at `target`.
        DivergedError: the replica was promoted, or the two have parted otherwise. Nothing is written there.
    """
    check_apart(source, target)
    used = settings if settings is not None else Settings.load(source)
    primary = await DistantPrimary.open(partial(connect, source, readonly=True, deadline=used.deadline), used)
    try:
        head = await primary.head()
        bus = Events() if events is None else events
        place = StateURL.parse(os.fspath(target)).redacted()
        mirror = Mirror(primary, place, partial(connect, target), used, bus, progress, reseed=reseed)
        await mirror.run(head.seq if once else None)
        return Mirrored(place, mirror.lag.seq or 0)
    finally:
        await primary.close()


async def reached(target: Path, *, settings: Settings | None = None) -> Mirrored:
    """How far the replica is, by its own log. It is only read.

    Raises:
        NotFoundError: there is none yet.
        StateError: it does not answer, or is not finished.
    """
    used = settings if settings is not None else Settings.load()
    backend = await attach(await connect(target, readonly=True, deadline=used.deadline), used, readonly=True)
    try:
        stored = await read_floor(backend)
        if stored is None:
            raise NotFoundError(f"there is no replica at {backend.url} yet", key=backend.url)
        check_finished(backend, stored[0])
        position = await read_position(backend, commit_log(backend, used), stored[0])
        return Mirrored(StateURL.parse(os.fspath(target)).redacted(), position.seq)
    finally:
        await backend.close()


async def promote(
    path: Path | None = None, *, settings: Settings | None = None, events: Events | None = None
) -> Promoted:
    """Make the replica a store that can be written: when the primary is lost. An attempt that was interrupted can be
    repeated. A mirror that still ships to it stops with `DivergedError`.

    Raises:
        NotFoundError: there is nothing.
        InvalidArgumentError: it is no replica.
        StoreLockedError: the mirror still runs, and the replica takes one writer only; stop it first.
    """
    used = settings if settings is not None else Settings.load(path)
    backend = await attach(await connect(used.path if path is None else path, deadline=used.deadline), used)
    try:
        made = await promoting.promote(backend, used)
    finally:
        await backend.close()
    if events is not None:
        events.emit(StorePromoted(backend.url, made.shipped, made.primary))
    at = datetime.fromtimestamp(made.at / 1_000_000, UTC) if made.at else None
    return Promoted(backend.url, made.store, made.incarnation, made.primary, made.shipped, at)
