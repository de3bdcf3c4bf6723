"""A statepath backend that keeps stores in a PostgreSQL database: `postgresql://user@host/db?store=agents`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from statepath.backend import Parameter, StateURL

from statepath_postgres.backend import PostgresBackend
from statepath_postgres.config import PostgresConfig, complete, parse
from statepath_postgres.parameters import parameters
from statepath_postgres.schema import script

__all__ = ["PostgresBackend", "PostgresConfig", "factory"]


class PostgresFactory:
    """What the entry points `postgresql` and `postgres` name."""

    def parse(self, url: StateURL) -> PostgresConfig:
        return parse(url)

    def with_env(self, config: PostgresConfig, env: Mapping[str, str]) -> PostgresConfig:
        return complete(config, env)

    def parameters(self, url: StateURL) -> list[Parameter]:
        return parameters(url)

    def schema_sql(self) -> str:
        """The schema as a script for psql."""
        return script()

    async def connect(self, config: PostgresConfig, *, readonly: bool = False) -> PostgresBackend:
        """Connect, and as a writer bring the schema up to date and make the store where it is missing.

        Raises:
            UnavailableError: no server answers. AccessDeniedError: the password or a right is missing.
            InvalidArgumentError: there is no such database. UnsupportedError: a newer program made the schema.
        """
        backend = PostgresBackend(config, readonly=readonly)
        try:
            await backend.open()
        except BaseException:
            await backend.close()
            raise
        return backend


factory: Final = PostgresFactory()
