"""Checks of the commit log: the backend's own where it declares one, else the portable one on top of it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, cast
from uuid import uuid4

import msgspec
import pytest

from statepath.backend import (
    Backend,
    Commit,
    CommitLog,
    SupportsCommitLog,
    SupportsExtend,
    SupportsNewest,
    SupportsPlacing,
    microseconds,
    moved_behind,
)
from statepath.commit import (
    FLOOR_KEY,
    Append,
    Body,
    Delete,
    Note,
    Put,
    RemoveLog,
    RemoveReport,
    Sealed,
    Transaction,
    WriteLog,
    WriteReport,
    encode_changes,
    seal,
)
from statepath.encryption import unsealed
from statepath.errors import (
    ClosedError,
    CorruptionError,
    HeadMoved,
    HistoryTrimmedError,
    OutcomeUnknownError,
    ReadOnlyError,
)
from statepath.log import PortableCommitLog
from statepath.testing.meanwhile import meanwhile
from statepath.testing.patience import soon
from statepath.testing.subject import Subject

_START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class _Floor(msgspec.Struct, frozen=True):
    """As much of the record as a log reads."""

    floor: int
    packed: int = 0


def commit_log(backend: Backend) -> CommitLog:
    """The log that the core would use on this connection."""
    if backend.capabilities.commit_log:
        return cast("SupportsCommitLog", backend).commit_log()
    return PortableCommitLog(backend, review=0)


@dataclass
class Writer:
    """Appends commits as the engine does: each continues the newest commit that this writer has seen."""

    log: CommitLog
    name: str = "w"
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> int:
        return self.commits[-1].last if self.commits else 0

    def make(self, *, transactions: int = 1, size: int = 10) -> Commit:
        """A commit that fits behind the head, and was not appended."""
        head = self.head
        text = secrets.token_hex(size)[:size]  # what keeps less than half of its bytes does not keep it
        document = msgspec.json.encode({"id": "task_1", "text": text, "writer": self.name})
        changes = (
            Put(collection="tasks", id="task_1", document=msgspec.Raw(document)),
            Delete(collection="tasks", id="ä/%2F", base=head),
        )
        return Commit(
            first=head + 1,
            last=head + transactions,
            id=uuid4().hex,
            prev=self.commits[-1].id if self.commits else "",
            writer=self.name,
            store="store",
            incarnation="one",
            time=_START + timedelta(microseconds=head),
            durable=head,
            transactions=(changes,) * transactions,
        )

    async def append(self, *, transactions: int = 1, size: int = 10) -> Commit:
        commit = self.make(transactions=transactions, size=size)
        await self.log.append(self.head, commit)
        self.commits.append(commit)
        return commit

    async def catch_up(self) -> None:
        self.commits += [commit async for commit in self.log.read(self.head)]


MANY = 2_023
"""Changes in a transaction that stand apart from the commit."""


async def as_committed(backend: Backend, changes: Transaction) -> Transaction | Body:
    """What stands in a commit for the transaction: of a large one, whose changes are an object, where that is."""
    if len(changes) < MANY:
        return changes
    data = encode_changes(changes)
    body = Body(f"bodies/{uuid4().hex}/0", len(data), sha256(data).hexdigest())
    await backend.write(body.key, data)
    return body


class CommitLogChecks(Subject):
    async def test_the_log_is_one_object_a_connection(self) -> None:
        async with self.connection() as backend:
            if backend.capabilities.commit_log:
                native = cast("SupportsCommitLog", backend)
                assert native.commit_log() is native.commit_log()

    async def test_a_new_log_is_empty(self) -> None:
        async with self.connection() as backend:
            assert await _read(commit_log(backend), 0) == []

    async def test_commits_are_read_as_they_were_written(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            for transactions in (1, 3, 1, 40):
                await writer.append(transactions=transactions)
            assert await _read(writer.log, 0) == writer.commits

    async def test_a_commit_keeps_all_that_it_says(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            changes = (
                Put("tasks", "a", msgspec.Raw(b'{"id":"a","n":1.0,"text":"\\u0000"}'), base=0),
                Append("tasks", "a", "list", msgspec.Raw(b"1e22"), base=1),
                Delete("tasks", "a"),
                WriteLog("s", 7, "a line\n\0 and a half"),
                RemoveLog("s", base=9),
                WriteReport("r", msgspec.Raw(b'{"b":1,"a":[]}')),
                RemoveReport("r", base=0),
                Note("of a later program", "ä"),
            )
            made = writer.make(transactions=3)
            commit = msgspec.structs.replace(
                made,
                min_writer=made.min_writer + 1,
                transactions=(changes, Body("bodies/x/1", 2**33, "0" * 64), ()),
            )
            await writer.log.append(0, commit)
            assert await _read(writer.log, 0) == [commit]

    async def test_a_sealed_commit_is_kept_as_it_is(self) -> None:
        async with self.connection() as backend:
            writer = Writer(unsealed(commit_log(backend)))
            sealed = Sealed("key", bytes(range(16)), 3, bytes(range(256)), packed=True)
            commit = msgspec.structs.replace(writer.make(transactions=2), transactions=(), sealed=sealed)
            await writer.log.append(0, commit)
            assert await _read(writer.log, 0) == [commit]

    async def test_reading_begins_with_the_commit_that_holds_the_next_seq(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            for transactions in (1, 3, 1, 40):
                await writer.append(transactions=transactions)
            for after in range(writer.head + 1):
                expected = [commit for commit in writer.commits if commit.last > after]
                assert await _read(writer.log, after) == expected, f"after {after}"

    async def test_many_and_large_commits_are_read_in_order(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            for number in range(60):
                await writer.append(size=1_000_000 if number % 20 == 7 else 1)
            assert await _read(writer.log, 0) == writer.commits

    async def test_more_commits_than_a_page_holds_are_read_in_order(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            if not backend.capabilities.commit_log:
                return  # each commit of the portable log is an object: see the listings
            for _ in range(2 * self.page + 23):
                writer.commits.append(writer.make())
            if isinstance(writer.log, SupportsExtend):
                await writer.log.extend(0, writer.commits)
            else:
                for commit in writer.commits:
                    await writer.log.append(commit.first - 1, commit)
            read = await _read(writer.log, 0) == writer.commits
            assert read, "not all commits are read, one after the other"

    async def test_several_commits_at_once_stand_there_as_if_one_by_one(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            await writer.append()
            if isinstance(writer.log, SupportsExtend):
                head, before = writer.head, len(writer.commits)
                for transactions in (1, 3, 1):
                    writer.commits.append(writer.make(transactions=transactions))
                await writer.log.extend(head, writer.commits[before:])
                with pytest.raises(HeadMoved):
                    await writer.log.extend(head, writer.commits[before:-1])
                await writer.append()
                for after in range(writer.head + 1):
                    expected = [commit for commit in writer.commits if commit.last > after]
                    assert await _read(writer.log, after) == expected, f"after {after}"
            assert await _read(writer.log, 0) == writer.commits

    async def test_the_first_commit_of_all_may_have_any_place(self) -> None:
        async with self.connection() as backend:
            log = commit_log(backend)
            first = msgspec.structs.replace(Writer(log).make(), first=8, last=8, durable=7)
            await log.append(7, first)
            assert await _read(log, 7) == [first]
            second = msgspec.structs.replace(first, first=9, last=9, id=uuid4().hex, prev=first.id, durable=8)
            await log.append(8, second)
            assert await _read(log, 7) == [first, second]
            with pytest.raises(HeadMoved):
                await log.append(7, msgspec.structs.replace(first, id=uuid4().hex))

    async def test_a_place_that_is_taken_is_not_given_again(self) -> None:
        async with self.writers() as (one, other):
            first, second = Writer(commit_log(one)), Writer(commit_log(other), "z")
            for _ in range(3):
                await first.append()
            for behind in range(3):
                second.commits = first.commits[:behind]
                with pytest.raises(HeadMoved):
                    await second.log.append(second.head, second.make())
            assert await _read(first.log, 0) == first.commits
            await second.catch_up()
            await second.append()
            assert await _read(first.log, 0) == second.commits

    async def test_one_of_many_appends_wins(self) -> None:
        async with self.writers() as handles:
            writers = [Writer(commit_log(handles[number % 2]), str(number)) for number in range(8)]
            tried = [writer.make() for writer in writers]
            outcomes = await asyncio.gather(
                *(writer.log.append(0, commit) for writer, commit in zip(writers, tried, strict=True)),
                return_exceptions=True,
            )
            won = [commit for commit, outcome in zip(tried, outcomes, strict=True) if outcome is None]
            assert len(won) == 1, outcomes
            assert all(outcome is None or isinstance(outcome, HeadMoved) for outcome in outcomes), outcomes
            assert await _read(writers[0].log, 0) == won

    async def test_who_loses_a_place_takes_the_next(self) -> None:
        async with self.writers() as handles:
            writers = [Writer(commit_log(handles[number % 2]), str(number)) for number in range(4)]
            acknowledged: list[Commit] = []

            async def contend(writer: Writer) -> None:
                for _ in range(4):
                    while True:
                        try:
                            acknowledged.append(await writer.append())
                            break
                        except HeadMoved:
                            await writer.catch_up()

            await asyncio.gather(*map(contend, writers))
            log = await _read(writers[0].log, 0)
            assert log == sorted(acknowledged, key=lambda commit: commit.first)
            _check_chain(log)

    async def test_what_depends_on_nothing_goes_behind_what_others_placed(self) -> None:
        async with self.writers() as (one, other):
            first, second = Writer(commit_log(one)), Writer(commit_log(other), "z")
            log, theirs = first.log, second.log
            if not isinstance(log, SupportsPlacing) or not isinstance(theirs, SupportsPlacing):
                return
            await first.append()
            await second.catch_up()
            for _ in range(3):
                placed, before = await log.place(first.head, first.make())
                assert not before, "nobody else committed"
                first.commits.append(placed)
            made, last = second.make(transactions=2), first.commits[-1]
            commit, before = await theirs.place(second.head, made)
            assert commit == moved_behind(made, last.last, last.id, microseconds(last.time))
            assert commit.time > last.time, "time never decreases along the log"
            assert list(before) in ([], first.commits[1:])
            assert await _read(first.log, 0) == [*first.commits, commit]

    async def test_nothing_is_placed_behind_what_was_appended(self) -> None:
        async with self.writers() as (one, other):
            first, second = Writer(commit_log(one)), Writer(commit_log(other), "z")
            log, theirs = first.log, second.log
            if not isinstance(log, SupportsPlacing) or not isinstance(theirs, SupportsPlacing):
                return
            await first.append()
            await second.catch_up()
            await first.append()
            first.commits.append(await _placed(log, first))
            with pytest.raises(HeadMoved):
                await theirs.place(second.head, second.make())
            assert await _read(first.log, 0) == first.commits
            placed = await _placed(theirs, second)
            assert await _read(first.log, 0) == [*first.commits, placed]

    async def test_of_many_that_are_placed_at_once_each_stands_in_the_log(self) -> None:
        async with self.writers() as handles:
            logs = [commit_log(handle) for handle in handles]
            placing = [log for log in logs if isinstance(log, SupportsPlacing)]
            if not placing:
                return
            writer = Writer(logs[0])
            begun = await writer.append()
            placed: list[Commit] = []

            async def place(number: int) -> None:
                mine = Writer(logs[0], str(number), [begun])
                for turn in range(5):
                    commit = await _placed(placing[(number + turn) % len(placing)], mine)
                    placed.append(commit)
                    mine.commits = [commit]

            await asyncio.gather(*map(place, range(6)))
            log = await _read(logs[0], 0)
            assert log == [begun, *sorted(placed, key=lambda commit: commit.first)]
            for before, commit in itertools.pairwise(log):
                assert (commit.first, commit.prev) == (before.last + 1, before.id)

    async def test_the_logs_of_two_stores_have_nothing_in_common(self) -> None:
        async with self.connection() as one, self.connection() as other:
            first, second = Writer(commit_log(one)), Writer(commit_log(other), "z")
            await first.append(transactions=2)
            assert await _read(second.log, 0) == []
            await second.append()
            assert await _read(first.log, 0) == first.commits
            assert await _read(second.log, 0) == second.commits

    async def test_commits_outlive_the_connection(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            writer = Writer(commit_log(backend))
            for _ in range(3):
                await writer.append()
        for _ in range(2):
            async with self.connection(path) as backend:
                writer.log = commit_log(backend)
                assert await _read(writer.log, 0) == writer.commits
                await writer.append()
        async with self.connection(path, readonly=True) as reader:
            assert await _read(commit_log(reader), 0) == writer.commits

    async def test_a_reader_sees_whole_commits_in_order(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer, log = Writer(commit_log(backend)), commit_log(reader)
            seen: list[list[Commit]] = []

            async def watch(writing: asyncio.Task[None]) -> None:
                while not writing.done():
                    seen.append(await _read(log, 0))
                    await asyncio.sleep(0)

            async def write() -> None:
                for _ in range(20):
                    await writer.append(transactions=2, size=3_000)
                    await asyncio.sleep(0)

            async with meanwhile(write()) as writing:
                await asyncio.gather(watch(writing), watch(writing))
            for commits in seen:
                assert commits == writer.commits[: len(commits)]
            assert await _read(log, 0) == writer.commits

    async def test_an_acknowledged_commit_is_seen_by_everybody(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer, log = Writer(commit_log(backend)), commit_log(reader)
            for _ in range(5):
                commit = await writer.append()
                assert (await _read(log, 0))[-1] == commit

    async def test_the_newest_commit_is_told(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer, logs = Writer(commit_log(backend)), (commit_log(backend), commit_log(reader))
            for transactions in (0, 1, 2, 1):
                if transactions:
                    await writer.append(transactions=transactions)
                newest = (writer.head, writer.commits[-1].id) if writer.commits else (0, "")
                for log in logs:
                    if isinstance(log, SupportsNewest):
                        assert await log.newest() == newest

    async def test_a_follower_gets_each_commit(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer = Writer(commit_log(backend))
            for _ in range(3):
                await writer.append(transactions=2)
            for log, after in ((writer.log, 0), (commit_log(reader), 3)):
                expected = [commit for commit in writer.commits if commit.last > after]
                async with aclosing(_generator(log.follow(after))) as following:
                    found = [await soon(anext(following)) for _ in expected]
                    assert found == expected
                    for count in (1, 3, 1):
                        expected = [await writer.append() for _ in range(count)]
                        assert [await soon(anext(following)) for _ in expected] == expected

    async def test_a_follower_misses_nothing_while_others_commit(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer = Writer(commit_log(backend))
            await writer.append()

            async def write() -> None:
                for _ in range(20):
                    await writer.append(transactions=2)
                    await asyncio.sleep(0)

            for log, after in ((writer.log, 0), (commit_log(reader), writer.head)):
                async with (
                    meanwhile(write()),
                    aclosing(_generator(log.follow(after))) as following,
                ):
                    found = [await soon(anext(following)) for _ in range(20)]
                assert found == [commit for commit in writer.commits if commit.last > after][:20]

    async def test_a_follower_gets_each_commit_that_it_does_not_know(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer, known = Writer(commit_log(backend)), [0]

            def head() -> int:
                return known[-1]

            for log in (writer.log, commit_log(reader)):
                async with aclosing(_generator(log.follow(head(), head))) as following:
                    for _ in range(3):
                        known += [(await writer.append(transactions=2)).last for _ in range(2)]
                        commit = await writer.append()
                        while (found := await soon(anext(following))) != commit:
                            assert found in writer.commits, "it follows another log"

    async def test_a_follower_waits_for_the_first_commit(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer = Writer(commit_log(backend))
            async with (
                meanwhile(_first(writer.log, 0)) as ours,
                meanwhile(_first(commit_log(reader), 0)) as theirs,
            ):
                await asyncio.sleep(0)
                commit = await writer.append()
                assert list(await soon(asyncio.gather(ours, theirs))) == [commit, commit]

    async def test_a_trimmed_log_goes_on(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            writer = Writer(commit_log(backend))
            for _ in range(6):
                await writer.append(transactions=2)
            await _trim(backend, writer.log, 8)
            await _check_trimmed(writer, floor=9)
            await writer.append()
            await _check_trimmed(writer, floor=9)
        async with self.connection(path) as backend:
            writer.log = commit_log(backend)
            await _check_trimmed(writer, floor=9)
            await writer.append()
            await _trim(backend, writer.log, writer.head)
            assert await _read(writer.log, writer.head) == []
            await writer.append()
            assert await _read(writer.log, writer.head - 1) == writer.commits[-1:]

    async def test_a_follower_is_told_that_what_it_wants_was_trimmed(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer = Writer(commit_log(backend))
            for _ in range(6):
                await writer.append(transactions=2)
            await _trim(backend, writer.log, 8)
            await writer.append()
            for log in (writer.log, commit_log(reader)):
                found: list[Commit] = []
                async with aclosing(_generator(log.follow(0))) as following:
                    with suppress(HistoryTrimmedError):  # or all of it is there still
                        while len(found) < len(writer.commits):
                            found.append(await soon(anext(following)))
                assert found == writer.commits[: len(found)], "a follower was given commits behind a gap"

    async def test_a_damaged_commit_is_not_the_end_of_the_log(self) -> None:
        path = self.new_store()
        if not (commits := await self._damaged(path)):
            return
        for readonly in (True, False):
            async with self.connection(path, readonly=readonly) as backend:
                log = commit_log(backend)
                for given in (log.read(0), log.follow(0)):
                    assert await _before_damage(given) == commits[:1]

    async def test_a_writer_that_slept_while_the_log_was_trimmed_commits_nothing(self) -> None:
        async with self.writers() as (one, other):
            writer, zombie = Writer(commit_log(one)), Writer(commit_log(other), "zombie")
            await writer.append()
            await zombie.catch_up()
            for _ in range(5):
                await writer.append()
            await _trim(one, writer.log, 5)
            with pytest.raises((HeadMoved, OutcomeUnknownError)):
                await zombie.append()
            assert await _read(writer.log, 5) == writer.commits[5:]
            await writer.append()
            assert await _read(commit_log(other), 5) == writer.commits[5:]

    async def test_a_writer_that_slept_while_the_log_was_packed_commits_nothing(self) -> None:
        async with self.writers() as (one, other):
            log = commit_log(one)
            if not isinstance(log, PortableCommitLog):
                return  # a log of the backend's own has no packs
            writer, zombie = Writer(log), Writer(commit_log(other), "zombie")
            await writer.append()
            await zombie.catch_up()
            for _ in range(5):
                await writer.append(transactions=2)
            packed = await log.pack(9, least=1)
            assert packed == 9
            await one.write(FLOOR_KEY, bytes(seal(_Floor(1, packed))))
            await log.trim(0)
            with pytest.raises(HeadMoved):
                await zombie.append()
            assert await _read(log, 0) == writer.commits
            await zombie.catch_up()
            await zombie.append()
            assert await _read(log, 3) == zombie.commits[2:]

    async def test_an_abandoned_append_is_whole_or_absent(self) -> None:
        for step in range(8):
            path = self.new_store()
            async with self.connection(path) as backend:
                writer = Writer(commit_log(backend))
                await writer.append()
                commit = writer.make(size=50_000)
                appending = asyncio.ensure_future(writer.log.append(1, commit))
                for _ in range(step):
                    await asyncio.sleep(0)
                appending.cancel()
                with suppress(asyncio.CancelledError):
                    await appending
            async with self.connection(path) as backend:
                writer = Writer(commit_log(backend))
                await writer.catch_up()
                try:
                    await writer.append()
                except HeadMoved:  # what was abandoned has arrived only now
                    await writer.catch_up()
                    await writer.append()
                assert writer.commits[1:-1] in ([], [commit])
                assert await _read(writer.log, 0) == writer.commits
                _check_chain(writer.commits)

    async def test_a_restarted_log_begins_anew_and_keeps_the_old(self) -> None:
        path = self.new_store()
        async with self.connection(path) as backend:
            writer = Writer(commit_log(backend))
            for _ in range(3):
                await writer.append(size=4_000)
            kept = await writer.log.restart(10)
            assert all(".corrupt." in key for key in kept)
            size = sum([len((await backend.read(key)).data) for key in kept])
            assert size > 3 * 2_000, "not all that was moved aside is there"
            assert await _read(writer.log, 10) == []
            old = writer.commits.pop()
            writer.commits = [msgspec.structs.replace(old, first=10, last=10)]
            newer = await writer.append()
            assert await _read(writer.log, 10) == [newer]
        async with self.connection(path) as backend:
            assert await _read(commit_log(backend), 10) == [newer]

    async def test_a_damaged_log_is_restarted_like_any_other(self) -> None:
        path = self.new_store()
        if not (commits := await self._damaged(path)):
            return
        async with self.connection(path) as backend:
            log = commit_log(backend)
            assert await log.restart(10), "what is damaged was not kept"
            first = msgspec.structs.replace(commits[-1], first=11, last=11, durable=10, prev="")
            await log.append(10, first)
        async with self.connection(path, readonly=True) as reader:
            assert await _read(commit_log(reader), 10) == [first]

    async def _damaged(self, path: str) -> list[Commit]:
        """The commits of a log whose second one is damaged; none if the kit was given no way to do that."""
        async with self.connection(path) as backend:
            writer = Writer(commit_log(backend))
            for _ in range(4):
                await writer.append()
        return writer.commits if await self.raw_damage(path, 2) else []

    async def test_a_reading_connection_appends_nothing(self) -> None:
        async with self.writer_and_reader() as (backend, reader):
            writer = Writer(commit_log(backend))
            await writer.append()
            log = commit_log(reader)
            with pytest.raises(ReadOnlyError):
                await log.append(1, writer.make())
            with pytest.raises(ReadOnlyError):
                await log.restart(1)
            assert await _read(log, 0) == writer.commits

    async def test_a_closed_connection_appends_nothing(self) -> None:
        async with self.connection() as backend:
            writer = Writer(commit_log(backend))
            await writer.append()
            await backend.close()
            with pytest.raises(ClosedError):
                await writer.append()
            with pytest.raises(ClosedError):
                await _read(writer.log, 0)


async def _placed(log: SupportsPlacing, writer: Writer) -> Commit:
    """Have the log place a commit of the writer, which reads on where it has to."""
    while True:
        try:
            commit, _ = await log.place(writer.head, writer.make())
        except HeadMoved:
            await writer.catch_up()
        else:
            return commit


async def _read(log: CommitLog, after: int) -> list[Commit]:
    return [commit async for commit in log.read(after)]


async def _first(log: CommitLog, after: int) -> Commit:
    async with aclosing(_generator(log.follow(after))) as following:
        return await anext(following)


async def _before_damage(commits: AsyncIterator[Commit]) -> list[Commit]:
    """What is given before it is told that a commit is damaged."""
    found: list[Commit] = []

    async def read() -> None:
        async with aclosing(_generator(commits)) as reading:
            async for commit in reading:
                found.append(commit)  # noqa: PERF401 - what came before an error counts

    with suppress(CorruptionError):
        await soon(read())
        pytest.fail("a damaged commit was taken for the end of the log")
    return found


def _generator(commits: AsyncIterator[Commit]) -> Any:
    """What `follow` returns has `aclose`, as "until the iterator is closed" says."""
    return commits


async def _trim(backend: Backend, log: CommitLog, upto: int) -> None:
    await backend.write(FLOOR_KEY, bytes(seal(_Floor(upto + 1))))
    await log.trim(upto)


async def _check_trimmed(writer: Writer, floor: int) -> None:
    """What is at or above the floor is there; what is below is there whole, or known to be trimmed."""
    for after in range(writer.head + 1):
        expected = [commit for commit in writer.commits if commit.last > after]
        try:
            found = await _read(writer.log, after)
        except HistoryTrimmedError as error:
            begins = error.floor
        else:
            begins = after + 1
            assert found == expected, f"after {after}"
        assert begins == after + 1 or after + 1 < begins <= floor, f"after {after}"


def _check_chain(commits: list[Commit]) -> None:
    last, previous = 0, ""
    for commit in commits:
        assert commit.first == last + 1
        assert commit.prev == previous
        last, previous = commit.last, commit.id
