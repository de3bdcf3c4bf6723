"""Saving a whole state: what it changes in the store, as one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from msgspec import Raw
from pydantic import JsonValue
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from statepath.collection import Collection
from statepath.commit import Change, Delete, Put
from statepath.engine.documents import check_numbers, decode, encode_value
from statepath.engine.history import same_value
from statepath.engine.ids import check_id, is_id
from statepath.engine.replica import MEMBERS, Cut, Entry
from statepath.engine.scope import MARK
from statepath.engine.snapshot import is_own_member
from statepath.engine.validating import UNTOUCHED, Read
from statepath.errors import CorruptionError, InvalidArgumentError
from statepath.models import PersistedState, SessionInfo, StateMetrics, Task, moment
from statepath.naming import is_collection
from statepath.store import Store
from statepath.tally import Tally

METRICS: Final = "metrics"
DERIVED: Final = frozenset({"version", "seq", "last_saved", MARK})
"""Members of `state.json` that the store writes of its own accord."""

_COUNTS: Final = tuple(StateMetrics.model_fields)


def are_given(metrics: Mapping[str, Any]) -> bool:
    """Whether the metrics say anything: if all are 0, they are to be counted."""
    return any(metrics.get(name) for name in _COUNTS)


class Part(NamedTuple):
    """The documents that a state gives for one collection: their JSON by id."""

    collection: Collection[Any]
    documents: dict[str, bytes]


@dataclass(slots=True)
class Plan:
    """What brings the store from one cut to the state: changes, each with the version that it is based on.

    `saved`, `deleted` and `skipped` are documents, as `tasks/task_1`; `size` is the bytes of those to be put. `reads`
    is what else must not have changed since the cut.
    """

    changes: list[Change] = field(default_factory=list)
    saved: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    size: int = 0
    reads: list[Read] = field(default_factory=list)

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

    Parameters:
        stored: the documents of the store by collection and id, which tell where those of the state have their ids.

    Raises:
        InvalidArgumentError: a part of it cannot be stored; the message names it.
    """

    def __init__(
        self, store: Store, stored: Mapping[str, Mapping[str, Entry]], state: PersistedState, *, replace: bool
    ) -> None:
        self._store = store
        self._replace = replace
        self._metrics = _metrics(state.metrics)
        self._members: dict[str, JsonValue] = {}
        self._parts = [
            _part(store.collection("tasks", Task), state.tasks),
            _part(store.collection("sessions", SessionInfo), state.sessions),
        ]
        for name, given in _further(state).items():
            if name in DERIVED or is_own_member(name):
                continue
            value = _plain(name, given)
            field = _id_field(stored.get(name, {}) if is_collection(name) else {})
            if _is_collection(name, value, field):
                self._parts.append(_part(store.collection(name, id=field), value))
            else:
                self._members[name] = decode(encode_value(value, key=name))

    def plan(self, cut: Cut, tally: Tally, *, beside: bool = False) -> Plan:
        """What to change in the store, as it is in the cut; the tally counts the tasks as they will be.

        Parameters:
            beside: others change documents all the time. The plan depends, as far as it can, only on those that it
                changes itself, and the metrics are not among it: they are counted again when they are needed.

        Raises:
            InvalidArgumentError: a member of the state has the name of a collection, or one that no member can have.
        """
        plan = Plan()
        tasks: dict[str, Entry] = {}
        parts, given = self._parted(cut)
        for part in parts:
            after = self._plan_part(plan, part, dict(cut.collections.get(part.collection.name, ())))
            if part.collection.name == "tasks":
                tasks = after
        members = dict(cut.collections.get(MEMBERS, ()))
        stored = {name: decode(entry.json(), name) for name, entry in members.items()}
        for part in parts:
            # An empty list was saved under the name, before there were documents.
            if part.collection.name in stored:
                plan.changes.append(Delete(MEMBERS, part.collection.name))
        for name, value in given.items():
            if name not in stored or not same_value(stored[name], value):
                plan.put_member(name if name in stored else _check_member(name), value)
        metrics = self._metrics_of(tasks, stored.get(METRICS), tally)
        loose = beside and not self._replace
        left = loose and self._leaves_metrics(stored.get(METRICS))
        # Put even if equal: it says that they hold for the tasks as they are now.
        if not left and (
            plan.saved or plan.deleted or METRICS not in stored or not same_value(stored[METRICS], metrics)
        ):
            plan.put_member(METRICS, metrics)
            plan.reads.append((MEMBERS, METRICS, _version(members, METRICS)))
        names = [part.collection.name for part in parts]
        plan.reads += [(MEMBERS, name, _version(members, name)) for name in names]
        if loose:
            names = [] if left or are_given(self._metrics) else ["tasks"]
        names += filter(is_collection, given)
        plan.reads += [(name, UNTOUCHED, cut.seq) for name in names]
        return plan

    def _parted(self, cut: Cut) -> tuple[list[Part], dict[str, JsonValue]]:
        """The parts of the state and its other members, by the collections that the store has: an empty list may be
        either."""
        parts, members = list(self._parts), dict(self._members)
        for name, value in self._members.items():
            if not is_collection(name) or name not in cut.collections:
                continue
            if value != []:
                raise InvalidArgumentError(
                    f"{name!r} is a collection of this store, and the state has something else than a list "
                    "of documents with ids under that name",
                    key=name,
                )
            parts.append(_part(self._store.collection(name), []))
            del members[name]
        return parts, members

    def _plan_part(self, plan: Plan, part: Part, stored: dict[str, Entry]) -> dict[str, Entry]:
        """Plan the changes of one collection; its documents afterwards."""
        name = part.collection.name
        after = dict(stored)
        for id, data in part.documents.items():
            entry = stored.get(id)
            if entry is None:
                plan.put(name, id, data, 0)
            elif entry.json() == data:
                continue
            else:
                new, held = decode(data), _held(entry)
                if same_value(held, new):
                    continue
                if not self._replace and _is_older(new, held):
                    plan.skipped.append(f"{name}/{id}")
                    continue
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
        if are_given(self._metrics):
            return {**known, **self._metrics}
        return {**known, **self._metrics, **counted}

    def _leaves_metrics(self, stored: JsonValue) -> bool:
        """Whether the state says nothing of the metrics but that they are to be counted."""
        known = stored if isinstance(stored, dict) else {}
        own = {name: value for name, value in self._metrics.items() if name not in _COUNTS}
        return not are_given(self._metrics) and all(
            name in known and same_value(known[name], value) for name, value in own.items()
        )


def _part(collection: Collection[Any], values: list[Any]) -> Part:
    documents: dict[str, bytes] = {}
    for value in values:
        _, id, data, _ = collection.encode(value)
        if id in documents:
            key = f"{collection.name}/{id}"
            raise InvalidArgumentError(f"{key} is twice in the state; leave one of them out", key=key)
        documents[id] = data
    return Part(collection, documents)


def _version(members: Mapping[str, Entry], name: str) -> int:
    return members[name].version if name in members else 0


def _further(state: PersistedState) -> dict[str, Any]:
    """The members that `PersistedState` does not have: fields of the caller's own class, and what no model knows."""
    own = set(type(state).model_fields) - set(PersistedState.model_fields)
    try:
        declared = state.model_dump(
            mode="json", by_alias=True, round_trip=True, warnings="error", include=own
        )
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidArgumentError(f"a field of {type(state).__name__} cannot be stored: {error}") from error
    if b"null" in to_json(declared):  # which may stand for a number that JSON does not have
        given = state.model_dump(by_alias=True, round_trip=True, warnings=False, include=own)
        for name, value in given.items():
            check_numbers(value, name)
    return declared | (state.model_extra or {})


def _metrics(metrics: StateMetrics) -> dict[str, Any]:
    own = metrics.model_extra or {}
    counted: dict[str, Any] = metrics.model_dump(mode="json", by_alias=True, exclude=set(own))
    return counted | {name: _plain(f"{METRICS}.{name}", value) for name, value in own.items()}


def _check_member(name: str) -> str:
    try:
        return check_id(name)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{name!r} cannot name a member of the state: {error}", key=name) from None


def _plain(name: str, value: object) -> Any:
    """The value as JSON values, models in it written whole. Numbers that JSON does not have stay: they are refused, and
    pydantic would write null for them."""
    try:
        return to_jsonable_python(value, by_alias=True, round_trip=True)
    except (PydanticSerializationError, ValueError):
        return decode(encode_value(value, key=name))  # which says what is wrong, and where


def _id_field(stored: Mapping[str, Entry]) -> str:
    """The member that has the id in each of the documents; `id` where they do not tell."""
    names: list[str] = []
    for id, entry in stored.items():
        document = _held(entry)
        if not isinstance(document, dict):
            continue
        names = [name for name in names or document if document.get(name) == id]
        if len(names) < 2:
            break
    return names[0] if names and "id" not in names else "id"


def _is_collection(name: str, value: object, field: str) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and is_collection(name)
        and all(isinstance(one, Mapping) and is_id(one.get(field)) for one in value)
    )


def _held(entry: Entry) -> JsonValue:
    """The document that is stored, or `None` where it cannot be read: it is replaced, whatever it says."""
    try:
        return decode(entry.json())
    except CorruptionError:
        return None


def _is_older(new: JsonValue, stored: JsonValue) -> bool:
    mine, theirs = moment(_updated(new)), moment(_updated(stored))
    return mine is not None and theirs is not None and mine < theirs


def _updated(document: JsonValue) -> JsonValue:
    return document.get("updated_at") if isinstance(document, dict) else None


def _fits(collection: Collection[Any], id: str, entry: Entry) -> bool:
    try:
        collection.decode(id, entry)
    except (InvalidArgumentError, CorruptionError):
        return False
    return True
