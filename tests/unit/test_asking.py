"""Who loses place after place asks for a turn, and is let go first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import TypeVar, cast

import pytest
import statepath.log
from crowd.simulation import in_no_time
from statepath.asking import ASKED_KEY, Asking
from statepath.backend import ALWAYS, Blob, Entry, ETag, Span, When, slot_key
from statepath.commit import Commit
from statepath.errors import HeadMoved, UnavailableError
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.testing.commits import Writer

T = TypeVar("T")


@pytest.fixture
def storage() -> MemoryBackend:
    return MemoryBackend(MemoryConfig())


async def lose(asking: Asking, *moments: float) -> None:
    """Lose at these moments, and ask when it is time."""
    for moment in moments:
        asking.lost(moment)
        if asking.is_due(moment):
            await asking.speak(moment)


async def look(asking: Asking) -> float:
    """What others ask of who wins."""
    asking.won(0.0)
    return await asking.speak(0.0)


async def is_put_up(storage: MemoryBackend) -> bool:
    return [entry.key async for entry in storage.list_keys("")] == [ASKED_KEY]


async def test_who_has_lost_for_less_than_a_second_asks_nobody(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    await lose(asking, 0.0, 0.5, 0.9)
    assert not asking.hurries
    assert not await is_put_up(storage)


async def test_who_wins_between_asks_nobody(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    await lose(asking, 0.0, 0.9)
    asking.won(0.95)
    await lose(asking, 1.0, 1.9)
    assert not asking.hurries
    assert not await is_put_up(storage)


async def test_who_goes_on_losing_asks_for_as_long_as_an_attempt_takes(storage: MemoryBackend) -> None:
    loser, winner = Asking(storage), Asking(storage)
    assert await look(winner) == 0
    await lose(loser, 0.0, 0.75, 1.5)
    assert await look(winner) == 0.75
    assert await look(winner) == 0


async def test_it_asks_once_a_second_and_hurries_until_it_wins(storage: MemoryBackend) -> None:
    loser, winner = Asking(storage), Asking(storage)
    await look(winner)
    await lose(loser, 0.0, 1.0)
    assert await look(winner) > 0
    await lose(loser, 1.5, 1.9)
    assert await look(winner) == 0
    await lose(loser, 2.0)
    assert await look(winner) > 0
    assert loser.hurries
    loser.won(2.1)
    assert not loser.hurries


async def test_what_was_lost_long_ago_is_no_reason_to_ask(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    await lose(asking, 0.0, 0.5, 100.0, 100.5)
    assert not asking.hurries
    assert not await is_put_up(storage)


async def test_what_stood_there_before_the_first_look_asks_nobody(storage: MemoryBackend) -> None:
    await lose(Asking(storage), 0.0, 1.0)
    assert await look(Asking(storage)) == 0


async def test_nobody_is_asked_by_itself(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    await look(asking)
    await lose(asking, 0.0, 1.0)
    assert await look(asking) == 0


def test_a_look_is_due_behind_ten_commits_and_a_second(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    for n in range(9):
        asking.won(n / 2)
    assert not asking.is_due(60.0)
    asking.won(5.0)
    assert asking.is_due(5.0)


async def test_the_next_one_is_as_far_away(storage: MemoryBackend) -> None:
    asking = Asking(storage)
    for n in range(20):
        asking.won(n / 100)
    assert not asking.is_due(0.5)
    assert asking.is_due(1.0)
    await asking.speak(1.0)
    assert not asking.is_due(2.0)


@pytest.mark.parametrize(
    "sign",
    [b"", b"{}", b'{"seconds":"long"}', b'{"of":' + b"[" * 100_000],
    ids=["empty", "silent", "odd", "deep"],
)
async def test_a_sign_that_cannot_be_read_asks_nobody(storage: MemoryBackend, sign: bytes) -> None:
    asking = Asking(storage)
    await look(asking)
    await storage.write(ASKED_KEY, sign)
    assert await look(asking) == 0


class Gone(MemoryBackend):
    """A storage that refuses, or never answers."""

    def __init__(self, answers: bool) -> None:
        super().__init__(MemoryConfig())
        self._answers = answers

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        await self._refuse()
        raise AssertionError

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        await self._refuse()
        raise AssertionError

    async def _refuse(self) -> None:
        if not self._answers:
            await asyncio.Event().wait()
        raise UnavailableError("no route")


@pytest.mark.parametrize("answers", [True, False], ids=["refuses", "hangs"])
@in_no_time
async def test_a_storage_that_fails_is_not_waited_for(answers: bool) -> None:
    asking = Asking(Gone(answers))
    begun = asyncio.get_running_loop().time()
    assert await look(asking) == 0
    await lose(asking, 0.0, 1.0)
    assert asyncio.get_running_loop().time() - begun < 1.01


class Distant(MemoryBackend):
    """Another one's storage, so many seconds away; a listing may take longer."""

    def __init__(self, storage: MemoryBackend, seconds: float, listing: float = 0.0) -> None:
        super().__init__(MemoryConfig())
        self._storage = storage
        self._way = seconds / 2
        self._listing = listing
        self.listed_behind: list[str] = []

    async def read(self, key: str, *, span: Span | None = None) -> Blob:
        return await self._go(lambda: self._storage.read(key, span=span))

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        return await self._go(lambda: self._storage.write(key, data, when=when))

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self.listed_behind.append(after)

        async def listed() -> list[Entry]:
            await asyncio.sleep(self._listing)
            return [entry async for entry in self._storage.list_keys(prefix, after=after)]

        for entry in await self._go(listed):
            yield entry

    async def _go(self, call: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self._way)
        try:
            return await call()
        finally:
            await asyncio.sleep(self._way)


@in_no_time
async def test_what_took_its_place_is_not_open_because_a_look_outlasts_the_deadline() -> None:
    class Hides(MemoryBackend):
        async def read(self, key: str, *, span: Span | None = None) -> Blob:
            if key == ASKED_KEY:
                await asyncio.Event().wait()
            return await super().read(key, span=span)

    writer = Writer(PortableCommitLog(Hides(MemoryConfig()), window=60, deadline=0.3))
    begun = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - begun < 3:
        await writer.append()
        await asyncio.sleep(0.1)


@pytest.fixture
def _clock_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statepath.log, "clock", lambda: asyncio.get_running_loop().time())


def writer_at(storage: MemoryBackend, seconds: float, name: str) -> Writer:
    return Writer(PortableCommitLog(Distant(storage, seconds), window=60), name)


async def save(writer: Writer) -> None:
    while True:
        try:
            await writer.append()
        except HeadMoved as moved:
            if not moved.kept:
                await asyncio.sleep(0.1)
            await writer.catch_up()
        else:
            return


async def save_without_a_pause(writer: Writer) -> None:
    while True:
        await save(writer)


@pytest.mark.parametrize("away", [0.03, 0.1, 0.15])
@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_who_is_further_away_gets_its_turn_beside_one_that_saves_without_a_pause(
    storage: MemoryBackend, away: float
) -> None:
    near, far = writer_at(storage, 0.02, "near"), writer_at(storage, away, "far")
    busy = asyncio.ensure_future(save_without_a_pause(near))
    await asyncio.sleep(2)
    for _ in range(3):
        async with asyncio.timeout(15):
            await save(far)
    busy.cancel()
    with suppress(asyncio.CancelledError):
        await busy
    assert far.commits[-1].writer == "far"


@in_no_time
async def test_who_asks_is_told_to_go_on_at_once(storage: MemoryBackend) -> None:
    winner, loser = (Writer(PortableCommitLog(storage), name) for name in ("winner", "loser"))
    kept = []
    for _ in range(3):
        await winner.append()
        with pytest.raises(HeadMoved) as moved:
            await loser.append()
        kept.append(moved.value.kept)
        await loser.catch_up()
        await asyncio.sleep(0.6)
    assert kept == [False, False, True]


@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_who_reads_slowly_lists_what_is_behind_a_few_slots_and_reads_some_at_once(
    storage: MemoryBackend,
) -> None:
    writer, distant = Writer(PortableCommitLog(storage)), Distant(storage, 0.1)
    reader = Writer(PortableCommitLog(distant, window=60))
    for _ in range(5):
        await writer.append()
    await reader.catch_up()
    for _ in range(50):
        await writer.append()
    distant.listed_behind.clear()
    begun = asyncio.get_running_loop().time()
    await reader.catch_up()
    assert reader.commits == writer.commits
    assert distant.listed_behind == [slot_key(12)]
    assert asyncio.get_running_loop().time() - begun < 2


@pytest.mark.parametrize("transactions", [1, 3])
@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_the_whole_log_is_not_listed_where_nothing_is_behind_the_slots_that_were_read(
    storage: MemoryBackend, transactions: int
) -> None:
    writer, distant = Writer(PortableCommitLog(storage)), Distant(storage, 0.1)
    reader = Writer(PortableCommitLog(distant, window=60))
    await writer.append()
    await reader.catch_up()
    for _ in range(8):
        await writer.append(transactions=transactions)
    distant.listed_behind.clear()
    await reader.catch_up()
    assert reader.commits == writer.commits
    assert distant.listed_behind == [slot_key(1 + 7 * transactions)]


@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_a_follower_lists_nothing_where_that_takes_longer_than_slot_after_slot(
    storage: MemoryBackend,
) -> None:
    class ListsSlowly(Distant):
        async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
            await asyncio.sleep(1)
            async for entry in super().list_keys(prefix, after=after):
                yield entry

    writer, distant = Writer(PortableCommitLog(storage)), ListsSlowly(storage, 0.01)
    async with aclosing(cast("AsyncGenerator[Commit]", PortableCommitLog(distant).follow(0))) as commits:
        for _ in range(2):
            for _ in range(40):
                await writer.append()
            for _ in range(40):
                await anext(commits)
    assert len(distant.listed_behind) == 1


@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_nothing_is_listed_where_that_takes_longer_than_some_slots(storage: MemoryBackend) -> None:
    writer, distant = Writer(PortableCommitLog(storage)), Distant(storage, 0.01, listing=0.5)
    reader = Writer(PortableCommitLog(distant, window=60))
    await writer.append()
    await reader.catch_up()
    for _ in range(100):
        await writer.append()
    distant.listed_behind.clear()
    await reader.catch_up()
    assert reader.commits == writer.commits
    assert not distant.listed_behind


@pytest.mark.usefixtures("_clock_of_the_loop")
@in_no_time
async def test_a_follower_that_is_far_away_keeps_up_with_one_that_saves_without_a_pause(
    storage: MemoryBackend,
) -> None:
    near = writer_at(storage, 0.02, "near")
    seen = 0

    async def follow() -> None:
        nonlocal seen
        async for commit in PortableCommitLog(Distant(storage, 0.1), review=3600).follow(0):
            seen = commit.last

    both = [asyncio.ensure_future(work) for work in (save_without_a_pause(near), follow())]
    await asyncio.sleep(30)
    for one in both:
        one.cancel()
    await asyncio.gather(*both, return_exceptions=True)
    assert near.head > 1000
    assert near.head - seen < 100
