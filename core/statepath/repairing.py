"""Repair: what opening a store puts right, and what it does not look at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from statepath.discovery import connect
from statepath.engine.mending import mend, needs_new_log, remedy
from statepath.engine.opening import open_engine
from statepath.engine.verification import Finding
from statepath.errors import AccessDeniedError, UnavailableError, UnsupportedError
from statepath.events import CorruptionDetected, DocumentRecovered, Event, Events
from statepath.opening import open as open_store
from statepath.settings import Settings
from statepath.store import Store

__all__ = ["Repair", "repair"]


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair found and did.

    Attributes:
        found: what was damaged, or would mend itself.
        remedies: what is done about each damage of `found`, in words, in the same order.
        kept: where damaged objects are now.
        recovered: documents that were read from their own files, since nothing else had them.
        left: what is damaged still.
        seq: the head, afterwards.
        lost: segments of the archive that could not be written again. The archive goes on without their documents.
    """

    found: tuple[Finding, ...]
    remedies: tuple[str, ...]
    kept: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()
    left: tuple[Finding, ...] = ()
    seq: int = 0
    lost: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything is whole again, and nothing was given up."""
        return not (self.left or self.lost)

    @property
    def damaged(self) -> bool:
        return any(finding.severity == "damage" for finding in self.found)


async def repair(
    path: str | os.PathLike[str] | None = None,
    *,
    dry_run: bool = False,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Repair:
    """Rebuild what can be rebuilt, and keep aside what was damaged. Of a sound store nothing is changed.

    Parameters:
        dry_run: only tell what would be done.

    Raises:
        NotFoundError: there is no store.
        StoreLockedError: another process writes to it; end that first.
        AccessDeniedError, UnavailableError, ConfigurationError, UnsupportedError: something cannot be read, and may be
            whole; nothing is given up.
    """
    used = settings if settings is not None else Settings.load(path)
    state_path = used.path if path is None else path
    async with open_store(state_path, readonly=True, settings=used) as reader:
        found = await everything_wrong_with(reader)
        seq = reader.seq
    damage = _damage(found)
    plan = tuple(remedy(one.key) for one in damage)
    if dry_run or not found:
        return Repair(found, plan, left=tuple(damage), seq=seq)
    told: list[Event] = []
    bus = Events() if events is None else events
    stop = bus.on(Event, told.append)
    backend = await connect(state_path, deadline=used.deadline)
    try:
        engine = await open_engine(backend, used, bus, anew=needs_new_log(found), alone=True)
        async with Store(engine, owns_events=events is None) as store:
            mended = await mend(engine, found)
            left = _damage(await store.verify())
            if mended.barred is not None and mended.barred.key not in {finding.key for finding in left}:
                left.append(mended.barred)
            seq = store.seq
    finally:
        stop()
    kept = [event.kept_as for event in told if isinstance(event, CorruptionDetected) and event.kept_as]
    recovered = tuple(event.key for event in told if isinstance(event, DocumentRecovered))
    return Repair(found, plan, tuple(sorted((*mended.kept, *kept))), recovered, tuple(left), seq, mended.lost)


def _damage(found: Iterable[Finding]) -> list[Finding]:
    """What is damaged.

    Raises:
        AccessDeniedError, UnavailableError, UnsupportedError: something could not be read; it may be whole, and is not
            given up.
    """
    for one in found:
        if one.severity == "newer":
            raise UnsupportedError(one.reason, key=one.key, code="newer_format")
        if one.unread:
            raise (AccessDeniedError if one.severity == "denied" else UnavailableError)(
                one.reason, key=one.key
            )
    return [one for one in found if one.severity == "damage"]


async def everything_wrong_with(store: Store) -> tuple[Finding, ...]:
    """What verification finds, and what was noticed when the store was opened."""
    found = await store.verify()
    known = {finding.reason for finding in found}
    known |= {finding.key for finding in found if finding.severity == "damage"}
    noticed = [
        Finding(damage.key, damage.reason)
        for damage in store.damage
        if damage.reason not in known and damage.key not in known
    ]
    return (*noticed, *found)
