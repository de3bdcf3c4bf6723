"""A handle that does not hold the documents (`load=False`): what it knows, and where it reads them.

The log is appended to as ever. What is read, and what changes are checked against, comes from the storage, which shows
at least what this handle knows to be durable.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing

from statepath.backend import Backend, Filter, Shown, SupportsDocuments, Tally
from statepath.engine.documents import compact
from statepath.engine.replica import MEMBERS, Cut, Entry, Replica
from statepath.errors import UnsupportedError

Key = tuple[str, str]


class Unloaded(Replica):
    """The head, the members of `state.json` that are no collections, and the sizes of the session logs."""

    @property
    def collections(self) -> dict[str, dict[str, Entry]]:
        raise needs_documents()

    def holds(self, collection: str) -> bool:
        return collection == MEMBERS

    def get(self, collection: str, id: str) -> Entry | None:
        if collection != MEMBERS:
            raise needs_documents()
        return super().get(collection, id)

    def set(self, collection: str, id: str, entry: Entry | None) -> None:
        if collection == MEMBERS:
            super().set(collection, id, entry)

    def cut(self) -> Cut:
        raise needs_documents()

    def __iter__(self) -> Iterator[tuple[str, str, Entry]]:
        raise needs_documents()


class Elsewhere:
    """The documents of a store where its storage keeps them, as of the handle's head or later."""

    def __init__(self, storage: SupportsDocuments, replica: Unloaded) -> None:
        self._storage = storage
        self._replica = replica

    async def get(self, collection: str, id: str) -> Entry | None:
        return (await self.read([(collection, id)]))[1].get((collection, id))

    async def read(self, keys: Sequence[Key]) -> tuple[int, dict[Key, Entry]]:
        """Those of the documents that there are, and the seq that they are as of."""
        part = await self._storage.read_documents(keys, self._replica.head)
        return part.seq, {(shown.collection, shown.id): _entry(shown) for shown in part.documents}

    async def scan(
        self, collection: str, where: Filter | None = None, after: str = ""
    ) -> AsyncGenerator[tuple[int, list[tuple[str, Entry]]]]:
        """The documents that may match, by id, in parts that are all as of one seq."""
        async with aclosing(self._storage.scan(collection, where, self._replica.head, after=after)) as parts:
            async for seq, documents in parts:
                yield seq, [(shown.id, _entry(shown)) for shown in documents]

    async def tally(self, collection: str | None = None) -> Mapping[str, Tally]:
        """What each collection holds, or this one."""
        held = await self._storage.tally(self._replica.head, collection=collection)
        return {name: tally for name, tally in held.items() if name != MEMBERS}


def documents_of(backend: Backend) -> SupportsDocuments:
    """
    Raises:
        UnsupportedError: the backend cannot be asked for single documents (`no_documents`).
    """
    if backend.capabilities.documents and isinstance(backend, SupportsDocuments):
        return backend
    raise UnsupportedError(
        f"{backend.url} keeps no documents that could be read one by one, so load=False is of no use there: open the "
        "store without it (STATE_LOAD=true), or keep it in PostgreSQL",
        code="no_documents",
    )


def needs_documents() -> UnsupportedError:
    """The error of what looks at all documents."""
    return UnsupportedError(
        "this needs the documents in memory, and the handle was opened with load=False: open the store without it "
        "(STATE_LOAD=true) where there is memory for them",
        code="not_loaded",
    )


def _entry(shown: Shown) -> Entry:
    return Entry(compact(shown.document), shown.version, shown.modified)
