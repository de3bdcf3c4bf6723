"""The documents' own files beside the state: what a person did with `nano tasks/task_123.json` while no server ran,
and what only the files still know when the log was damaged.

A view's file carries its document's own modification time, so a listing alone tells which files were touched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from statepath.backend import Backend, Entry, Span
from statepath.commit import FLOOR_KEY
from statepath.engine.documents import decode, encode_mapping, too_large
from statepath.engine.history import same_json, same_value
from statepath.engine.ids import decode_id, document_key, encode_id, is_id
from statepath.engine.members import make_way
from statepath.engine.replica import MEMBERS, Replica
from statepath.engine.replica import Entry as Stored
from statepath.engine.scope import MARK
from statepath.engine.views import View, least_size, parse_view
from statepath.errors import (
    AccessDeniedError,
    CorruptionError,
    InvalidArgumentError,
    NotFoundError,
    StateError,
    ThrottledError,
    UnavailableError,
)
from statepath.layout import is_ours
from statepath.naming import is_collection

UNREAD: Final = (AccessDeniedError, ThrottledError, UnavailableError)
"""What tells that a file could not be read, and nothing of what it says."""

_SIGNED: Final = f'"{MARK}"'.encode()
_END: Final = 512
"""More bytes than a view's signature has."""


@dataclass(frozen=True, slots=True)
class File:
    """A file that lies where a document's view would, and what it says or why it says nothing (`None`: it is empty,
    which a power failure makes of a view). `modified` is in microseconds since 1970."""

    collection: str
    key: str
    modified: int
    view: View | InvalidArgumentError | None


@dataclass(frozen=True, slots=True)
class Edit:
    """A document as a person left it, and the version to replace (0: a new one)."""

    collection: str
    id: str
    key: str
    document: bytes
    base: int


@dataclass(slots=True)
class Examined:
    """What the files say beside the state.

    Attributes:
        edits: to be committed.
        conflicts: files to be kept aside, with the reason.
        broken: files that hold no document, to be kept aside, with the reason.
        newer: files of later versions than the state has, whoever wrote them last.
        stale: documents whose file is missing, or shows another version.
        orphans: files of documents that no longer exist.
        altered: documents whose file is damaged, and its time does not say that anyone changed it.
        unread: why files could not be read, by their keys.
    """

    edits: list[Edit] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    newer: list[tuple[File, View]] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    altered: list[tuple[str, str]] = field(default_factory=list)
    unread: dict[str, StateError] = field(default_factory=dict)


async def examine(
    backend: Backend, replica: Replica, store: str, *, limit: int, thorough: bool = False
) -> Examined:
    """Compare the documents' files with the state. Reads only the files that differ in their modification time, or
    with `thorough` all of them, and goes on behind one that cannot be read."""
    found = Examined()
    unread = found.unread if thorough else None
    seen: set[tuple[str, str]] = set()
    long_names: dict[str, str] | None = None
    async for listed, collection, named in _listed(backend):
        id = named
        if id is None:
            if long_names is None:
                long_names = {
                    key: document_id
                    for group, document_id, _ in replica
                    if "~" in (key := document_key(group, document_id))
                }
            id = long_names.get(listed.key)
        entry = None if id is None else replica.get(collection, id)
        if entry is not None and id is not None:
            seen.add((collection, id))
            # A clock that ticks coarsely can give a file that was emptied since the very time it had.
            whole = listed.size >= least_size(entry.size, store)
            if whole and round(listed.modified * 1_000_000) == entry.modified:
                if thorough and not await _sound(backend, collection, listed, store, limit, found.unread):
                    found.altered.append((collection, id))
                continue
        if (file := await _read(backend, collection, listed, limit, unread)) is not None:
            try:
                _judge(replica, store, id, file, found, limit)
            except InvalidArgumentError as error:  # as it would be written it is too large
                found.broken.append((file.key, str(error)))
    _settle_rivals(found)
    if len(seen) < len(replica):
        found.stale += [
            (collection, id)
            for collection, id, _ in replica
            if collection != MEMBERS and (collection, id) not in seen
        ]
    return found


async def read_views(backend: Backend, limit: int) -> AsyncIterator[File]:
    """Every file that lies where a document's view would."""
    async for listed, collection, _ in _listed(backend):
        if (file := await _read(backend, collection, listed, limit)) is not None:
            yield file


async def check_size(backend: Backend, listed: Entry, limit: int) -> None:
    """That a file need not be left unread: it can be a document, or its end says that it is the view of one, which may
    be larger.

    Raises:
        InvalidArgumentError: neither.
    """
    if listed.size > limit:
        end = await backend.read(listed.key, span=Span(max(listed.size - _END, 0)))
        if _SIGNED not in end.data:
            raise too_large(listed.key, listed.size, limit)


def view_id(key: str, document: Mapping[str, JsonValue]) -> str | None:
    """The id that the document in a file says it has: the member that gives the file its name, else `id`."""
    name = key.rpartition("/")[2].removesuffix(".json")
    for value in document.values():
        if isinstance(value, str) and is_id(value) and encode_id(value) == name:
            return value
    id = document.get("id")
    return id if isinstance(id, str) and is_id(id) else None


async def _listed(backend: Backend) -> AsyncIterator[tuple[Entry, str, str | None]]:
    """What lies where the file of a document would, with its collection, and the id that its name tells. A store in a
    folder of this one has its own objects there, too, and they are listed behind its log's own record."""
    other = "/"
    async for entry in backend.list_keys(""):
        if entry.key.endswith(f"/{FLOOR_KEY}"):
            other = entry.key.removesuffix(FLOOR_KEY)
        elif not (entry.key.startswith(other) and is_ours(entry.key.removeprefix(other))):
            collection, id = _placed(entry.key)
            if collection:
                yield entry, collection, id


def _placed(key: str) -> tuple[str, str | None]:
    """The collection in whose folder a document's file lies, empty if it does not, and the id that its name tells."""
    collection, _, name = key.partition("/")
    if not name.endswith(".json") or "/" in name or not is_collection(collection):
        return "", None
    return collection, decode_id(name[:-5])


async def _read(
    backend: Backend,
    collection: str,
    listed: Entry,
    limit: int,
    unread: dict[str, StateError] | None = None,
) -> File | None:
    """What the file says; `None` if it is gone, or was added to `unread`."""
    try:
        await check_size(backend, listed, limit)
        data = (await backend.read(listed.key)).data
    except NotFoundError:
        return None
    except UNREAD as error:
        if unread is None:
            raise
        unread[listed.key] = error
        return None
    except (CorruptionError, InvalidArgumentError) as error:
        unreadable = InvalidArgumentError(str(error), key=listed.key)
        return File(collection, listed.key, _modified(listed), unreadable)
    view: View | InvalidArgumentError | None = None
    try:
        if data.strip(b"\0"):
            view = parse_view(data, listed.key, limit)
    except InvalidArgumentError as error:
        view = error
    return File(collection, listed.key, _modified(listed), view)


async def _sound(
    backend: Backend, collection: str, listed: Entry, store: str, limit: int, unread: dict[str, StateError]
) -> bool:
    """Whether a file that nobody changed says what we wrote, at whatever seq, or cannot be read."""
    file = await _read(backend, collection, listed, limit, unread)
    return file is None or (isinstance(file.view, View) and file.view.ours and file.view.store == store)


def _says(entry: Stored, document: JsonValue) -> bool:
    try:
        return same_value(decode(entry.json()), document)
    except CorruptionError:
        return False


def _judge(replica: Replica, store: str, id: str | None, file: File, found: Examined, limit: int) -> None:
    collection, key, view = file.collection, file.key, file.view
    entry = None if id is None else replica.get(collection, id)
    if not isinstance(view, View):
        if view is not None:
            found.broken.append((key, str(view)))
        if entry is not None and id is not None:
            found.stale.append((collection, id))
        return
    based_here = view.store == store
    if based_here and view.seq > replica.head:
        found.newer.append((file, view))
        return
    if entry is not None and id is not None:
        found.stale.append((collection, id))
        if based_here and view.ours:
            return
    try:
        document = view.decode(key)
    except CorruptionError as error:
        found.broken.append((key, str(error)))
        return
    if entry is not None and id is not None:
        if _says(entry, document):
            return
        if not based_here or view.seq != entry.version:
            found.conflicts.append(
                (key, f"{collection}/{id} was changed after the version that this file is based on")
            )
        elif view_id(key, document) != id:
            found.conflicts.append((key, f"the document in the file has another id than its name, {id}"))
        else:
            found.edits.append(Edit(collection, id, key, _encode(document, key, limit), entry.version))
        return
    id = view_id(key, document)
    if id is None:
        found.conflicts.append((key, "the document in the file does not say its id"))
    elif replica.get(collection, id) is not None:
        found.conflicts.append((key, f"the file holds {collection}/{id}, whose own file is another one"))
    elif not based_here or _is_copy(replica, collection, view):
        try:
            make_way(replica, collection, replica.members.get(collection))
        except InvalidArgumentError as error:
            found.conflicts.append((key, str(error)))
        else:
            found.edits.append(Edit(collection, id, key, _encode(document, key, limit), 0))
    elif not had(replica, collection, id, view):
        found.conflicts.append(
            (
                key,
                f"the store knows of no {collection}/{id} that was deleted: the file may be a copy of another one's",
            )
        )
    elif view.ours and document_key(collection, id) == key:
        found.orphans.append(key)
    else:
        found.conflicts.append(
            (key, f"{collection}/{id} was deleted after the version that this file is based on")
        )


def had(replica: Replica, collection: str, id: str, view: View) -> bool:
    """Whether the store seems to have had a document of which nothing but this view is left. Else a person put a copy
    of another one's file there: into a folder of their own, or beside the document that has this version."""
    known = collection in replica.collections or collection in replica.changed
    return known and not any(
        entry is not None
        and entry.version == view.seq
        and (not view.ours or same_json(entry.json(), bytes(view.document)))
        for entry in [documents.get(id) for documents in replica.collections.values()]
    )


def _settle_rivals(found: Examined) -> None:
    """Of several files that hold one new document, that of its own name counts, or else the first."""
    edits: dict[tuple[str, str], Edit] = {}
    for edit in sorted(found.edits, key=lambda edit: edit.key != document_key(edit.collection, edit.id)):
        first = edits.setdefault((edit.collection, edit.id), edit)
        if first is not edit:
            found.conflicts.append((edit.key, f"{first.key} holds {edit.collection}/{edit.id}, too"))
    found.edits = list(edits.values())


def _is_copy(replica: Replica, collection: str, view: View) -> bool:
    """Whether a person seems to have begun a new document with a copy of another one's file."""
    return not view.ours and any(
        entry.version == view.seq for entry in replica.collections.get(collection, {}).values()
    )


def _modified(listed: Entry) -> int:
    return round(listed.modified * 1_000_000)


def _encode(document: Mapping[str, JsonValue], key: str, limit: int) -> bytes:
    return encode_mapping(document, key=key, limit=limit)
