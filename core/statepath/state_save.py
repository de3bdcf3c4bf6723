"""Saving a whole state: what it changes in the store, as one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from msgspec import Raw
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from statepath.collection import Collection
from statepath.commit import Change, Delete, Put
from statepath.engine.documents import MARK, decode, encode_value
from statepath.engine.history import same_value
from statepath.engine.ids import check_id, is_id
from statepath.engine.replica import MEMBERS, Cut, Entry
from statepath.engine.snapshot import is_own_member
from statepath.errors import InvalidArgumentError
from statepath.models import PersistedState, SessionInfo, StateMetrics, Task
from statepath.naming import is_collection
from statepath.store import Store
from statepath.tally import Tally, moment

METRICS: Final = "metrics"
DERIVED: Final = frozenset({"version", "seq", "last_saved", MARK})
"""Members of `state.json` that the store writes of its own accord."""

_COUNTS: Final = tuple(StateMetrics.model_fields)


class Part(NamedTuple):
    """The documents that a state gives for one collection: their JSON by id."""

    collection: Collection[Any]
    documents: dict[str, bytes]


@dataclass(slots=True)
class Plan:
    """What brings the store from one cut to the state: changes, each with the version that it is based on.

    `saved`, `deleted` and `skipped` are documents, as `tasks/task_1`; `size` is the bytes of those to be put.
    """

    changes: list[Change] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    size: int = 0

    def put(self, collection: str, id: str, data: bytes, base: int) -> None:
        self.changes.append(Put(collection, id, Raw(data), base))
        self.saved.append(f"{collection}/{id}")
        self.size += len(data)

    def delete(self, collection: str, id: str, base: int) -> None:
        self.changes.append(Delete(collection, id, base))
        self.deleted.append(f"{collection}/{id}")

    def put_member(self, name: str, value: JsonValue) -> None:
        self.changes.append(Put(MEMBERS, name, Raw(encode_value(value, key=name))))


class StateSave:
    """One state, encoded as it was when it was given, so that a retry after a conflict saves the same.

    Raises:
        InvalidArgumentError: a part of it cannot be stored; the message names it.
    """

    def __init__(self, store: Store, state: PersistedState, *, replace: bool) -> None:
        self._replace = replace
        self._metrics = _metrics(state.metrics)
        self._members: dict[str, JsonValue] = {}
        self._parts = [
            _part(store.collection("tasks", Task), state.tasks),
            _part(store.collection("sessions", SessionInfo), state.sessions),
        ]
        held = store.collections()
        for name, given in (state.model_extra or {}).items():
            if name in DERIVED or is_own_member(name):
                continue
            value = _plain(name, given)
            if _is_collection(name, value) or (value == [] and name in held):
                self._parts.append(_part(store.collection(name), value))
            elif name in held:
                raise InvalidArgumentError(
                    f"{name!r} is a collection of this store, and the state has something else than a list "
                    "of documents with ids under that name",
                    key=name,
                )
            else:
                self._members[_check_member(name)] = decode(encode_value(value, key=name))

    def plan(self, cut: Cut, tally: Tally) -> Plan:
        """What to change in the store, as it is in the cut; the tally counts the tasks as they will be."""
        plan = Plan()
        tasks: dict[str, Entry] = {}
        for part in self._parts:
            after = self._plan_part(plan, part, dict(cut.collections.get(part.collection.name, ())))
            if part.collection.name == "tasks":
                tasks = after
        stored = {name: decode(entry.json(), name) for name, entry in cut.collections.get(MEMBERS, ())}
        for part in self._parts:
            # An empty list was saved under the name, before there were documents.
            if part.collection.name in stored:
                plan.changes.append(Delete(MEMBERS, part.collection.name))
        for name, value in self._members.items():
            if name not in stored or not same_value(stored[name], value):
                plan.put_member(name, value)
        metrics = self._metrics_of(tasks, stored.get(METRICS), tally)
        # Put even if equal: it says that they hold for the tasks as they are now.
        if plan.saved or plan.deleted or METRICS not in stored or not same_value(stored[METRICS], metrics):
            plan.put_member(METRICS, metrics)
        return plan

    def _plan_part(self, plan: Plan, part: Part, stored: dict[str, Entry]) -> dict[str, Entry]:
        """Plan the changes of one collection; its documents afterwards."""
        name = part.collection.name
        after = dict(stored)
        for id, data in part.documents.items():
            entry = stored.get(id)
            if entry is None:
                plan.put(name, id, data, 0)
            elif entry.json() == data or same_value(decode(entry.json()), decode(data)):
                continue
            elif not self._replace and _is_older(data, entry.json()):
                plan.skipped.append(f"{name}/{id}")
                continue
            else:
                plan.put(name, id, data, entry.version)
            after[id] = Entry(data, -1, 0)
        if self._replace:
            for id, entry in stored.items():
                if id not in part.documents and _fits(part.collection, id, entry):
                    plan.delete(name, id, entry.version)
                    del after[id]
        return after

    def _metrics_of(self, tasks: dict[str, Entry], stored: JsonValue, tally: Tally) -> JsonValue:
        counted = tally.count(list(tasks.items()))
        known = stored if isinstance(stored, dict) else {}
        if any(self._metrics.get(name) for name in _COUNTS):
            return {**known, **self._metrics}
        return {**known, **self._metrics, **counted}


def _part(collection: Collection[Any], values: list[Any]) -> Part:
    documents: dict[str, bytes] = {}
    for value in values:
        _, id, data, _ = collection.encode(value)
        if id in documents:
            key = f"{collection.name}/{id}"
            raise InvalidArgumentError(f"{key} is twice in the state; leave one of them out", key=key)
        documents[id] = data
    return Part(collection, documents)


def _metrics(metrics: StateMetrics) -> dict[str, Any]:
    own = metrics.model_extra or {}
    counted: dict[str, Any] = metrics.model_dump(mode="json", exclude=set(own))
    return counted | {name: _plain(f"{METRICS}.{name}", value) for name, value in own.items()}


def _check_member(name: str) -> str:
    try:
        return check_id(name)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{name!r} cannot name a member of the state: {error}") from None


def _plain(name: str, value: object) -> Any:
    """The value as JSON values, models in it written whole. Numbers that JSON does not have stay: they are refused, and
    pydantic would write null for them."""
    try:
        return to_jsonable_python(value, by_alias=True, round_trip=True)
    except (PydanticSerializationError, ValueError):
        return decode(encode_value(value, key=name))  # which says what is wrong, and where


def _is_collection(name: str, value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and is_collection(name)
        and all(isinstance(one, Mapping) and is_id(one.get("id")) for one in value)
    )


def _is_older(new: bytes, stored: bytes) -> bool:
    mine, theirs = (moment(_updated(decode(data))) for data in (new, stored))
    return mine is not None and theirs is not None and mine < theirs


def _updated(document: JsonValue) -> JsonValue:
    return document.get("updated_at") if isinstance(document, dict) else None


def _fits(collection: Collection[Any], id: str, entry: Entry) -> bool:
    try:
        collection.decode(id, entry)
    except InvalidArgumentError:
        return False
    return True
