"""The portable commit log: any backend's objects as a log, over `write(when=IF_ABSENT)`.

A commit is one object, `journal/<first seq>.jsonl`, created and never overwritten: who creates it has won the
place. The log itself keeps no index; the names of the objects are one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

import msgspec

from statepath.backend import IF_ABSENT, Backend
from statepath.commit import FLOOR_KEY, JOURNAL, Commit, decode_commit, encode_commit, slot_key, unseal
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ClosedError,
    CorruptionError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    ReadOnlyError,
    StateError,
    ThrottledError,
    UnavailableError,
)

_SLOT: Final = re.compile(re.escape(JOURNAL) + r"(\d{20})\.jsonl")
_REACH: Final = 1024  # how far before a seq the commit that holds it is looked for first
_PARALLEL: Final = 8  # slots read ahead or deleted at once; each may be 8 MiB
_SOONEST: Final = 0.02  # seconds
_LATEST: Final = 2.0
_REFUSALS: Final = (AccessDeniedError, ClosedError, InvalidArgumentError, ReadOnlyError, ThrottledError)


class _Floor(msgspec.Struct, frozen=True):
    floor: int


_decode_floor: Final = msgspec.json.Decoder(_Floor).decode


class PortableCommitLog:
    """The commit log of a backend that has no native one.

    Parameters:
        backend: keeps the slots.
        deadline: for how many seconds an append that got no clear answer is sent again.
        window: for how many seconds, at least, whoever trims the log keeps each commit. A writer that saw the
            head within half of it need not read the floor. 0 promises nothing: each append reads it.
        review: how often, in seconds, a follower that finds nothing new looks at the log as a whole, so that it
            notices that it was trimmed or damaged.
    """

    def __init__(
        self, backend: Backend, *, deadline: float = 30.0, window: float = 0.0, review: float = 10.0
    ) -> None:
        self._backend = backend
        self._deadline = deadline
        self._window = window
        self._review = review
        self._unresolved: Commit | None = None
        self._head = -1
        self._head_seen = 0.0
        self._last: Commit | None = None
        self._news = asyncio.Event()

    async def append(self, after: int, commit: Commit) -> None:
        """As `CommitLog.append`. Once the outcome of an append is open, because it raised
        `OutcomeUnknownError` or was cancelled, only the same commit is taken, until its outcome is known."""
        if commit.first != after + 1:
            raise InvalidArgumentError(
                f"a commit behind seq {after} begins at {after + 1}, not {commit.first}"
            )
        if self._unresolved is not None and self._unresolved.id != commit.id:
            raise _unknown(self._unresolved)
        begun = _clock()
        try:
            async with asyncio.timeout(self._deadline):
                committed = await self._place(commit)
        except Exception as error:
            if self._unresolved is not None:
                raise _unknown(commit) from error
            if isinstance(error, TimeoutError):
                raise UnavailableError(
                    f"the storage took nothing for {self._deadline:g} s; nothing was written",
                    key=slot_key(commit.first),
                ) from error
            raise
        self._unresolved = None
        if not committed:
            raise HeadMoved
        self._saw(commit.last, begun)
        self._last = commit
        self._news.set()
        self._news = asyncio.Event()

    @property
    def head(self) -> int:
        """Where the log ended when this object last saw its end (-1: it never did)."""
        return self._head

    @property
    def age(self) -> float:
        """How many seconds ago that was."""
        return _clock() - self._head_seen

    async def read(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.read`."""
        look = self._walk(after) if self._seen_lately(after) else self._read(after, "")
        async with aclosing(look) as commits:
            async for commit in commits:
                yield commit

    async def trim(self, upto: int) -> None:
        """As `CommitLog.trim`. The newest slot stays: only its content would tell where it ends."""
        slots = await self._slots(-1)
        gone = [first for first, following in pairwise(slots) if following <= upto + 1]
        for batch in _batches(gone):
            await asyncio.gather(*(self._backend.delete(slot_key(first)) for first in batch))

    async def restart(self, after: int) -> list[str]:
        """As `CommitLog.restart`."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = []
        self._head, self._last = -1, None
        for first in await self._slots(-1):
            key = slot_key(first)
            aside = f"{key}.corrupt.{moment}"
            try:
                blob = await self._backend.read(key)
            except NotFoundError:
                continue
            await self._backend.write(aside, blob.data)
            await self._backend.delete(key)
            kept.append(aside)
        self._unresolved = None
        return kept

    async def follow(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.follow`: what this object appends at once, the rest by asking for the next slot."""
        previous = ""
        reviewed = float("-inf")
        pause = _SOONEST
        while True:
            news, now, idle = self._news, _clock(), True
            due = now - reviewed >= self._review
            if due:
                reviewed = now
            look = self._read(after, previous) if due else self._next(after, previous)
            async with aclosing(look) as commits:
                async for commit in commits:
                    after, previous, idle = commit.last, commit.id, False
                    yield commit
            if not idle:
                pause = _SOONEST
                continue
            try:
                async with asyncio.timeout(pause):
                    await news.wait()
            except TimeoutError:
                pause = min(pause * 1.5, _LATEST)

    async def _place(self, commit: Commit) -> bool:
        """Send the commit to its slot until the storage has answered; whether it stands in the log."""
        ours = await self._insist(self._send, commit)
        if not ours and self._unresolved is None:
            return False
        self._unresolved = commit
        if ours and self._seen_lately(commit.first - 1):
            return True
        return await self._insist(self._passed, commit) or ours

    async def _insist(self, call: Callable[[Commit], Awaitable[bool]], commit: Commit) -> bool:
        """Call again and again, with growing pauses, until the storage answers."""
        try:
            return await call(commit)
        except StateError as error:
            if not self._worth_repeating(error):
                raise
        from tenacity import AsyncRetrying, retry_if_exception, wait_random_exponential

        retrying = AsyncRetrying(
            retry=retry_if_exception(self._worth_repeating),
            wait=wait_random_exponential(_SOONEST, _LATEST),
            reraise=True,
        )
        return await retrying(call, commit)

    def _worth_repeating(self, error: BaseException) -> bool:
        if isinstance(error, UnavailableError):
            return error.code != "disk_full" or self._unresolved is not None
        return isinstance(error, ThrottledError)

    async def _send(self, commit: Commit) -> bool:
        """Whether the slot holds the commit now."""
        line = bytes(encode_commit(commit))
        try:
            await self._backend.write(slot_key(commit.first), line, when=IF_ABSENT)
        except AlreadyExistsError:
            standing = self._last = await self._slot(commit.first)
            return standing is not None and standing.id == commit.id
        except BaseException as error:
            if not _had_no_effect(error):
                self._unresolved = commit
            raise
        return True

    async def _read(self, after: int, previous: str) -> AsyncGenerator[Commit]:
        begun = _clock()
        slots = await self._slots(after)
        # Read after the listing: had a later slot been there and trimmed, the floor would say so.
        floor = await self._known_floor()
        if floor > after + 1:
            raise _trimmed(floor)
        begin = max((first for first in slots if floor <= first <= after + 1), default=after + 1)
        slots = [first for first in slots if first >= begin]
        last = begin - 1
        async with aclosing(self._fetch(slots)) as found:
            async for first, commit in found:
                if first != last + 1 or commit is None:
                    await self._explain_gap(last + 1, slots)
                    return
                _check_chain(commit, previous)
                last, previous = commit.last, commit.id
                if last > after:
                    yield commit
        self._saw(last, begun)

    async def _next(self, after: int, previous: str) -> AsyncGenerator[Commit]:
        begun = _clock()
        last = self._last
        commit = last if last is not None and last.first == after + 1 else await self._slot(after + 1)
        if commit is not None:
            _check_chain(commit, previous)
            yield commit
        elif self._seen_lately(after):
            self._saw(after, begun)

    async def _walk(self, after: int) -> AsyncGenerator[Commit]:
        """The commits behind a seq that was the head not long ago: what follows it cannot have been trimmed yet, so
        nothing has to be read but the slots, one by one, up to the first that is not there."""
        previous, since = "", self._head_seen
        while True:
            begun = _clock()
            async with aclosing(self._next(after, previous)) as commits:
                commit = await anext(commits, None)
            if commit is None:
                break
            after, previous = commit.last, commit.id
            yield commit
        if _clock() - since < self._window / 2:
            self._saw(after, begun)
            return
        async with aclosing(self._read(after, previous)) as rest:
            async for commit in rest:
                yield commit

    async def _fetch(self, slots: Sequence[int]) -> AsyncGenerator[tuple[int, Commit | None]]:
        """The slots' commits in order, some read ahead; `None` for one that is gone."""
        waiting = iter(slots)
        ahead: deque[tuple[int, asyncio.Task[Commit | None]]] = deque()
        try:
            while True:
                while len(ahead) < _PARALLEL and (first := next(waiting, None)) is not None:
                    ahead.append((first, asyncio.create_task(self._slot(first))))
                if not ahead:
                    return
                first, task = ahead.popleft()
                yield first, await task
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _slot(self, first: int) -> Commit | None:
        key = slot_key(first)
        try:
            blob = await self._backend.read(key)
        except NotFoundError:
            return None
        try:
            commit = decode_commit(blob.data)
        except CorruptionError as error:
            raise CorruptionError(f"{key}: {error}", key=key) from error
        if commit.first != first:
            raise CorruptionError(f"{key} holds the commit that begins at {commit.first}", key=key)
        return commit

    async def _slots(self, after: int) -> list[int]:
        """Where the slots begin, in order, from the one on that holds `after + 1`."""
        start = slot_key(after - _REACH) if after > _REACH else ""
        slots = await self._list(start)
        if start and (not slots or slots[0] > after + 1):
            slots = await self._list("")
        return slots

    async def _list(self, start: str) -> list[int]:
        entries = self._backend.list_keys(JOURNAL, after=start)
        return [int(match[1]) async for entry in entries if (match := _SLOT.fullmatch(entry.key))]

    async def _floor(self) -> int:
        try:
            blob = await self._backend.read(FLOOR_KEY)
        except NotFoundError:
            return 0
        try:
            return _decode_floor(unseal(blob.data, "record")).floor
        except (CorruptionError, msgspec.MsgspecError) as error:
            raise CorruptionError(f"{FLOOR_KEY} does not say where the log begins", key=FLOOR_KEY) from error

    async def _known_floor(self) -> int:
        """Readers take the slots as they find them if the record is damaged: whoever opens the store mends it."""
        try:
            return await self._floor()
        except CorruptionError:
            return 0

    async def _passed(self, commit: Commit) -> bool:
        """Whether the floor has passed the commit, and the log shows that it had been committed before.

        Raises:
            OutcomeUnknownError: the floor has passed it, and nothing in the log tells.
        """
        floor = await self._floor()
        if commit.first >= floor:
            return False
        for first in (await self._list(slot_key(floor - 1)))[:1]:
            following = await self._slot(first)
            if following is not None and following.prev == commit.id:
                return True
        raise _unknown(commit)

    async def _explain_gap(self, missing: int, slots: Sequence[int]) -> None:
        """Return if nothing says that the missing commit had been durable."""
        floor = await self._known_floor()
        if missing < floor:
            raise _trimmed(floor)
        for first in reversed(slots):
            if first <= missing:
                return
            try:
                later = await self._slot(first)
            except CorruptionError:
                continue
            if later is not None and later.durable >= missing:
                key = slot_key(missing)
                raise CorruptionError(
                    f"{key} is missing, and {slot_key(first)} says that it was durable", key=key
                )

    def _seen_lately(self, head: int) -> bool:
        """Whether the log ended there within half the time that each commit is kept for."""
        return self._head == head and _clock() - self._head_seen < self._window / 2

    def _saw(self, head: int, when: float) -> None:
        self._head, self._head_seen = head, when


def _check_chain(commit: Commit, previous: str) -> None:
    if previous and commit.prev != previous:
        key = slot_key(commit.first)
        raise CorruptionError(f"{key} does not continue the commit before it", key=key)


def _had_no_effect(error: BaseException) -> bool:
    return isinstance(error, _REFUSALS) or (isinstance(error, StateError) and error.code == "disk_full")


def _unknown(commit: Commit) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"it could not be found out whether the commit of seq {commit.first} to {commit.last} is durable; "
        "open the store again to see what holds",
        key=slot_key(commit.first),
    )


def _trimmed(floor: int) -> HistoryTrimmedError:
    return HistoryTrimmedError(f"the log begins at seq {floor}; what came before was trimmed", floor=floor)


def _batches(firsts: Sequence[int]) -> list[Sequence[int]]:
    return [firsts[at : at + _PARALLEL] for at in range(0, len(firsts), _PARALLEL)]


def _clock() -> float:
    """Seconds, on a clock that goes on while the machine sleeps, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
