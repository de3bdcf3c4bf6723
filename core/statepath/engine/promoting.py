"""Promotion: a replica becomes a store of its own.

It begins with a commit of the new incarnation, in the replica's log, where whoever still ships meets it: of the two one
gets the place. Then the log's own record says so. An attempt that was interrupted between the two is finished by the
next.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from statepath.backend import Backend, CommitLog
from statepath.commit import FLOOR_KEY, Commit, Note
from statepath.encryption import unsealed
from statepath.engine.floor import Earlier, Floor, read_floor, write_floor
from statepath.engine.history import next_commit
from statepath.engine.opening import commit_log
from statepath.engine.recovery import Recovered, recover
from statepath.engine.replay import PROMOTED
from statepath.errors import (
    ConflictError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
)
from statepath.log import PortableCommitLog
from statepath.settings import Settings

_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class Promotion:
    """What was made of a replica. `shipped` is the last seq that came from the primary, `at` the time of its commit."""

    store: str
    incarnation: str
    primary: str
    shipped: int
    at: int


async def promote(backend: Backend, settings: Settings) -> Promotion:
    """Make the replica a store that is written, in an incarnation of its own.

    Raises:
        NotFoundError: there is no store.
        InvalidArgumentError: it is no replica, or was promoted before.
    """
    for _ in range(_ATTEMPTS):
        floor = await _record(backend)
        log = commit_log(backend, settings)
        found = await recover(backend, log, limit=settings.max_document, editable=False)
        replica = found.replica
        head, at = replica.head, replica.time
        incarnation = found.reached or floor.incarnation
        if found.broken:
            incarnation = uuid4().hex  # nothing can be appended; whoever opens it begins the log anew
        elif incarnation == floor.incarnation:
            incarnation = uuid4().hex
            try:
                if found.floor is not None and found.floor[0].floor <= head and not await _reaches(log, head):
                    # It was being made anew: the snapshot is there, and the log was to begin behind it.
                    anew = replace(found.floor[0], floor=head + 1, packed=max(found.floor[0].packed, head))
                    await write_floor(backend, anew, found.floor[1])
                    if not isinstance(unsealed(log), PortableCommitLog):
                        await log.restart(head)  # a native log knows where it ends
                await log.append(head, _beginning(found, floor, incarnation))
            except (ConflictError, HeadMoved):
                continue  # the primary is alive, and was first
        else:  # begun before: its commit stands in the log
            # The log of a replica that had nothing begins with it.
            head, at = (found.earlier[-1].seq if found.earlier else 0), 0
        try:
            return await _declare(backend, floor, incarnation, head, at)
        except ConflictError:
            continue
    raise ConflictError(
        f"the replica at {backend.url} is written all the time; stop its mirror, then promote it",
        key=FLOOR_KEY,
    )


async def _record(backend: Backend) -> Floor:
    stored = await read_floor(backend)
    if stored is None:
        raise NotFoundError(f"there is no store at {backend.url}", key=backend.url)
    if stored[0].unfinished:
        raise StateError(
            f"the replica at {backend.url} is not finished: the first copy of {stored[0].unfinished} was interrupted, "
            "and only the primary has the rest; run its mirror again",
            key=FLOOR_KEY,
            code="unfinished",
        )
    if not stored[0].replica_of:
        raise InvalidArgumentError(f"{backend.url} is no replica: it can be written already", key=backend.url)
    return stored[0]


async def _reaches(log: CommitLog, seq: int) -> bool:
    """Whether the log has the commit that ends with the seq."""
    try:
        return await next_commit(log, seq - 1) is not None
    except HistoryTrimmedError:
        return False  # it begins behind it


def _beginning(found: Recovered, floor: Floor, incarnation: str) -> Commit:
    """The commit with which the incarnation begins."""
    replica = found.replica
    now = max(time.time_ns() // 1000, replica.time + 1)
    text = f"from seq {replica.head} on, where it was a replica of {floor.replica_of}"
    return Commit(
        first=replica.head + 1,
        last=replica.head + 1,
        id=secrets.token_hex(12),
        prev=replica.commit,
        writer=f"{os.getpid():x}-{secrets.token_hex(6)}",
        store=floor.store,
        incarnation=incarnation,
        time=datetime.fromtimestamp(now / 1_000_000, UTC),
        durable=replica.head,
        transactions=((Note(PROMOTED, text),),),
    )


async def _declare(backend: Backend, read: Floor, incarnation: str, head: int, at: int) -> Promotion:
    """Say so in the log's own record."""
    stored = await read_floor(backend)
    same = stored is not None and stored[0].incarnation == read.incarnation and not stored[0].unfinished
    if stored is None or not same or not stored[0].replica_of:
        raise InvalidArgumentError(f"{backend.url} was promoted or removed by somebody else meanwhile")
    floor, etag = stored
    earlier = (*floor.earlier, Earlier(floor.incarnation, head))
    await write_floor(backend, replace(floor, incarnation=incarnation, replica_of="", earlier=earlier), etag)
    return Promotion(floor.store, incarnation, floor.replica_of, head, at)
