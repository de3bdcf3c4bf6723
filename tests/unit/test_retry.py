"""What crosses a network is repeated where that does no harm, and nowhere else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from statepath.backend import ALWAYS, IF_ABSENT, Entry, ETag, IfMatch, When
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.retry import RetryingBackend, retrying, until_served

LOST = UnavailableError("no answer")
THROTTLED = ThrottledError("too many requests")
UNSENT = UnavailableError("no route", code="not_sent")
FULL = UnavailableError("no space", code="disk_full")


class Flaky(MemoryBackend):
    """Fails as it is told before it does what it is asked to, or `behind` it."""

    def __init__(self) -> None:
        super().__init__(MemoryConfig())
        self.capabilities = replace(self.capabilities, remote=True)
        self.failures: list[Exception] = []
        self.behind: list[Exception] = []
        self.calls = 0

    def _fail(self, failures: list[Exception]) -> None:
        if failures:
            raise failures.pop(0)

    async def read(self, key: str, **options: Any) -> Any:
        self.calls += 1
        self._fail(self.failures)
        return await super().read(key, **options)

    async def write(self, key: str, data: bytes, **options: Any) -> Any:
        self.calls += 1
        self._fail(self.failures)
        etag = await super().write(key, data, **options)
        self._fail(self.behind)
        return etag

    async def delete(self, key: str, **options: Any) -> Any:
        self.calls += 1
        self._fail(self.failures)
        return await super().delete(key, **options)

    async def copy(self, source: str, target: str, *, when: When) -> ETag:
        self.calls += 1
        self._fail(self.failures)
        return await super().write(target, (await super().read(source)).data)

    async def list_keys(self, prefix: str, *, after: str = "") -> AsyncIterator[Entry]:
        self.calls += 1
        self._fail(self.failures)
        async for entry in super().list_keys(prefix, after=after):
            yield entry
            self._fail(self.behind)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath.retry._SOONEST", 0.0)
    monkeypatch.setattr("statepath.retry._LATEST", 0.0)


@pytest.fixture
def flaky() -> Flaky:
    return Flaky()


@pytest.fixture
def backend(flaky: Flaky) -> RetryingBackend:
    return RetryingBackend(flaky, deadline=5)


@pytest.mark.parametrize("failure", [LOST, THROTTLED], ids=["lost", "throttled"])
async def test_a_read_is_repeated(flaky, backend, failure):
    await flaky.write("a", b"A")
    flaky.failures = [failure, failure]
    assert (await backend.read("a")).data == b"A"


async def test_writing_and_deleting_whatever_is_there_is_repeated(flaky, backend):
    flaky.failures = [LOST]
    await backend.write("a", b"A")
    flaky.failures = [THROTTLED]
    assert await backend.delete("a") is True


@pytest.mark.parametrize("when", [IF_ABSENT, "match"], ids=["create", "replace"])
async def test_a_conditional_write_whose_answer_was_lost_is_not_repeated(flaky, backend, when):
    if when == "match":
        when = IfMatch(await flaky.write("a", b"A"))
    flaky.calls, flaky.behind = 0, [LOST]
    with pytest.raises(UnavailableError):
        await backend.write("a", b"B", when=when)
    assert flaky.calls == 1
    assert (await backend.read("a")).data == b"B"


async def test_a_copy_of_one_version_is_repeated(flaky, backend):
    etag = await flaky.write("a", b"A")
    flaky.failures = [LOST]
    copied = await backend.copy("a", "b", when=IfMatch(etag))
    assert (await backend.read("b")).etag == copied


@pytest.mark.parametrize("failure", [THROTTLED, UNSENT], ids=["throttled", "unsent"])
async def test_a_conditional_write_that_was_refused_or_not_sent_is_repeated(flaky, backend, failure):
    flaky.failures = [failure, failure]
    await backend.write("a", b"A", when=IF_ABSENT)
    with pytest.raises(AlreadyExistsError):
        await backend.write("a", b"A", when=IF_ABSENT)


async def test_a_listing_goes_on_behind_what_it_has_told(flaky, backend):
    for key in ("a", "b", "c"):
        await flaky.write(key, b"")
    flaky.failures, flaky.behind = [LOST], [LOST, THROTTLED]
    assert [entry.key async for entry in backend.list_keys("")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "failure",
    [
        NotFoundError("missing"),
        AccessDeniedError("no"),
        FULL,
        UnavailableError("in Glacier", code="archived"),
    ],
    ids=["missing", "refused", "full", "archived"],
)
async def test_what_a_repetition_cannot_help_is_told_at_once(flaky, backend, failure):
    flaky.failures = [failure]
    with pytest.raises(type(failure)):
        await backend.write("a", b"A", when=ALWAYS)
    assert flaky.calls == 1


async def test_past_the_deadline_the_last_error_is_raised(flaky, backend, monkeypatch):
    each_takes_a_second = SimpleNamespace(monotonic=lambda: float(flaky.calls))
    monkeypatch.setattr("tenacity.time", each_takes_a_second)
    monkeypatch.setattr("statepath.retry.monotonic", each_takes_a_second.monotonic)
    flaky.failures = [LOST] * 10
    with pytest.raises(UnavailableError, match="no answer"):
        await backend.read("a")
    assert flaky.calls == 5


async def test_a_first_attempt_that_took_until_the_deadline_is_repeated_once(flaky, backend, monkeypatch):
    times = iter([0.0, 6.0])
    monkeypatch.setattr("statepath.retry.monotonic", lambda: next(times))
    flaky.failures = [LOST, LOST, LOST]
    with pytest.raises(UnavailableError, match="no answer"):
        await backend.read("a")
    assert flaky.calls == 2


async def test_there_is_a_pause_before_each_repetition(flaky, backend, monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    await flaky.write("a", b"A")
    flaky.failures = [THROTTLED, LOST]
    monkeypatch.setattr("asyncio.sleep", sleep)
    await backend.read("a")
    assert len(pauses) == 2


def test_what_crosses_no_network_is_left_as_it_is(flaky):
    memory = MemoryBackend(MemoryConfig())
    assert retrying(memory, deadline=1) is memory
    assert isinstance(retrying(flaky, deadline=1), RetryingBackend)


@pytest.mark.parametrize("error", [THROTTLED, UnavailableError("503", code="service_failed")])
async def test_a_service_that_answers_is_asked_until_it_serves(error: Exception) -> None:
    flaky = Flaky()
    flaky.failures = [error] * 3
    await until_served(lambda: flaky.write("a", b"A"), deadline=30)
    assert flaky.calls == 4


@pytest.mark.parametrize("error", [LOST, FULL, AccessDeniedError("no")])
async def test_what_does_not_answer_or_refuses_is_asked_once(error: Exception) -> None:
    flaky = Flaky()
    flaky.failures = [error]
    with pytest.raises(type(error)):
        await until_served(lambda: flaky.write("a", b"A"), deadline=30)
    assert flaky.calls == 1
