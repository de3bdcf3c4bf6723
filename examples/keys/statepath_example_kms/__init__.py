"""A key provider for statepath, over the interface that key services of clouds have in common."""

from __future__ import annotations

import os
from typing import Protocol

from statepath.errors import ConfigurationError

from statepath_example_kms.fake import FakeKeyService, Refused

__all__ = ["KeyService", "KmsProvider", "provider"]

FOLDER = "EXAMPLE_KMS_FOLDER"


class KeyService(Protocol):
    """What is needed of a key service. `context` is authenticated, and has to be the same in both calls."""

    async def encrypt(self, key: str, plaintext: bytes, context: bytes) -> bytes: ...

    async def decrypt(self, key: str, ciphertext: bytes, context: bytes) -> bytes: ...

    async def close(self) -> None: ...


class KmsProvider:
    """Wraps data keys by a key that the service keeps. What the service raises, statepath tells as a provider that did
    not answer; only what the caller can act upon is translated here."""

    def __init__(self, service: KeyService, key: str) -> None:
        self.name = key
        self._service = service

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        return await self._service.encrypt(self.name, data_key, context)

    async def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        try:
            return await self._service.decrypt(self.name, wrapped, context)
        except Refused as error:
            raise ConfigurationError(
                f"the key service could not unwrap it with the key {self.name}", code="wrong_key"
            ) from error

    async def close(self) -> None:
        await self._service.close()


def provider(reference: str) -> KmsProvider:
    """What the entry point names. A provider of a real service would make its client here."""
    if not reference:
        raise ConfigurationError("name the key: STATE_ENCRYPTION_PROVIDER=example-kms:KEY", code="bad_key")
    folder = os.environ.get(FOLDER)
    if folder is None:
        raise ConfigurationError(f"{FOLDER} is to name the folder of the stand-in", code="bad_key")
    return KmsProvider(FakeKeyService(folder), reference)
