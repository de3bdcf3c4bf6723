"""A backend whose calls are told to the telemetry, how long each took and how it failed: a wrapper over any backend."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar, cast

from statepath.backend import (
    ALWAYS,
    Backend,
    Blob,
    CommitLog,
    Entry,
    ETag,
    LazyWrite,
    Moment,
    Part,
    Shown,
    Span,
    SupportsAppend,
    SupportsCommitLog,
    SupportsCopy,
    SupportsDocuments,
    SupportsLazyWrites,
    SupportsQueries,
    SupportsSpace,
    SupportsStreams,
    When,
)
from statepath.filters import Filter
from statepath.sharing import PassesSharing
from statepath.telemetry import SILENT, Telemetry

T = TypeVar("T")


class MeteredBackend(PassesSharing):
    """The backend, with its calls told."""

    def __init__(self, backend: Backend, telemetry: Telemetry) -> None:
        self.capabilities = backend.capabilities
        self.url = backend.url
        self._backend = backend
        self._telemetry = telemetry

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await self._told("read", self._backend.read(key, span=span))

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._told("write", self._backend.write(key, data, when=when))

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._told("delete", self._backend.delete(key, when=when))

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        """Told when it ends: the time includes what is done with the entries."""
        with self._telling("list"):
            async for entry in self._backend.list_keys(prefix, after=after):
                yield entry

    async def close(self) -> None:
        await self._backend.close()

    # What may be declared beside; the flags in `capabilities` say what is.

    def commit_log(self) -> CommitLog:
        """As it is: its appends are what a save waits for, and that is measured."""
        return cast("SupportsCommitLog", self._backend).commit_log()

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await self._told(
            "write", cast("SupportsStreams", self._backend).write_stream(key, chunks, when=when)
        )

    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        await self._told("write", cast("SupportsAppend", self._backend).write_at(key, offset, data, cut=cut))

    async def write_lazily(
        self, items: Iterable[LazyWrite], *, keep: Callable[[str, bytes], bool] | None = None
    ) -> None:
        backend = cast("SupportsLazyWrites", self._backend)
        await self._told("write_lazily", backend.write_lazily(items, keep=keep))

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        return await self._told("copy", cast("SupportsCopy", self._backend).copy(source, target, when=when))

    async def free_bytes(self) -> int:
        return await cast("SupportsSpace", self._backend).free_bytes()

    async def show(self, seq: int, documents: Iterable[Shown]) -> None:
        await cast("SupportsQueries", self._backend).show(seq, documents)

    async def settle(self, seq: int) -> bool:
        return await cast("SupportsQueries", self._backend).settle(seq)

    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        return await self._told("find", cast("SupportsQueries", self._backend).find(collection, where, seq))

    async def serve(self, seq: int) -> None:
        await cast("SupportsDocuments", self._backend).serve(seq)

    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        return await self._told(
            "read_documents", cast("SupportsDocuments", self._backend).read_documents(keys, at_least)
        )

    @asynccontextmanager
    async def moment(self, at_least: int) -> AsyncIterator[Moment]:
        """Told when it is over: the time includes what is done with the documents."""
        with self._telling("moment"):
            async with cast("SupportsDocuments", self._backend).moment(at_least) as moment:
                yield moment

    async def _told(self, name: str, call: Awaitable[T]) -> T:
        with self._telling(name):
            return await call

    @contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        except GeneratorExit:  # whoever asked has seen enough
            self._telemetry.request(name, time.perf_counter() - began)
            raise
        except BaseException as error:
            self._telemetry.request(name, time.perf_counter() - began, error)
            raise
        self._telemetry.request(name, time.perf_counter() - began)


def metered(backend: Backend, telemetry: Telemetry) -> Backend:
    """The backend, wrapped if there is anyone to tell."""
    return backend if telemetry is SILENT else MeteredBackend(backend, telemetry)
