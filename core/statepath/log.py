"""The portable commit log: any backend's objects as a log, over `write(when=IF_ABSENT)`.

A commit is one object, `journal/<first seq>.jsonl`, created and never overwritten: who creates it has won the
place. The log itself keeps no index; the names of the objects are one. Older commits are packed (`statepath.packs`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

import msgspec

from statepath.backend import IF_ABSENT, Backend
from statepath.commit import FLOOR_KEY, JOURNAL, Commit, encode_commit, slot_key, unseal
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
from statepath.packs import Piece, covers, current, pack, read_piece, sweep

T = TypeVar("T")

_REACH: Final = 1024  # how far before a seq the commit that holds it is looked for first
_PARALLEL: Final = 8  # slots read ahead or deleted at once; each may be 8 MiB
_SOONEST: Final = 0.02  # seconds
_LATEST: Final = 2.0
_REFUSALS: Final = (AccessDeniedError, ClosedError, InvalidArgumentError, ReadOnlyError, ThrottledError)


class _Floor(msgspec.Struct, frozen=True):
    """Below `floor` commits may be gone; up to `packed` they are in packs, and slots are nothing."""

    floor: int = 0
    packed: int = 0


_decode_floor: Final = msgspec.json.Decoder(_Floor).decode


class _Listing(NamedTuple):
    floor: int
    pieces: list[Piece]


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
        self._news.set()
        self._news = asyncio.Event()

    async def read(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.read`."""
        async with aclosing(self._read(after, "")) as commits:
            async for commit in commits:
                yield commit

    async def trim(self, upto: int) -> None:
        """As `CommitLog.trim`. The newest piece stays: only a slot's content would tell where it ends."""
        gone = [piece for piece, following in pairwise(await self._all()) if following.first <= upto + 1]
        for batch in _batches(gone):
            await asyncio.gather(*(self._backend.delete(piece.key) for piece in batch))

    async def pack(self, upto: int, *, least: int) -> int:
        """Put commits whose last seq is `upto` or lower into packs, if at least so many are not yet; up to which seq
        commits are packed then. The log's own record has to say so before `sweep` is called.

        Every writer must have seen the head behind them within the window, as `trim` needs it, too.
        """
        pieces = await self._all()
        ended = [piece for piece, following in pairwise(pieces) if following.first <= upto + 1]
        return await pack(self._backend, ended, (await self._floor()).packed, least)

    async def sweep(self) -> None:
        """Remove what the log's own record says is packed."""
        await sweep(self._backend, await self._list(""), (await self._floor()).packed)

    async def restart(self, after: int) -> list[str]:
        """As `CommitLog.restart`."""
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = []
        for piece in sorted(await self._list("")):
            aside = f"{piece.key}.corrupt.{moment}"
            try:
                blob = await self._backend.read(piece.key)
            except NotFoundError:
                continue
            await self._backend.write(aside, blob.data)
            await self._backend.delete(piece.key)
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
        seen_lately = self._head == commit.first - 1 and _clock() - self._head_seen < self._window / 2
        if ours and seen_lately:
            return True
        settled = await self._insist(self._settled, commit)
        return ours if settled is None else settled

    async def _insist(self, call: Callable[[Commit], Awaitable[T]], commit: Commit) -> T:
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
            standing = await read_piece(self._backend, Piece(commit.first))
            return standing is not None and standing[0].id == commit.id
        except BaseException as error:
            if not _had_no_effect(error):
                self._unresolved = commit
            raise
        return True

    async def _read(self, after: int, previous: str) -> AsyncGenerator[Commit]:
        begun = _clock()
        listing = await self._listing(after)
        floor, pieces = listing.floor, listing.pieces
        if floor > after + 1:
            raise _trimmed(floor)
        begin = max((piece.first for piece in pieces if floor <= piece.first <= after + 1), default=after + 1)
        pieces = [piece for piece in pieces if piece.first >= begin]
        last = begin - 1
        async with aclosing(self._fetch(pieces)) as found:
            async for piece, commits in found:
                if piece.first > last + 1 or commits is None:
                    if commits is None and (await self._known_floor()).packed > last:
                        break  # packed since it was listed
                    await self._explain_gap(last + 1, pieces)
                    return
                for commit in commits:
                    if commit.last <= last:
                        continue  # two packs may overlap
                    _check_chain(commit, previous)
                    last, previous = commit.last, commit.id
                    if last > after:
                        yield commit
            else:
                self._saw(last, begun)
                return
        async with aclosing(self._read(max(last, after), previous)) as rest:
            async for commit in rest:
                yield commit

    async def _next(self, after: int, previous: str) -> AsyncGenerator[Commit]:
        for commit in await read_piece(self._backend, Piece(after + 1)) or ():
            _check_chain(commit, previous)
            yield commit

    async def _fetch(self, pieces: Sequence[Piece]) -> AsyncGenerator[tuple[Piece, list[Commit] | None]]:
        """The pieces' commits in order, some read ahead; `None` for one that is gone."""
        waiting = iter(pieces)
        ahead: deque[tuple[Piece, asyncio.Task[list[Commit] | None]]] = deque()
        try:
            while True:
                while len(ahead) < _PARALLEL and (piece := next(waiting, None)) is not None:
                    ahead.append((piece, asyncio.create_task(read_piece(self._backend, piece))))
                if not ahead:
                    return
                piece, task = ahead.popleft()
                yield piece, await task
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _listing(self, after: int) -> _Listing:
        """The pieces that count, in order, from the one on that holds `after + 1`."""
        start = slot_key(after - _REACH) if after > _REACH else ""
        before: list[Piece] | None = None
        while True:
            listed = await self._list(start)
            # Read after the listing: had a later piece been there and trimmed, the floor would say so.
            record = await self._known_floor()
            pieces = current(listed, record.packed)
            if start and (not pieces or pieces[0].first > after + 1):
                start = ""
            elif covers(pieces, max(after, record.floor - 1), record.packed) or listed == before:
                return _Listing(record.floor, pieces)
            else:
                # Packs are written before the record says so: a second listing has them, if they are there at all.
                before = listed

    async def _all(self) -> list[Piece]:
        """All pieces that count, in order."""
        return (await self._listing(-1)).pieces

    async def _list(self, start: str) -> list[Piece]:
        entries = self._backend.list_keys(JOURNAL, after=start)
        return [piece async for entry in entries if (piece := Piece.of(entry.key)) is not None]

    async def _floor(self) -> _Floor:
        try:
            blob = await self._backend.read(FLOOR_KEY)
        except NotFoundError:
            return _Floor()
        try:
            return _decode_floor(unseal(blob.data, "record"))
        except (CorruptionError, msgspec.MsgspecError) as error:
            raise CorruptionError(f"{FLOOR_KEY} does not say where the log begins", key=FLOOR_KEY) from error

    async def _known_floor(self) -> _Floor:
        """Readers take the pieces as they find them if the record is damaged: whoever opens the store mends it."""
        try:
            return await self._floor()
        except CorruptionError:
            return _Floor()

    async def _settled(self, commit: Commit) -> bool | None:
        """Whether the commit stands in the log, where its slot is none any more: it was trimmed, or packed. `None`: it
        is one.

        Raises:
            OutcomeUnknownError: the floor has passed it, and nothing in the log tells.
        """
        record = await self._floor()
        if commit.first < record.floor:
            async for following in self._read(record.floor - 1, ""):
                if following.prev == commit.id:
                    return True
                break
            raise _unknown(commit)
        if commit.first <= record.packed:
            async for standing in self._read(commit.first - 1, ""):
                return standing.id == commit.id
        return None

    async def _explain_gap(self, missing: int, pieces: Sequence[Piece]) -> None:
        """Return if nothing says that the missing commit had been durable."""
        floor = (await self._known_floor()).floor
        if missing < floor:
            raise _trimmed(floor)
        for piece in reversed(pieces):
            if piece.first <= missing:
                return
            try:
                later = await read_piece(self._backend, piece)
            except CorruptionError:
                continue
            if later and later[-1].durable >= missing:
                raise CorruptionError(
                    f"{slot_key(missing)} is missing, and {piece.key} says that it was durable",
                    key=slot_key(missing),
                )

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


def _batches(pieces: Sequence[Piece]) -> list[Sequence[Piece]]:
    return [pieces[at : at + _PARALLEL] for at in range(0, len(pieces), _PARALLEL)]


def _clock() -> float:
    """Seconds, on a clock that goes on while the machine sleeps, where there is one."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)
