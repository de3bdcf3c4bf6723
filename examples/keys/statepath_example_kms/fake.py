"""A STAND-IN for a key service: its keys lie in a folder. For tests and for trying out, and for nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_bytes

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12


class Refused(Exception):  # noqa: N818 - as key services call it
    """The ciphertext is not of this key and context."""


class FakeKeyService:
    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def create(self, key: str) -> None:
        """Make a key of that name, which must not exist."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(self._folder / key, "xb") as file:
            file.write(token_bytes(32))

    async def encrypt(self, key: str, plaintext: bytes, context: bytes) -> bytes:
        nonce = token_bytes(_NONCE)
        return nonce + (await self._cipher(key)).encrypt(nonce, plaintext, context)

    async def decrypt(self, key: str, ciphertext: bytes, context: bytes) -> bytes:
        try:
            return (await self._cipher(key)).decrypt(ciphertext[:_NONCE], ciphertext[_NONCE:], context)
        except InvalidTag as error:
            raise Refused(key) from error

    async def close(self) -> None:
        """There is no connection."""

    async def _cipher(self, key: str) -> AESGCM:
        return AESGCM(await asyncio.to_thread((self._folder / key).read_bytes))
