"""Checks of connections: read-only ones, exclusive ones, closed ones, and the errors they raise."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, cast

import pytest

from statepath.backend import IF_ABSENT, ETag, IfMatch, SupportsSharing
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    NotFoundError,
    ReadOnlyError,
    StateError,
    StoreLockedError,
)
from statepath.testing.commits import commit_log
from statepath.testing.patience import soon
from statepath.testing.subject import Subject

_AT_ONCE = 4
_STEPS = 12
_MANY = 8
_ROUNDS = 5
"""In so many a pool of threads that all connections share has grown to its end, which Python's has at 32."""
_LARGE = 300_000


class LifecycleChecks(Subject):
    async def test_a_reading_connection_refuses_changes(self) -> None:
        async with self.writer_and_reader() as (writer, reader):
            etag = await writer.write("a", b"A")
            changes: tuple[Callable[[], Awaitable[object]], ...] = (
                lambda: reader.write("a", b"B"),
                lambda: reader.write("a", b"B", when=IfMatch(etag)),
                lambda: reader.write("a", b"B", when=IF_ABSENT),
                lambda: reader.write("new", b"B", when=IF_ABSENT),
                lambda: reader.delete("a"),
                lambda: reader.delete("a", when=IfMatch(etag)),
                lambda: reader.delete("missing"),
            )
            for change in changes:
                with pytest.raises(ReadOnlyError):
                    await change()
            assert [entry.key async for entry in writer.list_keys("")] == ["a"]
            assert (await reader.read("a")).data == b"A"

    async def test_a_reading_connection_creates_nothing(self) -> None:
        path = self.new_store()
        before = sorted(self.root.rglob("*"))
        async with self.connection(path, readonly=True) as reader:
            assert [entry.key async for entry in reader.list_keys("")] == []
            with pytest.raises(NotFoundError):
                await reader.read("state.json")
        assert sorted(self.root.rglob("*")) == before

    async def test_a_reading_connection_sees_what_comes_later(self) -> None:
        path = self.new_store()
        async with self.connection(path, readonly=True) as reader:
            async with self.connection(path) as writer:
                await writer.write("tasks/a", b"A")
                assert (await reader.read("tasks/a")).data == b"A"
            assert [entry.key async for entry in reader.list_keys("")] == ["tasks/a"]

    async def test_a_second_writer_is_admitted_or_told_who_writes(self) -> None:
        path = self.new_store()
        async with self.connection(path) as first:
            if not first.capabilities.exclusive:
                async with self.connection(path) as second:
                    await second.write("a", b"A")
                assert (await first.read("a")).data == b"A"
                return
            with pytest.raises(StoreLockedError) as caught:
                await self.factory.connect(self.config(path))
            assert caught.value.holder, "the error does not name the holder"
            await first.write("a", b"A")
        async with self.connection(path) as second:
            assert (await second.read("a")).data == b"A"

    async def test_of_several_that_make_a_store_at_once_each_is_admitted_or_refused(self) -> None:
        config = self.config(self.new_store())
        outcomes = await asyncio.gather(
            *(self.factory.connect(config) for _ in range(_AT_ONCE)), return_exceptions=True
        )
        admitted = [one for one in outcomes if not isinstance(one, BaseException)]
        try:
            refused = [one for one in outcomes if isinstance(one, BaseException)]
            assert admitted, refused
            alone = admitted[0].capabilities.exclusive
            assert len(admitted) == (1 if alone else _AT_ONCE), refused
            assert all(isinstance(one, StoreLockedError) for one in refused), refused
            for number, backend in enumerate(admitted):
                await backend.write(f"{number}", b"x")
            for backend in admitted:
                listed = [entry.key async for entry in backend.list_keys("")]
                assert listed == [f"{number}" for number in range(len(admitted))]
        finally:
            for backend in admitted:
                await backend.close()

    async def test_a_connection_that_is_given_up_keeps_nobody_out(self) -> None:
        path = self.new_store()
        for step in range(_STEPS):
            connecting = asyncio.ensure_future(self.factory.connect(self.config(path)))
            for _ in range(step):
                await asyncio.sleep(0)
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await (await connecting).close()
            async with self.connection(path) as backend:
                await backend.write("turn", b"%d" % step)

    async def test_two_stores_have_nothing_in_common(self) -> None:
        async with self.connection() as one, self.connection() as other:
            await one.write("a", b"A")
            etag = await other.write("a", b"B", when=IF_ABSENT)
            await other.write("b", b"B")
            assert (await one.read("a")).data == b"A"
            assert [entry.key async for entry in one.list_keys("")] == ["a"]
            await one.delete("a")
            assert (await other.read("a")).etag == etag

    async def test_who_has_the_store_alone_may_let_others_in(self) -> None:
        path = self.new_store()
        async with self.connection(path) as first:
            if not first.capabilities.sharing:
                return
            one = cast("SupportsSharing", first)
            assert not one.joined
            assert await one.is_alone()
            await one.announce()
            waiting = asyncio.ensure_future(self.factory.connect(self.config(path)))
            await first.write("a", b"A")
            await one.share()
            second = await waiting
            try:
                other = cast("SupportsSharing", second)
                assert other.joined
                assert not await one.is_alone()
                assert not await other.is_alone()
                assert isinstance(other.refusal("for itself"), StoreLockedError)
                await second.write("b", b"B")
                assert (await first.read("b")).data == b"B"
                assert await one.maintain()
                assert not await other.maintain()
                await first.close()
                assert await other.maintain()
            finally:
                await second.close()

    async def test_a_closed_connection_refuses_everything(self) -> None:
        for readonly in (False, True):
            path = self.new_store()
            async with self.connection(path) as writer:
                await writer.write("a", b"A")
            async with self.connection(path, readonly=readonly) as backend:
                await backend.close()
                await backend.close()
                with pytest.raises(ClosedError):
                    await backend.read("a")
                with pytest.raises(ClosedError):
                    await backend.write("a", b"B")
                with pytest.raises(ClosedError):
                    await backend.write("a", b"B", when=IF_ABSENT)
                with pytest.raises(ClosedError):
                    await backend.delete("a")
                with pytest.raises(ClosedError):
                    _ = [entry async for entry in backend.list_keys("")]
            assert await self.raw_read(path, "a") == b"A"

    async def test_closing_one_connection_leaves_the_other(self) -> None:
        async with self.writer_and_reader() as (writer, reader):
            await writer.write("a", b"A")
            await writer.close()
            assert (await reader.read("a")).data == b"A"
            assert [entry.key async for entry in reader.list_keys("")] == ["a"]

    async def test_a_connection_may_be_closed_while_calls_are_under_way(self) -> None:
        for readonly in (False, True):
            path = self.new_store()
            async with self.connection(path) as writer:
                for key in ("a", "b"):
                    await writer.write(key, b"A" * _LARGE)
            async with self.connection(path, readonly=readonly) as backend:
                listing = cast("Any", backend.list_keys(""))
                following = cast("Any", commit_log(backend).follow(0))
                async with aclosing(listing), aclosing(following):
                    assert (await soon(anext(listing))).key == "a"
                    calls: list[Awaitable[object]] = [backend.read("a"), anext(following)]
                    if not readonly:
                        calls += [backend.write("b", b"B"), backend.write("c", b"C", when=IF_ABSENT)]
                    under_way = asyncio.gather(*calls, return_exceptions=True)
                    await asyncio.sleep(0)
                    try:
                        await soon(backend.close())
                        outcomes = await soon(under_way)
                    finally:
                        under_way.cancel()
                        await asyncio.wait([under_way])
                    for outcome in outcomes:
                        told = not isinstance(outcome, BaseException) or isinstance(outcome, StateError)
                        assert told, repr(outcome)
                    with suppress(ClosedError):
                        assert [entry.key async for entry in listing][:1] in (["b"], [])

    async def test_an_error_names_its_key_and_can_be_pickled(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            stale = await backend.write("folder/a", b"A")
            await backend.write("folder/a", b"B")
            await _check_error(NotFoundError, "folder/x", lambda: backend.read("folder/x"))
            await _check_error(
                AlreadyExistsError, "folder/a", lambda: backend.write("folder/a", b"", when=IF_ABSENT)
            )
            await _check_error(
                ConflictError, "folder/a", lambda: backend.write("folder/a", b"", when=IfMatch(stale))
            )
            await _check_error(
                ConflictError, "folder/a", lambda: backend.delete("folder/a", when=IfMatch(ETag(stale)))
            )
        await _check_error(ClosedError, "folder/a", lambda: backend.read("folder/a"))
        async with self.connection(path, readonly=True) as reader:
            await _check_error(ReadOnlyError, "folder/a", lambda: reader.write("folder/a", b""))

    async def test_many_connections_come_and_go(self) -> None:
        path = self.new_store()
        for turn in range(10):
            async with self.connection(path) as backend:
                await backend.write("turn", str(turn).encode())
        assert await self.raw_read(path, "turn") == b"9"

    async def test_connections_that_were_closed_leave_nothing_behind(self) -> None:
        path = self.new_store()

        async def come_and_go() -> None:
            for readonly in (False, True):
                async with self.connection(path, readonly=readonly) as backend:
                    if not readonly:
                        await backend.write("a", b"A")
                    assert [entry.key async for entry in backend.list_keys("")] == ["a"]

        def left() -> dict[str, int]:
            return {what: number for what, number in (_held() - before).items() if number >= _MANY}

        async def ended() -> None:
            while left():  # noqa: ASYNC110 - nothing tells when a thread has ended
                await asyncio.sleep(0.01)

        await come_and_go()  # what the first one needs may stay for all
        for _ in range(_ROUNDS):
            before = _held()
            for _ in range(_MANY):
                await come_and_go()
            if not left():
                return
        try:
            await soon(ended())
        except TimeoutError:
            pytest.fail(f"{2 * _MANY} connections that were closed have left behind {left()}")


def _held() -> Counter[str]:
    """What this process has."""
    held = Counter(threads=threading.active_count(), tasks=len(asyncio.all_tasks()))
    with suppress(OSError):  # not every system tells of files
        held["open files"] = len(os.listdir("/dev/fd"))
    return held


async def _check_error(kind: type[StateError], key: str, call: Callable[[], Awaitable[object]], /) -> None:
    with pytest.raises(kind) as caught:
        await call()
    error = caught.value
    assert error.key == key
    assert error.code == kind.default_code
    assert str(error)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (type(copy), str(copy), copy.__dict__) == (type(error), str(error), error.__dict__)
