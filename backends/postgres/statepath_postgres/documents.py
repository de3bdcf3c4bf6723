"""The documents as rows: a view of the log, written right behind it, in which queries look.

Whoever writes to the store brings the view up to date, a batch of commits at a time; of several that do so at once each
waits for the other and goes on from there, and while somebody else does it, leaves it to them. The view says which seq
it shows, and a query asks for that in the same statement: so it may be behind, but never lies.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from statepath.backend import (
    Append,
    Body,
    Commit,
    Delete,
    Filter,
    Put,
    Shown,
    append_items,
    decode_changes,
    microseconds,
)
from statepath.errors import HistoryTrimmedError, InvalidArgumentError, StateError

from statepath_postgres.conditions import condition
from statepath_postgres.connections import HOLD, Connection, Connections, in_transaction
from statepath_postgres.exact import keeps
from statepath_postgres.failures import took_too_long, worth_repeating
from statepath_postgres.rows import CHANGE_BYTES, STATEMENT_BYTES, Rows, parts

_log = logging.getLogger("statepath.postgres")

_BATCH_BYTES: Final = STATEMENT_BYTES
_KEPT_BYTES: Final = 32 * 1024 * 1024
"""How much of what was met here is kept until the view shows it; more is read from the log again."""

_PACE: Final = 0.2  # seconds that the view may be behind while nobody asks
_PAUSE: Final = 1.0  # seconds, after a failure
_CLOSING: Final = 5.0  # seconds
PATIENCE: Final = 10.0
"""For how many seconds the view is waited for."""

_MAKE: Final = "INSERT INTO statepath.views (store) VALUES ($1) ON CONFLICT (store) DO NOTHING"
# A view need not survive a crash to be right: what is lost of it is written again.
_BEGIN: Final = f"SELECT set_config('synchronous_commit', 'off', true), {HOLD}"
_LOCK: Final = "SELECT shown FROM statepath.views WHERE store = $1 FOR UPDATE"
_SHOWN: Final = """
SELECT coalesce((SELECT shown FROM statepath.views WHERE store = $1), 0) AS shown, head, floor
FROM statepath.stores WHERE id = $1
"""
_STANDS: Final = "SELECT EXISTS (SELECT FROM statepath.log WHERE store = $1 AND id = $2)"
_SHOW: Final = "UPDATE statepath.views SET shown = $2 WHERE store = $1"
# By where they are, as where the log is trimmed.
_CLEAR: Final = """
WITH gone AS (
    DELETE FROM statepath.documents WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM statepath.documents
        WHERE store = $1 AND (collection, id) > ($2, $3) ORDER BY collection, id LIMIT $4
    ))
    RETURNING collection, id
)
SELECT collection, id FROM gone ORDER BY collection DESC, id DESC LIMIT 1
"""
_CLEARED: Final = 20_000
"""How many documents one statement takes out of the view: `statement_timeout` is for each."""

_DELETE: Final = """
DELETE FROM statepath.documents d USING unnest($2::text[], $3::text[]) AS gone (collection, id)
WHERE d.store = $1 AND d.collection = gone.collection AND d.id = gone.id
"""
# One field at a time, in order; a list that is not there yet begins.
_APPEND: Final = """
UPDATE statepath.documents d
SET version = more.version, modified = 'epoch'::timestamptz + more.modified * interval '1 microsecond',
    data = jsonb_set(d.data, ARRAY[more.field], coalesce(nullif(d.data -> more.field, 'null'), '[]') || more.items)
FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::jsonb[])
    AS more (collection, id, version, modified, field, items)
WHERE d.store = $1 AND d.collection = more.collection AND d.id = more.id
"""
# Those to which jsonb alone cannot append so that the document can be given back.
_HELD: Final = """
SELECT d.collection, d.id, coalesce(d.exact, convert_to(d.data::text, 'UTF8')) AS document
FROM unnest($2::text[], $3::text[], $4::boolean[]) AS more (collection, id, exactly)
JOIN statepath.documents d ON d.store = $1 AND d.collection = more.collection AND d.id = more.id
WHERE more.exactly OR d.exact IS NOT NULL
"""
_FIND: Final = """
SELECT v.shown, d.id FROM statepath.views v LEFT JOIN LATERAL (
    SELECT id FROM statepath.documents WHERE store = $1 AND collection = $2 AND {condition}
    UNION ALL
    SELECT id FROM statepath.documents WHERE store = $1 AND collection = $2 AND data IS NULL
) d ON true
WHERE v.store = $1
"""


@dataclass(slots=True)
class _Change:
    """What a batch of commits makes of one document. `modified`: in microseconds since 1970; `put`: its bytes, and
    `None` where it stays or goes."""

    version: int
    modified: int
    put: bytes | None = None
    deleted: bool = False
    appended: dict[str, list[bytes]] = field(default_factory=dict)

    def absorb(self, document: bytes) -> None:
        """Make one document of the stored one and what is appended to it."""
        for name, items in self.appended.items():
            document = append_items(document, name, items)
        self.put, self.appended = document, {}


Batch = dict[tuple[str, str], _Change]


class Documents:
    """The view of one store. `read` gives the commits behind a seq, `body` the bytes of an object."""

    def __init__(
        self,
        connections: Connections,
        *,
        read: Callable[[int], AsyncIterator[Commit]],
        body: Callable[[str], Awaitable[bytes]],
    ) -> None:
        self._connections = connections
        self._read = read
        self._body = body
        self._recent: deque[tuple[Commit, int]] = deque()
        self._recent_bytes = 0
        self._own_bytes = 0
        self._rest: dict[int, AsyncIterator[Commit]] = {}
        """What follows a seq: the log is read in larger parts than are shown at once."""

        self._known = -1
        self.stuck = False
        """Whether what follows has to be told by somebody who has the documents: the log does not have it."""

        self._wanted = 0
        self._waiting = 0
        self._seen = -1
        self._more = asyncio.Event()
        self._urgent = asyncio.Event()
        self._shown = asyncio.Condition()
        self._refusals = 0
        """In a row, of what the server would refuse again. Behind the first one whoever waits does so in vain."""

        self.failure: StateError | None = None
        """Why the last attempt to bring the view up to date failed."""

        self._task: asyncio.Task[None] | None = None
        self._ended = False
        self._all: tuple[int, Iterable[Shown]] | None = None

    def start(self, store: int) -> None:
        """Begin to follow the log."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow(store), name="statepath-documents")

    def met(self, commit: Commit, size: int) -> None:
        """A commit of somebody else is durable, who shows it; or who commits behind it does."""
        self._recent.append((commit, size))
        self._recent_bytes += size
        while self._recent_bytes > _KEPT_BYTES:
            self._recent_bytes -= self._recent.popleft()[1]

    def committed(self, commit: Commit, size: int) -> None:
        """A commit of this handle is durable."""
        self.met(commit, size)
        self._want(commit.last)
        self._own_bytes += size
        if self._own_bytes >= _BATCH_BYTES:
            self._own_bytes = 0
            self._urgent.set()

    def show(self, seq: int, documents: Iterable[Shown]) -> None:
        """What the documents are as of a seq, in case the log does not reach back to what the view shows."""
        self._all = (seq, documents)
        self.stuck = False
        self._refusals = 0
        self._want(seq)

    async def settle(self, seq: int) -> bool:
        """Whether the view shows the seq, perhaps after a while; not while it cannot be written."""
        if self._known >= seq:
            return True
        if self._task is None or self._ended:
            return False
        self._want(seq)
        self._urgent.set()
        self._waiting += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE), self._shown:
                    await self._shown.wait_for(
                        lambda: self._known >= seq or self.stuck or self._refusals > 1 or self._ended
                    )
        finally:
            self._waiting -= 1
        return self._known >= seq

    def doubt(self, shown: int) -> None:
        """The view was seen to show this: a crash of the server may have taken it back behind what is remembered."""
        self._known = min(self._known, shown)

    async def find(
        self, store: int, collection: str, where: Filter, seq: int, *, readonly: bool
    ) -> frozenset[str] | None:
        said = condition(where, first=3)
        if said is None or not said.indexed:
            return None
        statement = _FIND.replace("{condition}", said.sql)
        if not readonly and not await self.settle(seq):
            return None
        try:
            rows = await self._connections.fetch(statement, store, collection, *said.arguments)
        except StateError as error:
            _log.warning(
                "a query could not be answered by the database, and is answered without it: %s", error
            )
            return None
        if not rows or rows[0]["shown"] != seq:
            self.doubt(rows[0]["shown"] if rows else -1)
            return None
        return frozenset([row["id"] for row in rows if row["id"] is not None])

    async def close(self) -> None:
        """Stop. What the view does not show yet, it will show when the store is opened again."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        try:
            await asyncio.wait([task], timeout=_CLOSING)
        finally:
            if not task.done():
                self._connections.cut_off()  # it waits for a server that is silent

    def _want(self, seq: int) -> None:
        self._wanted = max(self._wanted, seq)
        self._more.set()

    async def _follow(self, store: int) -> None:
        try:
            await self._run(store)
        finally:  # also where it was cancelled by others: asyncio.run cancels all tasks at its end
            self._ended = True
            await self._wake()

    async def _run(self, store: int) -> None:
        while True:
            self._more.clear()
            self._urgent.clear()
            try:
                await self._catch_up(store)
            except Exception as error:  # noqa: BLE001 - each is told, and whoever waits for the view as well
                if self._task is None:
                    return  # `close` ended it, and what it rolled back then failed
                await self._fail(error)
            else:
                self._refusals = 0
                self.failure = None
            self._rest = {}
            await self._more.wait()
            # Many commits at once are cheaper to show than each, and delay the next ones less.
            with suppress(TimeoutError):
                async with asyncio.timeout(_PACE):
                    await self._urgent.wait()

    async def _fail(self, error: Exception) -> None:
        if not isinstance(error, StateError):
            _log.error("the documents in %s cannot be shown", self._connections.url, exc_info=error)
            self._all = None
            await self._tell(self._known, stuck=True)
            return
        before, self.failure = self.failure, error
        refused = took_too_long(error) or not worth_repeating(error)
        # It is tried again each second, and may be so for days.
        level = logging.WARNING if refused and str(error) != str(before) else logging.DEBUG
        _log.log(level, "the documents in %s are behind the log for now: %s", self._connections.url, error)
        if refused:
            self._refusals += 1
            await self._wake()
        self._more.set()
        await asyncio.sleep(_PAUSE)

    async def _catch_up(self, store: int) -> None:
        """Show everything that is wanted now."""
        target = self._wanted
        while True:
            given = self._all
            if not (rows := await self._connections.fetch(_SHOWN, store)):
                return
            shown, head, floor = rows[0]
            if shown >= 0 and shown + 1 >= floor:
                await self._tell(shown)
                moved, self._seen = -1 < self._seen < shown, shown
                if shown >= (target or head):
                    self._spend(given)
                    return
                if moved and not self._waiting:
                    self._forget(shown)
                    self._more.set()
                    return
                if await self._step(store, shown):
                    self._spend(given)
                    continue
            # What is given may be of no use: the log was begun anew meanwhile, and needs what is as of that.
            if self._all is None or self._all[0] + 1 < floor or self._all[0] <= shown:
                await self._tell(shown, stuck=True)
                return
            await self._refill(store, *self._all)
            self._seen = self._all[0]

    def _spend(self, given: tuple[int, Iterable[Shown]] | None) -> None:
        """Let go of what was given, unless more was given meanwhile: that is for a log which was not looked at yet."""
        if self._all is given:
            self._all = None

    async def _step(self, store: int, shown: int) -> bool:
        """Show the next batch of commits; whether the log has them."""
        self._forget(shown)
        batch: Batch = {}
        rest, self._rest = self._rest.get(shown), {}
        newest = None if rest is None else await self._gather(batch, rest)
        newest = newest or await self._gather(batch, self._commits(shown))
        if newest is None:
            return False
        await self._write(store, shown, newest, batch)
        self._seen = newest.last
        return True

    async def _gather(self, batch: Batch, commits: AsyncIterator[Commit]) -> Commit | None:
        """Fold as many of the commits as make a batch; the last of them."""
        newest: Commit | None = None
        size = 0
        with suppress(HistoryTrimmedError):
            async for commit in commits:
                size += await self._fold(batch, commit)
                newest = commit
                if size >= _BATCH_BYTES:
                    self._rest = {commit.last: commits}
                    break
        return newest

    def _forget(self, shown: int) -> None:
        """What the view shows need not be kept."""
        while self._recent and self._recent[0][0].last <= shown:
            self._recent_bytes -= self._recent.popleft()[1]

    async def _commits(self, shown: int) -> AsyncIterator[Commit]:
        """What follows, from memory where it is there."""
        if self._recent and self._recent[0][0].first == shown + 1:
            for commit, _ in list(self._recent):
                if commit.first != shown + 1:
                    return
                yield commit
                shown = commit.last
            return
        async for commit in self._read(shown):
            yield commit

    async def _fold(self, batch: Batch, commit: Commit) -> int:
        """Add what a commit does to what those before it did; how many bytes that takes."""
        modified = microseconds(commit.time)
        size = 0
        for version, transaction in enumerate(commit.transactions, commit.first):
            if isinstance(transaction, Body):
                transaction = decode_changes(await self._body(transaction.key))  # noqa: PLW2901 - its changes
            for change in transaction:
                size += CHANGE_BYTES
                if isinstance(change, Put):
                    document = bytes(change.document)
                    size += len(document)
                    batch[change.collection, change.id] = _Change(version, modified, document)
                elif isinstance(change, Delete):
                    batch[change.collection, change.id] = _Change(version, modified, deleted=True)
                elif isinstance(change, Append):
                    value = bytes(change.value)
                    size += len(value)
                    entry = batch.setdefault((change.collection, change.id), _Change(version, modified))
                    entry.version, entry.modified = version, modified
                    entry.appended.setdefault(change.field, []).append(value)
        return size

    async def _write(self, store: int, shown: int, newest: Commit, batch: Batch) -> None:
        """Show the batch, which ends with that commit, unless somebody else has shown it meanwhile."""
        try:
            await self._transact(store, shown, newest, batch)
        except InvalidArgumentError as error:
            # jsonb refused one of them, which none of them looks like: leave out all contents of the batch.
            _log.warning(
                "some documents in %s cannot be found by the database: %s", self._connections.url, error
            )
            await self._transact(store, shown, newest, batch, blank=True)

    async def _transact(
        self, store: int, shown: int, newest: Commit, batch: Batch, *, blank: bool = False
    ) -> None:
        async with self._connections.use() as connection, in_transaction(connection):
            if await _lock(connection, store) != shown:
                return
            if not await connection.fetchval(_STANDS, store, newest.id):
                # The server lost it in a fail-over: what is remembered is of no account.
                self._recent.clear()
                self._recent_bytes = 0
                return
            await _take_in(connection, store, batch, all_exactly=blank)
            for statement, arguments in _statements(batch, blank=blank):
                await connection.execute(statement, store, *arguments)
            await connection.execute(_SHOW, store, newest.last)

    async def _refill(self, store: int, seq: int, documents: Iterable[Shown]) -> None:
        """Show the documents that are given instead of what there is, unless that is as new."""
        async with self._connections.use() as connection, in_transaction(connection):
            if await _lock(connection, store) >= seq:
                return  # somebody else has filled it meanwhile
            last = "", ""
            while last is not None:
                last = await connection.fetchrow(_CLEAR, store, *last, _CLEARED)
            items = iter(documents)
            while some := await asyncio.to_thread(_draw, items):
                for statement, arguments in some.statements():
                    await connection.execute(statement, store, *arguments)
            await connection.execute(_SHOW, store, seq)

    async def _tell(self, shown: int, *, stuck: bool = False) -> None:
        if shown > self._known:
            self._refusals = 0
        self._known, self.stuck = shown, stuck
        await self._wake()

    async def _wake(self) -> None:
        async with self._shown:
            self._shown.notify_all()


async def _lock(connection: Connection, store: int) -> int:
    """Have the view for oneself until the end of the transaction; the seq that it shows."""
    await connection.execute(_BEGIN)
    shown = await connection.fetchval(_LOCK, store)
    if shown is None:
        await connection.execute(_MAKE, store)
        shown = await connection.fetchval(_LOCK, store)
    return int(shown)


async def _take_in(connection: Connection, store: int, batch: Batch, *, all_exactly: bool) -> None:
    """Make a whole document of what is appended to one that jsonb alone cannot give back."""
    appended = {key: change for key, change in batch.items() if change.appended}
    for change in appended.values():
        if change.put is not None:
            change.absorb(change.put)
    more = [
        (*key, all_exactly or any(not keeps(item) for items in change.appended.values() for item in items))
        for key, change in appended.items()
        if change.appended
    ]
    if more:
        for collection, id, document in await connection.fetch(_HELD, store, *_columns(more)):
            batch[collection, id].absorb(document)


def _statements(batch: Batch, *, blank: bool = False) -> Iterator[tuple[str, list[Any]]]:
    """The statements that bring the rows up to date, in order."""
    gone = [key for key, change in batch.items() if change.deleted]
    put = Rows()
    for (collection, id), change in batch.items():
        if change.put is not None:
            put.add(collection, id, change.version, change.modified, change.put, blank=blank)
    for keys in parts(gone, lambda _: CHANGE_BYTES):
        yield _DELETE, _columns(keys)
    yield from put.statements()
    place = 0
    while more := [
        (collection, id, change.version, change.modified, *list(change.appended.items())[place])
        for (collection, id), change in batch.items()
        if len(change.appended) > place
    ]:
        for part in parts(more, lambda row: CHANGE_BYTES + sum(map(len, row[5]))):
            columns = _columns(part)
            columns[5] = [f"[{b','.join(items).decode()}]" for items in columns[5]]
            yield _APPEND, columns
        place += 1


def _draw(items: Iterator[Shown]) -> Rows | None:
    """The next documents, of about as many bytes as a batch has; `None`: there are no more."""
    drawn = Rows()
    size = 0
    for item in items:
        drawn.add(*item)
        size += CHANGE_BYTES + len(item.document)
        if size >= _BATCH_BYTES:
            break
    return drawn if size else None


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
