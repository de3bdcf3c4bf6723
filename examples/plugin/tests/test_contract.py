"""statepath's conformance kit, run on this backend."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from statepath.testing import BackendContract
from statepath_sqlite import factory

pytestmark = pytest.mark.slow  # among the checks are some that start another program


class TestSqlite(BackendContract):
    factory = factory
    page = 200

    def state_path(self, folder: Path) -> str:
        return f"sqlite://{folder}/state.db"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        with closing(sqlite3.connect(state_path.removeprefix("sqlite://"))) as connection:
            row = connection.execute("SELECT data FROM objects WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        with closing(sqlite3.connect(state_path.removeprefix("sqlite://"))) as connection, connection:
            connection.execute("REPLACE INTO objects (key, data, modified) VALUES (?, ?, 0)", (key, data))
