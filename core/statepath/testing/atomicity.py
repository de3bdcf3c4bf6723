"""Checks that a write is seen whole or not at all, by everybody, and stays."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from statepath.backend import ALWAYS, IF_ABSENT, Backend, ETag, IfMatch, Span, When
from statepath.errors import ConflictError, NotFoundError
from statepath.testing.meanwhile import meanwhile
from statepath.testing.subject import Subject

_LARGE = 300_000
_WRITES = 25
_STEPS = 12


class AtomicityChecks(Subject):
    async def test_a_connection_sees_what_another_wrote(self) -> None:
        async with self.writer_and_reader() as (writer, reader):
            for data in (b"A", b"BB", b""):
                etag = await writer.write("tasks/a", data)
                blob = await reader.read("tasks/a")
                assert (blob.data, blob.etag) == (data, etag)
                assert [(entry.key, entry.size) async for entry in reader.list_keys("")] == [
                    ("tasks/a", len(data))
                ]
            await writer.delete("tasks/a")
            assert [entry.key async for entry in reader.list_keys("")] == []

    async def test_a_finished_write_is_in_the_storage(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            for data in (b"A", b"BB"):
                await backend.write("tasks/a.json", data)
                assert await self.raw_read(path, "tasks/a.json") == data
            await backend.delete("tasks/a.json")
            assert await self.raw_read(path, "tasks/a.json") is None

    async def test_what_is_in_the_storage_is_read(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            etag = await backend.write("tasks/a.json", b"ours")
        await self.raw_write(path, "tasks/a.json", b"theirs")
        await self.raw_write(path, "tasks/b.json", b"new")
        async with self.connection(path) as backend:
            assert (await backend.read("tasks/a.json")).data == b"theirs"
            assert (await backend.read("tasks/b.json")).data == b"new"
            with pytest.raises(ConflictError):
                await backend.write("tasks/a.json", b"ours again", when=IfMatch(etag))
            assert [entry.key async for entry in backend.list_keys("tasks/")] == [
                "tasks/a.json",
                "tasks/b.json",
            ]

    async def test_an_object_outlives_the_connection(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            etag = await backend.write("a", b"A")
            await backend.write("b", b"B")
            await backend.delete("b")
        async with self.connection(path) as backend:
            blob = await backend.read("a")
            assert (blob.data, blob.etag) == (b"A", etag)
            assert [entry.key async for entry in backend.list_keys("")] == ["a"]
            await backend.write("a", b"C", when=IfMatch(etag))

    async def test_no_reader_sees_a_part_of_a_write(self) -> None:
        async with self.writer_and_reader() as (writer, reader):
            values = {ETag(""): b""}
            first = await writer.write("a", b"0" * _LARGE)
            values[first] = b"0" * _LARGE
            seen: list[tuple[ETag, bytes]] = []
            spans: list[tuple[ETag, bytes]] = []

            async def write() -> None:
                for turn in range(1, _WRITES):
                    data = str(turn % 10).encode() * (_LARGE // turn)
                    values[await writer.write("a", data)] = data
                    await asyncio.sleep(0)

            async def read(backend: Backend, writing: asyncio.Task[None]) -> None:
                while not writing.done():
                    blob = await backend.read("a")
                    seen.append((blob.etag, blob.data))
                    blob = await backend.read("a", span=Span(9, 99_999))
                    spans.append((blob.etag, blob.data))
                    await asyncio.sleep(0)

            async with meanwhile(write()) as writing:
                await asyncio.gather(*(read(backend, writing) for backend in (writer, reader, reader)))
            for found, part in ((seen, slice(None)), (spans, slice(9, 99_999))):
                for etag, data in found:
                    assert etag in values, "a reader saw a version that nobody wrote"
                    whole = data == values[etag][part]
                    assert whole, "a reader saw other bytes than were written as that version"

    async def test_a_write_that_is_abandoned_is_whole_or_absent(self) -> None:
        for condition in ("always", "create", "replace"):
            await self._abandon(condition)

    async def _abandon(self, condition: str) -> None:
        """Each step in turn: an object of its own, whose write is given up a step later than the one before."""
        path = self.new_store()
        old, new = b"old" * 1000, b"the new one" * 20_000
        allowed: set[bytes | None] = {None if condition == "create" else old, new}
        names = [f"a/{step:02d}" for step in range(_STEPS)]
        async with self.connection(path) as backend:
            for step, name in enumerate(names):
                when: When = IF_ABSENT if condition == "create" else ALWAYS
                if condition != "create":
                    etag = await backend.write(name, old)
                    when = IfMatch(etag) if condition == "replace" else ALWAYS
                writing = asyncio.ensure_future(backend.write(name, new, when=when))
                for _ in range(step):
                    await asyncio.sleep(0)
                writing.cancel()
                with suppress(asyncio.CancelledError):
                    await writing
                assert await _data(backend, name) in allowed
                await backend.write("b", b"B%d" % step)
                assert (await backend.read("b")).data == b"B%d" % step
        async with self.connection(path) as backend:
            before = {name for name in names if await _data(backend, name) is not None}
            *listed, last = [entry.key async for entry in backend.list_keys("")]
            found = {name: await _data(backend, name) for name in names}
            assert set(found.values()) <= allowed
            assert last == "b"
            assert listed == sorted(listed)
            # What was abandoned may arrive in between.
            assert before <= set(listed) <= {name for name in names if found[name] is not None}

    async def test_a_read_that_is_abandoned_harms_no_other(self) -> None:
        async with self.connection() as backend:
            await backend.write("a", b"A" * _LARGE)
            await backend.write("b", b"B")
            for step in range(_STEPS):
                reading = asyncio.ensure_future(backend.read("a"))
                for _ in range(step):
                    await asyncio.sleep(0)
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading
                assert (await backend.read("b")).data == b"B"

    async def test_calls_at_once_do_not_mix(self) -> None:
        async with self.writers() as handles:

            async def one(number: int) -> None:
                backend, key = handles[number % 2], f"tasks/{number:03d}"
                for turn in range(3):
                    data = f"{number}-{turn}".encode() * 50
                    etag = await backend.write(key, data)
                    blob = await backend.read(key)
                    assert (blob.data, blob.etag) == (data, etag)
                if number % 3 == 0:
                    assert await backend.delete(key)

            await asyncio.gather(*(one(number) for number in range(30)))
            listed = [entry.key async for entry in handles[0].list_keys("")]
            assert listed == [f"tasks/{number:03d}" for number in range(30) if number % 3]

    async def test_a_replace_after_an_abandoned_one_is_decided(self) -> None:
        async with self.connection() as backend:
            etag = await backend.write("a", b"0")
            writing = asyncio.ensure_future(backend.write("a", b"1", when=IfMatch(etag)))
            await asyncio.sleep(0)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            try:
                await backend.write("a", b"2", when=IfMatch(etag))
            except ConflictError:
                assert await _data(backend, "a") == b"1"
            else:
                assert await _data(backend, "a") == b"2"


async def _data(backend: Backend, key: str) -> bytes | None:
    try:
        return (await backend.read(key)).data
    except NotFoundError:
        return None
