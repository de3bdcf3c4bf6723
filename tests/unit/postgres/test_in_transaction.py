"""A transaction ends with its connection, where a server does not let it end otherwise."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from crowd.simulation import in_no_time
from statepath_postgres.connections import in_transaction


class Connection:
    """A stand-in for one of asyncpg's, with what a roll-back does; notes what became of the transaction."""

    def __init__(self, rollback: Any = None) -> None:
        self.told: list[str] = []
        self._rollback = rollback

    def transaction(self, **options: Any) -> Any:
        async def rollback() -> None:
            self.told.append("rollback")
            if self._rollback is not None:
                await self._rollback()

        return SimpleNamespace(start=self._note("start"), commit=self._note("commit"), rollback=rollback)

    def terminate(self) -> None:
        self.told.append("terminate")

    def _note(self, what: str) -> Any:
        async def note() -> None:
            self.told.append(what)

        return note


async def fail(connection: Any) -> None:
    with pytest.raises(ValueError, match="of its own"):
        async with in_transaction(connection):
            raise ValueError("of its own")


async def test_what_succeeds_is_committed() -> None:
    connection: Any = Connection()
    async with in_transaction(connection):
        pass
    assert connection.told == ["start", "commit"]


async def test_what_fails_is_rolled_back_and_the_connection_stays() -> None:
    connection = Connection()
    await fail(connection)
    assert connection.told == ["start", "rollback"]


async def test_a_connection_that_cannot_roll_back_goes_and_the_error_is_the_first_one() -> None:
    async def refuse() -> None:
        raise asyncpg.InterfaceError("another operation is in progress")

    connection = Connection(refuse)
    await fail(connection)
    assert connection.told == ["start", "rollback", "terminate"]


@in_no_time
async def test_a_server_that_says_nothing_is_not_waited_for_without_end() -> None:
    connection = Connection(asyncio.Event().wait)
    begun = asyncio.get_running_loop().time()
    await fail(connection)
    assert connection.told == ["start", "rollback", "terminate"]
    assert asyncio.get_running_loop().time() - begun < 6
