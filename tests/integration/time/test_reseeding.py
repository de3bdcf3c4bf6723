"""A replica that cannot follow is made anew, where that is asked for, and only there."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import pytest
import statepath
from msgspec.structs import replace
from statepath.backend import slot_key
from statepath.discovery import connect
from statepath.engine.floor import read_floor, write_floor
from statepath.engine.promoting import _declare
from statepath.errors import (
    AlreadyExistsError,
    CorruptionError,
    DivergedError,
    InvalidArgumentError,
    StateError,
    UnavailableError,
)
from statepath.events import MirrorRebased
from statepath.memory import MemoryBackend

pytestmark = pytest.mark.usefixtures("soon")


@pytest.fixture
async def parted(path, elsewhere):
    """A store that was recovered in another incarnation, and a replica with what it lost."""
    to = elsewhere.new()
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a", "n": 1})
        await store.append_log("s", "long ago\n")
        await store.append_log("gone", "gone\n")
        await store.snapshot()
        await statepath.mirror(path, to, once=True)
        before = store.id
    other = f"memory://{uuid4().hex}"
    await statepath.copy(path, other)
    async with statepath.open(other, autosave=0) as copied:
        assert copied.id == before
        await copied.collection("raw").put({"id": "b"})
        await copied.delete_log("gone")
    return other, to


@pytest.mark.everywhere
async def test_a_replica_that_cannot_follow_is_made_anew_where_that_is_asked_for(
    parted, elsewhere, contents, told
):
    primary, to = parted
    with pytest.raises(DivergedError, match=r"another incarnation.* --reseed"):
        await statepath.mirror(primary, to, once=True)
    await statepath.mirror(primary, to, once=True, reseed=True, events=told)
    assert [event.reason for event in told.of(MirrorRebased)] == ["that was asked for"]
    async with statepath.open(primary, autosave=0) as store:
        await store.collection("raw").put({"id": "later"})
        await statepath.mirror(primary, to, once=True)
        async with statepath.open(to, readonly=True) as replica:
            assert (replica.damage, replica.incarnation) == ((), store.incarnation)
            assert await contents(replica) == await contents(store)
            assert [one for one in await replica.verify() if one.severity == "damage"] == []
    (kept,) = await elsewhere.keys(to, "state.json.earlier.")
    assert b'"n":1' in await elsewhere.read(to, kept)


async def test_what_is_not_the_replica_s_outlives_that_it_is_made_anew(parted, elsewhere):
    primary, to = parted
    foreign = {"notes.txt": b"a person's", "website/manifest.json": b"{}", "bodies/of-water.txt": b"deep"}
    for key, data in foreign.items():
        await elsewhere.write(to, key, data)
    await statepath.mirror(primary, to, once=True, reseed=True)
    assert {key: await elsewhere.read(to, key) for key in foreign} == foreign


async def test_making_it_anew_goes_on_wherever_it_was_interrupted(parted, elsewhere, contents, switch):
    primary, to = parted
    attempts = 0
    while True:
        switch["writes"] = attempts // 2
        try:
            await statepath.mirror(primary, to, once=True, reseed=True)
        except UnavailableError:
            attempts += 1
            switch["writes"] = 10**9
            with suppress(StateError):
                async with statepath.open(to, readonly=True) as replica:
                    assert replica.damage == ()
                    assert await replica.collection("raw").get("a") == {"id": "a", "n": 1}
            continue
        break
    assert attempts > 3
    switch["writes"] = 10**9
    async with (
        statepath.open(to, readonly=True) as replica,
        statepath.open(primary, readonly=True) as store,
    ):
        assert replica.damage == ()
        assert await contents(replica) == await contents(store)


async def test_a_replica_with_what_the_store_lost_is_made_anew_where_that_is_asked_for(
    path, store, elsewhere
):
    to = elsewhere.new()
    await store.collection("raw").put({"id": "a"})
    yesterday = f"memory://{uuid4().hex}"
    await statepath.mirror(path, yesterday, once=True)
    await store.collection("raw").put({"id": "lost"})
    await statepath.mirror(path, to, once=True)
    with pytest.raises(DivergedError, match=r"has what .* has not.* --reseed"):
        await statepath.mirror(yesterday, to, once=True)
    await statepath.mirror(yesterday, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.collection("raw").find().all() == [{"id": "a"}]


async def test_a_replica_whose_record_is_damaged_is_made_anew_where_that_is_asked_for(
    path, store, elsewhere, contents
):
    to = elsewhere.new()
    await statepath.mirror(path, to, once=True)
    await store.collection("raw").put({"id": "a"})
    await statepath.mirror(path, to, once=True)
    await elsewhere.write(to, "journal/floor", b"{")
    with pytest.raises(CorruptionError, match=r"journal/floor is damaged.* --reseed"):
        await statepath.mirror(path, to, once=True)
    await statepath.mirror(path, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert (replica.damage, replica.replica_of) == ((), store.url)
        assert await contents(replica) == await contents(store)


async def test_a_plain_copy_is_no_replica_though_its_record_is_damaged(tmp_path):
    path, to = (str(tmp_path / name) for name in ("store", "copy"))
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    shutil.copytree(path, to)
    (tmp_path / "copy" / "journal" / "floor").write_bytes(b"{")
    before = {file for file in (tmp_path / "copy").rglob("*") if file.is_file()}
    with pytest.raises(CorruptionError, match="nothing else says that"):
        await statepath.mirror(path, to, once=True, reseed=True)
    assert {file for file in (tmp_path / "copy").rglob("*") if file.is_file()} >= before


@pytest.mark.parametrize("kind", ["promoted", "copied", "damaged"])
async def test_what_may_be_no_replica_is_not_made_anew_where_its_record_is_damaged(
    path, store, elsewhere, kind
):
    to = elsewhere.new()
    await store.collection("raw").put({"id": "a"})
    if kind == "copied":
        await statepath.copy(path, to)
    else:
        await statepath.mirror(path, to, once=True)
        await store.collection("raw").put({"id": "b"})
        await statepath.mirror(path, to, once=True)
    if kind == "promoted":
        await statepath.promote(to)
    elif kind == "damaged":
        for key in await elsewhere.keys(to, "state.json"):
            await elsewhere.write(to, key, b"{")
    await elsewhere.write(to, "journal/floor", b"{")
    before = {key: await elsewhere.read(to, key) for key in await elsewhere.keys(to)}
    with pytest.raises(CorruptionError, match="nothing else says that"):
        await statepath.mirror(path, to, once=True, reseed=True)
    assert {key: await elsewhere.read(to, key) for key in await elsewhere.keys(to)}.items() >= before.items()


async def test_what_is_kept_of_before_is_no_damage_of_what_it_was_made_anew_from(elsewhere):
    """It shows a later seq of the same incarnation, of what the primary has lost."""
    today, yesterday, to = f"memory://{uuid4().hex}", f"memory://{uuid4().hex}", elsewhere.new()
    await put(today, "a", 4)
    async with at(today) as lost, at(yesterday) as restored:
        async for entry in lost.list_keys(""):
            await restored.write(entry.key, (await lost.read(entry.key)).data)
    await put(today, "lost", 6)
    await statepath.mirror(today, to, once=True)
    await statepath.mirror(yesterday, to, once=True, reseed=True)
    assert await damaged(to) == []
    await put(yesterday, "more", 12)
    await statepath.mirror(yesterday, to, once=True)
    assert await damaged(to) == []
    await statepath.promote(to)
    assert await damaged(to) == []
    (kept,) = await elsewhere.keys(to, "state.json.earlier.")
    await elsewhere.write(to, kept, (await elsewhere.read(to, kept)).replace(b"lost_1", b"lost_7"))
    assert await damaged(to) == [kept]


async def put(path, name, times):
    async with statepath.open(path, autosave=0) as store:
        for n in range(times):
            await store.collection("raw").put({"id": f"{name}_{n}"})


@asynccontextmanager
async def at(path):
    backend = await connect(path)
    try:
        yield backend
    finally:
        await backend.close()


async def damaged(path):
    async with statepath.open(path, readonly=True) as store:
        return [one.key for one in await store.verify() if one.severity == "damage"]


async def test_what_was_to_be_discarded_does_not_come_back_where_emptying_was_interrupted(
    path, store, monkeypatch
):
    to, yesterday = f"memory://{uuid4().hex}", f"memory://{uuid4().hex}"
    await store.collection("raw").put({"id": "a"})
    await statepath.mirror(path, yesterday, once=True)
    for n in range(3):
        await store.collection("raw").put({"id": f"lost_{n}"})
        await statepath.mirror(path, to, once=True)
    delete, left = MemoryBackend.delete, [0]

    async def interrupted(self, key, **options):
        left[0] -= 1
        if left[0] < 0:
            raise UnavailableError("the power failed")
        return await delete(self, key, **options)

    monkeypatch.setattr(MemoryBackend, "delete", interrupted)
    with pytest.raises(UnavailableError):
        await statepath.mirror(yesterday, to, once=True, reseed=True)
    monkeypatch.undo()
    await statepath.mirror(yesterday, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert await replica.collection("raw").find().all() == [{"id": "a"}]
        assert replica.damage == ()


async def test_what_is_being_emptied_is_not_promoted(store, path):
    to = f"memory://{uuid4().hex}"
    await store.collection("raw").put({"id": "a"})
    await statepath.mirror(path, to, once=True)
    backend = await connect(to)
    floor, etag = await read_floor(backend)
    await write_floor(backend, replace(floor, unfinished=path), etag)
    with pytest.raises(InvalidArgumentError, match="meanwhile"):
        await _declare(backend, floor, "new", 1, 1)
    await backend.close()


async def test_what_is_no_replica_of_the_store_is_never_made_anew(path, store, elsewhere):
    await store.collection("raw").put({"id": "a"})
    promoted, strange = elsewhere.new(), elsewhere.new()
    await statepath.mirror(path, promoted, once=True)
    await statepath.promote(promoted)
    async with statepath.open(strange, autosave=0) as other:
        await other.collection("raw").put({"id": "theirs"})
    for to, kind in ((promoted, DivergedError), (strange, AlreadyExistsError)):
        held = await elsewhere.keys(to)
        with pytest.raises(kind):
            await statepath.mirror(path, to, once=True, reseed=True)
        assert await elsewhere.keys(to) == held


async def test_where_nothing_is_a_replica_is_just_begun(path, store, elsewhere):
    await store.collection("raw").put({"id": "a"})
    to = elsewhere.new()
    assert (await statepath.mirror(path, to, once=True, reseed=True)).seq == 1


@pytest.fixture
async def reseeded(path, elsewhere):
    """A replica that was made anew, after the store lost what it had archived; and the segment that it had of that."""
    to, yesterday = elsewhere.new(), f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        await statepath.mirror(path, yesterday, once=True)
        await store.collection("raw").put({"id": "b0"})
        await store.archive("raw", older_than="0s", id="b0")
        await statepath.mirror(path, to, once=True)
    held = await elsewhere.keys(to, "archive/")
    await statepath.mirror(yesterday, to, once=True, reseed=True)
    return yesterday, to, held


@pytest.mark.parametrize("again", [False, True])
async def test_what_is_kept_aside_keeps_its_archive(reseeded, elsewhere, again):
    primary, to, held = reseeded
    if again:
        await statepath.mirror(primary, to, once=True, reseed=True)
    assert len(held) == 2
    assert await elsewhere.keys(to, "archive/") == held


async def test_a_kept_state_whose_archive_is_gone_stops_no_copy_with_the_history(
    reseeded, elsewhere, tmp_path
):
    _, to, held = reseeded
    for key in held:
        await elsewhere.delete(to, key)
    await statepath.promote(to)
    copied, imported = (f"memory://{uuid4().hex}" for _ in range(2))
    await statepath.copy(to, copied, history=True)
    async with statepath.open(to, autosave=0) as store:
        await store.export(tmp_path / "file.zip", history=True)
    await statepath.import_backup(tmp_path / "file.zip", imported)
    for path in (copied, imported):
        async with statepath.open(path, readonly=True) as store:
            assert await store.collection("raw").find().all() == [{"id": "a"}]
            assert await store.verify() == []


async def test_a_replica_is_not_emptied_for_a_primary_of_which_a_part_is_left(tmp_path, contents):
    path, to = tmp_path / "store", str(tmp_path / "replica")
    async with statepath.open(path, autosave=0, views=False) as store:
        for n in range(1, 4):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        await statepath.mirror(path, to, once=True)
        held = await contents(store)
        shutil.copytree(path, damaged := tmp_path / "damaged")
    (damaged / "state.json").write_text("{")
    segment = damaged / slot_key(1)
    segment.write_bytes(segment.read_bytes().replace(b'"n":3', b'"n":9'))
    with pytest.raises(CorruptionError, match="damaged"):
        await statepath.mirror(damaged, to, once=True, reseed=True)
    async with statepath.open(to, readonly=True) as replica:
        assert await contents(replica) == held
