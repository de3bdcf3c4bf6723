"""Read-only handles: they take no lock, write nothing, and work beside a live writer."""

import asyncio

import pytest
import statepath
from statepath.errors import ClosedError, InvalidArgumentError, NotFoundError, ReadOnlyError


@pytest.fixture
async def reader(store, url):
    await store.collection("raw").put({"id": "a", "logs": []})
    async with statepath.open(url, readonly=True) as reader:
        yield reader


async def test_it_reads_what_was_there_when_it_was_opened(reader):
    assert reader.readonly
    assert await reader.collection("raw").get("a") == {"id": "a", "logs": []}


async def test_sync_brings_it_up_to_the_head(store, reader):
    await store.collection("raw").put({"id": "b"})
    assert await reader.collection("raw").get("b") is None
    assert await reader.sync() == 2
    assert await reader.collection("raw").get("b") == {"id": "b"}


async def test_sync_at_least_waits_for_that_seq(store, reader):
    waiting = asyncio.ensure_future(reader.sync(at_least=3))
    await store.collection("raw").put({"id": "b"})
    seq = await store.collection("raw").put({"id": "c"})
    assert await waiting == seq
    assert await reader.collection("raw").count() == 3


async def test_many_may_sync_at_once(store, reader):
    waiting = [asyncio.ensure_future(reader.sync(at_least=n)) for n in (2, 5, 11)]
    for n in range(10):
        await store.collection("raw").put({"id": str(n)})
    await asyncio.gather(*waiting)
    assert await reader.collection("raw").count() == 11


async def test_a_writer_needs_no_sync(store):
    seq = await store.collection("raw").put({"id": "a"})
    assert await store.sync(at_least=seq) == seq


CHANGES = [
    lambda store: store.collection("raw").put({"id": "x"}),
    lambda store: store.collection("raw").create({"id": "x"}),
    lambda store: store.collection("raw").delete("a"),
    lambda store: store.collection("raw").append("a", "logs", 1),
    lambda store: store.collection("raw").update("a", lambda document: None),
    lambda store: store.append_log("s", "x"),
    lambda store: store.save_report("r", 1),
    lambda store: store.restore(at=0),
    lambda store: store.snapshot(),
    lambda store: store.backup(),
]


async def test_every_change_is_refused(reader):
    for _number, change in enumerate(CHANGES):
        with pytest.raises(ReadOnlyError, match="readonly=True"):
            await change(reader)


async def test_a_transaction_is_refused_at_its_end(reader):
    with pytest.raises(ReadOnlyError):
        async with reader.transaction() as tx:
            tx.put(reader.collection("raw"), {"id": "x"})


async def test_it_writes_nothing(store, url, memory, keys):
    await store.collection("raw").put({"id": "a"})
    await store.append_log("s", "x")
    await store.flush()
    before = [(key, (await memory.read(key)).etag) for key in await keys("")]
    async with statepath.open(url, readonly=True, autosave=0.001, views=True) as reader:
        await reader.sync()
        await reader.flush()
        await reader.verify()
        await reader.health()
        await reader.history()
    assert [(key, (await memory.read(key)).etag) for key in await keys("")] == before


async def test_history_stats_and_verify_work(store, reader):
    assert [change.key for change in await reader.history()] == ["raw/a"]
    assert (await reader.stats()).documents == {"raw": 1}
    assert await reader.verify() == []


async def test_its_health_says_that_it_cannot_write(reader):
    health = await reader.health()
    assert (health.healthy, health.writable, health.seq) == (True, False, 1)


async def test_logs_and_reports_are_read_as_their_files_show_them(store, reader):
    await store.append_log("s", "text")
    await store.save_report("r", 1)
    await store.flush()
    assert await reader.read_log("s") == "text"
    assert await reader.read_report("r") == 1
    assert (await reader.logs(), await reader.reports()) == (["s"], ["r"])


async def test_a_store_that_does_not_exist_is_not_created(url, keys):
    with pytest.raises(NotFoundError, match="open it once without readonly"):
        await statepath.open(url, readonly=True)
    assert await keys("") == []


async def test_waiting_for_a_seq_ends_when_the_handle_is_closed(reader):
    waiting = asyncio.ensure_future(reader.sync(at_least=99))
    await asyncio.sleep(0)
    await reader.aclose()
    with pytest.raises(ClosedError):
        await waiting


async def test_a_writer_waits_for_a_seq_that_is_not_there_yet(store):
    raw = store.collection("raw")
    waiting = asyncio.ensure_future(store.sync(at_least=2))
    assert await raw.put({"id": "a"}) == 1
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    await raw.put({"id": "b"})
    assert await asyncio.wait_for(waiting, 60) == 2


async def test_a_writers_wait_for_a_seq_ends_when_it_is_closed(store):
    waiting = asyncio.ensure_future(store.sync(at_least=99))
    await asyncio.sleep(0)
    await store.aclose()
    with pytest.raises(ClosedError):
        await asyncio.wait_for(waiting, 60)


async def test_what_is_no_seq_is_waited_for_by_nobody(store, reader):
    for handle in (store, reader):
        for seq in (-1, True, 1.0, "1"):
            with pytest.raises(InvalidArgumentError, match="no seq"):
                await handle.sync(at_least=seq)
