"""The backend over a driver: what every object store does alike."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

from statepath.backend import ALWAYS, Blob, Capabilities, Entry, ETag, Span, When
from statepath.errors import (
    ClosedError,
    InvalidArgumentError,
    ReadOnlyError,
    StateError,
    UnavailableError,
    UnsupportedError,
)
from statepath.objectstore.driver import Content, Driver, Listed, Page
from statepath.objectstore.place import Place

T = TypeVar("T")

_IN_MEMORY: Final = 8 * 1024 * 1024
_REQUESTS: Final = 64
"""At once: no more than a driver has connections. What waited for one there would look like a silent service."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class ObjectStoreBackend:
    """A store's objects in a container, each under the prefix and its key.

    Parameters:
        driver: the service; it belongs to the backend from now on.
        max_object_bytes: the most that the service takes in one request.
        copies: whether the service copies, and nothing but the version that it is asked for.
    """

    def __init__(
        self, driver: Driver, place: Place, *, max_object_bytes: int, readonly: bool, copies: bool = True
    ) -> None:
        self.url = place.url(driver.scheme)
        self.capabilities = Capabilities(
            durable=True,
            shared=True,
            remote=True,
            streams=True,
            copy=copies,
            max_object_bytes=max_object_bytes,
        )
        self._driver = driver
        self._prefix = place.prefix
        self._limit = max_object_bytes
        self._readonly = readonly
        self._closed = False
        self._turns = asyncio.Semaphore(_REQUESTS)

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        empty = span is not None and span.stop is not None and span.stop <= span.start
        # The version of an empty part is that of a byte of the object.
        asked = Span(0, 1) if empty else span
        served = await self._call(key, self._driver.get(self._name(key), asked))
        return Blob(b"" if empty else served.data, served.etag, served.modified)

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self._check_writable(key)
        return await self._put(key, data, len(data), when)

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        """As `SupportsStreams.write_stream`: the chunks go to a temporary file, and that in one request, since no
        service holds a condition on an upload in parts for every client at once.

        Raises:
            UnavailableError: the temporary file cannot be written; `disk_full` if there is no space for it.
        """
        self._check_writable(key)
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            size = await asyncio.to_thread(_spool, key, chunks, spool)
            if size <= _IN_MEMORY:
                return await self._put(key, spool.read(), size, when)
            return await self._put(key, spool, size, when)  # type: ignore[arg-type]  # a BinaryIO, by another name

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        self._check_writable(target)
        if not self.capabilities.copy:
            raise UnsupportedError(
                f"{self.url} is on a service that does not copy, or not only the version that it is asked for; read"
                f" {source} and write it instead",
                key=source,
                backend=self._driver.scheme,
            )
        return await self._call(source, self._driver.copy(self._name(source), self._name(target), when))

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self._check_writable(key)
        return await self._call(key, self._driver.remove(self._name(key), when))

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        start = self._name(after) if after else ""
        waiting: list[Listed] = []
        last = ""
        async for page in self._pages(prefix, start):
            # Consoles mark a folder by an object of its name, which is no key.
            found = [
                listed for listed in page.objects if listed.name > start and not listed.name.endswith("/")
            ]
            if not page.sorted:
                waiting += found
                continue
            for listed in found:
                if listed.name <= last:
                    raise UnsupportedError(
                        f"{self.url} does not list in byte order: {listed.name} comes behind {last}",
                        key=prefix,
                        backend=self._driver.scheme,
                        code="unsorted",
                    )
                last = listed.name
                yield self._entry(listed)
        for listed in sorted(waiting, key=_name_of):
            yield self._entry(listed)

    async def _pages(self, prefix: str, start: str) -> AsyncIterator[Page]:
        following = ""
        while True:
            page = await self._call(prefix, self._driver.page(self._name(prefix), start, following))
            yield page
            following = page.following
            if not following:
                return

    def _entry(self, listed: Listed) -> Entry:
        return Entry(listed.name.removeprefix(self._prefix), listed.size, listed.modified.timestamp())

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._driver.close()

    async def _put(self, key: str, content: Content, size: int, when: When) -> ETag:
        if size > self._limit:
            raise InvalidArgumentError(
                f"{key} has {size:,} bytes, and {self.url} takes {self._limit:,} in an object", key=key
            )
        return await self._call(key, self._driver.put(self._name(key), content, when))

    async def _call(self, key: str, call: Coroutine[Any, Any, T]) -> T:
        try:
            async with self._turns:
                self._check_open(key)
                return await call
        except StateError as error:
            error.key = key
            raise
        except Exception as error:
            if not self._closed:
                raise
            # The client libraries are not made for it that their session ends beneath a request.
            raise UnavailableError(
                f"the connection to {self.url} was closed while {key or 'a listing'} was asked for or written",
                key=key,
                backend=self._driver.scheme,
            ) from error
        finally:
            call.close()  # whoever gave up waiting for its turn never began it

    def _name(self, key: str) -> str:
        return self._prefix + key

    def _check_open(self, key: str) -> None:
        if self._closed:
            raise ClosedError(f"the connection to {self.url} is closed", key=key, backend=self._driver.scheme)

    def _check_writable(self, key: str) -> None:
        self._check_open(key)
        if self._readonly:
            raise ReadOnlyError(
                f"{self.url} was opened for reading only", key=key, backend=self._driver.scheme
            )


def _name_of(listed: Listed) -> str:
    return listed.name


def _spool(key: str, chunks: Iterable[bytes], spool: tempfile.SpooledTemporaryFile[bytes]) -> int:
    for chunk in chunks:  # what goes wrong in drawing one is not the temporary file's fault
        with _writing(key, spool):
            spool.write(chunk)
    with _writing(key, spool):
        size = spool.tell()
        spool.seek(0)
    return size


@contextmanager
def _writing(key: str, spool: tempfile.SpooledTemporaryFile[bytes]) -> Iterator[None]:
    """Say of the temporary file why it cannot be written, and what to do."""
    try:
        yield
    except OSError as error:
        with suppress(OSError):  # closing it later would try once more to write what is left
            spool.close()
        raise UnavailableError(
            f"{key} is too large to be sent from memory, and its temporary file cannot be written in"
            f" {tempfile.tempdir or 'any folder for it'} ({error.strerror or error}); make room there, or name another"
            " folder in TMPDIR",
            key=key,
            code="disk_full" if error.errno in _FULL else None,
        ) from error
