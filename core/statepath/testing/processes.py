"""Checks that what holds between two connections of a process holds between two processes, too."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TypeVar, cast

import pytest

from statepath.backend import Backend, BackendFactory, ETag, StateURL, SupportsSharing
from statepath.errors import StoreLockedError
from statepath.testing.commits import Writer, commit_log
from statepath.testing.conditions import add_token
from statepath.testing.meanwhile import meanwhile
from statepath.testing.patience import soon
from statepath.testing.subject import Subject

T = TypeVar("T")

_TOKENS = 10


class ProcessChecks(Subject):
    async def test_another_process_sees_the_same_objects(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            if not backend.capabilities.shared:
                return
            etag = await backend.write("tasks/a", b"A")
            await backend.write("b", b"B")
            assert await self._elsewhere(_look, path, readonly=True) == (b"A", etag, ["b", "tasks/a"])

    async def test_no_replace_of_another_process_is_lost(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            can = backend.capabilities
            if not can.shared or (can.exclusive and not can.sharing):
                return
            if can.sharing:
                await cast("SupportsSharing", backend).share()
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

    async def test_a_writer_that_was_killed_keeps_nobody_out(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            can = backend.capabilities
            if not can.exclusive or not (can.shared or can.durable):
                return
        with suppress(BrokenProcessPool):
            await self._elsewhere(_end, path)
        try:
            await soon(self._until_admitted(path))
        except TimeoutError:
            pytest.fail("the lock of a process that is gone keeps everybody out")

    async def _until_admitted(self, path: str) -> None:
        """A service may notice only after a while that a client is gone."""
        while True:
            try:
                async with self.connection(path) as backend:
                    await backend.write("tasks/b", b"B")
            except StoreLockedError:
                await asyncio.sleep(0.05)
            else:
                return

    async def _elsewhere(
        self, work: Callable[[Backend], Awaitable[T]], path: str, *, readonly: bool = False
    ) -> T:
        """What the work gives in another process, with a connection of its own."""
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            loop = asyncio.get_running_loop()
            try:
                await loop.run_in_executor(pool, _arrive, self.factory)
            except Exception as error:  # noqa: BLE001 - nothing is done there that could fail otherwise
                pytest.fail(
                    f"another process cannot have the factory ({error}): its class has to be in a module that can be "
                    "imported there, and what it holds has to be pickled"
                )
            return await loop.run_in_executor(pool, _do, work, self.factory, path, readonly)


def _arrive(factory: BackendFactory) -> None:
    """The factory is in this process, too."""


def _do(
    work: Callable[[Backend], Awaitable[T]],
    factory: BackendFactory,
    path: str,
    readonly: bool,
) -> T:
    async def do() -> T:
        config = factory.with_env(factory.parse(StateURL.parse(path)), os.environ)
        backend = await factory.connect(config, readonly=readonly)
        try:
            return await work(backend)
        finally:
            await backend.close()

    return asyncio.run(do())


async def _look(backend: Backend) -> tuple[bytes, ETag, list[str]]:
    blob = await backend.read("tasks/a")
    return blob.data, blob.etag, [entry.key async for entry in backend.list_keys("")]


async def _end(backend: Backend) -> None:
    """End the process as if it were killed: nothing is closed, and nothing that is held back is written."""
    await backend.write("tasks/a", b"A")
    await Writer(commit_log(backend), "there").append()
    os._exit(1)


async def _add(backend: Backend) -> list[str]:
    tokens = [f"there-{number}" for number in range(_TOKENS)]
    for token in tokens:
        await add_token(backend, "list", token)
    return tokens
