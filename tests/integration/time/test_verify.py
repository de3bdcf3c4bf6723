"""Verification: whatever is damaged is found, and what is whole is not."""

from __future__ import annotations

import json
from zlib import crc32

import msgspec
import pytest
import statepath
from statepath.backend import decode_commit, encode_commit
from statepath.engine.snapshot import MARK
from statepath.errors import UnavailableError


@pytest.fixture
async def stored(path, fill):
    """A store that was closed, with every kind of object but bodies."""
    async with statepath.open(path, autosave=0) as store:
        await fill(store)
    return path


async def findings(path):
    async with statepath.open(path, readonly=True) as reader:
        return {finding.key: finding.reason for finding in await reader.verify()}


async def damage(path):
    async with statepath.open(path, readonly=True) as reader:
        return {one.key: one.reason for one in await reader.verify() if one.severity == "damage"}


@pytest.mark.everywhere
async def test_a_whole_store_has_no_finding(stored):
    assert await findings(stored) == {}


@pytest.fixture
def unreadable(monkeypatch):
    """Lets no object be read that has the beginning."""

    def let(reader, begin):
        backend = reader._engine.backend
        read = backend.read

        async def fail(key, *, span=None):
            if key.startswith(begin):
                raise UnavailableError(f"{key}: Input/output error", key=key)
            return await read(key, span=span)

        monkeypatch.setattr(type(backend), "read", staticmethod(fail))

    return let


@pytest.mark.parametrize("begin", ["state.json", "state.backup.", "logs/", "reports/", "archive/"])
async def test_what_cannot_be_read_is_told_and_the_rest_is_looked_at(stored, places, unreadable, begin):
    async with statepath.open(stored, autosave=0) as store:
        await store.archive("raw", older_than="0s")
        await store.backup()
    keys = await places.keys(stored, begin)
    other = "reports/r.json" if begin != "reports/" else (await places.keys(stored, "state.backup."))[-1]
    async with statepath.open(stored, readonly=True) as reader:
        await places.write(stored, other, b"damaged")
        unreadable(reader, begin)
        found = await reader.verify()
    unread = {one.key for one in found if one.unread}
    assert unread
    assert unread <= set(keys)
    assert [one.severity for one in found if one.key == other] == ["damage"]
    assert {one.severity for one in found} == {"damage", "unavailable"}


async def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_is_looked_at(stored, places, monkeypatch):
    async with statepath.open(stored, autosave=0) as store:
        damaged = await store.backup()
    async with statepath.open(stored, readonly=True) as reader:
        await places.write(stored, damaged, b"damaged")
        backend = reader._engine.backend
        list_keys = backend.list_keys

        def fail(prefix, **options):
            if prefix == "reports/":
                raise UnavailableError("Input/output error")
            return list_keys(prefix, **options)

        monkeypatch.setattr(type(backend), "list_keys", staticmethod(fail))
        found = {one.key: one.severity for one in await reader.verify()}
    assert found == {"reports/": "unavailable", damaged: "damage"}


async def test_a_storage_that_does_not_answer_at_all_ends_it(stored, unreadable):
    async with statepath.open(stored, readonly=True) as reader:
        unreadable(reader, "")
        with pytest.raises(UnavailableError, match="Input/output error"):
            await reader.verify()


async def test_a_log_that_was_removed_is_not_missing_where_the_journal_cannot_be_read(path, monkeypatch):
    async def away(after):
        raise UnavailableError("no answer")
        yield

    async with statepath.open(path, autosave=0) as store:
        await store.append_log("gone", "text\n")
        await store.snapshot()
        await store.delete_log("gone")
        await store.flush()
        with monkeypatch.context() as patched:
            patched.setattr(store._engine.log, "read", away)
            found = await store.verify()
    assert [(one.key, one.severity) for one in found] == [("journal/", "unavailable")]


async def test_what_could_not_be_read_leaves_it_open_whether_the_damage_is_gone(stored, unreadable):
    async with statepath.open(stored, autosave=0) as store:
        store._engine.verified = False
        unreadable(store, "state.backup.")
        assert await store.verify()
        assert not store._engine.verified


async def test_a_view_that_cannot_be_read_hides_no_other(path, places, unreadable):
    async with statepath.open(path, autosave=0, views=True) as store:
        for name in "abc":
            await store.collection("tasks").put({"id": name})
    await places.write(path, "tasks/c.json", b"{")
    async with statepath.open(path, readonly=True, views=True) as reader:
        unreadable(reader, "tasks/a")
        found = {one.key: one.severity for one in await reader.verify() if one.severity != "notice"}
    assert found == {"tasks/a.json": "unavailable", "tasks/c.json": "damage"}


@pytest.mark.slow
async def test_a_flipped_bit_in_any_object_is_found(stored, places):
    """Also in a backup and in the middle of the journal, which opening the store does not read. Logs and reports have
    no checksum, and are compared with the history."""
    for key in await places.keys(stored):
        if key == "lock":
            continue
        data = await places.read(stored, key)
        for at in (2, len(data) // 2, len(data) - 3):
            damaged = bytearray(data)
            damaged[at] ^= 0x80
            await places.write(stored, key, bytes(damaged))
            found = await findings(stored)
            text = " ".join((*found, *found.values()))
            assert key.rpartition("/0")[0] in text or key in text or set(found) == {"journal/"}, (key, at)
        await places.write(stored, key, data)
    assert await damage(stored) == {}


async def test_an_object_that_is_missing_is_found(stored, places):
    for key in await places.keys(stored):
        if key.startswith("state.backup.") or key == "lock":
            continue  # nothing says that there was one
        data = await places.read(stored, key)
        await places.delete(stored, key)
        found = await findings(stored)
        assert found, key
        await places.write(stored, key, data)
    assert await damage(stored) == {}


@pytest.mark.everywhere
async def test_a_session_log_that_is_too_short_is_found(stored, places):
    key = (await places.keys(stored, "logs/"))[-1]
    await places.write(stored, key, (await places.read(stored, key))[:-1])
    ((found, reason),) = (await findings(stored)).items()
    assert found == "logs/session_s%2f1.log"
    assert "without a gap, and state.json says that it has 19" in reason


async def test_a_backup_of_another_history_is_found(stored, places):
    """It is whole, and of this incarnation; but the journal has another commit at its seq."""
    key = (await places.keys(stored, "state.backup."))[-1]
    data = await places.read(stored, key)
    shown = json.loads(data)
    commit = shown["_statepath"]["commit"]
    body, _, meta = data.rpartition(MARK)
    meta = meta.rpartition(b',"crc"')[0].replace(commit.encode(), b"f" * len(commit))
    await places.write(stored, key, b'%s%s%s,"crc":"%08x"}\n}\n' % (body, MARK, meta, crc32(meta)))
    assert await findings(stored) == {
        key: f"{key} shows seq {shown['seq']} of another history than the journal"
    }


async def test_a_commit_that_does_not_follow_is_found(stored, places):
    for key in await places.keys(stored, "journal/"):
        if not key.endswith(".jsonl"):
            continue
        lines = (await places.read(stored, key)).splitlines(keepends=True)
        commit = decode_commit(lines[0])
        if commit.first == 1 and len(lines) == 1:
            continue
        place = 0 if len(lines) == 1 else 3
        commit = decode_commit(lines[place])
        lines[place] = bytes(encode_commit(msgspec.structs.replace(commit, prev="0" * 24)))
        await places.write(stored, key, b"".join(lines))
        break
    assert set(await findings(stored)) & {"journal/", key}


@pytest.mark.everywhere
async def test_a_body_that_is_missing_is_found(path, places):
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a", "text": "x" * 9_000_000})
        await store.collection("raw").put({"id": "b"})
    (body,) = await places.keys(path, "bodies/")
    await places.delete(path, body)
    assert body in await findings(path)


async def test_a_snapshot_that_stands_in_its_file_twice_is_found(stored, places):
    """Each half is whole; opening the store would not take it."""
    key = (await places.keys(stored, "state.backup."))[-1]
    await places.write(stored, key, 2 * await places.read(stored, key))
    found = await findings(stored)
    assert list(found) == [key]
    assert found[key].startswith(f"{key} is damaged")


async def test_a_report_that_is_missing_is_found(stored, places):
    await places.delete(stored, "reports/r.json")
    assert await findings(stored) == {"reports/r.json": "reports/r.json is missing, and the history has it"}


async def test_a_report_to_which_an_editor_gave_a_byte_order_mark_is_read_and_no_damage(
    stored, places, elsewhere, tmp_path
):
    key, mark = "reports/r.json", b"\xef\xbb\xbf"
    await places.write(stored, key, mark + await places.read(stored, key))
    assert await findings(stored) == {}
    async with statepath.open(stored, readonly=True) as reader:
        assert await reader.read_report("r") == {"part": "third"}
        await reader.export(file := tmp_path / "file.zip")
    await statepath.import_backup(file, to := elsewhere.new())
    assert await damage(to) == {}
    await places.write(stored, key, mark + b'{"part": "fourth"}')
    assert await findings(stored) == {key: f"{key} is not what the history has"}


async def test_what_is_written_meanwhile_is_no_damage(path, monkeypatch):
    """The file of a report may be later than all that was read of the history."""
    async with statepath.open(path, autosave=0) as store:
        await store.save_report("r", 1)
        await store.append_log("s", "one\n")
        await store.snapshot()
        async with statepath.open(path, readonly=True) as reader:
            list_keys = reader._engine.backend.list_keys

            async def list_late(prefix, *, after=""):
                if prefix == "reports/":
                    await store.save_report("r", 2)
                    await store.append_log("s", "two\n")
                async for entry in list_keys(prefix, after=after):
                    yield entry

            monkeypatch.setattr(type(reader._engine.backend), "list_keys", staticmethod(list_late))
            assert await reader.verify() == []


async def test_a_backup_whose_end_is_summed_but_strange_is_damage(store, fill, places, path):
    await fill(store)
    (key, *_) = await store.backups()
    body, mark, end = (await places.read(path, key)).rpartition(MARK)
    meta = end.rpartition(b',"crc":"')[0].replace(b'"logs":', b'"l":')
    await places.write(path, key, b'%s%s%s,"crc":"%08x"}\n}\n' % (body, mark, meta, crc32(meta)))
    found = [one for one in await store.verify() if one.severity == "damage"]
    assert [one.key for one in found] == [key]
    assert "its last member is not what a snapshot has there" in found[0].reason
