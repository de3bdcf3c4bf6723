"""The bus: who hears what, and that no listener can harm the store."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import typing
from pathlib import Path

import pytest
from statepath import events as module
from statepath.errors import InvalidArgumentError
from statepath.events import EVENTS, AutosaveTriggered, DiskLow, DiskOk, Event, Events, SaveError

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
LOW = DiskLow(free=1, limit=2)
OK = DiskOk(free=3)


def heard_by(events: Events, *names: type[Event] | str) -> list[Event]:
    heard: list[Event] = []
    for name in names:
        events.on(name, heard.append)
    return heard


def test_the_documents_table_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `(\S+)` \| `(\w+)` \| (.*?) \| [^|]+ \|$", DOCUMENT.read_text(), re.MULTILINE)
    written = {
        name: (kind, re.findall(r"`(\w+): ([^`]+)`", fields.replace(r"\|", "|")))
        for name, kind, fields in rows
    }
    assert written == {
        name: (kind.__name__, [(field.name, str(field.type)) for field in dataclasses.fields(kind)])
        for name, kind in EVENTS.items()
    }


def test_every_payload_type_is_in_the_table_once() -> None:
    kinds = {
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
    }
    assert set(EVENTS.values()) == kinds
    assert len(EVENTS) == len(kinds)


@pytest.mark.parametrize("kind", EVENTS.values())
def test_payloads_are_frozen_and_slotted(kind: type[Event]) -> None:
    payload = kind(**dict.fromkeys(typing.get_type_hints(kind).keys() - {"name"}))
    assert not hasattr(payload, "__dict__")
    for field in dataclasses.fields(payload):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(payload, field.name, 1)


def test_who_listens_to_an_event_and_to_all_hears_it_once() -> None:
    events = Events()
    heard = heard_by(events, "*", "disk:low", DiskLow)
    events.emit(LOW)
    events.emit(OK)
    assert heard == [LOW, OK]


async def test_a_stream_of_an_event_and_of_all_tells_it_once() -> None:
    events = Events()
    async with events.stream(Event, DiskLow) as stream:
        events.emit(LOW)
        events.emit(OK)
        await events.aclose()
        assert [event async for event in stream] == [LOW, OK]


@pytest.mark.parametrize("name", ["disk:low", DiskLow])
def test_a_listener_hears_its_event_and_no_other(name: type[Event] | str) -> None:
    events = Events()
    heard = heard_by(events, name)
    events.emit(LOW)
    events.emit(OK)
    assert heard == [LOW]


@pytest.mark.parametrize("name", ["*", Event])
def test_one_subscription_hears_all_events_in_their_order(name: type[Event] | str) -> None:
    events = Events()
    heard = heard_by(events, name)
    for event in (LOW, OK, LOW):
        events.emit(event)
    assert heard == [LOW, OK, LOW]


def test_a_listener_registered_twice_hears_an_event_once() -> None:
    events = Events()
    heard = heard_by(events, DiskLow, "disk:low")
    events.emit(LOW)
    assert heard == [LOW]


def test_off_takes_a_listener_away_and_says_whether_it_was_there() -> None:
    events = Events()
    heard = heard_by(events, DiskLow)
    assert events.off("disk:low", heard.append)
    assert not events.off("disk:low", heard.append)
    events.emit(LOW)
    assert heard == []


def test_on_returns_what_takes_the_listener_away() -> None:
    events = Events()
    first: list[Event] = []
    second: list[Event] = []
    stop = events.on(DiskLow, first.append)
    events.on(DiskLow, second.append)
    stop()
    stop()
    events.emit(LOW)
    assert (first, second) == ([], [LOW])


def test_a_misspelt_name_is_refused_and_the_names_are_told() -> None:
    events = Events()
    for call in (events.on, events.off):
        with pytest.raises(InvalidArgumentError, match=r"'disk:lwo'.*disk:low"):
            call("disk:lwo", print)
    with pytest.raises(InvalidArgumentError, match="disk:lwo"):
        events.stream("disk:lwo")


def test_an_event_class_of_ones_own_is_carried_too() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class MirrorBehind(Event):
        name: typing.ClassVar[str] = "mirror:behind"
        by: int

    events = Events()
    heard = heard_by(events, MirrorBehind)
    events.emit(MirrorBehind(by=3))
    assert heard == [MirrorBehind(by=3)]


def test_a_listener_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: DiskLow) -> None:
        raise ValueError("the pager is down")

    events = Events()
    events.on(DiskLow, broken)
    heard, all_heard = heard_by(events, DiskLow), heard_by(events, "*")
    events.emit(LOW)
    assert (heard, all_heard) == ([LOW], [LOW])
    [record] = caplog.records
    assert (record.name, record.levelno) == ("statepath.events", logging.ERROR)
    assert "disk:low" in record.getMessage()
    assert "the pager is down" in caplog.text


def test_a_listener_may_leave_and_bring_others_while_it_is_called() -> None:
    events = Events()
    heard: list[str] = []

    def once(event: DiskLow) -> None:
        heard.append("once")
        events.off(DiskLow, once)
        events.on(DiskLow, lambda _: heard.append("later"))

    events.on(DiskLow, once)
    events.on(DiskLow, lambda _: heard.append("second"))
    events.emit(LOW)
    assert heard == ["once", "second"]
    events.emit(LOW)
    assert heard == ["once", "second", "second", "later"]


async def test_an_asynchronous_listener_runs_after_emit_and_is_awaited_by_aclose() -> None:
    events = Events()
    heard: list[Event] = []
    gate = asyncio.Event()

    async def slow(event: DiskLow) -> None:
        await gate.wait()
        heard.append(event)

    events.on(DiskLow, slow)
    events.emit(LOW)
    assert heard == []
    closing = asyncio.create_task(events.aclose())
    await asyncio.sleep(0)
    gate.set()
    await closing
    assert heard == [LOW]


def test_a_listener_that_asks_a_cancelled_task_cancels_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def broken(event: DiskLow) -> None:
        raise asyncio.CancelledError  # as `task.result()` does

    events = Events()
    events.on(DiskLow, broken)
    heard = heard_by(events, DiskLow)
    events.emit(LOW)
    assert heard == [LOW]
    assert "a listener of disk:low failed" in caplog.text


async def test_an_asynchronous_listener_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(event: SaveError) -> None:
        raise ValueError("the pager is down")

    events = Events()
    events.on(SaveError, broken)
    events.emit(SaveError(OSError(28, "No space left on device"), "tasks/task_1"))
    await events.aclose()
    assert [record.name for record in caplog.records] == ["statepath.events"]
    assert "state:save-error" in caplog.text
    assert "the pager is down" in caplog.text


async def test_a_listener_that_never_ends_does_not_keep_the_store_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    ended = asyncio.Event()

    async def endless(event: DiskLow) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    events.on(DiskLow, endless)
    events.emit(LOW)
    await events.aclose(grace=0.01)
    assert ended.is_set()
    assert "a listener of disk:low had not finished" in caplog.text


async def test_a_listener_may_close_the_bus_that_called_it() -> None:
    events = Events()
    closed = asyncio.Event()

    async def close(event: DiskLow) -> None:
        await events.aclose()
        closed.set()

    events.on(DiskLow, close)
    events.emit(LOW)
    async with asyncio.timeout(60):
        await closed.wait()


async def test_two_listeners_that_close_the_bus_do_not_wait_for_each_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    closed: list[Event] = []

    async def close(event: DiskLow) -> None:
        await events.aclose(grace=0.5)
        closed.append(event)

    events.on(DiskLow, close)
    events.emit(LOW)
    events.emit(LOW)
    await events.aclose()
    assert closed == [LOW, LOW]
    assert not caplog.records


def test_an_asynchronous_listener_without_a_loop_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def listener(event: DiskLow) -> None:
        raise AssertionError

    events = Events()
    events.on(DiskLow, listener)
    heard = heard_by(events, DiskLow)
    events.emit(LOW)
    assert heard == [LOW]
    assert "no running event loop" in caplog.text


async def test_after_aclose_nobody_is_called() -> None:
    events = Events()
    heard = heard_by(events, DiskLow)
    await events.aclose()
    events.on(DiskOk, heard.append)
    events.emit(LOW)
    events.emit(OK)
    await events.aclose()
    assert heard == []


async def test_a_stream_yields_what_it_names_while_it_is_entered() -> None:
    events = Events()
    events.emit(LOW)
    async with events.stream(DiskLow, "disk:ok") as stream:
        for event in (LOW, AutosaveTriggered(seq=1), OK):
            events.emit(event)
        assert [await anext(stream), await anext(stream)] == [LOW, OK]
        events.emit(LOW)
    events.emit(LOW)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_without_names_yields_all() -> None:
    events = Events()
    async with events.stream() as stream:
        events.emit(LOW)
        events.emit(OK)
        assert [await anext(stream), await anext(stream)] == [LOW, OK]


async def test_a_waiting_stream_wakes_up_at_the_next_event() -> None:
    events = Events()
    async with events.stream() as stream:
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        events.emit(LOW)
        assert await waiting == LOW


async def test_a_slow_stream_keeps_the_newest_and_counts_what_it_missed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = Events()
    async with events.stream(limit=2) as stream:
        for seq in range(5):
            events.emit(AutosaveTriggered(seq=seq))
        assert stream.missed == 3
        assert [await anext(stream), await anext(stream)] == [AutosaveTriggered(3), AutosaveTriggered(4)]
    assert len(caplog.records) == 1
    assert "read too slowly" in caplog.text


def test_a_stream_without_room_is_refused() -> None:
    with pytest.raises(InvalidArgumentError):
        Events().stream(limit=0)


async def test_a_stream_ends_with_the_store_after_what_was_waiting() -> None:
    events = Events()
    async with events.stream() as stream:
        events.emit(LOW)
        waiting = asyncio.create_task(events.aclose())
        assert [event async for event in stream] == [LOW]
        await waiting


async def test_a_stream_of_a_closed_bus_ends_at_once() -> None:
    events = Events()
    await events.aclose()
    async with events.stream() as stream:
        assert [event async for event in stream] == []
