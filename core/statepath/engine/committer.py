"""Group commit: what arrived while the previous commit was under way becomes the next one.

There is no timer: at one save in flight a save is written at once (rule 11 of the commit protocol).
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import random
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from hashlib import sha256
from statistics import median_low
from typing import Final, NamedTuple, cast

import msgspec
from msgspec import Raw

from statepath.attempts import ATTEMPTS
from statepath.backend import Backend, CommitLog, SupportsPlacing
from statepath.clock import clock
from statepath.commit import (
    BODIES,
    MAX_COMMIT_BYTES,
    Body,
    Commit,
    Put,
    Transaction,
    encode_changes,
    microseconds,
)
from statepath.engine.answering import Answers
from statepath.engine.lasting import ENDINGS, LastingTask
from statepath.engine.pending import Decide, Document, Pending, Refused, decided, decline, outrun
from statepath.engine.replica import Entry, Replica, Stage
from statepath.engine.trouble import Trouble
from statepath.engine.unloaded import Elsewhere
from statepath.engine.validating import Read, decisive, validated
from statepath.errors import (
    AccessDeniedError,
    ClosedError,
    ConflictError,
    HeadMoved,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from statepath.telemetry import Telemetry

logger = logging.getLogger("statepath.engine")

_BACKLOG_BYTES: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 256
_WAITS: Final = 8
_RECORD: Final = 384
_TRANSACTION: Final = 64
_NOTHING_WRITTEN: Final = (AccessDeniedError, ThrottledError, UnavailableError)

KEEP_BODIES: Final = 24 * 3600.0
"""Seconds: no body younger than this is ever collected, so that a commit can be about to name it."""


class Fence(NamedTuple):
    """A lease's epoch that must still hold when anything is committed by this committer."""

    committer: Committer
    read: Read


FENCES: Final[ContextVar[tuple[Fence, ...]]] = ContextVar("statepath_fences", default=())
"""The fences that the present task works within."""


@contextmanager
def unfenced() -> Iterator[None]:
    """What is given back or taken away is so, also by who has lost a lease around it."""
    token = FENCES.set(())
    try:
        yield
    finally:
        FENCES.reset(token)


class _LookFirst(HeadMoved):
    """Nothing is refused, or decided, before it is known whether another writer has the place."""


class Committer:
    """Takes transactions, makes them durable in groups, and shows them to readers once they are.

    Whoever moves the replica's head holds `advancing`: from the moment that a commit is put together until it is
    visible, nothing of other writers comes in between, unless it does not matter to the commit. `alone` says that
    there are none. `committed` is called for every commit that has become durable and visible, also with when it was
    begun to be appended, on the leases' clock. `lost_to` brings the replica up to what other writers committed: to
    these commits, or without any to what it reads; and so does `behind`, up to a seq, for who holds `advancing`.
    `deadline` is how long a storage may take to answer to as much as a whole commit holds. `max_document` bounds what
    documents grow to, in bytes. `elsewhere` is where the documents are that the replica does not hold.
    """

    def __init__(
        self,
        replica: Replica,
        log: CommitLog,
        backend: Backend,
        *,
        store: str,
        incarnation: str,
        advancing: asyncio.Lock,
        alone: bool,
        committed: Callable[[Commit, Sequence[Transaction], Stage, int, float], None],
        lost_to: Callable[[Sequence[Commit]], Awaitable[None]],
        behind: Callable[[Sequence[Commit], int], Awaitable[None]],
        failed: Callable[[StateError], None],
        deadline: float,
        max_document: int,
        elsewhere: Elsewhere | None,
        telemetry: Telemetry,
    ) -> None:
        self._max_document = max_document
        self._telemetry = telemetry
        self._traced = telemetry.traced
        self._replica = replica
        self._log = log
        self._backend = backend
        self._store = store
        self._incarnation = incarnation
        self._advancing = advancing
        self._alone = alone
        self.writer = f"{os.getpid():x}-{secrets.token_hex(6)}"
        self._committed = committed
        self._lost_to = lost_to
        self._behind = behind
        places = not alone and elsewhere is None and isinstance(log, SupportsPlacing)
        self._placing = cast("SupportsPlacing", log) if places else None
        self._met = False
        self._failed = failed
        self._deadline = deadline
        self._elsewhere = elsewhere
        self._pending: deque[Pending] = deque()
        self._bytes = 0
        self._waiting_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._answers = Answers(self._loop, overlapping=backend.capabilities.overlapping)
        self._wake: asyncio.Future[None] | None = None
        self.crowded = False
        self._room = asyncio.Event()
        self._failure: StateError | None = None
        self.trouble: Trouble | None = None
        self._closing = False
        self._busy = False
        self._group: list[Pending] = []
        """What is being committed."""
        self._task = LastingTask(self._run, lambda: bool(self._pending), "statepath-committer")

    @property
    def busy(self) -> bool:
        """Whether a commit is under way or waiting."""
        return self._busy or bool(self._pending)

    @property
    def failure(self) -> StateError | None:
        """Why no further commits are taken, if so."""
        return self._failure

    @property
    def incarnation(self) -> str:
        return self._incarnation

    def submit(self, changes: Transaction, size: int, reads: Sequence[Read] = ()) -> asyncio.Future[int]:
        """Queue one transaction of `size` bytes. The future gives its seq when it is durable, or 0 if it changes
        nothing."""
        return self._queue(changes, size, reads, None)

    def put(self, document: Document) -> asyncio.Future[int]:
        """Queue the commonest transaction: a put, whatever is stored."""
        collection, id, data, _ = document
        return self._queue((Put(collection, id, Raw(data)),), len(data), (), document)

    def decide(self, decide: Decide) -> asyncio.Future[int]:
        """Queue a transaction that depends on what is stored: it is made when its turn comes, and nothing that it
        depends on comes in between, whoever commits. What `decide` raises is its caller's.

        Where others are first, it is made again, behind what waits then: in 32 attempts, then it is a `ConflictError`.
        """
        return self._queue((), MAX_COMMIT_BYTES, (), None, decide)

    def _queue(
        self,
        changes: Transaction,
        size: int,
        reads: Sequence[Read],
        put: Document | None,
        decide: Decide | None = None,
    ) -> asyncio.Future[int]:
        if self._failure is not None:
            raise copy.copy(self._failure)
        if self._closing:
            raise ClosedError("the store is closed; open it again to save")
        if fences := FENCES.get():
            own = [fence.read for fence in fences if fence.committer is self]
            if own:
                reads, put = (*reads, *own), None
        done: asyncio.Future[int] = self._loop.create_future()
        if not self._pending:
            self._waiting_since = time.perf_counter()
        span = self._telemetry.saving(changes, done) if self._traced and (changes or decide) else None
        # One that is to be decided has the size of a whole commit: so it is the first one of its own.
        self._pending.append(Pending(changes, size, done, reads, put, span, decide))
        self._bytes += size
        if self._bytes > _BACKLOG_BYTES:
            self.crowded = True
            self._room.clear()
        wake = self._wake
        if wake is not None:
            self._wake = None
            if wake.done():  # cancelled, and the task with it
                self._task.attend()
            else:
                wake.set_result(None)
        return done

    async def room(self) -> None:
        """Wait while so much is queued (`crowded`) that more should not be added."""
        while self.crowded:
            await self._room.wait()

    async def drain(self) -> None:
        """Wait until everything that was submitted so far is durable, or has failed."""
        waiting = [pending.done for pending in (*self._group, *self._pending)]
        if self._busy:
            # Those who wait for it may be gone.
            waiting.append(self.submit((), 0))
        # Each failure reaches the caller that it belongs to; and who waits here may be cancelled, they may not.
        await asyncio.gather(*map(asyncio.shield, waiting), return_exceptions=True)

    async def close(self) -> None:
        """Commit what is queued, then take no more."""
        self._closing = True
        wake = self._wake
        if wake is not None and not wake.done():
            self._wake = None
            wake.set_result(None)
        await self._task.join()

    def stop(self, error: StateError) -> None:
        """Commit nothing any more, what is under way excepted; whoever waits or comes gets the error."""
        self._stop(error, [])

    async def abandon(self) -> None:
        """Stop at once. Whoever still waits is told that the outcome is unknown."""
        try:
            await self._task.stop()
        finally:
            if self._pending:
                self._stop(_cut_off(), [])

    async def _run(self) -> None:
        try:
            while self._pending or not self._closing:
                if self._answers.halved:
                    await asyncio.sleep(0)  # those that were told save again, mostly
                if not self._pending:
                    self._answers.finish()
                    if self._closing:
                        break
                    self._busy, self._group = False, []
                    self._wake = self._loop.create_future()
                    if self._task.again:
                        self._wake.cancel()  # who saves next begins it once more
                    await self._wake
                    continue
                self._busy = True
                began = self._waiting_since
                self._group = group = self._take()
                self._answers.begin()
                try:
                    await self._commit(group, began)
                except UnsupportedError as error:
                    self._telemetry.not_committed(error, time.perf_counter() - began)
                    self._stop(error, group)
                except StateError as error:
                    self._telemetry.not_committed(error, time.perf_counter() - began)
                    self._refuse(group, error)
                    self._tell(error)
        except ENDINGS:
            if self._busy:
                self._stop(_cut_off(), self._group)
            raise
        except Exception as error:
            logger.exception("the commit log failed unexpectedly")
            self._stop(OutcomeUnknownError(f"the commit log failed unexpectedly: {error!r}"), self._group)
        finally:
            self._answers.finish()
        self._busy = False

    def _take(self) -> list[Pending]:
        group: list[Pending] = []
        self._more(group)
        return group

    def _more(self, group: list[Pending]) -> None:
        """Add what has arrived, as far as one commit can hold it."""
        size = 0
        for one in group:
            size += one.size + _OVERHEAD
        pending = self._pending
        while pending:
            one = pending[0]
            size += one.size + _OVERHEAD
            if group and size > MAX_COMMIT_BYTES:
                break
            group.append(pending.popleft())
            self._bytes -= one.size
        if pending:
            self._waiting_since = time.perf_counter()
        if self.crowded and self._bytes <= _BACKLOG_BYTES:
            self.crowded = False
            self._room.set()

    async def _commit(self, group: list[Pending], began: float) -> None:
        current = self._alone
        attempts: list[float] = []
        while True:
            tried = self._loop.time()
            try:
                async with self._advancing:
                    await self._place(group, began, current=current)
            except HeadMoved as moved:
                attempts.append(self._loop.time() - tried)
                if len(attempts) > 1 and not moved.kept:
                    # Among many, whoever lets a few others go first wastes fewer attempts, and takes more along.
                    # An attempt that hung says nothing of the next ones.
                    pause = median_low(attempts) * min(len(attempts), _WAITS)
                    await asyncio.sleep(random.random() * pause)  # noqa: S311 - no secret
                await self._lost_to(moved.commits)
                taken = len(group)
                if not isinstance(moved, _LookFirst):
                    self._more(group)
                # What arrived since may depend on what was not there yet for that look.
                current = len(group) == taken
            else:
                return

    async def _place(self, group: list[Pending], began: float, *, current: bool) -> None:
        """Try the next place in the log with what of the group does not conflict. `current` says that the replica has
        been at the head since the group was taken.

        Raises:
            HeadMoved: another writer has it; or nothing is refused before it is known whether one has.
        """
        if self._failure is not None:
            raise copy.copy(self._failure)
        replica = self._replica
        if (decide := group[0].decide) is not None:
            if not current:
                raise _LookFirst
            if group[0].done.done():
                return
            try:
                group[0] = decided(group[0], decide(replica), replica.head)
            except Exception as error:  # noqa: BLE001 - the caller gets it, and the handle goes on
                decline([(group[0], error)])
                return
        below: Replica | Stage = replica
        if self._elsewhere is not None:
            try:
                below = await self._documents(self._elsewhere, group)
            except StateError as error:
                # A plain save asks for none of them, and is not to fail with those that do.
                self._telemetry.not_committed(error, time.perf_counter() - began)
                self._tell(error)
                self._refuse([one for one in group if any(decisive(one.changes, one.reads))], error)
        first = replica.head + 1
        now = max(time.time_ns() // 1000, replica.time + 1)
        stage = Stage(below)
        accepted, transactions, refused = self._stage(group, stage, first, now)
        if refused and (undecided := refused[0][0].undecided) and isinstance(refused[0][1], ConflictError):
            del group[0]
            self._put_behind(undecided, refused.pop(0)[1])
        if not transactions:
            if not current and any(one.changes for one, _ in refused):
                raise _LookFirst
            decline(refused)
            return
        id = os.urandom(12).hex()
        size = sum([one.size for one in accepted])
        stored: tuple[Transaction | Body, ...] = tuple(transactions)
        since = None
        if size + _OVERHEAD * len(accepted) > MAX_COMMIT_BYTES:
            stored, since = await self._bodies(id, accepted, transactions)
        commit = Commit(
            first=first,
            last=first + len(transactions) - 1,
            id=id,
            prev=replica.commit,
            writer=self.writer,
            store=self._store,
            incarnation=self._incarnation,
            time=datetime.fromtimestamp(now / 1_000_000, UTC),
            durable=replica.head,
            transactions=stored,
        )
        begun = clock()
        try:
            if self._traced:
                with self._telemetry.commit([one.span for one in accepted]):
                    commit = await self._append(commit, accepted, refused)
            else:
                commit = await self._append(commit, accepted, refused)
            if since is not None and clock() - since > KEEP_BODIES / 2:
                await self._write_again(commit, transactions)
        except _NOTHING_WRITTEN as error:
            self._telemetry.not_committed(error, time.perf_counter() - began)
            self._refuse(group, error)
            self._tell(error)
            return
        except StateError as error:
            self._telemetry.not_committed(error, time.perf_counter() - began)
            self._stop(error, group)
            return
        if commit.first != first:
            first, now = commit.first, microseconds(commit.time)
            stage = Stage(replica)
            _stage_again(stage, accepted, first, now)
        stage.install(replica, commit.last, id, now)
        self.trouble = None
        self._answers.durable([one.done for one in accepted], first, waiting=len(self._pending))
        if refused:
            decline(refused)
        took = time.perf_counter() - began
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "committed seq %d to %d in %.1f ms",
                first,
                commit.last,
                took * 1000,
                extra={"seq": commit.last, "bytes": size},
            )
        self._telemetry.committed(len(accepted), size, took)
        size += _RECORD + _TRANSACTION * len(accepted)
        self._committed(commit, transactions, stage, size, begun)

    def _put_behind(self, undecided: Pending, conflict: Exception | None) -> None:
        """What was decided does not hold any more: it is decided again when what waits by now has had its turn."""
        again = msgspec.structs.replace(undecided, overtaken=undecided.overtaken + 1)
        if again.overtaken == ATTEMPTS:
            decline([(again, outrun(conflict))])
            return
        if not self._pending:
            self._waiting_since = time.perf_counter()
        self._pending.append(again)
        self._bytes += again.size

    async def _append(self, commit: Commit, accepted: list[Pending], refused: list[Refused]) -> Commit:
        """Make the commit durable; as it stands in the log, with the replica at what is before it."""
        after = self._replica.head
        # The first one meets whatever was committed before, so that a program sees once what others need it to know.
        if (
            self._placing is None
            or not self._met
            or any(one.changes for one, _ in refused)
            or not all(map(_depends_on_nothing, accepted))
        ):
            await self._log.append(after, commit)
            self._met = True
            return commit
        commit, before = await self._placing.place(after, commit)
        if commit.first > after + 1:
            try:
                await self._behind(before, commit.first - 1)
            except StateError as error:
                raise OutcomeUnknownError(
                    f"the change is durable, but not what came before it known: {error}"
                ) from error
        return commit

    async def _documents(self, elsewhere: Elsewhere, group: list[Pending]) -> Replica | Stage:
        """The replica, and over it the documents that decide about the group's changes, as of the same seq or a later
        one: then the place behind the replica's head is taken, and what is not refused is looked at again."""
        waiting = [pending for pending in group if not pending.done.done()]  # others were refused already
        keys = list({key for pending in waiting for key in decisive(pending.changes, pending.reads)})
        if not keys:
            return self._replica
        found = await elsewhere.read(keys)
        below = Stage(self._replica)
        below.entries.update((key, found.get(key)) for key in keys)
        return below

    def _stage(
        self, group: list[Pending], stage: Stage, first: int, now: int
    ) -> tuple[list[Pending], list[Transaction], list[Refused]]:
        """What goes into the commit, and what does not. The latter is told only when the commit is durable: it may
        have met nothing but a change that stands in the same commit."""
        accepted: list[Pending] = []
        transactions: list[Transaction] = []
        refused: list[Refused] = []
        seq = first
        for pending in group:
            changes = pending.changes
            if pending.done.done():
                continue
            if pending.put is not None:
                collection, id, data, complete = pending.put
                stage.entries[collection, id] = Entry(data, seq, now, complete)
            else:
                try:
                    changes = validated(changes, pending.reads, stage, seq, now, limit=self._max_document)
                except StateError as error:
                    refused.append((pending, error))
                    continue
                if not changes:
                    refused.append((pending, None))
                    continue
            accepted.append(pending)
            transactions.append(changes)
            seq += 1
        return accepted, transactions, refused

    async def _bodies(
        self, id: str, accepted: list[Pending], transactions: list[Transaction]
    ) -> tuple[tuple[Transaction | Body, ...], float | None]:
        """The transactions as a commit has them that would be too large with all in it, and since when bodies of it may
        be stored."""
        stored: list[Transaction | Body] = []
        since: float | None = None
        for pending, changes in zip(accepted, transactions, strict=True):
            if pending.size + _OVERHEAD <= MAX_COMMIT_BYTES:
                stored.append(changes)
                continue
            since = clock() if since is None else since
            data = encode_changes(changes)
            body = Body(f"{BODIES}{id}/{len(stored)}", len(data), sha256(data).hexdigest())
            patience = self._deadline * max(1.0, len(data) / MAX_COMMIT_BYTES)
            try:
                async with asyncio.timeout(patience):
                    await self._backend.write(body.key, data)
            except TimeoutError:
                # Nothing names it yet: whatever becomes of it, nothing was changed.
                raise UnavailableError(
                    f"the storage did not take {body.key}, the body of a large change, within {patience:.0f} s; nothing"
                    " was written. Check that it can be reached, then save again",
                    key=body.key,
                ) from None
            stored.append(body)
        return tuple(stored), since

    async def _write_again(self, commit: Commit, transactions: list[Transaction]) -> None:
        """Write the bodies of a durable commit once more: they may have been collected before it named them."""
        try:
            for body, changes in zip(commit.transactions, transactions, strict=True):
                if isinstance(body, Body):
                    await self._backend.write(body.key, encode_changes(changes))
        except StateError as error:
            raise OutcomeUnknownError(
                f"the change is durable, but a part of it that may be missing could not be written again: {error}"
            ) from error

    def _refuse(self, group: list[Pending], error: StateError) -> None:
        for pending in group:
            if not pending.done.done():
                pending.done.set_exception(copy.copy(error))

    def _tell(self, error: StateError) -> None:
        self.trouble = Trouble(error)
        self._failed(error)

    def _stop(self, error: StateError, group: list[Pending]) -> None:
        self._answers.finish()
        first, self._failure = self._failure is None, error
        self._refuse(group, error)
        self._refuse(list(self._pending), error)
        self._pending.clear()
        self._bytes = 0
        self.crowded = False
        self._room.set()
        if first:
            self._tell(error)


def _cut_off() -> OutcomeUnknownError:
    return OutcomeUnknownError("the store was closed, or its task ended, in the middle of a commit")


def _depends_on_nothing(pending: Pending) -> bool:
    """Whether the transaction is the same behind whatever others commit: it puts one document, unchecked."""
    return pending.put is not None and pending.size + _OVERHEAD <= MAX_COMMIT_BYTES


def _stage_again(stage: Stage, accepted: list[Pending], first: int, now: int) -> None:
    """What such transactions do, from another seq on."""
    for seq, pending in enumerate(accepted, first):
        if pending.put is not None:
            collection, id, data, complete = pending.put
            stage.entries[collection, id] = Entry(data, seq, now, complete)
