"""What `health` looks at: when each check is ok, warns and fails, and that it is ok again afterwards."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest
import statepath
from msgspec.structs import replace
from statepath import Status
from statepath.backend import Capabilities
from statepath.engine.floor import read_floor, write_floor
from statepath.errors import AccessDeniedError, UnavailableError

OK, WARN, FAIL = Status
DENIED = AccessDeniedError("the folder belongs to somebody else")
AWAY = UnavailableError("the storage is away")


async def check(store, name):
    found = {check.name: check for check in (await store.health()).checks}
    return found[name]


async def status(store, name):
    return (await check(store, name)).status


async def until(store, name, expected):
    async with asyncio.timeout(60):
        while await status(store, name) is not expected:  # noqa: ASYNC110 - a check has no event
            await asyncio.sleep(0.01)


@pytest.fixture
async def writer(open_on, faulty):
    return await open_on(faulty, save_late=3600, journal_lag=2**30)


@pytest.fixture
async def reader(writer, open_on, faulty):
    await writer.collection("raw").put({"id": "a"})
    return await open_on(faulty, readonly=True)


async def test_all_is_well_and_every_check_says_what_it_saw(writer):
    health = await writer.health()
    assert [found.name for found in health.checks] == [
        "reachable",
        "writable",
        "access",
        "saved",
        "backups",
        "journal",
        "views",
        "damage",
    ]
    assert {found.status for found in health.checks} == {OK}
    assert all(found.summary for found in health.checks)
    assert (health.status, health.healthy, health.problems) == (OK, True, ())


async def test_a_reader_leaves_out_what_it_cannot_know(reader):
    health = await reader.health()
    assert [found.name for found in health.checks] == [
        "reachable",
        "access",
        "saved",
        "backups",
        "journal",
        "damage",
    ]
    assert health.status is OK


async def test_a_store_that_somebody_removed_is_not_reachable(writer, reader, faulty):
    assert [await status(store, "reachable") for store in (writer, reader)] == [OK, OK]
    await faulty.delete("journal/floor")
    for store in (writer, reader):
        found = await check(store, "reachable")
        assert (found.status, (await store.health()).healthy) == (FAIL, False)
        assert f"journal/floor is gone: somebody removed the store at {store.url}" in found.summary


@pytest.mark.parametrize("fact", ["store", "incarnation"])
async def test_a_store_that_another_one_took_the_place_of_is_not_reachable(fact, writer, reader, faulty):
    floor, etag = await read_floor(faulty)
    await write_floor(faulty, replace(floor, **{fact: "another"}), etag)
    for store in (writer, reader):
        found = await check(store, "reachable")
        assert (found.status, "was promoted, recovered or replaced" in found.summary) == (FAIL, True)


async def test_a_folder_that_is_gone_is_not_reachable(tmp_path):
    async with statepath.open(tmp_path / "state", autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        shutil.rmtree(tmp_path / "state")
        assert await status(store, "reachable") is FAIL


async def test_the_worst_check_is_the_store_s_status(writer, faulty):
    await writer.collection("raw").put({"id": "a"})
    faulty.fail("read", "journal/floor", AWAY)
    health = await writer.health()
    assert (health.status, health.healthy, health.problems) == (FAIL, False, (str(AWAY),))


async def test_a_storage_that_does_not_answer_in_time_is_not_reachable(open_on, faulty):
    store = await open_on(faulty, health_timeout=0.05)
    gate = faulty.hold("read", "journal/floor")
    async with asyncio.timeout(60):
        found = await check(store, "reachable")
    gate.open()
    assert (found.status, found.limit) == (FAIL, 0.05)
    assert "did not answer within 0.05 s" in found.summary
    await until(store, "reachable", OK)


async def test_a_save_that_fails_is_told_until_one_succeeds(writer, faulty):
    raw = writer.collection("raw")
    faulty.fail("write", "journal/0", DENIED)
    with pytest.raises(AccessDeniedError):
        await raw.put({"id": "a"})
    found = await check(writer, "writable")
    assert found.status is FAIL
    assert str(DENIED) in found.summary
    await raw.put({"id": "a"})
    assert await status(writer, "writable") is OK


async def test_a_failure_that_nobody_has_tried_again_for_a_minute_is_a_warning(writer, faulty, monkeypatch):
    faulty.fail("write", "journal/0", DENIED)
    with pytest.raises(AccessDeniedError):
        await writer.collection("raw").put({"id": "a"})
    monkeypatch.setattr("statepath.engine.health._RECENT", 0)
    assert await status(writer, "writable") is WARN


async def test_a_failure_before_the_clock_was_set_back_is_told_as_one_of_now(writer, faulty, monkeypatch):
    faulty.fail("write", "journal/0", DENIED)
    with pytest.raises(AccessDeniedError):
        await writer.collection("raw").put({"id": "a"})
    set_back = time.time() - 7200
    monkeypatch.setattr(time, "time", lambda: set_back)
    found = await check(writer, "writable")
    assert (found.status, found.summary[:32]) == (FAIL, "the last save failed 0:00:00 ago")


async def test_the_body_of_a_large_change_that_cannot_be_written_is_a_save_that_fails(writer, faulty):
    faulty.fail("write", "bodies/", AWAY)
    with pytest.raises(UnavailableError):
        await writer.collection("raw").put({"id": "a", "text": "x" * 9_000_000})
    assert await status(writer, "writable") is FAIL


@pytest.mark.parametrize(
    ("method", "prefix"), [("write", "journal/0"), ("write", "state.json"), ("read", "journal/floor")]
)
async def test_whatever_the_storage_refuses_is_a_matter_of_access(writer, faulty, method, prefix):
    assert await status(writer, "access") is OK
    faulty.fail(method, prefix, DENIED, times=2)
    try:
        await writer.collection("raw").put({"id": "a"})
        await writer.snapshot()
    except AccessDeniedError:
        pass
    found = await check(writer, "access")
    assert found.status is FAIL
    assert str(DENIED) in found.summary


async def test_a_lease_that_is_refused_is_a_matter_of_access_and_why_changes_wait(open_on, faulty):
    store = await open_on(faulty, autosave=0.01)
    refused = faulty.fail("write", "leases/", DENIED, times=10**6)
    await store.collection("raw").put({"id": "a"})
    await until(store, "access", FAIL)
    assert str(DENIED) in (await check(store, "saved")).summary
    refused.times = 0
    await until(store, "access", OK)


async def test_a_lease_that_is_refused_matters_no_more_once_nothing_waits_for_a_snapshot(open_on, faulty):
    store = await open_on(faulty, autosave=0.01)
    refused = faulty.fail("write", "leases/", DENIED, times=10**6)
    await store.collection("raw").put({"id": "a"})
    await until(store, "access", FAIL)
    await store.snapshot()
    refused.times = 0
    await until(store, "access", OK)


@pytest.mark.parametrize(("free", "expected"), [(999, FAIL), (1999, WARN), (2000, OK)])
async def test_space_warns_below_twice_the_limit(open_on, faulty, free, expected):
    async def free_bytes():
        return free

    faulty.capabilities = Capabilities(durable=False, shared=False, space=True)
    faulty.free_bytes = free_bytes
    found = await check(await open_on(faulty, disk_low=1000), "space")
    assert (found.status, found.value, found.limit, found.unit) == (expected, free, 1000, "bytes")


async def test_changes_may_wait_for_a_snapshot_only_so_long(open_on, faulty):
    store = await open_on(faulty, autosave=3600, save_late=0.2)
    raw = store.collection("raw")
    assert await status(store, "saved") is OK
    await raw.put({"id": "a"})
    reader = await open_on(faulty, readonly=True, autosave=3600, save_late=0.2)
    await asyncio.sleep(0.12)
    assert await status(store, "saved") is not OK
    await asyncio.sleep(0.1)
    for handle in (store, reader):
        found = await check(handle, "saved")
        assert found.status is FAIL
        assert found.value > found.limit == 0.2
    await store.snapshot()
    assert await status(store, "saved") is OK


async def test_without_autosave_changes_may_wait(open_on, faulty):
    store = await open_on(faulty, save_late=0.01)
    await store.collection("raw").put({"id": "a"})
    await asyncio.sleep(0.02)
    assert await status(store, "saved") is OK


async def test_by_default_a_change_may_wait_four_times_as_long_as_snapshots_do(open_on, faulty):
    assert (await check(await open_on(faulty, snapshot_age=60), "saved")).limit == 240


async def test_a_snapshot_that_fails_is_told_until_one_succeeds(writer, faulty):
    await writer.collection("raw").put({"id": "a"})
    faulty.fail("write", "state.json", AWAY)
    with pytest.raises(UnavailableError):
        await writer.snapshot()
    found = await check(writer, "saved")
    assert found.status is FAIL
    assert str(AWAY) in found.summary
    await writer.snapshot()
    assert await status(writer, "saved") is OK


async def test_a_backup_that_fails_is_told_until_one_succeeds(writer, faulty):
    raw = writer.collection("raw")
    await raw.put({"id": "a"})
    await writer.snapshot()
    faulty.fail("write", "state.backup.", AWAY)
    await raw.put({"id": "b"})
    await writer.snapshot()
    found = await check(writer, "backups")
    assert found.status is FAIL
    assert str(AWAY) in found.summary
    await raw.put({"id": "c"})
    await writer.snapshot()
    assert await status(writer, "backups") is OK


async def test_the_newest_backup_tells_its_age(writer):
    raw = writer.collection("raw")
    await raw.put({"id": "a"})
    await writer.snapshot()
    await raw.put({"id": "b"})
    await writer.snapshot()
    health = await writer.health()
    assert health.backups == 1
    assert datetime.now(UTC) - timedelta(minutes=1) < health.last_backup < health.last_commit
    assert "1, the newest shows the state of 0:00:0" in (await check(writer, "backups")).summary


@pytest.mark.parametrize("left", [0, 1])
async def test_a_backup_that_is_missing_is_a_warning(open_on, faulty, memory, keys, left):
    store = await open_on(faulty, snapshot_age=0.001)
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": str(n)})
        await store.snapshot()
        await asyncio.sleep(0.002)
    assert await status(store, "backups") is OK
    for key in (await keys("state.backup."))[left:]:
        await memory.delete(key)
    found = await check(store, "backups")
    assert found.status is WARN
    assert "the snapshot of seq 2 was not kept" in found.summary


async def test_a_snapshot_replaced_soon_after_a_backup_need_not_be_one(url):
    for n in range(4):
        async with statepath.open(url) as store:
            await store.collection("raw").put({"id": str(n)})
    async with statepath.open(url, readonly=True) as reader:
        assert (await reader.health()).backups == 1
        assert await status(reader, "backups") is OK


async def test_a_store_that_is_younger_than_a_backup_may_be_needs_none(open_on, faulty):
    store = await open_on(faulty, backup_age=3600)
    assert await status(store, "backups") is OK
    await store.collection("raw").put({"id": "a"})
    reader = await open_on(faulty, readonly=True, backup_age=3600)
    for _ in range(2):
        for handle in (store, reader):
            found = await check(handle, "backups")
            assert (found.status, found.limit) == (OK, 3600)
            assert found.value < 3600
        await store.snapshot()


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_store_that_has_no_backup_for_longer_than_one_may_be_old_fails(open_on, faulty, snapshot):
    store = await open_on(faulty, backup_age=0.01)
    await store.collection("raw").put({"id": "a"})
    reader = await open_on(faulty, readonly=True, backup_age=0.01)
    if snapshot:
        await store.snapshot()
    for handle in (store, reader):
        await until(handle, "backups", FAIL)
    assert "there is no backup yet" in (await check(store, "backups")).summary


async def test_a_backup_older_than_it_may_be_fails(open_on, faulty):
    store = await open_on(faulty, backup_age=0.05)
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    await store.backup()
    await asyncio.sleep(0.06)
    found = await check(store, "backups")
    assert (found.status, found.limit) == (FAIL, 0.05)


async def test_a_backup_that_is_too_old_fails_also_where_another_one_is_missing(
    open_on, faulty, memory, keys
):
    store = await open_on(faulty, snapshot_age=0.001, backup_age=0.05)
    raw = store.collection("raw")
    for n in range(3):
        await raw.put({"id": str(n)})
        await store.snapshot()
        await asyncio.sleep(0.002)
    await memory.delete((await keys("state.backup."))[-1])
    await asyncio.sleep(0.06)
    found = await check(store, "backups")
    assert found.status is FAIL
    assert "the snapshot of seq 2 was not kept" in found.summary


async def test_the_journal_behind_the_snapshot_may_grow_only_so_far(open_on, faulty):
    store = await open_on(faulty, journal_lag=1500)
    raw = store.collection("raw")
    await raw.put({"id": "a", "text": "x" * 600})
    assert await status(store, "journal") is WARN
    await raw.put({"id": "b", "text": "x" * 600})
    found = await check(store, "journal")
    assert (found.status, found.limit, found.unit) == (FAIL, 1500, "bytes")
    await store.snapshot()
    assert (await check(store, "journal")).value == 0


async def test_a_reader_sees_how_far_the_journal_is_ahead_and_that_a_snapshot_was_written(open_on, faulty):
    store = await open_on(faulty)
    raw = store.collection("raw")
    await raw.put({"id": "a", "text": "x" * 600})
    reader = await open_on(faulty, readonly=True, journal_lag=1000)
    assert await status(reader, "journal") is WARN
    await raw.put({"id": "b", "text": "x" * 600})
    await reader.sync()
    assert await status(reader, "journal") is FAIL
    await store.snapshot()
    health = await reader.health()
    assert (health.snapshot_seq, health.journal_bytes < 500) == (2, True)
    assert await status(reader, "journal") is not FAIL


async def test_files_may_be_behind_only_so_far(open_on, faulty):
    store = await open_on(faulty, views=True, view_interval=3600, view_lag=2)
    raw = store.collection("raw")
    await raw.put({"id": "a"})
    assert await status(store, "views") is OK
    await raw.put({"id": "b"})
    assert await status(store, "views") is WARN
    await raw.put({"id": "c"})
    found = await check(store, "views")
    assert (found.status, found.value, found.limit, found.unit) == (FAIL, 3, 2, "files")


async def test_a_file_that_cannot_be_written_is_told_until_it_can(open_on, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0.01)
    store = await open_on(faulty, views=True, view_interval=0)
    fault = faulty.fail("write", "raw/", AWAY, times=10**6)
    await store.collection("raw").put({"id": "a"})
    with pytest.raises(UnavailableError):
        await store.flush()
    await asyncio.sleep(0.05)
    found = await check(store, "views")
    assert found.status is FAIL
    assert str(AWAY) in found.summary
    fault.times = 0
    await store.flush()
    await asyncio.sleep(0.05)
    assert await status(store, "views") is OK


async def test_damage_that_was_mended_is_a_warning_until_it_is_verified(url, memory):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
    await memory.write("state.json", b'{"tasks": [')
    async with statepath.open(url, readonly=True) as reader:
        assert await status(reader, "damage") is FAIL
    async with statepath.open(url) as store:
        found = await check(store, "damage")
        assert (found.status, found.value) == (WARN, 1)
        assert "state.json" in found.summary
        await store.verify()
        assert await status(store, "damage") is OK


async def test_damage_that_verification_finds_is_not_settled_by_it(url, memory, keys):
    async with statepath.open(url) as store:
        await store.collection("raw").put({"id": "a"})
        await store.backup()
    await memory.write("state.json", b'{"tasks": [')
    async with statepath.open(url) as store:
        await memory.write((await keys("state.backup."))[0], b"{")
        await store.verify()
        assert await status(store, "damage") is WARN


async def test_a_record_of_the_log_that_is_damaged_is_told(writer, memory):
    await memory.write("journal/floor", b"garbage\n")
    found = await check(writer, "reachable")
    assert found.status is FAIL
    assert "journal/floor is damaged" in found.summary
