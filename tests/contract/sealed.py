"""A factory that seals what another one connects to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from statepath.backend import BackendFactory, CommitLog, StateURL
from statepath.encryption import load_keys, make_keys, master_key
from statepath.encryption.journal import seal_log
from statepath.encryption.keyring import Keys
from statepath.encryption.objects import SealedBackend
from statepath.engine.opening import commit_log
from statepath.settings import Settings


class Encrypted(SealedBackend):
    """With its log, which is sealed apart from the objects."""

    def __init__(self, backend: Any, keys: Keys, settings: Settings) -> None:
        super().__init__(backend, keys)
        self._log = seal_log(commit_log(backend, settings), keys) if self.capabilities.commit_log else None

    def commit_log(self) -> CommitLog:
        return super().commit_log() if self._log is None else self._log


class EncryptedFactory:
    """Connects as another factory does, and seals."""

    def __init__(self, factory: BackendFactory, key: str) -> None:
        self._factory = factory
        self._settings = Settings(encryption_key=key)

    def parse(self, url: StateURL) -> Any:
        return self._factory.parse(url)

    def with_env(self, config: Any, env: Mapping[str, str]) -> Any:
        return self._factory.with_env(config, env)

    async def connect(self, config: Any, *, readonly: bool = False) -> Encrypted:
        backend = await self._factory.connect(config, readonly=readonly)
        try:
            return Encrypted(backend, await self._keys(backend, readonly=readonly), self._settings)
        except BaseException:
            await backend.close()
            raise

    async def _keys(self, backend: Any, *, readonly: bool) -> Keys:
        if not readonly:
            return await make_keys(backend, self._settings)
        keys = await load_keys(backend, self._settings)
        return keys or Keys(backend, master_key(self._settings), shared=True)
