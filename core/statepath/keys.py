"""Keys on request: making a key ring, and looking at one that need not be opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from statepath.backend import Backend, CommitLog
from statepath.discovery import connect
from statepath.encryption import (
    Converted,
    KeyInfo,
    check_library,
    check_new,
    check_outside,
    has_ring,
    load_keys,
    make_keys,
    no_master_key,
    unlock,
)
from statepath.engine.founding import silent
from statepath.engine.opening import check_alone, commit_log
from statepath.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    NotFoundError,
)
from statepath.events import Events
from statepath.log import PortableCommitLog
from statepath.opening import open as open_store
from statepath.retry import retrying
from statepath.settings import Settings

__all__ = ["Converted", "KeyRing", "check_convertible", "decrypt", "encrypt", "init_keys", "read_keys"]

ENCRYPT: Final = "encrypt"
DECRYPT: Final = "decrypt"

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a store, the oldest first.

    Attributes:
        rotating: not everything is sealed with the last one yet.
        converting: the store is being encrypted or decrypted: the name of that command; else empty.
    """

    keys: tuple[KeyInfo, ...]
    rotating: bool
    converting: str


async def init_keys(
    path: Path | None = None, *, new_key: bool = False, settings: Settings | None = None
) -> KeyRing:
    """Make a key ring where nothing is yet, so that what comes is encrypted. Opening a store does that, too.

    Parameters:
        new_key: make a master key first, in the file that the settings name, where there is no such file yet.

    Raises:
        AlreadyExistsError: there is a key ring, or such a file.
        ConfigurationError: there is a plain store (`not_encrypted`), or the master key cannot be used, or the library
            is missing (`not_installed`).
    """
    used = settings if settings is not None else Settings.load(path)
    if not new_key and not used.encrypted:
        raise no_master_key()
    if new_key and used.encryption_key_file is None:
        raise ConfigurationError(
            "where should the new master key be? set STATE_ENCRYPTION_KEY_FILE to the file", code="no_key"
        )
    check_library()
    backend = await _connected(used.path if path is None else path, used)
    try:
        check_outside(backend, used.encryption_key_file)
        await check_new(backend)
        if new_key and used.encryption_key_file is not None:
            from statepath.encryption.providers import create_key_file

            create_key_file(used.encryption_key_file)
        keys = await unlock(backend, used, readonly=False) or await make_keys(backend, used)
        await keys.close()
    finally:
        await backend.close()
    return await read_keys(path, settings=used)


async def encrypt(
    path: Path | None = None,
    *,
    progress: Callable[[str], None] = silent,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Converted:
    """Encrypt a store in place, its backups included. End every program that uses it before. Its history begins anew;
    what was interrupted is finished by the same call.

    Raises:
        NotFoundError: there is no store. AlreadyExistsError: it is encrypted.
        ConfigurationError: the master key cannot be used.
        ConflictError, StoreLockedError: somebody wrote to the store meanwhile.
        CorruptionError: something that is sealed cannot be opened; nothing was converted.
    """
    return await _convert(path, ENCRYPT, progress, settings, events)


async def decrypt(
    path: Path | None = None,
    *,
    progress: Callable[[str], None] = silent,
    settings: Settings | None = None,
    events: Events | None = None,
) -> Converted:
    """Make a plain store of an encrypted one, in place. Otherwise as `encrypt`.

    Raises:
        NotFoundError: there is no encrypted store.
    """
    return await _convert(path, DECRYPT, progress, settings, events)


async def check_convertible(
    path: Path | None, command: Literal["encrypt", "decrypt"], *, settings: Settings | None = None
) -> None:
    """That there is something for the command to do, and a master key to do it with. Changes nothing.

    Raises: as `encrypt` and `decrypt`.
    """
    used = settings if settings is not None else Settings.load(path)
    await _begun(used.path if path is None else path, command, used)


async def _convert(
    path: Path | None,
    command: str,
    tell: Callable[[str], None],
    settings: Settings | None,
    events: Events | None,
) -> Converted:
    used = settings if settings is not None else Settings.load(path)
    state_path = used.path if path is None else path
    begun = await _begun(state_path, command, used)
    if not begun:
        tell("bringing the snapshot up to now")
        # Without a mirror: of a plain store, it would make a plain replica.
        alone = used.quiet.model_copy(update={"mirror": None})
        before = alone if command == DECRYPT else alone.plain
        async with open_store(state_path, settings=before, events=events) as store:
            await store.flush()
            await store.snapshot()
    backend = await _connected(state_path, used)
    try:
        from statepath.engine.converting import Conversion, check_readable

        check_alone(backend, f"{command} needs the store for itself")
        keys = await load_keys(backend, used)
        try:
            if not begun:
                tell("reading everything")
                await check_readable(backend, keys)
            keys = keys or await make_keys(backend, used, converting=command)
            if keys.ring.converting != command:
                await keys.converting(command)
            log = commit_log(backend, used)
            return await Conversion(backend, log, keys, used.max_document, tell).run()
        finally:
            if keys is not None:
                await keys.close()
    finally:
        await backend.close()


async def _begun(path: Path, command: str, settings: Settings) -> bool:
    """Whether an interrupted run of the command is to be finished.

    Raises: as `encrypt` and `decrypt`.
    """
    backend = await _connected(path, settings, readonly=True)
    try:
        if not await has_ring(backend):
            if command == DECRYPT:
                raise await _no_keys(backend)
            if await _is_empty(backend):
                raise NotFoundError(
                    f"there is no store at {backend.url}; a new one is encrypted from the beginning",
                    key=backend.url,
                )
            check_outside(backend, settings.encryption_key_file)
        keys = await load_keys(backend, settings)
        if keys is None:
            return False
        await keys.close()
        if keys.ring.converting not in ("", command):
            raise ConflictError(
                f"the store is half converted; finish that first: statepath keys {keys.ring.converting}"
            )
        if command == ENCRYPT and not keys.ring.converting:
            raise AlreadyExistsError(f"the store at {backend.url} is encrypted already", key=backend.url)
        return bool(keys.ring.converting)
    finally:
        await backend.close()


async def _connected(path: Path, settings: Settings, *, readonly: bool = False) -> Backend:
    """The storage as it is below the sealing, with its calls repeated."""
    backend = await connect(path, readonly=readonly, deadline=settings.deadline)
    return retrying(backend, deadline=settings.deadline)


async def _no_keys(backend: Backend) -> NotFoundError:
    if await _is_empty(backend):
        return NotFoundError(f"there is no store at {backend.url}", key=backend.url)
    return NotFoundError(f"the store at {backend.url} is not encrypted", key=backend.url)


async def _is_empty(backend: Backend) -> bool:
    async for _ in backend.list_keys(""):
        return False
    return True


async def read_keys(path: Path | None = None, *, settings: Settings | None = None) -> KeyRing:
    """The keys of a store, and how much each is needed for. Needs no master key, and works beside a running server.

    Raises:
        NotFoundError: the store is not encrypted, or not there.
        ConfigurationError: the library is missing (`not_installed`).
    """
    used = settings if settings is not None else Settings.load(path)
    backend = await _connected(used.path if path is None else path, used, readonly=True)
    try:
        if not await has_ring(backend):
            raise await _no_keys(backend)
        check_library()
        from statepath.encryption.keyring import read_ring
        from statepath.encryption.rotation import describe

        found = await read_ring(backend)
        if found is None:
            raise await _no_keys(backend)
        ring = found[0]
        log = commit_log(backend, used)
        begin = await _begin(log)
        while True:
            try:
                infos = await describe(backend, log, ring, used.history, begin)
            except CorruptionError as error:
                behind = await _begin_behind(log, error)
                if behind is None or behind <= begin:
                    raise
                begin = behind
            else:
                return KeyRing(tuple(infos), ring.rotating, ring.converting)
    finally:
        await backend.close()


async def _begin(log: CommitLog) -> int:
    """Where the journal begins: the record that a portable log has of that is sealed."""
    return await log.begin() if isinstance(log, PortableCommitLog) else 1


async def _begin_behind(log: CommitLog, error: CorruptionError) -> int | None:
    """Where the journal begins behind the commit that is missing; `None`: none is, or it ends there."""
    return await log.begin_behind(error.key or "") if isinstance(log, PortableCommitLog) else None
