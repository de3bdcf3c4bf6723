"""A plain store becomes an encrypted one where it is, and the reverse; by halves it is never opened."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import statepath
from servers.postgres import session
from statepath.backend import ALWAYS, Capabilities
from statepath.discovery import connect
from statepath.engine.converting import Conversion
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    HeadMoved,
    NotFoundError,
    StateError,
    UnavailableError,
    UnsupportedError,
)
from statepath.keys import decrypt, encrypt
from statepath.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def settings(key):
    return Settings(encryption_key=key, autosave=0)


@pytest.fixture
async def plain(place, fill, contents, canary):
    """A plain store, and what it holds."""
    async with statepath.open(place.url, autosave=0) as store:
        await fill(store)
        await store.collection("tasks").put({"id": "large", "text": canary * 700_000})
        held = await contents(store)
    return place, held


async def plain_text(place, canary):
    return [name for name, data in (await place.everything()).items() if canary.encode() in data]


async def test_an_encrypted_store_is_made_of_a_plain_one(plain, settings, canary, contents):
    place, held = plain
    assert await plain_text(place, canary)
    done = await encrypt(place.url, settings=settings)
    assert done.objects > 4
    assert await plain_text(place, canary) == []
    assert [key for key in await place.everything() if key.startswith(("tasks/", "bodies/"))] == []
    async with place.open() as store:
        assert store.seq == done.seq
        assert await contents(store) == held
        assert await store.verify() == []
        assert store.damage == ()
        assert len(await store.backups()) >= 2
        assert (await store.data_keys())[0].objects > 4
        await store.collection("tasks").put({"id": "later"})
        await store.append_log("1", "later\n")
        assert (await store.read_log("1")).endswith("behind\nlater\n")
    async with place.open() as store:
        assert store.seq == done.seq + 2
        assert await store.collection("tasks").get("later") == {"id": "later"}
        assert await store.verify() == []


async def test_nothing_is_mirrored_while_a_store_is_encrypted(memory, settings, tmp_path):
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    mirrored = settings.model_copy(update={"mirror": str(tmp_path / "replica")})
    await encrypt(memory.url, settings=mirrored)
    assert not (tmp_path / "replica").exists()


async def test_what_an_encrypted_store_is_made_of_is_kept_twice(place, settings):
    """Its log begins behind the one snapshot, which the backups of before do not reach."""
    for n in range(4):
        async with statepath.open(place.url, autosave=0) as store:
            await store.collection("tasks").put({"id": str(n)})
    await encrypt(place.url, settings=settings)
    async with place.open():
        pass
    data = bytearray(await place.read("state.json"))
    data[len(data) // 2] ^= 1
    await place.write("state.json", bytes(data))
    async with place.open() as store:
        assert [one["id"] async for one in store.collection("tasks")] == ["0", "1", "2", "3"]


async def test_a_plain_store_is_made_of_an_encrypted_one(place, fill, settings, contents):
    async with place.open() as store:
        await fill(store)
        held = await contents(store)
    done = await decrypt(place.url, settings=settings)
    with pytest.raises(ConfigurationError, match="is not encrypted"):
        await place.open()
    async with statepath.open(place.url, autosave=0) as store:
        assert store.seq == done.seq
        assert await contents(store) == held
        assert await store.verify() == []
        assert store.damage == ()
        await store.append_log("1", "later\n")
        await store.collection("tasks").put({"id": "later"})
        await store.flush()
        assert (await store.read_log("1")).endswith("behind\nlater\n")
    assert "keyring.json" not in await place.everything()


class Failing:
    """A backend that fails at its n-th change, as if the program had been killed there."""

    def __init__(self, backend: Any, n: int) -> None:
        self._backend = backend
        self._left = n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnavailableError("killed")

    async def write(self, key: str, data: bytes, *, when: Any = ALWAYS) -> Any:
        self._count()
        return await self._backend.write(key, data, when=when)

    async def delete(self, key: str, *, when: Any = ALWAYS) -> bool:
        self._count()
        return await self._backend.delete(key, when=when)


@pytest.mark.parametrize("place", ["folder", "memory"], indirect=False)
@pytest.mark.parametrize("command", [encrypt, decrypt])
async def test_whatever_interrupts_it_it_is_finished_by_the_same_call(
    request, place, command, fill, contents, settings, canary, monkeypatch
):
    place = request.getfixturevalue(place)
    opened = {"encryption_key": place.key} if command is decrypt else {}
    async with statepath.open(place.url, autosave=0, **opened) as store:
        await fill(store)
        held = await contents(store)
    original = Conversion.__post_init__
    n = 0
    while True:

        def failing(conversion, n=n):
            conversion.backend = Failing(conversion.backend, n)
            original(conversion)

        with monkeypatch.context() as patched:
            patched.setattr(Conversion, "__post_init__", failing)
            try:
                await command(place.url, settings=settings)
                break
            except UnavailableError:
                n += 1
        for options in ({}, {"encryption_key": place.key}):
            with pytest.raises(ConfigurationError):
                await statepath.open(place.url, **options)
    assert n > 2
    async with statepath.open(
        place.url, autosave=0, **({"encryption_key": place.key} if command is encrypt else {})
    ) as store:
        assert await contents(store) == held
        assert await store.verify() == []
        assert store.damage == ()
    assert bool(await plain_text(place, canary)) == (command is decrypt)


async def test_a_half_converted_store_says_how_it_is_finished(folder, settings, monkeypatch):
    async with statepath.open(folder.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})

    async def failing(self):
        raise UnavailableError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Conversion, "run", failing)
        with pytest.raises(UnavailableError):
            await encrypt(folder.url, settings=settings)
    with pytest.raises(ConfigurationError, match="statepath keys encrypt") as caught:
        await folder.open()
    assert caught.value.code == "converting"
    with pytest.raises(ConflictError, match="finish that first: statepath keys encrypt"):
        await decrypt(folder.url, settings=settings)
    await encrypt(folder.url, settings=settings)
    async with folder.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


@pytest.fixture
def cut_off(settings, monkeypatch):
    """Has a command end before the log's own record is written, which comes last."""

    async def killed(*_: Any) -> None:
        raise UnavailableError("killed")

    async def cut_off(command: Any, url: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Conversion, "_put_floor", killed)
            with pytest.raises(UnavailableError):
                await command(url, settings=settings)

    return cut_off


async def test_a_half_encrypted_store_without_its_ring_is_not_taken_for_a_damaged_plain_one(
    folder, settings, cut_off
):
    async with statepath.open(folder.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    await cut_off(encrypt, folder.url)
    ring = await folder.read("keyring.json")
    backend = await folder.raw()
    await backend.delete("keyring.json")
    await backend.close()
    stored = await folder.everything()
    with pytest.raises(UnsupportedError, match=r"state\.json is sealed, and keyring\.json is missing"):
        await statepath.open(folder.url)
    for trial in (folder.open(), encrypt(folder.url, settings=settings)):
        with pytest.raises(StateError, match=r"keyring\.json is missing"):
            await trial
    assert (await folder.everything()).keys() == stored.keys()
    await folder.write("keyring.json", ring)
    await encrypt(folder.url, settings=settings)
    async with folder.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


@pytest.mark.parametrize("command", [encrypt, decrypt])
async def test_what_somebody_saves_meanwhile_stops_it_and_is_not_lost(memory, settings, monkeypatch, command):
    before = {"encryption_key": memory.key} if command is decrypt else {}
    run = Conversion.run
    async with statepath.open(memory.url, autosave=0, **before) as other:
        await other.collection("tasks").put({"id": "a"})

        async def meanwhile(self):
            await other.collection("tasks").put({"id": "b"})
            return await run(self)

        with monkeypatch.context() as patch:
            patch.setattr(Conversion, "run", meanwhile)
            with pytest.raises(ConflictError, match="end every program"):
                await command(memory.url, settings=settings)
        await other._engine.release()
    async with statepath.open(memory.url, autosave=0, **before) as store:
        assert {document["id"] async for document in store.collection("tasks")} == {"a", "b"}
    await command(memory.url, settings=settings)


class Watched:
    """A backend that calls back before its n-th change."""

    def __init__(self, backend: Any, n: int, call: Any) -> None:
        self._backend = backend
        self._left = n
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def _count(self) -> None:
        self._left -= 1
        if self._left == -1:
            await self._call()

    async def write(self, key: str, data: bytes, *, when: Any = ALWAYS) -> Any:
        await self._count()
        return await self._backend.write(key, data, when=when)

    async def delete(self, key: str, *, when: Any = ALWAYS) -> bool:
        await self._count()
        return await self._backend.delete(key, when=when)


REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'it takes too long' USING ERRCODE = 'query_canceled'; END $$;
CREATE TRIGGER refuse BEFORE DELETE ON statepath.documents EXECUTE FUNCTION refuse();
"""


async def test_it_is_not_done_while_plain_documents_are_left_for_queries(
    postgresql, settings, canary, monkeypatch
):
    async with statepath.open(postgresql.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a", "text": canary})
    async with session(postgresql.url) as around:
        await around.execute(REFUSE)
        with monkeypatch.context() as patched:
            patched.setattr("statepath_postgres.documents.PATIENCE", 0.1)
            patched.setattr("statepath.engine.converting._PATIENCE", 2)
            patched.setattr("statepath.engine.converting._PAUSE", 0.1)
            with pytest.raises(UnavailableError, match=r"Run the command again.*statement_timeout="):
                await encrypt(postgresql.url, settings=settings)
        assert "documents" in await plain_text(postgresql, canary)
        await around.execute("DROP TRIGGER refuse ON statepath.documents")
    await encrypt(postgresql.url, settings=settings)
    assert await plain_text(postgresql, canary) == []
    async with postgresql.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "text": canary}


async def test_an_index_that_says_at_once_that_it_cannot_let_go_yet_is_waited_for(monkeypatch):
    class Index:
        capabilities = Capabilities(durable=True, shared=True, queries=True)
        asked = 0

        async def show(self, seq, documents):
            pass

        async def settle(self, seq):
            self.asked += 1
            return self.asked == 100

    monkeypatch.setattr("statepath.engine.converting._PAUSE", 0)
    index = Index()
    await Conversion._queries(SimpleNamespace(encrypts=True, backend=index, tell=print), 1)
    assert index.asked == 100


@pytest.mark.parametrize("place", ["memory", "postgresql"], indirect=True)
@pytest.mark.parametrize("command", [encrypt, decrypt])
async def test_whenever_somebody_saves_meanwhile_it_is_kept_or_refused(place, settings, monkeypatch, command):
    before = {"encryption_key": place.key} if command is decrypt else {}
    after = {"encryption_key": place.key} if command is encrypt else {}
    original = Conversion.__post_init__
    refused = n = 0
    while True:
        url = f"{place.url}{'-' if place.url.startswith('memory') else '?store='}{n}"
        async with statepath.open(url, autosave=0, **before) as other:
            tasks = other.collection("tasks")
            await tasks.put({"id": "a"})
            told = []

            async def save(tasks=tasks, told=told):
                try:
                    await tasks.put({"id": "b"})
                    told.append("kept")
                except StateError:
                    told.append("refused")

            def watched(conversion, n=n, save=save):
                conversion.backend = Watched(conversion.backend, n, save)
                original(conversion)

            with monkeypatch.context() as patched:
                patched.setattr(Conversion, "__post_init__", watched)
                try:
                    await command(url, settings=settings)
                    converted = True
                except ConflictError:
                    converted = False
            await other._engine.release()
        async with statepath.open(url, autosave=0, **(after if converted else before)) as store:
            assert [document["id"] async for document in store.collection("tasks")] == [
                "a",
                *("b" for word in told if word == "kept"),
            ]
            assert await store.verify() == []
        if not told:
            break
        refused += told == ["refused"]
        n += 1
    assert refused >= 3


async def test_a_damaged_object_that_only_looks_like_one_kept_aside_is_told_and_stays(memory, settings):
    async with memory.open() as store:
        await store.save_report("a.corrupt.b", {"n": 1})
    data = bytearray(await memory.read("reports/a.corrupt.b.json"))
    data[-1] ^= 1
    await memory.write("reports/a.corrupt.b.json", bytes(data))
    with pytest.raises(CorruptionError, match=r"reports/a\.corrupt\.b\.json"):
        await decrypt(memory.url, settings=settings)
    assert await memory.read("reports/a.corrupt.b.json") == data


async def backup_of(place):
    backend = await place.raw()
    try:
        key, *_ = [entry.key async for entry in backend.list_keys("state.backup.")]
        return key
    finally:
        await backend.close()


async def test_what_is_damaged_is_told_while_it_can_be_repaired_still(place, fill, contents, settings):
    async with place.open() as store:
        await fill(store)
        held = await contents(store)
    await place.flip(await backup_of(place))
    with pytest.raises(CorruptionError, match=r"Nothing was converted.*statepath repair"):
        await decrypt(place.url, settings=settings)
    async with place.open() as store:
        assert await contents(store) == held
    assert (await statepath.repair(place.url, settings=settings)).left == ()
    await decrypt(place.url, settings=settings)
    async with statepath.open(place.url, autosave=0) as store:
        assert await contents(store) == held
        assert await store.verify() == []


async def test_a_kept_state_that_is_damaged_does_not_keep_an_interrupted_run_from_its_end(
    memory, fill, contents, settings, monkeypatch
):
    async with memory.open() as store:
        await fill(store)
        held = await contents(store)

    async def failing(self):
        raise UnavailableError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Conversion, "run", failing)
        with pytest.raises(UnavailableError):
            await decrypt(memory.url, settings=settings)
    await memory.flip(await backup_of(memory))
    await decrypt(memory.url, settings=settings)
    async with statepath.open(memory.url, autosave=0) as store:
        assert await contents(store) == held
        assert await store.verify() == []


async def test_what_another_store_has_sealed_is_told_before_anything_is_converted(memory, settings, folder):
    async with folder.open() as store:
        await store.save_report("r", {"n": 1})
        await store.flush()
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    await memory.write("reports/r.json", await folder.read("reports/r.json"))
    with pytest.raises(
        CorruptionError, match=r"reports/r\.json is sealed.*another store's.*Nothing was converted"
    ):
        await encrypt(memory.url, settings=settings)
    async with statepath.open(memory.url, autosave=0) as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


async def test_what_was_saved_meanwhile_is_had_again_though_a_stranger_left_an_object(
    memory, settings, monkeypatch
):
    run = Conversion.run
    async with memory.open() as other:
        await other.collection("tasks").put({"id": "a"})
        await memory.write("notes.txt", b"a person's")

        async def meanwhile(self):
            await other.collection("tasks").put({"id": "b"})
            return await run(self)

        with monkeypatch.context() as patch:
            patch.setattr(Conversion, "run", meanwhile)
            with pytest.raises(ConflictError, match="seq 2 was committed meanwhile"):
                await decrypt(memory.url, settings=settings)
        await other._engine.release()
    async with memory.open() as store:
        assert (store.seq, await store.collection("tasks").get("b")) == (2, {"id": "b"})
    await decrypt(memory.url, settings=settings)
    assert await memory.read("notes.txt") == b"a person's"


FOREIGN = {
    "notes.txt": b"a person's",
    ".git/HEAD": b"ref: refs/heads/main",
    "website/index.html": b"<html></html>",
    "website/manifest.json": b'{"name": "a website"}',
    "bodies/of-water/lake.txt": b"deep",
    "logs/access.log": b"GET /",
    "archive/old.zip": b"PK",
}


async def foreign_of(place):
    """What lies beside the store, and what a store in a folder of it has."""
    stored = await place.everything()
    return {key: data for key, data in stored.items() if key in FOREIGN or key.startswith("team1/")}


@pytest.fixture(params=["plain", "encrypted"])
async def among(request, memory, key):
    """A place where others keep something, too, one of them a store; and how that is opened."""
    nested = {"encryption_key": "A" * 43 + "="} if request.param == "encrypted" else {}
    async with statepath.open(f"{memory.url}-nested", autosave=0, **nested) as store:
        await store.collection("tasks").put({"id": "theirs"})
        await store.save_report("r", {"n": 1})
        await store.snapshot()
    source = await connect(f"{memory.url}-nested")
    for entry in [entry async for entry in source.list_keys("")]:
        await memory.write(f"team1/{entry.key}", (await source.read(entry.key)).data)
    for name, data in FOREIGN.items():
        await memory.write(name, data)
    return memory


async def test_what_is_not_the_store_s_is_neither_sealed_nor_deleted(among, fill, contents, settings):
    async with statepath.open(among.url, autosave=0) as store:
        await fill(store)
        held = await contents(store)
    before = await foreign_of(among)
    done = await encrypt(among.url, settings=settings)
    assert await foreign_of(among) == before
    assert set(done.left) == set(before)
    async with among.open() as store:
        assert await contents(store) == held
    assert set((await decrypt(among.url, settings=settings)).left) == set(before)
    assert await foreign_of(among) == before


async def test_what_is_not_the_store_s_is_no_damage_and_has_no_other_key(among, fill, settings):
    before = await foreign_of(among)
    async with statepath.open(among.url, autosave=0) as store:
        await fill(store)
    await encrypt(among.url, settings=settings)
    async with among.open() as store:
        assert await store.verify() == []
        assert (await store.rotate_key()).unreadable == ()
    assert await foreign_of(among) == before


async def test_what_was_kept_aside_of_a_person_s_edit_is_sealed_too(folder, settings, canary):
    async with statepath.open(folder.url, autosave=0, views=True) as store:
        await store.collection("tasks").put({"id": "a"})
    kept = "tasks/a.json.conflict.20260101T000000.000000Z"
    await folder.write(kept, canary.encode())
    assert (await encrypt(folder.url, settings=settings)).left == ()
    assert await plain_text(folder, canary) == []
    assert kept in await folder.everything()


class Overtaken:
    """A native log in which somebody else's commit takes the place at the last moment, and which tells it."""

    def __init__(self, log: Any, call: Any) -> None:
        self._log = log
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, after: int, commit: Any) -> None:
        await self._call()
        raise HeadMoved([late async for late in self._log.read(after)])


@pytest.mark.parametrize("command", [encrypt, decrypt])
async def test_whoever_takes_the_place_of_the_closing_record_has_the_store_as_it_was(
    memory, settings, monkeypatch, command
):
    before = {"encryption_key": memory.key} if command is decrypt else {}
    original = Conversion.__post_init__
    async with statepath.open(memory.url, autosave=0, **before) as other:
        await other.collection("tasks").put({"id": "a"})

        def overtaken(conversion):
            conversion.log = Overtaken(conversion.log, lambda: other.collection("tasks").put({"id": "b"}))
            original(conversion)

        with monkeypatch.context() as patch:
            patch.setattr(Conversion, "__post_init__", overtaken)
            with pytest.raises(ConflictError, match="seq 2 was committed meanwhile"):
                await command(memory.url, settings=settings)
        await other._engine.release()
    async with statepath.open(memory.url, autosave=0, **before) as store:
        assert (store.seq, await store.collection("tasks").get("b")) == (2, {"id": "b"})


async def test_whoever_is_overtaken_by_another_that_converts_leaves_the_keys_alone(
    memory, settings, monkeypatch
):
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    original, made = Conversion.__post_init__, []

    def overtaken(conversion):
        original(conversion)
        made.append(conversion)
        if len(made) > 1:
            return
        backend, log, keys = conversion.backend, conversion.log, conversion.keys
        other = Conversion(backend, log, keys, conversion.limit, conversion.tell)

        async def close():
            await other._journal(await other._floor())

        conversion.log = Overtaken(log, close)

    with monkeypatch.context() as patch:
        patch.setattr(Conversion, "__post_init__", overtaken)
        with pytest.raises(ConflictError, match="meanwhile"):
            await encrypt(memory.url, settings=settings)
    await encrypt(memory.url, settings=settings)
    async with memory.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


@pytest.mark.parametrize("command", [encrypt, decrypt])
async def test_backups_ascend_though_the_clock_went_back_before_the_conversion(
    memory, settings, monkeypatch, command
):
    before = {"encryption_key": memory.key} if command is decrypt else {}
    after = {"encryption_key": memory.key} if command is encrypt else {}
    ahead = time.time_ns() + 3600 * 10**9
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: ahead)
        async with statepath.open(memory.url, autosave=0, **before) as store:
            await store.collection("tasks").put({"id": "a"})
            earlier = await store.backup()
    await command(memory.url, settings=settings)
    async with statepath.open(memory.url, autosave=0, **after) as store:
        later = await store.backup()
        assert await store.backups() == [earlier, later]


async def test_the_wrong_commands_change_nothing(folder, settings, tmp_path):
    with pytest.raises(NotFoundError, match="there is no store"):
        await encrypt(folder.url, settings=settings)
    with pytest.raises(NotFoundError, match="there is no store"):
        await decrypt(folder.url, settings=settings)
    with pytest.raises(NotFoundError, match="there is no store"):
        await encrypt(folder.url, settings=Settings())
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
    with pytest.raises(ConfigurationError, match="no master key is configured"):
        await encrypt(folder.url, settings=Settings())
    with pytest.raises(AlreadyExistsError, match="is encrypted already"):
        await encrypt(folder.url, settings=settings)
    with pytest.raises(StateError, match="wrong key"):
        await decrypt(folder.url, settings=Settings(encryption_key="A" * 43 + "="))
    async with folder.open() as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


async def test_a_handle_that_was_open_all_the_while_does_not_mistake_it(memory, settings):
    async with statepath.open(memory.url, readonly=False, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    async with statepath.open(memory.url, readonly=True) as reader:
        await encrypt(memory.url, settings=settings)
        async with memory.open() as store:
            await store.collection("tasks").put({"id": "b"})
        with pytest.raises(StateError) as caught:
            await reader.sync()
        assert caught.value.code == "encrypted"
        with pytest.raises(UnsupportedError, match="was encrypted while it was open here"):
            await reader.verify()


async def test_what_was_decrypted_meanwhile_is_no_damage(memory, settings):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
    async with memory.open(readonly=True) as reader:
        await decrypt(memory.url, settings=settings)
        with pytest.raises(CorruptionError, match=r"keyring\.json is missing: .* was decrypted") as caught:
            await reader.verify()
        assert caught.value.key == "keyring.json"


@pytest.fixture
async def forgotten(memory):
    """A handle that nobody thought of, with something to save in a snapshot still."""
    store = await memory.open()
    for id in "ab":
        await store.collection("tasks").put({"id": id})
        if id == "a":
            await store.snapshot()
    yield store
    await store.aclose()


async def test_a_handle_that_was_forgotten_leaves_the_plain_state_where_it_is(memory, settings, forgotten):
    await decrypt(memory.url, settings=settings)
    before = await memory.everything()
    await forgotten.aclose()
    assert await memory.everything() == before
    async with statepath.open(memory.url, autosave=0) as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a", "b"]


async def test_a_handle_that_was_forgotten_leaves_a_half_decrypted_state_where_it_is(
    memory, settings, forgotten, cut_off
):
    await cut_off(decrypt, memory.url)
    before = await memory.everything()
    assert before["state.json"].startswith(b"{")
    await forgotten.aclose()
    assert await memory.everything() == before
    await decrypt(memory.url, settings=settings)
    async with statepath.open(memory.url, autosave=0) as store:
        assert [task["id"] async for task in store.collection("tasks")] == ["a", "b"]
