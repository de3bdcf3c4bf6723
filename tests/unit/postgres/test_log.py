"""A commit is sent until a server has answered, on servers that are made up."""

import asyncpg
import pytest
from statepath.backend import StateURL
from statepath.testing.commits import Writer
from statepath_postgres import factory
from statepath_postgres.connections import Connections
from statepath_postgres.log import PostgresCommitLog


class Session:
    """A connection that takes the commit, or is lost before it can say so."""

    def __init__(self, *, lost: bool = False) -> None:
        self.lost = lost

    def is_closed(self) -> bool:
        return False

    async def fetchval(self, statement: str, *arguments: object, **limits: object) -> int:
        if self.lost:
            raise ConnectionResetError("connection lost")
        return 1

    def terminate(self) -> None:
        pass


async def test_a_commit_waits_for_a_server_that_restarts_with_its_socket_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = FileNotFoundError(2, "No such file or directory")
    attempts = [Session(lost=True), gone, gone, Session()]

    async def connect(dsn: str | None, **arguments: object) -> Session:
        answer = attempts.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def store() -> int:
        return 1

    monkeypatch.setattr(asyncpg, "connect", connect)
    config = factory.parse(StateURL.parse("postgresql:///agents?host=/run/postgresql"))
    committed = []
    log = PostgresCommitLog(
        Connections(config, readonly=False),
        store,
        readonly=False,
        committed=lambda commit, size: committed.append(commit),
    )
    commit = await Writer(log).append()
    assert attempts == []
    assert committed == [commit]
    await log.close()
