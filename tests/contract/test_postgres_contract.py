"""The PostgreSQL backend keeps the contract."""

from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from servers.postgres import PostgresServer
from statepath.testing import BackendContract
from statepath_postgres import factory


class TestPostgres(BackendContract):
    factory = factory
    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _set_server(self, postgres: PostgresServer) -> None:
        self.server = postgres

    def state_path(self, folder: Path) -> str:
        return self.server.url(store=uuid4().hex)

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        query = """
            SELECT o.data FROM statepath.objects o JOIN statepath.stores s ON s.id = o.store
            WHERE s.name = $1 AND o.key = $2
        """
        connection = await asyncpg.connect(self.server.url())
        try:
            data: bytes | None = await connection.fetchval(query, state_path.partition("store=")[2], key)
        finally:
            await connection.close()
        return data

    async def raw_damage(self, state_path: str, first: int) -> bool:
        statement = """
            UPDATE statepath.log SET record = set_byte(record, 40, get_byte(record, 40) # 1)
            WHERE first = $2 AND store = (SELECT id FROM statepath.stores WHERE name = $1)
        """
        connection = await asyncpg.connect(self.server.url())
        try:
            return bool(
                await connection.execute(statement, state_path.partition("store=")[2], first) == "UPDATE 1"
            )
        finally:
            await connection.close()
