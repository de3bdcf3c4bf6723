"""Metrics and traces through the OpenTelemetry API. Names are those of its conventions for databases, where they fit.

Imported only where the API is installed. The instruments of a meter provider are made once; the stores that are open
are looked at when it is read, since an instrument that looks cannot be taken back. What was counted of a state path
stays when its store is closed: a counter never goes back.

To record one duration costs the SDK more than many a save costs us. So what can be counted is counted here, and looked
at when it is read; and of what is quick and often one duration a millisecond is recorded. What is slow always is.
Durations are handed over many at a time, and before they are read: between two saves that cost several times as much.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation
from opentelemetry.trace import Link, ProxyTracerProvider, Span, SpanKind, Status, StatusCode

from statepath._version import __version__
from statepath.commit import Change
from statepath.errors import HeadMoved, StateError
from statepath.events import AlertCleared, AlertRaised, BackupError, Events, SaveError
from statepath.telemetry import NOTHING, Telemetry, Watched

_SYSTEM: Final = "statepath"
_SECONDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
_OFTEN: Final = 0.001
"""Seconds between two durations that are recorded of what is quick."""

_HELD: Final = 64
"""So many durations are handed over at a time."""

Facts = dict[str, str]
Looking = Callable[[CallbackOptions], Iterable[Observation]]


class Counts:
    """What is counted of one state path, by all handles that the process has had on it, perhaps in several threads."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.commits = 0
        self.transactions = 0
        self.bytes = 0
        self._requests: dict[tuple[str, str], int] = {}
        self._counting = threading.Lock()

    def committed(self, transactions: int, size: int) -> None:
        """One more commit, of so many transactions and bytes."""
        with self._counting:
            self.commits += 1
            self.transactions += transactions
            self.bytes += size

    def requested(self, name: str, error: str) -> None:
        """One more call of the backend."""
        with self._counting:
            self._requests[name, error] = self._requests.get((name, error), 0) + 1

    def requests(self) -> list[tuple[int, Facts]]:
        """How many calls there were of each kind, and the facts of it."""
        with self._counting:
            found = list(self._requests.items())
        return [(count, operation_facts(self.facts, *kind)) for kind, count in found]


class Instruments:
    """The instruments of one meter provider, for all stores of the process."""

    def __init__(self, provider: MeterProvider) -> None:
        meter = provider.get_meter(_SYSTEM, __version__)
        self.stores: weakref.WeakValueDictionary[int, OpenTelemetry] = weakref.WeakValueDictionary()
        self._counted: dict[tuple[str, ...], Counts] = {}
        self.operations = meter.create_histogram(
            "db.client.operation.duration",
            "s",
            "How long saves, snapshots and the loading of a store take; of the saves of a commit, the first one.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        self.failures = meter.create_counter(
            "statepath.failures", "{failure}", "What failed: saves, snapshots, files, backups."
        )
        self.answers = meter.create_histogram(
            "statepath.backend.request.duration",
            "s",
            "How long the backend takes to answer.",
            explicit_bucket_boundaries_advisory=_SECONDS,
        )
        # The first of those that look, which are asked before what was recorded is read.
        meter.create_observable_counter(
            "statepath.backend.requests", [self._requests], "{request}", "What the backend was asked for."
        )
        for name, unit, what, number in _COUNTERS:
            meter.create_observable_counter(name, [self._counts(number)], unit, what)
        for name, unit, what, look in _GAUGES:
            meter.create_observable_gauge(name, [self._numbers(look)], unit, what)
        meter.create_observable_gauge(
            "statepath.documents", [self._documents], "{document}", "The live documents of each collection."
        )
        meter.create_observable_gauge(
            "statepath.alerts", [self._alerts], "{alert}", "1 for each alert that is raised."
        )

    def counted(self, facts: Facts) -> Counts:
        """Where what happens at the state path of these facts is counted."""
        return self._counted.setdefault(tuple(facts.values()), Counts(facts))

    def _counts(self, number: Callable[[Counts], int]) -> Looking:
        return lambda _: [Observation(number(one), one.facts) for one in list(self._counted.values())]

    def _numbers(self, look: Callable[[Watched], float]) -> Looking:
        return lambda _: _largest(
            (look(store), one.facts) for one in self._open() if (store := one.store) is not None
        )

    def _requests(self, _: CallbackOptions) -> Iterable[Observation]:
        for one in self._open():
            one.hand_over()
        return [
            Observation(count, facts)
            for one in list(self._counted.values())
            for count, facts in one.requests()
        ]

    def _documents(self, _: CallbackOptions) -> Iterable[Observation]:
        return _largest(
            (count, {**one.facts, "db.collection.name": name})
            for one in self._open()
            if (store := one.store) is not None
            for name, count in store.documents.items()
        )

    def _alerts(self, _: CallbackOptions) -> Iterable[Observation]:
        return [
            Observation(1, {**one.facts, "statepath.alert": name})
            for one in self._open()
            for name in sorted(one.alerts)
        ]

    def _open(self) -> list[OpenTelemetry]:
        # The references at once: others are opened in other threads meanwhile.
        return [one for found in self.stores.valuerefs() if (one := found()) is not None]


_COUNTERS: Final[tuple[tuple[str, str, str, Callable[[Counts], int]], ...]] = (
    ("statepath.commits", "{commit}", "The commits of this process.", lambda one: one.commits),
    (
        "statepath.commit.transactions",
        "{transaction}",
        "The transactions in them.",
        lambda one: one.transactions,
    ),
    ("statepath.commit.io", "By", "The bytes of documents in them.", lambda one: one.bytes),
)

_GAUGES: Final[tuple[tuple[str, str, str, Callable[[Watched], float]], ...]] = (
    ("statepath.seq", "{transaction}", "The head of the log.", lambda store: store.seq),
    (
        "statepath.journal.lag",
        "By",
        "The bytes of commits behind the snapshot.",
        lambda store: store.journal_bytes,
    ),
    ("statepath.views.lag", "{file}", "The files behind the log.", lambda store: store.view_lag),
    (
        "statepath.snapshot.lag",
        "s",
        "How long the oldest change waits for a snapshot.",
        lambda store: store.unsaved_seconds or 0.0,
    ),
    (
        "statepath.mirror.lag",
        "s",
        "How long the oldest commit waits to be on the replica; 0 without one.",
        lambda store: store.mirror_seconds or 0.0,
    ),
    ("statepath.snapshot.size", "By", "The last snapshot.", lambda store: store.snapshot_size),
)

_instruments: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def instruments(provider: MeterProvider) -> Instruments:
    """Those of the provider; made at the first call."""
    with _making:
        found = _instruments.get(provider)
        if found is None:
            found = _instruments[provider] = Instruments(provider)
        return found


class OpenTelemetry(Telemetry):
    """The telemetry of one store, which `url` names without credentials."""

    def __init__(self, instruments: Instruments, *, url: str, backend: str) -> None:
        self._instruments = instruments
        self.facts: Facts = {"db.system.name": _SYSTEM, "db.namespace": url, "statepath.backend": backend}
        self.alerts: set[str] = set()
        self._counts = instruments.counted(self.facts)
        self._held: deque[tuple[Histogram, float, Facts]] = deque()
        self._saved_at = self._answered_at = 0.0
        self.store: Watched | None = None
        self._operations: dict[tuple[str, str], Facts] = {}
        self._save = self._of("save")
        self._tracer = trace.get_tracer(_SYSTEM, __version__)
        self.traced = not isinstance(trace.get_tracer_provider(), ProxyTracerProvider)
        self._stops: list[Callable[[], object]] = []

    def _of(self, operation: str, error: str = "") -> Facts:
        """The facts of an operation that ended well, or with that error."""
        found = self._operations.get((operation, error))
        if found is None:
            found = self._operations[operation, error] = operation_facts(self.facts, operation, error)
        return found

    def operation(self, name: str) -> AbstractContextManager[None]:
        return self._timed(name)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        error = ""
        try:
            with self._span(name, self.facts) if self.traced else NOTHING:
                yield
        except BaseException as failure:
            error = _code(failure)
            raise
        finally:
            self._record(self._instruments.operations, time.perf_counter() - began, self._of(name, error))

    @contextmanager
    def _span(self, name: str, facts: Facts, links: list[Link] | None = None) -> Iterator[None]:
        # What goes on behind belongs to nobody's trace: not to that of whoever opened the store, either.
        with self._tracer.start_as_current_span(
            f"statepath {name}",
            Context(),
            SpanKind.CLIENT,
            {**facts, "db.operation.name": name},
            links,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except HeadMoved:
                raise  # losing a race is normal
            except BaseException as failure:
                _spoil(span, failure)
                raise

    def saving(self, changes: Sequence[Change], done: asyncio.Future[int]) -> Span | None:
        """The span of a save is part of the caller's trace; without one there is none."""
        if not trace.get_current_span().get_span_context().is_valid:
            return None
        only = changes[0] if len(changes) == 1 else None
        name = "transaction" if only is None else type(only).__name__.lower()
        facts = {**self.facts, "db.operation.name": name}
        collection = getattr(only, "collection", None)
        if collection is not None:
            facts["db.collection.name"] = collection
            name = f"{name} {collection}"
        span = self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=facts)
        done.add_done_callback(lambda done: _end(span, done))
        return span

    def commit(self, saves: Iterable[Any]) -> AbstractContextManager[None]:
        if not self.traced:
            return NOTHING
        return self._span(
            "commit", self.facts, [Link(save.get_span_context()) for save in saves if save is not None]
        )

    def committed(self, transactions: int, size: int, seconds: float) -> None:
        self._counts.committed(transactions, size)
        now = time.perf_counter()
        if seconds >= _OFTEN or now - self._saved_at >= _OFTEN:
            self._saved_at = now
            self._record(self._instruments.operations, seconds, self._save)

    def not_committed(self, error: StateError, seconds: float) -> None:
        self._record(self._instruments.operations, seconds, self._of("save", error.code))

    def request(self, name: str, seconds: float, error: BaseException | None = None) -> None:
        code = "" if error is None else _code(error)
        facts = self._of(name, code)
        self._counts.requested(name, code)
        now = time.perf_counter()
        if seconds >= _OFTEN or now - self._answered_at >= _OFTEN:
            self._answered_at = now
            self._record(self._instruments.answers, seconds, facts)
        if self.traced and trace.get_current_span().get_span_context().is_valid:
            end = time.time_ns()
            span = self._tracer.start_span(
                f"{facts['statepath.backend']} {name}",
                kind=SpanKind.CLIENT,
                attributes=facts,
                start_time=end - round(seconds * 1e9),
            )
            if error is not None:
                _spoil(span, error)
            span.end(end)

    def _record(self, histogram: Histogram, seconds: float, facts: Facts) -> None:
        # At once where the span of now may become its exemplar, and where nobody looks yet, or any more.
        if self.traced or self.store is None:
            histogram.record(seconds, facts)
            return
        self._held.append((histogram, seconds, facts))
        if len(self._held) >= _HELD:
            self.hand_over()

    def hand_over(self) -> None:
        """Record the durations that are held; may be called in another thread."""
        held = self._held
        with suppress(IndexError):
            while True:
                histogram, seconds, facts = held.popleft()
                histogram.record(seconds, facts)

    def watch(self, store: Watched, events: Events) -> None:
        self.store = store
        self._instruments.stores[id(self)] = self
        self._stops = [
            events.on(SaveError, lambda event: self._failed("save", event.error)),
            events.on(BackupError, lambda event: self._failed("backup", event.error)),
            events.on(AlertRaised, lambda event: self.alerts.add(event.alert)),
            events.on(AlertCleared, lambda event: self.alerts.discard(event.alert)),
        ]

    def close(self) -> None:
        self._instruments.stores.pop(id(self), None)
        self.store = None
        self.hand_over()
        for stop in self._stops:
            stop()

    def _failed(self, what: str, error: BaseException) -> None:
        self._instruments.failures.add(1, self._of(what, _code(error)))


def _largest(numbers: Iterable[tuple[float, Facts]]) -> list[Observation]:
    """A number for each state path, though it has several handles: what lags in one of them is not hidden by another.
    Of several with the same facts a reader would see the last."""
    found: dict[tuple[str, ...], tuple[float, Facts]] = {}
    for number, facts in numbers:
        place = tuple(facts.values())
        if place not in found or found[place][0] < number:
            found[place] = number, facts
    return [Observation(number, facts) for number, facts in found.values()]


def operation_facts(facts: Facts, operation: str, error: str = "") -> Facts:
    """The facts of an operation that ended well, or with that error."""
    found = {**facts, "db.operation.name": operation}
    return {**found, "error.type": error} if error else found


def _code(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return error.code if isinstance(error, StateError) else type(error).__name__


def _spoil(span: Span, error: BaseException) -> None:
    # The message may name documents; what kind of error it was is enough.
    span.set_attribute("error.type", _code(error))
    span.set_status(Status(StatusCode.ERROR, _code(error)))


def _end(span: Span, done: asyncio.Future[int]) -> None:
    if done.cancelled():
        span.set_attribute("error.type", "cancelled")
    elif (error := done.exception()) is not None:
        _spoil(span, error)
    else:
        span.set_attribute("statepath.seq", done.result())
    span.end()
