"""Copies: from each backend to each, beside a server, again after an interruption, and in few requests."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import statepath
from statepath.backend import slot_key
from statepath.engine.founding import Founding
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from statepath.events import Events, StoreCopied


class Watched:
    """A backend that counts its calls, takes so many writes and no more, and may alter what it writes."""

    def __init__(self, backend, writes=10**9, alter=lambda key, data: data):
        self._backend, self._left, self._alter = backend, writes, alter
        self.calls = Counter()
        self.written = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def read(self, key, **options):
        self.calls["read"] += 1
        return await self._backend.read(key, **options)

    async def _write(self, call, key, *args, **options):
        if not self._left:
            raise UnavailableError("the power failed", code="disk_full")
        self._left -= 1
        self.calls["write"] += 1
        self.written.append(key)
        return await call(key, *args, **options)

    async def write(self, key, data, **options):
        return await self._write(self._backend.write, key, self._alter(key, data), **options)

    async def write_at(self, key, *args, **options):
        return await self._write(self._backend.write_at, key, *args, **options)

    async def write_stream(self, key, chunks, **options):
        return await self._write(self._backend.write, key, self._alter(key, b"".join(chunks)), **options)


@pytest.fixture
def watch(monkeypatch):
    """Lets the next copies go through a watched target; gives the one of the last copy."""
    connect = statepath.copying.connect
    held = []

    def watch(**options):
        async def watched(path, *, readonly=False, **how):
            backend = await connect(path, readonly=readonly, **how)
            if readonly:
                return backend
            held.append(Watched(backend, **options))
            return held[-1]

        monkeypatch.setattr("statepath.copying.connect", watched)
        return held

    return watch


@pytest.mark.everywhere
@pytest.mark.parametrize("history", [False, True])
async def test_the_copy_holds_what_the_store_holds(path, store, elsewhere, fill, contents, history):
    await fill(store)
    held, past = await contents(store), await store.history()
    told, to = [], elsewhere.new()
    events = Events()
    events.on(StoreCopied, told.append)
    made = await statepath.copy(path, to, history=history, events=events)
    assert (made.seq, made.documents, made.logs, made.reports) == (store.seq, 5, 1, 1)
    assert made.commits == (21 if history else 0)
    assert [(event.seq, event.documents) for event in told] == [(21, 5)]
    async with statepath.open(to, autosave=0) as other:
        assert await contents(other) == held
        assert (other.id, other.seq) == (store.id, store.seq)
        assert other.incarnation != store.incarnation
        assert [(one.seq, one.key, one.value, one.time) for one in await other.history()] == [
            (one.seq, one.key, one.value, one.time) for one in (past if history else [])
        ]
        if history:
            assert await other.diff(4, 12) == await store.diff(4, 12)
        assert await other.verify() == []
        assert await other.collection("raw").put({"id": "later"}) == store.seq + 1
    async with statepath.open(to, readonly=True) as other:
        assert await other.verify() == []


LONG = ["S" * 80, "ü" * 34]
"""Ids whose names are shortened: the keys of their files do not tell them."""


@pytest.mark.everywhere
@pytest.mark.parametrize("saved", [False, True])
async def test_session_logs_and_reports_with_long_ids_are_copied(path, store, elsewhere, saved):
    for id in LONG:
        await store.append_log(id, f"{id}\n")
        await store.save_report(id, id)
    if saved:
        await store.snapshot()
    assert await store.verify() == []
    made = await statepath.copy(path, to := elsewhere.new())
    assert (made.logs, made.reports) == (2, 2)
    async with statepath.open(to, autosave=0) as other:
        assert await other.logs() == LONG
        for id in LONG:
            assert await other.read_log(id) == f"{id}\n"
            assert await other.read_report(id) == id
        assert await other.verify() == []
        await other.append_log(LONG[0], "more\n")
        assert await other.read_log(LONG[0]) == f"{LONG[0]}\nmore\n"


@pytest.mark.parametrize("since", [False, True], ids=["saved", "continued"])
@pytest.mark.parametrize("damage", ["cut", "removed"])
async def test_a_damaged_session_log_is_told_and_not_carried_as_if_whole(tmp_path, elsewhere, damage, since):
    path, text = str(tmp_path / "store"), "123456789\n" * 6
    async with statepath.open(path, autosave=0) as store:
        await store.append_log("a", text)
        await store.snapshot()
        if since:
            await store.append_log("a", "more\n")
            await store.flush()
        killed = str(tmp_path / "killed")
        shutil.copytree(path, killed)
    log = Path(killed, "logs", "session_a.log")
    if damage == "cut":
        log.write_text(text[:30])
    else:
        log.unlink()
    has = 30 if damage == "cut" else 0
    with pytest.raises(CorruptionError, match=rf"session_a\.log has {has} bytes .* 60: .*repair") as told:
        await statepath.copy(killed, elsewhere.new())
    assert told.value.key == "logs/session_a.log"


@pytest.fixture
async def partial(tmp_path):
    """A store whose journal and snapshot are damaged: what can be read is the state of a backup."""
    path = tmp_path / "store"
    async with statepath.open(path, autosave=0, views=False) as store:
        for n in range(1, 4):
            await store.collection("raw").put({"id": "a", "n": n})
            await store.snapshot()
        shutil.copytree(path, killed := tmp_path / "killed")
    (killed / "state.json").write_text("{")
    segment = killed / slot_key(1)
    segment.write_bytes(segment.read_bytes().replace(b'"n":3', b'"n":9'))
    return killed


@pytest.mark.parametrize("way", ["copy", "export", "mirror"])
async def test_what_is_left_of_a_damaged_store_is_not_taken_for_all_of_it(partial, tmp_path, way):
    async def taken(to):
        if way == "export":
            async with statepath.open(partial, readonly=True) as store:
                await store.export(to)
        elif way == "copy":
            await statepath.copy(partial, to)
        else:
            await statepath.mirror(partial, to, once=True)

    with pytest.raises(CorruptionError, match="damaged"):
        await taken(tmp_path / "early")
    assert not (await statepath.repair(partial)).left
    await taken(tmp_path / "late")


async def test_a_session_log_that_lacks_a_piece_in_its_middle_is_told(elsewhere):
    path = f"memory://{uuid4().hex}"
    async with statepath.open(path, autosave=0) as store:
        for _ in range(3):
            await store.append_log("a", "1234\n")
            await store.flush()
        await store.snapshot()
        assert await store._engine.backend.delete(f"logs/session_a.log/{5:020d}")
        with pytest.raises(CorruptionError, match="has 5 bytes without a gap"):
            await statepath.copy(path, elsewhere.new())


async def test_an_empty_session_log_is_copied_to_a_folder(tmp_path):
    path = tmp_path / "store"
    (path / "logs").mkdir(parents=True)
    (path / "logs" / "session_a.log").write_bytes(b"")
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    await statepath.copy(path, tmp_path / "copy")
    async with statepath.open(tmp_path / "copy", autosave=0) as other:
        assert await other.verify() == []


async def test_many_commits_of_a_history_go_into_one_object(path, store, tmp_path, places):
    for n in range(20):
        await store.collection("raw").put({"id": "a", "n": n})
    to = f"memory://{tmp_path}/to"
    assert (await statepath.copy(path, to, history=True)).commits == 20
    assert await places.keys(to, "journal/0") == [slot_key(1)]
    async with statepath.open(to, readonly=True) as other:
        assert [one.seq for one in await other.history()] == list(range(1, 21))


async def test_history_that_was_trimmed_is_copied_from_its_floor(path, store, elsewhere, monkeypatch):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    store._engine._snapshotter._history = timedelta(seconds=-1)
    for n in range(1, 6):
        await store.collection("raw").put({"id": "a", "n": n})
        if n < 5:
            await store.snapshot()
    floor = (await store.stats()).floor
    assert floor > 1
    to = elsewhere.new()
    await statepath.copy(path, to, history=True)
    async with statepath.open(to, autosave=0) as other:
        assert (await other.stats()).floor == floor
        assert [one.seq for one in await other.history()] == list(range(floor, 6))
        await other.restore(at=4)
        assert (await other.collection("raw").get("a"))["n"] == 4
        assert await other.verify() == []


async def test_a_store_that_is_written_meanwhile_is_copied_as_of_one_seq(path, store, elsewhere, fill):
    await fill(store)
    going = True

    async def saves():
        n = 0
        while going:
            n += 1
            async with store.transaction() as tx:
                tx.put(store.collection("raw"), {"id": "a", "n": n})
                tx.put(store.collection("raw"), {"id": "b", "n": n})
            await store.append_log("s/1", f"{n}\n")
            await asyncio.sleep(0.001)

    saving = asyncio.create_task(saves())
    try:
        for history in (False, True):
            to = elsewhere.new()
            made = await statepath.copy(path, to, history=history)
            async with statepath.open(to, readonly=True) as other:
                assert other.seq == made.seq
                raw = other.collection("raw")
                assert ((await raw.get("a")) or {}).get("n") == ((await raw.get("b")) or {}).get("n")
                assert [one for one in await other.verify() if one.severity == "damage"] == []
    finally:
        going = False
        await saving


@pytest.mark.parametrize("history", [False, True])
async def test_a_copy_goes_on_where_it_was_interrupted(
    path, store, elsewhere, fill, contents, watch, history
):
    await fill(store)
    held, to, attempts = await contents(store), elsewhere.new(), 0
    targets = watch(writes=3)
    while True:
        try:
            await statepath.copy(path, to, history=history)
        except UnavailableError:
            attempts += 1
            assert attempts < 40
            with pytest.raises(StateError, match="is not finished"):
                await statepath.open(to)
        else:
            break
    assert attempts > 0
    written = [key for target in targets for key in target.written]
    assert (
        max(Counter(key for key in written if key.startswith(("logs/", "reports/", "journal/0"))).values())
        == 1
    )
    async with statepath.open(to, autosave=0) as other:
        assert await contents(other) == held
        assert await other.verify() == []


@pytest.mark.parametrize("history", [False, True])
async def test_an_interrupted_copy_takes_what_was_saved_since(path, store, elsewhere, fill, watch, history):
    await fill(store)
    to = elsewhere.new()
    watch(writes=2)
    with pytest.raises(UnavailableError):
        await statepath.copy(path, to, history=history)
    await store.collection("raw").put({"id": "since"})
    await store.append_log("s/1", "since\n")
    await store.flush()
    watch()
    await statepath.copy(path, to, history=history)
    async with statepath.open(to, autosave=0) as other:
        assert await other.collection("raw").get("since") == {"id": "since"}
        assert (await other.read_log("s/1")).endswith("third\nsince\n")
        assert await other.verify() == []


async def test_an_interrupted_copy_of_another_store_is_not_gone_on_with(
    path, store, places, elsewhere, fill, watch
):
    await fill(store)
    to = elsewhere.new()
    watch(writes=2)
    with pytest.raises(UnavailableError):
        await statepath.copy(path, to)
    stranger = places.new()
    async with statepath.open(stranger, autosave=0) as other:
        await other.collection("raw").put({"id": "a"})
    with pytest.raises(AlreadyExistsError, match="is being made from seq 21 of"):
        await statepath.copy(stranger, to)


@pytest.mark.parametrize("prefix", ["state.json", "reports/"])
async def test_what_is_altered_on_the_way_is_noticed(path, store, elsewhere, fill, watch, prefix):
    await fill(store)
    to = elsewhere.new()
    watch(alter=lambda key, data: data.replace(b"third", b"fourt") if key.startswith(prefix) else data)
    with pytest.raises(CorruptionError, match=prefix):
        await statepath.copy(path, to)
    with pytest.raises(StateError, match="is not finished"):
        await statepath.open(to)


async def test_a_folder_of_something_else_is_left_as_it_is(path, store, tmp_path, fill):
    await fill(store)
    (folder := tmp_path / "theirs").mkdir()
    (folder / "notes").touch()
    with pytest.raises(AlreadyExistsError, match="it has notes"):
        await statepath.copy(path, folder)
    assert [one.name for one in folder.iterdir()] == ["notes"]


async def test_a_place_that_is_not_empty_is_refused(path, store, elsewhere, fill):
    await fill(store)
    to = elsewhere.new()
    async with statepath.open(to) as other:
        await other.collection("raw").put({"id": "mine"})
    before = await elsewhere.keys(to)
    with pytest.raises(AlreadyExistsError, match="it has the store"):
        await statepath.copy(path, to)
    assert await elsewhere.keys(to) == before


async def test_a_copy_onto_itself_is_refused(path, store):
    with pytest.raises(InvalidArgumentError, match="onto itself"):
        await statepath.copy(path, path)


@pytest.mark.parametrize("way", ["copy", "restore"])
async def test_a_copy_within_the_store_is_refused(tmp_path, way):
    """The store would take its files for documents that a person made."""
    path = tmp_path / "store"
    (tmp_path / "link").symlink_to(path)
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        for to in (path / "copy", tmp_path / "link/deep/copy"):
            with pytest.raises(InvalidArgumentError, match="within the one that it is made of"):
                await (statepath.copy(path, to) if way == "copy" else store.restore(at=1, to=to))
        assert not (path / "copy").exists()


async def test_of_two_who_make_a_store_in_one_place_one_finishes(store, fill, monkeypatch):
    """The second takes an unfinished one for one that was interrupted; the first can only notice."""
    await fill(store)
    to = f"memory://{uuid4().hex}"
    second = []

    claims = Founding._claim

    async def claim(self):
        claimed = await claims(self)
        if not second:
            second.append(None)
            await store.restore(at=store.seq, to=to)
        return claimed

    monkeypatch.setattr(Founding, "_claim", claim)
    with pytest.raises(ConflictError, match="someone else is making a store"):
        await store.restore(at=store.seq, to=to)
    async with statepath.open(to, autosave=0) as other:
        assert other.seq == store.seq
        assert await other.verify() == []


async def test_of_two_who_copy_a_history_the_one_that_stalled_is_told(path, store, fill, monkeypatch):
    """The second has made the store with what was saved meanwhile, when the first one's commits arrive."""
    await fill(store)
    to = f"memory://{uuid4().hex}"
    second = []
    append = Founding._append

    async def late(self, record):
        if not second:
            second.append(None)
            await store.collection("raw").put({"id": "since"})
            await statepath.copy(path, to, history=True)
        await append(self, record)

    monkeypatch.setattr(Founding, "_append", late)
    with pytest.raises(ConflictError, match="someone else is making a store"):
        await statepath.copy(path, to, history=True)
    async with statepath.open(to, autosave=0) as other:
        assert other.seq == store.seq
        assert await other.verify() == []


async def test_a_copy_of_nothing_makes_nothing(path, elsewhere):
    to = elsewhere.new()
    with pytest.raises(NotFoundError):
        await statepath.copy(path, to)
    assert await elsewhere.keys(to) == []


async def test_many_documents_take_few_requests(tmp_path, monkeypatch, watch):
    """As few as objects, not documents, need: that is what makes a copy between two object stores fast."""
    async with statepath.open("memory://from-many", autosave=0) as store:
        await asyncio.gather(*(store.collection("raw").put({"id": str(n), "n": n}) for n in range(2000)))
    targets = watch()
    await statepath.copy("memory://from-many", "memory://to-many")
    assert targets[0].calls.total() <= 2000 / 100


@pytest.mark.slow
async def test_a_copy_that_was_killed_can_be_repeated(tmp_path, fill, contents):
    source, to = str(tmp_path / "from"), str(tmp_path / "to")
    async with statepath.open(source, autosave=0) as store:
        await fill(store)
        for n in range(400):
            await store.save_report(f"r{n}", {"n": n})
        held = await contents(store)
    program = (
        "import asyncio, sys, statepath\n"
        "progress = lambda line: (print(line, flush=True), sys.stdin.readline())\n"
        "asyncio.run(statepath.copy(sys.argv[1], sys.argv[2], progress=progress))\n"
    )
    for lines in (1, 40, 200):
        with subprocess.Popen(
            [sys.executable, "-c", program, source, to],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            for _ in range(lines - 1):
                assert process.stdout.readline()
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.stdout.readline()
            process.kill()
        if Path(to, "journal/floor").exists():
            with pytest.raises(StateError, match="is not finished"):
                await statepath.open(to, readonly=True)
    await statepath.copy(source, to)
    async with statepath.open(to, autosave=0) as other:
        assert await contents(other) == held
        assert await other.verify() == []
