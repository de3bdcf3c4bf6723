"""A portable backup of an encrypted store is encrypted, and needs nothing but the master key."""

from __future__ import annotations

import io
import random

import pytest
import statepath
from statepath.encryption.files import SealedReader, SealedWriter
from statepath.encryption.sealing import SEGMENT, DataKey
from statepath.errors import ConfigurationError, CorruptionError, StateError, UnavailableError
from statepath.events import EmergencySave, Events
from statepath.settings import Settings

KEY = DataKey.new()


@pytest.fixture
def settings(key):
    return Settings(encryption_key=key, autosave=0)


@pytest.mark.slow
async def test_what_is_exported_is_sealed_and_imported_again(
    folder, tmp_path, settings, fill, contents, canary
):
    file = tmp_path / "file"
    async with folder.open() as store:
        await fill(store)
        held = await contents(store)
        await store.export(file, history=True)
        # The file has a key of its own.
        await store.rotate_key()
    data = file.read_bytes()
    assert canary.encode() not in data
    assert b"manifest.json" not in data
    await statepath.import_backup(file, tmp_path / "new", settings=settings)
    async with statepath.open(tmp_path / "new", settings=settings) as store:
        assert await contents(store) == held
    assert [
        path
        for path in (tmp_path / "new").rglob("*")
        if path.is_file() and canary.encode() in path.read_bytes()
    ] == []


async def test_it_is_imported_with_its_master_key_only(folder, tmp_path):
    file = tmp_path / "file"
    async with folder.open() as store:
        await store.collection("tasks").put({"id": "a"})
        await store.export(file)
    with pytest.raises(ConfigurationError) as caught:
        await statepath.import_backup(file, tmp_path / "new")
    assert caught.value.code == "no_key"
    with pytest.raises(ConfigurationError) as caught:
        await statepath.import_backup(
            file, tmp_path / "new", settings=Settings(encryption_key="A" * 43 + "=")
        )
    assert caught.value.code == "wrong_key"
    assert not (tmp_path / "new").exists()


async def test_a_plain_one_is_imported_into_an_encrypted_store(tmp_path, settings, canary):
    file = tmp_path / "file.zip"
    async with statepath.open(tmp_path / "plain") as store:
        await store.collection("tasks").put({"id": "a", "text": canary})
        await store.export(file)
    await statepath.import_backup(file, tmp_path / "new", settings=settings)
    async with statepath.open(tmp_path / "new", settings=settings) as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "text": canary}
    assert [
        path
        for path in (tmp_path / "new").rglob("*")
        if path.is_file() and canary.encode() in path.read_bytes()
    ] == []


async def test_a_file_that_was_altered_or_cut_writes_nothing(folder, tmp_path, settings, fill):
    file, altered = tmp_path / "file", tmp_path / "altered"
    async with folder.open() as store:
        await fill(store)
        await store.export(file)
    data = file.read_bytes()
    rng = random.Random(20261125)
    for at in [0, 8, 12, 100, 600, len(data) - 1, *(rng.randrange(len(data)) for _ in range(20))]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        for content in (bytes(damaged), data[:at]):
            altered.write_bytes(content)
            with pytest.raises(StateError):
                await statepath.import_backup(altered, tmp_path / "new", settings=settings)
            assert not (tmp_path / "new").exists()


async def test_a_file_with_a_damaged_key_ring_is_not_mistaken_for_the_store_s_own_ring(
    folder, tmp_path, settings
):
    file = tmp_path / "file"
    async with folder.open() as store:
        await store.export(file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptionError, match="the key ring that it begins with") as caught:
        await statepath.import_backup(file, tmp_path / "new", settings=settings)
    assert (caught.value.key, caught.value.code) == (str(file), "bad_file")
    assert "keyring.json" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
def test_a_sealed_file_is_read_anywhere(size):
    content = random.Random(size).randbytes(size)
    file = io.BytesIO(b"before")
    file.seek(6)
    with SealedWriter(file, KEY, b"store") as writer:
        for at in range(0, size, 50_000):
            writer.write(content[at : at + 50_000])
    reader = io.BufferedReader(SealedReader(file, 6, KEY, b"store", "file"))
    assert reader.read() == content
    for at in (0, size // 2, size):
        reader.seek(at)
        assert reader.read(100_000) == content[at : at + 100_000]
    reader.seek(-min(size, 10), io.SEEK_END)
    assert reader.read() == content[size - min(size, 10) :]


def test_a_sealed_file_that_was_not_finished_is_refused():
    file = io.BytesIO()
    writer = SealedWriter(file, KEY, b"store")
    writer.write(bytes(3 * SEGMENT))
    reader = SealedReader(io.BytesIO(file.getvalue()), 0, KEY, b"store", "file")
    with pytest.raises(CorruptionError, match="file cannot be opened"):
        io.BufferedReader(reader).read()
    writer.close()


async def test_what_is_saved_in_an_emergency_is_sealed_too(folder, tmp_path, monkeypatch, canary):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    told = []
    events = Events()
    events.on(EmergencySave, told.append)
    store = await folder.open(events=events)
    persistence = statepath.StatePersistence(store)
    await store.collection("tasks").put({"id": "a", "text": canary})

    async def failing():
        raise UnavailableError("no space", code="disk_full")

    with monkeypatch.context() as patched:
        patched.setattr(store._engine._snapshotter, "snapshot", failing)
        with pytest.raises(UnavailableError):
            await persistence.shutdown()
    with open(told[0].path, "rb") as file:
        data = file.read()
    assert canary.encode() not in data
    await store._engine.release()
    # It is put where the snapshot was.
    await folder.write("state.json", data)
    async with folder.open() as store:
        assert store.damage == ()
        assert await store.collection("tasks").get("a") == {"id": "a", "text": canary}
