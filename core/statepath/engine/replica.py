"""The state in memory: every live document as its JSON bytes, at one seq.

Entries are replaced, never changed, so that a list of them is a consistent cut that another thread may read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from statepath.commit import (
    Append,
    Change,
    Delete,
    FileChange,
    Put,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
    append_items,
)
from statepath.engine.documents import list_fields
from statepath.errors import InvalidArgumentError, NotFoundError

MEMBERS = "_state"
"""The collection that holds the members of `state.json` that are no collections, `metrics` above all."""

_FOLD = 1024
_LONGEST = 4096
"""So many elements are folded in any case: they are freed one within the other, on the stack of C."""


class _Appended(msgspec.Struct, frozen=True, gc=False):
    """A document's content with one more list element: what keeps the cost of an append independent of its size.

    `base` and `size` are the bytes below all the appended elements, and with them.
    """

    before: bytes | _Appended
    field: str
    value: bytes
    length: int
    base: int
    size: int

    @property
    def overgrown(self) -> bool:
        """Whether folding now is paid for by what was appended since the last time."""
        return self.length >= _FOLD and (self.size >= 2 * self.base or self.length >= _LONGEST)

    def fold(self) -> bytes:
        items: list[tuple[str, bytes]] = []
        content: bytes | _Appended = self
        while isinstance(content, _Appended):
            items.append((content.field, content.value))
            content = content.before
        by_field: dict[str, list[bytes]] = {}
        for field, value in reversed(items):
            by_field.setdefault(field, []).append(value)
        for field, values in by_field.items():
            content = append_items(content, field, values)
        return content


class Entry(msgspec.Struct, gc=False):
    """One version of one document. The garbage collector need not know the many that there are: none is in a cycle.

    Attributes:
        version: the seq that made it.
        modified: the time of that commit, in microseconds since 1970.
        complete: the model class that wrote it, if it has no field that the class does not know.
    """

    _content: bytes | _Appended
    version: int
    modified: int
    complete: type | None = None
    _lists: frozenset[str] | None = None

    def json(self) -> bytes:
        """The document, compact JSON."""
        content = self._content
        if isinstance(content, _Appended):
            content = self._content = content.fold()
        return content

    @property
    def size(self) -> int:
        content = self._content
        return len(content) if isinstance(content, bytes) else content.size

    @property
    def lists(self) -> frozenset[str]:
        """The members that hold a list, or null."""
        if self._lists is None:
            self._lists = frozenset(name for name, is_list in list_fields(self.json()).items() if is_list)
        return self._lists

    def appended(self, key: str, field: str, value: bytes, version: int, modified: int) -> Entry:
        """The next version, with one more element in the list.

        Raises:
            InvalidArgumentError: the field holds something that is not a list.
        """
        if self._lists is None or field not in self._lists:
            fields = list_fields(self.json())
            if not fields.get(field, True):
                raise InvalidArgumentError(
                    f"{key}: field {field!r} does not hold a list, so nothing can be appended to it", key=key
                )
            self._lists = frozenset(name for name, is_list in fields.items() if is_list) | {field}
        if isinstance(self._content, _Appended) and self._content.overgrown:
            self.json()
        content = self._content
        if isinstance(content, bytes):
            length, base, size = 0, len(content), len(content)
        else:
            length, base, size = content.length, content.base, content.size
        more = _Appended(content, field, value, length + 1, base, size + len(value))
        return Entry(more, version, modified, None, self._lists)


class Entries(Protocol):
    """The documents of a collection, with their ids."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[str, Entry]]: ...


class _Columns:
    """Entries as they are now: two lists, and no object a document, which the garbage collector would look at."""

    __slots__ = ("_entries", "_ids")

    def __init__(self, documents: Mapping[str, Entry]) -> None:
        self._ids = list(documents)
        self._entries = list(documents.values())

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return zip(self._ids, self._entries, strict=True)


@dataclass(frozen=True, slots=True)
class Cut:
    """The whole state as of one seq: entries that nothing changes any more. `changed`: as that of the replica."""

    seq: int
    commit: str
    time: int
    collections: Mapping[str, Entries]
    logs: dict[str, int]
    changed: dict[str, int]

    @property
    def documents(self) -> int:
        return sum(len(entries) for name, entries in self.collections.items() if name != MEMBERS)


class Replica:
    """The documents, and the sizes of the session logs, as of the seq `head`. `needs` is the format that a program must
    know to go on behind it."""

    def __init__(self) -> None:
        self._collections: dict[str, dict[str, Entry]] = {}
        self.logs: dict[str, int] = {}
        self.reports: dict[str, int] = {}
        """The seqs of those reports that were written since this replica is kept."""
        self.changed: dict[str, int] = {}
        """By which seq each collection was changed last: since this replica is kept, and before, where the snapshot
        that it began with says so. It tells of deletions, which leave nothing else."""
        self.head = 0
        self.commit = ""
        self.time = 0
        self.needs = 0

    @classmethod
    def of(cls, cut: Cut) -> Replica:
        """A replica of its own, of the state of a cut."""
        replica = cls()
        replica.head, replica.commit, replica.time = cut.seq, cut.commit, cut.time
        replica._collections = {name: dict(entries) for name, entries in cut.collections.items()}
        replica.logs = dict(cut.logs)
        replica.changed = dict(cut.changed)
        return replica

    @property
    def collections(self) -> dict[str, dict[str, Entry]]:
        """All documents, by collection and id."""
        return self._collections

    @property
    def members(self) -> dict[str, Entry]:
        """The members of `state.json` that are no collections."""
        return self._collections.get(MEMBERS, {})

    def holds(self, collection: str) -> bool:
        """Whether the documents of the collection are here."""
        return True

    def get(self, collection: str, id: str) -> Entry | None:
        documents = self._collections.get(collection)
        return None if documents is None else documents.get(id)

    def set(self, collection: str, id: str, entry: Entry | None) -> None:
        documents = self._collections.get(collection)
        if documents is None:
            if entry is None:
                return
            documents = self._collections[collection] = {}
        if entry is None:
            documents.pop(id, None)
        else:
            documents[id] = entry

    def install(self, entries: Mapping[tuple[str, str], Entry | None]) -> None:
        """Take over what has become durable; `None`: it was deleted."""
        collections = self._collections
        for (collection, id), entry in entries.items():
            if entry is None or collection not in collections:
                self.set(collection, id, entry)
            else:
                collections[collection][id] = entry

    def log_size(self, id: str) -> int:
        return self.logs.get(id, 0)

    def report_seq(self, id: str) -> int:
        return self.reports.get(id, 0)

    def untouched(self, collection: str, since: int) -> bool:
        """Whether no document of the collection was put or deleted behind the seq, at which this replica has been."""
        return self.changed.get(collection, 0) <= since

    def cut(self) -> Cut:
        return Cut(
            self.head,
            self.commit,
            self.time,
            {name: _Columns(documents) for name, documents in self.collections.items() if documents},
            dict(self.logs),
            dict(self.changed),
        )

    def __iter__(self) -> Iterator[tuple[str, str, Entry]]:
        for collection, documents in self.collections.items():
            for id, entry in documents.items():
                yield collection, id, entry

    def __len__(self) -> int:
        return sum(len(documents) for documents in self._collections.values())


class Stage:
    """Changes that are not durable yet, laid over the replica or another stage: later ones see earlier ones,
    readers see none."""

    def __init__(self, below: Replica | Stage) -> None:
        self._below = below
        self.entries: dict[tuple[str, str], Entry | None] = {}
        self.deleted: dict[str, int] = {}
        """By which seq a document was deleted last, of each collection that loses some."""
        self.logs: dict[str, int] = {}
        """The sizes of those session logs that change; 0: it was removed."""
        self.reports: dict[str, int] = {}
        """The seqs that write reports; 0: it was removed."""
        self.files: list[FileChange] = []

    def get(self, collection: str, id: str) -> Entry | None:
        try:
            return self.entries[collection, id]
        except KeyError:
            return self._below.get(collection, id)

    def version(self, collection: str, id: str) -> int:
        entry = self.get(collection, id)
        return 0 if entry is None else entry.version

    def log_size(self, id: str) -> int:
        size = self.logs.get(id)
        return self._below.log_size(id) if size is None else size

    def report_seq(self, id: str) -> int:
        """The last seq that wrote the report, as far as it is known."""
        seq = self.reports.get(id)
        return self._below.report_seq(id) if seq is None else seq

    def untouched(self, collection: str, since: int) -> bool:
        """As `Replica.untouched`, and nothing staged is of it."""
        staged = any(name == collection for name, _ in self.entries)
        return not staged and self._below.untouched(collection, since)

    def place(self, change: Change) -> Change:
        """The change with what only its place in the log decides: where a piece of a session log goes, and how much
        of one is removed."""
        if isinstance(change, WriteLog):
            return WriteLog(change.id, max(change.offset, self.log_size(change.id)), change.text)
        if isinstance(change, RemoveLog):
            return RemoveLog(change.id, self.log_size(change.id))
        return change

    def apply(self, change: Change, seq: int, time: int) -> None:
        """Stage one change of the transaction `seq`.

        Raises:
            NotFoundError: an append to a document that does not exist.
            InvalidArgumentError: an append to a field that holds no list.
        """
        if isinstance(change, Put):
            self.entries[change.collection, change.id] = Entry(bytes(change.document), seq, time)
        elif isinstance(change, Delete):
            self.entries[change.collection, change.id] = None
            self.deleted[change.collection] = seq
        elif isinstance(change, Append):
            key = f"{change.collection}/{change.id}"
            entry = self.get(change.collection, change.id)
            if entry is None:
                raise NotFoundError(f"{key} does not exist, so nothing can be appended to it", key=key)
            self.entries[change.collection, change.id] = entry.appended(
                key, change.field, bytes(change.value), seq, time
            )
        elif isinstance(change, WriteLog):
            self.logs[change.id] = change.offset + len(change.text.encode())
            self.files.append(change)
        elif isinstance(change, FileChange):
            if isinstance(change, RemoveLog):
                self.logs[change.id] = 0
            elif isinstance(change, WriteReport):
                self.reports[change.id] = seq
            elif isinstance(change, RemoveReport):
                self.reports[change.id] = 0
            self.files.append(change)

    def _changed(self) -> dict[str, int]:
        changed = dict(self.deleted)
        for (collection, _), entry in self.entries.items():
            if entry is not None and entry.version > changed.get(collection, 0):
                changed[collection] = entry.version
        return changed

    def join(self, below: Stage) -> None:
        """Hand everything to the stage below."""
        below.entries.update(self.entries)
        below.deleted.update(self.deleted)
        below.logs.update(self.logs)
        below.reports.update(self.reports)
        below.files += self.files

    def install(self, replica: Replica, head: int, commit: str, time: int) -> None:
        """Show what was staged: the commit is durable."""
        replica.install(self.entries)
        replica.changed.update(self._changed())
        for id, size in self.logs.items():
            if size:
                replica.logs[id] = size
            else:
                replica.logs.pop(id, None)
        for id, seq in self.reports.items():
            if seq:
                replica.reports[id] = seq
            else:
                replica.reports.pop(id, None)
        replica.head, replica.commit, replica.time = head, commit, time
