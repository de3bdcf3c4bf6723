"""Checks of queries that the backend answers: it may name too many documents, never too few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import pytest

from statepath.backend import Backend, Filter, Shown, SupportsQueries
from statepath.commit import Append, Change, Delete, Put
from statepath.errors import UnsupportedError
from statepath.filters import F
from statepath.testing.commits import MANY, Writer, as_committed, commit_log
from statepath.testing.subject import Subject

Documents = dict[str, dict[str, Any]]

_TEXTS = ("a", "ä", "\U0001f600", "a\0b", '"', "\\", "", "1", "true", "a" * 5000)
_FILTERS: tuple[Filter, ...] = (
    *(F("text") == text for text in _TEXTS),
    *(F("inner.text") == text for text in _TEXTS),
    F("text").in_(["a", "ä", "nowhere"]),
    (F("text") == "a") | (F("inner.text") == "a"),
    (F("text") == "a") & (F("list").contains("x")),
    (F("text") == "a") & ~F("list").exists(),
    (F("text") == "1") & (F("number") == 1),
    (F("text") == "1") & (F("number") < 2),
    (F("flag") == True),  # noqa: E712 - builds a filter
    F("text") == None,  # noqa: E711 - builds a filter
)


class QueryChecks(Subject):
    async def test_a_query_finds_all_that_match(self) -> None:
        async with self.connection() as backend:
            index = await _index(backend)
            if index is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            answered = False
            for changes in _history():
                await _append(backend, writer, documents, changes)
                answered |= await _check(index, documents, writer.head)
            assert answered, "no query was ever answered, so `queries` should not be declared"

    async def test_a_query_is_as_of_its_seq(self) -> None:
        async with self.connection() as backend:
            index = await _index(backend)
            if index is None:
                return
            writer = Writer(commit_log(backend))
            past: list[Documents] = []
            documents: Documents = {}
            for changes in _history():
                await _append(backend, writer, documents, changes)
                past.append({id: dict(document) for id, document in documents.items()})
            assert await index.settle(writer.head), "nothing hinders the index, and it says that it is behind"
            for seq, then in enumerate(past, 1):
                for where in _FILTERS:
                    await _find(index, where, then, seq)

    async def test_an_index_that_the_log_cannot_fill_is_filled_from_what_is_shown(self) -> None:
        async with self.connection() as backend:
            index = await _index(backend)
            if index is None:
                return
            log = commit_log(backend)
            await log.restart(10)
            documents: Documents = {
                f"task_{n}": {"id": f"task_{n}", "text": text} for n, text in enumerate(_TEXTS)
            }
            shown = [
                Shown("tasks", id, 7, 1_700_000_000_000_000, msgspec.json.encode(document))
                for id, document in documents.items()
            ]
            await index.show(10, shown)
            assert await _check(index, documents, 10), "nothing is found of what was shown"


def _history() -> list[Sequence[Change]]:
    """The changes of one transaction each."""
    put = [
        _put({"id": f"task_{n}", "text": text, "inner": {"text": text}, "number": n, "flag": n == 3})
        for n, text in enumerate(_TEXTS)
    ]
    return [
        put,
        [_put({"id": "task_0", "text": "ä"}), Put("other", "task_1", msgspec.Raw(b'{"text":"a"}'))],
        [_put({"id": "new", "text": "a", "list": []}), _append_to("new", "x")],
        [_append_to("new", "a\0b"), _append_to("task_1", "x")],
        [Delete("tasks", "task_1"), Delete("tasks", "task_2")],
        [_put({"id": "task_1", "text": "1", "number": 1.0})],
        [Delete("tasks", "task_3"), _put({"id": "task_3", "text": "a"})],
        [_put({"id": f"more_{n}", "text": "ä"}) for n in range(MANY)],
    ]


def _put(document: dict[str, Any]) -> Put:
    return Put("tasks", document["id"], msgspec.Raw(msgspec.json.encode(document)))


def _append_to(id: str, value: str) -> Append:
    return Append("tasks", id, "list", msgspec.Raw(msgspec.json.encode(value)))


async def _append(backend: Backend, writer: Writer, documents: Documents, changes: Sequence[Change]) -> None:
    """Commit one transaction, and do to the documents what it does."""
    transaction = await as_committed(backend, tuple(changes))
    commit = msgspec.structs.replace(writer.make(), transactions=(transaction,))
    await writer.log.append(writer.head, commit)
    writer.commits.append(commit)
    for change in changes:
        if isinstance(change, Put) and change.collection == "tasks":
            documents[change.id] = msgspec.json.decode(change.document)
        elif isinstance(change, Delete):
            del documents[change.id]
        elif isinstance(change, Append):
            documents[change.id].setdefault(change.field, []).append(msgspec.json.decode(change.value))


async def _index(backend: Backend) -> SupportsQueries | None:
    """The backend as what answers queries, if it says so."""
    if backend.capabilities.queries:
        index = cast("SupportsQueries", backend)
        await index.show(0, ())
        return index
    if isinstance(backend, SupportsQueries):
        with pytest.raises(UnsupportedError):
            await backend.find("tasks", _FILTERS[0], 0)
    return None


async def _check(index: SupportsQueries, documents: Documents, seq: int) -> bool:
    """Whether any query was answered; each of those has found what matches."""
    assert await index.settle(seq), "nothing hinders the index, and it says that it is behind"
    return any([await _find(index, where, documents, seq) for where in _FILTERS])


async def _find(index: SupportsQueries, where: Filter, documents: Documents, seq: int) -> bool:
    found = await index.find("tasks", where, seq)
    if found is None:
        return False
    missed = {id for id, document in documents.items() if where.matches(document)} - found
    assert not missed, f"{where} at seq {seq}"
    return True
