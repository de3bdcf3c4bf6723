"""What a store tells its owner: one frozen payload type an event, and the bus that carries them.

`docs/events.md` has the same table for readers; a test compares the two.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self, TypeVar, overload

from statepath.arguments import check_function, wrong_kind
from statepath.errors import InvalidArgumentError

logger = logging.getLogger("statepath.events")


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all payloads. As a subscription it, or its name `*`, stands for every event."""

    name: ClassVar[str] = "*"


@dataclass(frozen=True, slots=True)
class StateSaved(Event):
    """The whole state up to `seq` is saved, by a snapshot of so many documents and bytes in so many seconds,
    or by `save_state`, which put so many."""

    name: ClassVar[str] = "state:saved"
    seq: int
    documents: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class StateLoaded(Event):
    """The store is open. `source` says what the state was read from."""

    name: ClassVar[str] = "state:loaded"
    seq: int
    documents: int
    source: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SaveError(Event):
    """A change, a snapshot or a file could not be written. `key` is the document or object, where there is one. Who
    waits for it gets the error, too."""

    name: ClassVar[str] = "state:save-error"
    error: BaseException
    key: str | None = None


@dataclass(frozen=True, slots=True)
class AutosaveTriggered(Event):
    """The autosave interval has passed and there is something new to save."""

    name: ClassVar[str] = "autosave:triggered"
    seq: int


@dataclass(frozen=True, slots=True)
class ShutdownSave(Event):
    """The state was saved because the program ends: by a shutdown, or by the signal of that number."""

    name: ClassVar[str] = "shutdown:save"
    seq: int
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class EmergencySave(Event):
    """`state.json` could not be brought up to date at the end, because of `error`; the documents and members as of the
    last commit are in the local file `path`. They are in the journal, too."""

    name: ClassVar[str] = "emergency:save"
    path: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class BackupCreated(Event):
    """An earlier snapshot was kept under `key`; it shows the state as of `seq`."""

    name: ClassVar[str] = "backup:created"
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class BackupError(Event):
    """A backup could not be written, read back or removed. The state itself is safe."""

    name: ClassVar[str] = "backup:error"
    error: BaseException


@dataclass(frozen=True, slots=True)
class CorruptionDetected(Event):
    """A stored object is not what was written. It was kept aside as `kept_as`, where that was possible."""

    name: ClassVar[str] = "corruption:detected"
    key: str
    reason: str
    kept_as: str | None = None


@dataclass(frozen=True, slots=True)
class EditAdopted(Event):
    """A person's edit of a view file became the document, as the commit `seq`."""

    name: ClassVar[str] = "edit:adopted"
    key: str
    seq: int


@dataclass(frozen=True, slots=True)
class EditConflict(Event):
    """A person edited a view file, and the document had changed meanwhile. The edit was kept as `kept_as`."""

    name: ClassVar[str] = "edit:conflict"
    key: str
    kept_as: str


@dataclass(frozen=True, slots=True)
class StoreUpgraded(Event):
    """A directory of the format `source` was upgraded in place; `backup` holds it as it had been."""

    name: ClassVar[str] = "store:upgraded"
    source: str
    documents: int
    backup: str | None


@dataclass(frozen=True, slots=True)
class StoreMigrated(Event):
    """Documents went to another schema version, as the commit `seq`; `versions` says which. `backup` holds the state of
    before."""

    name: ClassVar[str] = "store:migrated"
    versions: str
    documents: int
    seq: int
    backup: str


@dataclass(frozen=True, slots=True)
class StateRestored(Event):
    """The state is again what it was at `to_seq`, as the commit `seq`; `undo` says how to take that back."""

    name: ClassVar[str] = "state:restored"
    to_seq: int
    seq: int
    undo: str


@dataclass(frozen=True, slots=True)
class StoreCopied(Event):
    """A store was made at `target` from this one as of `seq`, with so many documents."""

    name: ClassVar[str] = "store:copied"
    target: str
    seq: int
    documents: int


@dataclass(frozen=True, slots=True)
class StorePromoted(Event):
    """The replica at `target` is a store of its own since `seq`; what the primary committed behind it is not there."""

    name: ClassVar[str] = "store:promoted"
    target: str
    seq: int
    primary: str


@dataclass(frozen=True, slots=True)
class MirrorCaughtUp(Event):
    """The replica at `target` has everything, up to `seq`: for the first time, or again after it lagged or failed."""

    name: ClassVar[str] = "mirror:caught-up"
    target: str
    seq: int


@dataclass(frozen=True, slots=True)
class MirrorLagging(Event):
    """The replica lacks so many transactions, the oldest for so many seconds: more than the setting `mirror_lag`."""

    name: ClassVar[str] = "mirror:lagging"
    target: str
    behind: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MirrorFailed(Event):
    """Nothing is shipped to the replica now, because of `error`; `retrying` says whether it is tried again."""

    name: ClassVar[str] = "mirror:failed"
    target: str
    error: BaseException
    retrying: bool


@dataclass(frozen=True, slots=True)
class MirrorRebased(Event):
    """The replica could not go on from where it was, for that `reason`, and was made anew as of `seq`."""

    name: ClassVar[str] = "mirror:rebased"
    target: str
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class DocumentsArchived(Event):
    """So many documents of a collection left the live state for the archive's `segment`, as the commit `seq`."""

    name: ClassVar[str] = "documents:archived"
    collection: str
    documents: int
    segment: str
    seq: int


@dataclass(frozen=True, slots=True)
class LogsRemoved(Event):
    """The session logs `ids`, of so many bytes, were removed: the settings `log_age` and `log_bytes` ask for it."""

    name: ClassVar[str] = "logs:removed"
    ids: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class ReportsRemoved(Event):
    """The reports `ids`, of so many bytes, were removed: the settings `report_age` and `report_bytes` ask for it."""

    name: ClassVar[str] = "reports:removed"
    ids: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class HistoryTrimmed(Event):
    """The log begins at `floor` now. `reason` is `age` or `bytes`."""

    name: ClassVar[str] = "history:trimmed"
    floor: int
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseLost(Event):
    """Somebody else has the `lease` that this handle held with the `epoch`, or nobody could be told that it lives."""

    name: ClassVar[str] = "lease:lost"
    lease: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DiskLow(Event):
    """Only `free` bytes are left to write, less than `limit`."""

    name: ClassVar[str] = "disk:low"
    free: int
    limit: int


@dataclass(frozen=True, slots=True)
class DiskOk(Event):
    """There is space again: `free` bytes."""

    name: ClassVar[str] = "disk:ok"
    free: int


@dataclass(frozen=True, slots=True)
class AlertRaised(Event):
    """Something fails that did not before: the check `alert` of the store's health. `value` is what was compared with
    its `limit`, where there are numbers. `status` is `fail`; or `warn` for damage that is mended already."""

    name: ClassVar[str] = "alert:raised"
    alert: str
    status: str
    summary: str
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class AlertCleared(Event):
    """What an alert told of so many seconds ago is well again, and has been for a while."""

    name: ClassVar[str] = "alert:cleared"
    alert: str
    summary: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DocumentRecovered(Event):
    """The document `key` was lost from the snapshot and the journal, and was read from `source`."""

    name: ClassVar[str] = "document:recovered"
    key: str
    source: str


EVENTS: Final[dict[str, type[Event]]] = {
    kind.name: kind
    for kind in (
        StateSaved,
        StateLoaded,
        SaveError,
        AutosaveTriggered,
        ShutdownSave,
        EmergencySave,
        BackupCreated,
        BackupError,
        CorruptionDetected,
        EditAdopted,
        EditConflict,
        StoreUpgraded,
        StoreMigrated,
        StateRestored,
        StoreCopied,
        StorePromoted,
        MirrorCaughtUp,
        MirrorLagging,
        MirrorFailed,
        MirrorRebased,
        DocumentsArchived,
        LogsRemoved,
        ReportsRemoved,
        HistoryTrimmed,
        LeaseLost,
        DiskLow,
        DiskOk,
        AlertRaised,
        AlertCleared,
        DocumentRecovered,
    )
}
"""All events by name."""

E = TypeVar("E", bound=Event)
Listener = Callable[[Any], object]


class Events:
    """Carries events from a store to its listeners, within the store's event loop and its thread.

    A listener is a function or a coroutine function of one argument, the event. One that raises is logged
    under `statepath.events` and harms nobody: neither the other listeners nor the save that it was told of.
    """

    def __init__(self) -> None:
        # Tuples are replaced, never changed: a listener may come and go while it is called.
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closers: set[asyncio.Task[Any] | None] = set()
        self._streams: set[EventStream] = set()
        self._closed = False

    @overload
    def on(self, event: type[E], listener: Callable[[E], object]) -> Callable[[], object]: ...
    @overload
    def on(self, event: str, listener: Listener) -> Callable[[], object]: ...
    def on(self, event: type[Event] | str, listener: Listener) -> Callable[[], object]:
        """Call the listener at each such event, named by its class or its name; `Event` and `*` mean all.

        A listener hears an event once, however often it was registered. An asynchronous one runs as a task of
        its own: the store does not wait for it, and two calls of it may overlap.

        Returns:
            A function that takes the listener off again.

        Raises:
            InvalidArgumentError: there is no such event, or the listener cannot be called.
        """
        name = _name(event)
        check_function(listener, f"a listener of {name}")
        listeners = self._listeners.get(name, ())
        if listener not in listeners and not self._closed:
            self._listeners[name] = (*listeners, listener)
        return lambda: self.off(name, listener)

    @overload
    def off(self, event: type[E], listener: Callable[[E], object]) -> bool: ...
    @overload
    def off(self, event: str, listener: Listener) -> bool: ...
    def off(self, event: type[Event] | str, listener: Listener) -> bool:
        """Stop calling the listener; whether it was registered.

        Raises:
            InvalidArgumentError: there is no such event.
        """
        name = _name(event)
        listeners = self._listeners.get(name, ())
        if listener not in listeners:
            return False
        left = tuple(other for other in listeners if other != listener)
        if left:
            self._listeners[name] = left
        else:
            del self._listeners[name]
        return True

    def emit(self, event: Event) -> None:
        """Tell everyone who listens. Never raises, never waits, and costs two look-ups when nobody does."""
        told = self._listeners.get(event.name, ())
        for listener in told:
            self._call(listener, event)
        for listener in self._listeners.get("*", ()):
            if listener not in told:
                self._call(listener, event)

    def stream(self, *events: type[Event] | str, limit: int = 1024) -> EventStream:
        """The events named, or all, as an asynchronous iterator, subscribed by `async with`.

        At most `limit` events wait for a slow reader: then the oldest are dropped, counted in `missed`, and
        the first loss is logged. The iteration ends when the store closes.

        Raises:
            InvalidArgumentError: there is no event of that name, or the limit is below 1.
        """
        if type(limit) is not int or limit < 1:
            raise InvalidArgumentError(f"a stream of events needs room for at least one, not {limit!r}")
        return EventStream(self, frozenset(_name(event) for event in events) or frozenset("*"), limit)

    async def aclose(self, grace: float = 10.0) -> None:
        """End the streams and wait for asynchronous listeners, at most `grace` seconds; then cancel them.
        Afterwards nobody is called any more. May be called twice, and by listeners."""
        self._closed = True
        self._listeners.clear()
        for stream in tuple(self._streams):
            stream.close()
        closer = asyncio.current_task()
        self._closers.add(closer)  # of two listeners that close it, none is to wait for the other
        try:
            if tasks := self._tasks - self._closers:
                _, late = await asyncio.wait(tasks, timeout=grace)
                for task in late:
                    task.cancel()
                    logger.error("%s had not finished %g s after the store closed", task.get_name(), grace)
                if late:
                    await asyncio.wait(late, timeout=grace)
        finally:
            self._closers.discard(closer)

    def _call(self, listener: Listener, event: Event) -> None:
        try:
            result = listener(event)
            if inspect.isawaitable(result):
                self._schedule(result, event)
        except (Exception, asyncio.CancelledError):  # of a task that it asked: nobody cancels who emits
            logger.exception("a listener of %s failed", event.name)

    def _schedule(self, result: Awaitable[object], event: Event) -> None:
        waiting = _finish(result, event)
        try:
            # In a context of its own: it is no part of a lease's block that it may outlast.
            task = asyncio.get_running_loop().create_task(
                waiting, name=f"a listener of {event.name}", context=Context()
            )
        except RuntimeError:
            waiting.close()
            if inspect.iscoroutine(result):
                result.close()
            raise
        # The loop itself keeps only a weak reference to a task.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class EventStream:
    """The events of one subscription, oldest first; `Events.stream` makes it.

    Attributes:
        missed: how many events were dropped because they came faster than they were read.
    """

    def __init__(self, events: Events, names: frozenset[str], limit: int) -> None:
        self.missed = 0
        self._events = events
        self._names = names
        self._queue: deque[Event] = deque(maxlen=limit)
        self._changed = asyncio.Event()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = not self._events._closed  # noqa: SLF001 - one idea in two classes
        if self._open:
            self._events._streams.add(self)  # noqa: SLF001
            for name in self._names:
                self._events.on(name, self._push)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()
        self._queue.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if not self._open:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._queue.popleft()

    def close(self) -> None:
        """Take no more events. What waits already can still be read."""
        self._open = False
        self._events._streams.discard(self)  # noqa: SLF001
        for name in self._names:
            self._events.off(name, self._push)
        self._changed.set()

    def _push(self, event: Event) -> None:
        if len(self._queue) == self._queue.maxlen:
            if not self.missed:
                logger.warning(
                    "a stream of events is read too slowly; the oldest of %d are dropped", len(self._queue)
                )
            self.missed += 1
        self._queue.append(event)
        self._changed.set()


def _name(event: type[Event] | str) -> str:
    if isinstance(event, type) and issubclass(event, Event):
        return event.name
    if not isinstance(event, str):
        raise wrong_kind("an event", "a class of statepath.events, or its name", event)
    if event != "*" and event not in EVENTS:
        raise InvalidArgumentError(f"there is no event {event!r}; the events are {', '.join(EVENTS)}")
    return event


async def _finish(result: Awaitable[object], event: Event) -> None:
    try:
        await result
    except Exception:
        logger.exception("a listener of %s failed", event.name)
