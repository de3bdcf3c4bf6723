"""What a store tells of itself: health, stats, verification, and the events that no other file here is about."""

import asyncio
import re
from datetime import UTC, datetime

import pytest
import statepath
from statepath.backend import Capabilities
from statepath.errors import ConfigurationError, CorruptionError, UnknownSchemeError
from statepath.events import CorruptionDetected, DiskLow, DiskOk, HistoryTrimmed, StateLoaded


@pytest.fixture
def raw(store):
    return store.collection("raw")


async def test_a_healthy_store(store, raw):
    before = datetime.now(UTC)
    await raw.put({"id": "a"})
    health = await store.health()
    assert (health.healthy, health.writable, health.problems, health.damage) == (True, True, (), ())
    assert (health.seq, health.snapshot_seq, health.last_saved, health.backups) == (1, 0, None, 0)
    assert before <= health.last_commit <= datetime.now(UTC)
    assert (health.view_lag, health.free_bytes) == (0, None)
    assert health.journal_bytes > 0


async def test_health_after_a_snapshot(store, raw):
    await raw.put({"id": "a"})
    await store.snapshot()
    health = await store.health()
    assert (health.snapshot_seq, health.journal_bytes) == (1, 0)
    assert health.last_saved is not None


async def test_stats_count_what_is_held(store, raw):
    await raw.put({"id": "a"})
    await raw.put({"id": "b"})
    await store.collection("emptied").put({"id": "a"})
    await store.collection("emptied").delete("a")
    stats = await store.stats()
    assert (stats.documents, stats.bytes) == ({"raw": 2}, {"raw": 2 * len('{"id":"a"}')})
    assert (stats.logs, stats.seq, stats.floor) == (0, 4, 1)


async def test_verify_finds_nothing_in_a_good_store(store, raw):
    await raw.put({"id": "a"})
    await store.backup()
    await raw.put({"id": "b"})
    assert await store.verify() == []


async def test_verify_names_what_is_damaged(store, raw, memory, keys):
    await raw.put({"id": "a"})
    key = await store.backup()
    await raw.put({"id": "b"})
    for damaged in (key, "state.json", "journal/floor"):
        data = (await memory.read(damaged)).data
        await memory.write(damaged, data[: len(data) // 2])
    (*_, last) = [slot for slot in await keys("journal/") if slot.endswith(".jsonl")]
    await memory.write(last, b"garbage\n")
    found = {finding.key: finding.severity for finding in await store.verify()}
    assert found == dict.fromkeys((key, "state.json", "journal/floor", last), "damage")


async def test_damage_found_at_opening_is_told_and_kept_aside(store, raw, url, memory, keys):
    await raw.put({"id": "a"})
    await store.aclose()
    await memory.write("state.json", b'{"tasks": [')
    events, told = statepath.Events(), []
    events.on(CorruptionDetected, told.append)
    async with statepath.open(url, events=events) as again:
        assert await again.collection("raw").get("a") == {"id": "a"}
        assert "state.json" in (await again.health()).damage[0]
    assert [event.key for event in told] == ["state.json"]
    assert told[0].kept_as in await keys("state.json.")


async def test_loading_says_from_where(store, raw, url):
    async def source():
        events, told = statepath.Events(), []
        events.on(StateLoaded, told.append)
        async with statepath.open(url, readonly=True, events=events):
            return told[0].seq, told[0].documents, told[0].source

    await raw.put({"id": "a"})
    assert await source() == (1, 1, "the journal")
    await store.snapshot()
    assert await source() == (1, 1, "state.json")
    await raw.put({"id": "b"})
    assert await source() == (2, 2, "state.json and the journal")


async def test_trimming_is_told(trimmed):
    told = []
    trimmed.events.on(HistoryTrimmed, told.append)
    await trimmed.snapshot()
    assert told == [HistoryTrimmed((await trimmed.stats()).floor, "age")]


async def test_history_that_takes_too_many_bytes_is_trimmed_and_told(url, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    async with statepath.open(url, autosave=0, history_bytes=1) as store:
        told = []
        store.events.on(HistoryTrimmed, told.append)
        for n in range(4):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        assert told[-1].reason == "bytes"
        assert (await store.stats()).floor == told[-1].floor > 1


async def test_nothing_young_is_trimmed(store, raw):
    store._engine._snapshotter._history = type(store.settings.history)(-1)
    for n in range(4):
        await raw.put({"id": "a", "n": n})
        await store.snapshot()
    assert (await store.stats()).floor == 1


class Disk:
    """A connection that knows how much space is left."""

    def __init__(self, backend):
        self._backend = backend
        self.capabilities = Capabilities(durable=False, shared=False, space=True)
        self.free = 10**9
        self.asked = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def free_bytes(self):
        self.asked.set()
        return self.free


async def test_little_space_is_told_before_the_disk_is_full_and_once(open_on, memory):
    disk = Disk(memory)
    store = await open_on(disk, autosave=0.001, disk_low=1000)
    told, changed = [], asyncio.Event()

    def listen(event):
        told.append(event)
        changed.set()

    store.events.on(DiskLow, listen)
    store.events.on(DiskOk, listen)
    disk.free = 999
    await changed.wait()
    health = await store.health()
    assert (health.healthy, health.writable, health.free_bytes) == (False, True, 999)
    assert "999 bytes are free" in health.problems[0]
    disk.free = 1050  # enough, but so little more that it may be told again at once
    for _ in range(3):
        disk.asked.clear()
        await disk.asked.wait()
    changed.clear()
    disk.free = 1100
    await changed.wait()
    assert told == [DiskLow(999, 1000), DiskOk(1100)]


async def test_the_url_shows_no_credentials_and_names_the_store(store, url):
    assert store.url == re.sub(r"//\S+@", "//", url).partition("?endpoint_url")[0]


async def test_a_state_path_of_an_unknown_scheme_lists_what_there_is():
    with pytest.raises(UnknownSchemeError) as caught:
        await statepath.open("nowhere://bucket")
    assert {"file", "memory"} <= set(caught.value.known)


async def test_a_mirror_of_an_unknown_scheme_is_refused_to_whoever_would_ship_to_it(store, url):
    with pytest.raises(UnknownSchemeError, match=r"mirror \(STATE_MIRROR\): no backend for nowhere://"):
        await statepath.open(url, mirror="nowhere://bucket")
    async with statepath.open(url, readonly=True, mirror="nowhere://bucket") as reader:
        assert reader.id == store.id


async def test_the_state_path_comes_from_the_environment(store, url, monkeypatch):
    monkeypatch.setenv("STATE_PATH", url)
    async with statepath.open() as found:
        assert found.id == store.id


async def test_a_setting_that_cannot_be_used_is_refused(url, keys):
    with pytest.raises(ConfigurationError) as caught:
        await statepath.open(url, autosave="soon")
    assert "autosave" in str(caught.value)
    assert await keys("") == []


async def test_damage_of_the_log_that_is_open_is_told_to_who_reads_it(store, raw, memory, keys):
    for n in range(3):
        await raw.put({"id": str(n)})
    (_, middle, _) = [slot for slot in await keys("journal/") if slot.endswith(".jsonl")]
    await memory.write(middle, b"garbage\n")
    with pytest.raises(CorruptionError):
        await store.history()


async def test_journal_bytes_are_about_those_of_the_journal(tmp_path):
    """Also of documents that are much smaller than the records around them: history is bounded by them."""
    async with statepath.open(tmp_path / "store", autosave=0) as store:
        for n in range(100):
            await store.collection("raw").put({"id": "a", "n": n})
        told = (await store.health()).journal_bytes
    written = sum(len(file.read_bytes()) for file in tmp_path.glob("store/journal/*.jsonl"))
    assert 0.8 * written < told < 1.25 * written
