"""An encrypted backend keeps the contract of the one below it."""

from base64 import b64encode
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from secrets import token_bytes
from typing import Any

import pytest
from statepath.backend import BackendFactory, CommitLog, StateURL
from statepath.encryption import make_keys
from statepath.encryption.journal import seal_log
from statepath.encryption.keyring import Keys
from statepath.encryption.objects import SealedBackend
from statepath.engine.opening import commit_log
from statepath.memory import factory as memory
from statepath.settings import Settings
from statepath.testing import BackendContract
from statepath_local import factory as local

_numbers = count()
_settings = Settings(encryption_key=b64encode(token_bytes(32)).decode())


class Encrypted(SealedBackend):
    """With its log, which is sealed apart from the objects."""

    def __init__(self, backend: Any, keys: Keys) -> None:
        super().__init__(backend, keys)
        self._log = seal_log(commit_log(backend, _settings), keys) if self.capabilities.commit_log else None

    def commit_log(self) -> CommitLog:
        return super().commit_log() if self._log is None else self._log


class EncryptedFactory:
    """Connects as another factory does, and seals."""

    def __init__(self, factory: BackendFactory) -> None:
        self._factory = factory

    def parse(self, url: StateURL) -> Any:
        return self._factory.parse(url)

    def with_env(self, config: Any, env: Mapping[str, str]) -> Any:
        return self._factory.with_env(config, env)

    async def connect(self, config: Any, *, readonly: bool = False) -> Encrypted:
        backend = await self._factory.connect(config, readonly=readonly)
        return Encrypted(backend, await _keys(backend, readonly=readonly))


async def _keys(backend: Any, *, readonly: bool) -> Keys:
    if not readonly:
        return await make_keys(backend, _settings)
    from statepath.encryption import load_keys, master_key

    return await load_keys(backend, _settings) or Keys(backend, master_key(_settings), shared=True)


class TestEncryptedMemory(BackendContract):
    factory = EncryptedFactory(memory)

    def state_path(self, folder: Path) -> str:
        return f"memory://encrypted/{folder}/{next(_numbers)}"


@pytest.mark.slow
class TestEncryptedLocal(BackendContract):
    factory = EncryptedFactory(local)

    def state_path(self, folder: Path) -> str:
        return f"file://{folder}/store"
