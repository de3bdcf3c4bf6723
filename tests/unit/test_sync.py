"""The blocking facade: the same store for programs without an event loop."""

import asyncio
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
import statepath
from pydantic import BaseModel
from statepath import F, sync
from statepath.collection import Collection
from statepath.discovery import connect
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    LeaseHeldError,
    LeaseLostError,
    NotFoundError,
    UnsupportedError,
)
from statepath.events import StateLoaded, StateSaved
from statepath.lease import Lease
from statepath.query import Query
from statepath.store import Store
from statepath.transaction import Transaction


class Task(BaseModel):
    id: str
    status: str = "pending"
    logs: list[str] = []


@pytest.fixture
def url():
    return f"memory://{uuid4().hex}"


@pytest.fixture
def store(url):
    with statepath.open_sync(url, autosave=0) as store:
        yield store


@pytest.fixture
def tasks(store):
    return store.collection("tasks", Task)


def loop_threads():
    return [thread for thread in threading.enumerate() if thread.name == "statepath-loop"]


# The same methods

PAIRS = {
    Store: sync.SyncStore,
    Collection: sync.SyncCollection,
    Query: sync.SyncQuery,
    Transaction: sync.SyncTransaction,
}
RENAMED = {
    "aclose": "close",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
}
WITHIN = {
    "make_way",
    "id_of",
    "encode",
    "encoded",
    "encode_over",
    "keep",
    "bare",
    "forgets",
    "encode_append",
    "decode",
    "document",
    "resolve",
}
"""What collections share with transactions, and with nobody else."""


def public(kind):
    return {
        name: member
        for name, member in vars(kind).items()
        if name in RENAMED or (not name.startswith("_") and name not in WITHIN)
    }


def signature(member):
    return inspect.signature(member.fget if isinstance(member, property) else member)


def blocking(annotation):
    """The annotation of the asynchronous method, as the facade has to have it."""
    text = re.sub(r"\bAwaitable\[((?:[^\[\]]|\[[^\[\]]*\])*)\]", r"\1", str(annotation))
    text = re.sub(r"\bAsync(?:Iterator|Generator)\b", "Iterator", text)
    text = re.sub(r"\b(Store|Collection|Query|Transaction|Lease)\b", r"Sync\1", text)
    return " | ".join(dict.fromkeys(re.split(r" \| (?=Callable)", text)))


@pytest.mark.parametrize("kind", PAIRS, ids=lambda kind: kind.__name__)
def test_every_method_is_there_with_the_same_signature(kind):
    facade = PAIRS[kind]
    for name, member in public(kind).items():
        twin = vars(facade)[RENAMED.get(name, name)]
        assert isinstance(member, property) == isinstance(twin, property), name
        theirs, ours = signature(member), signature(twin)
        assert [
            (parameter.name, parameter.kind, parameter.default, blocking(parameter.annotation))
            for parameter in theirs.parameters.values()
        ] == [
            (parameter.name, parameter.kind, parameter.default, str(parameter.annotation))
            for parameter in ours.parameters.values()
        ], name
        returned = str(ours.return_annotation).replace("SyncIterator", "Iterator")
        assert blocking(theirs.return_annotation).replace("SyncTransaction", "Self") == returned.replace(
            "SyncTransaction", "Self"
        ), name


@pytest.mark.parametrize("kind", PAIRS, ids=lambda kind: kind.__name__)
def test_there_is_no_method_of_its_own(kind):
    known = {RENAMED.get(name, name) for name in public(kind)}
    own = {name for name in vars(PAIRS[kind]) if not name.startswith("_")}
    assert own - known <= {"seq"}  # an attribute of the transaction


def test_opening_has_the_same_signature():
    theirs, ours = inspect.signature(statepath.open), inspect.signature(statepath.open_sync)
    assert theirs.parameters == ours.parameters
    assert ours.return_annotation == "SyncStore"


# The same behaviour


def test_documents_are_saved_and_read(tasks):
    assert tasks.put(Task(id="a")) == 1
    assert tasks.create(Task(id="b")) == 2
    assert tasks.append("a", "logs", "x") == 3
    assert tasks.get("a") == Task(id="a", logs=["x"])
    assert tasks.get_document("a").version == 3
    assert tasks.delete("b") is True
    assert tasks.count() == 1
    assert (tasks.name, tasks.model, tasks.id_field) == ("tasks", Task, "id")


def test_errors_keep_their_type(tasks):
    tasks.put(Task(id="a"))
    with pytest.raises(AlreadyExistsError):
        tasks.create(Task(id="a"))
    with pytest.raises(ConflictError) as caught:
        tasks.put(Task(id="a", status="mine"), if_version=9)
    assert (caught.value.current, caught.value.ours["status"]) == (1, "mine")
    with pytest.raises(NotFoundError):
        tasks.append("nobody", "logs", "x")
    with pytest.raises(InvalidArgumentError):
        tasks.get("")


def test_a_transaction_is_a_plain_context_manager(store, tasks):
    tasks.put(Task(id="a"))
    with store.transaction() as tx:
        task = tx.get(tasks, "a")
        tx.put(tasks, task.model_copy(update={"status": "done"}))
        tx.put(tasks, Task(id="b"))
        tx.append(tasks, "b", "logs", "x")
        tx.put_member("metrics", 1)
        assert tx.get_member("metrics") == 1
        tx.delete_member("metrics")
        tx.delete(tasks, "nobody")
        assert store.seq == 1
    assert tx.seq == store.seq == 2
    assert (tasks.get("a").status, tasks.get("b").logs) == ("done", ["x"])


def test_an_exception_drops_the_transaction(store, tasks):
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:  # noqa: PT012 - that is what it is about
        tx.put(tasks, Task(id="a"))
        raise ZeroDivisionError
    assert store.seq == 0


def test_a_conflict_is_raised_at_the_end_of_the_block(store, tasks):
    with pytest.raises(ConflictError), store.transaction() as tx:  # noqa: PT012 - raised at the end
        tx.get(tasks, "a")
        tasks.put(Task(id="a"))
        tx.put(tasks, Task(id="b"))
    assert tasks.get("b") is None


def test_transact_calls_a_plain_function_in_this_thread_until_there_is_no_conflict(store, tasks):
    threads = []

    def claim(tx):
        threads.append(threading.current_thread())
        assert tx.get(tasks, "a") == (tasks.get("a"))
        if len(threads) == 1:
            tasks.put(Task(id="a", status="theirs"))
        tx.put(tasks, Task(id="a", status="mine"))
        return "result"

    assert store.transact(claim) == "result"
    assert threads == [threading.current_thread()] * 2
    assert tasks.get("a").status == "mine"


def test_update_calls_a_plain_function_in_this_thread(tasks):
    tasks.put(Task(id="a"))
    threads = []

    def change(task):
        threads.append(threading.current_thread())
        task.status = "done"

    assert tasks.update("a", change) == Task(id="a", status="done")
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, asyncio.CancelledError, TimeoutError])
def test_what_a_function_raises_reaches_the_caller(store, tasks, error):
    tasks.put(Task(id="a"))

    def fail(_):
        raise error

    with pytest.raises(error):
        tasks.update("a", fail)
    with pytest.raises(error):
        store.transact(fail)
    assert store.seq == 1


def test_a_function_that_raises_stop_iteration_does_not_hang(tasks):
    tasks.put(Task(id="a"))
    with pytest.raises(RuntimeError, match="StopIteration"):
        tasks.update("a", lambda task: next(iter(())))


def test_a_function_that_is_async_is_refused_and_changes_nothing(store, tasks):
    async def put(tx):
        tx.put(tasks, Task(id="a"))

    with pytest.raises(InvalidArgumentError, match="must not be async here"):
        store.transact(put)
    assert tasks.get("a") is None


def test_queries_are_iterated_and_asked(tasks):
    for n in range(600):
        tasks.put(Task(id=f"{n:03}", status="odd" if n % 2 else "even"))
    assert [task.id for task in tasks] == [f"{n:03}" for n in range(600)]
    odd = tasks.find(F("id") < "004", status="odd")
    assert [task.id for task in odd] == [task.id for task in odd.all()] == ["001", "003"]
    assert (odd.first().id, odd.count()) == ("001", 2)
    page = tasks.find(limit=2).page()
    assert [task.id for task in tasks.find(limit=2, after=page.next)] == ["002", "003"]


def test_a_query_gives_what_comes_before_a_document_that_it_cannot_give(store, tasks):
    for n in range(9):
        tasks.put(Task(id=str(n)))
    store.collection("tasks").put({"id": "5", "logs": "no list"})
    seen = []
    with pytest.raises(InvalidArgumentError, match="tasks/5"):
        seen.extend(task.id for task in tasks)
    assert seen == ["0", "1", "2", "3", "4"]


def test_the_rest_of_the_store(store, tasks):
    store.append_log("s", "text")
    assert (store.read_log("s"), store.logs()) == ("text", ["s"])
    assert store.save_report("r", {"n": 1}) == f"{store.url}/reports/r.json"
    assert (store.read_report("r"), store.reports()) == ({"n": 1}, ["r"])
    seq = tasks.put(Task(id="a"))
    tasks.put(Task(id="a", status="done"))
    assert [change.seq for change in store.history("tasks/a", since=0, limit=1)] == [seq + 1]
    assert store.restore(at=seq).to == seq
    assert store.snapshot() == store.seq
    assert store.backup() in store.backups()
    assert (store.get_member("metrics"), store.members()) == (None, {})
    store.flush()
    assert store.sync(at_least=seq) == store.seq
    assert store.verify() == []
    assert store.health().healthy
    assert store.stats().documents == {"tasks": 1}
    assert store.collections() == ("tasks",)
    assert (store.readonly, store.closed, store.settings.autosave) == (False, False, 0)
    assert len(store.id) == len(store.incarnation) == 32


def test_events_are_told(url):
    events, told = statepath.Events(), []
    events.on("*", told.append)
    with statepath.open_sync(url, events=events) as store:
        assert store.events is events
        store.collection("raw").put({"id": "a"})
    assert [type(event) for event in told] == [StateLoaded, StateSaved]


def test_the_change_feed_is_an_iterator(store, tasks):
    with store.watch(since=0, collections=("tasks",)) as changes:
        tasks.put(Task(id="a"))
        tasks.put(Task(id="b"))
        assert [next(changes).id, next(changes).id] == ["a", "b"]
    assert list(changes) == []


def test_a_bad_cursor_is_refused_at_once(store):
    with pytest.raises(InvalidArgumentError):
        store.watch(since="no cursor")


def test_closing_the_feed_ends_it_in_the_thread_that_waits(store, tasks):
    changes, seen, told = store.watch(), [], threading.Event()

    def follow():
        for change in changes:
            seen.append(change.id)
            told.set()

    with ThreadPoolExecutor() as threads:
        following = threads.submit(follow)
        tasks.put(Task(id="a"))
        told.wait()
        changes.close()
        following.result()
    changes.close()
    assert seen == ["a"]
    assert tasks.put(Task(id="b")) == 2


def test_closing_the_feed_ends_it_in_the_thread_that_is_about_to_take_a_change(store, tasks):
    changes = store.watch(since=0)

    class Ready(deque):
        def popleft(self):
            changes.close()
            return super().popleft()

    changes._ready = Ready()
    tasks.put(Task(id="a"))
    assert list(changes) == []


def test_the_feed_ends_when_the_store_closes(store, tasks):
    changes = store.watch(since=0)
    tasks.put(Task(id="a"))
    with ThreadPoolExecutor() as threads:
        following = threads.submit(lambda: [change.id for change in changes])
        store.close()
        assert following.result() in (["a"], [])


def test_what_a_query_has_not_given_when_the_store_closes_is_told_to_be_missing(store, tasks):
    for n in range(3):
        tasks.put(Task(id=str(n)))
    begun, not_begun = iter(tasks), iter(tasks)
    assert next(begun).id == "0"
    store.close()
    for documents in (begun, not_begun):
        with pytest.raises(ClosedError, match="closed before all was given"):
            list(documents)
        assert list(documents) == []


# Threads and processes


def test_one_thread_serves_all_stores_and_ends_with_the_last():
    assert loop_threads() == []
    with statepath.open_sync(f"memory://{uuid4().hex}") as one:
        with statepath.open_sync(f"memory://{uuid4().hex}") as other:
            one.collection("raw").put({"id": "a"})
            other.collection("raw").put({"id": "a"})
            assert len(loop_threads()) == 1
        assert one.collection("raw").put({"id": "b"}) == 2
        assert len(loop_threads()) == 1
    assert loop_threads() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_store_whose_event_loop_has_ended_early_can_be_closed(connections, url):
    store = statepath.open_sync(url, autosave=0)
    raw = store.collection("raw")
    raw.put({"id": "a"})
    [thread] = loop_threads()
    loop = store._store._engine._loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    with pytest.raises(UnsupportedError, match="close this handle"):
        raw.put({"id": "b"})
    store.close()
    assert connections[1].closed
    assert loop_threads() == []
    with statepath.open_sync(url) as again:
        assert again.collection("raw").count() == 1


def test_many_threads_may_use_one_store(store):
    raw = store.collection("raw")
    raw.put({"id": "counter", "n": 0, "list": []})

    def work(n):
        raw.put({"id": str(n)})
        raw.append("counter", "list", n)
        return raw.update("counter", lambda counter: {**counter, "n": counter["n"] + 1})["id"]

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(20)))
    counter = raw.get("counter")
    assert (counter["n"], sorted(counter["list"]), raw.count()) == (20, list(range(20)), 21)


def test_after_closing_every_use_is_a_closed_error(store, tasks):
    store.close()
    store.close()
    assert store.closed
    for use in (
        lambda: tasks.put(Task(id="a")),
        lambda: tasks.get("a"),
        lambda: tasks.find().all(),
        lambda: list(tasks),
        lambda: tasks.update("a", lambda task: None),
        lambda: store.transact(lambda tx: None),
        store.transaction,
        store.watch,
        store.flush,
        store.sync,
        store.stats,
        store.history,
    ):
        with pytest.raises(ClosedError):
            use()
    assert not store.health().healthy
    assert loop_threads() == []


def test_an_opening_that_fails_leaves_no_thread(url):
    with pytest.raises(NotFoundError):
        statepath.open_sync(url, readonly=True)
    assert loop_threads() == []


def test_within_an_event_loop_it_says_to_use_the_async_api(store, tasks):
    async def use(call):
        call()

    for call in (
        lambda: statepath.open_sync("memory://"),
        lambda: tasks.put(Task(id="a")),
        lambda: tasks.find().all(),
        lambda: tasks.update("a", lambda task: None),
        lambda: store.transact(lambda tx: None),
        store.transaction,
        store.close,
    ):
        with pytest.raises(
            UnsupportedError, match=r"use the async API \(async with statepath.open"
        ) as caught:
            asyncio.run(use(call))
        assert caught.value.code == "in_event_loop"
    assert not store.closed


def test_within_an_event_loop_another_thread_may_use_it(store, tasks):
    async def use():
        return await asyncio.to_thread(tasks.put, Task(id="a"))

    assert asyncio.run(use()) == 1


def test_a_listener_is_told_that_it_must_not_block(store, tasks):
    codes = []

    def listen(event):
        try:
            tasks.count()
        except UnsupportedError as error:
            codes.append(error.code)

    store.events.on(StateSaved, listen)
    tasks.put(Task(id="a"))
    store.snapshot()
    assert codes == ["in_event_loop"]


def test_a_store_that_is_dropped_open_is_told(url):
    store = statepath.open_sync(url)
    inner, lease = store._store, store._lease
    with pytest.warns(ResourceWarning, match="was not closed"):
        del store
    with lease:
        sync._Loop().run(inner.aclose)


class Interrupted:
    """A connection whose next call to a method, with such a key, interrupts the main thread first."""

    def __init__(self, backend):
        self._backend = backend
        self._armed = ("", "")
        self.closed = False

    def interrupt(self, method, prefix):
        self._armed = (method, prefix)

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def read(self, key, **options):
        self._press("read", key)
        return await self._backend.read(key, **options)

    async def write(self, key, data, **options):
        self._press("write", key)
        return await self._backend.write(key, data, **options)

    async def close(self):
        self.closed = True
        await self._backend.close()

    def _press(self, method, key):
        armed, prefix = self._armed
        if armed == method and key.startswith(prefix):
            self._armed = ("", "")
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


@pytest.fixture
def connections(monkeypatch):
    made = []

    async def connecting(path, **options):
        backend = Interrupted(await connect(path, **options))
        backend.interrupt(*connecting.armed)
        made.append(backend)
        return backend

    connecting.armed = ("", "")
    monkeypatch.setattr("statepath.opening.connect", connecting)
    made.append(connecting)
    return made


def test_ctrl_c_during_a_save_leaves_the_store_usable(connections, store, tasks, url):
    connections[1].interrupt("write", "journal/0")
    with pytest.raises(KeyboardInterrupt):
        tasks.put(Task(id="interrupted"))
    assert tasks.put(Task(id="after")) in (1, 2)
    with statepath.open_sync(url, readonly=True) as reader:
        assert {task["id"] for task in reader.collection("tasks")} - {"interrupted"} == {"after"}


def test_ctrl_c_during_a_transaction_makes_it_whole_or_not_at_all(connections, store, tasks):
    connections[1].interrupt("write", "journal/0")
    with pytest.raises(KeyboardInterrupt), store.transaction() as tx:  # noqa: PT012 - raised at the end
        tx.put(tasks, Task(id="a"))
        tx.put(tasks, Task(id="b"))
    tasks.put(Task(id="after"))
    assert tasks.count() in (1, 3)


def test_ctrl_c_in_a_function_changes_nothing(store, tasks):
    tasks.put(Task(id="a"))

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tasks.update("a", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.transact(interrupted)
    assert tasks.put(Task(id="b")) == 2


@pytest.fixture
def interrupted(store):
    """A watch whose first wait ends with Ctrl-C."""
    changes = store.watch()
    source = changes._source

    async def waits():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        async for change in source:
            yield change

    changes._source = waits()
    with pytest.raises(KeyboardInterrupt):
        next(changes)
    return changes


def test_ctrl_c_while_waiting_for_a_change_misses_none(interrupted, tasks):
    tasks.put(Task(id="a"))
    tasks.put(Task(id="b"))
    assert [next(interrupted).id, next(interrupted).id] == ["a", "b"]


def test_what_ctrl_c_interrupted_can_be_closed(interrupted, store, tasks):
    interrupted.close()
    assert next(interrupted, None) is None
    assert tasks.put(Task(id="a")) == 1


def test_what_ctrl_c_interrupted_ends_with_the_store(interrupted, store):
    store.close()
    assert next(interrupted, None) is None


def test_threads_that_share_an_iterator_get_each_change_once(store, tasks):
    changes = store.watch()
    with ThreadPoolExecutor(4) as threads:
        told = [threads.submit(next, changes) for _ in range(4)]
        for n in range(4):
            tasks.put(Task(id=str(n)))
        assert sorted(one.result().id for one in told) == ["0", "1", "2", "3"]
    changes.close()


def test_ctrl_c_during_opening_releases_the_storage(connections, url):
    connections[0].armed = ("read", "journal/floor")
    with pytest.raises(KeyboardInterrupt):
        statepath.open_sync(url)
    assert connections[1].closed
    assert loop_threads() == []


def test_who_closes_while_another_thread_does_waits_for_the_end(store, monkeypatch):
    engine = store._store._engine
    finish, begun, go_on = engine._finish, threading.Event(), threading.Event()

    async def slowly():
        begun.set()
        await asyncio.to_thread(go_on.wait)
        await finish()

    monkeypatch.setattr(engine, "_finish", slowly)
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(store.close)
        begun.wait()
        threading.Timer(0.2, go_on.set).start()
        store.close()
        assert engine._released
        first.result()


def test_a_signals_handler_may_close_a_store_that_is_being_closed(connections, url):
    closed = []

    def handle(number, frame):
        store.close()
        closed.append(connections[1].closed)

    store = statepath.open_sync(url, autosave=0)
    store.collection("raw").put({"id": "a"})
    connections[1].interrupt("write", "state.json")
    before = signal.signal(signal.SIGINT, handle)
    try:
        store.close()
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed == [True]


def test_ctrl_c_during_closing_still_closes(connections, url):
    store = statepath.open_sync(url)
    store.collection("raw").put({"id": "a"})
    connections[1].interrupt("write", "state.json")
    with pytest.raises(KeyboardInterrupt):
        store.close()
    assert store.closed
    assert connections[1].closed
    assert loop_threads() == []
    with statepath.open_sync(url, readonly=True) as reader:
        assert reader.health().snapshot_seq == 1


@pytest.mark.slow
def test_after_a_fork_the_child_opens_its_own(store, tasks, url):
    tasks.put(Task(id="a"))
    changes = store.watch()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        told = []
        try:
            for use in (lambda: tasks.get("a"), lambda: tasks.put(Task(id="b")), store.flush, store.health):
                try:
                    use()
                except ClosedError as error:
                    told.append(str(error))
            changes.close()
            store.close()
            with statepath.open_sync(url, readonly=True) as own:
                told.append(own.collection("tasks").count())
            os.write(theirs, json.dumps(told).encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        told = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert told[-1] == 1
    assert len(told) == 5
    assert all("forked" in message for message in told[:-1])
    assert tasks.put(Task(id="b")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("held", [True, False], ids=["held", "dropped"])
def test_the_fork_of_a_program_that_forgot_to_close_ends_by_itself(tmp_path: Path, held: bool):
    program = (
        "import os, statepath, sys, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "store = statepath.open_sync(sys.argv[1])\n"
        "store.collection('raw').put({'id': 'a'})\n" + ("" if held else "del store\n") + "child = os.fork()\n"
        "if child:\n"
        "    print(os.waitpid(child, 0)[1], flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "0\n"), ended.stderr


@pytest.mark.slow
def test_a_program_that_forgets_to_close_ends_and_loses_nothing(tmp_path: Path):
    program = (
        "import statepath, sys\n"
        "store = statepath.open_sync(sys.argv[1])\n"
        "store.collection('raw').put({'id': 'a'})\n"
        "print('saved', flush=True)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "saved\n"), ended.stderr
    with statepath.open_sync(tmp_path / "state") as store:
        assert store.collection("raw").get("a") == {"id": "a"}


@pytest.mark.slow
def test_a_thread_goes_on_saving_and_closes_after_the_main_one_has_ended(tmp_path: Path):
    program = (
        "import statepath, sys, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def work():\n"
        "    try:\n"
        "        with ThreadPoolExecutor() as pool:\n"
        "            while True:\n"
        "                pool.submit(int).result()\n"
        "    except RuntimeError:\n"
        "        pass\n"
        "    for n in range(20):\n"
        "        raw.put({'id': str(n), 'text': 'x' * 100_000})\n"
        "    store.append_log('s', 'x')\n"
        "    print(store.read_log('s'), flush=True)\n"
        "    store.close()\n"
        "    print('closed', flush=True)\n"
        "store = statepath.open_sync(sys.argv[1])\n"
        "raw = store.collection('raw')\n"
        "threading.Thread(target=work).start()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "state")], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "x\nclosed\n", "")
    with statepath.open_sync(tmp_path / "state", readonly=True) as store:
        assert store.collection("raw").count() == 20
        assert json.loads((tmp_path / "state" / "state.json").read_bytes())["raw"]


def test_an_argument_of_the_wrong_kind_is_refused(store, tasks):
    for call in (
        lambda: store.transact(5),
        lambda: tasks.update("a", None),
        lambda: store.transaction().put(tasks._collection, Task(id="a")),
        lambda: store.append_log("s", None),
        lambda: store.restore(at=True),
    ):
        with pytest.raises(InvalidArgumentError, match="must be"):
            call()
    assert store.seq == 0


def test_a_lease_fences_what_the_thread_in_its_block_changes(store):
    raw = store.collection("raw")
    with store.lease("leader") as lease:
        assert (lease.held, lease.name, lease.ttl) == (True, "leader", 15.0)
        raw.put({"id": "in time", "epoch": lease.epoch})
        assert store.break_lease("leader").name == "leader"
        with pytest.raises(LeaseLostError):
            raw.put({"id": "late"})
    raw.put({"id": "outside"})
    assert [document["id"] for document in raw] == ["in time", "outside"]


def test_a_claim_is_refused_where_another_has_it(store):
    with store.claim("task_1"):
        assert [holder.name for holder in store.leases()] == ["claim/task_1"]
        with pytest.raises(LeaseHeldError), store.claim("task_1"):
            pass
    assert store.leases() == []


def test_a_lease_whose_block_ctrl_c_keeps_from_beginning_is_nobodys(store, monkeypatch):
    def interrupted(lease):
        raise KeyboardInterrupt

    monkeypatch.setattr(Lease, "raise_fence", interrupted)
    with pytest.raises(KeyboardInterrupt), store.lease("leader"):
        pass
    assert store.leases() == []


def test_a_lease_is_given_back_though_ctrl_c_comes_first(store, monkeypatch):
    lower_fence = Lease.lower_fence

    def interrupted(lease):
        monkeypatch.setattr(Lease, "lower_fence", lower_fence)
        raise KeyboardInterrupt

    monkeypatch.setattr(Lease, "lower_fence", interrupted)
    with pytest.raises(KeyboardInterrupt), store.lease("leader"):
        pass
    assert store.leases() == []
