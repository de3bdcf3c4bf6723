"""What a store has to show, made of its commits as they were written: they are read as the engine reads them, and
applied apart from it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec
from statepath.commit import (
    Append,
    Change,
    Delete,
    Put,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
    append_items,
    decode_commit,
)
from statepath.engine.replay import changes_of
from statepath.memory import MemoryBackend

Documents = dict[tuple[str, str], bytes]


@dataclass(frozen=True)
class State:
    """What there is behind a seq."""

    documents: Documents = field(default_factory=dict)
    logs: dict[str, bytes] = field(default_factory=dict)
    reports: dict[str, Any] = field(default_factory=dict)

    def behind(self, changes: tuple[Change, ...]) -> State:
        after = State(dict(self.documents), dict(self.logs), dict(self.reports))
        for change in changes:
            if isinstance(change, Put):
                after.documents[change.collection, change.id] = bytes(change.document)
            elif isinstance(change, Append):
                place = (change.collection, change.id)
                after.documents[place] = append_items(
                    after.documents[place], change.field, [bytes(change.value)]
                )
            elif isinstance(change, Delete):
                after.documents.pop((change.collection, change.id), None)
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


class Truth:
    """The commits as they were written, and the states that follow from them."""

    def __init__(self, memory: MemoryBackend) -> None:
        self.states = [State()]
        self.committed: set[str] = set()
        self.wrong: list[str] = []
        self._memory = memory
        self._id = ""
        self._record: list[int] = []

    @property
    def head(self) -> int:
        return len(self.states) - 1

    async def note(self, data: bytes) -> None:
        commit = decode_commit(data)
        if commit.first != self.head + 1 or commit.prev != self._id:
            return  # of a process that had been stopped: in its place there was another commit, which was packed since
        self._id = commit.id
        for transaction in commit.transactions:
            changes = await changes_of(self._memory, transaction)
            self.states.append(self.states[-1].behind(changes))
            self.committed.update(re.findall(r"<[^<>]+>", msgspec.json.encode(changes).decode()))

    def note_record(self, data: bytes) -> None:
        """The log's own record: its numbers only rise."""
        record = json.loads(data)
        marks = [mark["seq"] for mark in record.get("snapshots", ())]
        before, self._record = self._record, [record["floor"], record["packed"], *marks[-1:]]
        if any(now < then for now, then in zip(self._record, before, strict=False)):
            self.wrong.append(f"the log's record goes back from {before} to {self._record}")
