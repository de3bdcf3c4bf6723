"""The blocking facade: the same store for programs without an event loop.

    with statepath.open_sync() as store:
        tasks = store.collection("tasks", Task)
        tasks.put(task)  # durable when it returns

Each method hands its asynchronous namesake to the one event loop of this process, which runs in a thread of
its own while any of these stores is open. The thread is a daemon: a program that forgets to close a store
ends all the same, and finds everything that was acknowledged when it opens the store again.

A store may be used from many threads at once. A call that Ctrl-C interrupts may or may not be applied, but
never half, and the store can be used on; an iterator goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from inspect import iscoroutine
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, cast, overload

from pydantic import BaseModel, JsonValue
from typing_extensions import Unpack

from statepath.archive import ArchivedDocument
from statepath.arguments import check_function, wrong_kind
from statepath.collection import Collection, Document, Json
from statepath.diff import Difference
from statepath.encryption import KeyInfo, Retired, Rotated
from statepath.engine.archiving import Archived
from statepath.engine.cleaning import Cleaned
from statepath.engine.companion import MirrorLag
from statepath.engine.exporting import Exported
from statepath.engine.founding import silent
from statepath.engine.health import Health
from statepath.engine.leases import Holder
from statepath.engine.replay import Damage
from statepath.engine.verification import Finding
from statepath.errors import ClosedError, InvalidArgumentError, UnsupportedError
from statepath.events import Events
from statepath.filters import Filter
from statepath.lease import Lease
from statepath.loopthread import Call, LoopThread, Question
from statepath.merging import OnConflict
from statepath.opening import Opening, open
from statepath.query import Page, Query
from statepath.settings import Settings, SettingsArgs
from statepath.stats import Stats
from statepath.store import Restored, Store
from statepath.transaction import Transaction
from statepath.watch import StateChange

A = TypeVar("A")
M = TypeVar("M", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_READ_AHEAD: Final = 256

_loops = LoopThread()


def _start_anew_after_fork() -> None:
    global _loops  # noqa: PLW0603 - the thread behind it, and perhaps its lock's owner, stayed in the parent
    _loops = LoopThread()


os.register_at_fork(after_in_child=_start_anew_after_fork)


class _Loop:
    """The way into the event loop, for the objects of one store."""

    def __init__(self) -> None:
        self.url = ""
        self._pid = os.getpid()

    @property
    def forked(self) -> bool:
        return os.getpid() != self._pid

    @overload
    def run(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def run(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function in the event loop's thread and wait for its result."""
        self.check()
        with _loops as running:
            return Call(running, partial(fn, *args, **kwargs)).result()

    def run_asking(
        self, fn: Callable[[A], R], start: Callable[[Callable[[A], Awaitable[R]]], Awaitable[T]]
    ) -> T:
        """Run `start(ask)` in the event loop's thread; what it asks, `fn` answers in the caller's thread."""
        self.check()
        check_function(fn, "what is to be called")
        with _loops as running:
            call = Call(running, lambda: start(call.ask))
            return cast("T", call.result(partial(_answer, fn)))

    def check(self) -> None:
        """
        Raises:
            ClosedError: this process was forked from the one that opened the store.
            UnsupportedError: an event loop runs in this thread (`in_event_loop`).
        """
        if self.forked:
            raise ClosedError(
                f"this handle on {self.url} belongs to the process that this one was forked from; "
                "open the store again here"
            )
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        raise UnsupportedError(
            "an event loop runs in this thread, and a blocking call would stop it: use the async API "
            "(async with statepath.open() as store), or make the call in another thread (asyncio.to_thread)",
            code="in_event_loop",
        )


def _answer(fn: Callable[[Any], object], question: Question) -> None:
    try:
        result = _no_coroutine(fn(question.value))
    except StopIteration as error:
        # No future takes a StopIteration; coroutines turn it into a RuntimeError, too.
        failure = RuntimeError("the function raised StopIteration")
        failure.__cause__ = error
        question.settle(None, failure)
    except Exception as error:  # noqa: BLE001 - it is raised again where it was asked for
        question.settle(None, error)
    else:
        question.settle(result)


def _no_coroutine(result: R) -> R:
    """
    Raises:
        InvalidArgumentError: the result is still to come, and nothing would wait for it.
    """
    if not iscoroutine(result):
        return result
    result.close()
    raise InvalidArgumentError(
        "what is to be called must not be async here; the async API takes such a function"
    )


class _Attempt:
    """One attempt to open a store, which may be interrupted at any moment."""

    def __init__(self, opening: Opening[Store]) -> None:
        self._opening = opening
        self._store: Store | None = None
        self._begun = False
        self._ended = asyncio.Event()

    async def open(self) -> Store:
        self._begun = True
        try:
            store: Store = await self._opening
            self._store = store
        finally:
            self._ended.set()
        return store

    async def undo(self) -> None:
        if self._begun:
            await self._ended.wait()
        if self._store is not None:
            await self._store.aclose()


def open_sync(
    path: str | os.PathLike[str] | None = None,
    *,
    readonly: bool = False,
    settings: Settings | None = None,
    events: Events | None = None,
    **overrides: Unpack[SettingsArgs],
) -> SyncStore:
    """Open a store: `with statepath.open_sync() as store: …`, or call `close` yourself.

    Parameters and errors: as `statepath.open`. Listeners of `events` are called in the event loop's thread,
    where they must not use the blocking API.

    Raises:
        UnsupportedError: an event loop runs in this thread (`in_event_loop`): use `statepath.open`.
    """
    loop = _Loop()
    loop.check()
    attempt = _Attempt(open(path, readonly=readonly, settings=settings, events=events, **overrides))
    with ExitStack() as lease:
        lease.enter_context(_loops)
        try:
            store = loop.run(attempt.open)
        except BaseException:
            loop.run(attempt.undo)
            raise
        loop.url = store.url
        return SyncStore(store, loop, lease.pop_all())


class SyncStore:
    """One store. Get one from `statepath.open_sync`; every method may be called from many threads at once.

    A change is durable when its method returns. Reads come from memory and show durable changes only.
    """

    def __init__(self, store: Store, loop: _Loop, lease: ExitStack) -> None:
        self._store = store
        self._loop = loop
        self._lease = lease
        self._closing = threading.RLock()  # a signal's handler may close what its thread is closing
        self._closed = False

    @property
    def url(self) -> str:
        """The state path, without credentials."""
        return self._store.url

    @property
    def id(self) -> str:
        return self._store.id

    @property
    def replica_of(self) -> str | None:
        """As `Store.replica_of`."""
        return self._store.replica_of

    @property
    def mirror_lag(self) -> MirrorLag | None:
        """As `Store.mirror_lag`."""
        return self._store.mirror_lag

    @property
    def incarnation(self) -> str:
        """As `Store.incarnation`."""
        return self._store.incarnation

    @property
    def seq(self) -> int:
        """The head: the seq of the newest transaction that this handle knows to be durable."""
        return self._store.seq

    @property
    def staleness(self) -> float:
        """As `Store.staleness`."""
        return self._store.staleness

    @property
    def readonly(self) -> bool:
        return self._store.readonly

    @property
    def closed(self) -> bool:
        return self._store.closed

    @property
    def events(self) -> Events:
        """The bus; its listeners are called in the event loop's thread, and must not use the blocking API."""
        return self._store.events

    @property
    def settings(self) -> Settings:
        return self._store.settings

    @overload
    def collection(
        self, name: str, model: type[M], *, id: str = "id", on_conflict: OnConflict = "raise"
    ) -> SyncCollection[M]: ...
    @overload
    def collection(
        self, name: str, model: None = None, *, id: str = "id", on_conflict: OnConflict = "raise"
    ) -> SyncCollection[Json]: ...
    def collection(
        self,
        name: str,
        model: type[Any] | None = None,
        *,
        id: str = "id",
        on_conflict: OnConflict = "raise",
    ) -> SyncCollection[Any]:
        """As `Store.collection`. A function for conflicts is called in the event loop's thread."""
        collection = self._store.collection(name, cast("Any", model), id=id, on_conflict=on_conflict)
        return SyncCollection(collection, self._loop)

    def collections(self) -> tuple[str, ...]:
        """As `Store.collections`."""
        return self._loop.run(self._store.collections)

    def transaction(self) -> SyncTransaction:
        """A transaction, for `with`; as `Store.transaction`."""
        return SyncTransaction(self._loop.run(self._store.transaction), self._loop)

    def transact(self, fn: Callable[[SyncTransaction], R]) -> R:
        """As `Store.transact`. The function is called in this thread."""
        return self._loop.run_asking(
            fn, lambda ask: self._store.transact(lambda tx: ask(SyncTransaction(tx, self._loop)))
        )

    def get_member(self, name: str) -> JsonValue | None:
        """As `Store.get_member`."""
        return self._loop.run(self._store.get_member, name)

    def members(self) -> dict[str, JsonValue]:
        """As `Store.members`."""
        return self._loop.run(self._store.members)

    def append_log(self, id: str, text: str) -> int:
        """As `Store.append_log`."""
        return self._loop.run(self._store.append_log, id, text)

    def read_log(self, id: str) -> str:
        """As `Store.read_log`."""
        return self._loop.run(self._store.read_log, id)

    def logs(self) -> list[str]:
        """As `Store.logs`."""
        return self._loop.run(self._store.logs)

    def delete_log(self, id: str) -> bool:
        """As `Store.delete_log`."""
        return self._loop.run(self._store.delete_log, id)

    def save_report(self, id: str, data: object) -> str:
        """As `Store.save_report`."""
        return self._loop.run(self._store.save_report, id, data)

    def read_report(self, id: str) -> JsonValue:
        """As `Store.read_report`."""
        return self._loop.run(self._store.read_report, id)

    def reports(self) -> list[str]:
        """As `Store.reports`."""
        return self._loop.run(self._store.reports)

    def delete_report(self, id: str) -> bool:
        """As `Store.delete_report`."""
        return self._loop.run(self._store.delete_report, id)

    def watch(
        self,
        *,
        since: int | str | None = None,
        collections: tuple[str, ...] = (),
        ids: tuple[str, ...] = (),
        resync: bool = False,
    ) -> SyncIterator[StateChange]:
        """As `Store.watch`. The iterator waits for the next change; `close` it from any thread to end it."""
        watch = partial(self._store.watch, since=since, collections=collections, ids=ids, resync=resync)
        return SyncIterator(self._loop, watch, endless=True)

    def lease(self, name: str, *, ttl: float = 15.0, wait: float | None = None) -> SyncLease:
        """A lease, for `with`; as `Store.lease`."""
        return SyncLease(self._loop.run(self._store.lease, name, ttl=ttl, wait=wait), self._loop)

    def claim(self, task_id: str, *, ttl: float = 15.0, wait: float | None = 0.0) -> SyncLease:
        """A claim, for `with`; as `Store.claim`."""
        return SyncLease(self._loop.run(self._store.claim, task_id, ttl=ttl, wait=wait), self._loop)

    def leases(self) -> list[Holder]:
        """As `Store.leases`."""
        return self._loop.run(self._store.leases)

    def break_lease(self, name: str, *, holder: Holder | None = None) -> Holder:
        """As `Store.break_lease`."""
        return self._loop.run(self._store.break_lease, name, holder=holder)

    def history(
        self, key: str | None = None, *, since: int = 0, limit: int | None = None
    ) -> list[StateChange]:
        """As `Store.history`."""
        return self._loop.run(self._store.history, key, since=since, limit=limit)

    def diff(self, a: int | datetime, b: int | datetime | None = None) -> list[Difference]:
        """As `Store.diff`."""
        return self._loop.run(self._store.diff, a, b)

    def restore(self, *, at: int | datetime, to: str | os.PathLike[str] | None = None) -> Restored:
        """As `Store.restore`."""
        return self._loop.run(self._store.restore, at=at, to=to)

    def snapshot(self) -> int:
        """As `Store.snapshot`."""
        return self._loop.run(self._store.snapshot)

    def backup(self) -> str:
        """As `Store.backup`."""
        return self._loop.run(self._store.backup)

    def backups(self) -> list[str]:
        """As `Store.backups`."""
        return self._loop.run(self._store.backups)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        history: bool = False,
        progress: Callable[[str], None] = silent,
    ) -> Exported:
        """As `Store.export`. `progress` is called in another thread."""
        return self._loop.run(self._store.export, path, history=history, progress=progress)

    def archive(
        self,
        collection: str,
        where: Filter | None = None,
        *,
        older_than: timedelta | str,
        dry_run: bool = False,
        **equals: Any,
    ) -> Archived:
        """As `Store.archive`."""
        done: Archived = self._loop.run(
            self._store.archive, collection, where, older_than=older_than, dry_run=dry_run, **equals
        )
        return done

    def archive_by_rules(self, *, dry_run: bool = False) -> Archived:
        """As `Store.archive_by_rules`."""
        return self._loop.run(self._store.archive_by_rules, dry_run=dry_run)

    def clean(self, *, older_than: timedelta | str = "30d", dry_run: bool = False) -> Cleaned:
        """As `Store.clean`."""
        return self._loop.run(self._store.clean, older_than=older_than, dry_run=dry_run)

    def archived(self, collection: str | None = None) -> SyncIterator[ArchivedDocument]:
        """As `Store.archived`."""
        return SyncIterator(self._loop, partial(self._store.archived, collection), ahead=_READ_AHEAD)

    def read_archived(self, collection: str, id: str) -> JsonValue:
        """As `Store.read_archived`."""
        return self._loop.run(self._store.read_archived, collection, id)

    def unarchive(self, collection: str, id: str) -> int:
        """As `Store.unarchive`."""
        return self._loop.run(self._store.unarchive, collection, id)

    @property
    def encrypted(self) -> bool:
        """As `Store.encrypted`."""
        return self._store.encrypted

    def data_keys(self) -> list[KeyInfo]:
        """As `Store.data_keys`."""
        return self._loop.run(self._store.data_keys)

    def rotate_key(
        self, *, master: str | os.PathLike[str] | None = None, progress: Callable[[str], None] = silent
    ) -> Rotated:
        """As `Store.rotate_key`."""
        return self._loop.run(self._store.rotate_key, master=master, progress=progress)

    def retire_keys(self, *ids: str, progress: Callable[[str], None] = silent) -> Retired:
        """As `Store.retire_keys`."""
        return self._loop.run(self._store.retire_keys, *ids, progress=progress)

    def flush(self) -> None:
        """As `Store.flush`."""
        self._loop.run(self._store.flush)

    def sync(self, *, at_least: int | None = None) -> int:
        """As `Store.sync`."""
        return self._loop.run(self._store.sync, at_least=at_least)

    def verify(self) -> list[Finding]:
        """As `Store.verify`."""
        return self._loop.run(self._store.verify)

    @property
    def schema_versions(self) -> dict[str, int]:
        """As `Store.schema_versions`."""
        return self._store.schema_versions

    @property
    def damage(self) -> tuple[Damage, ...]:
        """As `Store.damage`."""
        return self._store.damage

    def health(self) -> Health:
        """As `Store.health`."""
        return self._loop.run(self._store.health)

    def stats(self) -> Stats:
        """As `Store.stats`."""
        return self._loop.run(self._store.stats)

    def close(self) -> None:
        """Commit what is queued, bring files and snapshot up to date, and release the storage. May be called
        twice; of several threads each waits for the end. After Ctrl-C it still finishes, and only then lets the
        interrupt through; a second one ends it.
        """
        if self._loop.forked or self._closed:
            return
        self._loop.check()
        with self._closing:
            if self._closed:
                return
            try:
                try:
                    self._loop.run(lambda: asyncio.shield(self._store.aclose()))
                except KeyboardInterrupt:
                    self._loop.run(self._store.aclose)
                    raise
            finally:
                self._closed = True
                self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._store.closed and not self._loop.forked:
            warnings.warn(f"the store {self.url} was not closed", ResourceWarning, stacklevel=2, source=self)


class SyncCollection(Generic[T]):
    """Documents of one kind in one store. Get one from `SyncStore.collection`; as `Collection`."""

    def __init__(self, collection: Collection[T], loop: _Loop) -> None:
        self._collection = collection
        self._loop = loop
        self.name = collection.name
        self.model = collection.model
        self.id_field = collection.id_field
        self.on_conflict = collection.on_conflict

    def put(self, value: T, *, if_version: int | None = None) -> int:
        """As `Collection.put`."""
        return self._loop.run(self._collection.put, value, if_version=if_version)

    def create(self, value: T) -> int:
        """As `Collection.create`."""
        return self._loop.run(self._collection.create, value)

    def get(self, id: str, *, fresh: bool = False) -> T | None:
        """As `Collection.get`."""
        return self._loop.run(self._collection.get, id, fresh=fresh)

    def get_document(self, id: str, *, fresh: bool = False) -> Document[T] | None:
        """As `Collection.get_document`."""
        return self._loop.run(self._collection.get_document, id, fresh=fresh)

    def delete(self, id: str, *, if_version: int | None = None) -> bool:
        """As `Collection.delete`."""
        return self._loop.run(self._collection.delete, id, if_version=if_version)

    def append(self, id: str, field: str, item: object) -> int:
        """As `Collection.append`."""
        return self._loop.run(self._collection.append, id, field, item)

    def update(self, id: str, fn: Callable[[T], T | None]) -> T:
        """As `Collection.update`. The function is called in this thread."""
        return self._loop.run_asking(fn, lambda ask: self._collection.update(id, ask))

    def find(
        self,
        where: Filter | None = None,
        /,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        after: str | None = None,
        **equals: Any,
    ) -> SyncQuery[T]:
        """As `Collection.find`: iterate with `for`, or use `all() first() count() page()`."""
        query = self._collection.find(where, order_by=order_by, limit=limit, after=after, **equals)
        return SyncQuery(query, self._loop)

    def count(self) -> int:
        """As `Collection.count`."""
        return self._loop.run(self._collection.count)

    def __iter__(self) -> Iterator[T]:
        return iter(self.find())


def _inner(collection: SyncCollection[T]) -> Collection[T]:
    if not isinstance(collection, SyncCollection):
        raise wrong_kind("the collection", "what store.collection gives", collection)
    return collection._collection  # noqa: SLF001 - one idea in several classes


class SyncQuery(Generic[T]):
    """Documents that match. Get one from `SyncCollection.find`; as `Query`."""

    def __init__(self, query: Query[T], loop: _Loop) -> None:
        self._query = query
        self._loop = loop

    def all(self) -> list[T]:
        """As `Query.all`."""
        return self._loop.run(self._query.all)

    def first(self) -> T | None:
        """As `Query.first`."""
        return self._loop.run(self._query.first)

    def count(self) -> int:
        """As `Query.count`."""
        return self._loop.run(self._query.count)

    def page(self) -> Page[T]:
        """As `Query.page`."""
        return self._loop.run(self._query.page)

    def __iter__(self) -> Iterator[T]:
        return SyncIterator(self._loop, self._query.__aiter__, ahead=_READ_AHEAD)


class SyncTransaction:
    """Collects changes and commits them together when the `with` block ends; an exception drops them.

    As `Transaction`. Get one from `SyncStore.transaction`.
    """

    def __init__(self, transaction: Transaction, loop: _Loop) -> None:
        self._transaction = transaction
        self._loop = loop

    @property
    def seq(self) -> int | None:
        """The transaction's place in the log, once it is durable."""
        return self._transaction.seq

    def get(self, collection: SyncCollection[T], id: str) -> T | None:
        """As `Transaction.get`."""
        return self._loop.run(self._transaction.get, _inner(collection), id)

    @overload
    def put(self, collection: SyncCollection[Json], value: Mapping[str, Any]) -> None: ...

    @overload
    def put(self, collection: SyncCollection[T], value: T) -> None: ...

    def put(self, collection: SyncCollection[Any], value: Any) -> None:
        """As `Transaction.put`."""
        self._loop.run(self._transaction.put, _inner(collection), value)

    def delete(self, collection: SyncCollection[Any], id: str) -> None:
        """As `Transaction.delete`."""
        self._loop.run(self._transaction.delete, _inner(collection), id)

    def append(self, collection: SyncCollection[Any], id: str, field: str, item: object) -> None:
        """As `Transaction.append`."""
        self._loop.run(self._transaction.append, _inner(collection), id, field, item)

    def get_member(self, name: str) -> JsonValue | None:
        """As `Transaction.get_member`."""
        return self._loop.run(self._transaction.get_member, name)

    def put_member(self, name: str, value: object) -> None:
        """As `Transaction.put_member`."""
        self._loop.run(self._transaction.put_member, name, value)

    def delete_member(self, name: str) -> None:
        """As `Transaction.delete_member`."""
        self._loop.run(self._transaction.delete_member, name)

    def __enter__(self) -> Self:
        self._loop.run(self._transaction.__aenter__)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._loop.run(self._transaction.__aexit__, kind, error, traceback)


class SyncLease:
    """One holder of a name at a time; as `Lease`. Get one from `SyncStore.lease`.

    The changes of the thread that is in the `with` block are fenced.
    """

    def __init__(self, lease: Lease, loop: _Loop) -> None:
        self._lease = lease
        self._loop = loop
        self.name = lease.name
        self.ttl = lease.ttl

    @property
    def epoch(self) -> int:
        """As `Lease.epoch`."""
        return self._lease.epoch

    @property
    def held(self) -> bool:
        """As `Lease.held`."""
        return self._lease.held

    def acquire(self) -> None:
        """As `Lease.acquire`."""
        self._loop.run(self._lease.acquire)

    def release(self) -> None:
        """As `Lease.release`."""
        self._loop.run(self._lease.release)

    def __enter__(self) -> Self:
        try:
            self.acquire()
            self._lease.raise_fence()
        except KeyboardInterrupt:
            self.__exit__()  # it may have been taken all the same
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._give_back()
        except KeyboardInterrupt:
            self._give_back()  # or it would be held for as long as the store is open
            raise

    def _give_back(self) -> None:
        self._lease.lower_fence()
        self.release()


class SyncIterator(Iterator[T]):
    """What an asynchronous iterator gives, one by one. Any thread may close it, even while another waits. When the
    store closes, one that is `endless` ends; from any other one that is a `ClosedError`, as something may be missing.
    """

    def __init__(
        self, loop: _Loop, source: Callable[[], AsyncIterator[T]], *, ahead: int = 1, endless: bool = False
    ) -> None:
        self._loop = loop
        self._source, self._home = loop.run(lambda: (source(), asyncio.get_running_loop()))
        self._ahead = ahead
        self._endless = endless
        self._size = 1
        self._ready: deque[T] = deque()
        self._end: Exception | None = None
        self._coming: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()

    def __next__(self) -> T:
        while True:
            ended = self._end is not None
            with suppress(IndexError):  # there is none yet, or another thread was first
                return self._ready.popleft()
            if ended:
                break
            self._loop.run(self._fetch)
        end, self._end = self._end, StopAsyncIteration()
        if end is None or isinstance(end, StopAsyncIteration):
            raise StopIteration
        raise end

    def close(self) -> None:
        """End the iteration, here and in a thread that waits for the next item. May be called twice."""
        if not self._loop.forked:
            self._loop.run(self._close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _fetch(self) -> None:
        """Wait for what comes next. Who is interrupted leaves it to the next call: a source that is cancelled has
        ended."""
        if self._end is None and not self._endless and asyncio.get_running_loop() is not self._home:
            # The source has ended with the loop that it was in, whatever it had still to give.
            self._end = ClosedError(
                f"the store {self._loop.url} was closed before all was given; open it and begin again"
            )
        if self._end is None:
            self._coming = self._coming or asyncio.create_task(self._take())
            await asyncio.wait([self._coming])

    async def _take(self) -> None:
        try:
            for _ in range(self._size):
                self._ready.append(await anext(self._source))
            self._size = min(2 * self._size, self._ahead)
        except Exception as error:  # noqa: BLE001 - raised by `__next__`, behind what came before it
            self._end = error
        finally:
            self._coming = None

    async def _close(self) -> None:
        async with self._turn:
            if self._coming is not None:
                self._coming.cancel()
                await asyncio.wait([self._coming])
            self._ready.clear()
            self._end = StopAsyncIteration()
            if isinstance(self._source, AsyncGenerator):
                await self._source.aclose()


__all__ = [
    "SyncCollection",
    "SyncIterator",
    "SyncLease",
    "SyncQuery",
    "SyncStore",
    "SyncTransaction",
    "open_sync",
]
