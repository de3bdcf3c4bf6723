"""The clock that goes on while the machine sleeps."""

from __future__ import annotations

import runpy
import time

import pytest
from statepath import clock

BOOTTIME, MONOTONIC = 7, 6


@pytest.mark.parametrize(("platform", "asked"), [("linux", BOOTTIME), ("darwin", MONOTONIC)])
def test_it_is_the_one_that_counts_sleep_on_each_system(
    monkeypatch: pytest.MonkeyPatch, platform: str, asked: int
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", MONOTONIC)
    if platform == "linux":
        monkeypatch.setattr(time, "CLOCK_BOOTTIME", BOOTTIME, raising=False)
    else:
        monkeypatch.delattr(time, "CLOCK_BOOTTIME", raising=False)
    monkeypatch.setattr(time, "clock_gettime", float)
    assert runpy.run_path(clock.__file__)["clock"]() == asked
