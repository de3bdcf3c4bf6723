"""Transactions: changes over several collections that are all made, or none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, TypeVar, overload

from msgspec import Raw
from pydantic import JsonValue

from statepath.arguments import wrong_kind
from statepath.attempts import ATTEMPTS, back_off
from statepath.collection import Collection, Json
from statepath.commit import Append, Change, Delete, Put
from statepath.engine.committer import FENCES
from statepath.engine.documents import decode, encode_value
from statepath.engine.engine import Engine
from statepath.engine.ids import check_id
from statepath.engine.pending import Document as PutDocument
from statepath.engine.replica import MEMBERS, Entry, Stage
from statepath.engine.snapshot import SNAPSHOT_MEMBERS, is_own_member
from statepath.engine.unloaded import Elsewhere
from statepath.engine.validating import UNTOUCHED, Read
from statepath.errors import ClosedError, ConflictError, InvalidArgumentError, NotFoundError
from statepath.naming import is_collection

T = TypeVar("T")


def _concerns(change: Change, place: tuple[str, str]) -> bool:
    return isinstance(change, Put | Delete | Append) and (change.collection, change.id) == place


class Transaction:
    """Collects changes and commits them together when the `async with` block ends; an exception drops them.

    What was read in it must still hold then: if someone else changed one of those documents meanwhile, nothing is
    committed and `ConflictError` is raised. `seq` is the transaction's place in the log, once it is durable.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changes: list[Change] = []
        self._reads: dict[tuple[str, str], int] = {}
        self._found: dict[tuple[str, str], Entry | None] = {}
        """What was read: who reads it again is told the same, whatever others have made of it."""
        self._own: dict[tuple[str, str], Entry | None] = {}
        self._made: set[str] = set()
        """The collections that it puts documents in: whether any is left there, `_own` tells."""
        self._appends: dict[tuple[str, str], list[Append]] = {}
        self._putters: dict[tuple[str, str], tuple[Collection[Any], PutDocument | None]] = {}
        """Where each document that is put goes, and what it is without what its model does not know."""
        self._mixed: set[tuple[str, str]] = set()
        """Those that were put through several models: what each knows, the others do not."""
        self._puts: dict[int, Collection[Any]] = {}
        self._fences: list[Read] = []
        self._without: dict[str, int] = {}
        """Of which names there was no collection, at which seqs."""
        self._ended = False
        self.seq: int | None = None

    async def get(self, collection: Collection[T], id: str) -> T | None:
        """The document as this transaction sees it, its own changes included; `None` if there is none. From now on it
        has to stay as it is until the transaction ends, or that is a conflict; read again, it is the same.

        Raises:
            InvalidArgumentError: as `Collection.get`, or the collection is of another store.
        """
        self._check_open()
        place = (self._held(collection).name, check_id(id))
        if place not in self._own:
            entry = self._seen(place, await self._engine.entry(*place))
        elif self._lacks(place, collection):
            stored = self._note(place, await self._engine.entry(*place))
            entry = self._replayed({place: stored})[0].get(*place)
        else:
            entry = self._own[place]
        return None if entry is None else collection.decode(id, entry)

    @overload
    def put(self, collection: Collection[Json], value: Mapping[str, Any]) -> None: ...

    @overload
    def put(self, collection: Collection[T], value: T) -> None: ...

    def put(self, collection: Collection[Any], value: Any) -> None:
        """Store the document, whatever is stored under its id, when the transaction ends.

        Raises:
            InvalidArgumentError: as `Collection.put`, or the collection is of another store.
        """
        self._check_open()
        place = (self._held(collection).name, collection.id_of(value))
        member = (MEMBERS, collection.name)
        held = self._own[member] if member in self._own else self._engine.replica.get(*member)
        for change in collection.make_way(held):
            self._own[member] = None
            self._add(change)
        if place in self._own:
            _, _, data, _ = collection.encode_over(self._own[place], value)
        elif self._engine.elsewhere is None:
            _, _, data, _ = collection.encode_over(self._appended(place, self._engine.get(*place)), value)
        else:
            _, _, data, _ = collection.encode(value)
        self._own[place] = Entry(data, 0, 0)
        self._made.add(collection.name)
        if place in self._putters and self._putters[place][0].model is not collection.model:
            self._mixed.add(place)
        self._putters[place] = collection, collection.bare((*place, data, None), value)
        if collection.forgets:
            self._puts[len(self._changes)] = collection
        self._add(Put(*place, Raw(data)))

    def delete(self, collection: Collection[Any], id: str) -> None:
        """Delete the document, if there is one, when the transaction ends."""
        self._check_open()
        self._own[self._held(collection).name, check_id(id)] = None
        self._add(Delete(collection.name, id))

    def append(self, collection: Collection[Any], id: str, field: str, item: object) -> None:
        """Add an element to the end of a list in a document, when the transaction ends.

        Raises (at the end, where this handle has not seen the document; with `load=False` always):
            NotFoundError: there is no such document.
            InvalidArgumentError: as `Collection.append`, or the collection is of another store.
        """
        self._check_open()
        place = (self._held(collection).name, check_id(id))
        if place in self._own:
            change, _ = collection.encode_append(id, field, item, self._own[place])
            self._own[place] = _longer(self._own[place], change)
        else:
            # One that is not seen may just have been created by another handle.
            seen = self._engine.in_memory(*place)
            change, _ = collection.encode_append(id, field, item, seen)
            if seen is not None:
                _longer(seen, change)
            self._appends.setdefault(place, []).append(change)
        self._add(change)

    def get_member(self, name: str) -> JsonValue | None:
        """A member of `state.json` that is no collection, such as `metrics`."""
        self._check_open()
        entry = self._member(check_id(name))
        return None if entry is None else decode(entry.json(), name)

    def put_member(self, name: str, value: object) -> None:
        """Store a member of `state.json` that is no collection.

        Raises:
            InvalidArgumentError: the name is one of `state.json`'s own, or a collection has it.
        """
        self._check_open()
        check_id(name)
        if name in SNAPSHOT_MEMBERS or is_own_member(name) or self._is_collection(name):
            raise _taken(name)
        if self._engine.elsewhere is None and is_collection(name):
            self._without.setdefault(name, self._engine.replica.head)
        data = encode_value(value, key=name)
        self._own[MEMBERS, name] = Entry(data, 0, 0)
        self._add(Put(MEMBERS, name, Raw(data)))

    def delete_member(self, name: str) -> None:
        """Remove a member of `state.json` that is no collection.

        Raises:
            InvalidArgumentError: the name is one of `state.json`'s own.
        """
        self._check_open()
        # A state.json that another program wrote may have any name.
        if name not in [*self._engine.replica.members]:
            check_id(name)
        if is_own_member(name):
            raise InvalidArgumentError(f"{name!r} is a part of state.json itself")
        self._own[MEMBERS, name] = None
        self._add(Delete(MEMBERS, name))

    def _add(self, change: Change) -> None:
        """Note the change, under the leases that are held now: they may be given back before the transaction ends."""
        self._changes.append(change)
        for fence in FENCES.get():
            if fence.committer is self._engine.committer and fence.read not in self._fences:
                self._fences.append(fence.read)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self._check_open()
        self._ended = True
        if kind is not None:
            return
        if not self._changes:
            await self._check_reads()
            return
        if self._engine.elsewhere is not None:
            await self._complete(self._engine.elsewhere)
        for attempt in count():
            reads = [(collection, id, seq) for (collection, id), seq in self._reads.items()] + self._fences
            reads += [(collection, UNTOUCHED, seq) for collection, seq in self._without.items()]
            try:
                self.seq = await self._engine.commit(self._changes, reads)
            except ConflictError as conflict:
                if attempt == ATTEMPTS - 1 or not await self._resolve(conflict):
                    raise
                await back_off(attempt)
            else:
                return

    async def _check_reads(self) -> None:
        """That what was read was there all at once, and is still."""
        if not self._reads:
            return
        engine = self._engine
        await engine.catch_up()
        for (collection, id), version in self._reads.items():
            entry = (
                engine.get(collection, id) if collection == MEMBERS else await engine.entry(collection, id)
            )
            current = 0 if entry is None else entry.version
            if current != version:
                key = f"{collection}/{id}"
                raise ConflictError(
                    f"{key} is at version {current} now, and this transaction read version {version}; begin it again",
                    key=key,
                    base=version,
                    current=current,
                )

    async def _resolve(self, conflict: ConflictError) -> bool:
        """Put another document in place of the one that met a conflict, if its collection knows which; whether it was
        one that this transaction had read and put."""
        collection, _, id = (conflict.key or "").partition("/")
        place = (collection, id)
        known = self._putters.get(place)
        if known is None or place not in self._reads or place in self._mixed:
            return False
        mine = [at for at, change in enumerate(self._changes) if _concerns(change, place)]
        puts = [put for at in mine if isinstance(put := self._changes[at], Put)]
        if len(puts) < len(mine):
            return False
        ours = bytes(puts[-1].document)
        conflict.ours = decode(ours)
        putter, bare = known
        document, bare, version = await putter.resolve(conflict, (collection, id, ours, None), bare)
        self._putters[place] = putter, bare
        *replaced, last = mine
        self._changes[last] = Put(collection, id, Raw(document[2]))
        for at in reversed(replaced):
            del self._changes[at]
        self._reads[place] = version
        return True

    def _is_collection(self, name: str) -> bool:
        """Whether a collection of the name has documents behind the transaction. Where they are not in memory,
        `_complete` tells of those that it does not put."""
        if name in self._made and any(
            place[0] == name and entry is not None for place, entry in self._own.items()
        ):
            return True
        if self._engine.elsewhere is not None:
            return False
        documents = self._engine.replica.collections.get(name, {})
        return any(self._own.get((name, id), entry) is not None for id, entry in documents.items())

    async def _complete(self, elsewhere: Elsewhere) -> None:
        """Do what needs a look at documents that are not in memory: keep what the models do not know."""
        for change in self._changes:
            if isinstance(change, Put) and change.collection == MEMBERS and await elsewhere.tally(change.id):
                raise _taken(change.id)
        if not self._puts:
            return
        places = {
            (put.collection, put.id) for place in self._puts if isinstance(put := self._changes[place], Put)
        }
        stored = await elsewhere.read(list(places))
        _, whole = self._replayed({place: stored.get(place) for place in places})
        for number, put in whole.items():
            self._changes[number] = put

    def _lacks(self, place: tuple[str, str], collection: Collection[Any]) -> bool:
        """Whether what the transaction has put there is without what only the collection's model may know of it."""
        if self._own[place] is None or place not in self._putters:
            return False
        putter, _ = self._putters[place]
        return putter.forgets and putter.model is not collection.model

    def _replayed(self, stored: Mapping[tuple[str, str], Entry | None]) -> tuple[Stage, dict[int, Put]]:
        """What the transaction makes of the documents of these places; and its puts, by their places among its changes,
        with what their models do not know."""
        stage = Stage(self._engine.replica)
        stage.entries.update(stored)
        whole: dict[int, Put] = {}
        # As they follow each other: a put replaces what those before it made of the document.
        for number, change in enumerate(self._changes):
            if not isinstance(change, Put | Delete | Append) or (change.collection, change.id) not in stored:
                continue
            before = stage.get(change.collection, change.id)
            if isinstance(change, Put) and number in self._puts and before is not None:
                data = self._puts[number].keep(bytes(change.document), before)
                whole[number] = Put(change.collection, change.id, Raw(data))
            stage.apply(whole.get(number, change), 0, 0)
        return stage, whole

    def _member(self, name: str) -> Entry | None:
        place = (MEMBERS, name)
        return self._own[place] if place in self._own else self._seen(place, self._engine.get(*place))

    def _seen(self, place: tuple[str, str], entry: Entry | None) -> Entry | None:
        """Note what was read, and add what the transaction itself appends."""
        return self._appended(place, self._note(place, entry))

    def _note(self, place: tuple[str, str], entry: Entry | None) -> Entry | None:
        """What was read first, which has to be so at the end."""
        entry = self._found.setdefault(place, entry)
        self._reads.setdefault(place, 0 if entry is None else entry.version)
        return entry

    def _appended(self, place: tuple[str, str], entry: Entry | None) -> Entry | None:
        """The entry, with what the transaction itself appends."""
        for change in self._appends.get(place, ()):
            if entry is not None:
                entry = _longer(entry, change)
        return entry

    def _held(self, collection: Collection[T]) -> Collection[T]:
        """
        Raises:
            InvalidArgumentError: it is no collection of the transaction's store.
        """
        if not isinstance(collection, Collection):
            raise wrong_kind("the collection", "what store.collection gives", collection)
        if collection._engine is not self._engine:  # noqa: SLF001 - one package
            raise InvalidArgumentError(
                f"{collection.name} is a collection of another store; take one of the store whose transaction this is"
            )
        return collection

    def _check_open(self) -> None:
        if self._ended:
            raise ClosedError("the transaction has ended; begin another one")


def _longer(entry: Entry | None, change: Append) -> Entry:
    """
    Raises:
        NotFoundError: there is nothing to append to. InvalidArgumentError: the field holds no list.
    """
    key = f"{change.collection}/{change.id}"
    if entry is None:
        raise NotFoundError(f"{key} does not exist, so nothing can be appended to it", key=key)
    return entry.appended(key, change.field, bytes(change.value), 0, 0)


def _taken(name: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{name!r} is a part of state.json already, or a collection: take another name"
    )
