"""Collections: documents of one kind, as pydantic models or as plain dicts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from inspect import isawaitable
from typing import Any, Generic, TypeVar, cast

from msgspec import Raw
from pydantic import BaseModel, JsonValue, ValidationError

from statepath.arguments import check_function, faults
from statepath.attempts import ATTEMPTS, Turns, back_off
from statepath.backend import SupportsQueries
from statepath.commit import Append, Delete, Put
from statepath.engine.documents import (
    MAX_DEPTH,
    decode,
    encode_mapping,
    encode_model,
    encode_value,
)
from statepath.engine.elements import earlier_names, stored_list
from statepath.engine.engine import Engine
from statepath.engine.ids import check_id, check_version
from statepath.engine.members import make_way
from statepath.engine.pending import Document as PutDocument
from statepath.engine.replica import MEMBERS, Entry
from statepath.engine.restoring import past_document
from statepath.engine.scope import MARK, scope_of
from statepath.engine.unknown import forgets, keep_unknown
from statepath.errors import (
    AlreadyExistsError,
    ConflictError,
    HistoryTrimmedError,
    InvalidArgumentError,
    NotFoundError,
)
from statepath.filters import Filter
from statepath.merging import Clash, OnConflict, Resolve, check_policy, resolver
from statepath.query import Narrow, Query, Scan

T = TypeVar("T")
Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Document(Generic[T]):
    """A document with what the store knows of it: its id, its value, the seq that last changed it, and when."""

    id: str
    value: T
    version: int
    modified: datetime


class Collection(Generic[T]):
    """Documents of one kind in one store. Get one from `Store.collection`.

    Reads are from memory, as of the newest commit that this handle knows to be durable, and always give fresh
    objects. Every change returns the seq of its transaction once it is durable; what it may raise besides what its
    own docstring says, `Store` tells. Every id is a non-empty `str` of at most 200 bytes of UTF-8 without control
    characters, else `InvalidArgumentError`.

    Attributes:
        name: of the collection. `model`: the class of its documents, or `None` for dicts.
        id_field: the field that holds a document's id.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        model: type[T] | None,
        id_field: str,
        on_conflict: OnConflict = "raise",
        turns: Turns | None = None,
    ) -> None:
        self._engine = engine
        self._turns = Turns() if turns is None else turns
        self.on_conflict: OnConflict = check_policy(on_conflict)
        self.name = name
        self.model = model
        self.id_field = id_field
        if model is not None and id_field not in cast("type[BaseModel]", model).model_fields:
            raise InvalidArgumentError(
                f"{model.__name__} has no field {id_field!r} to hold the id; name the field with id="
            )

    @cached_property
    def _keeps_all(self) -> bool:
        """Whether a value holds all that is stored of it. Asked where there is one: then its class is complete."""
        return self.model is None or not forgets(cast("type[BaseModel]", self.model))

    async def put(self, value: T, *, if_version: int | None = None) -> int:
        """Store the document, whatever is stored under its id; its seq, when it is durable.

        With `if_version` only if that is the stored version (0: only if there is none). Stored fields that the model
        does not know are kept, unless the model allows extra fields and so holds them itself, or forbids them: with
        `if_version` those of that version, else as this handle sees them, so that those are lost that another process
        has just added.

        Raises:
            InvalidArgumentError: not one of this collection's documents, or not JSON, too deep or too large; or
                `state.json` has a member of the collection's name.
            ConflictError: another version is stored, and the collection's `on_conflict` does not resolve that;
                nothing was changed.
        """
        if if_version is not None:
            return await self._put_if(value, if_version)
        engine = self._engine
        way = self._making_way()
        document = self.encode(value) if engine.elsewhere is None else await self.encoded(value)
        committer = engine.committer
        if committer.crowded:
            await committer.room()
        if way:
            return await committer.submit((*way, _change(document)), len(document[2]))
        return await committer.put(document)

    async def _put_if(self, value: T, version: int) -> int:
        if check_version(version) > self._engine.seq and not self._keeps_all:
            await self._engine.catch_up()  # what the model does not know is kept of that version
        way = () if version else self._making_way()
        document = await self.encoded(value, new=not version)
        bare = self.bare(document, value)
        committer = self._engine.committer
        if committer.crowded:
            await committer.room()
        try:
            return await committer.submit((*way, _change(document, version)), len(document[2]))
        except ConflictError as conflict:
            met = conflict
        return await self._put_resolved(met, document, bare)

    async def create(self, value: T) -> int:
        """Store a new document; its seq, when it is durable.

        Raises:
            AlreadyExistsError: there is a document of that id; nothing was changed.
            InvalidArgumentError: as `put`.
        """
        way = self._making_way()
        document = await self.encoded(value, new=True)
        committer = self._engine.committer
        if committer.crowded:
            await committer.room()
        try:
            return await committer.submit((*way, _change(document, 0)), len(document[2]))
        except ConflictError as error:
            raise AlreadyExistsError(
                f"{error.key} exists already, at version {error.current}", key=error.key
            ) from None

    async def get(self, id: str, *, fresh: bool = False) -> T | None:
        """The document, or `None` if there is none. `fresh`: as of now, whoever changed it; else from memory.

        Raises:
            InvalidArgumentError: the stored document does not fit the model (`model_mismatch`).
        """
        if fresh:
            await self._engine.catch_up()
        entry = await self._engine.entry(self.name, check_id(id))
        return None if entry is None else self.decode(id, entry)

    async def get_document(self, id: str, *, fresh: bool = False) -> Document[T] | None:
        """The document with its version and when it was changed, or `None` if there is none. `fresh`: as `get`.

        Raises:
            InvalidArgumentError: as `get`.
        """
        if fresh:
            await self._engine.catch_up()
        entry = await self._engine.entry(self.name, check_id(id))
        return None if entry is None else self.document(id, entry)

    async def delete(self, id: str, *, if_version: int | None = None) -> bool:
        """Delete the document; whether there was one, when that is durable.

        Raises:
            ConflictError: `if_version` is given and another version is stored; nothing was changed.
        """
        base = None if if_version is None else check_version(if_version)
        change = Delete(self.name, check_id(id), base)
        return await self._engine.committer.submit((change,), 0) != 0

    async def append(self, id: str, field: str, item: object) -> int:
        """Add an element to the end of the list in a field; its seq. The cost does not depend on the list's length.

        Parameters:
            field: as the model names it; one that is missing or null becomes a list.
            item: a JSON value or a pydantic model, which the field's type must take as an element. How long the list
                may become, and validators of the whole list, are not asked.

        Raises:
            NotFoundError: there is no such document.
            InvalidArgumentError: the field holds something else than a list, or its list under an earlier name, the
                model has no such field or does not take the item in it, or the item is not JSON, too deep or too large.
        """
        held = self._engine.in_memory(self.name, check_id(id))
        change, size = self.encode_append(id, field, item, held)
        committer = self._engine.committer
        if committer.crowded:
            await committer.room()
        return await committer.submit((change,), size)

    async def update(self, id: str, fn: Callable[[T], T | None] | Callable[[T], Awaitable[T | None]]) -> T:
        """Read the document, let `fn` change it in place or return another one, and store it; what was stored.

        Parameters:
            fn: gets a fresh value, and may be a coroutine function. `None` from it means: the one it got. If someone
                else changed the document meanwhile, it is called again with the new one, one at a time of those that
                this handle repeats. What it raises ends the update, and nothing is stored.

        Raises:
            NotFoundError: there is no such document.
            ConflictError: it changed again and again, in 32 attempts.
            InvalidArgumentError: as `put`; or the id was changed.
        """
        check_function(fn, "what update calls")
        for attempt in range(ATTEMPTS):
            # The first one waits for nobody: most documents have no second writer.
            async with self._turns.turn((self.name, id)) if attempt else nullcontext():
                # Who was refused in its turn, too, has other handles beside it, which went on in the meantime.
                found = await self.get_document(id, fresh=attempt > 1)
                if found is None:
                    found = await self.get_document(id, fresh=True)
                if found is None:
                    raise NotFoundError(f"{self.name}/{id} does not exist", key=f"{self.name}/{id}")
                result = fn(found.value)
                if isawaitable(result):
                    result = await result
                value = found.value if result is None else cast("T", result)
                if self.id_of(value) != id:
                    raise InvalidArgumentError(
                        f"update of {self.name}/{id} must not change its id to {self.id_of(value)!r}",
                        key=f"{self.name}/{id}",
                    )
                document = await self.encoded(value)
                committer = self._engine.committer
                if committer.crowded:
                    await committer.room()
                try:
                    await committer.submit((_change(document, found.version),), len(document[2]))
                except ConflictError:
                    if attempt == ATTEMPTS - 1:
                        raise
                else:
                    return value
            await back_off(attempt)
        raise AssertionError

    def find(
        self,
        where: Filter | None = None,
        /,
        *,
        order_by: str | None = None,
        limit: int | None = None,
        after: str | None = None,
        **equals: Any,
    ) -> Query[T]:
        """The documents that match, as of one seq: iterate with `async for`, or use `all() first() count() page()`.

        Parameters:
            where: a filter made with `F`; `equals` are further fields that must have these values.
            order_by: fields, separated by commas, a minus sign before those in descending order. Default: the id.
            limit: the most documents to give. `after`: the cursor of an earlier page.

        Raises:
            InvalidArgumentError: a field that the model does not know.
        """
        rows = _Rows(self._engine, self.name)
        return Query(
            rows,
            self.decode,
            collection=self.name,
            narrow=rows.narrow,
            scan=rows.scan,
            model=cast("type[BaseModel] | None", self.model),
            where=where,
            order_by=order_by,
            limit=limit,
            after=after,
            equals=equals,
        )

    async def count(self) -> int:
        """How many documents there are."""
        self._engine.check_open()
        if self._engine.elsewhere is not None:
            return sum(held.documents for held in (await self._engine.elsewhere.tally(self.name)).values())
        return len(self._engine.replica.collections.get(self.name, ()))

    def __aiter__(self) -> AsyncIterator[T]:
        return self.find().__aiter__()

    # What transactions share

    def make_way(self, member: Entry | None) -> tuple[Delete, ...]:
        """As `members.make_way`."""
        return make_way(self._engine.replica, self.name, member)

    def _making_way(self) -> tuple[Delete, ...]:
        return self.make_way(self._engine.replica.get(MEMBERS, self.name))

    def bare(self, document: PutDocument, value: T) -> PutDocument:
        """The value without what its model does not know, where a conflict may ask for that; else the document."""
        if self.on_conflict == "raise" or self._keeps_all:
            return document
        return self.encode_over(None, value)

    async def _put_resolved(
        self, conflict: ConflictError, document: PutDocument, bare: PutDocument | None
    ) -> int:
        """Store what the collection makes of the conflict. Of the puts of one document that this handle repeats, one
        goes at a time: of all at once only one would get through."""
        if resolver(self.on_conflict) is None:
            raise conflict
        committer = self._engine.committer
        async with self._turns.turn((self.name, document[1], "put"), surely=True):
            for attempt in range(ATTEMPTS - 1):
                document, bare, version = await self.resolve(conflict, document, bare)
                try:
                    return await committer.submit((_change(document, version),), len(document[2]))
                except ConflictError as again:
                    conflict = again
                await back_off(attempt)
        raise conflict

    async def resolve(
        self, conflict: ConflictError, ours: PutDocument, bare: PutDocument | None
    ) -> tuple[PutDocument, PutDocument | None, int]:
        """The document to store in place of the refused one, in the same two forms, and the version that it is based
        on. The refused one is given as it was to be stored, and as `bare` gives it; `None`: a merge has made it whole.

        Raises:
            ConflictError: the collection does not resolve conflicts, or not this one.
        """
        resolve = resolver(self.on_conflict)
        if resolve is None:
            raise conflict
        id, held = ours[1], (bare or ours)[2]
        current = conflict.current or 0
        theirs = conflict.theirs if current else None
        if self.on_conflict == "last_write_wins":
            # What the model does not know of the one that is replaced is nobody's to lose.
            stored = await self._engine.entry(self.name, id) if current else None
            data = held if stored is None else self.keep(held, stored)
            return (self.name, id, data, None), bare, current
        if current and theirs is None:
            raise conflict
        before = await self._ancestor(id, conflict)
        base = None if before is None else cast("Json", decode(before.json(), f"{self.name}/{id}"))
        if not current and bare is None:
            # What an earlier resolving kept of the stored document was deleted with it.
            held = self.encode_over(None, self.decode(id, Entry(held, 0, 0)))[2]
        elif current and bare is not None and before is not None:
            # What the model does not know, ours has not changed, whatever this handle saw of it meanwhile.
            held = self.keep(held, before)
        mine = cast("Json", decode(held))
        key = f"{self.name}/{id}"

        def clashes(cause: object) -> ConflictError:
            return ConflictError(
                f"{key} cannot be merged: {cause}; read it again and repeat the change",
                key=key,
                base=conflict.base,
                current=conflict.current,
                theirs=conflict.theirs,
                ours=mine,
                ancestor=base,
            )

        try:
            merged = self._resolved(resolve, id, base, theirs, mine)
        except Clash as clash:
            raise clashes(clash) from None
        other = InvalidArgumentError(
            f"what on_conflict returned for {key} is no document of that id", key=key
        )
        if not isinstance(merged, Mapping):
            raise other
        data = encode_mapping(merged, key=key, limit=self._engine.settings.max_document)
        try:
            value: Any = self._value(id, data)
        except ValidationError as error:
            if self.on_conflict == "merge":
                # Of two documents that fit, the parts of both need not.
                raise clashes(
                    f"{error.title} does not accept what both sides make of it: {faults(error)}"
                ) from None
            raise InvalidArgumentError(
                f"{error.title} does not accept what on_conflict returned for {key}: {faults(error)}",
                key=key,
            ) from None
        # Only the model knows under which name its id is stored.
        if id != (value.get(self.id_field) if self.model is None else getattr(value, self.id_field)):
            raise other
        return (self.name, id, data, None), None, current

    def _resolved(
        self, resolve: Resolve, id: str, base: Json | None, theirs: Json | None, mine: Json
    ) -> object:
        """
        Raises:
            Clash: it is a merge, and both sides changed the same.
        """
        try:
            # First as they are stored: a model may not hold all of it, nor fill in a default twice alike.
            return resolve(base, theirs, mine)
        except Clash:
            return resolve(*self._as_ours(id, base, theirs), mine)

    def _as_ours(self, id: str, base: Json | None, theirs: Json | None) -> tuple[Json | None, Json | None]:
        """Both as the model writes them, if it reads them: what it fills in, or has another name or form for, is
        nobody's change."""

        def written(document: Json | None) -> Json | None:
            if document is None:
                return None
            stored = Entry(encode_value(document, key=f"{self.name}/{id}"), 0, 0)
            _, _, data, _ = self.encode_over(stored, self.decode(id, stored))
            return cast("Json", decode(data))

        try:
            return written(base), written(theirs)
        except InvalidArgumentError:
            return base, theirs

    async def _ancestor(self, id: str, conflict: ConflictError) -> Entry | None:
        """The document that the refused change was based on.

        Raises:
            ConflictError: the history does not reach back to it, or it never was.
        """
        if not conflict.base:
            return None
        if conflict.base > self._engine.replica.head:
            raise conflict
        try:
            entry = await past_document(self._engine, self.name, id, conflict.base)
        except HistoryTrimmedError:
            raise conflict from None
        if entry is None or entry.version != conflict.base:
            raise conflict
        return entry

    def id_of(self, value: T) -> str:
        """The document's id.

        Raises:
            InvalidArgumentError: the value is not one of this collection's documents, or its id is not an id.
        """
        model = self.model
        if model is not None:
            if type(value) is not model and not isinstance(value, model):
                raise InvalidArgumentError(f"{self.name} holds {model.__name__}, not {type(value).__name__}")
            return check_id(getattr(value, self.id_field))
        if not isinstance(value, Mapping):
            raise InvalidArgumentError(
                f"{self.name} holds JSON objects: pass a dict, not {type(value).__name__}"
            )
        try:
            return check_id(value[self.id_field])
        except KeyError:
            raise InvalidArgumentError(
                f"the document has no {self.id_field!r}, which is to be its id in {self.name}"
            ) from None

    async def encoded(self, value: T, *, new: bool = False) -> PutDocument:
        """The document as it will be stored, whether or not what it replaces is in memory. `new`: it replaces none."""
        elsewhere = self._engine.elsewhere
        if new:
            return self.encode_over(None, value)
        if elsewhere is None or self._keeps_all:
            return self.encode(value)
        return self.encode_over(await elsewhere.get(self.name, self.id_of(value)), value)

    @property
    def forgets(self) -> bool:
        """Whether `encode` cannot keep what the model does not know: `keep` has to, when it is known what is stored."""
        return self._engine.elsewhere is not None and not self._keeps_all

    def encode(self, value: T) -> PutDocument:
        """The document as it will be stored in place of the one in memory, if there is one."""
        id, engine = self.id_of(value), self._engine
        held = engine.elsewhere is None
        return self._encode(value, id, engine.replica.get(self.name, id) if held else None)

    def encode_over(self, stored: Entry | None, value: T) -> PutDocument:
        """The document as it will be stored in place of that one."""
        return self._encode(value, self.id_of(value), stored)

    def _encode(self, value: T, id: str, stored: Entry | None) -> PutDocument:
        name, model = self.name, self.model
        limit = self._engine.settings.max_document
        if model is None:
            data = encode_mapping(cast("Mapping[str, Any]", value), key=f"{name}/{id}", limit=limit)
            return name, id, data, None
        data = encode_model(cast("BaseModel", value), key=f"{name}/{id}", limit=limit)
        kept = data if stored is None or stored.complete is model else self.keep(data, stored)
        # What a subclass adds, the model does not know.
        known = type(value) is model and not scope_of(cast("type[BaseModel]", model)).duck_typed
        return name, id, kept, model if known and kept is data else None

    def keep(self, data: bytes, stored: Entry) -> bytes:
        """The encoded document, with what its model does not know of the one that it replaces."""
        if self._keeps_all or stored.complete is self.model:
            return data
        return keep_unknown(data, stored.json(), cast("type[BaseModel]", self.model))

    def encode_append(self, id: str, field: str, item: object, held: Entry | None) -> tuple[Append, int]:
        """The change that appends the item, and its size in bytes. `held`: to which document, as far as it is known."""
        _check_field(field)
        key = f"{self.name}/{check_id(id)}"
        data = encode_value(item, key=key, limit=self._engine.settings.max_document, depth=MAX_DEPTH - 2)
        if self.model is not None:
            field = stored_list(cast("type[BaseModel]", self.model), field, data, key)
            self._check_name(key, field, held)
        return Append(self.name, id, field, Raw(data)), len(data)

    def _check_name(self, key: str, field: str, held: Entry | None) -> None:
        """
        Raises:
            InvalidArgumentError: the list is there under an earlier name, and would be hidden by one under this.
        """
        earlier = earlier_names(cast("type[BaseModel]", self.model), field)
        if earlier and held is not None and field not in held.lists and (there := earlier & held.lists):
            raise InvalidArgumentError(
                f"{key} holds {field!r} under an earlier name, {', '.join(map(repr, there))}: update it once, which "
                "stores it under the present one, and append then",
                key=key,
            )

    def decode(self, id: str, entry: Entry) -> T:
        """A fresh value of a stored version.

        Raises:
            InvalidArgumentError: the stored document does not fit the model (`model_mismatch`).
        """
        try:
            return cast("T", self._value(id, entry.json()))
        except ValidationError as error:
            key = f"{self.name}/{id}"
            raise InvalidArgumentError(
                f"{key} is stored in a form that {error.title} does not accept: {faults(error)}",
                key=key,
                code="model_mismatch",
            ) from None

    def _value(self, id: str, data: bytes) -> object:
        if self.model is None:
            return decode(data, f"{self.name}/{id}")
        return cast("type[BaseModel]", self.model).model_validate_json(data)

    def document(self, id: str, entry: Entry) -> Document[T]:
        """A stored version with what the store knows of it."""
        modified = datetime.fromtimestamp(entry.modified / 1_000_000, UTC)
        return Document(id, self.decode(id, entry), entry.version, modified)


def documents(
    collection: Collection[T],
    where: Filter | None = None,
    /,
    *,
    order_by: str | None = None,
    limit: int | None = None,
) -> Query[Document[T]]:
    """As `collection.find`, but each result is a `Document`: with its id, its version, and when it was changed."""
    rows = _Rows(collection._engine, collection.name)  # noqa: SLF001 - same module
    return Query(
        rows,
        collection.document,
        collection=collection.name,
        narrow=rows.narrow,
        scan=rows.scan,
        model=cast("type[BaseModel] | None", collection.model),
        where=where,
        order_by=order_by,
        limit=limit,
    )


def _change(document: PutDocument, base: int | None = None) -> Put:
    collection, id, data, _ = document
    return Put(collection, id, Raw(data), base)


def _check_field(name: object) -> None:
    if not isinstance(name, str) or not name or not name.isprintable():
        raise InvalidArgumentError(f"{name!r} is no field name: an append needs that of the list")
    if name == MARK:
        raise InvalidArgumentError(
            f"the field {name!r} is the store's own in a document's file: take another name"
        )


class _Rows:
    """The documents of a collection at one moment, for queries."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name

    def rows(self) -> tuple[int, list[tuple[str, Entry]]]:
        self._engine.check_open()
        replica = self._engine.replica
        return replica.head, list(replica.collections.get(self._name, {}).items())

    @property
    def narrow(self) -> Narrow | None:
        """How the storage tells which documents may match, where it can."""
        backend = self._engine.backend
        if not backend.capabilities.queries or not isinstance(backend, SupportsQueries):
            return None
        return partial(backend.find, self._name)

    @property
    def scan(self) -> Scan | None:
        """How the documents are got, where they are not in memory."""
        elsewhere = self._engine.elsewhere
        return None if elsewhere is None else partial(elsewhere.scan, self._name)

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        return iter(self.rows()[1])
