"""Encryption at rest: a wrapper over any backend and a codec over any commit log, and the keys that both use.

Every object is sealed with a data key (`sealing`, `objects`), and so is every record of the journal (`journal`). The
data keys stand in the store's own key ring (`keyring`), each wrapped by a master key that the store never holds
(`providers`). The rest of the core knows nothing of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from statepath.backend import Backend
from statepath.errors import ConfigurationError, NotFoundError
from statepath.settings import Settings

if TYPE_CHECKING:
    from statepath.encryption.keyring import Keys
    from statepath.encryption.providers import KeyProvider

RING_KEY: Final = "keyring.json"


@runtime_checkable
class Encrypted(Protocol):
    """A backend whose objects are sealed."""

    @property
    def keys(self) -> Keys: ...

    def altered(self) -> AsyncIterator[tuple[str, str]]:
        """The objects that are not what was written, and why, whatever they are."""
        ...


async def unlock(backend: Backend, settings: Settings, *, readonly: bool) -> Keys | None:
    """The keys of the store; `None`: it is a plain one, and none is configured. A new store gets a key ring if a master
    key is configured.

    Raises:
        ConfigurationError: the store is encrypted and no master key is configured (`no_key`), or the reverse
            (`not_encrypted`); the master key cannot be used (`bad_key`), or is another one (`wrong_key`); the
            store is being encrypted or decrypted (`converting`).
    """
    if not settings.encrypted:
        if await _has_ring(backend):
            raise ConfigurationError(
                f"the store at {backend.url} is encrypted, and no master key is configured: set "
                "STATE_ENCRYPTION_KEY_FILE to the file that holds it",
                key=RING_KEY,
                code="no_key",
            )
        return None
    keys = await load_keys(backend, settings)
    if keys is None:
        if (found := await _first_object(backend)) is not None:
            raise ConfigurationError(
                f"a master key is configured, and the store at {backend.url} is not encrypted: it has {found}. "
                "To encrypt it: statepath keys encrypt; to use it as it is, unset the key",
                key=found,
                code="not_encrypted",
            )
        return None if readonly else await make_keys(backend, settings)
    if keys.ring.converting:
        raise ConfigurationError(
            f"the store at {backend.url} is half converted: statepath keys {keys.ring.converting} is under way, or was "
            "interrupted; wait for it, or run it again to finish it",
            key=RING_KEY,
            code="converting",
        )
    return keys


async def load_keys(backend: Backend, settings: Settings) -> Keys | None:
    """The keys of the store, whatever state it is in; `None`: it has no key ring."""
    provider = master_key(settings)
    from statepath.encryption.keyring import Keys

    return await Keys.load(backend, provider)


async def make_keys(backend: Backend, settings: Settings, *, converting: str = "") -> Keys:
    """A new key ring for the store. `converting` names the command that makes an encrypted store of it."""
    provider = master_key(settings)
    from statepath.encryption.keyring import Keys

    return await Keys.create(backend, provider, converting=converting)


def master_key(settings: Settings) -> KeyProvider:
    """The master key that the settings name.

    Raises:
        ConfigurationError: there is none (`no_key`), it cannot be used (`bad_key`), or the library is missing
            (`not_installed`).
    """
    try:
        from statepath.encryption.providers import provider_of
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "cryptography":
            raise
        raise ConfigurationError(
            "encryption needs the package cryptography; install it with: pip install 'statepath[encryption]'",
            code="not_installed",
        ) from None
    provider = provider_of(settings)
    if provider is None:
        raise ConfigurationError(
            "no master key is configured: set STATE_ENCRYPTION_KEY_FILE to the file that holds it",
            code="no_key",
        )
    return provider


async def _has_ring(backend: Backend) -> bool:
    try:
        await backend.read(RING_KEY)
    except NotFoundError:
        return False
    return True


async def _first_object(backend: Backend) -> str | None:
    async for entry in backend.list_keys(""):
        return entry.key
    return None
