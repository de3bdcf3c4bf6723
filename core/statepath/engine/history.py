"""The past: the state at an earlier seq or moment, and what has to change to be there again."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import msgspec
from msgspec import Raw

from statepath.backend import Backend, CommitLog
from statepath.commit import JOURNAL, Append, Change, Commit, Delete, Note, Put, Transaction, microseconds
from statepath.engine.backups import backup_key, backup_keys
from statepath.engine.floor import SnapshotMark
from statepath.engine.replay import apply_commit, changes_of
from statepath.engine.replica import MEMBERS, Entry, Replica, Stage
from statepath.engine.snapshot import LEASE_MEMBERS, STATE_KEY, SnapshotMeta, load_snapshot
from statepath.errors import CorruptionError, HistoryTrimmedError, InvalidArgumentError, NotFoundError

_sorted = msgspec.json.Encoder(order="sorted")


def moment(at: datetime) -> int:
    """The datetime in microseconds since 1970.

    Raises:
        InvalidArgumentError: it does not say its time zone.
    """
    if at.tzinfo is None or at.utcoffset() is None:
        raise InvalidArgumentError(
            f"{at.isoformat()} has no time zone: give an aware datetime, for example with tzinfo=timezone.utc"
        )
    return microseconds(at)


@dataclass(frozen=True, slots=True)
class Past:
    """Where the earlier states of one history of a store are looked up.

    `snapshots` are those that the log's own record names: they tell of most backups what they show, so that none is
    read in vain. `continues` tells whether a state, by its incarnation and seq, is of this history. `head` is a seq
    that was durable, so a log that ends before it is damaged.
    """

    backend: Backend
    log: CommitLog
    store: str
    continues: Callable[[str, int], bool]
    head: int
    floor: int
    snapshots: tuple[SnapshotMark, ...]

    async def at(self, at: int | datetime) -> Replica:
        """The documents as of the end of the transaction `at`, or as of a moment by the commits' times.

        Raises:
            HistoryTrimmedError: neither a snapshot nor the log reaches back that far, or the moment is before the
                first commit.
            InvalidArgumentError: a datetime without a time zone.
            CorruptionError: the way there leads over commits that the log does not have any more.
        """
        if isinstance(at, datetime):
            until = moment(at)

            def reached(seq: int, time: int) -> bool:
                return time > until
        else:
            until = at

            def reached(seq: int, time: int) -> bool:
                return seq > until

        earliest: list[int] = []
        async for meta, replica in self._bases(reached, earliest):
            if meta.seq == at:
                return replica  # which needs no log, should it begin later
            if not reached(meta.seq, meta.time):
                return await self._replay(replica, reached)
        if self.floor > 1:
            # The storage may still have what was trimmed; the history begins at the floor all the same.
            raise HistoryTrimmedError(
                f"the history begins at seq {self.floor}; what came before was trimmed. The earliest state to which "
                f"there is a way back is that of seq {min(earliest, default=self.floor - 1)}; how far back it goes is "
                "set by STATE_HISTORY",
                floor=self.floor,
            )
        then = await self._replay(Replica(), reached)
        if isinstance(at, datetime) and not then.head:
            # Of what there was before the first commit, such as an original server's state, nothing is known.
            async for first in self.log.read(0):
                raise HistoryTrimmedError(
                    f"the history begins at {first.time.isoformat()} with seq {first.first}: there is no state of "
                    f"{at.isoformat()}. To go back to the empty store, name the seq 0",
                    floor=self.floor,
                )
        return then

    async def _bases(
        self, reached: Callable[[int, int], bool], seen: list[int]
    ) -> AsyncIterator[tuple[SnapshotMeta, Replica]]:
        """Good snapshots of this history, newest first, without those that are known to be too new; `seen` takes the
        seqs of all."""
        known = {backup_key(mark.time): mark for mark in self.snapshots}
        if self.snapshots:
            known[STATE_KEY] = self.snapshots[-1]
        for key in (STATE_KEY, *reversed(await backup_keys(self.backend))):
            mark = known.get(key)
            if mark is not None and reached(mark.seq, mark.time):
                seen.append(mark.seq)
                continue
            try:
                meta, replica = load_snapshot((await self.backend.read(key)).data, key)
            except (NotFoundError, CorruptionError):
                continue
            # One of before a recovery has seqs that may have been given away again.
            if meta.store == self.store and self.continues(meta.incarnation, meta.seq):
                seen.append(meta.seq)
                yield meta, replica

    async def _replay(self, replica: Replica, reached: Callable[[int, int], bool]) -> Replica:
        async for commit in commits(self.log, replica.head, self.head):
            time = microseconds(commit.time)
            if reached(commit.first, time):
                break
            if not reached(commit.last, time):
                await apply_commit(self.backend, replica, commit)
                continue
            for seq, transaction in enumerate(commit.transactions, commit.first):
                if reached(seq, time):
                    break
                stage = Stage(replica)
                for change in await changes_of(self.backend, transaction):
                    stage.apply(change, seq, time)
                stage.install(replica, seq, commit.id, time)
            break
        return replica


async def next_commit(log: CommitLog, after: int) -> Commit | None:
    """The commit that holds the seq behind `after`; `None`: the log ends there.

    Raises:
        HistoryTrimmedError: the log begins later.
        CorruptionError: it had been durable, and is damaged.
    """
    async with aclosing(cast("AsyncGenerator[Commit]", log.read(after))) as commits:
        return await anext(commits, None)


async def commits(log: CommitLog, after: int, head: int) -> AsyncIterator[Commit]:
    """The commits behind the seq `after`, up to `head` at least, which was durable.

    Raises:
        HistoryTrimmedError: the log begins later.
        CorruptionError: it ends before `head`.
    """
    last = after
    async for commit in log.read(after):
        yield commit
        last = commit.last
    if last < head:
        raise ends_early(last, head)


def ends_early(last: int, head: int) -> CorruptionError:
    """The log ends at the seq `last`, and `head` was durable."""
    return CorruptionError(f"the journal ends at seq {last}, and the state shows seq {head}", key=JOURNAL)


async def left_by(
    backend: Backend, log: CommitLog, key: tuple[str, str], seq: int, floor: int
) -> Entry | None:
    """The document as the change of that seq left it, by the log alone; `None`: the log does not tell.

    Raises:
        HistoryTrimmedError: the log begins later.
    """
    for after in (seq - 1, floor - 1):  # most often that change put it whole
        stage = Stage(Replica())
        async for commit, place, changes in transactions(backend, log, after):
            if place > seq:
                break
            for change in changes:
                if not isinstance(change, Put | Delete | Append) or (change.collection, change.id) != key:
                    continue
                if not isinstance(change, Append) or stage.get(*key) is not None:
                    stage.apply(change, place, microseconds(commit.time))
        entry = stage.get(*key)
        if entry is not None and entry.version == seq:
            return entry
    return None


def difference(now: Replica, then: Replica) -> list[Change]:
    """The changes that turn the documents of `now` into those of `then`."""
    changes: list[Change] = []
    for collection, id, entry in then:
        if _is_lease(collection, id):
            continue
        current = now.get(collection, id)
        if current is None or not same_json(current.json(), entry.json()):
            changes.append(Put(collection, id, Raw(entry.json())))
    changes += [
        Delete(collection, id)
        for collection, id, _ in now
        if then.get(collection, id) is None and not _is_lease(collection, id)
    ]
    return changes


def way_back(now: Replica, then: Replica, note: Note) -> Transaction:
    """The transaction that makes `now` as it was `then`, and says so; of nothing, if it is."""
    changes = difference(now, then)
    return (*changes, note) if changes else ()


def _is_lease(collection: str, id: str) -> bool:
    """Whether it says who holds a lease: that is never as it was."""
    return collection == MEMBERS and id.startswith(LEASE_MEMBERS)


def same_json(one: bytes, other: bytes) -> bool:
    """Whether two documents say the same."""
    return one == other or same_value(json.loads(one), json.loads(other))


def same_value(one: object, other: object) -> bool:
    """Whether both are the same JSON, whatever the order of members; 1, 1.0 and true are three values."""
    return _sorted.encode(one) == _sorted.encode(other)


async def transactions(
    backend: Backend, log: CommitLog, after: int, head: int = 0
) -> AsyncIterator[tuple[Commit, int, Transaction]]:
    """Every transaction behind the seq `after` that the log still has, with its commit and its own seq.

    Raises:
        HistoryTrimmedError: the log begins later.
        CorruptionError: it ends before `head`.
    """
    async for commit in commits(log, after, head):
        for seq, transaction in enumerate(commit.transactions, commit.first):
            if seq > after:
                yield commit, seq, await changes_of(backend, transaction)
