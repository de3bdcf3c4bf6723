"""The seed's API on top of a store: saves and loads a server's state, tasks, session logs and reports."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from typing import Any, Final, Self, TypeVar, overload

from msgspec import Raw
from pydantic import BaseModel, JsonValue, ValidationError
from typing_extensions import Unpack

from statepath import opening
from statepath.arguments import faults, wrong_kind
from statepath.commit import Put
from statepath.emergency import write_emergency
from statepath.encryption import Encrypted
from statepath.engine.documents import decode, encode_value
from statepath.engine.pending import Decision
from statepath.engine.replica import MEMBERS, Cut, Entry, Replica
from statepath.engine.snapshot import VERSION, SnapshotStream, is_own_member
from statepath.engine.validating import UNTOUCHED
from statepath.errors import ClosedError, ConflictError, CorruptionError, InvalidArgumentError, StateError
from statepath.events import (
    AutosaveTriggered,
    CorruptionDetected,
    E,
    EmergencySave,
    Event,
    Events,
    Listener,
    SaveError,
    ShutdownSave,
    StateSaved,
)
from statepath.models import PersistedState, SessionInfo, StateMetrics, Task, iso
from statepath.settings import Settings, SettingsArgs
from statepath.signals import SignalSaver
from statepath.state_save import DERIVED, METRICS, Plan, StateSave, are_given
from statepath.store import Store
from statepath.tally import Tally
from statepath.threads import in_thread

logger = logging.getLogger("statepath.persistence")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

_LOOKS: Final = 4
"""After so many others that were first, the metrics are left to be counted later."""

_BREATH: Final = 128
"""After so many documents other tasks of the event loop have a turn."""


@dataclass(frozen=True, slots=True)
class SavedState:
    """What `save_state` did.

    Attributes:
        seq: the whole state is durable as of this seq.
        saved: the documents that were put, as `tasks/task_1`.
        deleted: those that were deleted.
        skipped: those that were left out, because the stored ones have a later `updated_at`.
    """

    seq: int
    saved: tuple[str, ...]
    deleted: tuple[str, ...]
    skipped: tuple[str, ...]


class StatePersistence:
    """Keeps a server's tasks, sessions, metrics, logs and reports.

    `async with StatePersistence.open(path) as p` opens a store, and closes it at the end.
    `StatePersistence(store)` works on a store that is open, beside its other users, and leaves it open.

    A save is durable when its `await` returns; one that fails raises. Where it was the storage that failed, and not
    what was to be saved, `state:save-error` is emitted, too. Metrics are counted again at each autosave and at the end;
    where tasks are saved all the time, not at each.

    Parameters:
        handle_signals: at SIGTERM and SIGINT save everything, then let the previous handler run.

    Raises:
        UnsupportedError: signals are to be handled, and this is not the main thread; or the store does not hold its
            documents (`not_loaded`).
        InvalidArgumentError: it is no `Store`.
    """

    def __init__(self, store: Store, *, handle_signals: bool = False) -> None:
        if not isinstance(store, Store):
            raise wrong_kind("the store", "what statepath.open gives", store)
        self.store = store
        self._engine = store._engine  # noqa: SLF001 - one package: whole cuts, and versions of members
        self._engine.check_loaded()
        self._tasks = store.collection("tasks", Task)
        self._sessions = store.collection("sessions", SessionInfo)
        self._tally = Tally()
        self._owned = False
        self._closing = False
        self._ended_at = -1
        self._ending = asyncio.Lock()
        self._counting = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._signals = SignalSaver(self._end) if handle_signals else None
        self._engine.events.on(AutosaveTriggered, self._autosave)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        handle_signals: bool = False,
        readonly: bool = False,
        settings: Settings | None = None,
        events: Events | None = None,
        **overrides: Unpack[SettingsArgs],
    ) -> opening.Opening[StatePersistence]:
        """Open the store of a state path: `async with` it, or `await` it and call `shutdown` yourself.

        Parameters and errors: as `statepath.open`, and `handle_signals` as above.
        """

        async def opened() -> StatePersistence:
            store = await opening.open(path, readonly=readonly, settings=settings, events=events, **overrides)
            try:
                persistence = cls(store, handle_signals=handle_signals)
            except BaseException:
                await store.aclose()
                raise
            persistence._owned = True
            return persistence

        return opening.Opening(opened)

    @property
    def events(self) -> Events:
        return self.store.events

    # Saving

    async def save_state(
        self, state: PersistedState | Mapping[str, Any], *, replace: bool = False
    ) -> SavedState:
        """Save the whole state as one transaction: all of it, or nothing.

        Only what differs from the stored is written. A document that is older than the stored one, by
        `updated_at`, is skipped with a warning. Nothing is deleted. Metrics that are all zero are counted
        from the tasks. Members that the model does not know are kept; a list of objects with ids is a
        collection of that name.

        Parameters:
            replace: make each collection of the state equal to it. Older documents are put, too, and what is
                missing is deleted, if it is among what `load_state` gives. Tasks and sessions are always collections of
                the state.

        Raises:
            InvalidArgumentError: a part of the state cannot be stored; the message names it.
            ConflictError: others changed what it changes, and were first in each of 32 attempts.
        """
        began = time.monotonic()
        self._check_open()
        stored = self._engine.replica.collections
        save = StateSave(self.store, stored, _model(PersistedState, state), replace=replace)
        plan, seq = await self._commit(save)
        for key in plan.skipped:
            logger.warning("%s was not saved: the stored one has a later updated_at", key, extra={"key": key})
        self._engine.events.emit(StateSaved(seq, len(plan.saved), plan.size, time.monotonic() - began))
        return SavedState(seq, tuple(plan.saved), tuple(plan.deleted), tuple(plan.skipped))

    async def save_task(self, task: Task | Mapping[str, Any]) -> int:
        """Save one task, whatever is stored under its id; the seq.

        Raises:
            InvalidArgumentError: it is not a task, or cannot be stored as JSON.
        """
        given = _model(Task, task)
        self._check_open()
        return await self._tasks.put(given)

    async def delete_task(self, task_id: str) -> bool:
        """Delete a task; whether there was one, when that is durable."""
        self._check_open()
        return await self._tasks.delete(task_id)

    async def save_session_log(self, session_id: str, content: str) -> int:
        """Append text, as it is, to the end of a session's log; the seq. Line ends are the caller's.

        Raises:
            InvalidArgumentError: it is no id, or no text that UTF-8 can hold.
        """
        self._check_open()
        return await self.store.append_log(session_id, content)

    async def save_report(self, report_id: str, data: object) -> str:
        """Save a report, a JSON value or a pydantic model, in the place of an earlier one; where it is. As
        `Store.save_report`."""
        self._check_open()
        return await self.store.save_report(report_id, data)

    # Loading

    async def load_state(self) -> PersistedState | None:
        """The whole state as of one seq, further collections included; `None` while there is nothing in it.

        A stored document that cannot be read, or that the models do not accept, is left out, told by
        `corruption:detected` and in the log, and stays stored.
        """
        self._check_open()
        cut = self._cut()
        members = {
            name: decode(entry.json(), name)
            for name, entry in cut.collections.get(MEMBERS, ())
            if not is_own_member(name)
        }
        if not members and not cut.documents:
            return None
        others = {
            name: await self._load(name, partial(_plain, name), cut)
            for name in cut.collections
            if name not in (MEMBERS, "tasks", "sessions")
        }
        metrics, _ = self._count(cut)
        state = {
            **{name: value for name, value in members.items() if name not in DERIVED},
            **others,
            "tasks": await self._load("tasks", self._tasks.decode, cut),
            "sessions": await self._load("sessions", self._sessions.decode, cut),
            METRICS: StateMetrics.model_validate(metrics),
            "last_saved": _iso(cut.time),
            "version": VERSION,
        }
        return PersistedState(**state)

    async def load_tasks(self) -> list[Task]:
        """All tasks as of one seq, in no particular order. What the model does not accept is treated as by
        `load_state`."""
        self._check_open()
        return await self._load("tasks", self._tasks.decode, self._cut())

    # Events

    @overload
    def on(self, event: type[E], listener: Callable[[E], object]) -> Callable[[], object]: ...
    @overload
    def on(self, event: str, listener: Listener) -> Callable[[], object]: ...
    def on(self, event: type[Event] | str, listener: Listener) -> Callable[[], object]:
        """Call the listener at each such event of the store; as `Events.on`."""
        return self.events.on(event, listener)

    @overload
    def off(self, event: type[E], listener: Callable[[E], object]) -> bool: ...
    @overload
    def off(self, event: str, listener: Listener) -> bool: ...
    def off(self, event: type[Event] | str, listener: Listener) -> bool:
        """Stop calling the listener; whether it was registered."""
        return self.events.off(event, listener)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """All events from now on, until the store closes."""
        async with self.events.stream() as stream:
            async for event in stream:
                yield event

    # Ending

    async def shutdown(self) -> None:
        """Bring metrics, files and snapshot up to date, emit `shutdown:save`, and close the store if `open`
        opened it. May be called twice; every save or load afterwards is `ClosedError`. Read-only it only closes.

        Raises:
            StateError: the metrics, the snapshot or a file could not be written. What was saved is in the journal; if
                it was the metrics or the snapshot, the documents are in an emergency file, too.
            UnsupportedError: another event loop runs (`other_loop`); nothing has ended. Where the store's own has
                ended, it is closed as by `Store.aclose`.
        """
        if not self._engine.outlived:
            self._engine.check_loop()
        self._closing = True
        try:
            if not self._engine.outlived:
                await self._end(None)
        finally:
            self._engine.events.off(AutosaveTriggered, self._autosave)
            if self._signals is not None:
                self._signals.uninstall()
            if self._owned:
                await self.store.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            await self.shutdown()
        except StateError as failure:
            if error is None:
                raise
            error.add_note(f"The state could not be saved afterwards: {failure}")

    async def _end(self, signal: int | None) -> None:
        """Save everything because the program ends, once for each state."""
        async with self._ending:
            if self.store.readonly or self.store.closed or self._ended_at == self.store.seq:
                return
            try:
                counted = await self._update_metrics()
                with self._engine.ending():
                    seq = await self.store.snapshot()
            except ClosedError:
                return  # whoever closed the store meanwhile saves
            except StateError as error:
                self._engine.events.emit(SaveError(error, error.key))
                await self._write_emergency(error)
                raise
            try:
                await self.store.flush()
            except ClosedError:
                return
            self._ended_at = counted  # what came later is not saved as it should be at the end
            self._engine.events.emit(ShutdownSave(seq, signal))

    async def _write_emergency(self, error: StateError) -> None:
        stream: Iterable[bytes] = SnapshotStream(
            self._engine.replica.cut(), store=self.store.id, incarnation=self.store.incarnation
        )
        if isinstance(backend := self._engine.backend, Encrypted):
            stream = backend.seal_beside(stream)
        try:
            path = await in_thread(partial(write_emergency, stream))
        except OSError:
            logger.critical("the state could be saved neither to %s nor to a local file", self.store.url)
            return
        logger.error("the state could not be saved to %s; it is in %s: %s", self.store.url, path, error)
        self._engine.events.emit(EmergencySave(path, error))

    # Metrics

    async def _autosave(self, event: AutosaveTriggered) -> None:
        try:
            await self._update_metrics()
        except ClosedError:
            # The store was closed meanwhile; whoever did it has saved.
            return
        except StateError as error:
            logger.warning("the metrics could not be saved: %s", error, extra={"code": error.code})
            self._engine.events.emit(SaveError(error, METRICS))

    async def _update_metrics(self) -> int:
        """Save the metrics if they are not as they should be; the seq that they are right at.

        They hold nobody up: where tasks are saved all the time, they are left to the next one to ask, and it is 0.
        """
        async with self._counting:
            for _ in range(_LOOKS):
                cut = self._cut()
                entry = _find(cut, MEMBERS, METRICS)
                if not cut.collections.get("tasks") and entry is None:
                    return cut.seq
                metrics, fresh = self._count(cut)
                if fresh:
                    return cut.seq
                data = Raw(encode_value(metrics, key=METRICS))
                change = Put(MEMBERS, METRICS, data, 0 if entry is None else entry.version)
                with suppress(ConflictError):
                    return await self._engine.commit([change], [("tasks", UNTOUCHED, cut.seq)])
            return 0

    def _count(self, cut: Cut) -> tuple[dict[str, Any], bool]:
        """The metrics of a cut, and whether they are those that are stored: no task has changed since."""
        tasks = cut.collections.get("tasks", [])
        entry = _find(cut, MEMBERS, METRICS)
        stored = None if entry is None else decode(entry.json(), METRICS)
        if (
            entry is not None
            and isinstance(stored, dict)
            and _are_metrics(stored)
            and cut.changed.get("tasks", 0) <= entry.version
            and all(task.version <= entry.version for _, task in tasks)
        ):
            return stored, True
        counted = self._tally.count(tasks)
        known = stored if isinstance(stored, dict) else {}
        metrics = {**known, **counted}
        return metrics, metrics == known

    # Parts

    async def _commit(self, save: StateSave) -> tuple[Plan, int]:
        plan, at = Plan(), 0
        looks = count()

        # Decided on what it follows: no task comes in between that its metrics would not count, and no newer document.
        def decide(now: Replica) -> Decision:
            nonlocal plan, at
            plan, at = save.plan(now.cut(), self._tally, beside=next(looks) >= _LOOKS), now.head
            return Decision(tuple(plan.changes), plan.reads)

        # One after the other: what has to be decided again would come behind a later one.
        async with self._saving:
            seq = await self._engine.decide(decide)
        return plan, seq or at

    def _cut(self) -> Cut:
        if self.store.closed:
            raise ClosedError("the store is closed; open it again")
        return self._engine.replica.cut()

    async def _load(self, name: str, read: Callable[[str, Entry], T], cut: Cut) -> list[T]:
        found: list[T] = []
        for place, (id, entry) in enumerate(cut.collections.get(name, ()), 1):
            if not place % _BREATH:
                await asyncio.sleep(0)
            try:
                found.append(read(id, entry))
            except (InvalidArgumentError, CorruptionError) as error:
                logger.error("a document was left out: %s", error, extra={"key": error.key})  # noqa: TRY400 - no fault here
                self._engine.events.emit(CorruptionDetected(f"{name}/{id}", str(error)))
        return found

    def _check_open(self) -> None:
        if self._closing or self.store.closed:
            raise ClosedError("this was shut down; open the state path again")


def _model(kind: type[M], value: M | Mapping[str, Any]) -> M:
    if isinstance(value, kind):
        return value
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InvalidArgumentError(f"this is no {kind.__name__}: {faults(error)}") from None


def _plain(collection: str, id: str, entry: Entry) -> JsonValue:
    return decode(entry.json(), f"{collection}/{id}")


def _find(cut: Cut, collection: str, id: str) -> Entry | None:
    return next((entry for other, entry in cut.collections.get(collection, ()) if other == id), None)


def _are_metrics(stored: dict[str, Any]) -> bool:
    """Whether the stored metrics can be shown as they are: another program may have left anything there."""
    try:
        StateMetrics.model_validate(stored)
    except ValidationError:
        return False
    return are_given(stored)


def _iso(micros: int) -> str | None:
    if not micros:
        return None
    return iso(datetime.fromtimestamp(micros / 1_000_000, UTC))
