"""A restore to another state path: a new store of an earlier state, on any backend."""

from __future__ import annotations

from datetime import timedelta

import pytest
import statepath
from msgspec import Raw
from statepath.commit import WriteReport
from statepath.errors import AlreadyExistsError, StateError, UnavailableError
from statepath.events import StoreCopied


@pytest.mark.everywhere
async def test_the_other_place_gets_the_earlier_state_and_the_store_stays(store, elsewhere, fill, contents):
    await fill(store)
    await store.restore(at=9)
    then = await contents(store)
    await store.restore(at=21)
    now, head = await contents(store), store.seq
    to = elsewhere.new()
    made = await store.restore(at=9, to=to)
    assert (made.to, made.seq) == (9, 9)
    assert (await contents(store), store.seq) == (now, head)
    async with statepath.open(to) as other:
        assert await contents(other) == then
        assert (other.seq, other.id) == (9, store.id)
        assert other.incarnation != store.incarnation
        assert await other.collection("raw").put({"id": "later"}) == 10
        assert await other.verify() == []
    async with statepath.open(to) as other:
        assert await contents(other) == {**then, "raw": {**then["raw"], "later": {"id": "later"}}}


async def test_a_moment_will_do(store, elsewhere):
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": "a", "n": n})
    times = [change.time for change in await store.history()]
    to = elsewhere.new()
    assert (await store.restore(at=times[2] - timedelta(microseconds=1), to=to)).to == 2
    async with statepath.open(to, readonly=True) as other:
        assert await other.collection("raw").get("a") == {"id": "a", "n": 1}


async def test_the_empty_state_will_do(store, elsewhere, fill):
    await fill(store)
    to = elsewhere.new()
    await store.restore(at=0, to=to)
    async with statepath.open(to) as other:
        assert other.collections() == ()
        assert await other.read_log("s/1") == "first\nsecond\nthird\n"
        assert await other.collection("raw").put({"id": "a"}) == 1
        assert await other.verify() == []


async def test_it_is_told(store, elsewhere, fill):
    await fill(store)
    told = []
    store.events.on(StoreCopied, told.append)
    to = elsewhere.new()
    await store.restore(at=2, to=to)
    assert [(event.seq, event.documents) for event in told] == [(2, 1)]
    assert told[0].target in to or to in told[0].target


async def test_a_reader_beside_a_server_can_do_it(path, elsewhere, fill):
    """The files of logs and reports may be behind what the server has acknowledged."""
    to = elsewhere.new()
    async with statepath.open(path, autosave=0, view_interval=3600) as store:
        await fill(store)
        await store.flush()
        await store.append_log("s/1", "x" * 9_000_000)
        await store.append_log("s/1", "last\n")
        await store._engine.commit([WriteReport("r", Raw(b'"last"'))])
        assert store._engine.vitals.view_lag
        async with statepath.open(path, readonly=True) as reader:
            await reader.restore(at=21, to=to)
    async with statepath.open(to, readonly=True) as other:
        text = await other.read_log("s/1")
        assert (text[:19], text[-6:], len(text)) == ("first\nsecond\nthird\n", "xlast\n", 9_000_024)
        assert await other.read_report("r") == "last"


async def test_a_place_that_is_not_empty_is_refused_and_stays_as_it_is(store, elsewhere, fill):
    await fill(store)
    to = elsewhere.new()
    await elsewhere.write(to, "logs/session_1.log", b"mine")
    with pytest.raises(AlreadyExistsError, match=r"not empty: it has logs/session_1\.log"):
        await store.restore(at=2, to=to)
    assert await elsewhere.keys(to) == ["logs/session_1.log"]


async def test_what_an_interrupted_probe_left_is_nothing_of_a_store(store, elsewhere, fill):
    await fill(store)
    to = elsewhere.new()
    await elsewhere.write(to, f"probe/{'a' * 24}", b"1")
    await store.restore(at=2, to=to)
    async with statepath.open(to, readonly=True) as other:
        assert other.seq == 2


async def test_another_store_is_refused_and_stays_as_it_is(store, elsewhere, fill):
    await fill(store)
    to = elsewhere.new()
    async with statepath.open(to) as other:
        await other.collection("raw").put({"id": "mine"})
    with pytest.raises(AlreadyExistsError, match=f"it has the store {other.id}"):
        await store.restore(at=2, to=to)
    async with statepath.open(to) as other:
        assert other.seq == 1


class Interrupted:
    """A backend that takes so many writes and no more."""

    def __init__(self, backend, writes):
        self._backend, self._left = backend, writes

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def _count(self, call, *args, **options):
        if not self._left:
            raise UnavailableError("the power failed")
        self._left -= 1
        return await call(*args, **options)

    async def write(self, *args, **options):
        return await self._count(self._backend.write, *args, **options)

    async def write_at(self, *args, **options):
        return await self._count(self._backend.write_at, *args, **options)

    async def write_stream(self, *args, **options):
        return await self._count(self._backend.write_stream, *args, **options)


async def test_an_attempt_that_was_interrupted_anywhere_can_be_repeated(
    store, elsewhere, fill, contents, monkeypatch
):
    await fill(store)
    await store.restore(at=9)
    then = await contents(store)
    to = elsewhere.new()
    connect = statepath.store.connect

    async def interrupted(path, **options):
        return Interrupted(await connect(path, **options), 1)

    for _ in range(4):  # the log's record, the session log, the report, the snapshot
        with monkeypatch.context() as patched:
            patched.setattr("statepath.store.connect", interrupted)
            with pytest.raises(UnavailableError):
                await store.restore(at=9, to=to)
        with pytest.raises(StateError, match="is not finished") as error:
            await statepath.open(to)
        assert error.value.code == "unfinished"
    await store.restore(at=9, to=to)
    async with statepath.open(to) as other:
        assert await contents(other) == then
        assert await other.verify() == []
