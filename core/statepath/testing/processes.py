"""Checks that what holds between two connections of a process holds between two processes, too."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import aclosing, asynccontextmanager, suppress
from functools import cache
from typing import Any, TypeVar, cast

import pytest

from statepath.backend import IF_ABSENT, Backend, BackendFactory, CommitLog, ETag, IfMatch, StateURL
from statepath.errors import (
    AlreadyExistsError,
    HeadMoved,
    NotFoundError,
    StateError,
    StoreLockedError,
)
from statepath.testing.commits import Writer, commit_log
from statepath.testing.conditions import add_token
from statepath.testing.meanwhile import meanwhile
from statepath.testing.patience import AT_MOST, soon
from statepath.testing.subject import Subject, admits_others

T = TypeVar("T")

_TOKENS = 10
_SLOTS = 25
_COMMITS = 8
_LARGE = 300_000
_WRITES = 20
_STAYS = [f"stay/{number}" for number in range(5)]
_BRIEFLY = 0.05  # seconds


class ProcessChecks(Subject):
    async def test_another_process_sees_the_same_objects(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.shared:
                return
            etag = await backend.write("tasks/a", b"A")
            await backend.write("b", b"B")
            assert await self._elsewhere(_look, path, readonly=True) == (b"A", etag, ["b", "tasks/a"])

    async def test_what_another_process_changes_is_seen_by_who_had_looked(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.shared:
                return
            await backend.write("tasks/a", b"before")
            await backend.write("tasks/gone", b"x")
        async with self.connection(path, readonly=True) as reader:
            before = await _look(reader)
            with pytest.raises(NotFoundError):
                await reader.read("tasks/new")
            etag = await self._elsewhere(_change, path)
            assert await _look(reader) == (b"after", etag, ["tasks/a", "tasks/new"]), f"it was {before}"
            assert (await reader.read("tasks/new")).data == b"new"
            with pytest.raises(NotFoundError):
                await reader.read("tasks/gone")

    async def test_of_two_processes_that_create_an_object_one_wins(self) -> None:
        async with self._beside_another() as (path, backend):
            if backend is None:
                return
            async with meanwhile(self._elsewhere(_create_there, path)) as creating:
                await _until_there(backend, "there", creating)
                here = await _create(backend, b"here")
            there = creating.result()
            assert sorted([*here, *there]) == sorted(_slots()), "not one of two was told that it had won"
            stored = [key for key in _slots() if (await backend.read(key)).data == b"here"]
            assert stored == here, "what is stored is not the winner's"

    async def test_the_commits_of_two_processes_stand_one_behind_the_other(self) -> None:
        async with self._beside_another() as (path, backend):
            if backend is None:
                return
            async with meanwhile(self._elsewhere(_commit_there, path)) as committing:
                await _until_there(backend, "there", committing)
                here = await _commit(backend, "here")
            acknowledged = {*here, *committing.result()}
            log = [commit async for commit in commit_log(backend).read(0)]
            assert {commit.id for commit in log} == acknowledged, "a commit of one of them is lost"
            assert [commit.prev for commit in log] == ["", *(commit.id for commit in log[:-1])]

    async def test_a_follower_gets_what_another_process_commits(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.shared:
                return
        async with (
            self.connection(path, readonly=True) as reader,
            meanwhile(_follow(commit_log(reader))) as following,
        ):
            await asyncio.sleep(0)
            committed = await self._elsewhere(_commit_alone, path)
            assert await soon(following) == committed

    async def test_no_other_process_sees_a_part_of_a_change(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.shared:
                return
            await backend.write("a", b"0" * _LARGE)
            for key in _STAYS:
                await backend.write(key, b"x")
        async with (
            self.connection(path, readonly=True) as reader,
            meanwhile(self._elsewhere(_disturb, path)) as disturbing,
        ):
            while not disturbing.done():
                data = (await reader.read("a")).data
                whole = data == data[:1] * _LARGE
                assert whole, "a reader saw other bytes than were written"
                listed = [entry.key async for entry in reader.list_keys("stay/")]
                assert [key for key in listed if key in _STAYS] == _STAYS, "not all that stays was listed"
                await asyncio.sleep(0)

    async def test_no_replace_of_another_process_is_lost(self) -> None:
        async with self._beside_another() as (path, backend):
            if backend is None:
                return
            await backend.write("list", b"[]")
            added: list[str] = []
            async with meanwhile(self._elsewhere(_add, path)) as adding:
                while not adding.done():
                    if (await backend.read("list")).data == b"[]":
                        await asyncio.sleep(0.01)  # the other process has not begun
                        continue
                    added.append(f"here-{len(added)}")
                    await add_token(backend, "list", added[-1])
            added += adding.result()
            tokens = json.loads((await backend.read("list")).data)
            assert sorted(tokens) == sorted(added), "what one process wrote was lost to another"

    async def test_another_process_is_kept_out_of_a_store_that_one_has_alone(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            can = backend.capabilities
            if not can.exclusive or not (can.shared or can.durable):
                return  # what is neither is only there in this process, which nobody else comes to
            await backend.write("tasks/a", b"A")
            with pytest.raises(StoreLockedError):
                await self._elsewhere(_look, path)

    async def test_what_is_finished_outlives_its_process(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.durable:
                return
        with suppress(BrokenProcessPool):
            await self._elsewhere(_end, path)
        async with self.connection(path, readonly=True) as reader:
            assert (await reader.read("tasks/a")).data == b"A"
            assert [commit.writer async for commit in commit_log(reader).read(0)] == ["there"]

    async def test_what_a_killed_process_was_writing_is_whole_or_absent(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.durable:
                return
        with suppress(BrokenProcessPool):
            await self._elsewhere(_end_while_writing, path)
        async with self.connection(path, readonly=True) as reader:
            for key, size in [(entry.key, entry.size) async for entry in reader.list_keys("")]:
                data = (await reader.read(key)).data
                whole = size == len(data) and data == data[:1] * _LARGE
                assert whole, f"of {key} a part was written"

    async def test_a_writer_that_was_killed_keeps_nobody_out(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            can = backend.capabilities
            if not (can.shared or can.durable):
                return
        with suppress(BrokenProcessPool):
            await self._elsewhere(_end_while_writing, path)
        try:
            await soon(self._until_admitted(path))
        except TimeoutError:
            pytest.fail("a lock that a process had which is gone keeps everybody out")
        async with self.connection(path, readonly=True) as reader:
            assert (await reader.read("behind")).data == b"B", "what came behind the killed one is lost"
            assert [commit.writer async for commit in commit_log(reader).read(0)] == ["behind"]

    async def _until_admitted(self, path: str) -> None:
        """A service may notice only after a while that a client is gone."""
        while True:
            try:
                return await self._elsewhere(_go_on, path)
            except StoreLockedError:
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def _beside_another(self) -> AsyncIterator[tuple[str, Backend | None]]:
        """A connection that lets writers of other processes in; none if the backend has no such writers."""
        path = self.new_store()
        async with self.connection(path) as backend:
            admitted = await admits_others(backend) and backend.capabilities.shared
            async with asyncio.timeout(AT_MOST):
                yield path, backend if admitted else None

    async def _elsewhere(
        self, work: Callable[[Backend], Awaitable[T]], path: str, *, readonly: bool = False
    ) -> T:
        """What the work gives in another process, with a connection of its own."""
        loop, other = asyncio.get_running_loop(), _other_process()
        try:
            pid = await loop.run_in_executor(other, _arrive, self.factory)
        except Exception as error:  # noqa: BLE001 - nothing is done there that could fail otherwise
            _give_up(other)
            pytest.fail(
                f"another process cannot have the factory ({error}): its class has to be in a module that can be "
                "imported there, and what it holds has to be pickled"
            )
        try:
            async with asyncio.timeout(AT_MOST):
                return await loop.run_in_executor(
                    other, _do, work, self.factory, path, readonly, dict(os.environ)
                )
        except BrokenProcessPool:
            _give_up(other)
            raise
        except (TimeoutError, asyncio.CancelledError):
            # What nobody waits for any more would go on, and the next check would wait for it.
            _give_up(other)
            for process in multiprocessing.active_children():
                if process.pid == pid:
                    process.kill()
            raise


@cache
def _other_process() -> ProcessPoolExecutor:
    """One for all checks, until it is killed: to start it takes longer than most of them."""
    return ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_end_with_who_started_this
    )


_given_up: list[ProcessPoolExecutor] = []


def _give_up(other: ProcessPoolExecutor) -> None:
    """Start another one for the next check. This one is kept: CPython 3.13.0 waits for ever, at the latest when the
    tests are over, if it is collected while its thread ends."""
    _given_up.append(other)
    _other_process.cache_clear()


def _end_with_who_started_this() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def _arrive(factory: BackendFactory) -> int:
    """The factory is in this process, too, which is this one."""
    return os.getpid()


def _do(
    work: Callable[[Backend], Awaitable[T]],
    factory: BackendFactory,
    path: str,
    readonly: bool,
    environment: Mapping[str, str],
) -> T:
    async def do() -> T:
        config = factory.with_env(factory.parse(StateURL.parse(path)), os.environ)
        backend = await factory.connect(config, readonly=readonly)
        try:
            return await work(backend)
        finally:
            await backend.close()

    os.environ.clear()
    os.environ.update(environment)
    return asyncio.run(do())


async def _look(backend: Backend) -> tuple[bytes, ETag, list[str]]:
    blob = await backend.read("tasks/a")
    return blob.data, blob.etag, [entry.key async for entry in backend.list_keys("")]


async def _change(backend: Backend) -> ETag:
    await backend.write("tasks/new", b"new")
    await backend.delete("tasks/gone")
    return await backend.write("tasks/a", b"after")


def _slots() -> list[str]:
    return [f"slots/{number:02d}" for number in range(_SLOTS)]


async def _create(backend: Backend, data: bytes) -> list[str]:
    """Create each slot that nobody was faster with; those that this writer has."""
    won = []
    for key in _slots():
        while True:
            try:
                await backend.write(key, data, when=IF_ABSENT)
            except AlreadyExistsError:
                if (await backend.read(key)).data != data:
                    break
            except StateError as error:
                if not error.retryable:
                    raise
                continue
            won.append(key)
            break
    return won


async def _create_there(backend: Backend) -> list[str]:
    await backend.write("there", b"")
    return await _create(backend, b"there")


async def _commit(backend: Backend, name: str) -> list[str]:
    """The ids of the commits that this writer had acknowledged."""
    writer, acknowledged = Writer(commit_log(backend), name), list[str]()
    while len(acknowledged) < _COMMITS:
        try:
            acknowledged.append((await writer.append()).id)
        except HeadMoved:
            await writer.catch_up()
    return acknowledged


async def _commit_there(backend: Backend) -> list[str]:
    await backend.write("there", b"")
    return await _commit(backend, "there")


async def _commit_alone(backend: Backend) -> list[str]:
    return await _commit(backend, "there")


async def _follow(log: CommitLog) -> list[str]:
    """The ids of as many commits as a writer makes."""
    ids: list[str] = []
    async with aclosing(cast("Any", log.follow(0))) as following:
        while len(ids) < _COMMITS:
            ids.append((await anext(following)).id)
    return ids


async def _until_there(backend: Backend, key: str, working: asyncio.Task[Any]) -> None:
    """Wait until the other process has begun, or failed."""
    while not working.done():
        with suppress(NotFoundError):
            await backend.read(key)
            return
        await asyncio.sleep(0.005)


async def _disturb(backend: Backend) -> None:
    for number in range(_WRITES):
        await backend.write("a", b"%d" % (number % 10) * _LARGE)
        await backend.write(f"stay/{number}-", b"x")
        await backend.delete(f"stay/{number - 1}-")


async def _end_while_writing(backend: Backend) -> None:
    """End the process as if it were killed, in the middle of one write or another."""
    timer = threading.Timer(_BRIEFLY, os._exit, (1,))
    timer.daemon = True
    timer.start()
    number = 0
    while True:
        number += 1
        await backend.write("a", b"%d" % (number % 10) * _LARGE)
        await backend.write(f"new/{number}", b"%d" % (number % 10) * _LARGE)


async def _end(backend: Backend) -> None:
    """End the process as if it were killed: nothing is closed, and nothing that is held back is written."""
    await backend.write("tasks/a", b"A")
    await Writer(commit_log(backend), "there").append()
    os._exit(1)


async def _go_on(backend: Backend) -> None:
    """Write what the one that ended did not."""
    etag = await backend.write("behind", b"A", when=IF_ABSENT)
    await backend.write("behind", b"B", when=IfMatch(etag))
    await Writer(commit_log(backend), "behind").append()


async def _add(backend: Backend) -> list[str]:
    tokens = [f"there-{number}" for number in range(_TOKENS)]
    for token in tokens:
        await add_token(backend, "list", token)
    return tokens
