"""What is decided by the state that it follows is decided again where others commit first, as often as they may."""

import asyncio

import pytest
from msgspec import Raw
from statepath.commit import MAX_COMMIT_BYTES, Put, encode_commit
from statepath.engine.pending import Decision
from statepath.engine.validating import UNTOUCHED
from statepath.errors import ConflictError


async def test_a_restore_takes_back_what_the_other_writer_has_just_committed(store, zombie, contents):
    await store.collection("raw").put({"id": "shared", "n": 1})
    await store.collection("raw").put({"id": "new"})
    restored = await zombie.restore(at=1)
    assert (restored.to, restored.seq) == (1, 4)
    assert await contents(zombie) == {"shared": {"id": "shared", "n": 0, "logs": []}}


async def test_a_restore_follows_what_it_takes_back_whoever_is_first(store, zombie, monkeypatch):
    append, theirs = zombie._engine.log.append, iter(range(3))

    async def append_late(after, commit):
        for n in theirs:
            await store.collection("raw").put({"id": f"late {n}"})
            break
        await append(after, commit)

    await zombie.collection("raw").put({"id": "z"})
    monkeypatch.setattr(zombie._engine.log, "append", append_late)
    restored = await zombie.restore(at=1)
    await store.sync()
    assert await store.diff(1, restored.seq) == []


async def test_what_depends_on_all_that_is_stored_is_asked_about_what_others_have_committed(store, zombie):
    await store.collection("raw").put({"id": "new"})
    heads = []

    def decide(now):
        heads.append(now.head)
        return ()

    assert await zombie._engine.decide(decide) == 0
    assert heads == [2]


async def test_a_decision_that_fails_is_the_callers_alone(zombie):
    def decide(now):
        raise ArithmeticError("it cannot be counted")

    with pytest.raises(ArithmeticError):
        await zombie._engine.decide(decide)
    await zombie.collection("raw").put({"id": "z"})
    assert zombie._engine.committer.trouble is None


@pytest.fixture
def outrun(store, zombie, monkeypatch):
    """From now on, `store` saves something right before each commit of `zombie`, as often as told."""
    append = zombie._engine.log.append

    def saving(name, *, times=10**6):
        left = iter(range(times))

        async def append_late(after, commit):
            for n in left:
                await store.collection(name).put({"id": f"late {n}"})
                break
            await append(after, commit)

        monkeypatch.setattr(zombie._engine.log, "append", append_late)

    return saving


async def test_a_restore_that_others_never_let_through_is_told(store, zombie, outrun, monkeypatch):
    await store.collection("raw").put({"id": "new"})
    outrun("raw")
    with pytest.raises(ConflictError, match="others commit all the time"):
        await zombie.restore(at=1)
    monkeypatch.undo()
    assert await zombie.collection("raw").put({"id": "z"}) == store.seq + 1


async def test_a_decision_that_others_overtake_lets_those_go_first_that_wait(zombie, outrun):
    seqs = []
    outrun("raw", times=3)

    def decide(now):
        seqs.append(now.head)
        return (Put("raw", "d", Raw(b'{"id":"d"}')),)

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    saving = asyncio.ensure_future(zombie.collection("raw").put({"id": "z"}))
    done, _ = await asyncio.wait({deciding, saving}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {saving}
    assert await deciding == seqs[-1] + 1


async def test_a_flush_waits_for_a_decision_that_others_overtake(zombie, outrun):
    outrun("raw", times=3)
    begun = asyncio.Event()

    def decide(now):
        begun.set()
        return (Put("raw", "d", Raw(b'{"id":"d"}')),)

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    await begun.wait()
    await zombie.flush()
    assert deciding.done()
    assert await zombie.collection("raw").get("d") == {"id": "d"}


async def test_a_decision_stands_while_what_it_depends_on_does(store, zombie, outrun):
    seqs = []
    outrun("raw", times=40)

    def decide(now):
        seqs.append(now.head)
        return Decision((Put("tasks", "d", Raw(b'{"id":"d"}'), 0),), [("tasks", UNTOUCHED, now.head)])

    assert await zombie._engine.decide(decide) == store.seq + 1
    assert seqs == [1]


async def test_a_member_does_not_get_the_name_of_a_collection_that_is_made_before_the_commit(zombie, outrun):
    outrun("agents", times=1)
    with pytest.raises(ConflictError):
        async with zombie.transaction() as tx:
            tx.put_member("agents", "none")
    assert await zombie.get_member("agents") is None


async def test_a_decision_that_nobody_waits_for_any_more_is_not_made(store, zombie):
    asked = []

    def decide(now):
        asked.append(now.head)
        return ()

    deciding = asyncio.ensure_future(zombie._engine.decide(decide))
    await asyncio.sleep(0)
    deciding.cancel()
    await zombie.collection("raw").put({"id": "z"})
    assert asked == []


async def test_no_commit_is_larger_than_commits_are_where_a_later_decision_is(zombie, outrun, monkeypatch):
    outrun("raw", times=1)
    append, sizes, large = zombie._engine.log.append, [], "x" * (MAX_COMMIT_BYTES // 4 * 3)

    async def measured(after, commit):
        sizes.append(len(encode_commit(commit)))
        await append(after, commit)

    def decide(now):
        text = large if sizes else ""
        return (Put("raw", "d", Raw(b'{"id":"d","text":"%s"}' % text.encode())),)

    monkeypatch.setattr(zombie._engine.log, "append", measured)
    await asyncio.gather(
        zombie._engine.decide(decide), zombie.collection("raw").put({"id": "z", "text": large})
    )
    assert max(sizes) < MAX_COMMIT_BYTES
