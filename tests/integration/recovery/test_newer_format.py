"""A store that a newer program wrote is refused, and nothing of it is changed."""

from __future__ import annotations

import json
from typing import Any
from zlib import crc32

import pytest
from statepath.commit import seal
from statepath.engine.snapshot import read_meta
from statepath.errors import UnsupportedError
from statepath.repairing import repair
from statepath.settings import Settings


def newer_floor(data: bytes) -> bytes:
    record = json.loads(data)
    del record["crc"]
    return bytes(seal(record | {"min_reader": 2, "shards": 4}))


def trimmed_floor(data: bytes) -> bytes:
    record = json.loads(data)
    del record["crc"]
    return bytes(seal(record | {"floor": 2}))


def newer_commit(line: bytes) -> bytes:
    record = json.loads(line)
    del record["crc"]
    return bytes(seal(record | {"min_reader": 2, "transactions": [[{"op": "rename", "to": "x"}]]}))


def newer_snapshot(data: bytes) -> bytes:
    mark = b'\n"_statepath":'
    body, _, end = data.rpartition(mark)
    meta = end.rpartition(b',"crc":"')[0].replace(b'"min_reader":1', b'"min_reader":2')
    return b'%s%s%s,"crc":"%08x"}\n}\n' % (body, mark, meta, crc32(meta))


@pytest.fixture(params=[True, False], ids=["reading", "writing"])
def readonly(request: pytest.FixtureRequest) -> bool:
    return request.param


async def refused(place: Any, *, readonly: bool) -> None:
    before = place.tree()
    with pytest.raises(UnsupportedError) as caught:
        await place.open(readonly=readonly)
    assert caught.value.code == "newer_format"
    assert "update" in str(caught.value) or "upgrade" in str(caught.value)
    assert place.tree() == before


async def test_by_its_floor(stored, readonly):
    place, _ = stored
    place.write("journal/floor", newer_floor(place.read("journal/floor")))
    await refused(place, readonly=readonly)


async def test_by_its_snapshot(stored, readonly):
    place, _ = stored
    place.write("state.json", newer_snapshot(place.read("state.json")))
    with pytest.raises(UnsupportedError):
        read_meta(place.read("state.json"), "state.json")
    await refused(place, readonly=readonly)


async def test_by_a_backup_that_is_needed(stored, readonly):
    place, _ = stored
    place.remove("state.json")
    newest = place.names("state.backup.")[-1]
    place.write(newest, newer_snapshot(place.read(newest)))
    await refused(place, readonly=readonly)


async def test_by_its_last_commit(stored, readonly):
    place, _ = stored
    name = place.names("journal/0")[-1]
    *lines, last = place.read(name).rstrip(b" ").splitlines(keepends=True)
    place.write(name, b"".join(lines) + newer_commit(last))
    place.remove("state.json")
    await refused(place, readonly=readonly)


async def test_by_its_last_commit_where_no_snapshot_is_left(stored, readonly):
    place, _ = stored
    name = place.names("journal/0")[-1]
    *lines, last = place.read(name).rstrip(b" ").splitlines(keepends=True)
    place.write(name, b"".join(lines) + newer_commit(last))
    place.write("journal/floor", trimmed_floor(place.read("journal/floor")))
    for snapshot in place.names("state."):
        place.remove(snapshot)
    await refused(place, readonly=readonly)


async def test_a_backup_of_a_newer_program_is_no_damage_and_hides_none(stored):
    place, _ = stored
    async with place.open():
        pass
    newest = place.names("state.backup.")[-1]
    place.write(newest, newer_snapshot(place.read(newest)))
    place.write("reports/r.json", b"{")
    before = place.tree()
    async with place.open(readonly=True) as store:
        found = await store.verify()
    assert {(one.key, one.severity) for one in found} == {(newest, "newer"), ("reports/r.json", "damage")}
    with pytest.raises(UnsupportedError, match=newest) as caught:
        await repair(place.url, settings=Settings())
    assert caught.value.code == "newer_format"
    assert place.tree() == before
