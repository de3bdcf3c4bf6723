"""Saves that depend on nothing, by several handles on one folder: each takes the next place, whoever else saves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.errors import OutcomeUnknownError, UnavailableError
from statepath_local import writer


@pytest.fixture
async def handles(tmp_path: Path) -> AsyncIterator[list[Any]]:
    """Two handles that have saved before, and so know what others need them to know. Neither writes files by time, as
    it looks at the log for that."""
    path, options = tmp_path / "state", {"autosave": 0, "view_interval": 3600}
    async with statepath.open(path, **options) as one, statepath.open(path, **options) as other:
        for handle in (one, other):
            await handle.collection("raw").put({"id": "begun"})
        await one.sync()
        yield [one, other]


@pytest.fixture
def refused(handles: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts that lose are a failure of the test."""

    async def lost(*_: Any) -> None:
        raise AssertionError("it lost its place")

    for handle in handles:
        monkeypatch.setattr(handle._engine._committer, "_lost_to", lost)


async def contents(store: Any) -> dict[str, Any]:
    return {document["id"]: document async for document in store.collection("raw")}


@pytest.mark.usefixtures("refused")
async def test_a_save_shows_what_others_saved_before_it(handles: list[Any]) -> None:
    for turn in range(12):
        handle = handles[turn // 2 % 2]
        assert await handle.collection("raw").put({"id": f"task_{turn}", "turn": turn}) == turn + 3
        shown = await contents(handle)
        assert set(shown) == {"begun", *(f"task_{n}" for n in range(turn + 1))}
    await handles[0].sync()
    assert await contents(handles[0]) == await contents(handles[1])


@pytest.mark.usefixtures("refused")
async def test_saves_of_one_document_stand_in_the_order_of_their_seqs(
    handles: list[Any], tmp_path: Path
) -> None:
    async def save(number: int) -> list[tuple[int, dict[str, Any]]]:
        raw = handles[number].collection("raw")
        documents = [{"id": "one", "by": number, "n": n} for n in range(20)]
        return [(await raw.put(document), document) for document in documents]

    saved = sorted(chain(*await asyncio.gather(save(0), save(1))), key=lambda pair: pair[0])
    assert [seq for seq, _ in saved] == list(range(3, 43))
    for handle in handles:
        await handle.sync()
        await handle.flush()
        assert await handle.collection("raw").get("one") == saved[-1][1]
        assert [change.seq for change in await handle.history("raw/one")] == [seq for seq, _ in saved]
    async with statepath.open(tmp_path / "state", readonly=True) as reader:
        assert await reader.verify() == []


async def test_what_others_did_in_another_way_is_met_first(handles: list[Any]) -> None:
    one, other = handles
    await one.collection("raw").update("begun", lambda document: {**document, "n": 1})
    assert await other.collection("raw").put({"id": "z"}) == 4
    assert (await other.collection("raw").get("begun"))["n"] == 1


async def test_nothing_is_refused_for_what_others_have_changed_meanwhile(handles: list[Any]) -> None:
    one, other = (handle.collection("raw") for handle in handles)
    await one.put({"id": "new", "list": []})
    outcomes = await asyncio.gather(other.put({"id": "a"}), other.delete("new"), other.create({"id": "b"}))
    assert outcomes[1] is True
    await one.put({"id": "again", "list": []})
    await asyncio.gather(other.put({"id": "c"}), other.append("again", "list", 1))
    assert await other.get("again") == {"id": "again", "list": [1]}


async def test_a_save_is_not_shown_behind_what_is_missing(
    handles: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = handles
    await one.collection("raw").put({"id": "a"})
    monkeypatch.setattr(writer.Writer, "_missed", lambda *_: [])

    async def nothing(after: int) -> AsyncIterator[Any]:
        return
        yield

    monkeypatch.setattr(other._engine.log, "read", nothing)
    with pytest.raises(OutcomeUnknownError, match="seq 3"):
        await other.collection("raw").put({"id": "z"})
    assert set(await contents(other)) == {"begun"}


async def test_the_first_save_meets_what_others_committed(handles: list[Any], tmp_path: Path) -> None:
    async with statepath.open(tmp_path / "state", autosave=0) as late:
        ways: list[str] = []
        log: Any = late._engine.log

        def told(way: str) -> Any:
            attempt = getattr(log, way)

            async def telling(*arguments: Any) -> Any:
                ways.append(way)
                return await attempt(*arguments)

            return telling

        log.append, log.place = told("append"), told("place")
        for number in range(3):
            await late.collection("raw").put({"id": f"late_{number}"})
        assert ways == ["append", "place", "place"]


async def test_a_save_that_cannot_be_shown_is_not_called_failed(
    handles: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = handles
    await one.collection("raw").put({"id": "a"})
    await one.collection("raw").put({"id": "b"})
    monkeypatch.setattr(writer.Writer, "_missed", lambda *_: [])

    async def unreadable(after: int) -> AsyncIterator[Any]:
        raise UnavailableError("the disk does not answer")
        yield

    monkeypatch.setattr(other._engine.log, "read", unreadable)
    with pytest.raises(OutcomeUnknownError, match="does not answer"):
        await other.collection("raw").put({"id": "z"})
    async with statepath.open(tmp_path / "state", readonly=True) as reader:
        assert set(await contents(reader)) == {"begun", "a", "b", "z"}
