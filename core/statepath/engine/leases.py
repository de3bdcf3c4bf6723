"""Leases: a name that one holder has at a time, kept alive by heartbeats outside the log.

A lease is the object `leases/<name>`. Whoever creates it has the lease, and replaces it again and again, by
compare-and-swap, to say that it lives. Who waits for it takes it over when it was not replaced for its time to live, on
the waiter's own clock: no clock of another machine is believed. All this is for liveness only: what a holder may still
change is decided by the log, where each take-over is a commit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from statepath.backend import IF_ABSENT, Backend, Entry, ETag, IfMatch, When
from statepath.clock import clock
from statepath.commit import seal, unseal
from statepath.encryption import look
from statepath.engine.ids import decode_id, encode_id
from statepath.engine.snapshot import STATE_KEY
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    LeaseHeldError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from statepath.together import together

logger = logging.getLogger("statepath.leases")

LEASES: Final = "leases/"
MAINTAINER: Final = "maintainer"
"""The lease of the one handle that saves by time, and trims."""

T = TypeVar("T")

_UNKNOWN_TTL: Final = 60.0
_ATTEMPTS: Final = 3
GIVING_BACK: Final = 2.0
"""For how many seconds at most whoever stops waiting for a lease, or giving it back, is held up."""

_going_on: Final[set[asyncio.Task[Any]]] = set()
"""What nobody may wait for any more, and is not to be forgotten before its end."""

_PARALLEL: Final = 16
_MANY: Final = 1000
_FORGOTTEN: Final = 3600.0
"""Of more than so many leases of others, those are forgotten that nobody asked for in so many seconds: who asks more
often finds out that a holder is dead, whatever else is asked for."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What a lease's object says: who holds it, since when by its own clock, and for how many seconds it is valid
    without a sign of life. `epoch` is the seq of the commit by which it was taken (0: none). `token` is random."""

    name: str
    pid: int
    host: str
    program: str
    since: datetime
    ttl: float
    epoch: int = 0
    token: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What it says of itself from beginning to end."""
        told = msgspec.to_builtins(self)
        return {name: told[name] for name in ("name", "pid", "host", "program", "since", "ttl")}

    def is_still(self, seen: Holder) -> bool:
        """Whether it is the one that was seen, however often it has given a sign of life since."""
        return (self.pid, self.host, self.since) == (seen.pid, seen.host, seen.since)

    def __str__(self) -> str:
        return (
            f"{self.program or 'a process'} (pid {self.pid} on {self.host}, since {self.since.isoformat()})"
        )


_decode: Final = msgspec.json.Decoder(Holder).decode


@dataclass(slots=True)
class Hold:
    """A lease that this process holds, as far as it knows. `renewed` is when the last sign of life was begun, on a
    clock that counts sleep."""

    holder: Holder
    etag: ETag
    renewed: float
    sent: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        return lease_key(self.holder.name)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Those that may stand there while it is ours: also that of the last one, which a rotation of keys stores
        anew."""
        return (self.holder.token, *self.sent)

    @property
    def left(self) -> float:
        """For how many seconds nobody else can have it."""
        return self.holder.ttl - (clock() - self.renewed)

    @property
    def valid(self) -> bool:
        return self.left > 0


class _Observed(NamedTuple):
    """A lease that somebody else has: how it is, since when, and when that was looked at last."""

    etag: ETag
    since: float
    looked: float


class Leases:
    """The leases of one store, as one handle takes and observes them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._observed: dict[str, _Observed] = {}

    async def take(self, name: str, ttl: float) -> Hold | Holder:
        """Try to get the lease once. The holder, if somebody else has it; `take` observes it then, so that a later call
        finds out that it does not live any more. Who stops waiting for it does not have it."""
        taking = asyncio.ensure_future(self._take(name, ttl))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # It may have arrived: then nobody would have it until it expires.
            await see_off(self._drop_what_is_taken(taking))
            raise

    async def _drop_what_is_taken(self, taking: asyncio.Future[Hold | Holder]) -> None:
        if isinstance(taken := await taking, Hold):
            await self.drop(taken)

    async def _take(self, name: str, ttl: float) -> Hold | Holder:
        key = lease_key(name)
        found = await self._read(key)
        if found is None:
            return await self._put(_myself(name, ttl), IF_ABSENT)
        holder, etag = found
        if (silent := self._observe(key, etag)) is None or silent < holder.ttl:
            return holder
        logger.warning("%s gives no sign of life: its lease %s is taken over", holder, name)
        return await self._put(_myself(name, ttl), IfMatch(etag))

    def _observe(self, key: str, etag: ETag) -> float | None:
        """For how many seconds the lease is known to be as it is; `None`: it is new."""
        now = clock()
        before = self._observed.pop(key, None)
        since = before.since if before is not None and before.etag == etag else None
        self._observed[key] = _Observed(etag, now if since is None else since, now)
        while len(self._observed) > _MANY:
            first = next(iter(self._observed))
            if now - self._observed[first].looked < _FORGOTTEN:
                break
            del self._observed[first]
        return None if since is None else now - since

    async def _put(self, holder: Holder, when: When) -> Hold | Holder:
        begun = clock()
        key = lease_key(holder.name)
        try:
            etag = await self._backend.write(key, bytes(seal(holder)), when=when)
        except (AlreadyExistsError, ConflictError, UnavailableError) as error:
            found = await self._read(key)
            if found is not None and found[0].token == holder.token:
                etag = found[1]  # it had arrived, and its answer not
            elif isinstance(error, UnavailableError):
                raise
            else:
                return await self._take(holder.name, holder.ttl) if found is None else found[0]
        self._observed.pop(key, None)
        return Hold(holder, etag, begun)

    async def renew(self, hold: Hold, *, epoch: int | None = None) -> bool:
        """Give a sign of life; whether the lease is still held."""
        begun = clock()
        token = secrets.token_hex(8)
        holder = msgspec.structs.replace(hold.holder, token=token, epoch=epoch or hold.holder.epoch)
        # One of those whose answer was lost may stand there.
        hold.sent.append(token)
        try:
            hold.etag = await self._backend.write(hold.key, bytes(seal(holder)), when=IfMatch(hold.etag))
        except (ConflictError, NotFoundError):
            found = await self._read(hold.key)
            if found is None or found[0].token not in hold.tokens:
                return False
            hold.holder, hold.etag = found
            hold.sent = []
            return await self.renew(hold, epoch=epoch)
        hold.holder, hold.renewed, hold.sent = holder, begun, []
        return True

    async def drop(self, hold: Hold) -> None:
        """Give the lease back, unless somebody else has it."""
        lost = False
        for _ in range(_ATTEMPTS):
            try:
                await self._backend.delete(hold.key, when=IfMatch(hold.etag))
            except NotFoundError:
                break
            except UnavailableError as error:
                # What got no answer may not have arrived, and then others would wait for all of its time.
                if lost or error.code == "not_sent":
                    raise
                lost = True
            except ConflictError:
                # A sign of life that was under way when it was stopped may have arrived.
                found = await self._read(hold.key)
                if found is None or found[0].token not in hold.tokens:
                    break
                hold.etag = found[1]
            else:
                return
        logger.debug("the lease %s was somebody else's already", hold.holder.name)

    async def holders(self) -> list[Holder]:
        """Who holds what, by name; some may be dead."""
        keys = [entry.key async for entry in self._backend.list_keys(LEASES)]
        found: list[tuple[Holder, ETag] | None] = []
        for at in range(0, len(keys), _PARALLEL):
            found += await together(map(self._read, keys[at : at + _PARALLEL]))
        return sorted((one[0] for one in found if one is not None), key=lambda holder: holder.name)

    async def free(self, names: Iterable[str]) -> list[str]:
        """Those that nobody has, dead or alive."""
        listed = {entry.key async for entry in self._backend.list_keys(LEASES)}
        missing = [name for name in names if lease_key(name) not in listed]
        # The listing may lag behind who has just taken one.
        return [name for name in missing if await self._read(lease_key(name)) is None]

    async def silent(self, seconds: float) -> list[tuple[Entry, Hold]]:
        """The leases whose holders gave no sign of life for so long beyond their time to live, to be given back in
        their place. That goes by the storage's clock, as it was when a lease or the snapshot was written last, and by
        this machine's where that is behind."""
        leases = [entry async for entry in self._backend.list_keys(LEASES)]
        snapshots = [entry async for entry in self._backend.list_keys(STATE_KEY)]
        # A time to come says nothing of now: all who live would look silent.
        now = min(max((entry.modified for entry in (*leases, *snapshots)), default=0.0), time.time())
        found: list[tuple[Entry, Hold]] = []
        for entry in leases:
            if 0 < entry.modified < now - seconds and (read := await self._read(entry.key)) is not None:
                hold = Hold(*read, 0.0)
                if hold.key == entry.key and entry.modified < now - seconds - hold.holder.ttl:
                    found.append((entry, hold))
        return found

    async def remove(self, name: str, seen: Holder | None = None) -> Holder:
        """Take the lease away from its holder, who finds out at its next sign of life; with `seen` only from that one.

        Raises:
            NotFoundError: nobody holds it.
            LeaseHeldError: another one than `seen` has it by now.
        """
        key = lease_key(name)
        while (found := await self._read(key)) is not None:
            holder, etag = found
            if seen is not None and not holder.is_still(seen):
                raise LeaseHeldError(
                    f"the lease {name!r} is held by {holder} by now, and was left to it",
                    holder=holder.facts,
                    key=name,
                )
            # A sign of life, or another holder, may have come in between.
            with suppress(ConflictError, NotFoundError):
                await self._backend.delete(key, when=IfMatch(etag))
                return holder
        raise NotFoundError(f"nobody holds the lease {name!r}", key=key)

    async def remove_as_seen(self, hold: Hold) -> bool:
        """Take the lease away if there was no sign of life since it was looked at; whether it is gone."""
        try:
            await self._backend.delete(hold.key, when=IfMatch(hold.etag))
        except ConflictError:
            return False
        return True

    async def _read(self, key: str) -> tuple[Holder, ETag] | None:
        try:
            stored, etag = await look(self._backend, key)
        except NotFoundError:
            return None
        try:
            return _decode(unseal(stored or b"", "lease")), etag
        except (CorruptionError, msgspec.MsgspecError):
            # Whoever wrote that gives no sign of life that could be understood.
            logger.warning("the object is no lease", extra={"key": key})
            stored_as = key.removeprefix(LEASES)
            name = decode_id(stored_as) or stored_as
            begin = datetime.fromtimestamp(0, UTC)
            return Holder(name=name, pid=0, host="?", program="", since=begin, ttl=_UNKNOWN_TTL), etag


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Do the work to its end. It holds up whoever is cancelled meanwhile for a moment only, and is never left half
    done."""
    working = _start(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await see_off(working)
        raise


async def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Do the work. Who stops waiting for it is not held up by how it ends, and nobody is told of that."""
    working = _start(work)
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.add_done_callback(_leave_untold)
        working.cancel()
        raise


def _leave_untold(working: asyncio.Task[Any]) -> None:
    if not working.cancelled() and (error := working.exception()) is not None:
        logger.debug("what was to be done about a lease failed when it was given up: %s", error)


async def see_off(work: Awaitable[object]) -> None:
    """Wait for the work for a moment. It goes on to its end whatever becomes of who waits, and may fail."""

    async def work_off() -> None:
        try:
            await work
        except StateError as error:
            logger.debug("what was to be done about a lease failed: %s", error)

    await asyncio.wait({_start(work_off())}, timeout=GIVING_BACK)


def _start(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    working = asyncio.get_running_loop().create_task(work, name="statepath-lease")
    _going_on.add(working)
    working.add_done_callback(_going_on.discard)
    return working


def has_taken(holder: Holder, facts: bytes) -> bool:
    """Whether it is that holder of whom the log has these facts, since it committed its epoch."""
    told, known = msgspec.json.decode(facts), msgspec.to_builtins(holder)
    return all(told.get(name) == known[name] for name in ("pid", "host", "since"))


def lease_key(name: str) -> str:
    """Where the heartbeats of a lease are: `leases/leader`."""
    return f"{LEASES}{encode_id(name)}"


def _myself(name: str, ttl: float) -> Holder:
    return Holder(
        name=name,
        pid=os.getpid(),
        host=socket.gethostname(),
        program=os.path.basename(sys.argv[0] or sys.executable) if sys.argv else "",
        since=datetime.now(UTC),
        ttl=ttl,
        token=secrets.token_hex(8),
    )
