"""Views that fell behind on a storage where nobody edits files: those that a crash left behind, or that never were.

A listing tells when each object was written, on the storage's clock. Who compares it with the commits' times has to
allow for clocks that differ; what is written once too often does no harm. Only who reads a view knows what it shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from statepath.backend import Backend
from statepath.engine.adoption import UNREAD, had, view_id
from statepath.engine.ids import document_key
from statepath.engine.replica import MEMBERS, Replica
from statepath.engine.views import View, parse_view
from statepath.errors import CorruptionError, InvalidArgumentError, NotFoundError, StateError
from statepath.naming import is_collection
from statepath.together import together

_CLOCKS: Final = 300 * 1_000_000
"""By how many microseconds the clocks of the storage and of a writer may differ."""

_PARALLEL: Final = 16


@dataclass(frozen=True, slots=True)
class Wrong:
    """A document whose view does not show it. `reason`: why that is no earlier view of it, which it is or lacks where
    this is empty. `unread`: why it is not known."""

    collection: str
    id: str
    key: str
    reason: str
    unread: StateError | None = None


async def find_lagging(
    backend: Backend, replica: Replica, store: str, *, limit: int
) -> list[tuple[str, str]]:
    """The documents, live or deleted, whose view may not show them as they are.

    Parameters:
        limit: the most bytes of a document.
    """
    # People write into files, later than we did: what they wrote is for whoever opens the store next.
    apart = -1 if backend.capabilities.editable else _CLOCKS
    missing = {
        document_key(collection, id): (collection, id)
        for collection, id, _ in replica
        if collection != MEMBERS
    }
    lagging: list[tuple[str, str]] = []
    async for listed in backend.list_keys(""):
        collection, _, name = listed.key.partition("/")
        found = missing.pop(listed.key, None)
        if found is not None:
            entry = replica.get(*found)
            if entry is not None and _lags(listed.modified * 1_000_000, entry.modified, apart):
                lagging.append(found)
        elif name.endswith(".json") and is_collection(collection):
            id = await _left_behind(backend, replica, listed.key, store, limit)
            if id is not None:
                lagging.append((collection, id))
    return [*missing.values(), *lagging]


async def find_wrong(backend: Backend, replica: Replica, store: str, *, limit: int) -> AsyncIterator[Wrong]:
    """The documents whose view does not show them, by what it says. Parameters: as `find_lagging`."""
    documents = [(collection, id) for collection, id, _ in replica if collection != MEMBERS]
    for at in range(0, len(documents), _PARALLEL):
        part = documents[at : at + _PARALLEL]
        for found in await together(_look(backend, replica, store, limit, *one) for one in part):
            if found is not None:
                yield found


async def _look(
    backend: Backend, replica: Replica, store: str, limit: int, collection: str, id: str
) -> Wrong | None:
    key = document_key(collection, id)
    reason = ""
    try:
        view = parse_view((await backend.read(key)).data, key, limit)
    except NotFoundError:
        return Wrong(collection, id, key, reason)
    except (CorruptionError, InvalidArgumentError) as error:
        return Wrong(collection, id, key, str(error))
    except UNREAD as error:
        return Wrong(collection, id, key, reason, error)
    entry = replica.get(collection, id)
    if not view.ours or view.store != store or view_id(key, view.texts) != id:
        reason = f"{key} is not what was written there"
    elif entry is None or view.seq == entry.version or view.seq > replica.head:
        return None  # others may have gone on meanwhile
    elif view.seq > entry.version:
        reason = f"{key} shows a version that its document never had"
    return Wrong(collection, id, key, reason)


def _lags(written: float, changed: int, apart: int) -> bool:
    """Whether a view of that time may not show a change of that one. Of the very same time it was told that it does.
    `apart` is by how much the clocks may differ."""
    return round(written) < changed + apart and round(written) != changed


async def _left_behind(backend: Backend, replica: Replica, key: str, store: str, limit: int) -> str | None:
    """The id of the deleted document whose view this is; `None` for what somebody else put there."""
    try:
        view: View = parse_view((await backend.read(key)).data, key, limit)
    except (CorruptionError, InvalidArgumentError, NotFoundError):
        return None
    collection = key.partition("/")[0]
    if not view.ours or view.store != store:
        return None
    id = next((id for id in view.texts.values() if _names(collection, id, key)), None)
    if id is not None and backend.capabilities.editable and not had(replica, collection, id, view):
        return None
    return id


def _names(collection: str, id: str, key: str) -> bool:
    try:
        return document_key(collection, id) == key
    except (UnicodeError, InvalidArgumentError):
        return False
