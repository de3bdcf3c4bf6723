"""The portable commit log: any backend's objects as a log, over `write(when=IF_ABSENT)`.

A commit is one object, `journal/<first seq>.jsonl`, created and never overwritten: who creates it has won the
place. What ships commits that are durable elsewhere puts several into one object, a line each. The log itself keeps no
index; the names of the objects are one. Older commits are packed (`statepath.packs`).
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, TypeGuard, TypeVar

import msgspec

from statepath.aside import aside_key
from statepath.asking import Asking
from statepath.backend import IF_ABSENT, Backend
from statepath.clock import clock
from statepath.commit import FLOOR_KEY, JOURNAL, Commit, encode_commit, slot_key, unseal
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ClosedError,
    ConfigurationError,
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
from statepath.packs import Piece, covers, current, pack, packed_upto, read_piece
from statepath.together import together
from statepath.turns import Turns

T = TypeVar("T")

_REACH: Final = 1024  # how far before a seq the commit that holds it is looked for first
_PARALLEL: Final = 8  # slots deleted at once
_AHEAD: Final = 32  # pieces read ahead, if they have no more than
_AHEAD_BYTES: Final = 64 * 1024 * 1024
_SOONEST: Final = 0.02  # seconds
_LATEST: Final = 2.0
_FEW: Final = 8
"""Slots that are read one after the other, before those behind are listed; if so many take longer than that does."""
_FIRST_SHARE: Final = 1 / 7
"""Of the deadline: so long a call is waited for before another is begun beside it."""
_ROOM: Final = 2
"""Times what the slowest call took: so much time must be left for another, if none has had an effect yet. What the
deadline cuts off may have had one."""

_REFUSALS: Final = (
    AccessDeniedError,
    ClosedError,
    ConfigurationError,
    InvalidArgumentError,
    NotFoundError,
    ReadOnlyError,
    ThrottledError,
)
_WITHOUT_EFFECT: Final = frozenset({"disk_full", "not_sent"})
"""Codes of errors that tell the same."""


class _Floor(msgspec.Struct, frozen=True):
    """As much of the log's own record as a log reads: below `floor` commits may be gone; up to `packed` they are in
    packs, and slots are nothing."""

    floor: int = 0
    packed: int = 0


_decode_floor: Final = msgspec.json.Decoder(_Floor).decode


@dataclass(frozen=True, slots=True)
class _Record:
    """What is sent to one slot: a commit, or several that follow each other."""

    commits: tuple[Commit, ...]

    @property
    def first(self) -> int:
        return self.commits[0].first

    @property
    def last(self) -> int:
        return self.commits[-1].last

    @property
    def ids(self) -> list[str]:
        return [commit.id for commit in self.commits]

    def encode(self) -> bytes:
        return b"".join([encode_commit(commit) for commit in self.commits])


class _Listing(NamedTuple):
    """The pieces that count, and their sizes."""

    record: _Floor
    pieces: list[Piece]
    sizes: dict[Piece, int]


class PortableCommitLog:
    """The commit log of a backend that has no native one.

    Parameters:
        backend: keeps the slots.
        deadline: for how many seconds an append that got no clear answer is sent again.
        once: the same storage without repetitions of its own, for the slots; `None`: the backend is.
        window: for how many seconds, at least, whoever trims the log keeps each commit. A writer that saw the
            head within half of it need not read the floor. 0 promises nothing: each append reads it.
        review: how often, in seconds, a follower that finds nothing new looks at the log as a whole, so that it
            notices that it was trimmed or damaged.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        deadline: float = 30.0,
        window: float = 0.0,
        review: float = 10.0,
        once: Backend | None = None,
    ) -> None:
        self._backend = backend
        self._once = backend if once is None else once
        self._deadline = deadline
        self._window = window
        self._review = review
        self._turn = asyncio.Lock()
        self._turns = Turns()
        self._asking = Asking(backend)
        self._unresolved: _Record | None = None
        self._trouble: StateError | None = None
        self._until = 0.0
        self._head = -1
        self._head_seen = 0.0
        self._last: list[Commit] = []
        self._listing_took = 0.0
        self._news = asyncio.Event()

    async def append(self, after: int, commit: Commit) -> None:
        """As `CommitLog.append`. Once the outcome of an append is open, because it raised
        `OutcomeUnknownError` or was cancelled, only the same commit is taken, until its outcome is known."""
        await self.extend(after, (commit,))

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        """As `SupportsExtend.extend`: one object holds all of them."""
        record = _Record(tuple(commits))
        if record.first != after + 1:
            raise InvalidArgumentError(
                f"a commit behind seq {after} begins at {after + 1}, not {record.first}"
            )
        async with self._turn:  # while one append is under way its outcome is open
            await self._extend(record)

    async def _extend(self, record: _Record) -> None:
        if self._unresolved is not None and self._unresolved.ids != record.ids:
            raise _unknown(self._unresolved)
        loop = asyncio.get_running_loop()
        if rest := self._turns.rest(loop.time()):
            await asyncio.sleep(rest)
        begun, sent = clock(), loop.time()
        self._until = sent + self._deadline
        try:
            committed = await self._place_in_turn(record)
        except TimeoutError as error:
            cause = self._trouble or error
            if self._unresolved is not None:
                raise _unknown(record) from cause
            why = "" if self._trouble is None else f" ({self._trouble})"
            raise UnavailableError(
                f"the storage took nothing within {self._deadline:g} s{why}; nothing was written",
                key=slot_key(record.first),
                code=None if self._trouble is None else self._trouble.code,
            ) from cause
        except Exception as error:
            if self._unresolved is not None:
                raise _unknown(record) from error
            raise
        self._unresolved = None
        if not committed:
            self._turns.lost(loop.time())
            self._asking.lost(loop.time())
            raise HeadMoved(kept=self._asking.hurries)
        self._turns.won(sent, loop.time())
        self._asking.won(loop.time())
        self._saw(record.last, begun)
        self._last = list(record.commits)
        self._news.set()
        self._news = asyncio.Event()

    @property
    def head(self) -> int:
        """Where the log ended when this object last saw its end (-1: it never did)."""
        return self._head

    @property
    def age(self) -> float:
        """How many seconds ago that was."""
        return clock() - self._head_seen

    async def read(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.read`."""
        look = self._step(after) if self._seen_lately(after) else self._read(after, "")
        async with aclosing(look) as commits:
            async for commit in commits:
                yield commit

    async def trim(self, upto: int) -> None:
        """As `CommitLog.trim`; removes as well what the log's own record says is packed.

        The newest slot stays: only its content would tell where it ends.
        """
        packed = (await self._known_record() or _Floor()).packed
        pieces = sorted(await self._list(""))
        slots = [piece for piece in pieces if not piece.is_pack]
        gone = [piece for piece in pieces if piece.is_pack and piece.last <= upto]
        gone += [slot for slot in slots if slot.first <= packed]
        gone += [
            slot for slot, following in pairwise(slots) if slot.first > packed and following.first <= upto + 1
        ]
        for start in range(0, len(gone), _PARALLEL):
            await together(self._backend.delete(piece.key) for piece in gone[start : start + _PARALLEL])

    async def pack(self, upto: int, *, least: int) -> int:
        """Put commits whose last seq is `upto` or lower into packs, if at least so many are not yet; up to which seq
        commits are packed then. It counts when the log's own record says so; then `trim` removes their slots.

        As with `trim`, each of them has been in the log for the whole window.
        """
        record = await self._record() or _Floor()
        slots = current(await self._list(""), record.floor, record.packed)
        slots = [piece for piece in slots if not piece.is_pack]
        if sum(slot.first <= upto for slot in slots) < least:
            return record.packed
        begin = max(record.floor, record.packed + 1)
        if slots and slots[0].first < begin:
            begin = slots[0].first  # it holds the floor
        return max(record.packed, await pack(self._backend, slots, begin, upto))

    async def begin(self) -> int:
        """Where the log begins, as the names of its objects have it: for who cannot open the log's own record."""
        pieces = await self._by_name()
        return pieces[0].first if pieces else 1

    async def begin_behind(self, key: str) -> int | None:
        """As `begin`, where the slot of that key is missing: a trim that was cut off leaves slots before those that it
        has taken. `None`: it is there, or nothing is behind it."""
        gap = Piece.of(key)
        pieces = await self._by_name()
        if gap is None or gap in pieces:
            return None
        return next((piece.first for piece in pieces if piece.first > gap.first), None)

    async def _by_name(self) -> list[Piece]:
        listed = await self._list("")
        return current(listed, 0, packed_upto(listed))

    async def packed(self) -> int:
        """Up to which seq commits are packed, where the log's own record is lost."""
        return packed_upto(await self._list(""))

    async def restart(self, after: int) -> list[str]:
        """As `CommitLog.restart`."""
        kept = []
        self._head, self._last = -1, []
        for piece in sorted(await self._list("")):
            if aside := await self._copy_aside(piece):
                await self._backend.delete(piece.key)
                kept.append(aside)
        self._unresolved = None
        return kept

    async def newest(self) -> tuple[int, str]:
        """As `SupportsNewest.newest`."""
        pieces = await self._list("")
        if not pieces:
            return 0, ""
        piece = max(pieces, key=lambda piece: (max(piece), piece.first))
        try:
            commits = await read_piece(self._backend, piece)
        except CorruptionError:
            commits = None
        return (commits[-1].last, commits[-1].id) if commits else (max(piece), "")

    async def keep(self, begin: int, before: int) -> None:
        """Copy aside what there is from one seq to right before another."""
        for piece in sorted(await self._list("")):
            if begin <= max(piece) and piece.first < before:
                await self._copy_aside(piece)

    async def _copy_aside(self, piece: Piece) -> str:
        """The key of the copy (empty: it was gone)."""
        aside = aside_key(piece.key, "corrupt")
        try:
            blob = await self._backend.read(piece.key)
        except NotFoundError:
            return ""
        await self._backend.write(aside, blob.data)
        return aside

    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        """As `CommitLog.follow`: what this object appends at once, the rest by asking for the next slot."""
        previous = ""
        reviewed = float("-inf")
        busy_since, found = clock(), 0
        pause = _SOONEST
        while True:
            news, now, idle = self._news, clock(), True
            if known is not None and known() > after:
                after, previous = known(), ""
            if not found:
                busy_since = now
            is_behind = found >= _FEW and now - busy_since > found / _FEW * self._listing_took
            due = is_behind or now - reviewed >= self._review
            if due:
                reviewed = now
            look = self._read(after, previous) if due else self._next(after, previous)
            async with aclosing(look) as commits:
                async for commit in commits:
                    after, previous, idle = commit.last, commit.id, False
                    yield commit
            if not idle:
                pause, found = _SOONEST, 0 if due else found + 1
                continue
            found = 0
            try:
                async with asyncio.timeout(pause):
                    await news.wait()
            except TimeoutError:
                pause = min(pause * 1.5, _LATEST)

    async def _place_in_turn(self, record: _Record) -> bool:
        """As `_place`; meanwhile others are asked for a turn, or it is looked whether they ask, where that is due."""
        loop = asyncio.get_running_loop()
        if not self._asking.is_due(loop.time()):
            return await self._place(record)
        placed, wanted = await together((self._place(record), self._asking.speak(loop.time())))
        if wanted:
            self._turns.asked(loop.time(), wanted)
        return bool(placed)

    async def _place(self, record: _Record) -> bool:
        """Send the record to its slot until the storage has answered; whether it stands in the log."""
        self._trouble = None
        async with asyncio.timeout_at(self._until):
            ours = await self._insist(self._send, record)
            if not ours and self._unresolved is None:
                return False
            self._unresolved = record
            if ours and self._seen_lately(record.first - 1):
                return True
            settled = await self._insist(self._settled, record)
            return ours if settled is None else settled

    async def _insist(self, call: Callable[[_Record], Awaitable[T]], record: _Record) -> T:
        """Call again and again, with growing pauses, until the storage answers. A call without an answer goes on, since
        it may only be slow: others are begun beside it, and the first answer counts."""
        now = asyncio.get_running_loop().time
        patience, pause, slowest = self._deadline * _FIRST_SHARE, _SOONEST, 0.0
        calls: dict[asyncio.Future[T], float] = {}
        try:
            while True:
                if self._unresolved is not None or self._until - now() >= _ROOM * slowest:
                    calls[asyncio.ensure_future(call(record))] = now()
                elif not calls:
                    raise TimeoutError
                done, _ = await asyncio.wait(calls, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                slowest = max((slowest, *(now() - calls.pop(one) for one in done)))
                errors = [error for one in done if (error := one.exception()) is not None]
                if len(errors) < len(done):
                    return next(one.result() for one in done if one.exception() is None)
                for error in errors:
                    if not self._worth_repeating(error):
                        raise error
                    self._trouble = error
                if done:
                    await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
                    pause = min(2 * pause, _LATEST)
                else:
                    patience *= 2
        finally:
            for unanswered in calls:
                unanswered.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    def _worth_repeating(self, error: BaseException) -> TypeGuard[StateError]:
        if isinstance(error, UnavailableError):
            return error.code != "disk_full" or self._unresolved is not None
        return isinstance(error, ThrottledError)

    async def _send(self, record: _Record) -> bool:
        """Whether the slot holds the record now."""
        try:
            await self._once.write(slot_key(record.first), record.encode(), when=IF_ABSENT)
        except AlreadyExistsError:
            standing = await read_piece(self._backend, Piece(record.first))
            if standing and self._seen_lately(record.first - 1):
                self._last = standing
            return standing is not None and [one.id for one in standing] == record.ids
        except BaseException as error:
            if not _had_no_effect(error):
                self._unresolved = record
            raise
        # The deadline, or who abandons the append, may overtake the answer.
        self._unresolved = record
        return True

    async def _read(self, after: int, previous: str, reach: int = _REACH) -> AsyncGenerator[Commit]:
        """The commits behind a seq, some at once. The one that holds the next seq is looked for from so far before it
        on, and then everywhere."""
        while True:
            begun = clock()
            listing = await self._listing(after, reach)
            if listing.record.floor > after + 1:
                raise _trimmed(listing.record.floor)
            # A commit is held back until the next one continues it: its slot may have been packed and removed since
            # it was listed, and created again by a writer that slept.
            held: Commit | None = None
            try:
                async with aclosing(self._walk(listing, after, previous)) as walked:
                    async for commit in walked:
                        if held is not None:
                            yield held
                            after, previous = held.last, held.id
                        held = commit
            except CorruptionError:
                if (await self._known_record() or _Floor()).packed > listing.record.packed:
                    continue
                if held is not None:
                    yield held
                raise
            if held is not None:
                yield held
                after = held.last
            self._saw(after, begun)
            return

    async def _walk(self, listing: _Listing, last: int, previous: str) -> AsyncGenerator[Commit]:
        """The commits behind the seq `last`, to where the log ends."""
        begin = max((piece.first for piece in listing.pieces if piece.first <= last + 1), default=last + 1)
        pieces = [piece for piece in listing.pieces if piece.first >= begin]
        async with aclosing(self._whole(pieces, listing.sizes, last, listing.record.packed)) as found:
            async for piece, commits in found:
                if commits is None or piece.first > last + 1:
                    await self._explain_gap(last + 1, pieces)
                    return
                begin = 0 if piece.is_pack else listing.record.floor
                for commit in commits:
                    if commit.last <= last or commit.first < begin:
                        continue
                    _check_chain(commit, previous)
                    last, previous = commit.last, commit.id
                    yield commit
        if last < listing.record.packed:
            await self._explain_gap(last + 1, pieces)

    async def _next(self, after: int, previous: str) -> AsyncGenerator[Commit]:
        asked = clock()
        last = self._last
        commits = (
            last if last and last[0].first == after + 1 else await read_piece(self._backend, Piece(after + 1))
        )
        if self._window and clock() - asked >= self._window / 2:
            return  # the place may be packed or trimmed by now, and this be what a sleeper left there
        if not commits and self._seen_lately(after):
            self._saw(after, asked)
        for commit in commits or ():
            _check_chain(commit, previous)
            previous = commit.id
            yield commit

    async def _step(self, after: int) -> AsyncGenerator[Commit]:
        """The commits behind a seq that was the head not long ago: what follows it cannot have been packed or trimmed
        yet, so nothing has to be read but the slots, one by one, up to the first that is not there. Where a few take
        longer than a listing, the rest is read some at once: who is far away would never reach the end, as long as
        others write."""
        previous, since, called = "", self._head_seen, clock()
        turn, begin, found = 0, after + 1, True
        while found:
            begun = clock()
            turn, begin, found = turn + 1, after + 1, False
            async with aclosing(self._next(after, previous)) as commits:
                async for commit in commits:
                    after, previous, found = commit.last, commit.id, True
                    yield commit
            if not found and clock() - since < self._window / 2:
                self._saw(after, begun)
                return
            few = 0 if self._asking.hurries else _FEW
            if turn >= few and clock() - called > turn / _FEW * self._listing_took:
                break
        # From the last slot on: where nothing is behind what was found, the whole log would be listed.
        reach = after + 1 - begin if found else _REACH
        async with aclosing(self._read(after, previous, reach)) as rest:
            async for commit in rest:
                yield commit

    async def _whole(
        self, pieces: Sequence[Piece], sizes: dict[Piece, int], last: int, packed: int
    ) -> AsyncGenerator[tuple[Piece, list[Commit] | None]]:
        """As `_fetch`, with the slots that are missing between those that were listed: a listing may lag."""
        async with aclosing(self._fetch(pieces, sizes)) as found:
            async for piece, commits in found:
                while packed <= last < piece.first - 1:
                    slot = Piece(last + 1)
                    if not (unlisted := await read_piece(self._backend, slot)):
                        break
                    last = unlisted[-1].last
                    yield slot, unlisted
                if commits:
                    last = commits[-1].last
                yield piece, commits

    async def _fetch(
        self, pieces: Sequence[Piece], sizes: dict[Piece, int]
    ) -> AsyncGenerator[tuple[Piece, list[Commit] | None]]:
        """The pieces' commits in order, some read ahead; `None` for one that is gone."""
        waiting = deque(pieces)
        ahead: deque[tuple[Piece, asyncio.Task[list[Commit] | None]]] = deque()
        room = _AHEAD_BYTES
        try:
            while waiting or ahead:
                while waiting and len(ahead) < _AHEAD and (not ahead or sizes[waiting[0]] <= room):
                    piece = waiting.popleft()
                    room -= sizes[piece]
                    ahead.append((piece, asyncio.create_task(read_piece(self._backend, piece))))
                piece, task = ahead.popleft()
                yield piece, await task
                room += sizes[piece]
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _listing(self, after: int, reach: int) -> _Listing:
        """The pieces that count, in order, from the one on that holds `after + 1`."""
        start = slot_key(after - reach) if after > reach else ""
        packed = 0
        while True:
            begun = clock()
            sizes = await self._sizes(start)
            listed = list(sizes)
            # Read after the listing: had a later piece been there and trimmed, the floor would say so.
            record = await self._known_record() or _Floor(packed=packed_upto(listed))
            self._listing_took = clock() - begun
            pieces = current(listed, record.floor, record.packed)
            if start and (not pieces or pieces[0].first > after + 1):
                start = ""
            elif record.packed == packed or covers(pieces, max(after, record.floor - 1), record.packed):
                return _Listing(record, pieces, sizes)
            else:
                # They were packed during the listing; the packs had been written before the record said so.
                start, packed = "", record.packed

    async def _list(self, start: str) -> list[Piece]:
        return list(await self._sizes(start))

    async def _sizes(self, start: str) -> dict[Piece, int]:
        entries = self._backend.list_keys(JOURNAL, after=start)
        return {piece: entry.size async for entry in entries if (piece := Piece.of(entry.key)) is not None}

    async def _record(self) -> _Floor | None:
        """
        Raises:
            CorruptionError: it is damaged.
        """
        try:
            blob = await self._backend.read(FLOOR_KEY)
        except NotFoundError:
            return None
        try:
            return _decode_floor(unseal(blob.data, "record"))
        except (CorruptionError, msgspec.MsgspecError) as error:
            raise CorruptionError(f"{FLOOR_KEY} does not say where the log begins", key=FLOOR_KEY) from error

    async def _known_record(self) -> _Floor | None:
        """Readers take the pieces as they find them if the record is lost: whoever opens the store mends it."""
        try:
            return await self._record()
        except CorruptionError:
            return None

    async def _settled(self, record: _Record) -> bool | None:
        """Whether all of the record stands in the log, where its slot is nothing any more: it was trimmed, or packed.
        `None`: a slot there counts. Of a record that holds the floor, what is above tells of all.

        Raises:
            OutcomeUnknownError: the floor has passed it, and nothing in the log tells.
        """
        floor = await self._record() or _Floor()
        if record.first >= floor.floor and record.first > floor.packed:
            return None
        after = max(record.first, floor.floor) - 1
        wanted = [commit.id for commit in record.commits if commit.last > after]
        standing: list[Commit] = []
        async with aclosing(self._read(after, "")) as commits:
            async for commit in commits:
                standing.append(commit)
                if len(standing) >= len(wanted):
                    break
        if standing and wanted:
            return [commit.id for commit in standing] == wanted
        if standing and standing[0].prev == record.ids[-1]:
            return True
        raise _unknown(record)

    async def _explain_gap(self, missing: int, pieces: Sequence[Piece]) -> None:
        """Return if nothing says that the missing commit had been durable."""
        record = await self._known_record() or _Floor()
        if missing < record.floor:
            raise _trimmed(record.floor)
        if missing <= record.packed:
            raise CorruptionError(
                f"{slot_key(missing)} was packed, and the pack is missing", key=slot_key(missing)
            )
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

    def _seen_lately(self, head: int) -> bool:
        """Whether the log ended there within half the time that each commit is kept for."""
        return self._head == head and clock() - self._head_seen < self._window / 2

    def _saw(self, head: int, when: float) -> None:
        self._head, self._head_seen = head, when


def _check_chain(commit: Commit, previous: str) -> None:
    if previous and commit.prev != previous:
        key = slot_key(commit.first)
        raise CorruptionError(f"{key} does not continue the commit before it", key=key)


def _had_no_effect(error: BaseException) -> bool:
    return isinstance(error, _REFUSALS) or (isinstance(error, StateError) and error.code in _WITHOUT_EFFECT)


def _unknown(record: _Record) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        f"it could not be found out whether the commit of seq {record.first} to {record.last} is durable; "
        "open the store again to see what holds",
        key=slot_key(record.first),
    )


def _trimmed(floor: int) -> HistoryTrimmedError:
    return HistoryTrimmedError(f"the log begins at seq {floor}; what came before was trimmed", floor=floor)
