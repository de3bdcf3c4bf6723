"""A commit is sent until a server has answered, on servers that are made up."""

from typing import Any

import asyncpg
import pytest
from statepath.backend import Commit, StateURL
from statepath.errors import DivergedError, UnavailableError
from statepath.testing.commits import Writer
from statepath_postgres import factory
from statepath_postgres.connections import Connections
from statepath_postgres.log import PostgresCommitLog


def ignored(commit: Commit, size: int) -> None:
    pass


class Session:
    """A connection that takes the commit, or is lost before it can say so."""

    def __init__(self, *, lost: bool = False) -> None:
        self.lost = lost

    def is_closed(self) -> bool:
        return False

    def add_log_listener(self, hear: object) -> None:
        pass

    async def fetchval(self, statement: str, *arguments: object, **limits: object) -> tuple[bool, float]:
        if self.lost:
            raise ConnectionResetError("connection lost")
        return False, 0.0

    def terminate(self) -> None:
        pass


class Crowded(Session):
    """A connection to a server that has no room to announce the commit."""

    async def fetchval(self, statement: str, *arguments: object, **limits: object) -> tuple[bool, float]:
        full = asyncpg.exceptions.ProgramLimitExceededError("too many notifications in the NOTIFY queue")
        full.server_source_function = "PreCommit_Notify"  # type: ignore[attr-defined]
        raise full


async def test_a_commit_that_was_not_announced_is_not_open_where_the_server_has_gone_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = [Crowded()]

    async def connect(dsn: str | None, **arguments: object) -> Session:
        if not attempts:
            raise ConnectionRefusedError("the server is gone")
        return attempts.pop()

    async def store() -> int:
        return 1

    monkeypatch.setattr(asyncpg, "connect", connect)
    connections = Connections(factory.parse(StateURL.parse("postgresql://db/agents")), readonly=False)
    connections.deadline = 0.1
    log = PostgresCommitLog(connections, store, readonly=False, committed=ignored, met=ignored)
    with pytest.raises(UnavailableError):
        await Writer(log).append()
    attempts.append(Session())
    await Writer(log).append()
    await log.close()


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
        met=ignored,
    )
    commit = await Writer(log).append()
    assert attempts == []
    assert committed == [commit]
    await log.close()


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What each look at a log finds, one after another."""
    looks: list[list[Any]] = []

    async def fetch(self: Connections, *arguments: object, **limits: object) -> list[Any]:
        return looks.pop(0)

    monkeypatch.setattr(Connections, "fetch", fetch)
    monkeypatch.setattr("statepath_postgres.log._PAUSE", 0)
    return looks


async def following(*, readonly: bool) -> list[Any]:
    async def store() -> int:
        return 1

    config = factory.parse(StateURL.parse("postgresql://one,two/agents"))
    connections = Connections(config, readonly=readonly)
    log = PostgresCommitLog(connections, store, readonly=readonly, committed=ignored, met=ignored)
    return [commit async for commit in log.read(5)]


async def test_a_reader_whose_next_server_has_not_come_to_the_store_yet_looks_again(
    looks: list[list[Any]],
) -> None:
    looks += [[], [{"head": 5, "tip": "c5", "floor": 1, "first": None}]]
    assert await following(readonly=True) == []
    assert looks == []


async def test_a_reader_that_finds_no_store_twice_is_told(looks: list[list[Any]]) -> None:
    looks += [[], []]
    with pytest.raises(DivergedError, match="was deleted"):
        await following(readonly=True)


async def test_a_writer_that_finds_no_store_is_told_at_once(looks: list[list[Any]]) -> None:
    looks += [[]]
    with pytest.raises(DivergedError, match="was deleted"):
        await following(readonly=False)
