"""A statepath backend that keeps a store in one SQLite file: `sqlite:///path/to/file.db`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from statepath.backend import Parameter, StateURL

from statepath_sqlite.backend import SqliteBackend
from statepath_sqlite.config import SqliteConfig, complete, parameters, parse

__all__ = ["SqliteBackend", "SqliteConfig", "factory"]


class SqliteFactory:
    """What the entry point `sqlite` names."""

    def parse(self, url: StateURL) -> SqliteConfig:
        return parse(url)

    def with_env(self, config: SqliteConfig, env: Mapping[str, str]) -> SqliteConfig:
        return complete(config, env)

    def parameters(self, url: StateURL) -> list[Parameter]:
        return parameters(url)

    async def connect(self, config: SqliteConfig, *, readonly: bool = False) -> SqliteBackend:
        backend = SqliteBackend(config, readonly=readonly)
        try:
            await backend.open()
        except BaseException:
            await backend.close()
            raise
        return backend


factory: Final = SqliteFactory()
