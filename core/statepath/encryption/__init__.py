"""Encryption at rest: a wrapper over any backend and a codec over any commit log, and the keys that both use.

Every object is sealed with a data key (`sealing`, `objects`), and so is every record of the journal (`journal`). The
data keys stand in the store's own key ring (`keyring`), each wrapped by a master key that the store never holds
(`providers`). The rest of the core knows nothing of it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable

from statepath.backend import Backend, CommitLog, ETag, IfMatch, Span
from statepath.commit import FLOOR_KEY, PROBES
from statepath.compression import check_installed
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    StateError,
)
from statepath.settings import Settings

if TYPE_CHECKING:
    from statepath.encryption.keyring import Keys

T = TypeVar("T")

RING_KEY: Final = "keyring.json"

SEALED: Final = b"\x93STPEN"
"""So begins every sealed object, and nothing else that a store has."""


@runtime_checkable
class KeyProvider(Protocol):
    """Wraps and unwraps data keys. `name` tells which master key that is, for people: it is printable, stored beside
    what was wrapped, and no secret. `context` has to be the same in both calls, and is no secret either.

    Errors are `AccessDeniedError`, where the key may not be used, `ConfigurationError`, where it is not set up right,
    and `UnavailableError`, where its keeper does not answer. Whatever else is raised becomes the latter. What is
    wrapped is unwrapped once before it is stored.
    """

    name: str

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        """The data key, wrapped."""
        ...

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The data key.

        Raises:
            ConfigurationError: it was wrapped by another master key, or altered (`wrong_key`).
        """
        ...

    async def close(self) -> None:
        """Release what it holds. May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """A data key of a store.

    Attributes:
        primary: it seals what is written; the others only open what is there.
        created: in seconds since 1970.
        wrapped_by: the name of the master key.
        objects: how many stored objects are sealed with it, and records how many commits in the journal.
        until: when the newest of these commits is old enough to be trimmed (`STATE_HISTORY`), in seconds since 1970;
            `None`: there is none.
    """

    id: str
    primary: bool
    created: float
    wrapped_by: str
    objects: int
    records: int
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Rotated:
    """A rotation: the primary key, how many objects were sealed anew with it, and those that could not be opened."""

    key: str
    resealed: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Retired:
    """The keys that were forgotten, and why others were not."""

    keys: tuple[str, ...]
    kept: dict[str, str]


@dataclass(frozen=True, slots=True)
class Converted:
    """A store that was converted: the seq that it shows, and how many objects were replaced. Its history begins there;
    its backups went with it. `left` are the keys of what is not the store's, and was left as it is."""

    seq: int
    objects: int
    left: tuple[str, ...] = ()


@runtime_checkable
class Encrypted(Protocol):
    """A backend whose objects are sealed. `inner` is the one that keeps them."""

    @property
    def inner(self) -> Backend: ...

    @property
    def keys(self) -> Keys: ...

    async def look(self, key: str) -> tuple[bytes | None, ETag]:
        """As the function `look`."""
        ...

    async def check_keys(self) -> None:
        """As the function `check_keys`."""
        ...

    def seal_log(self, log: CommitLog) -> CommitLog:
        """The log with its records sealed as the objects are."""
        ...

    def seal_beside(self, chunks: Iterable[bytes]) -> Iterable[bytes]:
        """The chunks of a snapshot as they would be stored, for a place that is not the storage."""
        ...

    def altered(self) -> AsyncIterator[tuple[str, StateError]]:
        """The objects that are not what was written, or cannot be read, and why, whatever they are."""
        ...


@runtime_checkable
class _SealedLog(Protocol):
    @property
    def inner(self) -> CommitLog: ...


def unsealed(log: CommitLog) -> CommitLog:
    """The log that keeps the records, sealed or not."""
    return log.inner if isinstance(log, _SealedLog) else log


def storage_of(backend: Backend) -> Backend:
    """The backend that keeps the objects, sealed or not: it has the version even of one that cannot be opened."""
    return backend.inner if isinstance(backend, Encrypted) else backend


async def look(backend: Backend, key: str) -> tuple[bytes | None, ETag]:
    """What stands under the key, for who may replace it, and its version. `None`: in an encrypted store, it is not
    what was sealed there, or not sealed at all.

    Raises:
        NotFoundError: nothing does.
        CorruptionError, ConfigurationError: as `check_keys`: what stands there may be sound.
    """
    if isinstance(backend, Encrypted):
        return await backend.look(key)
    blob = await backend.read(key)
    return blob.data, blob.etag


async def check_keys(backend: Backend) -> None:
    """That the keys are the store's, where it is encrypted: else what they do not open may be sound.

    Raises:
        CorruptionError: the key ring is missing, or damaged, or an older copy of it was put back.
        ConfigurationError: the store is being encrypted or decrypted (`converting`).
    """
    if isinstance(backend, Encrypted):
        await backend.check_keys()


async def unlock(backend: Backend, settings: Settings, *, readonly: bool) -> Keys | None:
    """The keys of the store; `None`: it is a plain one, and none is configured. A new store gets a key ring if a master
    key is configured.

    Raises:
        ConfigurationError: the store is encrypted and no master key is configured (`no_key`), or the reverse
            (`not_encrypted`); the master key cannot be used (`bad_key`), or is another one (`wrong_key`); the
            store is being encrypted or decrypted (`converting`).
    """
    if not settings.encrypted:
        if await has_ring(backend):
            raise _no_key(backend)
        return None
    return await _with_master(settings, partial(_unlocked, backend, settings.encryption_key_file, readonly))


async def _unlocked(backend: Backend, file: str | None, readonly: bool, provider: KeyProvider) -> Keys | None:
    from statepath.encryption.keyring import Keys

    keys = await Keys.load(backend, provider)
    if keys is None:
        check_outside(backend, file)
    if keys is None and (found := await _first_object(backend)) is not None:
        # Another process may have founded the store since the ring was looked for.
        keys = await Keys.load(backend, provider)
        if keys is None:
            await _check_plain(backend, found)
            raise _not_encrypted(backend, found)
    if keys is None:
        if readonly:
            return None
        keys = await Keys.create(backend, provider)
        await _check_still_new(backend, keys)
        return keys
    keys.check_whole()
    return keys


async def check_new(backend: Backend) -> None:
    """That nothing is there yet.

    Raises:
        AlreadyExistsError: an encrypted store is. ConfigurationError: a plain one is (`not_encrypted`).
    """
    if await has_ring(backend):
        raise AlreadyExistsError(f"the store at {backend.url} is encrypted already", key=backend.url)
    if (found := await _first_object(backend)) is not None:
        await _check_plain(backend, found)
        raise _not_encrypted(backend, found)


def check_outside(backend: Backend, file: str | None) -> None:
    """
    Raises:
        ConfigurationError: the file of the master key lies in the folder that is the store (`bad_key`).
    """
    folder = backend.url
    if file is not None and os.path.isabs(folder) and _lies_within(os.path.realpath(folder), file):
        raise ConfigurationError(
            f"the key file {file} would lie within the store at {backend.url}, and whoever has it would have its key: "
            "name a file elsewhere",
            code="bad_key",
        )


def _lies_within(folder: str, file: str) -> bool:
    try:
        return os.path.commonpath((folder, os.path.realpath(file))) == folder
    except ValueError:  # on another drive, or of a name that no file can have: whoever opens it says so
        return False


async def check_founded_plain(backend: Backend, founded: ETag) -> None:
    """That nobody has made a key ring for a store that was founded without one just now. Who makes a ring looks for the
    log's own record behind that, as this looks for the ring behind the record: one of the two finds the other.

    Raises:
        ConfigurationError: somebody has (`no_key`); the record, which is of the version `founded`, is removed again.
    """
    if not isinstance(backend, Encrypted) and await has_ring(backend):
        with suppress(ConflictError):
            await backend.delete(FLOOR_KEY, when=IfMatch(founded))
        raise _no_key(backend)


async def _check_still_new(backend: Backend, keys: Keys) -> None:
    from statepath.encryption.sealing import HEADER, key_of

    with suppress(NotFoundError):
        if key_of((await backend.read(FLOOR_KEY, span=Span(0, HEADER))).data) is None:
            await keys.destroy()
            raise _not_encrypted(backend, FLOOR_KEY)


def _no_key(backend: Backend) -> ConfigurationError:
    return ConfigurationError(
        f"the store at {backend.url} is encrypted, and no master key is configured: set STATE_ENCRYPTION_KEY_FILE to "
        "the file that holds it",
        key=RING_KEY,
        code="no_key",
    )


def _not_encrypted(backend: Backend, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"a master key is configured, and the store at {backend.url} is not encrypted: it has {found}. To encrypt it: "
        "statepath keys encrypt; to use it as it is, unset the key",
        key=found,
        code="not_encrypted",
    )


async def load_keys(backend: Backend, settings: Settings) -> Keys | None:
    """The keys of the store, whatever state it is in; `None`: it has no key ring."""

    async def load(provider: KeyProvider) -> Keys | None:
        from statepath.encryption.keyring import Keys

        return await Keys.load(backend, provider)

    return await _with_master(settings, load)


async def make_keys(backend: Backend, settings: Settings, *, converting: str = "") -> Keys:
    """A new key ring for the store. `converting` names the command that makes an encrypted store of it."""
    check_outside(backend, settings.encryption_key_file)

    async def make(provider: KeyProvider) -> Keys:
        from statepath.encryption.keyring import Keys

        return await Keys.create(backend, provider, converting=converting)

    return await _with_master(settings, make)


async def _with_master(settings: Settings, call: Callable[[KeyProvider], Awaitable[T]]) -> T:
    """What the call makes of the master key, which is closed with that; where it makes nothing, here."""
    provider = master_key(settings)
    try:
        made = await call(provider)
    except BaseException:
        await provider.close()
        raise
    if made is None:
        await provider.close()
    return made


def master_key(settings: Settings) -> KeyProvider:
    """The master key that the settings name.

    Raises:
        ConfigurationError: there is none (`no_key`), it cannot be used (`bad_key`), or the library is missing
            (`not_installed`).
    """
    check_library()
    from statepath.encryption.providers import provider_of

    if settings.compression is not None:
        check_installed()
    provider = provider_of(settings)
    if provider is None:
        raise no_master_key()
    return provider


def check_library() -> None:
    """That what seals and opens can be loaded, for whoever has no master key yet, or needs none.

    Raises:
        ConfigurationError: the library is missing (`not_installed`).
    """
    try:
        import statepath.encryption.sealing  # noqa: F401 - the others need no more
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise ConfigurationError(
            "encryption needs the package cryptography; install it with: pip install 'statepath[encryption]'",
            code="not_installed",
        ) from None


def no_master_key() -> ConfigurationError:
    """What needs one has none (`no_key`)."""
    return ConfigurationError(
        "no master key is configured: set STATE_ENCRYPTION_KEY_FILE to the file that holds it", code="no_key"
    )


async def has_ring(backend: Backend) -> bool:
    """Whether the store is encrypted. Needs no master key."""
    try:
        await backend.read(RING_KEY)
    except NotFoundError:
        return False
    return True


async def _check_plain(backend: Backend, found: str) -> None:
    from statepath.encryption.sealing import HEADER, key_of

    # A person's note may come first.
    for key in (found, FLOOR_KEY, "state.json"):
        with suppress(NotFoundError):
            if key_of((await backend.read(key, span=Span(0, HEADER))).data) is not None:
                raise CorruptionError(
                    f"{RING_KEY} is missing, and without it nothing at {backend.url} can be read: put the newest copy "
                    "back",
                    key=RING_KEY,
                )


async def _first_object(backend: Backend) -> str | None:
    async for entry in backend.list_keys(""):
        if not entry.key.startswith(PROBES):
            return entry.key
    return None
