"""The key ring: the object that holds the data keys of a store, wrapped, and the keys that an open handle has of it.

The newest key is the primary, which seals what is written; the others only open what is there. The record is replaced
by compare-and-swap, and signed with the primary key.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from secrets import token_hex
from typing import Annotated, Final, TypeAlias, cast

import msgspec
from msgspec.structs import replace

from statepath.backend import IF_ABSENT, Backend, ETag, IfMatch, SupportsSharing
from statepath.clock import clock
from statepath.commit import seal, unseal
from statepath.encryption import RING_KEY, KeyProvider
from statepath.encryption.sealing import KEY_BYTES, DataKey, derive
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    StateError,
    UnsupportedError,
)

FORMAT: Final = 1

REFRESH: Final = 60.0
"""A handle that others write beside has looked at the ring within so many seconds before each write."""


# The keys are listed before anybody can tell whether the ring was forged: what a terminal would obey, or no clock can
# show, is refused as damage.
_Id: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
_Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
_Command: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A(encrypt|decrypt)?\Z")]
_Time: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1e11)]


class RingKey(msgspec.Struct, frozen=True):
    """A data key as the ring has it: wrapped, by the master key of that name. `created` is in seconds since 1970."""

    id: _Id
    wrapped: bytes
    by: _Name
    created: _Time


class _Format(msgspec.Struct, frozen=True):
    """What tells whether the rest can be read: what is damage in this format may be sound in a newer one."""

    format: int = FORMAT


class Ring(msgspec.Struct, frozen=True, kw_only=True):
    """The stored record. `keys` is ordered by age; the last one is the primary. `store` is random, and a part of
    everything that is sealed; `converting` names the command that is encrypting or decrypting the store still, and
    `rotating` says that not everything is sealed with the primary key yet."""

    format: int = FORMAT
    store: _Id
    keys: tuple[RingKey, ...]
    converting: _Command = ""
    rotating: bool = False
    version: str = ""
    mac: str = ""

    @property
    def ids(self) -> set[str]:
        return {key.id for key in self.keys}


_Change: TypeAlias = Callable[[Ring], Awaitable[Ring]]

_format_decoder: Final = msgspec.json.Decoder(_Format)
_decoder: Final = msgspec.json.Decoder(Ring)
_encoder: Final = msgspec.json.Encoder()


async def read_ring(backend: Backend) -> tuple[Ring, ETag] | None:
    """The stored ring; `None`: the store is not encrypted.

    Raises:
        CorruptionError: it is damaged. UnsupportedError: a newer program wrote it (`newer_format`).
    """
    try:
        blob = await backend.read(RING_KEY)
    except NotFoundError:
        return None
    try:
        record = unseal(blob.data, "key ring")
        found = _format_decoder.decode(record).format
        if found > FORMAT:
            raise UnsupportedError(
                f"{RING_KEY} is of format {found}: install a newer statepath",
                key=RING_KEY,
                code="newer_format",
            )
        ring = _decoder.decode(record)
    except (CorruptionError, msgspec.MsgspecError) as error:
        raise _damaged(str(error)) from error
    if not blob.data.endswith(b"\n"):
        raise _damaged("it was cut")
    if not ring.keys:
        raise _damaged("it has no keys")
    return ring, blob.etag


def _damaged(reason: str) -> CorruptionError:
    return CorruptionError(
        f"{RING_KEY} is damaged, and nothing can be read without it: {reason}; put the newest copy of it back",
        key=RING_KEY,
    )


def _is_shared(backend: Backend) -> bool:
    return not backend.capabilities.exclusive or backend.capabilities.sharing


class Keys:
    """The keys of one store, in one handle.

    Parameters:
        shared: others may replace the ring meanwhile.

    Attributes:
        exchanging: is held by whoever rotates or retires keys: one at a time.
    """

    def __init__(self, backend: Backend, provider: KeyProvider, *, shared: bool) -> None:
        self._backend = backend
        self._provider = provider
        self._next: KeyProvider | None = None
        """The master key of an exchange of which it is not known whether it has taken place, or is still to."""
        self.shared = shared
        self._known: dict[str, DataKey] = {}
        self._reading = asyncio.Lock()
        self.exchanging = asyncio.Lock()
        self._seen = 0.0
        self._etag: ETag | None = None
        self.ring = Ring(store="", keys=())
        self.store = b""

    def __repr__(self) -> str:
        return f"Keys({self.ring.store!r}, {[key.id for key in self.ring.keys]})"

    @classmethod
    async def load(cls, backend: Backend, provider: KeyProvider) -> Keys | None:
        """The keys of the store; `None`: it is not encrypted.

        Raises:
            ConfigurationError: another master key wrapped them (`wrong_key`).
            CorruptionError: the ring is damaged. UnavailableError: the provider does not answer.
        """
        keys = cls(backend, provider, shared=_is_shared(backend))
        return keys if await keys._read() else None

    @classmethod
    async def create(cls, backend: Backend, provider: KeyProvider, *, converting: str = "") -> Keys:
        """Make a ring with one new key where there is none, or take the one that another handle made just now."""
        keys = cls(backend, provider, shared=_is_shared(backend))
        ring = Ring(store=token_hex(16), keys=(), converting=converting)
        try:
            await keys._write(await keys._with_new_key(ring))
        except AlreadyExistsError:
            await keys._read()
        return keys

    async def primary(self) -> DataKey:
        """The key that seals what is written now."""
        if self.shared and clock() - self._seen > REFRESH:
            await self.refresh()
        return self.newest

    @property
    def newest(self) -> DataKey:
        """The primary key as it was known last."""
        return self._known[self.ring.keys[-1].id]

    async def has_others(self) -> bool:
        """Whether others may write with the keys that they know now."""
        if not self._backend.capabilities.sharing:
            return self.shared
        return not await cast("SupportsSharing", self._backend).is_alone()

    def known(self, id: str) -> DataKey | None:
        """The key of that id, if this handle has met it."""
        return self._known.get(id)

    async def find(self, id: str, where: str) -> DataKey:
        """The key of that id. `where` names what it is needed for.

        Raises:
            CorruptionError: the ring has no such key.
        """
        if id not in self._known:
            await self.refresh()
        try:
            return self._known[id]
        except KeyError:
            raise CorruptionError(
                f"{where} was sealed with the key {id[:8]}…, which {RING_KEY} does not have: it was altered, "
                "the key was retired, or an older ring was put back",
                key=where,
            ) from None

    async def refresh(self) -> None:
        """Look at the ring again."""
        async with self._reading:
            if not await self._read():
                raise self._missing()

    def check_whole(self) -> None:
        """
        Raises:
            ConfigurationError: the store is being encrypted or decrypted (`converting`).
        """
        if self.ring.converting:
            raise ConfigurationError(
                f"the store at {self._backend.url} is half converted: statepath keys {self.ring.converting} is under "
                "way, or was interrupted; wait for it, or run it again to finish it",
                key=RING_KEY,
                code="converting",
            )

    async def check_ours(self) -> None:
        """That these are the store's keys still: else what they do not open may be sound.

        Raises:
            CorruptionError: the ring is missing, or damaged. ConfigurationError: as `check_whole`.
        """
        await self.refresh()
        self.check_whole()

    def wrapped_by(self, provider: KeyProvider) -> bool:
        """Whether that master key wraps all keys."""
        return all(key.by == provider.name for key in self.ring.keys)

    async def rotate(self) -> None:
        """Add a new primary key.

        Raises:
            ConflictError: someone else replaced the ring at the same time.
        """

        async def begun(ring: Ring) -> Ring:
            return replace(await self._with_new_key(ring), rotating=True)

        await self._replace(begun)

    async def rotated(self, id: str) -> None:
        """Everything is sealed with the key of that id. If somebody has made another one meanwhile, that rotation is
        not finished by this."""

        async def finished(ring: Ring) -> Ring:
            return replace(ring, rotating=ring.rotating and ring.keys[-1].id != id)

        await self._replace(finished)

    async def remove(self, ids: Sequence[str]) -> None:
        """Forget keys. What they sealed can be opened no more, by anybody."""
        gone = set(ids) - {self.ring.keys[-1].id}

        async def without(ring: Ring) -> Ring:
            return replace(ring, keys=tuple(key for key in ring.keys if key.id not in gone))

        await self._replace(without)
        for id in gone:
            self._known.pop(id, None)

    async def rewrap(self, provider: KeyProvider) -> None:
        """Have all keys wrapped by another master key, and a new primary, which the former one never saw. If an earlier
        call had that done and did not learn of it, there is nothing left to do but to use that master key: until then
        it only unwraps what the former one cannot."""

        async def by_another(ring: Ring) -> Ring:
            keys = [await self._wrapped(self._known[key.id], key.created) for key in ring.keys]
            return replace(await self._with_new_key(replace(ring, keys=tuple(keys))), rotating=True)

        await self.refresh()  # what others added meanwhile the former one has to unwrap
        former, self._provider = self._provider, provider
        try:
            if not self.wrapped_by(provider):
                await self._replace(by_another)
        except BaseException:
            self._provider = former
            await self._expect(provider)
            raise
        await self._expect(None)
        await former.close()

    async def _expect(self, provider: KeyProvider | None) -> None:
        given_up, self._next = self._next, provider
        if given_up is not None:
            await given_up.close()

    async def converting(self, command: str) -> None:
        """Note that the command converts the store; empty: that it is encrypted, all of it."""

        async def noted(ring: Ring) -> Ring:
            return replace(ring, converting=command)

        await self._replace(noted)

    async def destroy(self) -> None:
        """Remove the ring: nothing is sealed any more."""
        await self.refresh()
        assert self._etag is not None  # noqa: S101 - it was read
        await self._backend.delete(RING_KEY, when=IfMatch(self._etag))

    async def close(self) -> None:
        try:
            await self._expect(None)
        finally:
            await self._provider.close()

    async def _replace(self, change: _Change) -> None:
        async with self._reading:
            if not await self._read():
                raise self._missing()
            await self._write(await change(self.ring))

    def _missing(self) -> CorruptionError:
        return CorruptionError(
            f"{RING_KEY} is missing: {self._backend.url} was decrypted or deleted meanwhile, or the file is lost; open "
            "the store again without the master key, or put the newest copy of the file back",
            key=RING_KEY,
        )

    async def _read(self) -> bool:
        begun = clock()
        found = await read_ring(self._backend)
        if found is None:
            return False
        ring, etag = found
        known = self._known.copy()
        for key in ring.keys:
            if key.id not in known:
                known[key.id] = await self._unwrapped(ring, key, self._wrapper(key))
        if not hmac.compare_digest(ring.mac.encode(), _mac(ring, known[ring.keys[-1].id]).encode()):
            raise _damaged("it was not signed with its own primary key")
        if self.ring.store not in ("", ring.store):
            raise _damaged("it is another store's")
        if self.ring.keys and _is_older(ring, self.ring):
            raise _damaged("it is an older copy, without the key that was the primary here")
        self._take(ring, etag, known, begun)
        return True

    async def _write(self, ring: Ring) -> None:
        begun = clock()
        for key in ring.keys:
            if key.by != self._provider.name:
                await self._unwrapped(
                    ring, key, self._provider
                )  # no ring is written that no master key opens as a whole
        ring = replace(ring, version=token_hex(8))
        ring = replace(ring, mac=_mac(ring, self._known[ring.keys[-1].id]))
        when = IF_ABSENT if self._etag is None else IfMatch(self._etag)
        try:
            etag = await self._backend.write(RING_KEY, bytes(seal(ring)), when=when)
        except ConflictError as error:
            raise ConflictError("the key ring was changed by someone else meanwhile; try again") from error
        self._take(ring, etag, self._known, begun)

    def _take(self, ring: Ring, etag: ETag, known: dict[str, DataKey], seen: float) -> None:
        self.ring, self._etag, self._seen = ring, etag, seen
        self.store = bytes.fromhex(ring.store)
        self._known = {key.id: known[key.id] for key in ring.keys}

    async def _with_new_key(self, ring: Ring) -> Ring:
        key = DataKey.new()
        self._known[key.id] = key
        wrapped = await self._wrapped(key, time.time(), ring.store)
        return replace(ring, keys=(*ring.keys, wrapped))

    async def _wrapped(self, key: DataKey, created: float, store: str = "") -> RingKey:
        context = _context(store or self.ring.store, key.id)
        wrapped: object = await self._provider.wrap(key.secret, context)
        if not isinstance(wrapped, bytes):
            raise _unfit(self._provider, f"wraps a data key as {type(wrapped).__name__}, and not as bytes")
        if not await _is_unwrapped(self._provider, wrapped, context, key.secret):
            raise _unfit(self._provider, "does not unwrap what it has wrapped itself")
        return RingKey(key.id, wrapped, self._provider.name, created)

    def _wrapper(self, key: RingKey) -> KeyProvider:
        """The master key that the key is to be unwrapped with."""
        if self._next is not None and key.by == self._next.name:
            return self._next
        return self._provider

    async def _unwrapped(self, ring: Ring, key: RingKey, provider: KeyProvider) -> DataKey:
        try:
            secret = await _secret(provider, key.wrapped, _context(ring.store, key.id))
        except StateError as error:
            if error.code != "wrong_key":
                raise
            if key.by == provider.name:
                raise _damaged("a wrapped key was altered") from error
            raise ConfigurationError(
                f"this is the wrong key: the store at {self._backend.url} is encrypted with {key.by}, and "
                f"{provider.name} was given; set the one that it was encrypted with",
                key=RING_KEY,
                code="wrong_key",
            ) from error
        return DataKey(key.id, secret)


def _is_older(ring: Ring, known: Ring) -> bool:
    """Whether the ring is a copy of before the known one. What is not the primary any more may have been retired."""
    primary, ours = ring.keys[-1], known.keys[-1]
    return primary.id in known.ids - {ours.id} or (ours.id not in ring.ids and primary.created < ours.created)


async def _is_unwrapped(provider: KeyProvider, wrapped: bytes, context: bytes, secret: bytes) -> bool:
    try:
        return await _secret(provider, wrapped, context) == secret
    except ConfigurationError as error:
        if error.code != "wrong_key":
            raise
        return False


async def _secret(provider: KeyProvider, wrapped: bytes, context: bytes) -> bytes:
    secret: object = await provider.unwrap(wrapped, context)
    if not isinstance(secret, bytes) or len(secret) != KEY_BYTES:
        raise _unfit(provider, f"unwraps something other than a data key, which is {KEY_BYTES} bytes")
    return secret


def _unfit(provider: KeyProvider, fault: str) -> ConfigurationError:
    return ConfigurationError(
        f"the key provider {provider.name!r} cannot be used: it {fault}; nothing was written: update its package",
        code="bad_key",
    )


def _context(store: str, id: str) -> bytes:
    return f"statepath data key {store} {id}".encode()


def _mac(ring: Ring, key: DataKey) -> str:
    secret = derive(key.secret, bytes.fromhex(ring.store), b"statepath key ring", KEY_BYTES)
    return hmac.new(secret, _encoder.encode(replace(ring, mac="")), sha256).hexdigest()
