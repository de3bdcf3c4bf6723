"""Master keys: what wraps the data keys of a store, and never is in it.

One is read from a file or from the environment. Another kind is named by an entry point of the group `statepath.keys`,
which is called with the rest of `STATE_ENCRYPTION_PROVIDER` behind the colon: `my-kms:alias/agents`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from secrets import token_bytes
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from statepath.encryption import KeyProvider
from statepath.encryption.sealing import KEY_BYTES, derive
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    StateError,
    UnavailableError,
)
from statepath.installed import points_of
from statepath.masterkey import MAKE_ONE, MASTER_BYTES, check_private, parse_master_key
from statepath.settings import Settings

logger = logging.getLogger("statepath.encryption")

GROUP: Final = "statepath.keys"

_FILE: Final = "STATE_ENCRYPTION_KEY_FILE"
_VARIABLE: Final = "STATE_ENCRYPTION_KEY"
_PROVIDER: Final = "STATE_ENCRYPTION_PROVIDER"
_NONCE: Final = 12
_PATIENCE: Final = 30.0
"""Seconds that a provider has to answer."""

_TOLD: Final = (AccessDeniedError, ConfigurationError, UnavailableError)
"""What a provider may say. Of others, such as `NotFoundError`, it would be believed that they are about an object."""


class MasterKey:
    """A master key that this process holds."""

    def __init__(self, secret: bytes, source: str) -> None:
        self.name = f"key {derive(secret, b'', b'statepath master key', 4).hex()}"
        self._source = source
        self._cipher = AESGCM(derive(secret, b"", b"statepath wrapping", KEY_BYTES))

    def __repr__(self) -> str:
        return f"MasterKey({self.name!r}, {self._source!r})"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        nonce = token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, data_key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], context)
        except (InvalidTag, ValueError) as error:
            raise ConfigurationError(
                f"the data key was not wrapped by {self.name}, which {self._source} holds, or was altered",
                code="wrong_key",
            ) from error

    async def close(self) -> None:
        """There is nothing to release."""


def provider_of(settings: Settings) -> KeyProvider | None:
    """The master key that the settings name; `None`: none.

    Raises:
        ConfigurationError: there are several, or it cannot be used (`bad_key`); says why, and never what it is.
    """
    named = {
        _FILE: settings.encryption_key_file,
        _VARIABLE: settings.encryption_key,
        _PROVIDER: settings.encryption_provider,
    }
    given = [name for name, value in named.items() if value is not None]
    if len(given) > 1:
        raise _bad(f"{' and '.join(given)} are both set, and a store has one master key: unset all but one")
    if settings.encryption_key_file is not None:
        return MasterKey(read_key_file(settings.encryption_key_file), settings.encryption_key_file)
    if settings.encryption_key is not None:
        return MasterKey(parse_master_key(settings.encryption_key.get_secret_value(), _VARIABLE), _VARIABLE)
    return None if settings.encryption_provider is None else _load(settings.encryption_provider)


def read_key_file(path: str) -> bytes:
    """The master key in a file.

    Raises:
        ConfigurationError: the file is missing, empty, too short, not ours, or readable by everybody (`bad_key`).
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _bad(f"{path} is no regular file; name the file that holds the master key")
            check_private(f"the key file {path}", path, found)
            text = file.read(4096)
    except ConfigurationError:  # is a ValueError
        raise
    except FileNotFoundError:
        raise _bad(f"there is no key file {path}: check {_FILE}, or {MAKE_ONE}") from None
    except OSError as error:
        raise _bad(f"the key file {path} cannot be read: {error.strerror or type(error).__name__}") from None
    except ValueError:
        raise _unnameable(path) from None
    if not text.strip():
        raise _bad(f"the key file {path} is empty: put the master key back, or {MAKE_ONE}")
    return parse_master_key(text.decode("ascii", errors="replace"), path)


def _without_waiting(path: str, flags: int) -> int:
    """A pipe would wait for who writes to it, and a terminal must not become this program's."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def create_key_file(path: str) -> None:
    """Write a new, random master key into a new file that only its owner can read, and sync it and its name.

    Raises:
        AlreadyExistsError: there is such a file.
        ConfigurationError: it cannot be written (`bad_key`).
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise AlreadyExistsError(
            f"{path} exists already; it was left as it is: to use it, leave out --new-key; for a new master key, name "
            f"another file in {_FILE}",
            key=path,
        ) from None
    except OSError as error:
        raise _bad(f"the key file {path} cannot be made: {error.strerror}") from None
    except ValueError:
        raise _unnameable(path) from None
    try:
        with open(fd, "wb") as file:
            file.write(base64.b64encode(token_bytes(MASTER_BYTES)) + b"\n")
            file.flush()
            os.fsync(fd)
        # Its name as well: what it will have wrapped must not outlive it.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            os.unlink(path)  # a part of a key would be taken for one
        raise _bad(f"the key file {path} cannot be made: {error.strerror}") from None


def _load(text: str) -> KeyProvider:
    name, _, reference = text.partition(":")
    points = {point.value: point for point in points_of(GROUP) if point.name == name}
    if len(points) != 1:
        known = sorted({point.name for point in points_of(GROUP)})
        cause = "several installed packages claim" if points else "no installed package has"
        remedy = (
            "uninstall all but one of them"
            if points
            else f"install its package, or check the name in {_PROVIDER}"
        )
        raise _bad(f"{cause} the key provider {name!r} (installed: {', '.join(known) or 'none'}): {remedy}")
    ((target, point),) = points.items()
    try:
        provider = point.load()(reference)
    except Exception as error:
        if isinstance(error, StateError):
            raise
        raise _bad(
            f"the key provider {name!r} cannot be made by {target}: {type(error).__name__}; check what "
            f"{_PROVIDER} says behind {name}:, or reinstall its package"
        ) from None  # it may quote what the provider is told
    if not isinstance(provider, KeyProvider):
        raise _bad(
            f"{target} makes no key provider: it lacks a part of statepath.encryption.KeyProvider; update its package"
        )
    if not str(provider.name).isprintable():
        raise _bad(f"the key provider {name!r} has a name that cannot be printed: update its package")
    return _Guarded(provider, name)


class _Guarded:
    """A provider of somebody else's: what goes wrong in it is told as an error of ours."""

    def __init__(self, provider: KeyProvider, kind: str) -> None:
        self.name = f"{kind} {provider.name}"
        self._provider = provider
        self._kind = kind

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        return await self._answer(partial(self._provider.wrap, data_key, context))

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return await self._answer(partial(self._provider.unwrap, wrapped, context))

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._provider.close()
        except Exception as error:  # noqa: BLE001 - it must not keep the storage
            logger.warning("the key provider %r could not be closed: %s", self._kind, type(error).__name__)

    async def _answer(self, call: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            async with asyncio.timeout(_PATIENCE):
                return await call()
        except Exception as error:
            if isinstance(error, _TOLD):
                raise
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> UnavailableError:
        """What the error says may quote what the provider was told, so it is named alone."""
        return UnavailableError(
            f"the key provider {self._kind!r} did not answer: {type(error).__name__}; nothing was read or written: "
            "check that its service can be reached and lets this program in, then try again"
        )


def _unnameable(path: str) -> ConfigurationError:
    return _bad(f"no file can be named {path!r}: name the key file with characters that a path may have")


def _bad(message: str) -> ConfigurationError:
    return ConfigurationError(message, code="bad_key")
