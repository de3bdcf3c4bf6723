"""The local commit log: the writer's thread and the readers' cursors behind one async face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

from statepath.backend import Commit
from statepath.errors import ReadOnlyError

from statepath_local.cursor import Cursor
from statepath_local.failures import SCHEME, failing
from statepath_local.lock import WriterLock, durable_limit
from statepath_local.segments import JOURNAL, list_segments, segment_name
from statepath_local.tree import Tree
from statepath_local.writer import Writer

T = TypeVar("T")

_SHORTEST_POLL = 0.01
_LONGEST_POLL = 0.5


class Worker(Protocol):
    """Runs blocking calls in the backend's threads; refuses when the handle is closed."""

    def submit(self, call: Callable[[], object]) -> object: ...

    def run(self, call: Callable[[], T]) -> Awaitable[T]: ...

    def check_open(self) -> None: ...


class LocalCommitLog:
    """The journal of one state path. With a `lock` it can be written, else it is read beside its writer."""

    def __init__(self, tree: Tree, worker: Worker, lock: WriterLock | None) -> None:
        self._tree = tree
        self._worker = worker
        self._followers: set[asyncio.Future[None]] = set()
        self._writer = None if lock is None else Writer(tree, lock, worker.submit)

    async def append(self, after: int, commit: Commit) -> None:
        writer = self._writable()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        writer.submit(partial(writer.append, after, commit), partial(self._settle, done))
        await done

    async def restart(self, after: int) -> list[str]:
        """Give up what the journal holds, and begin anew behind the seq. The old segments are kept under the
        keys that are returned."""
        writer = self._writable()
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        writer.submit(partial(writer.restart, after), partial(self._settle, done))
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
        for follower in self._followers:
            _wake(follower)

    def _limit(self) -> int | None:
        return durable_limit(self._tree) if self._writer is None else self._writer.limit()

    async def read(self, after: int) -> AsyncIterator[Commit]:
        cursor = Cursor(self._tree, after, self._limit)
        try:
            async for commit in self._read(cursor):
                yield commit
        finally:
            cursor.close()

    async def _read(self, cursor: Cursor) -> AsyncIterator[Commit]:
        while True:
            while found := await self._worker.run(cursor.next):
                for each in found:
                    yield each.record.commit
            damage = await self._worker.run(cursor.damage)
            if damage is None:
                return
            found = await self._worker.run(cursor.next)
            if not found:
                raise damage
            for each in found:
                yield each.record.commit

    async def follow(self, after: int) -> AsyncIterator[Commit]:
        cursor = Cursor(self._tree, after, self._limit)
        pause = _SHORTEST_POLL
        try:
            async for commit in self._read(cursor):
                yield commit
            while True:
                woken = self._wake_up_call()
                found = await self._worker.run(cursor.next)
                if found:
                    pause = _SHORTEST_POLL
                    for each in found:
                        yield each.record.commit
                    continue
                if await self._worker.run(cursor.has_later_segments):
                    async for commit in self._read(cursor):
                        yield commit
                await self._wait(woken, pause)
                pause = min(2 * pause, _LONGEST_POLL)
        finally:
            cursor.close()

    def _wake_up_call(self) -> asyncio.Future[None] | None:
        if self._writer is None:
            return None
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._followers.add(woken)
        woken.add_done_callback(self._followers.discard)
        return woken

    async def _wait(self, woken: asyncio.Future[None] | None, pause: float) -> None:
        if woken is None:
            await asyncio.sleep(pause)
        else:
            await woken

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
                    port.unlink(segment_name(first), within=journal)
                port.fsync_dir(journal)
            finally:
                port.close(journal)

    def close(self) -> None:
        """Finish what was handed in, cut the segment off, stop the thread. Blocking."""
        if self._writer is not None:
            self._writer.close()
        for follower in list(self._followers):
            with suppress(RuntimeError):
                follower.get_loop().call_soon_threadsafe(_wake, follower)


def _wake(follower: asyncio.Future[None]) -> None:
    if not follower.done():
        follower.set_result(None)
