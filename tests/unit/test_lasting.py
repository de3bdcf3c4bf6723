"""A task that is needed until its store is closed."""

from __future__ import annotations

import asyncio

import pytest
from statepath.engine.lasting import LastingTask


async def test_one_that_fails_is_told_and_not_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    begun = []

    async def fail() -> None:
        begun.append(1)
        raise ValueError("a bug")

    task = LastingTask(fail, lambda: True, "statepath-views")
    await task.join()
    await asyncio.sleep(0)
    assert begun == [1]
    (record,) = caplog.records
    assert record.getMessage() == "statepath-views failed unexpectedly"
    assert "a bug" in (record.exc_text or "")
