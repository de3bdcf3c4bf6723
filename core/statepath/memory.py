"""The memory backend, `memory://name`: the reference for a backend's author, and what fast tests run on.

A named store lives as long as the process, and every connection to the name sees it. `memory://` without a
name is a new, private store at each connection. Nothing is durable, and no accelerator is declared: the core
does everything its portable way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from threading import Lock
from typing import Final

from statepath.backend import (
    ALWAYS,
    Blob,
    Capabilities,
    Entry,
    ETag,
    IfAbsent,
    IfMatch,
    Span,
    StateURL,
    When,
)
from statepath.errors import (
    AlreadyExistsError,
    ClosedError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
)


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Which store: its name, or the empty string for a private one."""

    name: str = ""


class _Objects(dict[str, Blob]):
    """The objects of one store. The lock is for event loops in several threads."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()


_stores: defaultdict[str, _Objects] = defaultdict(_Objects)
_etags = count(1)


class MemoryBackend:
    """A connection to a store in this process's memory."""

    capabilities: Capabilities = Capabilities(durable=False, shared=False)

    def __init__(self, config: MemoryConfig, *, readonly: bool = False) -> None:
        self.url = f"memory://{config.name}"
        self._objects = _stores[config.name] if config.name else _Objects()
        self._readonly = readonly
        self._closed = False

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self._check_open(key)
        blob = self._objects.get(key)
        if blob is None:
            raise NotFoundError(f"there is no object {key} in {self.url}", key=key, backend="memory")
        if span is None:
            return blob
        return Blob(blob.data[span.start : span.stop], blob.etag, blob.modified)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self._check_writable(key)
        with self._objects.lock:
            stored = self._objects.get(key)
            if isinstance(when, IfAbsent) and stored is not None:
                raise AlreadyExistsError(f"{key} exists already", key=key, backend="memory")
            if isinstance(when, IfMatch) and (stored is None or stored.etag != when.etag):
                raise ConflictError(f"{key} is not the version that was asked for", key=key, backend="memory")
            blob = Blob(bytes(data), ETag(str(next(_etags))), datetime.now(UTC))
            self._objects[key] = blob
        return blob.etag

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self._check_writable(key)
        with self._objects.lock:
            stored = self._objects.get(key)
            if stored is None:
                return False
            if isinstance(when, IfMatch) and stored.etag != when.etag:
                raise ConflictError(f"{key} is not the version that was asked for", key=key, backend="memory")
            del self._objects[key]
        return True

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self._check_open(prefix)
        with self._objects.lock:
            found = [item for item in self._objects.items() if item[0].startswith(prefix) and item[0] > after]
        for key, blob in sorted(found, key=lambda item: item[0]):
            yield Entry(key, len(blob.data), blob.modified.timestamp())

    async def close(self) -> None:
        self._closed = True

    def _check_open(self, key: str) -> None:
        if self._closed:
            raise ClosedError(f"the connection to {self.url} is closed", key=key, backend="memory")

    def _check_writable(self, key: str) -> None:
        self._check_open(key)
        if self._readonly:
            raise ReadOnlyError(f"{self.url} was opened for reading only", key=key, backend="memory")


class MemoryFactory:
    """What the entry point `memory` names."""

    def parse(self, url: StateURL) -> MemoryConfig:
        url.only()
        if url.user is not None or url.port is not None:
            raise InvalidArgumentError("memory URLs have neither a user nor a port; write memory://name")
        # The host as it was written: `url.host` is in lower case.
        return MemoryConfig(f"{url.netloc}{url.path}".rstrip("/"))

    def with_env(self, config: MemoryConfig, env: Mapping[str, str]) -> MemoryConfig:
        return config

    async def connect(self, config: MemoryConfig, *, readonly: bool = False) -> MemoryBackend:
        return MemoryBackend(config, readonly=readonly)


factory: Final = MemoryFactory()
