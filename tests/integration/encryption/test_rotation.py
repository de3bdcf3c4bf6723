"""Another key, while the store is used: everything is sealed with it in the end, and the old one can go."""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
import time
from unittest.mock import AsyncMock

import pytest
import statepath
from msgspec.structs import replace
from statepath.commit import slot_key
from statepath.discovery import connect
from statepath.encryption import RING_KEY, rotation
from statepath.encryption.objects import SealedBackend
from statepath.encryption.rotation import reseal_all
from statepath.engine.floor import read_floor, write_floor
from statepath.engine.opening import open_engine
from statepath.errors import (
    ConfigurationError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from statepath.events import Events, LogsRemoved, ReportsRemoved
from statepath.keys import encrypt, read_keys
from statepath.memory import MemoryBackend
from statepath.repairing import repair
from statepath.settings import Settings
from statepath.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture
def settled(monkeypatch):
    """Who writes beside us has heard of the new key at once."""
    monkeypatch.setattr(rotation, "settled", lambda deadline: 0.0)


async def test_everything_is_sealed_with_the_new_key_and_the_old_one_is_forgotten(
    place, fill, contents, settled
):
    async with place.open(history=0) as store:
        await fill(store)
        held = await contents(store)
        (old,) = await store.data_keys()
        assert old.objects > 5
        assert old.records > 10
        done = await store.rotate_key()
        assert done.resealed == old.objects
        assert done.unreadable == ()
        was, now = await store.data_keys()
        assert (was.id, was.primary, was.objects) == (old.id, False, 0)
        assert (now.id, now.primary) == (done.key, True)
        assert now.objects > old.objects  # a snapshot behind what the old key sealed
        assert await contents(store) == held
        assert await store.verify() == []
        await store.collection("tasks").put({"id": "later"})
        assert (await store.data_keys())[1].records == now.records + 1
        # The journal is not rewritten.
        retired = await store.retire_keys()
        assert retired.keys == ()
        assert "records of the journal" in retired.kept[old.id]
    async with place.open() as store:
        assert await contents(store) == held | {"tasks": held["tasks"] | {"later": {"id": "later"}}}


async def test_a_key_that_nothing_needs_is_forgotten(place, settled):
    used = Settings.load(place.url, autosave=0, encryption_key=place.key)
    engine = await open_engine(await connect(place.url), used, Events(), alone=True)
    async with Store(engine, owns_events=True) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.snapshot()
        await store._engine.log.restart(store.seq)  # as if the journal had been trimmed
        for key in [key for key in await place.everything() if ".corrupt." in key]:
            await store._engine.backend.delete(key)
        (old,) = await store.data_keys()
        await store.rotate_key()
        if place.url.startswith("postgresql"):
            await store._engine.backend.delete("journal/00000000000000000001.jsonl.corrupt")
        done = await store.retire_keys(old.id)
        assert (done.keys, done.kept) == ((old.id,), {})
        assert [key.id for key in await store.data_keys()] != [old.id]
        await store.collection("tasks").put({"id": "b"})
    async with place.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}
        assert await store.collection("tasks").get("b") == {"id": "b"}


async def test_a_key_goes_as_soon_as_the_history_need_not_keep_its_commits(
    folder, memory, settled, monkeypatch
):
    for place in (folder, memory):
        async with place.open(history=3600) as store:
            await store.collection("tasks").put({"id": "a"})
            (newest,) = await store.history("tasks/a")
            await store.rotate_key()
            old, _ = await store.data_keys()
            assert old.until == newest.time.timestamp() + 3600
            assert "until" in (await store.retire_keys()).kept[old.id]
        async with place.open(history=0) as store:
            with monkeypatch.context() as patched:
                patched.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
                assert (await store.retire_keys()).keys == (old.id,)
            assert await store.verify() == []
        async with place.open() as store:
            assert await store.collection("tasks").get("a") == {"id": "a"}
            (key,) = await store.data_keys()
            assert not key.primary or key.id != old.id


async def test_a_key_goes_though_nobody_has_saved_since_the_rotation(folder, memory, settled, monkeypatch):
    def in_two_hours(*_):
        return time.time() + 7200

    def soon(*_):
        return time.time() + 30

    for place in (folder, memory):
        async with place.open(history=3600) as store:
            await store.collection("tasks").put({"id": "a"})
            await store.rotate_key()
        async with place.open(history=3600) as store:
            old, _ = await store.data_keys()
            with monkeypatch.context() as patched:
                patched.setattr("statepath.engine.snapshotter.unhurried_now", in_two_hours)
                patched.setattr(
                    "statepath.engine.snapshotter.earliest_now", AsyncMock(side_effect=in_two_hours)
                )
                patched.setattr("statepath.engine.snapshotter.storage_now", AsyncMock(side_effect=soon))
                assert old.id in (await store.retire_keys()).kept
                patched.setattr(
                    "statepath.engine.snapshotter.storage_now", AsyncMock(side_effect=in_two_hours)
                )
                assert (await store.retire_keys()).keys == (old.id,)
            assert await store.verify() == []


async def test_a_key_is_kept_for_what_only_looks_like_something_kept_aside(
    memory, folder, settled, monkeypatch
):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
    for place in (memory, folder):
        async with place.open(history=0) as store:
            await store.save_report("a.corrupt.b", {"n": 1})
            await store.append_log("l.corrupt.20260101T000000.000000Z", "text\n")
            await store.rotate_key()
            await store.retire_keys()
            assert await store.read_report("a.corrupt.b") == {"n": 1}
            assert await store.read_log("l.corrupt.20260101T000000.000000Z") == "text\n"
            assert len(await store.data_keys()) == 1


def test_a_key_outlives_what_may_be_sent_again():
    assert rotation.settled(30.0) == 600.0
    assert rotation.settled(3600.0) == 7200.0


async def test_what_others_may_still_seal_with_is_not_forgotten(memory, folder):
    for place, kept in ((memory, True), (folder, False)):
        async with place.open() as store:
            (old,) = await store.data_keys()
            await store.rotate_key()
            done = await store.retire_keys()
            assert (old.id in done.kept) == kept
            assert ("less than 10 minutes" in str(done.kept)) == kept
        async with place.open(deadline=3600) as store:
            assert ("less than 120 minutes" in str((await store.retire_keys()).kept)) == kept


async def test_only_a_known_key_that_is_not_the_primary_is_forgotten(folder):
    async with folder.open() as store:
        (key,) = await store.data_keys()
        with pytest.raises(InvalidArgumentError, match="is the primary key"):
            await store.retire_keys(key.id)
        with pytest.raises(NotFoundError, match="no key 00ff"):
            await store.retire_keys("00ff")


async def test_the_keys_are_listed_without_the_master_key_though_the_journal_begins_later(
    memory, fill, key, monkeypatch
):
    async with statepath.open(memory.url, autosave=0) as store:
        await fill(store)
    await encrypt(memory.url, settings=Settings(encryption_key=key))
    assert [one.primary for one in (await read_keys(memory.url, settings=Settings())).keys] == [True]
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
    async with memory.open(history=0) as store:
        for n in range(3):
            await store.collection("tasks").put({"id": "later", "n": n})
            await store.snapshot()
        await store.append_log("1", "later\n")
    async with memory.open(readonly=True) as store:
        assert (await read_keys(memory.url, settings=Settings())).keys == tuple(await store.data_keys())


async def test_the_keys_are_listed_though_a_trim_that_was_cut_off_left_commits_before_those_it_took(memory):
    async with memory.open() as store:
        for n in range(12):
            await store.collection("tasks").put({"id": "a", "n": n})
            if n % 4 == 3:
                await store.snapshot()
        backend = store._engine.backend
        floor, etag = await read_floor(backend)
        await write_floor(backend, replace(floor, floor=9), etag)
    backend = await memory.raw()
    for seq in (2, 3, 5, 6, 7, 8):
        await backend.delete(slot_key(seq))
    assert [one.records for one in (await read_keys(memory.url, settings=Settings())).keys] == [4]
    await backend.delete(slot_key(10))
    await memory.write(slot_key(11), b"damaged")
    with pytest.raises(CorruptionError, match="11"):
        await read_keys(memory.url, settings=Settings())
    await backend.close()


async def test_a_plain_store_has_no_keys(tmp_path):
    async with statepath.open(tmp_path / "plain") as store:
        assert not store.encrypted
        for call in (store.data_keys, store.rotate_key, store.retire_keys):
            with pytest.raises(UnsupportedError, match="is not encrypted"):
                await call()


async def test_saves_go_on_while_a_key_is_exchanged(folder):
    async with folder.open(views=True) as store:
        tasks = store.collection("tasks")
        await asyncio.gather(*(tasks.put({"id": str(n)}) for n in range(500)))
        await store.flush()
        waits = []

        async def save():
            while not rotating.done():
                began = time.monotonic()
                await tasks.put({"id": "busy"})
                waits.append(time.monotonic() - began)

        rotating = asyncio.create_task(store.rotate_key())
        await save()
        assert (await rotating).resealed >= 500
        assert len(waits) > 10
    async with folder.open(views=True) as store:
        assert await tasks_of(store) == 501
        assert await store.verify() == []


async def tasks_of(store):
    return await store.collection("tasks").find().count()


async def test_progress_is_told(folder):
    told = []
    async with folder.open(views=True) as store:
        await asyncio.gather(*(store.collection("tasks").put({"id": str(n)}) for n in range(250)))
        await store.flush()
        await store.rotate_key(progress=told.append)
    assert [line.split()[0] for line in told] == ["100", "200", "making"]


async def test_an_interrupted_rotation_is_finished_by_the_same_call(place, fill, monkeypatch, contents):
    async with place.open() as store:
        await fill(store)
        held = await contents(store)
        reseal, calls = SealedBackend.reseal, 0

        async def interrupted(backend, key):
            nonlocal calls
            calls += 1
            if calls == 3:
                raise UnavailableError("gone")
            await reseal(backend, key)

        with monkeypatch.context() as patched:
            patched.setattr(SealedBackend, "reseal", interrupted)
            with pytest.raises(UnavailableError):
                await store.rotate_key()
    async with place.open() as store:
        old, new = await store.data_keys()
        assert old.objects
        done = await store.rotate_key()
        assert done.key == new.id
        assert done.resealed >= 1
        assert (await store.data_keys())[0].objects == 0
        assert await contents(store) == held
        third = (await store.rotate_key()).key
        assert third not in (old.id, new.id)


async def test_a_snapshot_that_was_sealed_anew_is_still_kept_as_a_backup(folder):
    async with folder.open() as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a"})
        first = await store.snapshot()
        await store.rotate_key()
        await tasks.put({"id": "b"})
        await store.snapshot()
        assert len(await store.backups()) == 2
        assert await store.verify() == []
        assert (await store.restore(at=first)).to == first


@pytest.mark.parametrize("place", ["folder", "memory"], indirect=True)
async def test_of_logs_and_reports_the_longest_untouched_is_so_after_a_rotation_too(place):
    """Where the storage's clock tells them apart: that of S3 has seconds."""
    async with place.open(log_bytes=12, report_bytes=12, view_interval=0) as store:
        removed = []
        store.events.on(LogsRemoved, lambda event: removed.append(event.ids))
        store.events.on(ReportsRemoved, lambda event: removed.append(event.ids))
        for id in ("c", "b", "a"):
            await store.append_log(id, "6bytes")
            await store.save_report(id, "6bytes")
            await store.flush()
        await store.append_log("b", "6bytes")
        await store.save_report("b", "6others")
        await store.flush()
        await store.rotate_key()
        await store.clean()
    assert removed == [("c", "a"), ("c", "a")]


async def test_a_large_object_is_sealed_anew_in_pieces(folder, memory):
    for place in (folder, memory):
        async with place.open() as store:
            tasks = store.collection("tasks")
            for n in range(3):
                await tasks.put({"id": str(n), "text": "x" * 5_000_000})
            await store.snapshot()
            await store.rotate_key()
            assert await store.verify() == []
        async with place.open() as store:
            assert len((await tasks_get(store, "2"))["text"]) == 5_000_000
            assert (await store.health()).damage == ()


async def test_rotations_at_the_same_time_make_one_key(folder, memory):
    for place in (folder, memory):
        async with place.open() as store:
            # Large enough to be sealed anew in pieces, which are read while they are written.
            await store.collection("tasks").put({"id": "a", "text": "x" * 9_000_000})
            await store.snapshot()
            done = await asyncio.gather(*(store.rotate_key() for _ in range(4)))
            _, new = await store.data_keys()
            assert {one.key for one in done} == {new.id}


async def tasks_get(store, id):
    return await store.collection("tasks").get(id)


async def test_another_program_learns_of_the_new_key(memory, monkeypatch):
    async with memory.open() as one, memory.open() as other:
        await one.collection("tasks").put({"id": "a"})
        key = (await one.rotate_key()).key
        await one.collection("tasks").put({"id": "b"})
        await other.collection("tasks").put({"id": "c"})
        assert await other.collection("tasks").get("b") == {"id": "b"}
        # Who has not looked at the ring for a while looks before it writes.
        monkeypatch.setattr("statepath.encryption.keyring.REFRESH", -1.0)
        await one.rotate_key()
        await other.collection("tasks").put({"id": "d"})
        newest = (await other.data_keys())[-1]
        assert newest.id != key
        assert newest.records == 2


async def statepath_command(place, *words, given=""):
    """Runs a command as a process of its own, beside what this one has open; what it said."""
    run = functools.partial(
        subprocess.run,
        [sys.executable, "-m", "statepath.cli", *words, "--state-path", place.url],
        env=os.environ | {"STATE_ENCRYPTION_KEY": place.key},
        input=given,
        capture_output=True,
        text=True,
    )
    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_command_exchanges_the_key_beside_a_running_server(postgresql):
    async with postgresql.open() as server:
        tasks = server.collection("tasks")
        await tasks.put({"id": "a"})
        await server.snapshot()
        (old,) = await server.data_keys()
        saves = (tasks.put({"id": "busy", "n": n}) for n in range(20))
        told, *_ = await asyncio.gather(statepath_command(postgresql, "keys", "rotate"), *saves)
        assert "objects were sealed anew" in told
        await statepath_command(postgresql, "put", "tasks/b", "-", given="{}")
        await server.sync()
        assert await tasks.get("b") == {"id": "b"}
        new = (await server.data_keys())[-1]
        assert new.id != old.id
        # And what the server seals with it, another program can read.
        await tasks.put({"id": "c"})
        assert (await server.data_keys())[-1].records == new.records + 1
        async with postgresql.open(readonly=True) as reader:
            assert await reader.collection("tasks").get("c") == {"id": "c"}
        # The snapshot that the command sealed anew is the server's still.
        await server.snapshot()
        assert await server.verify() == []


async def test_a_snapshot_that_another_program_sealed_anew_is_still_kept_as_a_backup(memory):
    async with memory.open() as server, memory.open() as other:
        tasks = server.collection("tasks")
        await tasks.put({"id": "a"})
        await server.snapshot()
        backend = other._engine.backend
        await backend.keys.rotate()
        await reseal_all(backend, lambda _: None)
        await tasks.put({"id": "b"})
        await server.snapshot()
        assert len(await server.backups()) == 1


async def test_a_ring_that_was_put_back_is_noticed(memory):
    async with memory.open() as store:
        before = await memory.read("keyring.json")
        await store.rotate_key()
        await store.collection("tasks").put({"id": "a"})
    await memory.write("keyring.json", before)
    with pytest.raises(CorruptionError, match=r"keyring\.json does not have|keyring"):
        async with memory.open(readonly=True) as store:
            raise CorruptionError(store.damage[0].reason)


@pytest.fixture
async def outdated(memory):
    """An encrypted store whose key ring is a copy from before a rotation and what was saved since; and the newest."""
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        older = await memory.read("keyring.json")
        await store.rotate_key()
        await store.collection("tasks").put({"id": "b"})
    newest = await memory.read("keyring.json")
    await memory.write("keyring.json", older)
    return newest


async def test_who_has_an_older_ring_only_puts_nothing_aside(memory, outdated):
    stored = await memory.everything()
    for readonly in (True, False):
        with pytest.raises(CorruptionError, match=r"^keyring\.json does not have the key") as caught:
            await memory.open(readonly=readonly)
        assert caught.value.key == "keyring.json"
    with pytest.raises(CorruptionError, match="put back the newest copy of it"):
        await repair(memory.url, settings=Settings(encryption_key=memory.key))
    assert await memory.everything() == stored
    await memory.write("keyring.json", outdated)
    async with memory.open() as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a", "b"]
        assert store.damage == ()


async def test_what_an_older_ring_opens_is_recovered_once_the_log_s_own_record_was_moved_away(
    memory, outdated
):
    backend = await memory.raw()
    await backend.delete("journal/floor")
    await backend.close()
    async with memory.open() as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a"]
        assert store.damage != ()


async def refuses(store, memory, ring):
    """The handle does not take the ring, and goes on with its own when that is back."""
    own = await memory.read("keyring.json")
    await memory.write("keyring.json", ring)
    with pytest.raises(CorruptionError, match=r"keyring\.json is damaged.*an older copy"):
        await store.data_keys()
    await memory.write("keyring.json", own)


async def test_a_handle_that_knows_a_newer_key_does_not_go_back_to_an_older_ring(memory):
    async with memory.open() as store:
        before = await memory.read("keyring.json")
        await store.rotate_key()
        await refuses(store, memory, before)
        assert len(await store.data_keys()) == 2


async def test_a_handle_does_not_seal_with_a_retired_key_again(memory, settled, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1.0)
    async with memory.open(history=0) as store:
        await store.collection("tasks").put({"id": "a"})
        before = await memory.read("keyring.json")
        await store.rotate_key()
        assert (await store.retire_keys()).kept == {}
        await refuses(store, memory, before)
        assert len(await store.data_keys()) == 1


async def test_a_missing_ring_is_told_as_such(place):
    async with place.open() as store:
        await store.collection("tasks").put({"id": "a"})
    backend = await place.raw()
    await backend.delete("keyring.json")
    await backend.close()
    stored = await place.everything()
    with pytest.raises(CorruptionError, match=r"keyring\.json is missing"):
        await place.open()
    # Nobody takes it for a damaged plain one.
    with pytest.raises(UnsupportedError, match=r"keyring\.json is missing") as caught:
        await statepath.open(place.url)
    assert caught.value.code == "encrypted"
    assert (await place.everything()).keys() == stored.keys()


@pytest.fixture
async def without_ring(memory):
    """A handle that does not know the newest key, and cannot learn it while the ring is missing; and that ring."""
    store = await memory.open()
    await store.collection("tasks").put({"id": "a"})
    await store.snapshot()
    await store.collection("tasks").put({"id": "b"})
    async with memory.open() as other:
        await other.rotate_key()
        await other.snapshot()
        await other._engine.leases.take("leader", 3600)
    ring = await memory.read("keyring.json")
    backend = await memory.raw()
    await backend.delete("keyring.json")
    await backend.close()
    yield store, ring
    await store.aclose()


async def test_a_snapshot_is_not_put_aside_by_who_lacks_the_ring_to_open_it(memory, without_ring):
    store, ring = without_ring
    before = await memory.read("state.json")
    await store.aclose()
    assert await memory.read("state.json") == before
    await memory.write("keyring.json", ring)
    async with memory.open() as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a", "b"]
        assert store.damage == ()


async def test_a_lease_is_not_nobody_s_for_who_lacks_the_ring_to_open_it(memory, without_ring):
    store, ring = without_ring
    with pytest.raises(CorruptionError, match=r"keyring\.json is missing"):
        await store.leases()
    await memory.write("keyring.json", ring)
    assert [holder.ttl for holder in await store.leases()] == [3600]


async def test_a_master_key_is_exchanged_with_the_data_key(folder, tmp_path):
    new = tmp_path / "new-master"
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store.rotate_key(master=new)
        assert {key.wrapped_by for key in await store.data_keys()} != set()
        await store.collection("tasks").put({"id": "b"})
    with pytest.raises(ConfigurationError, match="wrong key"):
        await folder.open()
    async with statepath.open(folder.url, encryption_key_file=new) as store:
        assert await tasks_of(store) == 2
        assert len({key.wrapped_by for key in await store.data_keys()}) == 1


async def test_what_is_sealed_from_then_on_is_sealed_with_a_key_that_the_former_master_key_never_wrapped(
    folder, tmp_path, monkeypatch
):
    async with folder.open(views=True) as store:
        await store.collection("tasks").put({"id": "a"})
        await store.flush()

        async def interrupted(backend, key):
            raise UnavailableError("gone")

        with monkeypatch.context() as patched:
            patched.setattr(SealedBackend, "reseal", interrupted)
            with pytest.raises(UnavailableError):
                await store.rotate_key()
        before = {key.id for key in await store.data_keys()}
        done = await store.rotate_key(master=tmp_path / "new-master")
        assert done.key not in before
    async with statepath.open(folder.url, encryption_key_file=tmp_path / "new-master") as store:
        again = await store.rotate_key(master=tmp_path / "new-master")
        assert len(await store.data_keys()) == len(before) + 2
        assert again.key not in {*before, done.key}
        assert await tasks_of(store) == 1


async def test_a_master_key_is_named_by_the_path_of_its_file(memory):
    async with memory.open() as store:
        with pytest.raises(InvalidArgumentError, match="file of the master key must be a str"):
            await store.rotate_key(master=5)
        with pytest.raises(ConfigurationError, match="no file can be named"):
            await store.rotate_key(master="a\0b")
        assert len(await store.data_keys()) == 1


async def test_no_new_master_key_is_made_within_the_store(folder, tmp_path):
    (tmp_path / "elsewhere").symlink_to(folder.url)
    async with folder.open() as store:
        for place in (f"{folder.url}/key", tmp_path / "elsewhere" / "key"):
            with pytest.raises(ConfigurationError, match="would lie within the store"):
                await store.rotate_key(master=place)
        with pytest.raises(ConfigurationError, match="no file can be named"):
            await store.rotate_key(master="a\0b")
        assert len(await store.data_keys()) == 1
    assert "key" not in await folder.everything()


@pytest.fixture
def unanswered(monkeypatch):
    """Writes the key ring once without learning of it."""

    def unanswered(error):
        write = MemoryBackend.write

        async def without_answer(backend, key, data, **options):
            etag = await write(backend, key, data, **options)
            if key == RING_KEY:
                monkeypatch.setattr(MemoryBackend, "write", write)
                raise error
            return etag

        monkeypatch.setattr(MemoryBackend, "write", without_answer)

    return unanswered


@pytest.mark.parametrize("noticed", [True, False], ids=["the ring was read since", "at once"])
@pytest.mark.parametrize(
    "error", [UnavailableError("gone"), asyncio.CancelledError()], ids=["lost", "cancelled"]
)
async def test_an_exchange_of_the_master_key_that_ended_half_way_is_finished_by_the_same_call(
    memory, tmp_path, unanswered, error, noticed
):
    new = tmp_path / "new-master"
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        unanswered(error)
        with pytest.raises(type(error)):
            await store.rotate_key(master=new)
        if noticed:
            await store.data_keys()
        await store.rotate_key(master=new)
        assert len(await store.data_keys()) == 2
        await store.rotate_key()
        assert len({key.wrapped_by for key in await store.data_keys()}) == 1
    async with statepath.open(memory.url, encryption_key_file=new) as store:
        assert await tasks_of(store) == 1


async def test_an_exchange_of_the_master_key_that_is_cancelled_and_stored_late_ends_no_handle(
    memory, tmp_path, monkeypatch
):
    new, write, asked = tmp_path / "new-master", MemoryBackend.write, asyncio.Event()
    under_way = []

    async def late(backend, key, data, **options):
        if key != RING_KEY:
            return await write(backend, key, data, **options)
        under_way.append(functools.partial(write, backend, key, data, **options))
        asked.set()
        return await asyncio.Future()

    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        with monkeypatch.context() as patched:
            patched.setattr(MemoryBackend, "write", late)
            rotating = asyncio.ensure_future(store.rotate_key(master=new))
            await asked.wait()
            rotating.cancel()
            await asyncio.wait([rotating])
        assert len(await store.data_keys()) == 1  # the ring was read since
        await under_way[0]()
        assert len(await store.data_keys()) == 2
        async with statepath.open(memory.url, encryption_key_file=new, autosave=0) as other:
            await other.rotate_key()
            await other.collection("tasks").put({"id": "b"})
        assert await store.collection("tasks").get("b", fresh=True) == {"id": "b"}
        await store.rotate_key(master=new)
        await store.rotate_key()
        await store.collection("tasks").put({"id": "c"})
    async with statepath.open(memory.url, encryption_key_file=new) as store:
        assert await tasks_of(store) == 3


async def test_no_key_is_wrapped_by_the_former_master_key_beside_those_of_the_new_one(
    memory, tmp_path, unanswered
):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        unanswered(UnavailableError("gone"))
        with pytest.raises(UnavailableError):
            await store.rotate_key(master=tmp_path / "new-master")
        before = await memory.read(RING_KEY)
        with pytest.raises(ConfigurationError, match="is encrypted with key ") as caught:
            await store.rotate_key()
        assert caught.value.code == "wrong_key"
        assert await memory.read(RING_KEY) == before
    async with statepath.open(memory.url, encryption_key_file=tmp_path / "new-master") as store:
        assert await tasks_of(store) == 1


async def test_who_has_only_the_former_master_key_takes_nothing_for_damaged(memory, tmp_path, settled):
    new = tmp_path / "new-master"
    async with memory.open() as store, memory.open(readonly=True) as reader:
        await store.collection("tasks").put({"id": "a"})
        await store.rotate_key(master=new)
        async with statepath.open(memory.url, encryption_key_file=new, autosave=0) as other:
            await other.rotate_key()
        with pytest.raises(ConfigurationError) as caught:
            await reader.verify()
        assert caught.value.code == "wrong_key"


async def test_what_is_exported_after_the_master_key_was_exchanged_needs_the_new_one(folder, tmp_path):
    new, archive = tmp_path / "new-master", tmp_path / "archive"
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store.rotate_key(master=new)
        await store.export(archive)
    with pytest.raises(ConfigurationError, match="wrong key"):
        await statepath.import_backup(archive, tmp_path / "old", settings=Settings(encryption_key=folder.key))
    await statepath.import_backup(archive, tmp_path / "copy", settings=Settings(encryption_key_file=str(new)))
    async with statepath.open(tmp_path / "copy", encryption_key_file=new) as store:
        assert await tasks_of(store) == 1


async def test_health_tells_of_a_key_that_is_too_old_until_another_one_is_made(memory):
    async with memory.open(key_age=0.2) as store:
        await store.collection("tasks").put({"id": "a"})
        await asyncio.sleep(0.21)
        key = next(check for check in (await store.health()).checks if check.name == "key")
        assert (key.status, key.limit, key.unit) == (statepath.Status.FAIL, 0.2, "seconds")
        assert "keys rotate" in key.summary
        (first,) = await store.data_keys()
        await store.rotate_key()
        key = next(check for check in (await store.health()).checks if check.name == "key")
        assert key.value is not None
        assert time.time() - key.value > first.created + 0.2
