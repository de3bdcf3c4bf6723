"""Checks of single objects: bytes, spans, ETags and keys."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime, timedelta

import pytest

from statepath.backend import IF_ABSENT, Backend, Span
from statepath.errors import InvalidArgumentError, NotFoundError
from statepath.testing.subject import Subject

KEY_CHARACTERS = string.ascii_letters + string.digits + "._-~%"

AWKWARD_KEYS = (
    KEY_CHARACTERS,
    *(f"first/{char}x" for char in KEY_CHARACTERS),
    *(f"last/x{char}" for char in KEY_CHARACTERS),
    "twins/Task.json",
    "twins/task.json",
    "TWINS/task.json",
    "names/...",
    "names/.hidden",
    "names/trailing.",
    "names/-",
    "names/~",
    "names/%",
    "names/%2F",
    "names/%2f",
    "names/%00",
    "names/%2e%2e",
    "names/CON",
    "names/aux.json",
    "names/x.tmp",
    "names/x.json",
    "names/x.json.tmp",
    "names/x.json~",
    "deep/" + "/".join("abcdefghijklmnopqrstuvwxyz"),
    "long/" + "/".join(("n" * 200, "m" * 200, "o" * 105)),
    "0",
    "state.json",
    "state.backup.2026-01-02T03:04:05Z.json".replace(":", "%3A"),
)
"""Keys that the protocol allows, and that some storage or some code gets wrong."""

_LARGE = 5 * 1024 * 1024 + 1
_OFF = timedelta(minutes=15)  # no service takes the requests of a clock that is further from its own
_LARGEST_TRIED = 64 * 1024 * 1024


class ObjectChecks(Subject):
    async def test_what_is_written_is_read(self) -> None:
        async with self.connection() as backend:
            data = bytes(range(256)) * 3
            etag = await backend.write("tasks/a.json", data)
            blob = await backend.read("tasks/a.json")
            assert blob.data == data
            assert blob.etag == etag
            assert type(blob.data) is bytes
            assert isinstance(etag, str)

    async def test_a_write_replaces_the_whole_object(self) -> None:
        async with self.connection() as backend:
            for data in (b"a long first value", b"short", b"", b"a longer value than all before"):
                await backend.write("a", data)
                assert (await backend.read("a")).data == data

    async def test_an_empty_object_exists(self) -> None:
        async with self.connection() as backend:
            await backend.write("empty", b"", when=IF_ABSENT)
            assert (await backend.read("empty")).data == b""
            assert (await backend.read("empty", span=Span(0))).data == b""
            assert [entry.size async for entry in backend.list_keys("")] == [0]
            assert await backend.delete("empty") is True

    async def test_a_large_object_is_whole(self) -> None:
        async with self.connection() as backend:
            limit = backend.capabilities.max_object_bytes
            data = random.Random(1).randbytes(_LARGE if limit is None else min(_LARGE, limit))
            await backend.write("large", data)
            whole = (await backend.read("large")).data == data
            assert whole, "a large object is not read as it was written"
            assert (await backend.read("large", span=Span(len(data) - 9))).data == data[-9:]

    async def test_an_object_over_the_limit_is_refused(self) -> None:
        async with self.connection() as backend:
            limit = backend.capabilities.max_object_bytes
            if limit is None or limit > _LARGEST_TRIED:
                return
            with pytest.raises(InvalidArgumentError):
                await backend.write("large", bytes(limit + 1))
            assert await _missing(backend, "large")

    async def test_a_missing_object_is_not_found(self) -> None:
        async with self.connection() as backend:
            await backend.write("tasks/there", b"x")
            for key in ("tasks/missing", "tasks/ther", "tasks/there2", "missing/there", "tasks"):
                assert await _missing(backend, key)
            await backend.delete("tasks/there")
            assert await _missing(backend, "tasks/there")

    async def test_a_span_is_the_slice(self) -> None:
        async with self.connection() as backend:
            data = bytes(range(100))
            etag = await backend.write("a", data)
            for start, stop in (
                (0, None),
                (0, 1),
                (0, 100),
                (1, 99),
                (99, None),
                (99, 100),
                (40, 60),
                (60, 1000),
                (100, None),
                (100, 200),
                (5000, None),
                (7, 7),
                (0, 0),
            ):
                blob = await backend.read("a", span=Span(start, stop))
                assert blob.data == data[start:stop], f"span {start} to {stop}"
                assert type(blob.data) is bytes
                assert blob.etag == etag

    async def test_a_span_of_a_missing_object_is_not_found(self) -> None:
        async with self.connection() as backend:
            with pytest.raises(NotFoundError):
                await backend.read("missing", span=Span(0, 10))

    async def test_every_write_has_its_own_etag(self) -> None:
        async with self.connection() as backend:
            seen = [await backend.write("a", data) for data in (b"A", b"B", b"A", b"A", b"")]
            await backend.delete("a")
            seen += [await backend.write("a", data) for data in (b"A", b"B")]
            assert len(set(seen)) == len(seen)

    async def test_reading_leaves_the_etag(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"A")
            await backend.write("b", b"B")
            assert [(await backend.read("a")).etag for _ in range(3)] == [etag] * 3

    async def test_modified_is_in_utc(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"A")
            modified = (await backend.read("a")).modified
            assert modified.utcoffset() == timedelta(0)
            off = abs(modified - datetime.now(UTC))
            assert off < _OFF, (
                f"what was just written was written at {modified}; is that another zone's time?"
            )

    async def test_delete_tells_whether_there_was_an_object(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"A")
            await backend.write("b", b"B")
            assert await backend.delete("a") is True
            assert await backend.delete("a") is False
            assert await backend.delete("never/there") is False
            assert [entry.key async for entry in backend.list_keys("")] == ["b"]

    async def test_keys_are_kept_as_they_are(self) -> None:
        async with self.connection() as backend:
            for key in AWKWARD_KEYS:
                await backend.write(key, key.encode(), when=IF_ABSENT)
            for key in AWKWARD_KEYS:
                assert (await backend.read(key)).data == key.encode()
            assert [entry.key async for entry in backend.list_keys("")] == sorted(AWKWARD_KEYS)
            for key in AWKWARD_KEYS:
                assert await backend.delete(key)
            assert [entry.key async for entry in backend.list_keys("")] == []


async def _missing(backend: Backend, key: str) -> bool:
    try:
        await backend.read(key)
    except NotFoundError:
        return True
    return False
