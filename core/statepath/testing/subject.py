"""How the kit reaches the backend under test."""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from statepath.backend import Backend, BackendFactory, StateURL, SupportsSharing, slot_key
from statepath.errors import NotFoundError
from statepath.testing.patience import soon


def altered(data: bytes) -> bytes:
    """The bytes with one of them, in their middle, another one."""
    place = len(data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


async def admits_others(backend: Backend) -> bool:
    """Let other writers in, where they have to be; whether they come in."""
    can = backend.capabilities
    if can.sharing:
        await cast("SupportsSharing", backend).share()
    return can.sharing or not can.exclusive


class Subject(ABC):
    """What an author fills in, and the connections that the checks make from it."""

    pytestmark = pytest.mark.asyncio

    factory: BackendFactory
    """The object that the entry point names. It is pickled for the checks that need another process."""

    page: ClassVar[int] = 1000
    """How many entries one page of the storage's listing holds at most."""

    root: Path
    """An empty folder for this check. The kit's own fixture sets it to pytest's `tmp_path`."""

    @abstractmethod
    def state_path(self, folder: Path) -> str:
        """The state path of a new, empty store. The folder is new, empty and this store's own; a backend that
        does not live in a folder makes up a name that was never used."""

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        """The stored bytes, read around the backend; `None` if there are none. By default through another
        connection, for reading only."""
        async with self.connection(state_path, readonly=True) as backend:
            try:
                return (await backend.read(key)).data
            except NotFoundError:
                return None

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        """Store the bytes around the backend, while nobody has the store open. By default by a connection."""
        async with self.connection(state_path) as backend:
            await backend.write(key, data)

    async def raw_damage(self, state_path: str, first: int) -> bool:
        """Alter what is stored of the commit that begins at the seq, around the backend, while nobody has the store
        open; whether that was done. By default the portable log's is altered. Where a log of the backend's own keeps
        its commits, only its author knows: without this method nothing shows that it tells damage from its end."""
        async with self.connection(state_path, readonly=True) as backend:
            if backend.capabilities.commit_log:
                return False
        stored = await self.raw_read(state_path, slot_key(first))
        assert stored is not None, f"the portable log has no {slot_key(first)}"
        await self.raw_write(state_path, slot_key(first), altered(stored))
        return True

    @pytest.fixture(autouse=True)
    def _set_root(self, tmp_path: Path) -> None:
        self.root = tmp_path

    def new_store(self) -> str:
        """The state path of a store that nobody has used."""
        return self.state_path(Path(tempfile.mkdtemp(dir=self.root)))

    def config(self, state_path: str) -> Any:
        """The backend's configuration for a state path, completed from the environment."""
        return self.factory.with_env(self.factory.parse(StateURL.parse(state_path)), os.environ)

    @asynccontextmanager
    async def connection(
        self, state_path: str | None = None, *, readonly: bool = False
    ) -> AsyncIterator[Backend]:
        """A connection, to a new store where none is named."""
        config = self.config(self.new_store() if state_path is None else state_path)
        backend = await self.factory.connect(config, readonly=readonly)
        try:
            yield backend
        finally:
            await soon(backend.close())

    @asynccontextmanager
    async def writers(self, state_path: str | None = None) -> AsyncIterator[tuple[Backend, Backend]]:
        """Two connections that may write to one store; the same one twice if the backend admits only one."""
        path = self.new_store() if state_path is None else state_path
        async with AsyncExitStack() as stack:
            one = await stack.enter_async_context(self.connection(path))
            if await admits_others(one):
                yield one, await stack.enter_async_context(self.connection(path))
            else:
                yield one, one

    @asynccontextmanager
    async def writer_and_reader(self) -> AsyncIterator[tuple[Backend, Backend]]:
        """Two connections to one store, the second for reading only."""
        path = self.new_store()
        async with self.connection(path) as writer, self.connection(path, readonly=True) as reader:
            yield writer, reader
