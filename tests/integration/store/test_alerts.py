"""Alerts: what fails is told once, what is well again once, and what comes and goes stays told."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
import statepath
from statepath import discovery
from statepath.backend import Capabilities
from statepath.engine.alerting import Alerts
from statepath.errors import AccessDeniedError, UnavailableError
from statepath.events import (
    AlertCleared,
    AlertRaised,
    CorruptionDetected,
    DiskLow,
    Events,
    SaveError,
)

DENIED = AccessDeniedError("the folder belongs to somebody else")
AWAY = UnavailableError("the storage is away")
INTERVAL = 0.02
LOOK = ("read", "journal/floor")
LIST = ("list", "state.backup.")


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def told(events):
    """The alerts, as they come."""
    heard = []
    for kind in (AlertRaised, AlertCleared):
        events.on(kind, heard.append)
    return heard


@pytest.fixture
async def opened(faulty, events, monkeypatch):
    """Opens the store as a program does, the first time on the faulty backend."""

    async def connect(path, **options):
        if faulty.closed or path != faulty.url:
            return await discovery.connect(path, **options)
        return faulty

    monkeypatch.setattr("statepath.opening.connect", connect)
    stores = []

    async def opened(**options):
        settings = {"autosave": 0, "alert_interval": INTERVAL, **options}
        store = await statepath.open(faulty.url, events=events, **settings)
        stores.append(store)
        return store

    yield opened
    for store in stores:
        await store.aclose()


@pytest.fixture
def asked(faulty, monkeypatch):
    """What the storage is asked, as it comes: the method and the key."""
    calls = []
    call = faulty._call

    async def counted(method, key, carry_out):
        calls.append((method, key))
        return await call(method, key, carry_out)

    monkeypatch.setattr(faulty, "_call", counted)
    return calls


def names(told, kind):
    return [alert.alert for alert in told if isinstance(alert, kind)]


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - whatever it is
            await asyncio.sleep(INTERVAL / 4)


async def failing(store, id="a"):
    with pytest.raises(AccessDeniedError):
        await store.collection("raw").put({"id": id})


async def test_a_store_that_is_well_raises_nothing(opened, told):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.backup()
    await asyncio.sleep(5 * INTERVAL)
    assert told == []


async def test_a_failure_is_told_once_and_cleared_once(opened, told, faulty):
    store = await opened()
    faulty.fail("write", "journal/0", DENIED, times=3)
    for _ in range(3):
        await failing(store)
    await asyncio.sleep(0)
    assert names(told, AlertRaised) == ["writable", "access"]
    raised = told[0]
    assert (raised.status, str(DENIED) in raised.summary) == ("fail", True)
    await asyncio.sleep(5 * INTERVAL)
    assert names(told, AlertCleared) == []
    await store.collection("raw").put({"id": "a"})
    await until(lambda: len(told) == 4)
    assert names(told, AlertCleared) == ["writable", "access"]
    assert told[2].seconds > 0
    await asyncio.sleep(5 * INTERVAL)
    assert len(told) == 4


async def test_an_alert_comes_behind_the_event_that_it_follows_from(opened, events, faulty):
    store = await opened()
    order = []
    for kind in (SaveError, AlertRaised):
        events.on(kind, order.append)
    faulty.fail("write", "journal/0", DENIED)
    await failing(store)
    await asyncio.sleep(0)
    assert [type(event) for event in order] == [SaveError, AlertRaised, AlertRaised]


async def test_a_store_that_is_gone_is_told(opened, told, memory):
    await opened()
    await memory.delete("journal/floor")
    await until(lambda: told)
    assert (names(told, AlertRaised), "journal/floor is gone" in told[0].summary) == (["reachable"], True)


async def test_what_comes_and_goes_stays_raised(opened, told, faulty, monkeypatch):
    now = 0.0
    monkeypatch.setattr("statepath.engine.alerting.time", SimpleNamespace(monotonic=lambda: now))
    store = await opened()
    for n in range(6):
        faulty.fail("write", "journal/0", DENIED)
        await failing(store)
        await store.collection("raw").put({"id": str(n)})
        now += INTERVAL
        await asyncio.sleep(2 * INTERVAL)
    assert (names(told, AlertRaised), names(told, AlertCleared)) == (["writable", "access"], [])
    now += 2 * INTERVAL
    await until(lambda: names(told, AlertCleared))


async def test_an_end_that_is_cancelled_ends_with_that_and_hears_nothing_more(open_on, faulty):
    store, raised = await open_on(faulty), []
    store.events.on(AlertRaised, raised.append)
    ending = asyncio.ensure_future(Alerts(store._engine).aclose())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    faulty.fail("write", "journal/0", DENIED)
    await failing(store)
    await asyncio.sleep(0)
    assert raised == []


async def test_a_snapshot_that_fails_is_told(opened, told, faulty):
    store = await opened(autosave=0.01)
    fault = faulty.fail("write", "state.json", AWAY, times=10**6)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: told)
    assert names(told, AlertRaised) == ["saved"]
    fault.times = 0
    await until(lambda: names(told, AlertCleared) == ["saved"])


async def test_a_snapshot_that_fails_at_the_end_is_told(opened, told, faulty):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    fault = faulty.fail("write", "state.json", AWAY, times=10**6)
    await store.aclose()
    fault.times = 0
    assert names(told, AlertRaised) == ["saved"]


async def test_a_backup_that_fails_is_told(opened, told, faulty):
    store = await opened()
    for n in range(2):
        if n:
            faulty.fail("write", "state.backup.", AWAY)
        await store.collection("raw").put({"id": str(n)})
        await store.snapshot()
    await asyncio.sleep(0)
    assert names(told, AlertRaised) == ["backups"]
    await store.backup()
    await until(lambda: names(told, AlertCleared) == ["backups"])


async def test_a_storage_that_refuses_every_read_is_told(opened, told, faulty):
    await opened()
    refused = [faulty.fail(method, "", DENIED, times=10**6) for method in ("read", "list")]
    await until(lambda: len(told) == 2)
    assert names(told, AlertRaised) == ["reachable", "access"]
    assert all(str(DENIED) in alert.summary for alert in told)
    for fault in refused:
        fault.times = 0
    await until(lambda: names(told, AlertCleared) == ["reachable", "access"])


async def test_a_storage_that_no_longer_answers_is_told(opened, told, faulty):
    await opened(health_timeout=0.05)
    gate = faulty.hold("read", "journal/floor")
    await until(lambda: told)
    gate.open()
    assert names(told, AlertRaised) == ["reachable"]
    assert "did not answer within 0.05 s" in told[0].summary


async def test_a_look_is_one_read(opened, asked):
    await opened()
    asked.clear()
    await until(lambda: len(asked) >= 3)
    assert set(asked) == {LOOK}


async def test_what_was_just_opened_is_not_asked_again(opened, asked):
    await opened(alert_interval=3600)
    asked.clear()
    for _ in range(10):
        await asyncio.sleep(0)
    assert asked == []


async def test_a_lease_that_is_refused_is_told_long_before_the_snapshot_is_late(opened, told, faulty):
    store = await opened(autosave=0.01)
    refused = faulty.fail("write", "leases/", DENIED, times=10**6)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: told)
    assert names(told, AlertRaised) == ["access"]
    assert str(DENIED) in told[0].summary
    refused.times = 0
    await until(lambda: names(told, AlertCleared) == ["access"])


async def test_a_fresh_store_needs_no_backup_yet(opened, told, asked):
    store = await opened(backup_age=3600)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: asked.count(LIST) >= 4)
    assert told == []


async def test_that_there_is_no_backup_for_too_long_is_told_until_there_is_one(opened, told, monkeypatch):
    monkeypatch.setattr("statepath.engine.vitals.Vitals.unsaved_seconds", 3601)
    store = await opened(backup_age=3600)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: told)
    assert (names(told, AlertRaised), told[0].limit) == (["backups"], 3600)
    await store.backup()
    await until(lambda: names(told, AlertCleared) == ["backups"])


async def test_backups_are_listed_only_while_the_newest_known_one_would_not_do(opened, asked):
    store = await opened(backup_age=3600)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: asked.count(LIST) >= 3)
    await store.backup()
    asked.clear()
    await until(lambda: asked.count(LOOK) >= 4)
    second = asked.index(LOOK, asked.index(LOOK) + 1)
    assert LIST not in asked[second:]


async def test_a_file_that_cannot_be_written_is_told(opened, told, faulty, monkeypatch):
    monkeypatch.setattr("statepath.engine.viewwriter._RETRY", 0.01)
    store = await opened(views=True, view_interval=0)
    fault = faulty.fail("write", "raw/", AWAY, times=3)
    await store.collection("raw").put({"id": "a"})
    await until(lambda: names(told, AlertCleared))
    assert fault.times == 0
    assert (names(told, AlertRaised), names(told, AlertCleared)) == (["views"], ["views"])


async def test_files_and_a_journal_that_fall_behind_are_told(opened, told):
    store = await opened(views=True, view_interval=3600, view_lag=1, journal_lag=1)
    for n in range(2):
        await store.collection("raw").put({"id": str(n)})
    await until(lambda: len(told) == 2)
    assert names(told, AlertRaised) == ["journal", "views"]
    assert (told[1].value, told[1].limit) == (2, 1)
    await store.flush()
    await store.snapshot()
    await until(lambda: len(told) == 4)
    assert sorted(names(told, AlertCleared)) == ["journal", "views"]


async def test_little_space_is_told_until_there_is_twice_as_much_as_the_limit(opened, told, events, faulty):
    free = [10**9]

    async def free_bytes():
        return free[0]

    faulty.capabilities = Capabilities(durable=False, shared=False, space=True)
    faulty.free_bytes = free_bytes
    await opened(disk_low=1000)
    free[0] = 999
    await until(lambda: told)
    free[0] = 1999
    await asyncio.sleep(5 * INTERVAL)
    assert (names(told, AlertRaised), names(told, AlertCleared)) == (["space"], [])
    free[0] = 2000
    await until(lambda: names(told, AlertCleared) == ["space"])


async def test_little_space_that_the_autosave_sees_is_told_at_once(opened, told):
    store = await opened(alert_interval=3600)
    await asyncio.sleep(0.01)
    store._engine.events.emit(DiskLow(free=1, limit=2))
    await until(lambda: told)
    assert names(told, AlertRaised) == ["space"]


async def test_damage_found_at_opening_is_told_until_the_store_is_verified(opened, told, memory):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.aclose()
    await memory.write("state.json", b'{"tasks": [')
    store = await opened()
    await until(lambda: told)
    assert (names(told, AlertRaised), told[0].status) == (["damage"], "warn")
    await asyncio.sleep(5 * INTERVAL)
    assert len(told) == 1
    await store.verify()
    await until(lambda: names(told, AlertCleared) == ["damage"])


async def test_damage_that_loading_the_state_finds_is_told(opened, told):
    store = await opened()
    await store.collection("tasks").put({"id": "t1", "status": 5, "createdAt": []})
    persistence = statepath.StatePersistence(store)
    await persistence.load_state()
    await until(lambda: told)
    assert names(told, AlertRaised) == ["damage"]
    assert not (await store.health()).healthy or (await store.health()).damage


async def test_damage_that_is_noticed_later_is_told_and_more_of_it_again(opened, told):
    store = await opened()
    store._engine.events.emit(CorruptionDetected("reports/r1.json", "reports/r1.json is no JSON"))
    store._engine.events.emit(CorruptionDetected("reports/r1.json", "reports/r1.json is no JSON"))
    await until(lambda: told)
    store._engine.events.emit(CorruptionDetected("reports/r2.json", "reports/r2.json is no JSON"))
    await until(lambda: len(told) == 2)
    assert names(told, AlertRaised) == ["damage", "damage"]
    assert "r2" in told[1].summary
    assert (await store.health()).damage == ("reports/r1.json is no JSON", "reports/r2.json is no JSON")


async def test_a_reader_alerts_nobody(opened, told, memory, events, faulty):
    store = await opened()
    await store.collection("raw").put({"id": "a"})
    await store.aclose()
    await memory.write("state.json", b'{"tasks": [')
    async with statepath.open(faulty.url, readonly=True, events=events, alert_interval=INTERVAL):
        await asyncio.sleep(5 * INTERVAL)
    assert told == []


async def test_alerts_are_in_the_log(opened, told, faulty, caplog):
    store = await opened()
    faulty.fail("write", "journal/0", AccessDeniedError("not yours"))
    with caplog.at_level(logging.INFO, logger="statepath.alerts"):
        await failing(store)
        await store.collection("raw").put({"id": "a"})
        await until(lambda: len(told) == 4)
    records = [record for record in caplog.records if record.name == "statepath.alerts"]
    assert [(record.levelname, record.alert) for record in records] == [
        ("ERROR", "writable"),
        ("ERROR", "access"),
        ("WARNING", "writable"),
        ("WARNING", "access"),
    ]
    assert "not yours" in records[0].getMessage()


async def test_a_listener_of_an_alert_that_fails_harms_nobody(opened, told, events, faulty):
    def broken(alert):
        raise RuntimeError("the pager is off")

    events.on(AlertRaised, broken)
    store = await opened()
    faulty.fail("write", "journal/0", DENIED)
    await failing(store)
    assert await store.collection("raw").put({"id": "a"}) == 1


async def test_a_look_that_fails_unexpectedly_is_logged_and_the_next_one_is_taken(
    opened, told, monkeypatch, caplog
):
    looked = iter([RuntimeError("no such luck")])

    async def free_bytes(backend):
        for error in looked:
            raise error
        return 1

    monkeypatch.setattr("statepath.engine.health.free_bytes", free_bytes)
    await opened()
    await until(lambda: told)
    assert names(told, AlertRaised) == ["space"]
    assert "the checks could not be looked at" in caplog.text


async def test_a_storage_that_hangs_keeps_back_nothing_that_is_known_without_it(opened, told, monkeypatch):
    async def free_bytes(backend):
        await asyncio.Event().wait()

    store = await opened(health_timeout=0.01)
    monkeypatch.setattr("statepath.engine.health.free_bytes", free_bytes)
    monkeypatch.setattr(
        type(store._engine), "failure", property(lambda engine: UnavailableError("it stopped"))
    )
    await until(lambda: told)
    assert names(told, AlertRaised) == ["reachable", "writable"]


async def test_of_two_stores_that_share_a_bus_each_has_its_own_alerts(opened, told, events, other_url):
    store = await opened()
    async with statepath.open(other_url, events=events, autosave=0, alert_interval=INTERVAL) as other:
        other._engine.events.emit(CorruptionDetected("reports/r1.json", "reports/r1.json is no JSON"))
        await until(lambda: told)
        assert [len(one.damage) for one in (store, other)] == [0, 1]
        assert names(told, AlertRaised) == ["damage"]


async def test_a_bus_of_a_store_carries_another_one_s_events_and_no_alerts_follow(opened, told, other_url):
    store = await opened()
    async with statepath.open(other_url, events=store.events, autosave=0) as other:
        other._engine.events.emit(CorruptionDetected("reports/r1.json", "reports/r1.json is no JSON"))
        await until(lambda: told)
    assert (store.damage, names(told, AlertRaised)) == ((), ["damage"])


async def test_nothing_listens_once_the_store_is_closed(opened, told):
    store = await opened()
    await store.aclose()
    store._engine.events.emit(CorruptionDetected("state.json", "late"))
    await asyncio.sleep(3 * INTERVAL)
    assert told == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("statepath")]
