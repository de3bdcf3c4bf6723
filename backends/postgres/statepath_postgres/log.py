"""The commit log as a table: a commit is one row, and appending it, or several at once, is one statement.

The row of the store says where the log ends. Who appends moves that end from the seq it continues, and only from
there: so of two writers one gets the place, a writer that slept gets none, and the same commit sent again, because no
answer came, stands once. A commit that depends on nothing goes behind others instead (`placing.py`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeVar

from statepath.backend import Commit, decode_commit, encode_commit, microseconds, slot_key
from statepath.errors import (
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
from statepath_postgres.connections import HOLD, Connections, in_transaction
from statepath_postgres.failures import has_no_room_to_announce, worth_repeating
from statepath_postgres.held import Held
from statepath_postgres.listener import Listener, audience, channel
from statepath_postgres.placing import ASK, ASKED, BAR, FIND, NOW, PLACE, Answer
from statepath_postgres.records import commits_of, standing

_log = logging.getLogger("statepath.postgres")

_ATTEMPTS: Final = 3  # how many attempts that get no answer fit into the time there is
_QUIET: Final = 10.0  # seconds without announcements, where the server had no room for one
_PAUSE: Final = 2.0  # seconds, before a second look for a store that is not there
_PATIENCE: Final = 0.05  # seconds of losing, before others are asked to let it go first
_ASKED: Final = 0.05  # seconds for which they are
_COURTESY: Final = (0.01, 0.1)  # seconds that who is asked rests, three commits long, between these
_PAGE: Final = 256
_PAGE_BYTES: Final = 8 * 1024 * 1024

# The first commit of all may have any place ($10): a store that was copied from another one goes on from a snapshot.
_PLACE: Final = f"""
UPDATE statepath.stores
SET head = $4, tip = $5, floor = CASE WHEN head = 0 AND tip = '' THEN greatest(floor, $3) ELSE floor END
WHERE id = $1 AND (head = $2 AND (tip = $6 OR tip = '') OR $10 AND head = 0 AND tip = '')
RETURNING id, {ASKED}
"""  # noqa: S608 - a constant
_APPEND: Final = f"""
WITH place AS ({_PLACE}), entry AS (
    INSERT INTO statepath.log (store, first, last, id, record)
    SELECT id, $3, $4, $5, $7 FROM place
    RETURNING last
)
SELECT (asked, {NOW}), CASE WHEN $8 <> '' AND NOT pg_try_advisory_xact_lock($9) THEN pg_notify($8, last::text) END
FROM place, entry
"""  # noqa: S608 - a constant
# Once it is full, the server lets go of what all have heard only where it is asked how full it is.
_CLEAR_QUEUE: Final = "SELECT pg_notification_queue_usage()"
_CLOCK: Final = f"SELECT {NOW} AS now"
_FOLLOWING: Final = "SELECT prev, record FROM statepath.log WHERE store = $1 AND first = $2"
# Several that follow each other, in one go.
_EXTEND: Final = f"""
WITH place AS ({_PLACE}), entries AS (
    INSERT INTO statepath.log (store, first, last, id, record)
    SELECT place.id, entry.* FROM place, unnest($11::bigint[], $12::bigint[], $13::text[], $7::bytea[]) AS entry
    RETURNING last
)
SELECT (asked, {NOW}), CASE WHEN $8 <> '' AND NOT pg_try_advisory_xact_lock($9) THEN pg_notify($8, max(last)::text) END
FROM place, entries GROUP BY asked
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
    SELECT first, last, prev, made, record FROM (
        SELECT *, sum(octet_length(record)) OVER (ORDER BY first) - octet_length(record) AS before
        FROM (
            SELECT first, last, prev, made, record FROM statepath.log
            WHERE store = s.id AND first >= coalesce((
                SELECT max(first) FROM statepath.log WHERE store = s.id AND first <= $2 + 1
            ), 0) AND last > $2
            ORDER BY first LIMIT $3
        ) page
    ) sized WHERE before < $4
) l ON true
WHERE s.id = $1 ORDER BY l.first
"""
_READ: Final = f"SELECT s.head, s.tip, s.floor, l.first, l.last, l.prev, l.made, l.record {_BEHIND}"
_STANDING: Final = f"""
SELECT s.head, s.floor, EXISTS (SELECT FROM statepath.log o WHERE o.store = s.id AND o.id = $5) AS ours,
    l.first, l.last, l.prev, l.made, l.record
{_BEHIND}
"""  # noqa: S608 - constants
_BETWEEN: Final = """
SELECT first, last, prev, made, record FROM (
    SELECT *, sum(octet_length(record)) OVER () AS size FROM statepath.log
    WHERE store = $1 AND first > $2 AND first < $3
) passed WHERE size <= $4 ORDER BY first
"""
# The index is by `first`: by `last` alone, whatever stays would be looked at, too. And what goes is named by where it
# is: by a join or a range, all of the log would be looked at where the statistics do not know the store yet.
_TRIM: Final = """
WITH gone AS (
    DELETE FROM statepath.log WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM statepath.log WHERE store = $1 AND first <= $2 AND last <= $2 ORDER BY first LIMIT $3
    ))
    RETURNING last
)
UPDATE statepath.stores SET floor = greatest(floor, (SELECT coalesce(max(last), 0) + 1 FROM gone))
WHERE id = $1 RETURNING (SELECT count(*) FROM gone) AS trimmed
"""
_TRIMMED: Final = 20_000
"""How many commits one statement trims: `statement_timeout` is for each."""

_NEWEST: Final = "SELECT head, tip FROM statepath.stores WHERE id = $1"
_LOCK: Final = f"SELECT {HOLD} FROM statepath.stores WHERE id = $1 FOR UPDATE"  # noqa: S608 - a constant
_SET_ASIDE: Final = """
WITH gone AS (
    DELETE FROM statepath.log WHERE ctid = ANY (ARRAY(
        SELECT part FROM (
            SELECT part, sum(size) OVER (ORDER BY first) - size AS before FROM (
                SELECT ctid AS part, first, octet_length(record) AS size FROM statepath.log
                WHERE store = $1 AND first > $3 ORDER BY first LIMIT $4
            ) page
        ) sized WHERE before < $5
    ))
    RETURNING first, 'journal/' || lpad(first::text, 20, '0') || '.jsonl.corrupt.' || $2::text AS key, record
), kept AS (
    INSERT INTO statepath.objects (store, key, version, size, data)
    SELECT $1, key, nextval('statepath.versions'), octet_length(record), record FROM gone
)
SELECT first, key FROM gone ORDER BY first
"""
_ASIDE: Final = 20_000
_ASIDE_BYTES: Final = 64 * 1024 * 1024
"""How much of the log one statement sets aside: `statement_timeout` is for each."""

_RESTART: Final = (
    "UPDATE statepath.stores SET head = $2, tip = '', floor = $2::bigint + 1, placed = 0 WHERE id = $1"
)
_SHOW_NOTHING: Final = "UPDATE statepath.views SET shown = -1 WHERE store = $1"


T = TypeVar("T")


class _Group(NamedTuple):
    """Commits that follow each other, and their records: what one statement appends, or places."""

    commits: tuple[Commit, ...]
    records: tuple[bytes, ...]
    placing: bool

    @classmethod
    def of(cls, after: int, commits: Sequence[Commit], *, placing: bool = False) -> _Group:
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
        return cls(tuple(commits), tuple([bytes(encode_commit(commit)) for commit in commits]), placing)

    def is_again(self, other: _Group) -> bool:
        """Whether they are the same commits, sent the same way."""
        return [one.id for one in self.commits] == [
            one.id for one in other.commits
        ] and self.placing == other.placing

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
    commit that was appended or placed here, and its size, and `met` those of others that came before."""

    def __init__(
        self,
        connections: Connections,
        store: Callable[[], Awaitable[int | None]],
        *,
        readonly: bool,
        committed: Callable[[Commit, int], None],
        met: Callable[[Commit, int], None],
    ) -> None:
        self._connections = connections
        self._store = store
        self._readonly = readonly
        self._committed = committed
        self._met = met
        self._deadline = connections.deadline
        self._held = Held(connections, patience=self._deadline / _ATTEMPTS)
        self._listener = Listener(connections)
        self._announced_from = -math.inf
        """The moment from which on commits are announced."""

        self._unresolved: _Group | None = None
        self._winners: list[Commit] = []
        """What came behind the place that was lost last."""
        self._losing_since = math.inf
        self._asked = False
        """Whether others were asked to let the next attempt go first."""
        self._rests_until = -math.inf
        self._ahead: float | None = None
        """By how much the server's clock is ahead of the monotonic one here, at the least."""
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
        if not await self._until_known(group, lambda: self._send(store, group)):
            winners, self._winners = self._winners, []
            self._see(winners)
            raise HeadMoved(winners, kept=self._asked)
        self._stand(group.commits, group.records)

    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        """As `SupportsPlacing.place`. What `append` says of an open outcome holds here, too."""
        store = await self._writable()
        group = _Group.of(after, (commit,), placing=True)
        if self._unresolved is not None and self._unresolved.is_again(group._replace(placing=False)):
            await self.append(after, commit)
            return commit, ()
        if (ahead := self._ahead) is None:
            ahead = self._ahead = (await self._connections.fetch(_CLOCK))[0]["now"] - time.monotonic()
        until = time.monotonic() + self._deadline
        latest = until + ahead
        try:
            placed = await self._until_known(group, lambda: self._send_behind(store, after, group, latest))
        except OutcomeUnknownError:
            if self._unresolved is not None and self._unresolved.is_again(group):
                # Until what was sent cannot find a place any more: what is seen then holds.
                await asyncio.sleep(until - time.monotonic())
            raise
        if placed is None:
            await self.append(after, commit)
            return commit, ()
        before: list[Commit] = []
        if placed.first > after + 1:
            try:
                with suppress(StateError):  # it is durable, whatever becomes of this look
                    rows = await self._held.fetch(_BETWEEN, store, after, placed.first, _PAGE_BYTES)
                    before, _ = commits_of(rows, after, commit.prev)
                    self._meet(before, rows)
            except asyncio.CancelledError:
                self._unresolved = group  # nobody was told where it stands
                raise
        self._stand((placed,), group.records)
        return placed, before

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
        async with self._connections.use() as connection, in_transaction(connection):
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

    async def _until_known(self, group: _Group, send: Callable[[], Awaitable[T]]) -> T:
        """What becomes of the commits, which are sent again while no answer comes.

        Raises:
            OutcomeUnknownError: that of them, or of others before them, is open.
        """
        if self._unresolved is not None and not self._unresolved.is_again(group):
            raise _unknown(self._unresolved)
        if (rest := self._rests_until - time.monotonic()) > 0:
            await asyncio.sleep(rest)
        try:
            outcome = await self._connections.patiently(send, self._deadline)
        except StateError as error:
            if self._unresolved is not None:
                self._connections.check_open()
                raise _unknown(group) from error
            raise
        self._unresolved = None
        return outcome

    def _stand(self, commits: Sequence[Commit], records: Sequence[bytes]) -> None:
        """They do now, in the log."""
        self._losing_since = math.inf
        self._see(commits)
        self._listener.tell()
        for commit, record in zip(commits, records, strict=True):
            self._committed(commit, len(record))

    def _meet(self, commits: Sequence[Commit], rows: Sequence[Any]) -> None:
        for commit, row in zip(commits, rows, strict=False):
            self._met(commit, len(row["record"]))

    async def _send(self, store: int, group: _Group) -> bool:
        """Send the commits once; whether they stand in the log."""
        sent_before = self._unresolved is not None
        commits, records = group.commits, group.records
        oldest, newest = commits[0], commits[-1]
        several = len(commits) > 1
        answer = await self._place(
            store,
            group,
            _EXTEND if several else _APPEND,
            oldest.first - 1,
            oldest.first,
            newest.last,
            newest.id,
            oldest.prev,
            records if several else records[0],
            more=(self._seen == _NOTHING, *(group.columns() if several else ())),
        )
        if answer is not None:
            return True
        now = time.monotonic()
        self._losing_since = min(self._losing_since, now)
        self._asked = now - self._losing_since > _PATIENCE
        if self._asked:
            await self._held.fetchval(ASK, store, _ASKED, sending=lambda: None)
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

    async def _send_behind(self, store: int, after: int, group: _Group, latest: float) -> Commit | None:
        """Send the commit once, to find a place; as it stands there. `None`: it does not, nor will it."""
        commit, record = group.commits[0], group.records[0]
        if self._unresolved is None:
            answer = await self._place(
                store,
                group,
                PLACE,
                after,
                commit.last - after,
                microseconds(commit.time),
                commit.id,
                commit.prev,
                record,
                more=(latest,),
            )
            return None if answer is None else answer.placed(commit)
        if not await self._held.fetchval(BAR, store, after, sending=lambda: None):
            raise self._was_deleted()
        rows = await self._held.fetch(FIND, store, commit.id)
        if not rows:
            raise self._was_deleted()
        if rows[0]["first"] is not None:
            return standing(rows[0], commit)
        if rows[0]["floor"] > after + 1:
            raise _unknown(group)
        self._unresolved = None
        return None

    async def _place(
        self, store: int, group: _Group, statement: str, *arguments: object, more: Sequence[object] = ()
    ) -> Answer | None:
        """Have the server take the commits; `None`: it did not. They are announced where it has room for that: who
        follows looks now and then, too.

        Raises:
            ThrottledError: there was no room, so nothing was appended. The next attempt announces nothing.
        """
        sent = False

        def sending() -> None:
            nonlocal sent
            sent = True

        begun = time.monotonic()
        announced = begun >= self._announced_from
        told = (channel(store) if announced else "", audience(store))
        try:
            row = await self._held.fetchval(statement, store, *arguments, *told, *more, sending=sending)
        except StateError as error:
            if announced and has_no_room_to_announce(error):
                _log.warning("commits are not announced for now, and who follows them polls: %s", error)
                self._announced_from = time.monotonic() + _QUIET
                with suppress(StateError):
                    await self._held.fetchval(_CLEAR_QUEUE, sending=lambda: None)
                raise ThrottledError(str(error), backend=SCHEME) from error
            if sent and not _had_no_effect(error):
                self._unresolved = group
            raise
        except asyncio.CancelledError:
            # It was done before it could be cancelled, or is not done, or was not even begun.
            self._unresolved = group
            raise
        if row is None:
            return None
        answer, now = Answer(*row), time.monotonic()
        self._ahead = answer.now - now
        if answer.asked:
            soonest, latest = _COURTESY
            self._rests_until = now + min(max(soonest, 3 * (now - begun)), latest)
        return answer

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
            if following and newest.id == (
                following[0]["prev"] or decode_commit(following[0]["record"]).prev
            ):
                return True
            raise _unknown(group)
        if row["head"] < oldest.first:
            raise self._has_lost(oldest.first)
        commits, damage = commits_of(rows, after, oldest.prev)
        # Not all of them, or not sound: whoever reads on finds out.
        complete = (
            damage is None and commits and commits[-1].last == row["head"] and row["floor"] <= oldest.first
        )
        self._winners = commits if complete else []
        self._meet(self._winners, rows)
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
        commits, damage = commits_of(rows if head > after else (), after, previous)
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
