"""The one thread that writes the journal: one pwrite and one data sync a commit, or for several that come at once.

Where several handles write, one has its turn at a time: it holds the lock of the journal's folder, goes on where the
one before it stopped, and tells the next one where that is. A lock ends with its holder: whoever then finds a change
begun and not ended does first what an opener does, and so nobody builds on what may not be durable.
"""

from __future__ import annotations

import copy
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from statepath.backend import Commit, encode_commit, microseconds, moved_behind
from statepath.errors import (
    CorruptionError,
    DivergedError,
    HeadMoved,
    InvalidArgumentError,
    OutcomeUnknownError,
    StateError,
)

from statepath_local.cursor import Cursor, Place
from statepath_local.failures import FULL, SCHEME, failing, state_error
from statepath_local.lock import WriterLock
from statepath_local.mark import Mark
from statepath_local.port import read_all, write_all
from statepath_local.repair import Head, repair
from statepath_local.segments import (
    JOURNAL,
    LARGEST,
    SMALLEST,
    Segment,
    Spares,
    create_filled,
    list_segments,
    open_segment,
    seal,
    segment_name,
)
from statepath_local.tree import LOCK, Tree

T = TypeVar("T")
Settle = Callable[[Any, BaseException | None], None]

_SECOND_TRY = 0.01
"""Seconds for which a turn that found the head moved goes on, so that who lost takes over a few commits and comes
next."""

_FEW = 16
"""With so many commits of others to take over, who lost is back within its second try; more it reads while others go
on."""

_NEAR = 1024 * 1024
"""Bytes of others' commits that are read, or passed, at once: more would hold up those who wait for their turn."""

_PLACES = 4


class Writer:
    """Holds the head of the journal. What changes it runs in its thread, handed over by `submit`."""

    def __init__(
        self, tree: Tree, lock: WriterLock, background: Callable[[Callable[[], None]], object]
    ) -> None:
        self._tree = tree
        self._port = tree.port
        self._lock = lock
        self._spares = Spares(tree, background)
        self._journal = -1
        self._segment: Segment | None = None
        self._refusal: StateError | None = None
        self._opening = threading.Lock()
        self._opened = False
        self._found: Head | None = None
        self._empty = True
        self._durable, self._id = lock.durable, ""
        self._bound, self._time = lock.durable, 0
        self._history = ""
        self._changing = False
        self._turn_ends: float | None = None
        self._places: dict[int, Place] = {}
        self._remembering = threading.Lock()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Settle] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="statepath-journal", daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Make the journal end as it should; before it is first read or written, and not before that: what a
        newer program wrote is noticed elsewhere first, and stays as it is."""
        with self._opening:
            if self._opened:
                return
            if self._lock.shared:
                with failing(JOURNAL):
                    self._enter()
                with suppress(CorruptionError), self._turn():
                    pass
                self._opened = True
                return
            try:
                with failing(JOURNAL):
                    head = self._found = repair(self._tree, self._lock.durable)
                    self._empty = head is None
                    self._stands_at(head)
                    self._lock.publish(self._durable)
            except CorruptionError as error:
                self._refusal = error
            self._opened = True

    def limit(self) -> int | None:
        """The highest seq that may be served; `None` for a damaged journal, which is not written."""
        if isinstance(self._refusal, CorruptionError):
            return None
        if not self._lock.shared:
            return self._durable
        with failing(LOCK):
            # What this handle made durable it may serve, also where it could not tell the others.
            return max(self._lock.look()[0], self._durable)

    def place_behind(self, after: int) -> Place | None:
        """Where the commit behind the seq stands, or will, if that was met lately."""
        return self._places.get(after)

    def remember(self, place: Place) -> None:
        """It is from where somebody will read on."""
        with self._remembering:
            places = {**self._places, place.seq: place}
            self._places = dict(sorted(places.items())[-_PLACES:])

    def damage(self, after: int) -> CorruptionError | None:
        """Why no commit can follow the seq, although whoever reads behind it may have noticed nothing."""
        if isinstance(self._refusal, CorruptionError):
            return copy.copy(self._refusal)
        durable = self.limit()
        if self._empty or durable is None or durable >= after:
            return None
        return CorruptionError(
            f"{JOURNAL} ends with seq {durable}, and seq {after} had been durable: its end is missing",
            key=JOURNAL,
            backend=SCHEME,
        )

    def submit(self, call: Callable[[], T], settle: Settle) -> None:
        """Run the call in the writer's thread, which then calls `settle(result, error)`."""
        self._jobs.put((call, settle))

    def _work(self) -> None:
        while (job := self._next_job()) is not None:
            call, settle = job
            result, failure = None, None
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits, whatever it is
                failure = error
            if not self._lock.shared and self._lock.durable != self._durable:
                # Before the acknowledgement: who hears of it may look with another handle at once.
                with suppress(OSError):
                    self._lock.publish(self._durable)
            settle(result, failure)
        self._end_turn()

    def _next_job(self) -> tuple[Callable[[], Any], Settle] | None:
        if self._turn_ends is not None:
            try:
                return self._jobs.get(timeout=max(0.0, self._turn_ends - time.monotonic()))
            except Empty:
                self._end_turn()
        return self._jobs.get()

    def share(self) -> None:
        """Let other writers in."""
        self.open()
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        with failing(JOURNAL):
            self._enter()
            self._history = secrets.token_hex(8)
            self._lock.share(self._end())

    def _enter(self) -> None:
        """Have the journal's folder open."""
        if self._journal < 0:
            self._journal = self._tree.folder([JOURNAL], create=True)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """While this handle alone changes the journal, and knows where it ends."""
        if not self._lock.shared:
            yield
            return
        if self._turn_ends is None:
            with failing(JOURNAL):
                self._enter()
                self._port.flock(self._journal, fcntl.LOCK_EX)
        self._turn_ends = None
        again = False
        try:
            self._go_on()
            yield
        except HeadMoved as moved:
            again = moved.kept
            raise
        finally:
            if self._changing and self._refusal is None:
                self._leave()
            if again:
                self._turn_ends = time.monotonic() + _SECOND_TRY
            else:
                self._let_next()

    def _end_turn(self) -> None:
        if self._turn_ends is not None:
            self._turn_ends = None
            self._let_next()

    def _let_next(self) -> None:
        """Let the next one have its turn."""
        try:
            self._port.flock(self._journal, fcntl.LOCK_UN)
        except OSError:  # a lock ends with its descriptor, too
            self._port.close(self._journal)
            self._journal = -1

    def _begin_change(self) -> None:
        """Tell whoever comes next, should this handle not live to say where the journal ends."""
        self._check_files()
        with failing(JOURNAL):
            self._tree.settle([JOURNAL])
        if self._lock.shared and not self._changing:
            try:
                self._lock.begin()
            except OSError as error:
                raise state_error(error, JOURNAL) from error
            self._changing = True

    def _check_files(self) -> None:
        """That what was opened is what the state path leads to still."""
        with failing(LOCK):
            if not self._lock.is_named():
                raise self._refuse(
                    f"the file {LOCK} was removed or replaced while the store was open, so others may write to it "
                    "as if they were alone: nothing was saved; open the store again",
                    LOCK,
                )
        segment = self._segment
        if segment is not None and not self._is_there(segment):
            raise self._refuse(
                f"{JOURNAL}/{segment.name} was removed or replaced while the store was open: nothing was saved; close "
                "the store, which writes a snapshot, and open it again",
                f"{JOURNAL}/{segment.name}",
            )

    def _is_there(self, segment: Segment) -> bool:
        """Whether the segment stands under its name still: what goes into it otherwise is lost."""
        with failing(key := f"{JOURNAL}/{segment.name}", key):
            try:
                self._port.stat(key, within=self._tree.root)
            except (FileNotFoundError, NotADirectoryError):
                return False
            return self._port.fstat(segment.fd).st_nlink > 0

    def _refuse(self, why: str, key: str) -> StateError:
        """Take no more commits."""
        self._refusal = DivergedError(why, key=key, backend=SCHEME)
        return copy.copy(self._refusal)

    def _leave(self) -> None:
        """Before the acknowledgement: whoever hears of it may look with another handle at once."""
        mark = self._end()
        # Without it the next one looks for the end, and finds it.
        with suppress(OSError):
            self._lock.leave(mark)
        self._changing = False

    def _end(self) -> Mark:
        segment, found = self._segment, self._found
        place = (-1, 0, 0)
        if segment is not None:
            place = (segment.first, segment.end, segment.inode)
        elif found is not None:
            place = (found.segment, found.end, 0)
        return Mark(self._durable, self._id, *place, self._bound, self._time, self._history, self._lock.boot)

    def _stands_at(self, head: Head | None) -> None:
        self._durable, self._id = (0, "") if head is None else (head.seq, head.id)
        self._bound, self._time = self._durable, 0

    def _go_on(self) -> None:
        """Take over what other handles did since the last turn."""
        with failing(JOURNAL):
            if self._lock.is_as_left():
                return
            durable, mark = self._lock.look()
        if mark is None:
            self._repair(durable)
        elif self._history and mark.history != self._history:
            self._refusal = DivergedError(
                f"{JOURNAL} was begun anew by another process; open the store again", backend=SCHEME
            )
            raise copy.copy(self._refusal)
        elif self._take_over(mark):
            self._history = mark.history
        else:
            self._repair(durable)

    def _take_over(self, mark: Mark) -> bool:
        """Be where the mark says; whether the journal is as it says."""
        segment = self._segment
        if segment is not None and segment.inode != mark.inode:
            self._port.close(segment.fd)
            segment = self._segment = None
        if segment is None and mark.inode:
            with failing(JOURNAL):
                name = segment_name(mark.segment)
                try:
                    fd = open_segment(self._port, self._journal, mark.segment, os.O_RDWR)
                except FileNotFoundError:
                    return False
                found = self._port.fstat(fd)
                if found.st_ino != mark.inode:
                    self._port.close(fd)
                    return False
            size = found.st_size
            segment = self._segment = Segment(mark.segment, name, fd, mark.end, size, size, mark.inode)
        if segment is not None:
            segment.end = mark.end
        self._found = Head(mark.seq, mark.id, mark.segment, mark.end) if mark.segment >= 0 else None
        self._empty = self._found is None and not mark.seq
        self._durable, self._id = mark.seq, mark.id
        self._bound, self._time = mark.bound, mark.time
        return True

    def _repair(self, durable: int) -> None:
        """Do what an opener does: the last one who changed the journal ended before it was done."""
        if self._segment is not None:
            # What follows goes into a new one: somebody may still have this one open, and cut it off.
            self._port.close(self._segment.fd)
            self._segment = None
        self._begin_change()
        try:
            with failing(JOURNAL):
                head = self._found = repair(self._tree, durable)
        except CorruptionError as error:
            self._refusal = error
            raise copy.copy(error) from error
        except BaseException:
            # This handle does not know where the journal ends: whoever comes next has to look, too.
            self._changing = False
            raise
        self._empty = head is None
        self._stands_at(head)
        if not self._history:
            self._history = self._lock.history() or secrets.token_hex(8)

    def append(self, after: int, commits: Sequence[Commit]) -> None:
        """Make the commits durable behind the seq, if it is the last one."""
        self.open()
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        with self._turn():
            self._append(after, commits)
            self._bound = self._durable
        self._remember_end()

    def place(self, after: int, commit: Commit) -> tuple[Commit, list[Commit]]:
        """As `SupportsPlacing.place`. Only what stands in the same segment is passed: it can be read afterwards, which
        is what the turn does not wait for."""
        self.open()
        if self._refusal is not None:
            raise copy.copy(self._refusal)
        with self._turn():
            known = self._near(after)
            if self._bound <= after < self._durable and known is not None and known.id == commit.prev:
                commit = moved_behind(commit, self._durable, self._id, self._time)
            self._append(commit.first - 1, (commit,))
        before = commit.first - 1
        missed = self._missed(after, before) if before > after else []
        self._remember_end()
        return commit, missed

    def _remember_end(self) -> None:
        """From where this handle, or its follower, reads on."""
        segment = self._segment
        if self._lock.shared and segment is not None:
            self.remember(Place(self._durable, self._id, segment.first, segment.inode, segment.end))

    def _append(self, after: int, commits: Sequence[Commit]) -> None:
        self._check_place(after, commits[0])
        lines = encode_commit(commits[0])
        for commit in commits[1:]:
            lines += encode_commit(commit)
        self._begin_change()
        segment = self._room(commits[0].first, len(lines))
        try:
            write_all(self._port, segment.fd, lines, segment.end)
        except OSError as error:
            if error.errno in FULL and self._take_back(segment):
                raise state_error(error, f"{JOURNAL}/{segment.name}") from error
            raise self._poison(error) from error
        try:
            self._port.fdatasync(segment.fd)
        except OSError as error:
            raise self._poison(error) from error
        before = segment.end
        segment.end += len(lines)
        self._empty = False
        self._durable, self._id = commits[-1].last, commits[-1].id
        self._time = microseconds(commits[-1].time)
        much = segment.size // 8
        # Of several handles the one that passes the place makes the next segment ready.
        if segment.end > much and (not self._lock.shared or before <= much):
            self._spares.request(segment.next_size())

    def _check_place(self, after: int, commit: Commit) -> None:
        if commit.first != after + 1:
            raise InvalidArgumentError(f"commit {commit.first} does not follow seq {after}", backend=SCHEME)
        if self._empty:
            return
        if after != self._durable:
            missed = self._missed(after, self._durable)
            # Who has much to read first reads it while others go on.
            raise HeadMoved(missed, kept=0 < len(missed) <= _FEW)
        if self._id and commit.prev != self._id:
            raise DivergedError(
                f"commit {commit.first} follows {commit.prev or 'nothing'}, and the log ends with {self._id}",
                backend=SCHEME,
            )

    def _missed(self, after: int, upto: int) -> list[Commit]:
        """What stands behind one seq up to another; nothing, if that is much, or not where it is known to be."""
        known, missed = self._near(after), list[Commit]()
        if known is None:
            return missed
        cursor = Cursor(self._tree, after, lambda: upto, known)
        try:
            while cursor.last < upto and (found := cursor.next()):
                missed += [one.record.commit for one in found]
            place = cursor.place()
        except StateError:
            return []  # whoever reads on finds out
        finally:
            cursor.close()
        if place is None or place.seq != upto:
            return []
        self.remember(place)
        return missed

    def _near(self, seq: int) -> Place | None:
        """The place behind the seq, if that was met lately and is not far from the end of the present segment."""
        known, segment = self._places.get(seq), self._segment
        if known is None or segment is None or known.inode != segment.inode:
            return None
        return known if segment.end - known.offset <= _NEAR else None

    def _take_back(self, segment: Segment) -> bool:
        """Remove the beginning of a record that found no space."""
        try:
            self._port.ftruncate(segment.fd, segment.end)
        except OSError:
            return False
        segment.size = segment.limit = segment.end
        return True

    def _poison(self, error: OSError) -> StateError:
        """After a failed sync the system may count lost pages as written: that file is not tried again."""
        self._refusal = OutcomeUnknownError(
            f"writing the journal failed ({os.strerror(error.errno or 0)}): whether the last commit is "
            "durable is not known; check the disk, then open the store again to see what holds",
            backend=SCHEME,
        )
        return copy.copy(self._refusal)

    def _room(self, first: int, need: int) -> Segment:
        """A segment with room for the record. An error here means that nothing of it was written."""
        segment = self._segment
        if segment is not None and segment.end + need <= segment.limit:
            return segment
        try:
            if segment is None:
                return self._begin(first)
            spare = self._spares.take()
            if spare is not None:
                with suppress(FileNotFoundError):  # somebody took it for a file that was left behind
                    return self._install(spare[:3], first, size=spare[3], end=0)
            if segment.end + need <= 2 * LARGEST:
                # Without a spare yet the segment grows: slower to sync, but nobody waits.
                self._spares.request(segment.next_size())
                segment.limit = segment.end + need + SMALLEST
                return segment
            return self._install(create_filled(self._tree, 0), first, size=0, end=0)
        except OSError as error:
            raise state_error(error, JOURNAL) from error

    def _begin(self, first: int) -> Segment:
        """The first segment of this handle. It takes over a small last one: many openings make few files."""
        found = self._found
        carry = b""
        self._enter()
        self._remove_behind(-1 if found is None else found.segment)
        if found is not None and found.end < SMALLEST // 2:
            first = found.segment
            carry = self._read_segment(first, found.end)
        return self._install(create_filled(self._tree, SMALLEST, carry), first, size=SMALLEST, end=len(carry))

    def _remove_behind(self, segment: int) -> None:
        """Segments that were begun behind the head hold no commit, or what a copied tail holds, too."""
        for first in list_segments(self._port, self._journal):
            if first > segment:
                self._port.unlink(segment_name(first), within=self._journal)

    def _read_segment(self, first: int, end: int) -> bytes:
        fd = open_segment(self._port, self._journal, first)
        try:
            return read_all(self._port, fd, 0, end)
        finally:
            self._port.close(fd)

    def _install(self, made: tuple[int, str, int], first: int, *, size: int, end: int) -> Segment:
        within, temporary, fd = made
        name = segment_name(first)
        try:
            self._port.rename(temporary, name, within=within, into=self._journal)
        except OSError:
            self._port.close(fd)
            self._tree.discard(within, temporary)
            raise
        inode = self._port.fstat(fd).st_ino
        last, self._segment = self._segment, Segment(first, name, fd, end, size, size, inode)
        if last is not None:
            self._spares.seal(last)
        try:
            self._port.fsync_dir(self._journal)
        except OSError as error:
            raise self._poison(error) from error
        return self._segment

    def restart(self, after: int) -> list[str]:
        if self._lock.shared:
            raise self._lock.refusal("the journal cannot begin anew while others write")
        self.open()
        if self._refusal is not None and not isinstance(self._refusal, CorruptionError):
            raise copy.copy(self._refusal)
        if self._segment is not None:
            self._port.close(self._segment.fd)
            self._segment = None
        try:
            kept = self._move_aside()
            self._lock.publish(after)
        except OSError as error:
            raise self._poison(error) from error
        self._refusal = None
        self._found = None
        self._empty = False
        self._durable, self._id = after, ""
        self._bound, self._time = after, 0
        self._places = {}
        return kept

    def _move_aside(self) -> list[str]:
        self._enter()
        kept: list[str] = []
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        # The newest first: what a crash leaves behind is then the beginning of the log, without a gap.
        for first in reversed(list_segments(self._port, self._journal)):
            name = segment_name(first)
            aside = f"{name}.corrupt.{moment}"
            self._port.rename(name, aside, within=self._journal, into=self._journal)
            kept.append(f"{JOURNAL}/{aside}")
        self._port.fsync_dir(self._journal)
        return kept[::-1]

    def close(self) -> None:
        """Finish what was handed in, cut the segment off where its commits end, and stop. Blocking."""
        self._jobs.put(None)
        self._thread.join()
        self._spares.close()
        alone = not self._lock.shared or self._is_last()
        segment, self._segment = self._segment, None
        if segment is not None:
            if alone and self._refusal is None and segment.end > 0:
                seal(self._port, segment)
            else:
                self._port.close(segment.fd)
        if self._journal >= 0:
            self._port.close(self._journal)
            self._journal = -1

    def _is_last(self) -> bool:
        """Whether no other handle writes any more, and the journal ends where this one knows."""
        if not self._opened:
            return False
        try:
            self._enter()
            # If somebody has its turn just now, this is not the last one.
            self._port.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _, mark = self._lock.look()
            return mark is not None and self._take_over(mark) and self._lock.is_last()
        except (OSError, StateError):
            return False

    def disown(self) -> None:
        """In a forked child: a turn, if there is one, is the parent's."""
        if self._journal >= 0:
            self._port.close(self._journal)
            self._journal = -1
