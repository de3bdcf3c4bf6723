"""The portable commit log: what it makes of lost answers, trimmed and damaged slots."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import pytest
import statepath.log
import statepath.turns
from crowd.simulation import VirtualLoop, in_no_time
from statepath.backend import (
    ALWAYS,
    Blob,
    Commit,
    Entry,
    ETag,
    Span,
    When,
    decode_commit,
    encode_commit,
    slot_key,
)
from statepath.commit import FLOOR_KEY, seal
from statepath.errors import (
    AccessDeniedError,
    ConfigurationError,
    CorruptionError,
    HeadMoved,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
    OutcomeUnknownError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.testing.commits import Writer

LOST_BEFORE = UnavailableError("the connection was reset")
LOST_AFTER = UnavailableError("the connection was reset after the write")
HANGS = "hangs"


class Storage(MemoryBackend):
    """A store whose next writes and reads fare as a test says, and which writes down what was asked of it."""

    def __init__(self, name: str = "") -> None:
        super().__init__(MemoryConfig(name))
        self.fates: list[StateError | str | None] = []
        self.read_fates: list[StateError] = []
        self.sent: list[tuple[str, bytes]] = []
        self.asked: list[str] = []
        self.reading = 0
        self.most_reading = 0

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        self.sent.append((key, data))
        fate = self.fates.pop(0) if self.fates else None
        if fate == HANGS:
            await asyncio.Event().wait()
        if isinstance(fate, StateError) and fate is not LOST_AFTER:
            raise fate
        etag = await super().write(key, data, when=when)
        if fate is LOST_AFTER:
            raise LOST_AFTER
        return etag

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        self.asked.append(key)
        if self.read_fates:
            raise self.read_fates.pop(0)
        self.reading += 1
        self.most_reading = max(self.most_reading, self.reading)
        await asyncio.sleep(0)
        self.reading -= 1
        return await super().read(key, span=span)


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture
def log(storage: Storage) -> PortableCommitLog:
    return PortableCommitLog(storage)


@pytest.fixture
def writer(log: PortableCommitLog) -> Writer:
    return Writer(log)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statepath.log, "_SOONEST", 0.0001)
    monkeypatch.setattr(statepath.log, "_LATEST", 0.001)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr(statepath.log, "clock", lambda: now[0])
    return iter([now])


async def read(log: PortableCommitLog, after: int = 0) -> list[Commit]:
    return [commit async for commit in log.read(after)]


async def read_until_damaged(log: PortableCommitLog) -> tuple[list[Commit], str | None]:
    """The commits before the damage, and the key that is named as damaged."""
    found: list[Commit] = []
    try:
        async for commit in log.read(0):
            found.append(commit)  # noqa: PERF401 - what was read before the error counts
    except CorruptionError as error:
        return found, error.key
    return found, None


async def slots(storage: Storage) -> list[int]:
    return [int(entry.key[8:28]) async for entry in storage.list_keys("journal/0")]


async def raise_floor(storage: Storage, floor: int) -> None:
    await storage.write(FLOOR_KEY, bytes(seal({"floor": floor, "by": "the engine"})))


class TestAppend:
    async def test_a_commit_is_one_object(self, storage: Storage, writer: Writer) -> None:
        commit = await writer.append(transactions=3)
        assert storage.sent == [(slot_key(1), bytes(encode_commit(commit)))]
        assert decode_commit((await storage.read(slot_key(1))).data) == commit

    async def test_several_commits_at_once_are_one_object(self, storage: Storage, writer: Writer) -> None:
        writer.commits += [writer.make(transactions=2)]
        writer.commits += [writer.make()]
        storage.fates = [LOST_AFTER]
        await writer.log.extend(0, writer.commits)
        lines = b"".join(map(encode_commit, writer.commits))
        assert storage.sent == [(slot_key(1), lines)] * 2
        await writer.append()
        assert await read(writer.log) == writer.commits
        assert [key for key, _ in storage.sent[2:]] == [slot_key(4)]

    async def test_who_saw_the_head_lately_reads_on_through_slots_of_several(self, storage: Storage) -> None:
        writer, reader = Writer(PortableCommitLog(storage)), PortableCommitLog(storage, window=3600)
        await writer.append()
        head = len(await read(reader))
        for _ in range(2):
            before = len(writer.commits)
            writer.commits += [writer.make()]
            writer.commits += [writer.make()]
            assert isinstance(writer.log, PortableCommitLog)
            await writer.log.extend(before, writer.commits[before:])
        assert await read(reader, head) == writer.commits[head:]

    async def test_several_commits_at_once_are_packed_with_the_rest(
        self, storage: Storage, writer: Writer
    ) -> None:
        await writer.append()
        before = len(writer.commits)
        for transactions in (2, 1):
            writer.commits.append(writer.make(transactions=transactions))
        await writer.log.extend(1, writer.commits[before:])
        await writer.append()
        assert isinstance(writer.log, PortableCommitLog)
        assert await writer.log.pack(4, least=2) == 4
        await storage.write(FLOOR_KEY, bytes(seal({"floor": 1, "packed": 4})))
        await writer.log.trim(0)
        assert await slots(storage) == [1, 5]
        for after in range(writer.head):
            assert await read(writer.log, after) == [one for one in writer.commits if one.last > after]

    async def test_a_lost_answer_is_found_to_be_yes(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [LOST_AFTER]
        commit = await writer.append()
        assert storage.sent == [(slot_key(1), bytes(encode_commit(commit)))] * 2
        assert await read(writer.log) == [commit]

    async def test_a_request_that_never_arrived_is_sent_again(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [LOST_BEFORE, ThrottledError("slow down"), LOST_BEFORE]
        commit = await writer.append()
        assert storage.sent == [(slot_key(1), bytes(encode_commit(commit)))] * 4

    async def test_a_request_that_never_arrived_may_lose_the_place(
        self, storage: Storage, writer: Writer
    ) -> None:
        other = Writer(PortableCommitLog(Storage("other")), "other")
        commit, theirs = writer.make(), other.make()

        class Overtaken(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                if not self.sent:
                    self.sent.append((key, data))
                    await super().write(key, bytes(encode_commit(theirs)))
                    raise LOST_BEFORE
                return await super().write(key, data, when=when)

        log = PortableCommitLog(Overtaken(), window=3600)
        assert await read(log) == []
        with pytest.raises(HeadMoved):
            await log.append(0, commit)
        assert await read(log) == [theirs]

    async def test_what_stays_open_past_the_deadline_is_said_to_be_unknown(self, storage: Storage) -> None:
        storage.fates = [LOST_AFTER] + [LOST_BEFORE] * 100_000
        log = PortableCommitLog(storage, deadline=0.02)
        writer = Writer(log)
        with pytest.raises(OutcomeUnknownError) as caught:
            await writer.append()
        assert caught.value.key == slot_key(1)

    async def test_a_storage_that_hangs_is_left_at_the_deadline(self, storage: Storage) -> None:
        storage.fates = [HANGS] * 100
        with pytest.raises(OutcomeUnknownError):
            await Writer(PortableCommitLog(storage, deadline=0.01)).append()

    async def test_no_other_commit_is_taken_while_an_outcome_is_open(self, storage: Storage) -> None:
        storage.fates = [HANGS] * 100
        writer = Writer(PortableCommitLog(storage, deadline=0.01))
        commit = writer.make()
        with pytest.raises(OutcomeUnknownError):
            await writer.log.append(0, commit)
        with pytest.raises(OutcomeUnknownError):
            await writer.log.append(0, writer.make())
        assert {data for _, data in storage.sent} == {bytes(encode_commit(commit))}
        storage.fates.clear()
        writer.log._deadline = 30.0
        await writer.log.append(0, commit)
        writer.commits.append(commit)
        await writer.append()
        assert await read(writer.log) == writer.commits

    async def test_an_abandoned_append_is_an_open_outcome(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [HANGS]
        commit = writer.make()
        appending = asyncio.create_task(writer.log.append(0, commit))
        await asyncio.sleep(0)
        appending.cancel()
        with suppress(asyncio.CancelledError):
            await appending
        with pytest.raises(OutcomeUnknownError):
            await writer.append()
        await writer.log.append(0, commit)

    async def test_who_has_had_its_turn_lets_somebody_else_go_first(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.turns, "_TURN", -1.0)
        monkeypatch.setattr(statepath.turns, "_COMMITS", 1e12)
        monkeypatch.setattr(statepath.turns, "_LONGEST", 600.0)
        one, other = (Writer(PortableCommitLog(storage), name) for name in ("one", "other"))
        await other.append()
        with pytest.raises(HeadMoved):
            await one.append()
        await one.catch_up()
        await one.append()
        resting = asyncio.ensure_future(one.append())
        await other.catch_up()
        theirs = await other.append()
        assert not resting.done()
        resting.cancel()
        await asyncio.wait([resting])
        assert (await read(other.log))[-1] == theirs

    async def test_an_open_outcome_may_turn_out_to_be_a_lost_race(self, storage: Storage) -> None:
        storage.fates = [HANGS] * 100
        writer = Writer(PortableCommitLog(storage, deadline=0.01))
        commit = writer.make()
        with pytest.raises(OutcomeUnknownError):
            await writer.log.append(0, commit)
        storage.fates.clear()
        writer.log._deadline = 30.0
        theirs = await Writer(PortableCommitLog(storage), "other").append()
        with pytest.raises(HeadMoved):
            await writer.log.append(0, commit)
        await writer.catch_up()
        assert writer.commits == [theirs]
        await writer.append()

    @pytest.mark.parametrize(
        "fate",
        [ThrottledError("slow down"), UnavailableError("no route", code="not_sent")],
        ids=lambda fate: fate.code,
    )
    @in_no_time
    async def test_a_storage_that_only_throttles_or_is_never_reached_wrote_nothing(
        self, storage: Storage, fate: StateError, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.log, "_LATEST", 0.1)
        storage.fates = [fate] * 100_000
        writer = Writer(PortableCommitLog(storage, deadline=1.0))
        with pytest.raises(
            UnavailableError, match=rf"took nothing within 1 s \({fate}\); nothing was written"
        ) as told:
            await writer.append()
        assert told.value.code == fate.code
        storage.fates.clear()
        writer.log._deadline = 30.0
        await writer.append()

    @in_no_time
    async def test_the_deadline_cuts_off_no_call_that_would_only_be_told_that_nothing_was_sent(self) -> None:
        class Unreachable(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                await asyncio.sleep(8)
                raise UnavailableError("no route", code="not_sent")

        log = PortableCommitLog(Unreachable(), deadline=30.0)
        with pytest.raises(UnavailableError, match="nothing was written"):
            await Writer(log).append()

    @in_no_time
    async def test_an_answer_that_the_deadline_overtakes_leaves_the_outcome_open(self) -> None:
        class Busy(Storage):
            """Stores, and then the program is busy for so long that the deadline passes before the answer is seen."""

            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                etag = await super().write(key, data, when=when)
                loop = asyncio.get_running_loop()
                assert isinstance(loop, VirtualLoop)
                loop.now += 60
                return etag

        log = PortableCommitLog(Busy(), deadline=30.0)
        with pytest.raises(OutcomeUnknownError):
            await Writer(log).append()

    async def test_an_append_that_is_abandoned_as_its_answer_comes_is_an_open_outcome(
        self, storage: Storage, writer: Writer
    ) -> None:
        class Abandoning(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                appending.cancel()
                return await super().write(key, data, when=when)

        commit = writer.make()
        log = PortableCommitLog(Abandoning())
        appending = asyncio.create_task(log.append(0, commit))
        with pytest.raises(asyncio.CancelledError):
            await appending
        with pytest.raises(OutcomeUnknownError):
            await log.append(0, writer.make())
        await log.append(0, commit)

    @in_no_time
    async def test_an_append_that_begins_before_another_one_is_settled_waits_for_it(self) -> None:
        class Settling(Storage):
            late: asyncio.Task[None] | None = None

            async def read(self, key: str, *, span: Span | None = None) -> Blob:
                if self.late is None:
                    self.late = asyncio.create_task(writer.log.append(0, second))
                    await asyncio.sleep(0)
                return await super().read(key, span=span)

        storage = Settling()
        writer = Writer(PortableCommitLog(storage))
        first, second = writer.make(), writer.make()
        await writer.log.append(0, first)
        assert storage.late is not None
        with pytest.raises(HeadMoved):
            await storage.late
        assert await read(PortableCommitLog(storage)) == [first]

    async def test_a_slow_answer_counts_although_another_call_was_begun_beside_it(self) -> None:
        class Slow(Storage):
            """Answers the first call, once a second one has been begun, and no other."""

            second = asyncio.Event()

            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                self.sent.append((key, data))
                if len(self.sent) > 1:
                    self.second.set()
                    await asyncio.Event().wait()
                await self.second.wait()
                return await MemoryBackend.write(self, key, data, when=when)

        storage = Slow()
        await Writer(PortableCommitLog(storage, deadline=7.0)).append()
        assert len(storage.sent) == 2

    @in_no_time
    async def test_an_attempt_that_is_never_answered_leaves_time_for_another(self, storage: Storage) -> None:
        storage.fates = [HANGS]
        writer = Writer(PortableCommitLog(storage, deadline=6.0))
        commit = await writer.append()
        assert storage.sent == [(slot_key(1), bytes(encode_commit(commit)))] * 2
        await writer.append()

    async def test_a_full_disk_is_told_at_once(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [UnavailableError("no space", code="disk_full")]
        with pytest.raises(UnavailableError) as caught:
            await writer.append()
        assert caught.value.code == "disk_full"
        assert len(storage.sent) == 1
        await writer.append()

    async def test_a_full_disk_settles_no_earlier_attempt(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [LOST_AFTER, UnavailableError("no space", code="disk_full")]
        commit = await writer.append()
        assert await read(writer.log) == [commit]

    @pytest.mark.parametrize(
        "refusal",
        [AccessDeniedError("no"), ConfigurationError("no such bucket"), NotFoundError("no such bucket")],
        ids=lambda refusal: type(refusal).__name__,
    )
    async def test_a_refusal_is_told_as_it_is(
        self, storage: Storage, writer: Writer, refusal: StateError
    ) -> None:
        storage.fates = [refusal]
        with pytest.raises(type(refusal)):
            await writer.append()
        await writer.append()

    async def test_a_refusal_settles_no_earlier_attempt(self, storage: Storage, writer: Writer) -> None:
        storage.fates = [LOST_AFTER, AccessDeniedError("the token has expired")]
        with pytest.raises(OutcomeUnknownError) as caught:
            await writer.append()
        assert isinstance(caught.value.__cause__, AccessDeniedError)

    async def test_a_reader_that_sees_the_slot_settles_nothing(self) -> None:
        """The append under way would take the refusal for the whole answer."""

        class ReadMeanwhile(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                if self.sent:
                    assert len(await read(log)) == 1
                return await super().write(key, data, when=when)

        storage = ReadMeanwhile()
        storage.fates = [LOST_AFTER, AccessDeniedError("the token has expired")]
        log = PortableCommitLog(storage)
        with pytest.raises(OutcomeUnknownError):
            await Writer(log).append()

    async def test_an_error_that_nobody_knows_leaves_the_outcome_open(self, writer: Writer) -> None:
        class Odd(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                raise RuntimeError

        with pytest.raises(OutcomeUnknownError):
            await Writer(PortableCommitLog(Odd())).append()

    async def test_a_place_that_is_taken_is_not_touched(self, storage: Storage, writer: Writer) -> None:
        commit = await writer.append()
        with pytest.raises(HeadMoved):
            await Writer(PortableCommitLog(storage), "other").append()
        assert await read(writer.log) == [commit]

    async def test_a_damaged_slot_is_reported_and_not_touched(self, storage: Storage, writer: Writer) -> None:
        await storage.write(slot_key(1), b"garbage")
        with pytest.raises(CorruptionError) as caught:
            await writer.append()
        assert caught.value.key == slot_key(1)
        assert (await storage.read(slot_key(1))).data == b"garbage"

    async def test_a_commit_follows_right_behind(self, writer: Writer) -> None:
        with pytest.raises(InvalidArgumentError):
            await writer.log.append(3, writer.make())


class TestFloor:
    async def test_a_slot_below_the_floor_did_not_commit(self, storage: Storage, writer: Writer) -> None:
        await raise_floor(storage, 5)
        with pytest.raises(OutcomeUnknownError):
            await writer.append()

    @pytest.mark.parametrize("floor", [2, 5, 10])
    async def test_a_slot_that_begins_below_the_floor_did_not_commit(
        self, storage: Storage, writer: Writer, floor: int
    ) -> None:
        await raise_floor(storage, floor)
        with pytest.raises(OutcomeUnknownError):
            await writer.append(transactions=10)

    async def test_a_slot_at_the_floor_commits(self, storage: Storage, writer: Writer) -> None:
        await raise_floor(storage, 1)
        await writer.append()

    async def test_a_clear_refusal_below_the_floor_is_clear(self, storage: Storage, writer: Writer) -> None:
        theirs = Writer(writer.log, "other").make()
        await storage.write(slot_key(1), bytes(encode_commit(theirs)))
        await raise_floor(storage, 5)
        with pytest.raises(HeadMoved):
            await writer.append()

    async def test_a_slot_below_the_floor_counts_if_the_log_continues_it(
        self, storage: Storage, writer: Writer
    ) -> None:
        commit, following = writer.make(), None
        writer.commits = [commit]
        following = writer.make()
        await storage.write(slot_key(2), bytes(encode_commit(following)))
        await raise_floor(storage, 2)
        await writer.log.append(0, commit)

    async def test_a_lost_answer_about_a_trimmed_slot_stays_unknown(
        self, storage: Storage, writer: Writer
    ) -> None:
        """The slot was won, continued, trimmed, and then taken by another who had slept."""
        theirs = Writer(writer.log, "zombie").make()
        await storage.write(slot_key(1), bytes(encode_commit(theirs)))
        await raise_floor(storage, 5)
        storage.fates = [LOST_BEFORE]
        with pytest.raises(OutcomeUnknownError):
            await writer.append()

    async def test_the_floor_is_asked_for_again_when_it_does_not_answer(
        self, storage: Storage, writer: Writer
    ) -> None:
        storage.read_fates = [UnavailableError("later"), ThrottledError("later")]
        await writer.append()
        assert storage.asked == [FLOOR_KEY] * 3

    @in_no_time
    async def test_a_floor_that_never_answers_leaves_the_outcome_open(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.log, "_LATEST", 0.1)
        storage.read_fates = [UnavailableError("later")] * 100_000
        with pytest.raises(OutcomeUnknownError):
            await Writer(PortableCommitLog(storage, deadline=1.0)).append()

    async def test_a_writer_that_saw_the_head_lately_does_not_ask(
        self, storage: Storage, clock: Iterator[list[float]]
    ) -> None:
        now = next(clock)
        writer = Writer(PortableCommitLog(storage, window=100))
        await writer.append()
        assert storage.asked == [FLOOR_KEY]
        now[0] += 49
        await writer.append()
        assert storage.asked == [FLOOR_KEY]
        now[0] += 50
        await writer.append()
        assert storage.asked == [FLOOR_KEY] * 2

    async def test_the_head_was_seen_when_the_request_began(self, clock: Iterator[list[float]]) -> None:
        now = next(clock)

        class Slow(Storage):
            async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
                now[0] += 60
                return await super().write(key, data, when=when)

        storage = Slow()
        writer = Writer(PortableCommitLog(storage, window=200))
        await writer.append()
        storage.asked.clear()
        await writer.append()
        assert storage.asked == [FLOOR_KEY]

    async def test_reading_to_the_head_is_seeing_it(
        self, storage: Storage, clock: Iterator[list[float]]
    ) -> None:
        next(clock)
        writer = Writer(PortableCommitLog(storage, window=100))
        await read(writer.log)
        storage.asked.clear()
        await writer.append()
        assert storage.asked == []

    async def test_another_place_than_the_head_that_was_seen_is_checked(
        self, storage: Storage, clock: Iterator[list[float]]
    ) -> None:
        next(clock)
        writer = Writer(PortableCommitLog(storage, window=100))
        for _ in range(2):
            await writer.append()
        await storage.delete(slot_key(2))
        await raise_floor(storage, 3)
        writer.commits.pop()
        with pytest.raises(OutcomeUnknownError):
            await writer.append()

    async def test_no_commit_is_acknowledged_on_a_floor_that_cannot_be_read(
        self, storage: Storage, writer: Writer
    ) -> None:
        await storage.write(FLOOR_KEY, bytes(seal({"floor": 1}))[:-9] + b'0000000"}\n')
        with pytest.raises(OutcomeUnknownError):
            await writer.append()


class TestRead:
    async def test_who_saw_the_head_lately_reads_on_through_commits_that_share_a_slot(
        self, storage: Storage, writer: Writer
    ) -> None:
        reader = Writer(PortableCommitLog(storage, window=3600))
        await writer.append()
        await reader.catch_up()
        for _ in range(2):
            head = writer.head
            both = [writer.make()]
            writer.commits += both
            both.append(writer.make())
            writer.commits += both[1:]
            assert isinstance(writer.log, PortableCommitLog)
            await writer.log.extend(head, both)
        await reader.catch_up()
        assert reader.commits == writer.commits

    async def test_a_listing_that_lags_hides_no_commit_before_one_that_it_has(self) -> None:
        class Lagging(Storage):
            """Lists neither the second slot nor the third."""

            async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
                async for entry in super().list_keys(prefix, after=after):
                    if entry.key not in (slot_key(2), slot_key(4)):
                        yield entry

        storage = Lagging()
        writer = Writer(PortableCommitLog(storage))
        for _ in range(4):
            await writer.append(transactions=2 if writer.head == 1 else 1)
        assert await slots(storage) == [1, 5]
        assert await read(writer.log) == writer.commits
        assert await read(writer.log, 2) == writer.commits[1:]

    async def test_a_damaged_floor_hides_no_commit(self, storage: Storage, writer: Writer) -> None:
        await writer.append()
        await storage.write(FLOOR_KEY, b'{"floor": ')
        assert await read(writer.log) == writer.commits

    async def test_slots_below_the_floor_are_not_read(self, storage: Storage, writer: Writer) -> None:
        for _ in range(4):
            await writer.append()
        await raise_floor(storage, 3)
        await storage.write(slot_key(1), b"left by one who slept")
        assert await read(writer.log, 2) == writer.commits[2:]
        with pytest.raises(HistoryTrimmedError, match=r"what came before was trimmed$") as caught:
            await read(writer.log, 1)
        assert caught.value.floor == 3

    async def test_a_long_slot_below_the_floor_does_not_reach_above_it(
        self, storage: Storage, writer: Writer
    ) -> None:
        await storage.write(slot_key(1), bytes(encode_commit(writer.make(transactions=10))))
        await raise_floor(storage, 6)
        assert await read(writer.log, 5) == []

    async def test_a_log_without_a_slot_may_be_trimmed(
        self, storage: Storage, log: PortableCommitLog
    ) -> None:
        await raise_floor(storage, 5)
        assert await read(log, 4) == []
        with pytest.raises(HistoryTrimmedError):
            await read(log, 3)

    async def test_what_is_trimmed_during_a_read_is_told(self, storage: Storage, writer: Writer) -> None:
        for _ in range(60):
            await writer.append()
        reading = writer.log.read(0)
        async with aclosing(_generator(reading)) as commits:
            assert await anext(commits) == writer.commits[0]
            await raise_floor(storage, 60)
            await writer.log.trim(59)
            with pytest.raises(HistoryTrimmedError):
                _ = [commit async for commit in commits]

    async def test_a_missing_durable_slot_is_corruption(self, storage: Storage, writer: Writer) -> None:
        for _ in range(4):
            await writer.append()
        await storage.delete(slot_key(3))
        assert await read_until_damaged(writer.log) == (writer.commits[:2], slot_key(3))

    async def test_a_missing_first_slot_is_corruption(self, storage: Storage, writer: Writer) -> None:
        for _ in range(3):
            await writer.append()
        await storage.delete(slot_key(1))
        with pytest.raises(CorruptionError):
            await read(writer.log)

    async def test_a_damaged_slot_does_not_hide_that_another_was_durable(
        self, storage: Storage, writer: Writer
    ) -> None:
        for _ in range(5):
            await writer.append()
        await storage.delete(slot_key(2))
        await storage.write(slot_key(5), b"garbage")
        with pytest.raises(CorruptionError) as caught:
            await read(writer.log)
        assert caught.value.key == slot_key(2)

    async def test_a_gap_that_nobody_saw_durable_ends_the_log(self, storage: Storage, writer: Writer) -> None:
        for _ in range(4):
            await writer.append()
        for commit in writer.commits[2:]:
            never = msgspec.structs.replace(commit, durable=2)
            await storage.write(slot_key(commit.first), bytes(encode_commit(never)))
        await storage.delete(slot_key(3))
        assert await read(writer.log) == writer.commits[:2]

    @pytest.mark.parametrize(
        "damage",
        [lambda line: line[:-5], lambda line: line.replace(b"tasks", b"tusks"), lambda line: b""],
        ids=["cut", "altered", "emptied"],
    )
    async def test_a_damaged_slot_is_corruption(
        self, storage: Storage, writer: Writer, damage: Callable[[bytes], bytes]
    ) -> None:
        for _ in range(3):
            await writer.append()
        blob = await storage.read(slot_key(3))
        await storage.write(slot_key(3), damage(blob.data))
        assert await read_until_damaged(writer.log) == (writer.commits[:2], slot_key(3))

    async def test_a_commit_in_another_slot_is_corruption(self, storage: Storage, writer: Writer) -> None:
        for _ in range(2):
            await writer.append()
        await storage.write(slot_key(1), (await storage.read(slot_key(2))).data)
        await storage.delete(slot_key(2))
        with pytest.raises(CorruptionError):
            await read(writer.log)

    async def test_a_commit_of_another_chain_is_corruption(self, storage: Storage, writer: Writer) -> None:
        await writer.append()
        forked = msgspec.structs.replace(writer.make(), prev="another")
        await storage.write(slot_key(2), bytes(encode_commit(forked)))
        with pytest.raises(CorruptionError):
            await read(writer.log)

    async def test_a_long_commit_is_found_from_within(self, writer: Writer) -> None:
        commit = await writer.append(transactions=3000)
        for after in (0, 1, 1500, 2999):
            assert await read(writer.log, after) == [commit]
        assert await read(writer.log, 3000) == []
        following = await writer.append()
        assert await read(writer.log, 2500) == [commit, following]
        assert await read(writer.log, 3000) == [following]

    async def test_what_else_lies_in_the_journal_is_no_slot(self, storage: Storage, writer: Writer) -> None:
        for _ in range(2):
            await writer.append()
        for key in (
            "journal/1.jsonl",
            f"{slot_key(1)}.corrupt.now",
            "journal/note",
            f"journal/{2:021d}.jsonl",
        ):
            await storage.write(key, b"x")
        assert await read(writer.log) == writer.commits

    async def test_slots_are_read_ahead_but_not_without_bound(self, storage: Storage, writer: Writer) -> None:
        for _ in range(40):
            await writer.append()
        await read(writer.log)
        assert storage.most_reading == 32

    async def test_large_ones_are_fewer(
        self, storage: Storage, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for n in range(20):
            await writer.append(size=100_000 if n == 10 else 1000)
        monkeypatch.setattr(statepath.log, "_AHEAD_BYTES", 10_000)
        most, found = [], []
        async for commit in writer.log.read(0):
            found.append(commit)
            most.append(storage.most_reading)
            storage.most_reading = 0
        assert found == writer.commits
        assert 2 <= max(most) <= 9
        assert max(most[10:]) >= 2

    async def test_leaving_a_read_leaves_no_task(self) -> None:
        class Stuck(Storage):
            async def read(self, key: str, *, span: Span | None = None) -> Blob:
                if slot_key(3) < key < FLOOR_KEY:  # the commit before it is held back
                    await asyncio.Event().wait()
                return await super().read(key, span=span)

        writer = Writer(PortableCommitLog(Stuck(), window=3600))
        for _ in range(20):
            await writer.append()
        async with aclosing(_generator(writer.log.read(0))) as commits:
            await anext(commits)
            await anext(commits)
            assert len(asyncio.all_tasks()) > 1
        assert len(asyncio.all_tasks()) == 1


class TestTrim:
    async def test_commits_below_go_and_the_newest_stays(self, storage: Storage, writer: Writer) -> None:
        for transactions in (1, 2, 3, 1):
            await writer.append(transactions=transactions)
        await raise_floor(storage, 5)
        await writer.log.trim(4)
        assert await slots(storage) == [4, 7]
        await raise_floor(storage, 8)
        await writer.log.trim(7)
        assert await slots(storage) == [7]

    async def test_a_commit_that_reaches_further_stays(self, storage: Storage, writer: Writer) -> None:
        for transactions in (1, 2, 3):
            await writer.append(transactions=transactions)
        await writer.log.trim(2)
        assert await slots(storage) == [2, 4]

    async def test_what_a_sleeper_left_below_the_floor_goes(self, storage: Storage, writer: Writer) -> None:
        for _ in range(4):
            await writer.append()
        await raise_floor(storage, 4)
        await writer.log.trim(3)
        await storage.write(slot_key(2), b"left by one who slept")
        await writer.log.trim(3)
        assert await slots(storage) == [4]


class TestFollow:
    async def test_an_append_on_this_log_wakes_its_followers(
        self, writer: Writer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(statepath.log, "_SOONEST", 3600.0)
        async with aclosing(_generator(writer.log.follow(0))) as commits:
            for _ in range(3):
                waiting = asyncio.ensure_future(anext(commits))
                await _until(lambda: not _loop_is_busy())
                commit = await writer.append()
                assert await waiting == commit

    async def test_only_the_next_slot_is_asked_for(self, storage: Storage) -> None:
        log = PortableCommitLog(storage, review=3600)
        writer = Writer(PortableCommitLog(storage))
        await writer.append()
        async with aclosing(_generator(log.follow(0))) as commits:
            await anext(commits)
            storage.asked.clear()
            waiting = asyncio.ensure_future(anext(commits))
            await _until(lambda: len(storage.asked) >= 5)
            assert set(storage.asked) == {slot_key(2)}
            assert await writer.append() == await waiting

    async def test_a_follower_is_told_when_what_it_needs_was_trimmed(self, storage: Storage) -> None:
        log = PortableCommitLog(storage, review=0)
        async with aclosing(_generator(log.follow(2))) as commits:
            waiting = asyncio.ensure_future(anext(commits))
            await asyncio.sleep(0)
            await raise_floor(storage, 5)
            with pytest.raises(HistoryTrimmedError):
                await waiting

    async def test_a_follower_looks_at_the_whole_log_now_and_then(
        self, storage: Storage, clock: Iterator[list[float]]
    ) -> None:
        now = next(clock)
        async with aclosing(_generator(PortableCommitLog(storage, review=10).follow(2))) as commits:
            waiting = asyncio.ensure_future(anext(commits))
            await _until(lambda: storage.asked.count(slot_key(3)) > 2)
            await raise_floor(storage, 5)
            now[0] += 10
            with pytest.raises(HistoryTrimmedError):
                await waiting

    async def test_a_follower_takes_slots_that_hold_several_commits(self, storage: Storage) -> None:
        writer = Writer(PortableCommitLog(storage))
        await writer.append()
        async with aclosing(_generator(PortableCommitLog(storage, review=3600).follow(0))) as commits:
            for _ in range(2):
                assert await anext(commits) == writer.commits[-1]
                before = len(writer.commits)
                for _ in range(3):
                    writer.commits.append(writer.make())
                assert isinstance(writer.log, PortableCommitLog)
                await writer.log.extend(before, writer.commits[before:])
                assert [await anext(commits) for _ in range(2)] == writer.commits[before:-1]

    @pytest.mark.parametrize("review", [0.0, 3600.0])
    async def test_a_follower_checks_the_chain(self, storage: Storage, review: float) -> None:
        writer = Writer(PortableCommitLog(storage))
        await writer.append()
        async with aclosing(_generator(PortableCommitLog(storage, review=review).follow(0))) as commits:
            await anext(commits)
            forked = msgspec.structs.replace(writer.make(), prev="another")
            await storage.write(slot_key(2), bytes(encode_commit(forked)))
            with pytest.raises(CorruptionError):
                await anext(commits)


class TestRestart:
    async def test_each_slot_is_kept_aside_byte_for_byte(self, storage: Storage, writer: Writer) -> None:
        for _ in range(3):
            await writer.append()
        await storage.write(slot_key(2), b"garbage")
        before = [(await storage.read(slot_key(first))).data for first in (1, 2, 3)]
        kept = await writer.log.restart(3)
        assert [(await storage.read(key)).data for key in kept] == before
        assert [key.rpartition(".corrupt.")[0] for key in kept] == [slot_key(first) for first in (1, 2, 3)]
        for first in (1, 2, 3):
            with pytest.raises(NotFoundError):
                await storage.read(slot_key(first))

    async def test_what_was_kept_stays_the_next_time(self, storage: Storage, writer: Writer) -> None:
        await writer.append()
        first = await writer.log.restart(1)
        commit = writer.commits.pop()
        await writer.append()
        second = await writer.log.restart(1)
        assert not set(first) & set(second)
        assert decode_commit((await storage.read(first[0])).data) == commit

    async def test_an_open_outcome_ends_with_the_journal(self, storage: Storage) -> None:
        storage.fates = [HANGS] * 100
        writer = Writer(PortableCommitLog(storage, deadline=0.01))
        with pytest.raises(OutcomeUnknownError):
            await writer.append()
        storage.fates.clear()
        writer.log._deadline = 30.0
        assert await writer.log.restart(0) == []
        await writer.append()


def _generator(commits: AsyncIterator[Commit]) -> Any:
    return commits


def _loop_is_busy() -> bool:
    """Whether anything will happen before a timer or the caller acts."""
    loop: Any = asyncio.get_running_loop()
    return bool(loop._ready)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the code under test tells nobody that it sleeps
        await asyncio.sleep(0)
