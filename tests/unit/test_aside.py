"""The names of what is kept aside."""

from __future__ import annotations

import pytest
from statepath.aside import aside_key, key_before, time_aside, why_aside
from statepath.backend import ALWAYS, Capabilities, ETag, IfMatch, When
from statepath.engine.opening import put_aside
from statepath.errors import ConflictError
from statepath.layout import is_document
from statepath.memory import MemoryBackend, MemoryConfig


def test_the_key_is_kept_with_the_reason_and_the_time() -> None:
    kept = aside_key("tasks/a.json", "corrupt")
    assert (key_before(kept), why_aside(kept)) == ("tasks/a.json", "corrupt")


@pytest.mark.parametrize("name", ["x" * 230, "%e8%aa%9e" * 30, "x" * 500])
def test_of_a_long_name_the_beginning_is_kept(name: str) -> None:
    first, second = (aside_key(f"tasks/{one}.json", "conflict") for one in (name, f"{name}y"))
    assert len(first.partition("/")[2]) <= 255
    assert key_before(first).startswith(f"tasks/{name[:90]}")
    assert is_document(first)
    assert key_before(first) != key_before(second)


def test_a_name_that_an_id_gives_is_kept_whole_also_when_it_is_kept_aside_again() -> None:
    key = f"tasks/{'x' * 150}.json"
    assert key_before(key_before(aside_key(aside_key(key, "conflict"), "corrupt"))) == key


@pytest.mark.parametrize(
    ("key", "time"),
    [
        ("tasks/a.json.corrupt.20260101T000000.500000Z", 1767225600.5),
        ("tasks/a.json", 0.0),
        ("tasks/a.json.corrupt.20261301T000000.000000Z", 0.0),
    ],
)
def test_the_key_tells_when_it_was_kept_aside(key: str, time: float) -> None:
    assert time_aside(key) == time


class Replaced(MemoryBackend):
    """Copies within itself, and another one replaces an object just before that."""

    capabilities = Capabilities(durable=False, shared=False, copy=True)

    def __init__(self) -> None:
        super().__init__(MemoryConfig(""))
        self.copied: list[str] = []

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        etag = await self.write(source, b"sound")
        if isinstance(when, IfMatch) and when.etag != etag:
            raise ConflictError(f"{source} is not the version that was asked for", key=source)
        self.copied.append(target)
        return await self.write(target, b"sound")


async def test_only_what_was_looked_at_is_copied_aside() -> None:
    backend = Replaced()
    await backend.write("state.json", b"damaged")
    assert await put_aside(backend, "state.json", "corrupt") == ""
    assert backend.copied == []
    assert [entry.key async for entry in backend.list_keys("")] == ["state.json"]
    assert (await backend.read("state.json")).data == b"sound"
