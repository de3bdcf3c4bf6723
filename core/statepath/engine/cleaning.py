"""What nobody needs any more: objects that were kept aside long ago, and what the archive wrote and nothing names."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from statepath.aside import time_aside, why_aside
from statepath.backend import ALWAYS, Entry, ETag, IfMatch, Span
from statepath.commit import PROBES
from statepath.encryption import storage_of
from statepath.engine.aging import earliest_now, unhurried_now
from statepath.engine.archiving import ARCHIVE, named, segments
from statepath.engine.bounding import bound_files
from statepath.engine.breaking import end_epoch, end_left_epochs
from statepath.engine.engine import Engine
from statepath.engine.leases import Hold, finish
from statepath.engine.replica import Entry as Member
from statepath.engine.snapshot import LEASE_MEMBERS
from statepath.errors import ConflictError, NotFoundError
from statepath.layout import is_ours

_BEFORE_ROLLBACK: Final = re.compile(r"state\.before-rollback\..+\.json")

_PROBE: Final = re.compile(rf"{PROBES}[0-9a-f]{{24}}")
"""What opening a store tries a storage with; a collection may have that name, too."""

_PROBED: Final = 24 * 3600.0
"""Seconds: longer than any probe takes. What is older was left by a process that ended meanwhile."""

_SILENT: Final = 24 * 3600.0
"""Seconds beyond its time to live: the holder of such a lease is dead, and nobody asks for it."""

_SHOWS_ITSELF: Final = 6.0
"""Seconds: within them a holder gives a sign of life whose lease has the usual time to live, or a shorter one."""

_RUN: Final = 3600.0
"""Seconds: longer than an archive run, which names what it wrote at its end, and than two clocks are apart."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was, or would be, removed: the keys with their bytes."""

    objects: tuple[tuple[str, int], ...]

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.objects)


async def clean(engine: Engine, older_than: timedelta, *, dry_run: bool) -> Cleaned:
    """Remove what was kept aside before, what an archive run wrote before and did not finish, what a probe of the
    storage left a day ago, leases whose holders are silent for that long, what the state has of leases that nobody
    holds, and the session logs and reports that are beyond their bounds.

    A segment that any state names to which there is a way back, by the history or by a backup, stays; so does one that
    is less than an hour old, since an archive run may be about to name it.
    """
    now = unhurried_now() if engine.readonly else await earliest_now(engine.backend)
    until = now - older_than.total_seconds()
    settled = min(until, now - _RUN)

    def stays(entry: Entry) -> bool:
        # After a restart of the machine a folder does not tell times (0): what may be young stays.
        modified = max(entry.modified or now, time_aside(entry.key))
        if _PROBE.fullmatch(entry.key):
            return modified >= now - _PROBED
        return modified >= (settled if entry.key.startswith(ARCHIVE) else until)

    backend = engine.backend
    # What is sealed and cannot be opened can be removed, too.
    stored = storage_of(backend)
    live = {key for segment in segments(engine.replica) for key in segment.keys}
    found: list[tuple[str, int]] = []
    unnamed: list[tuple[str, int]] = []
    async for entry in engine.backend.list_keys(""):
        if stays(entry):
            continue
        if why_aside(entry.key) or _BEFORE_ROLLBACK.fullmatch(entry.key) or _PROBE.fullmatch(entry.key):
            found.append((entry.key, entry.size))
        elif entry.key.startswith(ARCHIVE) and is_ours(entry.key) and entry.key not in live:
            unnamed.append((entry.key, entry.size))
    versions: dict[str, ETag] = {}
    for key, _ in unnamed:
        with suppress(NotFoundError):
            versions[key] = (await stored.read(key, span=Span(0, 0))).etag
    if unnamed:
        kept = {key for segment in await named(engine) for key in segment.keys}
        found += [(key, size) for key, size in unnamed if key in versions and key not in kept]
    if not dry_run:
        removed: list[tuple[str, int]] = []
        for key, size in found:
            when = IfMatch(versions[key]) if key in versions else ALWAYS
            # An archive run may just have taken up what an earlier one left.
            async for entry in engine.backend.list_keys(key):
                if entry.key == key and not stays(entry):
                    with suppress(ConflictError):
                        await stored.delete(key, when=when)
                        removed.append((key, size))
                break
        found = removed
    found += await _silent_leases(engine, dry_run=dry_run)
    found += await end_left_epochs(engine, dry_run=dry_run)
    found += [each for one in await bound_files(engine, dry_run=dry_run) for each in one.objects]
    return Cleaned(tuple(sorted(found)))


async def _silent_leases(engine: Engine, *, dry_run: bool) -> list[tuple[str, int]]:
    """Give back what killed holders had."""
    if not dry_run:
        await engine.catch_up()
    # Before the leases are looked at: whoever takes one meanwhile has an epoch of its own.
    epochs = dict(engine.replica.members)
    silent = await engine.leases.silent(_SILENT)
    if silent and not dry_run:
        # Clocks may be wrong: who lives after all replaces its lease meanwhile.
        await asyncio.sleep(max(min(hold.holder.ttl, _SHOWS_ITSELF) for _, hold in silent))
        silent = [
            (entry, hold)
            for entry, hold in silent
            if await finish(_give_back(engine, hold, epochs.get(f"{LEASE_MEMBERS}{hold.holder.name}")))
        ]
    return [(entry.key, entry.size) for entry, _ in silent]


async def _give_back(engine: Engine, hold: Hold, before: Member | None) -> bool:
    """Take the lease away if there was no sign of life since; whether that was so."""
    # First the lease: a holder that lives after all keeps its epoch with it.
    if not await engine.leases.remove_as_seen(hold):
        return False
    await end_epoch(engine, hold.holder, before)
    return True
