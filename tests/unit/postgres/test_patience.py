"""For how long a server that is gone is waited for."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import NoReturn

import pytest
from crowd.simulation import in_no_time
from statepath.backend import StateURL
from statepath.errors import UnavailableError
from statepath_postgres import connections
from statepath_postgres.config import parse


class Gone:
    """Stands for the pool of connections to a server that is gone."""

    async def acquire(self) -> NoReturn:
        raise ConnectionRefusedError


@in_no_time
async def test_a_read_waits_no_longer_than_it_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=loop.time))
    asked = connections.Connections(parse(StateURL.parse("postgresql://db/agents")), readonly=False)
    asked._pool = Gone()
    with pytest.raises(UnavailableError):
        await asked.fetch("SELECT 1")
    assert loop.time() <= connections.PATIENCE
