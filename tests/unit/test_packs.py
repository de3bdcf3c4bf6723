"""Packs of the portable log: nothing is lost on the way into one, and no sleeper gets past one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

import pytest
import statepath.log
import statepath.packs
from hypothesis import given
from hypothesis import strategies as st
from statepath.backend import ALWAYS, Blob, Commit, ETag, Span, When, encode_commit, slot_key
from statepath.commit import FLOOR_KEY, seal
from statepath.errors import (
    AccessDeniedError,
    CorruptionError,
    HeadMoved,
    HistoryTrimmedError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
)
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.packs import Piece
from statepath.testing.commits import Writer

PACK = Piece(1, 6).key


class Storage(MemoryBackend):
    """A store in memory. `then` runs before the next read of a key, or after the next listing ("list"); what changes
    the storage fails once `failing` changes were made."""

    def __init__(self) -> None:
        super().__init__(MemoryConfig(""))
        self.then: dict[str, Callable[[], Any]] = {}
        self.asked: list[str] = []
        self.failing: int | None = None

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self.asked.append(key)
        if key in self.then:
            await self.then.pop(key)()
        return await super().read(key, span=span)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Any]:
        self.asked.append("list")
        listed = [entry async for entry in super().list_keys(prefix, after=after)]
        if "list" in self.then:
            await self.then.pop("list")()
        for entry in listed:
            yield entry

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self._change()
        return await super().write(key, data, when=when)

    async def delete(self, key: str, *, when: When = ALWAYS) -> bool:
        self._change()
        return await super().delete(key, when=when)

    def _change(self) -> None:
        if self.failing is not None:
            if self.failing == 0:
                raise AccessDeniedError("not any more")
            self.failing -= 1


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
async def writer(storage: Storage) -> Writer:
    """It has committed eight times, to seq 12."""
    writer = Writer(PortableCommitLog(storage, review=0))
    for transactions in (1, 2, 1, 2, 2, 1, 1, 2):
        await writer.append(transactions=transactions)
    return writer


async def read(log: PortableCommitLog, after: int = 0) -> list[Commit]:
    return [commit async for commit in log.read(after)]


async def keys(storage: Storage) -> list[str]:
    return [entry.key async for entry in storage.list_keys("journal/0")]


async def record(storage: Storage, *, packed: int, floor: int = 1) -> None:
    await storage.write(FLOOR_KEY, bytes(seal({"floor": floor, "packed": packed})))


async def pack(storage: Storage, log: PortableCommitLog, upto: int) -> int:
    """All three steps."""
    packed = await log.pack(upto, least=1)
    await record(storage, packed=packed)
    await log.trim(0)
    return packed


def lines(commits: list[Commit]) -> bytes:
    return b"".join(bytes(encode_commit(commit)) for commit in commits)


def behind(writer: Writer, after: int) -> list[Commit]:
    return [commit for commit in writer.commits if commit.last > after]


def sleeper(storage: Storage, writer: Writer, number: int) -> Writer:
    """A writer that saw the first commits, and nothing since."""
    sleeper = Writer(PortableCommitLog(storage), "sleeper")
    sleeper.commits = writer.commits[:number]
    return sleeper


class TestPack:
    async def test_a_pack_holds_the_lines_as_they_were(self, storage: Storage, writer: Writer) -> None:
        before = await keys(storage)
        assert await writer.log.pack(6, least=4) == 6
        assert (await storage.read(PACK)).data == lines(writer.commits[:4])
        assert await keys(storage) == sorted([*before, PACK])

    async def test_a_slot_that_lacks_its_line_end_is_a_line_of_the_pack(
        self, storage: Storage, writer: Writer
    ) -> None:
        slot = slot_key(2)
        await storage.write(slot, (await storage.read(slot)).data.removesuffix(b"\n"))
        await pack(storage, writer.log, 6)
        assert await read(PortableCommitLog(storage)) == writer.commits

    async def test_slots_go_once_the_record_says_so(self, storage: Storage, writer: Writer) -> None:
        assert await pack(storage, writer.log, 6) == 6
        assert await keys(storage) == [PACK, *(slot_key(first) for first in (7, 9, 10, 11))]
        await writer.append()
        assert await pack(storage, writer.log, 10) == 10
        assert await keys(storage) == [PACK, Piece(7, 10).key, slot_key(11), slot_key(13)]
        assert await read(writer.log) == writer.commits

    async def test_the_newest_commit_stays_a_slot(self, storage: Storage, writer: Writer) -> None:
        assert await pack(storage, writer.log, 100) == 10
        assert await read(writer.log) == writer.commits

    async def test_a_commit_that_reaches_further_stays_a_slot(self, storage: Storage, writer: Writer) -> None:
        assert await pack(storage, writer.log, 5) == 4

    async def test_few_are_not_worth_it(self, storage: Storage, writer: Writer) -> None:
        assert await writer.log.pack(6, least=5) == 0
        assert Piece(1, 6).key not in await keys(storage)
        await pack(storage, writer.log, 6)
        storage.asked.clear()
        assert await writer.log.pack(8, least=2) == 6
        assert storage.asked == [FLOOR_KEY, "list"]

    async def test_a_pack_is_bounded(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limit = len(lines(writer.commits[:3]))
        monkeypatch.setattr(statepath.packs, "_BYTES", limit)
        assert await pack(storage, writer.log, 10) == 10
        packs = [key for key in await keys(storage) if "-" in key]
        assert len(packs) > 1
        assert max([len((await storage.read(key)).data) for key in packs]) <= limit
        assert await read(writer.log) == writer.commits

    async def test_a_commit_larger_than_a_pack_is_one(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.packs, "_BYTES", 1)
        assert await pack(storage, writer.log, 3) == 3
        assert (await keys(storage))[:2] == [Piece(1, 1).key, Piece(2, 3).key]
        assert await read(writer.log) == writer.commits

    async def test_it_begins_at_the_floor(self, storage: Storage, writer: Writer) -> None:
        await record(storage, floor=4, packed=0)
        await writer.log.trim(3)
        assert await writer.log.pack(8, least=1) == 8
        assert Piece(4, 8).key in await keys(storage)

    @pytest.mark.parametrize("damage", [None, b"garbage"])
    async def test_it_ends_at_damage(self, storage: Storage, writer: Writer, damage: bytes | None) -> None:
        await storage.delete(slot_key(5))
        if damage is not None:
            await storage.write(slot_key(5), damage)
        # Nothing confirms the commit before it, either.
        assert await writer.log.pack(10, least=1) == 3
        with pytest.raises(CorruptionError):
            await read(writer.log)

    async def test_it_does_not_begin_behind_a_gap(self, storage: Storage, writer: Writer) -> None:
        await storage.delete(slot_key(1))
        assert await writer.log.pack(10, least=1) == 0

    async def test_what_another_packed_meanwhile_is_taken_if_it_is_the_same(
        self, storage: Storage, writer: Writer
    ) -> None:
        await storage.write(PACK, lines(writer.commits[:4]))
        assert await writer.log.pack(6, least=1) == 6
        await storage.write(PACK, lines(writer.commits[:3]))
        assert await writer.log.pack(6, least=1) == 0

    @pytest.mark.parametrize("all_are_gone", [True, False])
    async def test_a_packer_that_slept_packs_no_slot_of_a_writer_that_slept(
        self, storage: Storage, writer: Writer, all_are_gone: bool
    ) -> None:
        forged = sleeper(storage, writer, 2).make()

        async def meanwhile() -> None:
            await record(storage, packed=await PortableCommitLog(storage).pack(6, least=1))
            if all_are_gone:
                await PortableCommitLog(storage).trim(0)
            await storage.write(slot_key(4), bytes(encode_commit(forged)))

        storage.then[slot_key(4)] = meanwhile
        await writer.log.pack(10, least=1)
        for key in await keys(storage):
            assert forged.id.encode() not in (await storage.read(key)).data or key == slot_key(4)
        assert await read(writer.log) == writer.commits


class TestRead:
    @pytest.mark.parametrize("upto", [1, 6, 10])
    async def test_packed_or_not_it_is_the_same_log(
        self, storage: Storage, writer: Writer, upto: int
    ) -> None:
        await pack(storage, writer.log, upto)
        for after in range(13):
            assert await read(writer.log, after) == behind(writer, after), f"after {after}"

    async def test_reading_on_from_within_a_pack_checks_the_chain(
        self, storage: Storage, writer: Writer
    ) -> None:
        await pack(storage, writer.log, 6)
        async with aclosing(_generator(writer.log.follow(0))) as commits:
            assert [await anext(commits) for _ in writer.commits] == writer.commits
        log: Any = writer.log
        found = [commit async for commit in log._read(3, writer.commits[1].id)]
        assert found == writer.commits[2:]
        with pytest.raises(CorruptionError):
            _ = [commit async for commit in log._read(3, "another")]

    async def test_a_pack_may_reach_below_the_floor(self, storage: Storage, writer: Writer) -> None:
        await pack(storage, writer.log, 10)
        await record(storage, floor=5, packed=10)
        await writer.log.trim(4)
        assert await read(writer.log, 4) == behind(writer, 4)
        with pytest.raises(HistoryTrimmedError):
            await read(writer.log, 3)

    async def test_packs_count_when_the_record_says_so(self, storage: Storage, writer: Writer) -> None:
        await record(storage, packed=0)
        await storage.write(Piece(1, 10).key, b"not finished, or of another life of the log")
        assert await read(writer.log) == writer.commits

    async def test_slots_up_to_there_are_nothing(self, storage: Storage, writer: Writer) -> None:
        await pack(storage, writer.log, 6)
        await storage.write(slot_key(4), b"left by one who slept")
        await storage.write(slot_key(6), b"left by one who slept")
        assert await read(writer.log) == writer.commits
        await writer.log.trim(0)
        assert slot_key(4) not in await keys(storage)
        assert slot_key(6) not in await keys(storage)

    async def test_packs_may_overlap(self, storage: Storage, writer: Writer) -> None:
        await pack(storage, writer.log, 10)
        for begin, end in ((0, 3), (2, 6), (3, 5)):
            commits = writer.commits[begin:end]
            await storage.write(Piece(commits[0].first, commits[-1].last).key, lines(commits))
        for after in range(13):
            assert await read(writer.log, after) == behind(writer, after), f"after {after}"

    @pytest.mark.parametrize("moment", ["list", FLOOR_KEY, slot_key(1), slot_key(4), slot_key(9)])
    async def test_what_is_packed_during_a_read_is_read(
        self, storage: Storage, writer: Writer, moment: str
    ) -> None:
        storage.then[moment] = lambda: pack(storage, PortableCommitLog(storage), 10)
        assert await read(writer.log) == writer.commits
        assert not storage.then

    @pytest.mark.parametrize("all_are_gone", [True, False])
    async def test_a_slot_created_again_during_a_read_is_not_taken_for_the_one_that_was(
        self, storage: Storage, writer: Writer, all_are_gone: bool
    ) -> None:
        forged = sleeper(storage, writer, 2).make()

        async def meanwhile() -> None:
            await record(storage, packed=await PortableCommitLog(storage).pack(10, least=1))
            if all_are_gone:
                await PortableCommitLog(storage).trim(0)
            await storage.write(slot_key(4), bytes(encode_commit(forged)))

        storage.then[slot_key(4)] = meanwhile
        assert await read(writer.log) == writer.commits

    async def test_a_pack_far_behind_is_found(self, storage: Storage) -> None:
        writer = Writer(PortableCommitLog(storage))
        for _ in range(4):
            await writer.append(transactions=1000)
        await pack(storage, writer.log, 3000)
        for after in (0, 999, 1000, 2500, 2999, 3000, 4000):
            assert await read(writer.log, after) == behind(writer, after), f"after {after}"

    @pytest.mark.parametrize("lost", [PACK, Piece(7, 10).key])
    async def test_a_missing_pack_is_corruption(self, storage: Storage, writer: Writer, lost: str) -> None:
        await pack(storage, writer.log, 6)
        await pack(storage, writer.log, 10)
        await storage.delete(lost)
        with pytest.raises(CorruptionError, match="the pack is missing"):
            await read(writer.log)

    async def test_a_log_that_has_lost_all_is_not_empty(self, storage: Storage, writer: Writer) -> None:
        await pack(storage, writer.log, 10)
        for key in await keys(storage):
            await storage.delete(key)
        with pytest.raises(CorruptionError):
            await read(writer.log)
        assert await read(writer.log, 10) == []

    @pytest.mark.parametrize(
        "damage",
        [
            lambda data: data[:-5],
            lambda data: data.replace(b"tasks", b"tusks"),
            lambda data: b"",
            lambda data: b"".join(data.splitlines(keepends=True)[:-1]),
            lambda data: b"".join(data.splitlines(keepends=True)[1:]),
            lambda data: b"".join(data.splitlines(keepends=True)[::2]),
        ],
        ids=["cut", "altered", "emptied", "without its end", "without its start", "with gaps"],
    )
    async def test_a_damaged_pack_is_corruption(
        self, storage: Storage, writer: Writer, damage: Callable[[bytes], bytes]
    ) -> None:
        await pack(storage, writer.log, 6)
        await storage.write(PACK, damage((await storage.read(PACK)).data))
        with pytest.raises(CorruptionError) as caught:
            await read(writer.log)
        assert caught.value.key == PACK

    @pytest.mark.parametrize("lost", [True, False])
    async def test_packs_count_where_the_record_is_lost(
        self, storage: Storage, writer: Writer, lost: bool
    ) -> None:
        await pack(storage, writer.log, 10)
        await (storage.delete(FLOOR_KEY) if lost else storage.write(FLOOR_KEY, b"{"))
        assert await read(writer.log) == writer.commits
        assert await writer.log.packed() == 10

    async def test_it_takes_fewer_requests(self, storage: Storage) -> None:
        writer = Writer(PortableCommitLog(storage))
        for _ in range(100):
            await writer.append()
        storage.asked.clear()
        await read(writer.log)
        before = len(storage.asked)
        await pack(storage, writer.log, 99)
        storage.asked.clear()
        assert await read(writer.log) == writer.commits
        assert sorted(storage.asked) == sorted(["list", FLOOR_KEY, Piece(1, 99).key, slot_key(100)])
        assert before == 102

    async def test_a_follower_that_lags_reads_packs(self, storage: Storage, writer: Writer) -> None:
        async with aclosing(_generator(PortableCommitLog(storage, review=0).follow(0))) as commits:
            found = [await anext(commits)]
            await pack(storage, writer.log, 10)
            found += [await anext(commits) for _ in writer.commits[1:]]
            assert found == writer.commits

    async def test_a_follower_that_sleeps_in_the_middle_takes_no_slot_of_a_sleeper(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [1000.0]
        monkeypatch.setattr(statepath.log, "clock", lambda: now[0])
        monkeypatch.setattr(statepath.log, "_SOONEST", 0.001)
        forged = sleeper(storage, writer, 8).make()

        async def meanwhile() -> None:
            for _ in range(2):
                await writer.append()
            await pack(storage, PortableCommitLog(storage), 13)
            await storage.write(slot_key(13), bytes(encode_commit(forged)))
            now[0] += 60

        log = PortableCommitLog(storage, window=60)
        async with aclosing(_generator(log.follow(0))) as commits:
            for _ in range(8):
                await anext(commits)
            storage.then[slot_key(13)] = meanwhile
            assert [await anext(commits) for _ in range(2)] == writer.commits[8:]


class TestAppend:
    async def test_a_sleeper_commits_nothing_where_it_is_packed(
        self, storage: Storage, writer: Writer
    ) -> None:
        zombie = sleeper(storage, writer, 2)
        await pack(storage, writer.log, 10)
        with pytest.raises(HeadMoved):
            await zombie.append()
        assert await read(writer.log) == writer.commits
        await zombie.catch_up()
        await zombie.append()
        assert await read(writer.log) == zombie.commits

    async def test_who_fell_asleep_before_the_answer_learns_that_it_was_yes(
        self, storage: Storage, writer: Writer
    ) -> None:
        late = sleeper(storage, writer, 8)
        commit = late.make()

        async def meanwhile() -> None:
            other = Writer(PortableCommitLog(storage))
            other.commits = [*writer.commits, commit]
            await other.append()
            await pack(storage, PortableCommitLog(storage), commit.last)

        storage.then[FLOOR_KEY] = meanwhile
        await late.log.append(12, commit)
        assert slot_key(13) not in await keys(storage)

    @pytest.mark.parametrize("kept", [11, 13])
    async def test_nothing_is_acknowledged_where_the_pack_is_lost(
        self, storage: Storage, writer: Writer, kept: int
    ) -> None:
        zombie = sleeper(storage, writer, 2)
        await pack(storage, writer.log, 10)
        await storage.delete(Piece(1, 10).key)
        if kept > 11:
            await storage.delete(slot_key(11))
        with pytest.raises((OutcomeUnknownError, CorruptionError)):
            await zombie.append()


class TestTrim:
    async def test_packs_below_go_and_one_that_reaches_further_stays(
        self, storage: Storage, writer: Writer
    ) -> None:
        await pack(storage, writer.log, 6)
        await pack(storage, writer.log, 10)
        await record(storage, floor=9, packed=10)
        await writer.log.trim(8)
        assert await keys(storage) == [Piece(7, 10).key, slot_key(11)]
        await record(storage, floor=11, packed=10)
        await writer.log.trim(10)
        assert await keys(storage) == [slot_key(11)]
        assert await read(writer.log, 10) == behind(writer, 10)

    async def test_slots_that_only_a_pack_without_the_record_holds_stay(
        self, storage: Storage, writer: Writer
    ) -> None:
        await writer.log.pack(10, least=1)
        await writer.log.trim(0)
        assert len(await keys(storage)) == 9
        await storage.delete(Piece(1, 10).key)
        assert await read(writer.log) == writer.commits


async def shipped(storage: Storage, sizes: Iterable[int]) -> Writer:
    """What a mirror leaves: so many commits, of one or two transactions each, in each slot."""
    writer = Writer(PortableCommitLog(storage, review=0))
    for size in sizes:
        before, after = len(writer.commits), writer.head
        for _ in range(size):
            writer.commits.append(writer.make(transactions=1 + len(writer.commits) % 2))
        assert isinstance(writer.log, PortableCommitLog)
        await writer.log.extend(after, writer.commits[before:])
    return writer


class TestSlotsOfSeveral:
    """Slots of several commits each, in the middle of which a snapshot may stand."""

    @given(
        sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6),
        steps=st.lists(st.tuples(st.booleans(), st.integers(1, 30)), min_size=1, max_size=6),
        bound=st.sampled_from([1, 700, 8 * 1024 * 1024]),
    )
    async def test_wherever_it_is_packed_and_trimmed_nothing_above_the_floor_is_lost(
        self, sizes: list[int], steps: list[tuple[bool, int]], bound: int
    ) -> None:
        storage = Storage()
        writer = await shipped(storage, sizes)
        floor, packed = 1, 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statepath.packs, "_BYTES", bound)
            for packs, number in steps:
                mark = writer.commits[min(number, len(writer.commits) - 1) - 1].last
                log = PortableCommitLog(storage)
                if packs:
                    upto = await log.pack(mark, least=1)
                    assert upto <= max(packed, mark)
                    packed = upto
                else:
                    floor = max(floor, mark + 1)
                await record(storage, floor=floor, packed=packed)
                assert await read(log, floor - 1) == behind(writer, floor - 1)
                await log.trim(floor - 1)
                for after in range(floor - 1, writer.head + 1):
                    assert await read(log, after) == behind(writer, after), f"after {after}"

    async def test_a_slot_is_packed_whole_or_not_at_all(self, storage: Storage) -> None:
        writer = await shipped(storage, (3, 3, 1))  # to 4, 9 and 10
        assert [await pack(storage, writer.log, upto) for upto in (3, 4, 8, 9)] == [0, 4, 4, 9]
        assert await read(writer.log) == writer.commits

    @pytest.mark.parametrize("step", range(4))
    async def test_a_pack_that_cannot_be_written_ends_it_between_slots(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        monkeypatch.setattr(statepath.packs, "_BYTES", 1)
        writer = await shipped(storage, (3, 3, 3, 1))  # to 4, 9, 13 and 15
        ends = (0, 4, 9, 13)
        if step < 3:
            await storage.write(Piece(ends[step] + 1, ends[step + 1]).key, b"written by another")
        assert await writer.log.pack(13, least=1) == ends[step]

    async def test_a_floor_in_the_middle_of_a_slot_hides_nothing_above_it(self, storage: Storage) -> None:
        writer = await shipped(storage, (3, 3, 3, 1))
        await record(storage, floor=7, packed=0)  # within 5 to 9
        await writer.log.trim(6)
        assert await keys(storage) == [slot_key(first) for first in (5, 10, 14)]
        for after in range(6, writer.head + 1):
            assert await read(writer.log, after) == behind(writer, after), f"after {after}"
        with pytest.raises(HistoryTrimmedError):
            await read(writer.log, 5)
        assert await writer.log.pack(13, least=1) == 13
        await record(storage, floor=7, packed=13)
        await writer.log.trim(6)
        assert await read(writer.log, 6) == behind(writer, 6)

    @pytest.mark.parametrize("floor", [1, 4], ids=["packed", "trimmed"])
    async def test_a_record_of_which_only_the_beginning_stands_is_not_acknowledged(
        self, storage: Storage, floor: int
    ) -> None:
        writer = await shipped(storage, (1, 1, 1, 1))  # to 6
        ahead = sleeper(storage, writer, len(writer.commits))
        for _ in range(3):
            ahead.commits.append(ahead.make())
        await writer.log.pack(4, least=1)
        await record(storage, floor=floor, packed=4)
        await writer.log.trim(floor - 1)
        late = PortableCommitLog(storage)
        with pytest.raises(HeadMoved):
            await late.extend(0, ahead.commits)
        assert late.head == writer.head
        assert await read(writer.log, floor - 1) == behind(writer, floor - 1)

    async def test_a_record_that_stands_is_acknowledged_though_the_floor_is_in_it(
        self, storage: Storage
    ) -> None:
        writer = await shipped(storage, (1,))
        late = sleeper(storage, writer, 1)
        for _ in range(3):  # to 4
            late.commits.append(late.make())

        async def meanwhile() -> None:
            other = Writer(PortableCommitLog(storage))
            other.commits = [*late.commits]
            await other.append()
            await record(storage, floor=3, packed=0)

        storage.then[FLOOR_KEY] = meanwhile
        assert isinstance(late.log, PortableCommitLog)
        await late.log.extend(1, late.commits[1:])
        assert late.log.head == 4

    async def test_what_a_sleeper_commits_below_the_floor_is_nothing_though_it_reaches_above(
        self, storage: Storage
    ) -> None:
        writer = await shipped(storage, (1, 1))  # to 3, which is all that there is
        zombie = sleeper(storage, writer, 1)
        await record(storage, floor=4, packed=0)
        await storage.delete(slot_key(2))
        await storage.write(slot_key(2), lines([zombie.make(transactions=4)]))
        assert await read(writer.log, 3) == []


class TestInterrupted:
    async def test_after_each_step_the_log_is_whole_and_the_rest_can_be_done(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.packs, "_BYTES", len(lines(writer.commits[:3])))
        for step in range(100):
            storage.failing = step
            try:
                await pack(storage, writer.log, 10)
            except StateError:
                storage.failing = None
                assert await read(PortableCommitLog(storage)) == writer.commits, f"step {step}"
            else:
                break
        assert step > 3
        storage.failing = None
        assert [key for key in await keys(storage) if "-" not in key] == [slot_key(11)]
        assert await read(PortableCommitLog(storage)) == writer.commits
        await writer.append()
        assert await read(PortableCommitLog(storage)) == writer.commits


class TestAttendance:
    """Of several requests that are under way at once one fails: the others have ended when that is told."""

    @pytest.mark.parametrize("method", ["read", "delete"])
    async def test_nothing_goes_on_when_the_log_has_failed(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        ended: list[str] = []

        async def hang(key: str, **_: Any) -> None:
            if key == slot_key(2):
                raise AccessDeniedError("not any more")
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(key)

        packed = await writer.log.pack(6, least=1)
        await record(storage, packed=packed)
        if method == "read":
            await storage.delete(PACK)
            await record(storage, packed=0)
        read = storage.read
        monkeypatch.setattr(
            storage, method, lambda key, **how: hang(key) if Piece.of(key) else read(key, **how)
        )
        with pytest.raises(AccessDeniedError):
            await (writer.log.pack(6, least=1) if method == "read" else writer.log.trim(0))
        assert slot_key(1) in ended


class TestRestart:
    async def test_packs_are_kept_aside(self, storage: Storage, writer: Writer) -> None:
        await pack(storage, writer.log, 6)
        before = (await storage.read(PACK)).data
        kept = await writer.log.restart(12)
        assert [(await storage.read(key)).data for key in kept if key.startswith(PACK)] == [before]
        with pytest.raises(NotFoundError):
            await storage.read(PACK)


def _generator(commits: AsyncIterator[Commit]) -> Any:
    return commits
