"""A handle that does not hold the documents (`load=False`): what it knows, and where it reads them.

The log is appended to as ever. What is read, and what changes are checked against, comes from the storage, which shows
at least what this handle knows to be durable.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from statepath.backend import Backend, CommitLog, Filter, Moment, Shown, SupportsDocuments, Tally
from statepath.commit import microseconds
from statepath.encryption import Encrypted
from statepath.engine.documents import compact
from statepath.engine.history import next_commit
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
        return (await self.read([(collection, id)])).get((collection, id))

    async def read(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        """Those of the documents that there are, all as of one seq."""
        part = await self._storage.read_documents(keys, self._replica.head)
        return {(shown.collection, shown.id): _entry(shown) for shown in part.documents}

    async def scan(
        self, collection: str, where: Filter | None = None, after: str = ""
    ) -> AsyncGenerator[tuple[int, list[tuple[str, Entry]]]]:
        """The documents that may match, by id, in parts that are all as of one seq."""
        async with (
            self._storage.moment(self._replica.head) as moment,
            aclosing(moment.scan(collection, where, after=after)) as parts,
        ):
            yield moment.seq, []
            async for documents in parts:
                yield moment.seq, [(shown.id, _entry(shown)) for shown in documents]

    async def tally(self, collection: str | None = None) -> Mapping[str, Tally]:
        """What each collection holds, or this one."""
        async with self._storage.moment(self._replica.head) as moment:
            held = await moment.tally(collection=collection)
        return {name: tally for name, tally in held.items() if name != MEMBERS}

    @asynccontextmanager
    async def cut(self, log: CommitLog, catch_up: Callable[[], Awaitable[None]]) -> AsyncIterator[Cut]:
        """The whole state as of one seq, whose documents are drawn, by another thread, when they are needed.
        `catch_up` brings the handle there."""
        async with self._storage.moment(self._replica.head) as moment:
            if moment.seq > self._replica.head:
                await catch_up()
            commit, time = await self._end_of(log, moment.seq)
            loop = asyncio.get_running_loop()
            held = {
                name: Drawn(moment, name, tally.documents, loop, threading.get_ident())
                for name, tally in (await moment.tally()).items()
            }
            # Sizes behind the documents would lose text; those ahead do no harm, as the log says them again. By which
            # seq collections were changed is not known of those that are not held.
            yield Cut(moment.seq, commit, time, held, dict(self._replica.logs), {})

    async def _end_of(self, log: CommitLog, seq: int) -> tuple[str, int]:
        """The id and the time of the commit that ends with the seq."""
        replica = self._replica
        if seq == replica.head:
            return replica.commit, replica.time
        commit = await next_commit(log, seq - 1)
        assert commit is not None  # noqa: S101 - the storage shows it
        return commit.id, microseconds(commit.time)


@dataclass(frozen=True, slots=True)
class Drawn:
    """The documents of a collection: in parts, or one by one for a thread that is not the event loop's."""

    moment: Moment
    collection: str
    count: int
    loop: asyncio.AbstractEventLoop
    thread: int

    def __len__(self) -> int:
        return self.count

    async def parts(self) -> AsyncGenerator[list[tuple[str, Entry]]]:
        async with aclosing(self.moment.scan(self.collection)) as parts:
            async for documents in parts:
                yield [(shown.id, _entry(shown)) for shown in documents]

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        # Where drawing ends early, the loop's own thread drops this and must not wait: the moment ends anyway.
        parts = self.moment.scan(self.collection)
        while (documents := self._next(parts)) is not None:
            for shown in documents:
                yield shown.id, _entry(shown)

    def _next(self, parts: AsyncGenerator[Sequence[Shown]]) -> Sequence[Shown] | None:
        if threading.get_ident() == self.thread:
            raise RuntimeError("the documents are drawn in the thread of the event loop, which gets them")
        return asyncio.run_coroutine_threadsafe(_drawn(parts), self.loop).result()


async def _drawn(parts: AsyncGenerator[Sequence[Shown]]) -> Sequence[Shown] | None:
    return await anext(parts, None)


def documents_of(backend: Backend) -> SupportsDocuments:
    """
    Raises:
        UnsupportedError: the backend cannot be asked for single documents (`no_documents`).
    """
    if backend.capabilities.documents and isinstance(backend, SupportsDocuments):
        return backend
    if isinstance(backend, Encrypted):
        cause, other = "is encrypted, so its storage cannot look into the documents", "decrypt it"
    else:
        cause, other = "keeps no documents that could be read one by one", "keep it in PostgreSQL"
    raise UnsupportedError(
        f"{backend.url} {cause}, and load=False is of no use there: open the store without it (STATE_LOAD=true), or "
        f"{other}",
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
