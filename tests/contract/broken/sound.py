"""A backend in memory that keeps every promise, the optional ones included; the others here break one each."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import msgspec
from statepath.backend import (
    ALWAYS,
    Backend,
    Blob,
    Body,
    Capabilities,
    CommitLog,
    ETag,
    Filter,
    IfMatch,
    LazyWrite,
    Moment,
    Parameter,
    Part,
    Shown,
    StateURL,
    Tally,
    When,
    append_items,
    decode_changes,
)
from statepath.commit import Append, Delete, Put, Transaction
from statepath.errors import ConflictError, InvalidArgumentError
from statepath.log import PortableCommitLog
from statepath.memory import MemoryBackend, MemoryConfig

LIMIT = 32 * 1024 * 1024
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

K = TypeVar("K", bound=type)


@dataclass(frozen=True)
class Config:
    """Where the store is, and who asks."""

    name: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    region: str | None = None


@dataclass
class Still:
    """A sound moment."""

    seq: int
    documents: Mapping[tuple[str, str], Shown]

    async def scan(
        self, collection: str, where: Filter | None = None, *, after: str = ""
    ) -> AsyncGenerator[Sequence[Shown]]:
        yield [
            shown
            for (name, id), shown in sorted(self.documents.items())
            if name == collection
            and id > after
            and (where is None or where.matches(msgspec.json.decode(shown.document)))
        ]

    async def tally(self, *, collection: str | None = None) -> Mapping[str, Tally]:
        found: dict[str, Tally] = {}
        for (name, _), shown in self.documents.items():
            if collection in (None, name):
                one = found.get(name, Tally(0, 0))
                found[name] = Tally(one.documents + 1, one.bytes + len(shown.document))
        return found


Keep = Callable[[str, bytes], bool]


class Sound(MemoryBackend):
    """Every capability but `exclusive` and `sharing`."""

    capabilities: Capabilities = Capabilities(
        durable=False,
        shared=False,
        commit_log=True,
        streams=True,
        append=True,
        lazy_writes=True,
        copy=True,
        space=True,
        queries=True,
        documents=True,
        max_object_bytes=LIMIT,
    )

    def __init__(self, config: Config, *, readonly: bool = False) -> None:
        super().__init__(MemoryConfig(config.name), readonly=readonly)
        self.config = config
        self.readonly = readonly
        self.log: CommitLog = self.make_log()
        self.shown: tuple[int, list[Shown]] = (0, [])

    def make_log(self) -> CommitLog:
        return PortableCommitLog(self, review=0)

    def commit_log(self) -> CommitLog:
        return self.log

    async def write(self, key: str, data: bytes, *, when: When = ALWAYS) -> ETag:
        limit = self.capabilities.max_object_bytes
        if limit is not None and len(data) > limit:
            raise InvalidArgumentError(f"{key} is too large", key=key)
        return await super().write(key, data, when=when)

    async def write_stream(self, key: str, chunks: Iterable[bytes], *, when: When = ALWAYS) -> ETag:
        return await self.write(key, b"".join(chunks), when=when)

    async def write_at(self, key: str, offset: int, data: bytes, *, cut: bool = True) -> None:
        self._check_writable(key)
        stored = self._objects[key].data if key in self._objects else b""
        behind = b"" if cut else stored[offset + len(data) :]
        await self.write(key, stored[:offset].ljust(offset, b"\n") + data + behind)

    async def write_lazily(self, items: Iterable[LazyWrite], *, keep: Keep | None = None) -> None:
        for key, data, modified in items:
            stored = self._objects.get(key)
            time = EPOCH + timedelta(microseconds=modified)
            if keep is not None and stored is not None and stored.modified > time and keep(key, stored.data):
                continue
            if data is None:
                await self.delete(key)
            else:
                await self.write(key, data)
                self.put(key, modified=time)

    async def copy(self, source: str, target: str, *, when: When = ALWAYS) -> ETag:
        blob = await self.read(source)
        if isinstance(when, IfMatch) and blob.etag != when.etag:
            raise ConflictError(f"{source} is another version", key=source)
        return await self.write(target, blob.data)

    async def free_bytes(self) -> int:
        return LIMIT

    async def show(self, seq: int, documents: Iterable[Shown]) -> None:
        self.shown = seq, list(documents)

    async def settle(self, seq: int) -> bool:
        return True  # nothing is behind: each query looks at everything

    async def find(self, collection: str, where: Filter, seq: int) -> frozenset[str] | None:
        begin, shown = self.shown
        if seq < begin:
            return None
        found = {(each.collection, each.id): msgspec.json.decode(each.document) for each in shown}
        async for commit in self.log.read(begin):
            for number, transaction in enumerate(commit.transactions, commit.first):
                if number <= seq:
                    _apply(found, await self.changes(transaction))
        return frozenset(
            id for (name, id), each in found.items() if name == collection and where.matches(each)
        )

    async def serve(self, seq: int) -> None:
        """Nothing is behind: each answer is made from the log."""

    async def read_documents(self, keys: Sequence[tuple[str, str]], at_least: int) -> Part:
        seq, documents = await self.replayed()
        return Part(seq, [documents[key] for key in keys if key in documents])

    @asynccontextmanager
    async def moment(self, at_least: int) -> AsyncIterator[Moment]:
        yield self.still(*await self.replayed())

    def still(self, seq: int, documents: Mapping[tuple[str, str], Shown]) -> Still:
        return Still(seq, documents)

    async def replayed(self) -> tuple[int, dict[tuple[str, str], Shown]]:
        """The documents, and the seq that they are as of."""
        found: dict[tuple[str, str], Shown] = {}
        head = 0
        async for commit in self.log.read(0):
            for head, transaction in enumerate(commit.transactions, commit.first):
                for change in await self.changes(transaction):
                    if isinstance(change, Put):
                        found[change.collection, change.id] = self.row(change, head, bytes(change.document))
                    elif isinstance(change, Delete):
                        del found[change.collection, change.id]
                    elif isinstance(change, Append):
                        before = found[change.collection, change.id].document
                        document = append_items(before, change.field, [bytes(change.value)])
                        found[change.collection, change.id] = self.row(change, head, document)
        return head, found

    async def changes(self, transaction: Transaction | Body) -> Transaction:
        if isinstance(transaction, Body):
            return decode_changes((await self.read(transaction.key)).data)
        return transaction

    def row(self, change: Put | Append, seq: int, document: bytes) -> Shown:
        return Shown(change.collection, change.id, seq, 0, document)

    def put(self, key: str, **changes: Any) -> None:
        """Change the stored object behind everybody's back."""
        blob = self._objects.get(key, Blob(b"", ETag(""), datetime.now(UTC)))
        self._objects[key] = replace(blob, **changes)


def _apply(documents: dict[tuple[str, str], Any], changes: Transaction) -> None:
    for change in changes:
        if isinstance(change, Put):
            documents[change.collection, change.id] = msgspec.json.decode(change.document)
        elif isinstance(change, Delete):
            del documents[change.collection, change.id]
        elif isinstance(change, Append):
            elements = documents[change.collection, change.id].setdefault(change.field, [])
            elements.append(msgspec.json.decode(change.value))


class SoundFactory:
    """Connects to a kind of backend; the state path has a password, which nobody may see."""

    def __init__(self, kind: type[Sound] = Sound) -> None:
        self.kind = kind

    def parse(self, url: StateURL) -> Config:
        url.only()
        return Config(url.path, url.user, url.password)

    def with_env(self, config: Config, env: Mapping[str, str]) -> Config:
        return config if config.region else replace(config, region=env.get("SOUND_REGION"))

    def parameters(self, url: StateURL) -> list[Parameter]:
        return [Parameter("region", ("SOUND_REGION",)), Parameter("password", (), url.password, secret=True)]

    async def connect(self, config: Config, *, readonly: bool = False) -> Backend:
        return self.kind(config, readonly=readonly)


class Fault(NamedTuple):
    """A broken backend, and a check that must notice."""

    name: str
    check: str
    factory: Any


FAULTS: list[Fault] = []


def caught_by(*checks: str) -> Callable[[K], K]:
    """Enter a kind of backend, or a factory, as broken."""

    def enter(kind: K) -> K:
        factory = kind() if issubclass(kind, SoundFactory) else SoundFactory(kind)
        FAULTS.extend(Fault(kind.__name__, check, factory) for check in checks)
        return kind

    return enter
