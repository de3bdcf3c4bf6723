"""Checks of documents that the backend gives one by one: each is what the log says, as of one seq."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, cast

import msgspec

from statepath.backend import Append, Backend, Delete, Filter, Put, Shown, SupportsDocuments
from statepath.commit import Change
from statepath.filters import F
from statepath.testing.commits import MANY, Writer, as_committed, commit_log
from statepath.testing.subject import Subject

Documents = dict[tuple[str, str], tuple[int, Any]]
"""The version and the value of each document."""

_NUMBERS = (0, -1, 2**70, 1.0, 0.1, 1e15, 1e16, 1e22, 1e-7, 1e300, 5e-324, -0.0)
_TEXTS = ("", "ä", "\U0001f600", "a\0b", "\\u0000", '"', "1e5", "-0")
_IDS = ("a", "B", "b/c", "ä", "\uffff", "\U0001f600", "%", "'")


class DocumentChecks(Subject):
    async def test_documents_are_read_as_the_log_has_them(self) -> None:
        async with self.connection() as backend:
            storage = await _storage(backend)
            if storage is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            for changes in _history():
                await _commit(backend, writer, documents, changes)
                keys = [*documents, ("tasks", "missing"), ("missing", "a")]
                part = await storage.read_documents(keys, writer.head)
                assert part.seq == writer.head
                assert _values(part.documents) == _comparable(documents)
            assert (await storage.read_documents([], writer.head)).documents == []

    async def test_a_scan_gives_a_collection_in_the_order_of_ids(self) -> None:
        async with self.connection() as backend:
            storage = await _storage(backend)
            if storage is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            assert await _scan(storage, "tasks", None, 0) == (0, [])
            for changes in _history():
                await _commit(backend, writer, documents, changes)
                for collection in ("tasks", "other"):
                    ids = sorted(id for name, id in documents if name == collection)
                    for after in ("", *ids[:: max(3, len(ids) // 20)]):
                        seq, found = await _scan(storage, collection, None, writer.head, after=after)
                        assert seq == writer.head
                        assert [shown.id for shown in found] == [id for id in ids if id > after]
                        wanted = {key: documents[key] for key in documents if key[0] == collection}
                        assert after or _values(found) == _comparable(wanted)

    async def test_a_scan_misses_nothing_that_matches(self) -> None:
        async with self.connection() as backend:
            storage = await _storage(backend)
            if storage is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            for changes in _history():
                await _commit(backend, writer, documents, changes)
            filters = [F("value") == value for value in (*_NUMBERS, *_TEXTS)]
            for where in (
                *filters,
                F("list").contains("x"),
                ~F("list").exists(),
                F("value") > 1,
                F("a") == 1,
            ):
                found = {shown.id for shown in (await _scan(storage, "tasks", where, writer.head))[1]}
                missed = {
                    id
                    for (name, id), (_, value) in documents.items()
                    if name == "tasks" and where.matches(value)
                }
                assert missed <= found, str(where)

    async def test_a_moment_stands_still(self) -> None:
        async with self.connection() as backend:
            storage = await _storage(backend)
            if storage is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            first, *rest = _history()
            await _commit(backend, writer, documents, first)
            then = _comparable(documents)
            async with storage.moment(1) as moment:
                for changes in rest:
                    await _commit(backend, writer, documents, changes)
                await storage.read_documents([], writer.head)
                async with aclosing(moment.scan("tasks")) as parts:
                    found = [shown async for part in parts for shown in part]
                counts = {name: one.documents for name, one in (await moment.tally()).items()}
                assert (moment.seq, counts) == (1, {"tasks": len(then)})
                assert _values(found) == then

    async def test_a_tally_counts_each_collection(self) -> None:
        async with self.connection() as backend:
            storage = await _storage(backend)
            if storage is None:
                return
            writer = Writer(commit_log(backend))
            documents: Documents = {}
            counts: dict[str, int] = {}
            for changes in _history():
                await _commit(backend, writer, documents, changes)
                counts = {name: sum(key[0] == name for key in documents) for name, _ in documents}
                async with storage.moment(writer.head) as moment:
                    tally = await moment.tally()
                    one = await moment.tally(collection="tasks")
                assert {name: each.documents for name, each in tally.items()} == counts
                assert all(each.bytes > 0 for each in tally.values())
                assert {name: each.documents for name, each in one.items()} == {"tasks": counts["tasks"]}


async def _storage(backend: Backend) -> SupportsDocuments | None:
    """The backend as what gives documents, if it says so; the accelerators' checks see that it is refused if not."""
    if not backend.capabilities.documents:
        return None
    storage = cast("SupportsDocuments", backend)
    await storage.serve(0)
    return storage


async def _scan(
    storage: SupportsDocuments, collection: str, where: Filter | None, at_least: int, *, after: str = ""
) -> tuple[int, list[Shown]]:
    """The seq of a moment, and what a scan in it finds."""
    async with (
        storage.moment(at_least) as moment,
        aclosing(moment.scan(collection, where, after=after)) as parts,
    ):
        return moment.seq, [shown async for part in parts for shown in part]


def _history() -> list[Sequence[Change]]:
    """The changes of one transaction each."""
    values = [*_NUMBERS, *_TEXTS]
    return [
        [_put("tasks", f"v{n}", {"value": value}) for n, value in enumerate(values)],
        [_put("other", id, {"a": [{"b": id}], "list": None}) for id in _IDS],
        [_append("v0", 1), _append("v0", 1e22), _append("v1", "a\0b"), _append("v13", "x")],
        [_append("v0", "x"), _append("v1", "x"), _append("v2", "x"), _append("v2", 1e-7)],
        [Delete("tasks", "v3"), Delete("other", "a"), _put("tasks", "v4", {"value": 2, "list": []})],
        [
            _append("v4", "x"),
            _put("tasks", "v5", {"a": 1}),
            _append("v5", -0.0),
            _put("tasks", "v1", {"a": 1.5}),
        ],
        [
            Delete("tasks", "v6"),
            _put("tasks", "v6", {"a": 1}),
            _put("tasks", "brief", {}),
            Delete("tasks", "brief"),
        ],
        [_put("tasks", f"more{n}", {"text": "x" * 1000}) for n in range(MANY)],
    ]


def _put(collection: str, id: str, value: dict[str, Any]) -> Put:
    return Put(collection, id, msgspec.Raw(msgspec.json.encode({"id": id, **value})))


def _append(id: str, value: object) -> Append:
    return Append("tasks", id, "list", msgspec.Raw(msgspec.json.encode(value)))


async def _commit(backend: Backend, writer: Writer, documents: Documents, changes: Sequence[Change]) -> None:
    """Commit one transaction, and do to the documents what it does."""
    transaction = await as_committed(backend, tuple(changes))
    commit = msgspec.structs.replace(writer.make(), transactions=(transaction,))
    await writer.log.append(writer.head, commit)
    writer.commits.append(commit)
    seq = writer.head
    for change in changes:
        if isinstance(change, Put):
            documents[change.collection, change.id] = (seq, msgspec.json.decode(change.document))
        elif isinstance(change, Delete):
            del documents[change.collection, change.id]
        elif isinstance(change, Append):
            value = documents[change.collection, change.id][1]
            value["list"] = [*(value.get("list") or ()), msgspec.json.decode(change.value)]
            documents[change.collection, change.id] = (seq, value)


def _values(found: Sequence[Shown]) -> dict[tuple[str, str], tuple[int, Any]]:
    return _comparable({(s.collection, s.id): (s.version, msgspec.json.decode(s.document)) for s in found})


def _comparable(documents: Documents) -> dict[tuple[str, str], tuple[int, Any]]:
    """With numbers that are equal only if they are of one kind and have one sign."""
    return {key: (version, _exact(value)) for key, (version, value) in documents.items()}


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _exact(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return struct.pack("d", value) if isinstance(value, float) else value
