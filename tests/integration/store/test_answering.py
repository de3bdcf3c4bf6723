"""Where the storage overlaps with this process, one half of those who save prepares while the other one's commit is
under way."""

import asyncio
from dataclasses import replace

import pytest
from statepath.errors import OutcomeUnknownError

SAVERS = 64


@pytest.fixture
async def store(open_on, faulty):
    faulty.capabilities = replace(faulty.capabilities, overlapping=True)
    write = faulty._backend.write

    async def elsewhere(key, data, **options):
        for _ in range(8):
            await asyncio.sleep(0)
        return await write(key, data, **options)

    faulty._backend.write = elsewhere
    store = await open_on(faulty)
    # As if preparing took long, however fast this machine is.
    store._engine._committer._answers._preparation = 1e9
    return store


async def test_those_who_save_one_after_another_are_in_two_commits_that_take_turns(store, commits):
    raw = store.collection("raw")

    async def save(n):
        return [await raw.put({"id": str(n), "turn": turn}) for turn in range(8)]

    seqs = await asyncio.gather(*map(save, range(SAVERS)))
    assert sorted(seq for each in seqs for seq in each) == list(range(1, SAVERS * 8 + 1))
    sizes = [len(commit.transactions) for commit in await commits()]
    assert sizes[0] == SAVERS
    assert sizes[1:] == [SAVERS // 2] * 14


async def test_who_saves_once_is_told_though_nobody_saves_behind(store):
    raw = store.collection("raw")
    seqs = await asyncio.gather(*(raw.put({"id": str(n)}) for n in range(SAVERS)))
    assert seqs == list(range(1, SAVERS + 1))


async def test_what_is_durable_is_acknowledged_though_the_next_commit_fails(store, faulty):
    raw = store.collection("raw")

    async def save(n):
        first = await raw.put({"id": str(n)})
        faulty.fail("write", "journal/0", OutcomeUnknownError("no answer"))
        with pytest.raises(OutcomeUnknownError):
            await raw.put({"id": str(n)})
        return first

    seqs = await asyncio.gather(*map(save, range(SAVERS)))
    assert seqs == list(range(1, SAVERS + 1))


async def test_what_is_durable_is_acknowledged_while_the_next_commit_hangs(store, faulty):
    raw = store.collection("raw")
    gates = []

    async def save(n):
        first = await raw.put({"id": str(n)})
        if not gates:
            gates.append(faulty.hold("write", "journal/0"))
        behind = asyncio.ensure_future(raw.put({"id": str(n)}))
        return first, behind

    saved = await asyncio.gather(*map(save, range(SAVERS)))
    assert [first for first, _ in saved] == list(range(1, SAVERS + 1))
    assert not any(behind.done() for _, behind in saved)
    gates[0].open()
    await asyncio.gather(*(behind for _, behind in saved))


async def test_closing_acknowledges_what_is_durable(store):
    raw = store.collection("raw")
    saving = [asyncio.ensure_future(raw.put({"id": str(n)})) for n in range(SAVERS)]
    await asyncio.sleep(0)
    await store.aclose()
    assert [done.result() for done in saving] == list(range(1, SAVERS + 1))


async def test_who_is_told_first_may_close(store):
    raw = store.collection("raw")

    async def save(n):
        seq = await raw.put({"id": str(n)})
        if n == 0:
            await store.aclose()
        return seq

    async with asyncio.timeout(60):
        seqs = await asyncio.gather(*map(save, range(SAVERS)))
    assert seqs == list(range(1, SAVERS + 1))


async def test_stopping_acknowledges_what_is_durable(store):
    raw = store.collection("raw")

    async def save(n):
        seq = await raw.put({"id": str(n)})
        if n == 0:
            await store._engine._committer.abandon()
        return seq

    seqs = await asyncio.gather(*map(save, range(SAVERS)))
    assert seqs == list(range(1, SAVERS + 1))
