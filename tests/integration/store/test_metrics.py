"""Metrics and traces, as a program gets them that has set up the OpenTelemetry SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import aclosing
from pathlib import Path

import pytest
import statepath
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from statepath import backend, discovery
from statepath.engine.replica import Replica
from statepath.engine.vitals import Vitals
from statepath.errors import AccessDeniedError, NotFoundError, UnavailableError
from statepath.events import Events
from statepath.instruments import OpenTelemetry, instruments
from statepath.metering import MeteredBackend
from statepath.persistence import StatePersistence
from statepath.telemetry import SILENT, Telemetry

DENIED = AccessDeniedError("the folder of canary belongs to somebody else")
AWAY = UnavailableError("the storage is away")


class Read:
    """What a reader of the metrics sees."""

    def __init__(self, reader):
        self._reader = reader

    def points(self, name, **wanted):
        """The points of an instrument whose attributes have these values (`_` for `.`)."""
        found = []
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    if metric.name == name:
                        found += metric.data.data_points
        facts = {key.replace("_", "."): value for key, value in wanted.items()}
        return [point for point in found if facts.items() <= point.attributes.items()]

    def point(self, name, **wanted):
        (found,) = self.points(name, **wanted)
        return found

    def text(self):
        data = self._reader.get_metrics_data()
        return data.to_json() if data else ""


@pytest.fixture
def read(monkeypatch):
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: provider)
    yield Read(reader)
    provider.shutdown()


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
async def opened(faulty, monkeypatch):
    """Opens the store as a program does, on the faulty backend."""

    async def connect(path, **options):
        return await discovery.connect(path, **options) if faulty.closed else faulty

    monkeypatch.setattr("statepath.opening.connect", connect)
    stores = []

    async def opened(**options):
        store = await statepath.open(faulty.url, **{"autosave": 0, **options})
        stores.append(store)
        return store

    yield opened
    for store in stores:
        await store.aclose()


async def test_what_is_loaded_saved_and_written_behind_is_measured(read, opened, faulty):
    store = await opened()
    raw = store.collection("raw")
    await asyncio.gather(*(raw.put({"id": str(n), "text": "x" * 100}) for n in range(10)))
    await raw.put({"id": "0"})
    await store.snapshot()
    facts = {"db_system_name": "statepath", "db_namespace": faulty.url}
    duration = "db.client.operation.duration"
    load = read.point(duration, db_operation_name="load", **facts)
    save = read.point(duration, db_operation_name="save", **facts)
    snapshot = read.point(duration, db_operation_name="snapshot", **facts)
    assert (load.count, snapshot.count) == (1, 1)
    assert 1 <= save.count <= 2
    assert 0 < save.sum < 10
    assert save.attributes["statepath.backend"] == "memory"
    assert read.point("statepath.commits", **facts).value == 2
    assert read.point("statepath.commit.transactions", **facts).value == 11
    assert read.point("statepath.commit.io", **facts).value > 1000


async def test_what_was_measured_is_there_when_the_store_is_closed_already(read, opened):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.aclose()
    assert read.point("db.client.operation.duration", db_operation_name="save").count == 1


async def test_the_counters_go_on_when_the_store_is_closed_and_opened_again(read, opened):
    counters = (
        "statepath.commits",
        "statepath.commit.transactions",
        "statepath.commit.io",
        "statepath.backend.requests",
    )

    def counted():
        return [sum(point.value for point in read.points(name)) for name in counters]

    store = await opened()
    await store.collection("raw").put({"id": "a"})
    open_still = counted()
    await store.aclose()
    closed = counted()
    store = await opened()
    await store.collection("raw").put({"id": "b"})
    again = counted()
    assert (open_still[0], closed[:3], again[:2]) == (1, open_still[:3], [2, 2])
    assert all(before <= then < now for before, then, now in zip(open_still, closed, again, strict=True))


async def test_two_handles_on_one_store_are_counted_together(read, url):
    async with statepath.open(url) as store, statepath.open(url) as other:
        await store.collection("raw").put({"id": "a"})
        await other.collection("raw").put({"id": "b"})
        assert read.point("statepath.commits").value == 2
    assert read.point("statepath.commits").value == 2


async def test_of_two_handles_on_one_store_none_hides_what_lags_in_the_other(read, url):
    async with statepath.open(url, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        async with statepath.open(url, autosave=0, readonly=True):
            await store.collection("raw").put({"id": "b"})
            assert read.point("statepath.snapshot.lag").value > 0
            assert read.point("statepath.seq").value == 2
            assert read.point("statepath.documents").value == 2


async def test_what_the_store_holds_and_how_far_it_lags_can_be_read_at_any_time(read, opened):
    store = await opened(views=True, view_interval=3600)
    await store.collection("raw").put({"id": "a"})
    await store.collection("raw").put({"id": "b"})
    await store.collection("more").put({"id": "a"})
    assert read.point("statepath.documents", db_collection_name="raw").value == 2
    assert read.point("statepath.documents", db_collection_name="more").value == 1
    assert read.point("statepath.seq").value == 3
    assert read.point("statepath.views.lag").value == 3
    assert read.point("statepath.journal.lag").value > 0
    assert read.point("statepath.snapshot.lag").value > 0
    await store.flush()
    await store.snapshot()
    assert read.point("statepath.views.lag").value == 0
    assert read.point("statepath.journal.lag").value == 0
    assert read.point("statepath.snapshot.lag").value == 0
    assert read.point("statepath.snapshot.size").value > 0


async def test_failures_are_counted_by_their_code(read, opened, faulty):
    store = await opened()
    raw = store.collection("raw")
    faulty.fail("write", "journal/0", DENIED, times=2)
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            await raw.put({"id": "a"})
    await raw.put({"id": "a"})
    faulty.fail("write", "state.json", AWAY)
    with pytest.raises(UnavailableError):
        await store.snapshot()
    save = {"db_operation_name": "save"}
    assert read.point("statepath.failures", error_type="access_denied", **save).value == 2
    assert read.point("db.client.operation.duration", error_type="access_denied", **save).count == 2
    assert read.point("db.client.operation.duration", error_type="unavailable").attributes[
        "db.operation.name"
    ] == ("snapshot")


async def test_backups_that_fail_are_counted(read, opened, faulty):
    store = await opened()
    for n in range(2):
        if n:
            faulty.fail("write", "state.backup.", AWAY)
        await store.collection("raw").put({"id": str(n)})
        await store.snapshot()
    assert read.point("statepath.failures", db_operation_name="backup", error_type="unavailable").value == 1


async def test_what_the_backend_is_asked_for_is_measured(read, opened, faulty):
    store = await opened()

    def writes():
        return sum(
            point.value for point in read.points("statepath.backend.requests", db_operation_name="write")
        )

    before = writes()
    await store.collection("raw").put({"id": "a"})
    assert writes() == before + 1
    faulty.fail("read", "journal/floor", AWAY)
    await store.health()
    failed = read.point("statepath.backend.requests", db_operation_name="read", error_type="unavailable")
    assert failed.value == 1
    assert read.points("statepath.backend.requests", db_operation_name="list")
    assert read.points("statepath.backend.request.duration")


async def test_a_call_that_was_given_up_is_measured_too(read, opened, faulty):
    """Else a storage that answers nothing any more would seem to be asked for nothing."""
    store = await opened()
    gate = faulty.hold("read", "journal/floor")
    asking = asyncio.ensure_future(store.health())
    await gate.reached.wait()
    asking.cancel()
    await asyncio.wait([asking])
    gate.open()
    given_up = {"db_operation_name": "read", "error_type": "cancelled"}
    assert read.point("statepath.backend.requests", **given_up).value == 1


async def test_a_listing_that_is_left_early_is_measured_and_no_failure(read, opened, faulty):
    store = await opened()

    def lists():
        points = read.points("statepath.backend.requests", db_operation_name="list")
        assert all("error.type" not in point.attributes for point in points)
        return sum(point.value for point in points)

    before = lists()
    async with aclosing(store._engine.backend.list_keys("")) as entries:
        await anext(entries)
    assert lists() == before + 1


async def test_what_is_slow_is_always_recorded_and_what_is_quick_once_a_millisecond(
    read, opened, monkeypatch
):
    store = await opened()
    raw = store.collection("raw")

    def recorded():
        return [
            sum(point.count for point in read.points(name, db_operation_name=operation))
            for name, operation in (
                ("db.client.operation.duration", "save"),
                ("statepath.backend.request.duration", "write"),
            )
        ]

    (saves, writes), now = recorded(), [1e9]
    monkeypatch.setattr("statepath.instruments.time.perf_counter", lambda: now[0])
    for n in range(10):
        now[0] += 0.002
        await raw.put({"id": str(n)})
    assert recorded() == [saves + 10, writes + 10]
    for n in range(10):
        await raw.put({"id": str(n)})
    assert recorded() == [saves + 10, writes + 10]
    for _ in range(5):
        store._engine.telemetry.committed(1, 1, 0.001)
        store._engine.telemetry.request("write", 0.001)
    assert recorded() == [saves + 15, writes + 15]
    assert read.point("statepath.commits").value == 25


def test_all_that_a_backend_may_declare_beside_is_passed_on(faulty):
    """A capability that is added is added here, too: two are a factory's, and three others a log's."""
    declared = [kind for name, kind in vars(backend).items() if name.startswith("Supports")]
    declared.remove(backend.SupportsSchema)
    declared.remove(backend.SupportsParameters)
    declared.remove(backend.SupportsExtend)
    declared.remove(backend.SupportsNewest)
    declared.remove(backend.SupportsPlacing)
    assert len(declared) >= 8
    members = {name for kind in declared for name in (*vars(kind), *kind.__annotations__) if name[0] != "_"}
    assert members <= set(dir(MeteredBackend))


async def test_documents_that_stay_in_the_database_are_measured_too(read, postgres):
    url = postgres.url(store="measured")
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
    async with statepath.open(url, load=False) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
        assert [document async for document in store.collection("raw").find()] == [{"id": "a"}]
        await store.collection("raw").put({"id": "b"})
        await store.stats()
        asked = {point.attributes["db.operation.name"] for point in read.points("statepath.backend.requests")}
        assert {"read_documents", "moment"} <= asked
        assert read.points("statepath.documents") == []
        assert (await store.health()).status == "ok"


async def test_a_query_that_stops_early_has_asked_the_database_too(read, postgres):
    url = postgres.url(store="measured")
    async with statepath.open(url) as store, store.transaction() as tx:
        for n in range(1000):
            tx.put(store.collection("raw"), {"id": str(n)})
    async with statepath.open(url, load=False) as store:
        before = read.point("statepath.backend.requests", db_operation_name="moment").value
        assert await store.collection("raw").find().first() == {"id": "0"}
        assert read.point("statepath.backend.requests", db_operation_name="moment").value == before + 1


async def test_alerts_that_are_raised_can_be_read(read, opened, faulty):
    store = await opened()
    assert read.points("statepath.alerts") == []
    faulty.fail("write", "journal/0", DENIED)
    with pytest.raises(AccessDeniedError):
        await store.collection("raw").put({"id": "a"})
    await asyncio.sleep(0)
    assert {point.attributes["statepath.alert"] for point in read.points("statepath.alerts")} == {
        "writable",
        "access",
    }
    assert {point.value for point in read.points("statepath.alerts")} == {1}


async def test_a_store_that_is_closed_is_looked_at_no_more(read, opened):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.aclose()
    assert read.points("statepath.seq") == []
    assert read.points("statepath.documents") == []


@pytest.fixture
def _turns_are_short():
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.slow
@pytest.mark.usefixtures("_turns_are_short")
def test_stores_may_come_and_go_in_other_threads_while_the_numbers_are_read(read, caplog):
    made = instruments(metrics.get_meter_provider())

    def come_and_go():
        for _ in range(30):
            several = [OpenTelemetry(made, url="memory://", backend="memory") for _ in range(200)]
            for one in several:
                one.watch(Vitals(Replica()), Events())
            for one in several:
                one.close()

    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for other in others:
        other.start()
    while any(other.is_alive() for other in others):
        read.text()
    assert "Callback failed" not in caplog.text


async def test_two_stores_are_told_apart(read, url, other_url):
    async with statepath.open(url) as one, statepath.open(other_url) as other:
        await other.collection("raw").put({"id": "a"})
        found = {point.attributes["db.namespace"]: point.value for point in read.points("statepath.seq")}
    assert found == {one.url: 0, other.url: 1}


async def test_of_two_stores_that_share_a_bus_each_has_its_own_failures(read, opened, faulty, other_url):
    events = statepath.Events()
    store = await opened(events=events)
    async with statepath.open(other_url, events=events):
        faulty.fail("write", "journal/0", DENIED)
        with pytest.raises(AccessDeniedError):
            await store.collection("raw").put({"id": "a"})
        await asyncio.sleep(0)
        for name in ("statepath.failures", "statepath.alerts"):
            assert {point.attributes["db.namespace"] for point in read.points(name)} == {store.url}
        assert read.point("statepath.failures").value == 1


async def test_a_reader_is_measured_too(read, opened, faulty):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.aclose()
    async with statepath.open(faulty.url, readonly=True):
        assert read.point("statepath.seq").value == 1
    with pytest.raises(NotFoundError):
        await statepath.open("memory://nothing-here", readonly=True)
    assert read.point("db.client.operation.duration", error_type="not_found").count == 1


async def test_nothing_of_a_document_and_no_secret_is_in_metrics_or_spans(
    read, spans, opened, faulty, caplog
):
    caplog.set_level("DEBUG")
    store = await opened(views=True)
    with trace.get_tracer("test").start_as_current_span("request"):
        await store.collection("raw").put({"id": "canary-id", "text": "canary"})
        await store.append_log("canary-log", "canary\n")
        await store.save_report("canary-report", {"text": "canary"})
        faulty.fail("write", "journal/0", DENIED)
        with pytest.raises(AccessDeniedError):
            await store.collection("raw").put({"id": "canary-id", "text": "canary"})
    await store.snapshot()
    await store.aclose()
    told = read.text() + "".join(span.to_json() for span in spans.get_finished_spans())
    assert "db.client.operation.duration" in told
    assert "canary" not in told
    assert '"canary"' not in caplog.text


async def test_a_save_is_a_span_of_the_caller_s_trace_and_the_commit_names_it(spans, opened):
    store = await opened()
    raw = store.collection("raw")
    with trace.get_tracer("test").start_as_current_span("request") as request:
        await asyncio.gather(raw.put({"id": "a"}), raw.put({"id": "b"}))
        await raw.delete("a")
        async with store.transaction() as tx:
            tx.put(raw, {"id": "c"})
            tx.put(raw, {"id": "d"})
    found = spans.get_finished_spans()
    ours = {
        span.name
        for span in found
        if span.parent and span.parent.span_id == request.get_span_context().span_id
    }
    assert ours == {"put raw", "delete raw", "transaction"}
    (first, *_) = [span for span in found if span.name == "put raw"]
    assert first.kind is SpanKind.CLIENT
    assert first.attributes["db.collection.name"] == "raw"
    assert first.attributes["statepath.seq"] in (1, 2)
    (commit, *_) = [span for span in found if span.name == "statepath commit"]
    assert commit.parent is None
    assert first.context.span_id in [link.context.span_id for link in commit.links]
    assert len(commit.links) == 2
    inside = [span.name for span in found if span.parent and span.parent.span_id == commit.context.span_id]
    assert inside == ["memory write"]


async def test_a_whole_state_that_is_saved_is_a_span_like_any_other_save(spans, opened):
    store = await opened()
    with trace.get_tracer("test").start_as_current_span("request") as request:
        await StatePersistence(store).save_state({"tasks": [{"id": "a"}]})
    found = spans.get_finished_spans()
    (save,) = [span for span in found if span.name == "transaction"]
    assert save.parent.span_id == request.get_span_context().span_id
    (commit,) = [span for span in found if span.name == "statepath commit"]
    assert save.context.span_id in [link.context.span_id for link in commit.links]


async def test_what_goes_on_behind_is_in_no_caller_s_trace(spans, faulty, monkeypatch, opened):
    with trace.get_tracer("test").start_as_current_span("startup") as startup:
        store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.snapshot()
    found = {span.name: span for span in spans.get_finished_spans()}
    assert {"statepath load", "statepath commit", "statepath snapshot"} <= found.keys()
    assert "put raw" not in found
    trace_id = startup.get_span_context().trace_id
    assert [name for name, span in found.items() if span.context.trace_id == trace_id] == ["startup"]


async def test_a_save_that_fails_is_a_span_that_says_how(spans, opened, faulty):
    store = await opened()
    faulty.fail("write", "journal/0", DENIED)
    with trace.get_tracer("test").start_as_current_span("request"), pytest.raises(AccessDeniedError):
        await store.collection("raw").put({"id": "a"})
    found = {span.name: span for span in spans.get_finished_spans()}
    for name in ("put raw", "statepath commit", "memory write"):
        assert found[name].status.status_code is StatusCode.ERROR, name
        assert found[name].attributes["error.type"] == "access_denied", name


async def test_a_save_that_was_given_up_ends_its_span(spans, opened, faulty):
    store = await opened()
    gate = faulty.hold("write", "journal/0")
    with trace.get_tracer("test").start_as_current_span("request"):
        saving = asyncio.ensure_future(store.collection("raw").put({"id": "a"}))
        await gate.reached.wait()
        saving.cancel()
        await asyncio.wait([saving])
    gate.open()
    await store.flush()
    (span,) = [span for span in spans.get_finished_spans() if span.name == "put raw"]
    assert span.attributes["error.type"] == "cancelled"


async def test_who_has_set_nothing_up_pays_nothing(url, monkeypatch):
    for module in ("opentelemetry.metrics", "opentelemetry.trace"):
        monkeypatch.delitem(sys.modules, module)
    async with statepath.open(url) as store:
        assert store._engine.telemetry is SILENT
        assert type(store._engine.telemetry) is Telemetry
        assert "opentelemetry.metrics" not in sys.modules


async def test_where_the_api_is_there_and_nobody_has_set_a_provider_nothing_is_measured(url, opened):
    assert "opentelemetry.metrics" in sys.modules
    assert (await opened())._engine.telemetry is SILENT


async def test_an_api_that_is_too_old_is_told_and_the_store_opens(url, read, monkeypatch, caplog):
    monkeypatch.setattr(metrics.Meter, "create_histogram", lambda self, name: None)
    async with statepath.open(url) as store:
        assert store._engine.telemetry is SILENT
    assert "opentelemetry-api is too old" in caplog.text


PROGRAM = """
import asyncio, json, sys
import statepath
if "--with" in sys.argv:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))

async def main():
    async with statepath.open("state") as store:
        await store.collection("raw").put({"id": "a"})
        found = []
        if "--with" in sys.argv:
            (resource,) = reader.get_metrics_data().resource_metrics
            found = sorted(metric.name for scope in resource.scope_metrics for metric in scope.metrics)
        loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry"))
    print(json.dumps([found, len(loaded)]))

asyncio.run(main())
"""


def run(folder: Path, *words: str) -> tuple[list[str], int]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found, loaded = json.loads(done.stdout)
    return found, loaded


@pytest.mark.slow
def test_a_program_that_has_set_it_up_gets_the_numbers_of_the_page(tmp_path):
    found, _ = run(tmp_path, "--with")
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    assert {"db.client.operation.duration", "statepath.commits", "statepath.seq"} <= set(found)
    assert not [name for name in found if f"`{name}`" not in page]


@pytest.mark.slow
def test_a_program_that_has_not_loads_nothing_of_it(tmp_path):
    assert run(tmp_path) == ([], 0)
