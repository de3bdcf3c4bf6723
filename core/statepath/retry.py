"""A backend whose calls cross a network, with those repeated that may be done twice: a wrapper over any backend.

Reading, listing, and writing or removing whatever is there give the same result when they are done again. A conditional
write does not: it is repeated only where it was not sent, or the storage said that it had done nothing. What becomes of
a commit whose answer was lost, the log finds out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from time import monotonic
from typing import Final, TypeVar, cast

from statepath.backend import (
    ALWAYS,
    Always,
    Backend,
    Blob,
    CommitLog,
    Entry,
    ETag,
    LazyWrite,
    Span,
    SupportsAppend,
    SupportsCommitLog,
    SupportsCopy,
    SupportsLazyWrites,
    SupportsSpace,
    SupportsStreams,
    When,
)
from statepath.errors import StateError, ThrottledError, UnavailableError
from statepath.sharing import PassesSharing

T = TypeVar("T")

_SOONEST: Final = 0.05
_LATEST: Final = 5.0
_LASTING: Final = frozenset({"disk_full", "archived"})
"""What is so until somebody does something about it."""


class RetryingBackend(PassesSharing):
    """The backend with its calls repeated, with growing random pauses, until they succeed or the deadline has passed.

    Parameters:
        deadline: seconds from the first attempt after which none is begun but the second; the last one's error is
            raised.
    """

    def __init__(self, backend: Backend, *, deadline: float) -> None:
        import tenacity  # noqa: F401 - when a call has failed there may be no file left to open

        self.capabilities = backend.capabilities
        self.url = backend.url
        self._backend = backend
        self._deadline = deadline

    @property
    def once(self) -> Backend:
        """The backend itself, for who repeats calls in another way."""
        return self._backend

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await self._repeat(lambda: self._backend.read(key, span=span))

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._repeat(lambda: self._backend.write(key, data, when=when), when)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        return await self._repeat(lambda: self._backend.delete(key, when=when), when)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        last = after
        entries = self._backend.list_keys(prefix, after=last)

        async def following() -> Entry | None:
            nonlocal entries
            try:
                return await anext(aiter(entries), None)
            except (ThrottledError, UnavailableError):
                # A listing that failed is over: the next attempt is a new one, behind what was seen.
                entries = self._backend.list_keys(prefix, after=last)
                raise

        while (entry := await self._repeat(following)) is not None:
            last = entry.key
            yield entry

    async def close(self) -> None:
        await self._backend.close()

    # What may be declared beside; the flags in `capabilities` say what is.

    def commit_log(self) -> CommitLog:
        return cast("SupportsCommitLog", self._backend).commit_log()

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        """Sent once: the chunks can be drawn once."""
        return await cast("SupportsStreams", self._backend).write_stream(key, chunks, when=when)

    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        backend = cast("SupportsAppend", self._backend)
        await self._repeat(lambda: backend.write_at(key, offset, data, cut=cut))

    async def write_lazily(
        self, items: Iterable[LazyWrite], *, keep: Callable[[str, bytes], bool] | None = None
    ) -> None:
        await cast("SupportsLazyWrites", self._backend).write_lazily(items, keep=keep)

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        """Repeated whatever the condition is: of one version it makes the same object again, or is refused."""
        backend = cast("SupportsCopy", self._backend)
        return await self._repeat(lambda: backend.copy(source, target, when=when))

    async def free_bytes(self) -> int:
        return await self._repeat(cast("SupportsSpace", self._backend).free_bytes)

    async def _repeat(self, call: Callable[[], Awaitable[T]], when: When = ALWAYS) -> T:
        worth_it = _idempotent if isinstance(when, Always) else _refused
        return await _repeated(call, worth_it, self._deadline)


async def until_served(call: Callable[[], Awaitable[T]], *, deadline: float) -> T:
    """What the call gives, which is made again, within the deadline, while the service answers that it cannot serve it
    now. One that gives no answer at all is not asked again: its address may be wrong."""
    return await _repeated(call, _answered, deadline)


async def _repeated(
    call: Callable[[], Awaitable[T]], worth_it: Callable[[BaseException], bool], deadline: float
) -> T:
    began = monotonic()
    try:
        return await call()
    except (ThrottledError, UnavailableError) as error:
        if not worth_it(error):
            raise
        failed: list[StateError] = [error]
    import tenacity  # only for those whose calls cross a network

    async def attempt() -> T:
        if failed:  # the first attempt, which was made already
            raise failed.pop()
        return await call()

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(worth_it),
        # Once at least: a connection that died in silence looks like a service that does not answer.
        stop=tenacity.stop_all(
            tenacity.stop_after_attempt(2), tenacity.stop_before_delay(deadline - (monotonic() - began))
        ),
        wait=tenacity.wait_random_exponential(_SOONEST, _LATEST),
        reraise=True,
    )
    answer: T = await retrying(attempt)
    return answer


def _refused(error: BaseException) -> bool:
    return isinstance(error, ThrottledError) or (
        isinstance(error, UnavailableError) and error.code == "not_sent"
    )


def _idempotent(error: BaseException) -> bool:
    return _refused(error) or (isinstance(error, UnavailableError) and error.code not in _LASTING)


def _answered(error: BaseException) -> bool:
    return isinstance(error, ThrottledError) or (
        isinstance(error, UnavailableError) and error.code == "service_failed"
    )


def retrying(backend: Backend, *, deadline: float) -> Backend:
    """The backend, wrapped if its calls cross a network."""
    return RetryingBackend(backend, deadline=deadline) if backend.capabilities.remote else backend
