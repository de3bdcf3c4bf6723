"""Another key: a new primary, everything stored sealed anew with it behind the saves, and the end of the old one.

Objects are sealed anew one after the other, each by compare-and-swap; what an interrupted run has done needs not be
done again. The records of the journal are not rewritten: those of an old key go when the journal is trimmed, which two
snapshots behind the last of them make possible as soon as the history need not keep it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from msgspec import UNSET

from statepath.aside import why_aside
from statepath.backend import Backend, CommitLog, Entry, Span
from statepath.encryption import RING_KEY, KeyInfo, Retired, Rotated, check_outside
from statepath.encryption.keyring import REFRESH, Ring
from statepath.encryption.objects import SealedBackend, is_of_store, is_sealed_key
from statepath.encryption.providers import MasterKey, create_key_file, read_key_file
from statepath.encryption.sealing import HEADER, key_of
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
)

Tell = Callable[[str], None]
Cover = Callable[[str], Awaitable[object]]
"""Makes two snapshots that show everything which was sealed before the key of that id."""

_STEP: Final = 100
_LONGEST_PAUSE: Final = 0.1
_BOUNDED: Final = ("logs/", "reports/")


def settled(deadline: float) -> float:
    """How many seconds a key has to be superseded before it is forgotten, where several programs write: they all know
    by then, and send nothing again that they sealed with it."""
    return max(10 * REFRESH, 2 * deadline)


async def rotate(
    backend: SealedBackend,
    log: CommitLog,
    floor: int,
    tell: Tell,
    cover: Cover,
    master: str | None = None,
    rewrapped: Callable[[str], object] = lambda _: None,
) -> Rotated:
    """Make a new primary key, unless a rotation is unfinished, seal every object with it, and `cover` the records of
    other keys, from the floor on. Who had to wait for another rotation needs no key of its own. `master` is the
    file of the master key that the ring is to have from now on, and `rewrapped` is called with it as soon as it has."""
    keys = backend.keys
    before, begun = keys.newest.id, keys.ring.rotating
    async with keys.exchanging:
        if master is not None:
            check_outside(backend, master)
            with suppress(AlreadyExistsError):
                create_key_file(master)
            await keys.rewrap(MasterKey(read_key_file(master), master))
            rewrapped(master)
        if not (begun or keys.ring.rotating) and keys.newest.id == before:
            await keys.rotate()
        done = await reseal_all(backend, tell)
        if (await _records(log, floor)).keys() - {done.key}:
            tell("making the snapshots behind which the journal can be trimmed")
            await cover(done.key)
        await keys.rotated(done.key)
        return done


async def reseal_all(backend: SealedBackend, tell: Tell) -> Rotated:
    """Seal with the primary key whatever is sealed with another one."""
    primary = (await backend.keys.primary()).id
    seen = resealed = 0
    unreadable: list[str] = []
    async for key, sealed_with in _sealed(backend.inner, backend.keys.ring):
        seen += 1
        if sealed_with != primary:
            try:
                resealed += await _reseal(backend, key)
            except CorruptionError:
                unreadable.append(key)
        if seen % _STEP == 0:
            tell(f"{seen} objects seen, {resealed} sealed anew")
    return Rotated(primary, resealed, tuple(unreadable))


async def _reseal(backend: SealedBackend, key: str) -> bool:
    """Whether there was anything to do: who replaced it meanwhile used the primary key, or is seen the next time."""
    began = time.monotonic()
    try:
        await backend.reseal(key)
    except (ConflictError, NotFoundError):
        return False
    if not backend.capabilities.remote:
        # Half of a disk's time stays for the saves, whose syncs wait behind ours.
        await asyncio.sleep(min(time.monotonic() - began, _LONGEST_PAUSE))
    return True


async def retire(
    backend: SealedBackend,
    log: CommitLog,
    floor: int,
    ids: Collection[str],
    tell: Tell,
    history: timedelta,
    deadline: float,
) -> Retired:
    """Forget these keys (none: all but the primary), as far as nothing needs them any more. The log, which is kept for
    the time of `history`, has been trimmed up to the floor just now: what is left below it, since a file has more than
    what is trimmed, is nothing. `deadline` is for how long a program repeats what it writes."""
    keys = backend.keys
    async with keys.exchanging:
        await keys.refresh()
        unreadable = (await reseal_all(backend, tell)).unreadable
        tell("looking for what the keys are needed for")
        gone: list[str] = []
        kept: dict[str, str] = {}
        _check_known(keys.ring, ids)
        infos = await describe(backend.inner, log, keys.ring, history, floor)
        wait = settled(deadline)
        for info, newer in pairwise(infos):
            if ids and info.id not in ids:
                continue
            if info.objects or info.records:
                damaged = [key for key in unreadable if await _is_sealed_with(backend.inner, key, info.id)]
                kept[info.id] = _needed(info, damaged)
            elif time.time() - newer.created < wait and await keys.has_others():
                kept[info.id] = (
                    f"it was the primary key less than {wait / 60:.0f} minutes ago, and others may write"
                )
            else:
                gone.append(info.id)
        if gone:
            await keys.remove(gone)
        return Retired(tuple(gone), kept)


def _check_known(ring: Ring, ids: Collection[str]) -> None:
    for id in ids:
        if id == ring.keys[-1].id:
            raise InvalidArgumentError(
                f"{id} is the primary key; make another one first: statepath keys rotate"
            )
        if all(key.id != id for key in ring.keys):
            raise NotFoundError(f"the key ring has no key {id}; see statepath keys list", key=RING_KEY)


async def _is_sealed_with(backend: Backend, key: str, id: str) -> bool:
    try:
        return key_of((await backend.read(key, span=Span(0, HEADER))).data) == id
    except NotFoundError:
        return False


def _needed(info: KeyInfo, damaged: Sequence[str]) -> str:
    needs = []
    if info.objects:
        remedy = (
            f" (damaged, until statepath repair keeps them aside: {', '.join(damaged)})" if damaged else ""
        )
        needs.append(f"{info.objects} objects{remedy}")
    if info.records:
        until = (
            ""
            if info.until is None
            else f" until {datetime.fromtimestamp(info.until, UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
        needs.append(f"{info.records} records of the journal, which the history keeps{until} (STATE_HISTORY)")
    return f"it is needed for {' and '.join(needs)}"


async def describe(
    backend: Backend, log: CommitLog, ring: Ring, history: timedelta, floor: int = 1
) -> list[KeyInfo]:
    """The keys of a ring, the oldest first, and how much each is needed for, where the log is kept for the time of
    `history`. Needs none of them."""
    objects = Counter([id async for _, id in _sealed(backend, ring)])
    records = await _records(log, floor)
    last = ring.keys[-1].id
    return [
        KeyInfo(
            key.id,
            key.id == last,
            key.created,
            key.by,
            objects[key.id],
            found.number if (found := records.get(key.id)) else 0,
            (found.newest + history).timestamp() if found else None,
        )
        for key in ring.keys
    ]


async def _sealed(backend: Backend, ring: Ring) -> AsyncIterator[tuple[str, str]]:
    """Every sealed object of the store, and the key that it is sealed with. What is kept aside because nobody can open
    it is not one."""
    ids = ring.ids
    async for key in _keys(backend):
        if is_sealed_key(key) and why_aside(key) != "corrupt":
            try:
                id = key_of((await backend.read(key, span=Span(0, HEADER))).data)
            except NotFoundError:
                continue
            if id is not None and is_of_store(key, id, ids):
                yield key, id


async def _keys(backend: Backend) -> AsyncIterator[str]:
    """Every object's key: those of session logs and reports at last, and in the order in which they were written, so
    that the bounds for them find it again in the times at which they are sealed anew."""
    bounded: list[Entry] = []
    async for entry in backend.list_keys(""):
        if entry.key.startswith(_BOUNDED):
            bounded.append(entry)
        else:
            yield entry.key
    # A time that the storage does not know counts as now.
    for entry in sorted(bounded, key=lambda entry: (not entry.modified, entry.modified)):
        yield entry.key


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of one key: how many, and the time of the newest one."""

    number: int
    newest: datetime


async def _records(log: CommitLog, floor: int) -> dict[str, _Records]:
    """The records of the journal from the floor on, by the key that they are sealed with."""
    after = max(0, floor - 1)
    while True:
        found: dict[str, _Records] = {}
        try:
            async for commit in log.read(after):
                if commit.sealed is not UNSET:
                    before = found.get(commit.sealed.key)
                    number = before.number + 1 if before else 1
                    found[commit.sealed.key] = _Records(number, commit.time)
        except HistoryTrimmedError as error:
            after = max(after + 1, error.floor - 1)
            continue
        return found
