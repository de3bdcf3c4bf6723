"""The local backend: objects are files below one folder."""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TypeVar

from statepath.backend import (
    ALWAYS,
    Blob,
    Capabilities,
    Entry,
    ETag,
    LazyWrite,
    Span,
    StateURL,
    When,
    handed,
    in_thread,
)
from statepath.errors import ClosedError, NotFoundError, ReadOnlyError, StoreLockedError

from statepath_local.config import LocalConfig, parse
from statepath_local.failures import SCHEME, failing
from statepath_local.journal import LocalCommitLog
from statepath_local.listing import Listing
from statepath_local.lock import WriterLock, give_back
from statepath_local.objects import PAUSE, Objects
from statepath_local.port import Port
from statepath_local.root import Root
from statepath_local.segments import JOURNAL
from statepath_local.tree import LOCK, TEMPORARY, Tree

T = TypeVar("T")

_THREADS = 4
_PAGE = 512
_CLOSED = "the store is closed"
_FORKED = "this handle belongs to the process that this one was forked from; open the store again here"


class LocalBackend:
    """One opened state path. Every call runs in a thread of its own small pool, never on the event loop."""

    capabilities = Capabilities(
        durable=True,
        shared=True,
        exclusive=True,
        sharing=True,
        editable=True,
        commit_log=True,
        streams=True,
        append=True,
        lazy_writes=True,
        copy=True,
        space=True,
    )

    def __init__(self, path: str, tree: Tree, lock: WriterLock | None, pool: ThreadPoolExecutor) -> None:
        self.url = path
        self._tree = tree
        self._lock = lock
        self._pool = pool
        self._closed: str | None = None
        self._objects = Objects(tree)
        self._listing = Listing(tree, doubtful=lock is not None and lock.doubtful)
        self._log = LocalCommitLog(tree, self, lock)
        self._maintains = -1
        self.joined = lock is not None and lock.shared
        self._objects.shared = self.joined
        _handles.add(self)

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await self.run(partial(self._objects.read, key, span), key)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._change(partial(self._objects.write, key, (data,), when), key)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._change(partial(self._objects.delete, key, when), key)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        pages = _Pages(self._listing.entries(prefix, after))
        ahead = asyncio.ensure_future(self.run(pages.next))
        try:
            while page := await ahead:
                # The next page is drawn while the caller has this one.
                ahead = asyncio.ensure_future(self.run(pages.next))
                for entry in page:
                    yield entry
        finally:
            ahead.cancel()
            self.finish(pages.close)

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await self._change(partial(self._objects.write, key, chunks, when, pause=PAUSE), key)

    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        await self._change(partial(self._objects.write_at, key, offset, data, cut=cut), key)

    async def write_lazily(
        self, items: Iterable[LazyWrite], *, keep: Callable[[str, bytes], bool] | None = None
    ) -> None:
        await self._change(partial(self._objects.write_lazily, items, keep))

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await self._change(partial(self._objects.copy, source, target, when), source)

    async def free_bytes(self) -> int:
        return await self.run(self._objects.free_bytes)

    async def announce(self) -> None:
        if self._lock is not None and self._lock.shareable:
            await self._change(self._lock.announce)

    async def share(self) -> None:
        self.check_open()
        self._listing.doubtful = False
        if not self._objects.shared and self._lock is not None and self._lock.shareable:
            # First, since it holds for those who are let in.
            self._objects.shared = True
            await self._log.share()

    async def believe(self) -> None:
        if self._lock is not None and self._lock.doubtful:
            await self._change(self._lock.believe)

    async def maintain(self) -> bool:
        return await self._change(self._maintain)

    def _maintain(self) -> bool:
        if self._maintains >= 0:
            return True
        port = self._tree.port
        with failing(TEMPORARY):
            folder = self._tree.folder([TEMPORARY], create=True)
            try:
                port.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                port.close(folder)
                return False
            except BaseException:
                port.close(folder)
                raise
        self._maintains = folder
        if self._lock is not None:
            with suppress(OSError):
                self._tree.remove_stale_temporaries(self._lock.is_over)
        return True

    async def is_alone(self) -> bool:
        return self._lock is not None and await self._change(self._lock.is_alone)

    def refusal(self, why: str) -> StoreLockedError:
        assert self._lock is not None  # noqa: S101 - it is asked of writers
        return self._lock.refusal(why)

    def _end_maintenance(self) -> None:
        folder, self._maintains = self._maintains, -1
        if folder >= 0:
            give_back(self._tree.port, folder)

    def commit_log(self) -> LocalCommitLog:
        self.check_open()
        return self._log

    async def close(self) -> None:
        if self._closed is None:
            self._closed = _CLOSED
            try:
                self._log.wake()
            finally:  # whose event loop has ended cannot be woken
                await in_thread(self.release)

    def release(self) -> None:
        """Let running calls end, then give everything back, the lock last. Blocking."""
        self._closed = self._closed or _CLOSED
        self._log.close()
        self._pool.shutdown()
        self._objects.close()
        self._end_maintenance()
        if self._lock is not None:
            if self._tree.lacks(JOURNAL, TEMPORARY):  # nothing was ever written
                self._lock.abandon(self._tree)
            else:
                self._lock.end()
        self._tree.close()

    def check_open(self, key: str | None = None) -> None:
        if self._closed is not None:
            raise ClosedError(self._closed, key=key, backend=SCHEME)

    def submit(self, call: Callable[[], object]) -> None:
        """Run the call in the background; used by the log while it is open.

        Raises:
            RuntimeError: no thread makes it: the main thread has ended, and Python's executors with it, or there are
                too many.
        """
        handed(self._pool.submit, call)

    def finish(self, call: Callable[[], object]) -> None:
        """Run the call as the end of something, which may come after the end of the handle."""
        try:
            handed(self._pool.submit, call)
        except RuntimeError:
            call()

    async def run(self, call: Callable[[], T], key: str | None = None) -> T:
        self.check_open(key)
        return await in_thread(call, self._pool)

    async def _change(self, call: Callable[[], T], key: str | None = None) -> T:
        self.check_open(key)
        if self._lock is None:
            raise ReadOnlyError("the store was opened with readonly=True", key=key, backend=SCHEME)
        return await self.run(call)

    def disown(self) -> None:
        """In a forked child: its threads are gone, and the lock is the parent's."""
        if self._closed is None:
            self._closed = _FORKED
            self._log.disown()
            if self._maintains >= 0:
                self._tree.port.close(self._maintains)
                self._maintains = -1
            if self._lock is not None:
                self._lock.release()


class _Pages:
    """A listing, drawn in worker threads. One that was cancelled may still be drawing when it is closed."""

    def __init__(self, entries: Generator[Entry, None, None]) -> None:
        self._entries = entries
        self._drawing = threading.Lock()

    def next(self) -> list[Entry]:
        with self._drawing:
            return list(islice(self._entries, _PAGE))

    def close(self) -> None:
        with self._drawing:
            self._entries.close()


_handles: weakref.WeakSet[LocalBackend] = weakref.WeakSet()


def _disown_all() -> None:
    for handle in list(_handles):
        handle.disown()


os.register_at_fork(after_in_child=_disown_all)


class LocalFactory:
    """Finds the folder that a state path names, and opens it."""

    def __init__(self, port: Port | None = None) -> None:
        self._port = port or Port()

    def parse(self, url: StateURL) -> LocalConfig:
        """The configuration of a plain path or a file URL.

        Raises:
            InvalidArgumentError: the URL names no folder of this machine, or has parameters.
        """
        return parse(url)

    def with_env(self, config: LocalConfig, env: Mapping[str, str]) -> LocalConfig:
        """The configuration itself: nothing of it comes from the environment."""
        return config

    async def connect(self, config: LocalConfig, *, readonly: bool = False) -> LocalBackend:
        """Open the folder. A writer makes it where it is missing, and leaves nothing behind if that fails. To
        a reader a missing folder is an empty store.

        Raises:
            InvalidArgumentError: the path is a file, or a link that leads nowhere.
            AccessDeniedError: the folder may not be read, or not be written.
            StoreLockedError: another writer has it.
            UnavailableError: the disk is full (`disk_full`), or failed.
        """
        path = config.resolve()
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="statepath-local")
        unwanted = threading.Event()
        open_folder = partial(_open, path, self._port, pool, unwanted, readonly=readonly)
        opening: Future[LocalBackend] | None = None
        try:
            try:
                opening = handed(pool.submit, open_folder)
            except RuntimeError:  # as in `in_thread`
                return open_folder()
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            unwanted.set()
            if opening is not None:
                opening.add_done_callback(_abandon)
            raise
        except BaseException:
            pool.shutdown(wait=False)
            raise


def _abandon(opening: Future[LocalBackend]) -> None:
    """Give back what was opened for a caller that has gone."""
    if not opening.cancelled() and opening.exception() is None:
        threading.Thread(target=opening.result().release, name="statepath-abandon").start()


def _open(
    path: str, port: Port, pool: ThreadPoolExecutor, unwanted: threading.Event, *, readonly: bool
) -> LocalBackend:
    root = Root(port, path)
    try:
        tree = Tree(port, path, root.open(create=not readonly))
    except NotFoundError:
        if not readonly:
            raise
        tree = Tree(port, path, None)
    lock: WriterLock | None = None
    try:
        if not readonly:
            with failing(f"{path}/{LOCK}"):
                lock = WriterLock.acquire(tree, unwanted)
            with failing(path):
                tree.remove_stale_temporaries(lock.is_over if lock.shared else None)
        return LocalBackend(path, tree, lock, pool)
    except BaseException:
        if lock is not None:
            lock.abandon(tree)
        tree.close()
        root.take_back()
        raise
