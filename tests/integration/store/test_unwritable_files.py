"""A log or a report whose file cannot be written is told to who asks for it, and is in no other's way."""

from contextlib import suppress

import pytest
import statepath
from statepath.errors import AccessDeniedError, UnavailableError
from statepath.events import SaveError

REFUSED = AccessDeniedError("this key is refused", key="reports/bad.json")
BAD = ("logs/session_bad.log", "reports/bad.json")


@pytest.fixture
async def store(open_on, faulty):
    """One that can write neither the log of the session `bad` nor the report `bad`."""
    store = await open_on(faulty, view_interval=0)
    for key in BAD:
        faulty.fail("write", key, AccessDeniedError(f"{key} is refused", key=key), times=10**9)
    await store.append_log("bad", "one\n")
    with pytest.raises(AccessDeniedError, match=r"reports/bad\.json is refused"):
        await store.save_report("bad", 1)
    return store


@pytest.fixture
def mend(faulty):
    def mend():
        faulty._faults.clear()

    return mend


async def test_other_logs_and_reports_are_written_and_read(store, keys):
    await store.append_log("good", "one\n")
    await store.save_report("good", 1)
    assert await store.read_log("good") == "one\n"
    assert await store.read_report("good") == 1
    assert await keys("reports/") == ["reports/good.json"]


async def test_other_logs_and_reports_are_removed(store, keys):
    await store.append_log("good", "one\n")
    await store.save_report("good", 1)
    assert await store.delete_log("good")
    assert await store.delete_report("good")
    assert [*await keys("logs/"), *await keys("reports/")] == []


async def test_who_reads_it_is_told_what_is_wrong_with_it_and_not_with_another(store):
    for _ in range(2):
        with pytest.raises(AccessDeniedError, match=r"session_bad\.log is refused"):
            await store.read_log("bad")
        with pytest.raises(AccessDeniedError, match=r"reports/bad\.json is refused"):
            await store.read_report("bad")


async def test_who_waits_for_all_files_is_told_when_the_others_are_written(store, keys):
    await store.append_log("good", "one\n")
    with pytest.raises(AccessDeniedError):
        await store.flush()
    assert [key.partition(".log")[0] for key in await keys("logs/")] == ["logs/session_good"]


async def test_no_snapshot_lets_the_log_forget_it(store):
    with pytest.raises(AccessDeniedError):
        await store.snapshot()


async def test_what_is_appended_meanwhile_is_written_with_it_in_its_order(store, mend):
    await store.append_log("bad", "two\n")
    with pytest.raises(AccessDeniedError):
        await store.read_log("bad")
    await store.append_log("bad", "three\n")
    mend()
    assert await store.read_log("bad") == "one\ntwo\nthree\n"


async def test_it_is_written_by_itself_when_it_can_be_though_nobody_asks(
    open_on, faulty, keys, until, monkeypatch
):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0.01)
    store = await open_on(faulty, view_interval=0)
    refused = faulty.fail("write", "reports/", REFUSED, times=3)
    with pytest.raises(AccessDeniedError):
        await store.save_report("bad", 1)

    async def written():
        return await keys("reports/") == ["reports/bad.json"]

    await until(written)
    assert refused.times == 0
    assert await store.read_report("bad") == 1


async def test_all_documents_are_shown_before_who_closes_is_told(open_on, faulty, keys, monkeypatch):
    monkeypatch.setattr("statepath.engine.viewwriter._BATCH", 10)
    store = await open_on(faulty, views=True, view_interval=3600)
    refused = faulty.fail("write", "reports/", REFUSED, times=10**9)
    with pytest.raises(AccessDeniedError):
        await store.save_report("bad", 1)
    for n in range(200):
        await store.collection("tasks").put({"id": f"{n}"})
    await store.aclose()
    assert len(await keys("tasks/")) == 200
    assert 10**9 - refused.times < 8  # not with each part of them


async def test_of_a_report_only_the_last_is_remembered_meanwhile(store, mend):
    for n in range(10):
        with pytest.raises(AccessDeniedError):
            await store.save_report("bad", n)
    assert [len(owed.changes) for owed in store._engine.views._unwritten_files.values()] == [1, 1]
    mend()
    assert await store.read_report("bad") == 9


async def test_the_others_are_removed_by_the_bounds(open_on, faulty, keys):
    store = await open_on(faulty, view_interval=0, log_bytes=0, report_bytes=0)
    for key in BAD:
        faulty.fail("write", key, AccessDeniedError(f"{key} is refused", key=key), times=10**9)
    for id in ("bad", "good"):
        await store.append_log(id, "one\n")
        with suppress(AccessDeniedError):
            await store.save_report(id, 1)
    await store.clean()
    assert [*await keys("logs/"), *await keys("reports/")] == []
    faulty._faults.clear()
    assert await store.read_log("bad") == "one\n"
    assert await store.read_report("bad") == 1


async def test_closing_tells_of_it_and_the_next_who_opens_the_store_has_it(store, url):
    told = []
    store.events.on(SaveError, told.append)
    await store.append_log("good", "one\n")
    await store.aclose()
    assert {event.key for event in told} >= set(BAD)
    async with statepath.open(url) as again:
        assert await again.read_log("bad") == await again.read_log("good") == "one\n"
        assert await again.read_report("bad") == 1


async def test_a_removal_takes_the_place_of_what_could_not_be_written(store, keys):
    assert await store.delete_log("bad")
    assert await store.delete_report("bad")
    await store.flush()
    assert [*await keys("logs/"), *await keys("reports/")] == []
    assert not await store.delete_report("bad")
    await store.snapshot()


async def test_where_the_storage_is_away_not_every_file_is_tried(open_on, faulty):
    store = await open_on(faulty, view_interval=3600)
    away = faulty.fail("write", "logs/", UnavailableError("the storage is away"), times=10**9)
    for n in range(20):
        await store.append_log(f"{n}", "one\n")
    with pytest.raises(UnavailableError):
        await store.flush()
    assert 10**9 - away.times < 5
    away.times = 0
    await store.flush()
    assert len(await store.logs()) == 20


async def test_many_files_that_are_away_keep_no_other_from_being_written(open_on, faulty):
    store = await open_on(faulty, view_interval=0)
    faulty.fail("write", "logs/session_bad", UnavailableError("not this one"), times=10**9)
    for n in range(20):
        await store.append_log(f"bad{n}", "one\n")
    with pytest.raises(UnavailableError):
        await store.flush()
    await store.append_log("good", "one\n")
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await store.flush()
    assert await store.read_log("good") == "one\n"
