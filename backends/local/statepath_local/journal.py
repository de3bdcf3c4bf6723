"""The local commit log: the writer's thread and the readers' cursors behind one async face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from statepath.backend import Commit
from statepath.errors import ReadOnlyError

from statepath_local.cursor import Cursor, Found
from statepath_local.failures import SCHEME, failing
from statepath_local.lock import WriterLock, durable_limit
from statepath_local.notices import Notices
from statepath_local.segments import JOURNAL, list_segments, newest, segment_name
from statepath_local.tree import Tree
from statepath_local.writer import Writer

T = TypeVar("T")


class Worker(Protocol):
    """Runs blocking calls in the backend's threads; refuses when the handle is closed."""

    def submit(self, call: Callable[[], object]) -> object: ...

    def run(self, call: Callable[[], T]) -> Awaitable[T]: ...

    def finish(self, call: Callable[[], object]) -> None: ...

    def check_open(self) -> None: ...


class LocalCommitLog:
    """The journal of one state path. With a `lock` it can be written, else it is read beside its writer."""

    def __init__(self, tree: Tree, worker: Worker, lock: WriterLock | None) -> None:
        self._tree = tree
        self._worker = worker
        self._followers: set[asyncio.Event] = set()
        self._lock = lock
        self._writer = None if lock is None else Writer(tree, lock, worker.submit)
        self._under_way = 0
        self._appends_made = 0

    async def append(self, after: int, commit: Commit) -> None:
        await self.extend(after, (commit,))

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        await self._appended(partial(self._writable().append, after, commits))

    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        """As `SupportsPlacing.place`."""
        return await self._appended(partial(self._writable().place, after, commit))

    async def restart(self, after: int) -> list[str]:
        """Give up what the journal holds, and begin anew behind the seq. The old segments are kept under the
        keys that are returned."""
        return await self._done(partial(self._writable().restart, after))

    async def share(self) -> None:
        """Let other writers in."""
        await self._done(self._writable().share)

    async def _appended(self, call: Callable[[], T]) -> T:
        self._under_way += 1
        try:
            return await self._done(call)
        finally:
            self._under_way -= 1
            self._appends_made += 1

    async def _done(self, call: Callable[[], T]) -> T:
        """What the writer's thread has made of the call."""
        writer = self._writable()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        writer.submit(call, partial(self._settle, done))
        return await done

    def _writable(self) -> Writer:
        self._worker.check_open()
        if self._writer is None:
            raise ReadOnlyError("the store was opened with readonly=True", backend=SCHEME)
        return self._writer

    def _settle(self, done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        # The writer's thread calls this, and the loop may be closed by then.
        with suppress(RuntimeError):
            done.get_loop().call_soon_threadsafe(self._settled, done, result, error)

    def _settled(self, done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(result)
            else:
                done.set_exception(error)
        self.wake()

    async def _open(self) -> None:
        if self._writer is not None:
            await self._worker.run(self._writer.open)

    def _limit(self) -> int | None:
        return durable_limit(self._tree) if self._writer is None else self._writer.limit()

    def _cursor(self, after: int) -> Cursor:
        known = None if self._writer is None else self._writer.place_behind(after)
        return Cursor(self._tree, after, self._limit, known)

    async def read(self, after: int) -> AsyncIterator[Commit]:
        self._worker.check_open()
        if self._ends_with(after):
            return
        await self._open()
        cursor = self._cursor(after)
        try:
            async with aclosing(self._to_the_end(cursor, thorough=cursor.is_new)) as batches:
                async for batch in batches:
                    for found in batch:
                        yield found.record.commit
            if self._writer is None:
                return
            if (damage := self._writer.damage(after)) is not None:
                raise damage
            if (place := cursor.place()) is not None:
                self._writer.remember(place)
        finally:
            self._worker.finish(cursor.close)

    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        await self._open()
        cursor = self._cursor(after)
        woken = asyncio.Event()
        self._followers.add(woken)
        notices = None if self._is_alone else Notices(self._tree, woken, self._appends)
        thorough, due = True, False
        try:
            while True:
                # Before the look, so that what comes behind it is not missed.
                woken.clear()
                self._worker.check_open()
                if known is not None and not thorough and self._skip(cursor, known(), due=due):
                    due = await self._rest(woken, notices)
                    continue
                async with aclosing(self._to_the_end(cursor, thorough=thorough)) as batches:
                    async for batch in batches:
                        if notices is not None:
                            notices.met()
                        for found in batch:
                            yield found.record.commit
                thorough = False
                if self._writer is not None and (place := cursor.place()) is not None:
                    self._writer.remember(place)
                due = await self._rest(woken, notices)
        finally:
            self._followers.discard(woken)
            if notices is not None:
                notices.end()
            self._worker.finish(cursor.close)

    async def _rest(self, woken: asyncio.Event, notices: Notices | None) -> bool:
        """Until somebody may have committed, or it is time to look; whether it is."""
        before = self._appends_made
        try:
            async with asyncio.timeout(None if notices is None else notices.pause()):
                await woken.wait()
        except TimeoutError:
            return True
        if notices is not None:
            await notices.lull(own=self._appends_made > before)
        return False

    def _skip(self, cursor: Cursor, known: int, *, due: bool) -> bool:
        """Have the cursor go on behind the seq, if that is further; whether nothing has to be read for now: nothing
        more is durable, or this handle appends, and meets itself what others do, unless a look is due."""
        if self._writer is not None and known > cursor.last:
            place = self._writer.place_behind(known)
            if place is not None:
                cursor.skip(place)
        return (self._appends() and not due) or self._ends_with(known)

    def _appends(self) -> bool:
        """Whether this handle appends just now; when that is settled, its followers are woken."""
        return self._under_way > 0

    def _ends_with(self, seq: int) -> bool:
        """Whether the last durable commit is one that was met, and ends with the seq: a look at what is in memory."""
        if self._writer is None or self._writer.place_behind(seq) is None:
            return False
        return self._writer.limit() == seq

    @property
    def _is_alone(self) -> bool:
        """Whether nobody else may write."""
        return self._lock is not None and not self._lock.shared

    async def _to_the_end(self, cursor: Cursor, *, thorough: bool) -> AsyncGenerator[list[Found], None]:
        """What can be read now. `thorough`: look for records behind a place that cannot be read, even if no later
        segment suggests it."""
        while True:
            while batch := await self._worker.run(partial(self._next, cursor)):
                yield batch
            if not thorough and not cursor.behind:
                return
            damage = await self._worker.run(cursor.damage)
            if damage is None:
                return
            batch = await self._worker.run(cursor.next)
            if not batch:
                raise damage
            yield batch

    def _next(self, cursor: Cursor) -> list[Found]:
        if self._writer is None:
            # What was moved away has an end that nobody continues: it would look as if nothing happened.
            with failing(JOURNAL):
                self._tree.check_in_place()
        return cursor.next()

    async def newest(self) -> tuple[int, str]:
        """As `SupportsNewest.newest`."""
        return await self._worker.run(partial(newest, self._tree))

    async def trim(self, upto: int) -> None:
        self._writable()
        await self._worker.run(partial(self._trim, upto))

    def _trim(self, upto: int) -> None:
        port = self._tree.port
        with failing(JOURNAL):
            try:
                journal = self._tree.folder([JOURNAL])
            except FileNotFoundError:
                return
            try:
                firsts = list_segments(port, journal)
                for first, behind in pairwise(firsts):
                    if behind - 1 > upto:
                        break
                    with suppress(FileNotFoundError):  # another one trims, too
                        port.unlink(segment_name(first), within=journal)
                port.fsync_dir(journal)
            finally:
                port.close(journal)

    def close(self) -> None:
        """Finish what was handed in, cut the segment off, stop the thread. Blocking."""
        if self._writer is not None:
            self._writer.close()

    def disown(self) -> None:
        """In a forked child: what is locked stays the parent's."""
        if self._writer is not None:
            self._writer.disown()

    def wake(self) -> None:
        """Let followers look: this handle committed, or is closed."""
        for woken in self._followers:
            woken.set()
