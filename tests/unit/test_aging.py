"""What time it is for whoever removes something because of its age."""

from __future__ import annotations

import time
from pathlib import Path
from uuid import uuid4

import pytest
from statepath.backend import Backend
from statepath.clock import clock
from statepath.discovery import connect
from statepath.engine.aging import earliest_now, unhurried_now

DAY = 86_400.0


async def keys(backend: Backend) -> list[str]:
    return [entry.key async for entry in backend.list_keys("")]


def test_a_clock_that_jumps_ahead_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + DAY)
    assert unhurried_now() < now + DAY / 2


def test_that_a_clock_has_jumped_ahead_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a machine that begins in 1970 and asks for the time later."""
    monkeypatch.setattr("statepath.engine.aging._BEGAN", (12.0, clock()))
    for _ in range(3):
        assert unhurried_now() < DAY
    (record,) = caplog.records
    assert "at 1970-01-01T00:00:12+00:00 by that clock" in record.getMessage()
    assert "start the program again" in record.getMessage()


def test_that_a_clock_was_put_right_by_little_is_not_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + 600)
    unhurried_now()
    assert caplog.records == []


def test_a_clock_that_is_set_back_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    assert unhurried_now() == 1_000_000.0


def test_time_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + DAY)
    monkeypatch.setattr("statepath.engine.aging.clock", lambda: 2 * DAY)
    monkeypatch.setattr("statepath.engine.aging._BEGAN", (now, DAY))
    assert unhurried_now() == now + DAY


async def test_it_is_no_later_than_by_the_clock_of_the_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await connect(f"memory://{uuid4().hex}")
    monkeypatch.setattr("statepath.engine.aging.unhurried_now", lambda: time.time() + DAY)
    assert await earliest_now(backend) < time.time() + DAY / 2
    assert await keys(backend) == []


async def test_a_storage_that_does_not_know_leaves_it_to_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await connect(f"memory://{uuid4().hex}")
    monkeypatch.setattr("statepath.engine.aging._written_now", lambda _: _unknown())
    monkeypatch.setattr("statepath.engine.aging.unhurried_now", lambda: 1_000_000.0)
    assert await earliest_now(backend) == 1_000_000.0


async def test_nothing_is_written_where_the_machine_dates_the_files(tmp_path: Path) -> None:
    backend = await connect(tmp_path / "store")
    try:
        before = await keys(backend)
        await backend.close()
        assert await earliest_now(backend) <= time.time()
    finally:
        await backend.close()
    assert before == []


async def _unknown() -> float:
    return 0.0
