"""Checks of the optional protocols: what is declared works, what is not declared is refused."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple, cast

import pytest

from statepath.backend import (
    IF_ABSENT,
    Backend,
    IfMatch,
    LazyWrite,
    SupportsAppend,
    SupportsCommitLog,
    SupportsCopy,
    SupportsDocuments,
    SupportsLazyWrites,
    SupportsQueries,
    SupportsSpace,
    SupportsStreams,
)
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    NotFoundError,
    ReadOnlyError,
    UnsupportedError,
)
from statepath.filters import F
from statepath.testing.conditions import LARGE
from statepath.testing.subject import Subject


class _Accelerator(NamedTuple):
    flag: str
    protocol: type
    call: Callable[[Any], object]
    writes: bool = True


_MOMENT = 1_700_000_000_123_456  # microseconds since 1970

_COMMIT_LOG = _Accelerator(
    "commit_log", SupportsCommitLog, lambda backend: backend.commit_log(), writes=False
)
_STREAMS = _Accelerator("streams", SupportsStreams, lambda backend: backend.write_stream("a", [b"A"]))
_APPEND = _Accelerator("append", SupportsAppend, lambda backend: backend.write_at("a", 0, b"A"))
_LAZY = _Accelerator(
    "lazy_writes", SupportsLazyWrites, lambda backend: backend.write_lazily([LazyWrite("a", b"A", _MOMENT)])
)
_COPY = _Accelerator("copy", SupportsCopy, lambda backend: backend.copy("source", "a"))
_SPACE = _Accelerator("space", SupportsSpace, lambda backend: backend.free_bytes(), writes=False)
_QUERIES = _Accelerator(
    "queries", SupportsQueries, lambda backend: backend.find("tasks", F("a") == "a", 0), writes=False
)
_DOCUMENTS = _Accelerator(
    "documents", SupportsDocuments, lambda backend: backend.read_documents([("tasks", "a")], 0), writes=False
)
_ALL = (_COMMIT_LOG, _STREAMS, _APPEND, _LAZY, _COPY, _SPACE, _QUERIES, _DOCUMENTS)


class AcceleratorChecks(Subject):
    async def test_what_is_declared_is_implemented(self) -> None:
        async with self.connection() as backend:
            for accelerator in _ALL:
                if getattr(backend.capabilities, accelerator.flag):
                    assert isinstance(backend, accelerator.protocol), f"{accelerator.flag} is not implemented"

    async def test_what_is_not_declared_is_refused(self) -> None:
        async with self.connection() as backend:
            await backend.write("source", b"A")
            for accelerator in _ALL:
                if not getattr(backend.capabilities, accelerator.flag):
                    await _check_refused(backend, accelerator)
            assert [entry.key async for entry in backend.list_keys("")] == ["source"]

    async def test_accelerators_keep_to_readonly_and_close(self) -> None:
        async with self.writer_and_reader() as (writer, reader):
            await writer.write("source", b"A")
            declared = [each for each in _ALL if each.writes and getattr(writer.capabilities, each.flag)]
            for accelerator in declared:
                with pytest.raises(ReadOnlyError):
                    await _call(reader, accelerator)
            assert [entry.key async for entry in reader.list_keys("")] == ["source"]
            await writer.close()
            for accelerator in declared:
                with pytest.raises(ClosedError):
                    await _call(writer, accelerator)

    async def test_a_stream_is_written_as_one_object(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.streams:
                await _check_refused(backend, _STREAMS)
                return
            streams = cast("SupportsStreams", backend)
            size = min(LARGE, backend.capabilities.max_object_bytes or LARGE)
            chunks = [b"x" * 70_000, b"", b"y", random.Random(1).randbytes(size - 70_001)]
            etag = await streams.write_stream("a", iter(chunks), when=IF_ABSENT)
            blob = await backend.read("a")
            # Compared outside of `assert`: pytest would take minutes to explain how so many bytes differ.
            whole = blob.data == b"".join(chunks)
            assert whole, "the object is not all chunks, one after the other"
            assert blob.etag == etag
            with pytest.raises(AlreadyExistsError):
                await streams.write_stream("a", [b"B"], when=IF_ABSENT)
            newer = await streams.write_stream("a", [b"B"], when=IfMatch(etag))
            with pytest.raises(ConflictError):
                await streams.write_stream("a", [b"C"], when=IfMatch(etag))
            blob = await backend.read("a")
            assert (blob.data, blob.etag) == (b"B", newer)
            await streams.write_stream("a", [])
            assert (await backend.read("a")).data == b""

    async def test_one_of_many_streams_wins(self) -> None:
        async with self.writers() as handles:
            if not handles[0].capabilities.streams:
                await _check_refused(handles[0], _STREAMS)
                return
            rest = bytes(min(LARGE, handles[0].capabilities.max_object_bytes or LARGE) - 1)
            etag = await handles[0].write("a", b"A")
            for key, when in (("a", IfMatch(etag)), ("new", IF_ABSENT)):
                outcomes = await asyncio.gather(
                    *(
                        cast("SupportsStreams", handles[turn % 2]).write_stream(
                            key, [b"%d" % turn, rest], when=when
                        )
                        for turn in range(3)
                    ),
                    return_exceptions=True,
                )
                won = [turn for turn, outcome in enumerate(outcomes) if isinstance(outcome, str)]
                assert len(won) == 1, outcomes
                blob = await handles[0].read(key)
                whole = blob.data == b"%d" % won[0] + rest
                assert whole, "what is stored is not the winner's"
                assert blob.etag == outcomes[won[0]]

    async def test_a_stream_that_breaks_leaves_what_was_there(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.streams:
                await _check_refused(backend, _STREAMS)
                return
            streams = cast("SupportsStreams", backend)
            await backend.write("a", b"A")
            for key in ("a", "new"):
                with pytest.raises(_BrokenError):
                    await streams.write_stream(key, _breaking())
            assert [entry.key async for entry in backend.list_keys("")] == ["a"]
            assert (await backend.read("a")).data == b"A"

    async def test_write_at_cuts_off_and_fills_gaps(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.append:
                await _check_refused(backend, _APPEND)
                return
            append = cast("SupportsAppend", backend)
            for offset, data, expected in (
                (0, b"one\n", b"one\n"),
                (4, b"two\n", b"one\ntwo\n"),
                (4, b"two\n", b"one\ntwo\n"),
                (8, b"three\n", b"one\ntwo\nthree\n"),
                (4, b"2\n", b"one\n2\n"),
                (9, b"end", b"one\n2\n\n\n\nend"),
                (0, b"", b""),
            ):
                await append.write_at("logs/a.log", offset, data)
                assert (await backend.read("logs/a.log")).data == expected
            await append.write_at("logs/new.log", 2, b"x")
            assert (await backend.read("logs/new.log")).data == b"\n\nx"
            text = b"a line\n" * 300_000
            await append.write_at("logs/new.log", 3, text)
            whole = (await backend.read("logs/new.log")).data == b"\n\nx" + text
            assert whole, "not all of a long text was written"

    async def test_write_at_leaves_what_follows_if_asked_to(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.append:
                await _check_refused(backend, _APPEND)
                return
            append = cast("SupportsAppend", backend)
            for offset, data, expected in (
                (4, b"two\n", b"\n\n\n\ntwo\n"),
                (0, b"one\n", b"one\ntwo\n"),
                (8, b"three\n", b"one\ntwo\nthree\n"),
                (4, b"2", b"one\n2wo\nthree\n"),
            ):
                await append.write_at("logs/a.log", offset, data, cut=False)
                assert (await backend.read("logs/a.log")).data == expected

    async def test_what_several_write_at_once_is_all_there(self) -> None:
        async with self.writers() as handles:
            if not handles[0].capabilities.append:
                await _check_refused(handles[0], _APPEND)
                return
            lines = [b"line %d\n" % number for number in range(8)]
            places = zip(itertools.accumulate(map(len, lines), initial=0), lines, strict=False)
            await asyncio.gather(
                *(
                    cast("SupportsAppend", handles[number % 2]).write_at(
                        "logs/a.log", offset, line, cut=False
                    )
                    for number, (offset, line) in enumerate(places)
                )
            )
            assert (await handles[0].read("logs/a.log")).data == b"".join(lines)

    async def test_write_at_changes_the_etag(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.append:
                await _check_refused(backend, _APPEND)
                return
            etag = await backend.write("a", b"A")
            await cast("SupportsAppend", backend).write_at("a", 1, b"B")
            assert (await backend.read("a")).etag != etag
            with pytest.raises(ConflictError):
                await backend.write("a", b"C", when=IfMatch(etag))

    async def test_lazy_writes_replace_and_remove(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.lazy_writes:
                await _check_refused(backend, _LAZY)
                return
            lazy = cast("SupportsLazyWrites", backend)
            await backend.write("tasks/old", b"old")
            stale = await backend.write("tasks/a", b"old")
            written = (
                ("tasks/a", b"A"),
                ("tasks/b", b"B"),
                ("tasks/old", None),
                ("never/there", None),
                ("new/c", b""),
            )
            await lazy.write_lazily(LazyWrite(key, data, _MOMENT) for key, data in written)
            found = [(entry.key, entry.size) async for entry in backend.list_keys("")]
            assert found == [("new/c", 0), ("tasks/a", 1), ("tasks/b", 1)]
            assert (await backend.read("tasks/a")).data == b"A"
            with pytest.raises(ConflictError):
                await backend.write("tasks/a", b"C", when=IfMatch(stale))
            await lazy.write_lazily([])

    async def test_many_lazy_writes_are_all_made(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.lazy_writes:
                await _check_refused(backend, _LAZY)
                return
            lazy = cast("SupportsLazyWrites", backend)
            names = [f"tasks/{number:04d}" for number in range(2 * self.page + 23)]
            await lazy.write_lazily(LazyWrite(name, name.encode(), _MOMENT) for name in names)
            assert [entry.key async for entry in backend.list_keys("")] == names
            assert (await backend.read(names[-1])).data == names[-1].encode()

    async def test_a_lazy_write_has_the_time_it_was_given(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.lazy_writes:
                await _check_refused(backend, _LAZY)
                return
            lazy = cast("SupportsLazyWrites", backend)
            await lazy.write_lazily([LazyWrite("a", b"A", _MOMENT), LazyWrite("b", b"B", _MOMENT + 1)])
            times = [round(entry.modified * 1e6) async for entry in backend.list_keys("")]
            assert times == [_MOMENT, _MOMENT + 1]
            await backend.write("a", b"A")
            times = [round(entry.modified * 1e6) async for entry in backend.list_keys("")]
            assert times[0] != _MOMENT
            assert times[1] == _MOMENT + 1

    async def test_a_lazy_write_leaves_what_is_later_and_to_be_kept(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.lazy_writes:
                await _check_refused(backend, _LAZY)
                return
            lazy = cast("SupportsLazyWrites", backend)
            await lazy.write_lazily(LazyWrite(key, key.encode(), _MOMENT) for key in "abcd")
            asked: dict[str, bytes] = {}

            def keep(key: str, data: bytes) -> bool:
                asked[key] = data
                return key in "ab"

            changes = [("a", b"A", -1), ("b", None, -1), ("c", b"C", -1), ("d", b"D", 0), ("e", b"E", -1)]
            await lazy.write_lazily(
                (LazyWrite(key, data, _MOMENT + behind) for key, data, behind in changes), keep=keep
            )
            assert asked == {"a": b"a", "b": b"b", "c": b"c"}
            found = {entry.key: (await backend.read(entry.key)).data async for entry in backend.list_keys("")}
            assert found == {"a": b"a", "b": b"b", "c": b"C", "d": b"D", "e": b"E"}

    async def test_a_copy_is_an_object_of_its_own(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.copy:
                await _check_refused(backend, _COPY)
                return
            copier = cast("SupportsCopy", backend)
            size = min(LARGE, backend.capabilities.max_object_bytes or LARGE)
            data = random.Random(1).randbytes(size)
            etag = await backend.write("state.json", data)
            stale = await backend.write("target", b"old")
            copies = {key: await copier.copy("state.json", key) for key in ("target", "folder/new")}
            await backend.write("state.json", b"B", when=IfMatch(etag))
            for key, copied in copies.items():
                blob = await backend.read(key)
                whole = blob.data == data
                assert whole, "the copy is not what the object was"
                assert blob.etag == copied, "the copy has another version than was told"
            with pytest.raises(ConflictError):
                await backend.write("target", b"C", when=IfMatch(stale))
            with pytest.raises(NotFoundError):
                await copier.copy("missing", "target")
            left = (await backend.read("target")).data == data
            assert left, "a copy of what is missing has changed its target"

    async def test_a_copy_is_of_the_version_that_was_asked_for(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.copy:
                await _check_refused(backend, _COPY)
                return
            copier = cast("SupportsCopy", backend)
            stale = await backend.write("state.json", b"A")
            current = await backend.write("state.json", b"B")
            kept = await backend.write("target", b"kept")
            for target in ("target", "new"):
                with pytest.raises(ConflictError):
                    await copier.copy("state.json", target, when=IfMatch(stale))
                with pytest.raises(NotFoundError):
                    await copier.copy("missing", target, when=IfMatch(current))
            blob = await backend.read("target")
            assert (blob.data, blob.etag) == (b"kept", kept), "a copy that was refused has changed its target"
            assert [entry.key async for entry in backend.list_keys("")] == ["state.json", "target"]
            copied = await copier.copy("state.json", "target", when=IfMatch(current))
            blob = await backend.read("target")
            assert (blob.data, blob.etag) == (b"B", copied)

    async def test_what_is_replaced_meanwhile_is_not_copied(self) -> None:
        async with self.writers() as (one, other):
            if not one.capabilities.copy:
                await _check_refused(one, _COPY)
                return
            copier = cast("SupportsCopy", one)
            for turn in range(10):
                etag = await one.write("state.json", b"A %d" % turn)
                await one.write("target", b"kept")
                copied, _ = await asyncio.gather(
                    copier.copy("state.json", "target", when=IfMatch(etag)),
                    other.write("state.json", b"B %d" % turn),
                    return_exceptions=True,
                )
                expected = b"kept" if isinstance(copied, ConflictError) else b"A %d" % turn
                stored = (await other.read("target")).data
                assert stored == expected, f"turn {turn}: {copied!r}, and the target holds {stored!r}"

    async def test_free_space_is_a_number_of_bytes(self) -> None:
        async with self.connection() as backend:
            if not backend.capabilities.space:
                await _check_refused(backend, _SPACE)
                return
            free = await cast("SupportsSpace", backend).free_bytes()
            assert type(free) is int
            assert free >= 0


class _BrokenError(Exception):
    pass


def _breaking() -> Iterator[bytes]:
    yield b"x" * 100_000
    raise _BrokenError


async def _call(backend: Backend, accelerator: _Accelerator) -> None:
    result = accelerator.call(backend)
    if isinstance(result, Awaitable):
        await result


async def _check_refused(backend: Backend, accelerator: _Accelerator) -> None:
    if isinstance(backend, accelerator.protocol):
        with pytest.raises(UnsupportedError):
            await _call(backend, accelerator)
