"""How the view of the documents is brought up to date: a part of the log at a time, and of that a part a statement."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace

import asyncpg
import pytest
from crowd.simulation import in_no_time
from msgspec import Raw
from statepath.backend import Append, Body, Commit, Delete, Put, Shown
from statepath.commit import encode_changes
from statepath_postgres import documents, rows
from statepath_postgres.documents import Documents
from statepath_postgres.failures import translated

LARGE = 600 * 1024
"""Four of these are more than one statement brings."""


def put(id, size=LARGE):
    return Put("tasks", id, Raw(b'{"id":"%s","text":"%s"}' % (id.encode(), b"x" * size)))


def commit(seq, *transactions):
    return Commit(first=seq, last=seq + len(transactions) - 1, id=f"c{seq}", prev="", writer="w", store="s",
                  incarnation="i", time=datetime.now(UTC), durable=0, transactions=transactions)  # fmt: skip


@pytest.fixture
def view(monkeypatch):
    """A view of `view.log` and `view.bodies`; what it would write is in `view.batches`, by its last seq."""

    async def read(after):
        view.reads.append(after)
        for each in view.log:
            if each.first > after:
                yield each

    async def body(key):
        return view.bodies[key]

    async def write(self, store, shown, newest, batch):
        view.batches.append((newest.last, list(batch)))

    class View(Documents):
        log, bodies, batches, reads = [], {}, [], []

    monkeypatch.setattr(Documents, "_write", write)
    view = View(SimpleNamespace(url="postgresql://db/agents"), read=read, body=body)
    return view


async def test_a_batch_from_the_log_ends_by_what_its_documents_hold(view):
    view.log = [commit(seq, (put(str(seq)),)) for seq in range(1, 10)]
    await view._step(1, 0)
    assert [last for last, _ in view.batches] == [4]


async def test_what_is_read_beyond_a_batch_is_for_the_next_one(view):
    view.log = [commit(seq, (put(str(seq)),)) for seq in range(1, 9)]
    await view._step(1, 0)
    await view._step(1, 4)
    assert [last for last, _ in view.batches] == [4, 8]
    assert view.reads == [0]
    # Nothing was beyond this one, and now there is.
    view.log = [*view.log[:8], commit(9, (put("9"),))]
    view.reads.clear()
    assert await view._step(1, 8)
    assert view.reads == [8]


async def test_what_was_read_beyond_a_batch_that_was_not_shown_is_read_again(view):
    view.log = [commit(seq, (put(str(seq)),)) for seq in range(1, 9)]
    await view._step(1, 0)
    await view._step(1, 2)
    assert [last for last, _ in view.batches] == [4, 6]


async def test_many_small_commits_of_the_log_are_one_batch(view):
    view.log = [commit(seq, (put(str(seq), 10),)) for seq in range(1, 1001)]
    await view._step(1, 0)
    assert [last for last, _ in view.batches] == [1000]


@pytest.mark.parametrize("remembered", [True, False])
async def test_a_batch_ends_by_what_its_bodies_hold(view, remembered):
    for seq in range(1, 10):
        changes = encode_changes(tuple(put(f"{seq}.{n}") for n in range(4)))
        view.bodies[f"body/{seq}"] = changes
        one = commit(seq, Body(f"body/{seq}", len(changes), ""))
        view.log.append(one)
        if remembered:
            view.committed(one, 400)
    await view._step(1, 0)
    assert [last for last, _ in view.batches] == [1]


async def test_a_batch_of_deletes_has_an_end(view, monkeypatch):
    monkeypatch.setattr(documents, "_BATCH_BYTES", 1000)
    view.log = [commit(seq, (Delete("tasks", str(seq)),)) for seq in range(1, 100)]
    await view._step(1, 0)
    assert [last for last, _ in view.batches] == [10]


async def folded(view, *changes):
    batch = {}
    await view._fold(batch, commit(1, changes))
    return [arguments for _, arguments in documents._statements(batch)]


async def test_a_large_batch_is_put_a_part_at_a_time(view):
    statements = await folded(view, *[put(str(n)) for n in range(10)])
    assert [arguments[2] for arguments in statements] == [
        ("0", "1", "2", "3"),
        ("4", "5", "6", "7"),
        ("8", "9"),
    ]


@pytest.mark.parametrize(
    ("change", "ids"),
    [
        (lambda id: Delete("tasks", id), 1),
        (lambda id: Put("tasks", id, Raw(b"{}")), 2),
        (lambda id: Append("tasks", id, "list", Raw(b"1")), 1),
    ],
    ids=["delete", "put", "append"],
)
async def test_many_small_changes_of_one_commit_are_shown_a_part_at_a_time(view, monkeypatch, change, ids):
    monkeypatch.setattr(rows, "STATEMENT_BYTES", 1000)
    statements = await folded(view, *[change(str(n)) for n in range(25)])
    assert [len(arguments[ids]) for arguments in statements] == [10, 10, 5]


def test_many_small_documents_are_drawn_a_part_at_a_time(monkeypatch):
    monkeypatch.setattr(documents, "_BATCH_BYTES", 1000)
    items = iter([Shown("tasks", str(n), 1, 0, b"{}") for n in range(25)])
    assert [len(documents._draw(items).plain) for _ in range(3)] == [10, 10, 5]


async def test_what_jsonb_does_not_give_back_is_put_a_part_at_a_time(view):
    text = b'{"id":"%d","n":1e5,"text":"' + b"x" * LARGE + b'"}'
    statements = await folded(view, *[Put("tasks", str(n), Raw(text % n)) for n in range(4)])
    assert [arguments[2] for arguments in statements] == [("0", "1"), ("2", "3")]


async def test_many_values_are_appended_a_part_at_a_time(view):
    value = Raw(b'"%s"' % (b"x" * LARGE))
    statements = await folded(view, *[Append("tasks", str(n), "list", value) for n in range(6)])
    assert [arguments[1] for arguments in statements] == [["0", "1", "2", "3"], ["4", "5"]]


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (asyncpg.InsufficientPrivilegeError("permission denied"), False),
        (asyncpg.QueryCanceledError("canceling statement due to statement timeout"), False),
        (asyncpg.ReadOnlySQLTransactionError("cannot execute UPDATE in a read-only transaction"), True),
        (asyncpg.LockNotAvailableError("canceling statement due to lock timeout"), True),
        (asyncpg.TooManyConnectionsError("too many clients already"), True),
        (ConnectionResetError("the connection was lost"), True),
    ],
    ids=["forbidden", "too slow", "not yet the primary", "locked", "crowded", "away"],
)
@in_no_time
async def test_a_server_that_refuses_twice_is_not_waited_for_and_one_that_is_away_is(
    view, monkeypatch, error, waits
):
    attempts = []

    async def catch_up(store):
        attempts.append(store)
        if len(attempts) < 5:
            with translated(view._connections.url):
                raise error
        await view._tell(1)

    monkeypatch.setattr(view, "_catch_up", catch_up)
    view.start(1)
    assert await view.settle(1) == waits
    assert len(attempts) == (5 if waits else 2)
    async with asyncio.timeout(60), view._shown:
        await view._shown.wait_for(lambda: view._known == 1)
    assert await view.settle(1)
    await view.close()


@pytest.mark.parametrize("turns", [0, 1, 9])
async def test_nobody_waits_for_a_view_whose_task_others_have_cancelled(view, monkeypatch, turns):
    """As `asyncio.run` does with all tasks at its end, when a store may still have to be closed."""
    monkeypatch.setattr(documents, "PATIENCE", 3600)
    monkeypatch.setattr(view, "_catch_up", lambda store: asyncio.Event().wait())
    view.start(1)
    await asyncio.sleep(0)  # it has begun
    view._task.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        assert not await view.settle(1)
    await view.close()


@in_no_time
async def test_a_view_that_goes_on_between_two_refusals_is_waited_for(view, monkeypatch):
    attempts = []

    async def catch_up(store):
        attempts.append(store)
        await view._tell(len(attempts))
        if len(attempts) < 5:
            with translated(view._connections.url):
                raise asyncpg.QueryCanceledError("canceling statement due to statement timeout")

    monkeypatch.setattr(view, "_catch_up", catch_up)
    view.start(1)
    assert await view.settle(5)
    await view.close()


async def test_what_the_server_goes_on_refusing_is_told_once_until_it_is_something_else(
    view, monkeypatch, caplog
):
    forbidden = asyncpg.InsufficientPrivilegeError("permission denied")
    slow = asyncpg.QueryCanceledError("canceling statement due to statement timeout")
    said, done = [forbidden, forbidden, slow, slow, None, forbidden], asyncio.Event()

    async def catch_up(store):
        if not said:
            done.set()
            return
        view._more.set()
        if (error := said.pop(0)) is not None:
            with translated(view._connections.url):
                raise error

    monkeypatch.setattr(documents, "_PAUSE", 0)
    monkeypatch.setattr(documents, "_PACE", 0)
    monkeypatch.setattr(view, "_catch_up", catch_up)
    view.start(1)
    async with asyncio.timeout(60):
        await done.wait()
    await view.close()
    told = [
        cause
        for record in caplog.records
        for cause in ("permission", "statement timeout")
        if cause in record.message
    ]
    assert told == ["permission", "statement timeout", "permission"]
