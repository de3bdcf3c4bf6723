"""The commit log as a table: a commit is one row, and appending it, or several at once, is one statement.

The row of the store says where the log ends. Who appends moves that end from the seq it continues, and only from
there: so of two writers one gets the place, a writer that slept gets none, and the same commit sent again, because no
answer came, stands once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from statepath.backend import Commit, decode_commit, encode_commit, slot_key
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    OutcomeUnknownError,
    ReadOnlyError,
    StateError,
    ThrottledError,
    UnavailableError,
)

from statepath_postgres.config import SCHEME
from statepath_postgres.connections import HOLD, Connections
from statepath_postgres.failures import has_no_room_to_announce, worth_repeating
from statepath_postgres.held import Held
from statepath_postgres.listener import Listener, audience, channel

_log = logging.getLogger("statepath.postgres")

_ATTEMPTS: Final = 3  # how many attempts that get no answer fit into the time there is
_QUIET: Final = 10.0  # seconds without announcements, where the server had no room for one
_PAUSE: Final = 2.0  # seconds, before a second look for a store that is not there
_PAGE: Final = 256
_PAGE_BYTES: Final = 8 * 1024 * 1024

# The first commit of all may have any place ($10): a store that was copied from another one goes on from a snapshot.
_PLACE: Final = """
UPDATE statepath.stores
SET head = $4, tip = $5, floor = CASE WHEN head = 0 AND tip = '' THEN greatest(floor, $3) ELSE floor END
WHERE id = $1 AND (head = $2 AND (tip = $6 OR tip = '') OR $10 AND head = 0 AND tip = '')
RETURNING id
"""
_APPEND: Final = f"""
WITH place AS ({_PLACE}), entry AS (
    INSERT INTO statepath.log (store, first, last, id, record)
    SELECT id, $3, $4, $5, $7 FROM place
    RETURNING last
)
SELECT last, CASE WHEN $8 <> '' AND NOT pg_try_advisory_xact_lock($9) THEN pg_notify($8, last::text) END FROM entry
"""  # noqa: S608 - a constant
# Once it is full, the server lets go of what all have heard only where it is asked how full it is.
_CLEAR_QUEUE: Final = "SELECT pg_notification_queue_usage()"
_FOLLOWING: Final = "SELECT record FROM statepath.log WHERE store = $1 AND first = $2"
# Several that follow each other, in one go.
_EXTEND: Final = f"""
WITH place AS ({_PLACE}), entries AS (
    INSERT INTO statepath.log (store, first, last, id, record)
    SELECT place.id, entry.* FROM place, unnest($11::bigint[], $12::bigint[], $13::text[], $7::bytea[]) AS entry
    RETURNING last
)
SELECT max(last), CASE WHEN $8 <> '' AND NOT pg_try_advisory_xact_lock($9) THEN pg_notify($8, max(last)::text) END
FROM entries HAVING count(*) > 0
"""  # noqa: S608 - a constant
# A commit of the server's own is answered only once all before it are confirmed.
_CONFIRM: Final = """
UPDATE statepath.stores s SET head = head
WHERE id = $1 AND (floor > $2 OR EXISTS (SELECT FROM statepath.log l WHERE l.store = s.id AND l.id = $3))
RETURNING true
"""
# The sizes of records that are stored apart are known without reading them.
_BEHIND: Final = """
FROM statepath.stores s LEFT JOIN LATERAL (
    SELECT first, last, record FROM (
        SELECT first, last, record, sum(octet_length(record)) OVER (ORDER BY first) - octet_length(record) AS before
        FROM (
            SELECT first, last, record FROM statepath.log
            WHERE store = s.id AND first >= coalesce((
                SELECT max(first) FROM statepath.log WHERE store = s.id AND first <= $2 + 1
            ), 0) AND last > $2
            ORDER BY first LIMIT $3
        ) page
    ) sized WHERE before < $4
) l ON true
WHERE s.id = $1 ORDER BY l.first
"""
_READ: Final = f"SELECT s.head, s.tip, s.floor, l.first, l.last, l.record {_BEHIND}"
_STANDING: Final = f"""
SELECT s.head, s.floor, EXISTS (SELECT FROM statepath.log o WHERE o.store = s.id AND o.id = $5) AS ours,
    l.first, l.last, l.record
{_BEHIND}
"""  # noqa: S608 - constants
# The index is by `first`: by `last` alone, whatever stays would be looked at, too.
_TRIM: Final = """
WITH part AS (
    SELECT first FROM statepath.log WHERE store = $1 AND first <= $2 AND last <= $2 ORDER BY first LIMIT $3
), gone AS (
    DELETE FROM statepath.log l USING part WHERE l.store = $1 AND l.first = part.first RETURNING l.last
)
UPDATE statepath.stores SET floor = greatest(floor, (SELECT coalesce(max(last), 0) + 1 FROM gone))
WHERE id = $1 RETURNING (SELECT count(*) FROM gone) AS trimmed
"""
_TRIMMED: Final = 20_000
"""How many commits one statement trims: `statement_timeout` is for each."""

_NEWEST: Final = "SELECT head, tip FROM statepath.stores WHERE id = $1"
_LOCK: Final = f"SELECT {HOLD} FROM statepath.stores WHERE id = $1 FOR UPDATE"  # noqa: S608 - a constant
_SET_ASIDE: Final = """
WITH part AS (
    SELECT first, 'journal/' || lpad(first::text, 20, '0') || '.jsonl.corrupt.' || $2::text AS key FROM (
        SELECT first, sum(octet_length(record)) OVER (ORDER BY first) - octet_length(record) AS before
        FROM (
            SELECT first, record FROM statepath.log WHERE store = $1 AND first > $3 ORDER BY first LIMIT $4
        ) page
    ) sized WHERE before < $5
), gone AS (
    DELETE FROM statepath.log l USING part WHERE l.store = $1 AND l.first = part.first RETURNING part.key, l.record
), kept AS (
    INSERT INTO statepath.objects (store, key, version, size, data)
    SELECT $1, key, nextval('statepath.versions'), octet_length(record), record FROM gone
)
SELECT first, key FROM part ORDER BY first
"""
_ASIDE: Final = 20_000
_ASIDE_BYTES: Final = 64 * 1024 * 1024
"""How much of the log one statement sets aside: `statement_timeout` is for each."""

_RESTART: Final = "UPDATE statepath.stores SET head = $2, tip = '', floor = $2::bigint + 1 WHERE id = $1"
_SHOW_NOTHING: Final = "UPDATE statepath.views SET shown = -1 WHERE store = $1"


class _Group(NamedTuple):
    """Commits that follow each other, and their records: what one statement appends."""

    commits: tuple[Commit, ...]
    records: tuple[bytes, ...]

    @classmethod
    def of(cls, after: int, commits: Sequence[Commit]) -> _Group:
        """
        Raises:
            InvalidArgumentError: they do not continue `after`, or each other.
        """
        expected = after + 1
        for commit in commits:
            if commit.first != expected:
                raise InvalidArgumentError(
                    f"a commit behind seq {expected - 1} begins at {expected}, not {commit.first}",
                    backend=SCHEME,
                )
            expected = commit.last + 1
        return cls(tuple(commits), tuple([bytes(encode_commit(commit)) for commit in commits]))

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple([commit.id for commit in self.commits])

    def columns(self) -> tuple[list[int], list[int], list[str]]:
        """Where each begins and ends, and its id."""
        return (
            [commit.first for commit in self.commits],
            [commit.last for commit in self.commits],
            [commit.id for commit in self.commits],
        )


class _End(NamedTuple):
    """A place where the log ended: behind the commit of that id, or, if it is empty, where it was begun anew."""

    seq: int = 0
    id: str = ""

    def is_missing(self, head: int, tip: str) -> bool:
        """Whether a log that ends there, now, does not lead past this place."""
        return head < self.seq or (head == self.seq and tip not in ("", self.id))


_NOTHING: Final = _End()


class PostgresCommitLog:
    """The log of one store. `store` gives its number, and `None` while it is not there; `committed` is told each
    commit that was appended here, and its size."""

    def __init__(
        self,
        connections: Connections,
        store: Callable[[], Awaitable[int | None]],
        *,
        readonly: bool,
        committed: Callable[[Commit, int], None],
    ) -> None:
        self._connections = connections
        self._store = store
        self._readonly = readonly
        self._committed = committed
        self._deadline = connections.deadline
        self._held = Held(connections, patience=self._deadline / _ATTEMPTS)
        self._listener = Listener(connections)
        self._announced_from = -math.inf
        """The moment from which on commits are announced."""

        self._unresolved: _Group | None = None
        self._winners: list[Commit] = []
        """What came behind the place that was lost last."""
        self._seen = _NOTHING
        """Where the log ended at the least when this handle looked: one that ends earlier has lost commits."""

    async def append(self, after: int, commit: Commit) -> None:
        """As `CommitLog.append`. Once the outcome of an append is open, because it raised
        `OutcomeUnknownError` or was cancelled, only the same commit is taken, until its outcome is known."""
        await self.extend(after, (commit,))

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        """As `SupportsExtend.extend`: one statement, so all of them stand in the log or none. What `append` says of
        an open outcome holds for them together."""
        store = await self._writable()
        group = _Group.of(after, commits)
        if self._unresolved is not None and self._unresolved.ids != group.ids:
            raise _unknown(self._unresolved)
        try:
            committed = await self._connections.patiently(lambda: self._send(store, group), self._deadline)
        except StateError as error:
            if self._unresolved is not None:
                self._connections.check_open()
                raise _unknown(group) from error
            raise
        self._unresolved = None
        if not committed:
            winners, self._winners = self._winners, []
            self._see(winners)
            raise HeadMoved(winners)
        self._see(group.commits)
        self._listener.tell()
        for commit, record in zip(group.commits, group.records, strict=True):
            self._committed(commit, len(record))

    async def read(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.read`."""
        previous = ""
        while True:
            head, commits, damage = await self._page(after, previous)
            for commit in commits:
                yield commit
                after, previous = commit.last, commit.id
            if damage is not None:
                raise damage
            if after >= head:
                return

    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        """As `CommitLog.follow`: woken by a notification, and looking now and then in case one was lost."""
        previous = ""
        while True:
            news = self._listener.news
            if known is not None and known() > after:
                after, previous = known(), ""
            head, commits, damage = await self._page(after, previous)
            for commit in commits:
                yield commit
                after, previous = commit.last, commit.id
            if damage is not None:
                raise damage
            if after >= head:
                # What comes after a fail-over may not continue it: that is no damage, and who follows finds out.
                previous = ""
                await self._listener.wait(news, await self._store())

    async def newest(self) -> tuple[int, str]:
        """As `SupportsNewest.newest`."""
        store = await self._store()
        rows = [] if store is None else await self._connections.fetch(_NEWEST, store)
        return (rows[0]["head"], rows[0]["tip"]) if rows else (0, "")

    async def trim(self, upto: int) -> None:
        """As `CommitLog.trim`."""
        store = await self._writable()
        # There is no row where the store was deleted.
        while (row := await self._connections.change(_TRIM, store, upto, _TRIMMED)) is not None:
            if row["trimmed"] < _TRIMMED:
                return

    async def restart(self, after: int) -> list[str]:
        """As `CommitLog.restart`."""
        store = await self._writable()
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        async with self._connections.use() as connection, connection.transaction():
            await connection.fetchrow(_LOCK, store)
            kept: list[str] = []
            last = -1
            while rows := await connection.fetch(_SET_ASIDE, store, moment, last, _ASIDE, _ASIDE_BYTES):
                kept += [row["key"] for row in rows]
                last = rows[-1]["first"]
            await connection.execute(_RESTART, store, after)
            await connection.execute(_SHOW_NOTHING, store)
        self._unresolved = None
        self._seen = _End(after)
        return kept

    async def close(self) -> None:
        try:
            await self._listener.close()
        finally:
            await self._held.close()

    async def _writable(self) -> int:
        if self._readonly:
            self._connections.check_open()
            raise ReadOnlyError(f"{self._connections.url} was opened for reading only", backend=SCHEME)
        store = await self._store()
        assert store is not None  # noqa: S101 - a writer made it
        return store

    async def _send(self, store: int, group: _Group) -> bool:
        """Send the commits once; whether they stand in the log."""
        sent_before, sent = self._unresolved is not None, False

        def sending() -> None:
            nonlocal sent
            sent = True

        try:
            placed = await self._place(store, group, sending)
        except StateError as error:
            if sent and not _had_no_effect(error):
                self._unresolved = group
            raise
        except asyncio.CancelledError:
            # It was done before it could be cancelled, or is not done, or was not even begun.
            self._unresolved = group
            raise
        if placed is not None:
            return True
        if not await self._stands(store, group, sent_before=sent_before):
            return False
        # Where a standby has to confirm, it need not have: only the answer that was lost would have said so.
        self._unresolved = group
        newest = group.commits[-1]
        if not await self._held.fetchval(_CONFIRM, store, newest.first, newest.id, sending=lambda: None):
            raise UnavailableError(
                f"{self._connections.url} has failed over to a server that does not have the commit",
                backend=SCHEME,
            )
        return True

    async def _place(self, store: int, group: _Group, sending: Callable[[], None]) -> Any:
        """Have the server append the commits; `None`: their place is not free. They are announced where it has room for
        that: who follows looks now and then, too.

        Raises:
            ThrottledError: there was no room, so nothing was appended. The next attempt announces nothing.
        """
        commits, records = group
        oldest, newest = commits[0], commits[-1]
        several = len(commits) > 1
        announced = time.monotonic() >= self._announced_from
        try:
            return await self._held.fetchval(
                _EXTEND if several else _APPEND,
                store,
                oldest.first - 1,
                oldest.first,
                newest.last,
                newest.id,
                oldest.prev,
                records if several else records[0],
                channel(store) if announced else "",
                audience(store),
                self._seen == _NOTHING,
                *(group.columns() if several else ()),
                sending=sending,
            )
        except StateError as error:
            if not (announced and has_no_room_to_announce(error)):
                raise
            _log.warning("commits are not announced for now, and who follows them polls: %s", error)
            self._announced_from = time.monotonic() + _QUIET
            with suppress(StateError):
                await self._held.fetchval(_CLEAR_QUEUE, sending=lambda: None)
            raise ThrottledError(str(error), backend=SCHEME) from error

    async def _stands(self, store: int, group: _Group, *, sent_before: bool) -> bool:
        """Whether the commits, which did not get the place now, had got it before.

        Nothing else has to be waited for: whatever of them may still be under way in the server moves the end of the
        log only from where it is no longer.

        Raises:
            OutcomeUnknownError: the log was trimmed behind them, and nothing tells.
            DivergedError: the log does not have what this handle saw of it.
        """
        oldest, newest = group.commits[0], group.commits[-1]
        after = oldest.first - 1
        rows = await self._connections.fetch(_STANDING, store, after, _PAGE, _PAGE_BYTES, newest.id)
        if not rows:
            raise self._was_deleted()
        row = rows[0]
        # Of several that were never sent a part may stand there, by another call.
        if row["ours"] and (sent_before or len(group.commits) == 1):
            return True
        if sent_before and row["floor"] > newest.first:
            following = await self._connections.fetch(_FOLLOWING, store, newest.last + 1)
            if following and decode_commit(following[0]["record"]).prev == newest.id:
                return True
            raise _unknown(group)
        if row["head"] < oldest.first:
            raise self._has_lost(oldest.first)
        commits, damage = _commits_of(rows, after, oldest.prev)
        # Not all of them, or not sound: whoever reads on finds out.
        complete = (
            damage is None and commits and commits[-1].last == row["head"] and row["floor"] <= oldest.first
        )
        self._winners = commits if complete else []
        return False

    async def _page(self, after: int, previous: str) -> tuple[int, list[Commit], StateError | None]:
        """The head, some commits behind `after`, and what is wrong behind these.

        Raises:
            HistoryTrimmedError: the log begins later.
            DivergedError: it does not have what this handle, which writes, saw of it, or the store is gone.
        """
        store = await self._store()
        if store is None:
            return 0, [], None
        seen = self._seen  # what is seen meanwhile may be newer than the answer
        rows = await self._connections.fetch(_READ, store, after, _PAGE, _PAGE_BYTES)
        if not rows:
            if not after and seen == _NOTHING:
                return 0, [], None
            if self._readonly:
                # Who asks has seen something of it, but perhaps on another standby than this one, which is behind.
                await asyncio.sleep(_PAUSE)
                rows = await self._connections.fetch(_READ, store, after, _PAGE, _PAGE_BYTES)
            if not rows:
                raise self._was_deleted()
        head, tip, floor = rows[0]["head"], rows[0]["tip"], rows[0]["floor"]
        # A reader may be on a standby, and that one behind the last.
        if not self._readonly and seen.is_missing(head, tip):
            raise self._has_lost(head + 1 if head < seen.seq else head)
        if floor > after + 1:
            raise HistoryTrimmedError(
                f"the log begins at seq {floor}; what came before was trimmed",
                floor=floor,
                backend=SCHEME,
            )
        commits, damage = _commits_of(rows if head > after else (), after, previous)
        self._see(commits)
        return head, commits, damage

    def _see(self, commits: Sequence[Commit]) -> None:
        """They are in the log."""
        if commits and commits[-1].last > self._seen.seq:
            self._seen = _End(commits[-1].last, commits[-1].id)

    def _was_deleted(self) -> DivergedError:
        return DivergedError(
            f"the store was deleted from {self._connections.url} while it was open", backend=SCHEME
        )

    def _has_lost(self, seq: int) -> DivergedError:
        return DivergedError(
            f"the log in {self._connections.url} does not have what this handle saw of it: the server lost commits, "
            "or was restored from a backup; open the store again",
            key=slot_key(seq),
            backend=SCHEME,
        )


def _commits_of(rows: Sequence[Any], last: int, previous: str) -> tuple[list[Commit], CorruptionError | None]:
    """The commits of the rows behind the seq `last`, and what is wrong behind these."""
    commits: list[Commit] = []
    for row in rows:
        try:
            commits.append(_checked(row, last, previous, begins=not commits and not previous))
        except CorruptionError as error:
            return commits, error
        last, previous = commits[-1].last, commits[-1].id
    return commits, None


def _checked(row: Any, last: int, previous: str, *, begins: bool) -> Commit:
    """The commit of a row, which has to continue what was read before it.

    Raises:
        CorruptionError: it does not, or is damaged.
    """
    first = row["first"]
    missing = slot_key(last + 1)
    if first is None or (first > last + 1 if begins else first != last + 1):
        raise CorruptionError(
            f"{missing} is missing, and the log says that it was durable", key=missing, backend=SCHEME
        )
    key = slot_key(first)
    try:
        commit = decode_commit(row["record"])
    except CorruptionError as error:
        raise CorruptionError(f"{key}: {error}", key=key, backend=SCHEME) from error
    if (commit.first, commit.last) != (first, row["last"]):
        raise CorruptionError(
            f"{key} holds the commit that begins at {commit.first}", key=key, backend=SCHEME
        )
    if previous and commit.prev != previous:
        raise CorruptionError(f"{key} does not continue the commit before it", key=key, backend=SCHEME)
    return commit


def _had_no_effect(error: StateError) -> bool:
    return not isinstance(error, UnavailableError) or not worth_repeating(error)


def _unknown(group: _Group) -> OutcomeUnknownError:
    first, last = group.commits[0].first, group.commits[-1].last
    return OutcomeUnknownError(
        f"it could not be found out whether the commit of seq {first} to {last} is durable; "
        "open the store again to see what holds",
        key=slot_key(first),
        backend=SCHEME,
    )
