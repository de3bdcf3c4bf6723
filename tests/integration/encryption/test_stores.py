"""An encrypted store is a store like any other, and nothing of what it holds can be read where it is stored."""

from __future__ import annotations

from pathlib import Path

import pytest
import statepath
from statepath import F, encryption
from statepath.encryption import providers
from statepath.encryption.keyring import Keys
from statepath.encryption.providers import MasterKey, create_key_file
from statepath.engine import opening
from statepath.errors import (
    ConfigurationError,
    CorruptionError,
    NotFoundError,
    StateError,
    UnsupportedError,
)
from statepath.keys import encrypt, init_keys
from statepath.settings import Settings


async def test_nothing_of_the_content_is_found_on_the_storage(place, fill, canary):
    async with place.open(views=True) as store:
        await fill(store)
        await store.collection("tasks").put({"id": "large", "text": canary * 700_000})
        await store.flush()
        stored = await place.everything()
        assert [name for name, data in stored.items() if canary.encode() in data] == []
    stored = await place.everything()
    assert len(stored) > 2
    assert [name for name, data in stored.items() if canary.encode() in data] == []
    assert [name for name, data in stored.items() if place.key.encode() in data] == []


async def test_what_was_saved_is_there_when_it_is_opened_again(place, fill, contents):
    async with place.open() as store:
        await fill(store)
        held = await contents(store)
        assert await store.verify() == []
    async with place.open() as store:
        assert await contents(store) == held
        assert await store.verify() == []
        assert (await store.health()).damage == ()
        before = (await store.history("tasks/task_3"))[0].seq
        assert (await store.restore(at=before)).to == before
        assert (await store.collection("tasks").get("task_3"))["part"] == 0
    async with place.open(readonly=True) as store:
        assert (await store.collection("tasks").get("task_3"))["part"] == 0


async def test_a_store_that_was_not_closed_is_whole(place):
    store = await place.open()
    await store.collection("tasks").put({"id": "a"})
    await store._engine.release()
    async with place.open() as again:
        assert await again.collection("tasks").get("a") == {"id": "a"}
        assert await again.collection("tasks").put({"id": "b"}) == 2
    async with place.open(readonly=True) as again:
        assert again.seq == 2


async def test_queries_run_in_memory(postgresql):
    async with postgresql.open() as store:
        tasks = store.collection("tasks")
        for n in range(50):
            await tasks.put({"id": str(n), "n": n % 5})
        await store.flush()
        assert not store._engine.backend.capabilities.queries
        assert await tasks.find(F("n") == 3).count() == 10
        stored = await postgresql.everything()
        assert stored["documents"] == b""


async def test_who_does_not_load_it_is_told_that_it_is_encrypted(postgresql):
    async with postgresql.open():
        pass
    with pytest.raises(UnsupportedError, match=r"is encrypted.*STATE_LOAD=true.*decrypt it") as caught:
        await postgresql.open(load=False)
    assert caught.value.code == "no_documents"


async def test_the_files_of_documents_are_sealed_and_not_adopted(folder):
    async with folder.open(views=True) as store:
        await store.collection("tasks").put({"id": "a", "n": 1})
    await folder.write("tasks/a.json", b'{"id": "a", "n": 2}')
    async with folder.open(views=True) as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "n": 1}
        await store.flush()
        assert await store.verify() == []
    assert b'"n"' not in await folder.read("tasks/a.json")


async def test_views_that_show_their_documents_are_not_written_again_at_each_opening(folder):
    async with folder.open(views=True) as store:
        await store.collection("tasks").put({"id": "a"})
    before = await folder.read("tasks/a.json")
    async with folder.open(views=True) as store:
        await store.flush()
    assert await folder.read("tasks/a.json") == before


async def test_another_key_is_told_to_be_the_wrong_one(place, key):
    async with place.open() as store:
        await store.collection("tasks").put({"id": "a"})
    stored = await place.everything()
    other = "A" * 43 + "="
    for readonly in (False, True):
        with pytest.raises(
            ConfigurationError, match=r"this is the wrong key: .* encrypted with key "
        ) as caught:
            await place.open(encryption_key=other, readonly=readonly)
        assert caught.value.code == "wrong_key"
        assert other not in str(caught.value)
        assert key not in str(caught.value)
    assert (await place.everything()).keys() == stored.keys()


async def test_without_a_key_an_encrypted_store_is_not_opened(place):
    async with place.open() as store:
        await store.collection("tasks").put({"id": "a"})
    for readonly in (False, True):
        with pytest.raises(
            ConfigurationError, match="is encrypted, and no master key is configured"
        ) as caught:
            await statepath.open(place.url, readonly=readonly)
        assert caught.value.code == "no_key"


@pytest.fixture
async def alone(memory):
    """What is left of an encrypted store where a kind of its snapshots alone was put back, beside a person's note."""

    async def alone(beginning):
        async with memory.open() as store:
            await store.collection("tasks").put({"id": "a"})
            await store.backup()
        backend = await memory.raw()
        for key in await memory.everything():
            if not key.startswith(beginning):
                await backend.delete(key)
        await backend.close()
        await memory.write("NOTES", b"a person's")
        return await memory.everything()

    return alone


@pytest.mark.parametrize("beginning", ["state.json", "state.backup."])
async def test_a_sealed_snapshot_alone_is_not_put_aside_by_who_has_no_keys(memory, alone, beginning):
    stored = await alone(beginning)
    assert len(stored) == 2
    for readonly in (True, False):
        with pytest.raises(UnsupportedError, match=r"is sealed, and keyring\.json is missing") as caught:
            await statepath.open(memory.url, readonly=readonly)
        assert caught.value.code == "encrypted"
    assert await memory.everything() == stored


@pytest.mark.parametrize("beginning", ["state.json", "state.backup."])
async def test_a_sealed_snapshot_alone_is_not_deleted_by_who_would_encrypt_it_again(memory, alone, beginning):
    stored = await alone(beginning)
    with pytest.raises(UnsupportedError, match=r"is sealed, and keyring\.json is missing"):
        await encrypt(memory.url, settings=Settings(encryption_key=memory.key))
    assert await memory.everything() == stored


async def test_a_person_s_note_does_not_make_a_plain_store_of_a_sealed_snapshot(memory, alone):
    stored = await alone("state.json")
    with pytest.raises(CorruptionError, match=r"keyring\.json is missing"):
        await memory.open()
    assert await memory.everything() == stored


async def test_with_a_key_a_plain_store_is_not_opened(place):
    async with statepath.open(place.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    for readonly in (False, True):
        with pytest.raises(
            ConfigurationError, match=r"is not encrypted: .* statepath keys encrypt"
        ) as caught:
            await place.open(readonly=readonly)
        assert caught.value.code == "not_encrypted"
    async with statepath.open(place.url, autosave=0) as store:
        assert await store.collection("tasks").get("a") == {"id": "a"}


@pytest.fixture
def meanwhile(monkeypatch):
    """What is done between the look at a place where nothing is and the key ring that is made there."""

    def meanwhile(call):
        make = Keys.create

        async def making(*args, **options):
            monkeypatch.setattr(Keys, "create", make)
            await call()
            return await make(*args, **options)

        monkeypatch.setattr(Keys, "create", making)

    return meanwhile


async def test_a_plain_store_that_is_founded_meanwhile_gets_no_key_ring(memory, meanwhile):
    opened = []

    async def found():
        opened.append(await statepath.open(memory.url, autosave=0))
        await opened[0].collection("tasks").put({"id": "a"})

    meanwhile(found)
    with pytest.raises(ConfigurationError, match="not encrypted"):
        await memory.open()
    await opened[0].collection("tasks").put({"id": "b"})
    await opened[0].aclose()
    async with statepath.open(memory.url) as store:
        assert (await store.collection("tasks").count(), store.damage) == (2, ())


async def test_who_founds_a_plain_store_notices_a_key_ring_that_was_made_meanwhile(memory, monkeypatch):
    write = opening.write_floor
    opened = []

    async def writing(backend, floor, etag):
        monkeypatch.setattr(opening, "write_floor", write)
        opened.append(await memory.open())
        return await write(backend, floor, etag)

    monkeypatch.setattr(opening, "write_floor", writing)
    with pytest.raises(StateError) as caught:
        await statepath.open(memory.url)
    assert caught.value.code in ("no_key", "encrypted")
    await opened[0].collection("tasks").put({"id": "a"})
    await opened[0].aclose()
    async with memory.open() as store:
        assert (await store.collection("tasks").count(), store.damage) == (1, ())


async def test_who_founds_a_plain_store_notices_a_key_ring_to_which_there_is_no_store_yet(
    memory, monkeypatch
):
    write = opening.write_floor

    async def writing(backend, floor, etag):
        monkeypatch.setattr(opening, "write_floor", write)
        keys = await encryption.make_keys(backend, Settings(encryption_key=memory.key))
        await keys.close()
        return await write(backend, floor, etag)

    monkeypatch.setattr(opening, "write_floor", writing)
    with pytest.raises(ConfigurationError, match="no master key is configured"):
        await statepath.open(memory.url)
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
        assert store.damage == ()


@pytest.fixture
def in_use(monkeypatch):
    """How many of the key providers that were made are not closed yet."""
    made = []
    make = providers.provider_of

    class Provider(MasterKey):
        async def close(self):
            if self in made:
                made.remove(self)

    def provider_of(settings):
        found = make(settings)
        found.__class__ = Provider
        made.append(found)
        return found

    monkeypatch.setattr(providers, "provider_of", provider_of)
    return lambda: len(made)


async def test_a_key_provider_is_closed_with_its_store(place, in_use):
    for _ in ("a new one", "one that is there"):
        async with place.open() as store:
            await store.collection("tasks").put({"id": "a"})
            assert in_use() == 1
        assert in_use() == 0


async def test_a_key_provider_is_closed_where_there_is_nothing_to_read(memory, in_use):
    with pytest.raises(NotFoundError):
        await memory.open(readonly=True)
    assert in_use() == 0


async def test_a_key_provider_is_closed_where_the_store_is_not_encrypted(memory, in_use):
    async with statepath.open(memory.url, autosave=0) as store:
        await store.collection("tasks").put({"id": "a"})
    with pytest.raises(ConfigurationError, match="is not encrypted"):
        await memory.open()
    assert in_use() == 0


async def test_a_key_provider_is_closed_where_the_keys_are_another_s(memory, in_use):
    async with memory.open() as store:
        await store.collection("tasks").put({"id": "a"})
    with pytest.raises(ConfigurationError, match="wrong key"):
        await memory.open(encryption_key="A" * 43 + "=")
    assert in_use() == 0


async def test_a_key_provider_is_closed_where_the_store_is_half_converted(memory, in_use):
    async with memory.open() as store:
        await store._engine.backend.keys.converting("encrypt")
    with pytest.raises(ConfigurationError, match="half converted"):
        await memory.open()
    assert in_use() == 0


async def test_reading_makes_no_key_ring(place):
    with pytest.raises(NotFoundError):
        await place.open(readonly=True)
    assert "keyring.json" not in await place.everything()


@pytest.mark.parametrize(
    "begin",
    [
        lambda settings: statepath.open(settings=settings),
        lambda settings: init_keys(settings=settings),
        lambda settings: init_keys(settings=settings, new_key=True),
    ],
    ids=["open", "init", "init with a new key"],
)
async def test_a_master_key_within_the_store_is_refused_and_no_key_ring_is_made(folder, begin):
    root = Path(folder.url)
    root.mkdir()
    create_key_file(str(root / "master"))
    with pytest.raises(ConfigurationError, match="would lie within the store") as caught:
        await begin(Settings(path=folder.url, encryption_key_file=root / "master"))
    assert caught.value.code == "bad_key"
    assert "keyring.json" not in await folder.everything()


async def test_no_store_is_encrypted_by_a_master_key_within_it(folder):
    async with statepath.open(folder.url) as store:
        await store.collection("tasks").put({"id": "a"})
    create_key_file(f"{folder.url}/master")
    with pytest.raises(ConfigurationError, match="would lie within the store"):
        await encrypt(settings=Settings(path=folder.url, encryption_key_file=f"{folder.url}/master"))
    assert "keyring.json" not in await folder.everything()


async def test_a_master_key_beside_the_store_is_none_within_it(tmp_path):
    key = tmp_path / "store-key"
    await init_keys(settings=Settings(path=tmp_path / "store", encryption_key_file=key), new_key=True)
    async with statepath.open(tmp_path / "store", encryption_key_file=key) as store:
        assert store.encrypted


async def test_a_key_that_cannot_be_used_touches_nothing(folder, tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        await folder.open(encryption_key=None, encryption_key_file=str(tmp_path / "none"))
    assert caught.value.code == "bad_key"
    async with folder.open() as store:
        assert store.seq == 0


async def test_what_is_made_of_an_encrypted_store_is_encrypted(folder, tmp_path, fill, contents, canary):
    elsewhere = tmp_path / "elsewhere"
    async with folder.open() as store:
        await fill(store)
        held = await contents(store)
        await store.restore(at=store.seq, to=elsewhere)
    async with statepath.open(elsewhere, encryption_key=folder.key) as store:
        assert await contents(store) == held
    files = [path for path in elsewhere.rglob("*") if path.is_file()]
    assert [path for path in files if canary.encode() in path.read_bytes()] == []


async def test_a_long_journal_is_packed_as_a_plain_one_is(memory, monkeypatch, canary):
    monkeypatch.setattr("statepath.engine.snapshotter.KEEP_SECONDS", -1)
    monkeypatch.setattr("statepath.engine.snapshotter._PACK", 8)
    async with memory.open() as store:
        tasks = store.collection("tasks")
        for n in range(20):
            await tasks.put({"id": str(n), "text": canary})
        for n in range(3):
            await store.snapshot()
            await tasks.put({"id": "last", "n": n})
        await store.snapshot()
        await store._engine._snapshotter.pack()
        assert len(await store.history()) == 23
        assert (await store.data_keys())[0].records == 23
    stored = await memory.everything()
    packs = [key for key in stored if key.startswith("journal/0") and "-" in key]
    assert len(packs) == 1
    assert canary.encode() not in stored[packs[0]]
    await memory.write(packs[0], stored[packs[0]].replace(b'"durable":3', b'"durable":2'))
    async with memory.open(readonly=True) as store:
        assert "journal/" in str(await store.verify())
    await memory.write(packs[0], stored[packs[0]])
    backend = await memory.raw()
    await backend.delete("journal/floor")
    await backend.close()
    async with memory.open() as store:
        assert await store.collection("tasks").find().count() == 21
        assert await store.verify() == []
