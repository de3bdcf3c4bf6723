"""Hand-edited files: what a person did with `nano tasks/task_123.json` while no server ran.

A view's file carries its document's own modification time, so a listing alone tells which files were touched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from statepath.backend import Backend
from statepath.engine.documents import decode, encode_mapping
from statepath.engine.ids import decode_id, document_key, is_collection
from statepath.engine.recovery import view_id
from statepath.engine.replica import MEMBERS, Replica
from statepath.engine.views import parse_view
from statepath.errors import InvalidArgumentError, NotFoundError


@dataclass(frozen=True, slots=True)
class Edit:
    """A document as a person left it, and the version that they edited (0: a new one)."""

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
        stale: documents whose file is missing, or shows another version.
        orphans: files of documents that no longer exist.
    """

    edits: list[Edit] = field(default_factory=list)
    conflicts: list[tuple[str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    stale: list[tuple[str, str]] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)


async def examine(backend: Backend, replica: Replica, store: str, *, limit: int) -> Examined:
    """Compare the documents' files with the state. Reads only the files that differ in their modification time."""
    found = Examined()
    seen: set[tuple[str, str]] = set()
    long_names: dict[str, str] | None = None
    async for listed in backend.list_keys(""):
        collection, _, name = listed.key.partition("/")
        if not name.endswith(".json") or "/" in name or not is_collection(collection):
            continue
        id = decode_id(name[:-5])
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
            if round(listed.modified * 1_000_000) == entry.modified:
                continue
        await _judge(backend, replica, store, collection, id, listed.key, found, limit)
    if len(seen) < len(replica):
        found.stale += [
            (collection, id)
            for collection, id, _ in replica
            if collection != MEMBERS and (collection, id) not in seen
        ]
    return found


async def _judge(
    backend: Backend,
    replica: Replica,
    store: str,
    collection: str,
    id: str | None,
    key: str,
    found: Examined,
    limit: int,
) -> None:
    entry = None if id is None else replica.get(collection, id)
    try:
        view = parse_view((await backend.read(key)).data, key, limit)
    except NotFoundError:
        return
    except InvalidArgumentError as error:
        found.broken.append((key, str(error)))
        if entry is not None and id is not None:
            found.stale.append((collection, id))
        return
    if view.ours and view.store == store:
        if entry is None:
            found.orphans.append(key)
        elif id is not None:
            found.stale.append((collection, id))
        return
    document: dict[str, Any] = decode(bytes(view.document))
    if entry is not None and id is not None:
        found.stale.append((collection, id))
        if decode(entry.json()) == document:
            return
        base = view.seq if view.store == store else None
        if base != entry.version:
            found.conflicts.append((key, f"{collection}/{id} was changed after the version that this file is based on"))
        elif view_id(key, document) != id:
            found.conflicts.append((key, f"the file's document has another id than its name, {id}"))
        else:
            found.edits.append(Edit(collection, id, key, _encode(document, key, limit), entry.version))
        return
    id = view_id(key, document)
    if id is None or document_key(collection, id) != key:
        found.conflicts.append((key, "the file's name does not belong to the id in it"))
    elif view.store == store:
        found.conflicts.append((key, f"{collection}/{id} was deleted after the version that this file is based on"))
    else:
        found.edits.append(Edit(collection, id, key, _encode(document, key, limit), 0))


def _encode(document: dict[str, Any], key: str, limit: int) -> bytes:
    return encode_mapping(document, key=key, limit=limit)
