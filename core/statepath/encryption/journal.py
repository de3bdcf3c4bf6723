"""The commit log of an encrypted store: a codec over any log, native or portable.

A record keeps what the log needs to be replayed (its seqs, its id and its predecessor's, times, a checksum); its
transactions are sealed, and all the rest is authenticated with them. Each handle has a salt, and so a key, of its own,
and counts its records: a torn tail that is written anew after a crash is another handle's, and meets no nonce again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import lru_cache
from secrets import token_bytes
from typing import Final, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import UNSET
from msgspec.structs import replace

from statepath.backend import CommitLog, SupportsExtend
from statepath.commit import Body, Commit, Sealed, Transaction, slot_key
from statepath.compression import pack, unpack
from statepath.encryption.keyring import Keys
from statepath.encryption.sealing import KEY_BYTES, SALT, DataKey, derive
from statepath.errors import ConfigurationError, CorruptionError, HeadMoved

_CONTEXT: Final = b"statepath journal\0"
_SMALL: Final = 256
_MOST: Final = 256 * 1024 * 1024
"""What a compressed record may hold."""

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(tuple[Transaction | Body, ...])


class RecordSealer:
    """Seals the records of one handle with one data key. `packs`: compresses their content before."""

    def __init__(self, key: DataKey, store: bytes, *, packs: bool = False) -> None:
        self.key = key
        self._packs = packs
        self._store = store
        self._salt = token_bytes(SALT)
        self._cipher = _cipher(key, store, self._salt)
        self._count = 0

    def seal(self, commit: Commit) -> Commit:
        count = self._count
        # Counted before it is used: a record that failed is never sealed with the same nonce again.
        self._count += 1
        content = _encoder.encode(commit.transactions)
        packed = self._packs and len(content) > _SMALL
        if packed:
            content = pack(content)
        bare = replace(commit, transactions=())
        data = self._cipher.encrypt(_nonce(count), content, _told(self._store, bare, packed=packed))
        return replace(bare, sealed=Sealed(self.key.id, self._salt, count, data, packed))


def open_record(commit: Commit, sealed: Sealed, key: DataKey, store: bytes) -> Commit:
    """The commit as it was before it was sealed.

    Raises:
        CorruptionError: it is not what was written.
        ConfigurationError: the library that it was compressed with is missing (`not_installed`).
    """
    bare = replace(commit, sealed=UNSET)
    told = _told(store, bare, packed=sealed.packed)
    try:
        content = _cipher(key, store, sealed.salt).decrypt(_nonce(sealed.count), sealed.data, told)
        if sealed.packed:
            content = unpack(content, _MOST)
        transactions = _decoder.decode(content)
    except ConfigurationError:  # is a ValueError
        raise
    except (InvalidTag, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise _altered(commit, "it was altered, or belongs to another place or store") from error
    if len(transactions) != commit.last - commit.first + 1:
        raise _altered(commit, "it has not as many transactions as it says")
    return replace(bare, transactions=transactions)


def _told(store: bytes, bare: Commit, *, packed: bool) -> bytes:
    """What is authenticated with the content."""
    return b"%b%d%b" % (store, packed, _encoder.encode(bare))


@lru_cache(maxsize=64)
def _cipher(key: DataKey, store: bytes, salt: bytes) -> AESGCM:
    return AESGCM(derive(key.secret, salt, _CONTEXT + store, KEY_BYTES))


def _nonce(count: int) -> bytes:
    return count.to_bytes(12, "big")


def _altered(commit: Commit, reason: str) -> CorruptionError:
    key = slot_key(commit.first)
    return CorruptionError(f"the record of seq {commit.first} cannot be opened: {reason}", key=key)


def seal_log(log: CommitLog, keys: Keys, *, packs: bool = False) -> SealedCommitLog:
    """The log with its records sealed; it takes several commits at once if the log does."""
    if isinstance(log, SupportsExtend):
        return _ExtensibleLog(log, keys, packs=packs)
    return SealedCommitLog(log, keys, packs=packs)


class SealedCommitLog:
    """The log with its records sealed.

    Parameters:
        log: keeps them.
        keys: those of the store.
        packs: whether new records are compressed before.
    """

    def __init__(self, log: CommitLog, keys: Keys, *, packs: bool = False) -> None:
        self._packs = packs
        self._log = log
        self._keys = keys
        self._sealer: RecordSealer | None = None
        self._sent: dict[str, Commit] = {}

    @property
    def inner(self) -> CommitLog:
        """The log as it is below the sealing."""
        return self._log

    async def append(self, after: int, commit: Commit) -> None:
        """As `CommitLog.append`. The same commit again is the same record again."""
        (sealed,) = await self._sealed((commit,))
        await self._settled(self._log.append(after, sealed))

    async def _sealed(self, commits: Sequence[Commit]) -> list[Commit]:
        """The records of the commits; of one that was sent last and did not arrive, the same again."""
        key = await self._keys.primary()
        if self._sealer is None or self._sealer.key.id != key.id:
            self._sealer = RecordSealer(key, self._keys.store, packs=self._packs)
        self._sent = {one.id: self._sent.get(one.id) or self._sealer.seal(one) for one in commits}
        return list(self._sent.values())

    async def _settled(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except HeadMoved as moved:
            commits = [await self._opened(one) for one in moved.commits]
            raise HeadMoved(commits, kept=moved.kept) from None
        self._sent = {}

    async def read(self, after: int) -> AsyncIterator[Commit]:
        """As `CommitLog.read`.

        Raises:
            CorruptionError: a record is not sealed, or not what was written.
        """
        async for commit in self._log.read(after):
            yield await self._opened(commit)

    async def follow(self, after: int, known: Callable[[], int] | None = None) -> AsyncIterator[Commit]:
        """As `CommitLog.follow`."""
        async for commit in self._log.follow(after, known):
            yield await self._opened(commit)

    async def trim(self, upto: int) -> None:
        await self._log.trim(upto)

    async def restart(self, after: int) -> list[str]:
        self._sent = {}
        return await self._log.restart(after)

    async def _opened(self, commit: Commit) -> Commit:
        if commit.sealed is UNSET:
            raise _altered(commit, "it is plain, and this store is encrypted: something else put it there")
        key = await self._keys.find(commit.sealed.key, slot_key(commit.first))
        return open_record(commit, commit.sealed, key, self._keys.store)


class _ExtensibleLog(SealedCommitLog):
    """Over a log that takes several commits for the price of one."""

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        """As `SupportsExtend.extend`."""
        sealed = await self._sealed(commits)
        await self._settled(cast("SupportsExtend", self.inner).extend(after, sealed))
