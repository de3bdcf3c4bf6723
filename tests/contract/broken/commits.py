"""Backends whose own commit log breaks a promise of the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import msgspec
from broken.sound import Sound, caught_by
from statepath.backend import (
    ALWAYS,
    IF_ABSENT,
    Append,
    Body,
    Commit,
    CommitLog,
    Delete,
    Put,
    encode_commit,
    microseconds,
    moved_behind,
    slot_key,
)
from statepath.commit import JOURNAL
from statepath.errors import (
    AlreadyExistsError,
    CorruptionError,
    HeadMoved,
    HistoryTrimmedError,
    NotFoundError,
)
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig


class Log(PortableCommitLog):
    """A sound log of a backend that is at hand."""

    def __init__(self, backend: Sound) -> None:
        super().__init__(backend, review=0)
        self.backend = backend


def logs(kind: type[Log]) -> Callable[[Sound], CommitLog]:
    return lambda backend: kind(backend)  # noqa: PLW0108 - a class would not get `self`


@caught_by("test_the_log_is_one_object_a_connection")
class NewLogEachTime(Sound):
    def commit_log(self) -> CommitLog:
        return self.make_log()


class MissesTheStart(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        if not [entry async for entry in self.backend.list_keys(JOURNAL)]:
            raise NotFoundError("there is no journal")
        async for commit in super().read(after):
            yield commit


@caught_by("test_a_new_log_is_empty")
class NoJournal(Sound):
    make_log = logs(MissesTheStart)


class Rounds(Log):
    async def append(self, after: int, commit: Commit) -> None:
        await super().append(after, msgspec.structs.replace(commit, time=commit.time.replace(microsecond=0)))


@caught_by("test_commits_are_read_as_they_were_written")
class RoundsTimes(Sound):
    make_log = logs(Rounds)


class TakesTheFirst(Log):
    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        await super().extend(after, commits[:1])


@caught_by("test_several_commits_at_once_stand_there_as_if_one_by_one")
class ForgetsTheRest(Sound):
    make_log = logs(TakesTheFirst)


class BeginsBehind(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        async for commit in super().read(after):
            if commit.first > after:
                yield commit


@caught_by("test_reading_begins_with_the_commit_that_holds_the_next_seq")
class SkipsTheFirst(Sound):
    make_log = logs(BeginsBehind)


class Stops(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        count = 0
        async for commit in super().read(after):
            count += 1
            if count <= 50:
                yield commit


@caught_by("test_many_and_large_commits_are_read_in_order")
class FirstFifty(Sound):
    make_log = logs(Stops)


class BeginsAtOne(Log):
    async def append(self, after: int, commit: Commit) -> None:
        if after and not [entry async for entry in self.backend.list_keys(JOURNAL)]:
            raise HeadMoved
        await super().append(after, commit)


@caught_by("test_the_first_commit_of_all_may_have_any_place")
class CannotGoOnFromASnapshot(Sound):
    make_log = logs(BeginsAtOne)


class Overwrites(Log):
    async def append(self, after: int, commit: Commit) -> None:
        await self.backend.write(slot_key(commit.first), bytes(encode_commit(commit)))


@caught_by("test_a_place_that_is_taken_is_not_given_again", "test_one_of_many_appends_wins")
class GivesPlacesTwice(Sound):
    make_log = logs(Overwrites)


class Forgets(Log):
    async def append(self, after: int, commit: Commit) -> None:
        if commit.first != 7:
            await super().append(after, commit)
        elif [entry async for entry in self.backend.list_keys(slot_key(7))]:
            raise HeadMoved


@caught_by("test_who_loses_a_place_takes_the_next", "test_many_and_large_commits_are_read_in_order")
class LosesTheSeventh(Sound):
    make_log = logs(Forgets)


class OfThisConnection(Log):
    """Keeps the commits in the object."""

    def __init__(self, backend: Sound) -> None:
        own = Sound(replace(backend.config, name=""))
        super().__init__(own)


@caught_by("test_commits_outlive_the_connection", "test_an_acknowledged_commit_is_seen_by_everybody")
class LogOfTheConnection(Sound):
    def make_log(self) -> CommitLog:
        return OfThisConnection(self) if type(self) is LogOfTheConnection else super().make_log()


class AsTheyArrive(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        commits = [commit async for commit in super().read(after)]
        if len(commits) == 10:
            commits.reverse()
        for commit in commits:
            yield commit


@caught_by("test_a_reader_sees_whole_commits_in_order")
class ReordersTen(Sound):
    make_log = logs(AsTheyArrive)


class ReadsOnce(Log):
    seen: list[Commit] | None = None

    async def read(self, after: int) -> AsyncIterator[Commit]:
        if self.seen is None or not self.seen:
            self.seen = [commit async for commit in super().read(0)]
        for commit in self.seen:
            if commit.last > after:
                yield commit


@caught_by("test_an_acknowledged_commit_is_seen_by_everybody")
class ReadsOnceOnly(Sound):
    make_log = logs(ReadsOnce)


class TellsWhereItBegins(Log):
    async def newest(self) -> tuple[int, str]:
        _, id = await super().newest()
        return 1, id


@caught_by("test_the_newest_commit_is_told")
class TellsTooLittle(Sound):
    make_log = logs(TellsWhereItBegins)


class FromNowOn(Log):
    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        async for commit in self.read(after):
            after = commit.last
        async for commit in super().follow(after, known):
            yield commit


@caught_by("test_a_follower_gets_each_commit")
class FollowsFromNow(Sound):
    make_log = logs(FromNowOn)


class LeavesOutMore(Log):
    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        async for commit in super().follow(after):
            if known is None or commit.first > known() + 1:
                yield commit


@caught_by("test_a_follower_gets_each_commit_that_it_does_not_know")
class FollowsBehindTheUnknown(Sound):
    make_log = logs(LeavesOutMore)


class UntilTheHead(Log):
    def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        return self.read(after)


@caught_by("test_a_follower_waits_for_the_first_commit", "test_a_follower_gets_each_commit")
class FollowsToTheHead(Sound):
    make_log = logs(UntilTheHead)


class Anywhere(Log):
    """Places a commit behind whatever stands there."""

    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        while True:
            before = [one async for one in self.read(after)]
            if before:
                last = before[-1]
                commit = moved_behind(commit, last.last, last.id, microseconds(last.time))
            try:
                await self.append(commit.first - 1, commit)
            except HeadMoved:
                continue
            return commit, before


@caught_by("test_nothing_is_placed_behind_what_was_appended")
class PlacesAnywhere(Sound):
    make_log = logs(Anywhere)


class TellsAnotherPlace(Anywhere):
    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        await super().place(after, commit)
        return commit, ()


@caught_by("test_what_depends_on_nothing_goes_behind_what_others_placed")
class PlacesAsGiven(Sound):
    make_log = logs(TellsAnotherPlace)


class LetsGo(Anywhere):
    async def place(self, after: int, commit: Commit) -> tuple[Commit, Sequence[Commit]]:
        with suppress(HeadMoved):
            await self.append(after, commit)
        return commit, ()


@caught_by("test_of_many_that_are_placed_at_once_each_stands_in_the_log")
class PlacesWhatFits(Sound):
    make_log = logs(LetsGo)


class TrimsTooMuch(Log):
    async def trim(self, upto: int) -> None:
        await super().trim(upto)
        async for entry in self.backend.list_keys(slot_key(upto), after=slot_key(upto)):
            await self.backend.delete(entry.key)
        await self.backend.delete(slot_key(upto + 1))


@caught_by("test_a_trimmed_log_goes_on")
class TrimsOneMore(Sound):
    make_log = logs(TrimsTooMuch)


class GoesOnFromTheFloor(Log):
    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        while True:
            try:
                async for commit in super().follow(after, known):
                    yield commit
            except HistoryTrimmedError as error:
                after = error.floor - 1


@caught_by("test_a_follower_is_told_that_what_it_wants_was_trimmed")
class FollowsFromTheFloor(Sound):
    make_log = logs(GoesOnFromTheFloor)


class EndsBeforeIt(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        with suppress(CorruptionError):
            async for commit in super().read(after):
                yield commit


@caught_by("test_a_damaged_commit_is_not_the_end_of_the_log")
class TakesDamageForTheEnd(Sound):
    make_log = logs(EndsBeforeIt)


class NeverAsks(Log):
    async def _settled(self, commit: Commit) -> bool | None:
        return None


@caught_by("test_a_writer_that_slept_while_the_log_was_trimmed_commits_nothing")
class KnowsNoFloor(Sound):
    make_log = logs(NeverAsks)


class AsksForTheFloorOnly(Log):
    async def _settled(self, commit: Commit) -> bool | None:
        record = await self._record()
        if record is not None and record.floor <= commit.first:
            return None
        return await super()._settled(commit)


@caught_by("test_a_writer_that_slept_while_the_log_was_packed_commits_nothing")
class KnowsNoPacks(Sound):
    make_log = logs(AsksForTheFloorOnly)


class InTwoWrites(Log):
    async def append(self, after: int, commit: Commit) -> None:
        line = bytes(encode_commit(commit))
        try:
            await self.backend.write(slot_key(commit.first), line[: len(line) // 2], when=IF_ABSENT)
        except AlreadyExistsError:
            raise HeadMoved from None
        await asyncio.sleep(0)
        await self.backend.write(slot_key(commit.first), line, when=ALWAYS)


@caught_by("test_an_abandoned_append_is_whole_or_absent")
class HalfCommits(Sound):
    make_log = logs(InTwoWrites)


class ThrowsAway(Log):
    async def restart(self, after: int) -> list[str]:
        kept = await super().restart(after)
        for key in kept:
            await self.backend.delete(key)
        return kept


@caught_by("test_a_restarted_log_begins_anew_and_keeps_the_old")
class KeepsNothing(Sound):
    make_log = logs(ThrowsAway)


class KeepsWhatItCanRead(Log):
    async def restart(self, after: int) -> list[str]:
        _ = [commit async for commit in self.read(0)]
        return await super().restart(after)


@caught_by("test_a_damaged_log_is_restarted_like_any_other")
class RestartsASoundLog(Sound):
    make_log = logs(KeepsWhatItCanRead)


class Around(Log):
    """Writes past the connection, which would have refused."""

    def __init__(self, backend: Sound) -> None:
        super().__init__(backend)
        self._backend = MemoryBackend(MemoryConfig(backend.config.name))


@caught_by("test_a_reading_connection_appends_nothing", "test_a_closed_connection_appends_nothing")
class LogWithAKeyOfItsOwn(Sound):
    make_log = logs(Around)


class ForDocuments(Log):
    """Keeps what is said of documents."""

    async def append(self, after: int, commit: Commit) -> None:
        kept = tuple(
            one
            if isinstance(one, Body)
            else tuple(each for each in one if isinstance(each, Put | Append | Delete))
            for one in commit.transactions
        )
        await super().append(after, msgspec.structs.replace(commit, transactions=kept))


@caught_by("test_a_commit_keeps_all_that_it_says")
class LogsDocumentsOnly(Sound):
    make_log = logs(ForDocuments)


class ForThisProgram(Log):
    async def append(self, after: int, commit: Commit) -> None:
        await super().append(after, msgspec.structs.replace(commit, min_writer=commit.min_reader))


@caught_by("test_a_commit_keeps_all_that_it_says")
class ForgetsWhatItNeeds(Sound):
    make_log = logs(ForThisProgram)


class Unsealed(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        async for commit in super().read(after):
            yield msgspec.structs.replace(commit, sealed=msgspec.UNSET)


@caught_by("test_a_sealed_commit_is_kept_as_it_is")
class DropsWhatIsSealed(Sound):
    make_log = logs(Unsealed)


class OnePage(Log):
    async def read(self, after: int) -> AsyncIterator[Commit]:
        count = 0
        async for commit in super().read(after):
            count += 1
            if count <= 1000:
                yield commit


@caught_by("test_more_commits_than_a_page_holds_are_read_in_order")
class FirstThousand(Sound):
    make_log = logs(OnePage)


class NewestOnly(Log):
    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        async for commit in self.read(after):
            after = commit.last
            yield commit
        async for commit in super().follow(after, known):
            if commit.last > after:
                *_, newest = [commit, *[later async for later in self.read(commit.last)]]
                after = newest.last
                yield newest


@caught_by("test_a_follower_gets_each_commit", "test_a_follower_misses_nothing_while_others_commit")
class FollowsTheNewest(Sound):
    make_log = logs(NewestOnly)


class KeepsTheOldest(Log):
    async def restart(self, after: int) -> list[str]:
        kept = await super().restart(after)
        for key in kept[1:]:
            await self.backend.delete(key)
        return kept[:1]


@caught_by("test_a_restarted_log_begins_anew_and_keeps_the_old")
class KeepsOneOfAll(Sound):
    make_log = logs(KeepsTheOldest)


@caught_by("test_the_logs_of_two_stores_have_nothing_in_common")
class OneLogForAll(Sound):
    def make_log(self) -> CommitLog:
        return PortableCommitLog(MemoryBackend(MemoryConfig("the log of all of them")), review=0)
