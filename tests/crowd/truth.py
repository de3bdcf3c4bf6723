"""What a store has to show, made of its commits as they were written: they are read as the engine reads them, and
applied apart from it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import UNSET
from statepath.backend import Backend
from statepath.commit import (
    Append,
    Change,
    Commit,
    Delete,
    Put,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
    append_items,
    decode_commit,
    slot_key,
)
from statepath.encryption.journal import open_record
from statepath.encryption.objects import SealedBackend
from statepath.engine.replay import changes_of
from statepath.engine.replica import MEMBERS
from statepath.engine.snapshot import SCHEMA_MEMBER

Documents = dict[tuple[str, str], bytes]


@dataclass(frozen=True)
class State:
    """What there is behind a seq."""

    documents: Documents = field(default_factory=dict)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)

    def behind(self, changes: tuple[Change, ...], seq: int) -> State:
        after = State(dict(self.documents), dict(self.versions), dict(self.logs), dict(self.reports))
        for change in changes:
            if isinstance(change, Put | Append):
                after.versions[change.collection, change.id] = seq
            if isinstance(change, Put):
                after.documents[change.collection, change.id] = bytes(change.document)
            elif isinstance(change, Append):
                place = (change.collection, change.id)
                after.documents[place] = append_items(
                    after.documents[place], change.field, [bytes(change.value)]
                )
            elif isinstance(change, Delete):
                after.documents.pop((change.collection, change.id), None)
                after.versions.pop((change.collection, change.id), None)
            elif isinstance(change, WriteLog):
                held = after.logs.get(change.id, b"")
                assert change.offset == len(held), f"a piece of {change.id} is out of place"
                after.logs[change.id] = held + change.text.encode()
            elif isinstance(change, WriteReport):
                after.reports[change.id] = json.loads(bytes(change.document))
            elif isinstance(change, RemoveLog):
                after.logs.pop(change.id, None)
            elif isinstance(change, RemoveReport):
                after.reports.pop(change.id, None)
        return after


def _told_of(change: Change) -> str:
    """What a change concerns, as who watches is told; nothing of what is the store's own."""
    if isinstance(change, Put | Append | Delete):
        return f"{change.collection}/{change.id}" if change.collection != MEMBERS else ""
    if isinstance(change, WriteLog | RemoveLog):
        return f"logs/{change.id}"
    return f"reports/{change.id}" if isinstance(change, WriteReport | RemoveReport) else ""


class History:
    """An incarnation of a store: its states, behind which commit each of them stands, and what who watches is told of
    it (`told`). `earlier`: the one that it continues, from the state that is `begin`."""

    def __init__(self, place: str = "", earlier: History | None = None, begin: int = 0) -> None:
        self.place = place
        self.earlier = earlier
        self.begin = begin
        self.states = earlier.states[: begin + 1] if earlier else [State()]
        self.told = earlier.told[: begin + 1] if earlier else [()]
        self.ids = earlier.ids[: begin + 1] if earlier else [""]

    @property
    def head(self) -> int:
        return len(self.states) - 1

    @property
    def version(self) -> int:
        """Of the documents in `a`, as the state says."""
        held = self.states[-1].documents.get((MEMBERS, SCHEMA_MEMBER), b"{}")
        return json.loads(held).get("a", 1)  # type: ignore[no-any-return]

    def go_on(self, commit: str, changes: tuple[Change, ...]) -> None:
        self.states.append(self.states[-1].behind(changes, self.head + 1))
        self.ids.append(commit)
        self.told.append(tuple(key for change in changes if (key := _told_of(change))))


class Truth:
    """The commits as they were written, and the states that follow from them. `reached`: up to which seq each place has
    them."""

    def __init__(self) -> None:
        self.committed: set[str] = set()
        self.wrong: list[str] = []
        self.reached: defaultdict[str, int] = defaultdict(int)
        self._histories: dict[str, History] = {}
        self._records: dict[str, tuple[str, list[int]]] = {}

    def of(self, incarnation: str, seq: int, commit: str) -> History:
        """The history of a handle: of its incarnation, or, while a replica is being promoted, of the next one."""
        own = self._histories.get(incarnation, _NOTHING)
        return next(
            (one for one in (own, *self._histories.values()) if commit in one.ids[seq : seq + 1]), own
        )

    def at(self, place: str) -> History:
        """The history that was begun there."""
        return next((history for history in self._histories.values() if history.place == place), _NOTHING)

    async def note(self, place: str, backend: Backend, data: bytes) -> None:
        for line in data.splitlines():
            commit = await _opened(decode_commit(line), backend)
            history = self._histories.get(commit.incarnation) or self._begin(place, commit)
            if history is None:
                continue
            if commit.id in history.ids:  # it was shipped
                if commit.incarnation == self._records[place][0]:
                    self.reached[place] = max(self.reached[place], commit.last)
                continue
            if place != history.place:
                self.wrong.append(f"{place} got a commit {commit.first} that {history.place} has not")
            if (commit.first, commit.prev) != (history.head + 1, history.ids[-1]):
                continue  # of a process that was stopped: in its place there was another one, which was packed since
            self.reached[place] = commit.last
            for transaction in commit.transactions:
                changes = await changes_of(backend, transaction)
                history.go_on(commit.id, changes)
                self._check_version(history)
                self.committed.update(re.findall(r"<[^<>]+>", msgspec.json.encode(changes).decode()))

    def _check_version(self, history: History) -> None:
        """No program writes what another one of its versions would not read."""
        for (collection, id), document in history.states[-1].documents.items():
            if collection == "a" and (held := json.loads(document)["version"]) != history.version:
                self.wrong.append(
                    f"a/{id} is of version {held} at seq {history.head}, and a of {history.version}"
                )
                return

    def _begin(self, place: str, commit: Commit) -> History | None:
        """A store begins with its first commit, and where a replica is promoted, with one behind what it has."""
        begun = History(place) if commit.first == 1 else None
        for earlier in self._histories.values():
            if commit.prev in earlier.ids[commit.first - 1 : commit.first]:
                begun = History(place, earlier, commit.first - 1)
        if self.at(place) is not _NOTHING:
            begun = None
        if begun is None:
            self.wrong.append(f"{place} got a commit {commit.first} that continues nothing")
        else:
            self._histories[commit.incarnation] = begun
        return begun

    def note_record(self, place: str, data: bytes) -> None:
        """The log's own record: its numbers only rise."""
        record = json.loads(data)
        marks = [mark["seq"] for mark in record.get("snapshots", ())]
        now = [record["floor"], record["packed"], *marks[-1:]]
        incarnation, before = self._records.get(place, ("", []))
        self._records[place] = record["incarnation"], now
        if incarnation == record["incarnation"] and any(
            one < then for one, then in zip(now, before, strict=False)
        ):
            self.wrong.append(f"the log's record at {place} goes back from {before} to {now}")


_NOTHING = History()


async def _opened(commit: Commit, backend: Backend) -> Commit:
    if commit.sealed is UNSET:
        return commit
    assert isinstance(backend, SealedBackend), "nothing is sealed in a plain store"
    key = await backend.keys.find(commit.sealed.key, slot_key(commit.first))
    return open_record(commit, commit.sealed, key, backend.keys.store)
