"""A reader behind an address that stands for several servers, of which one lags behind the others."""

import asyncio
from contextlib import asynccontextmanager

import asyncpg
import pytest
from crowd.simulation import in_no_time
from statepath.errors import UnavailableError
from statepath_postgres import reading
from statepath_postgres.documents import Documents
from statepath_postgres.failures import translated
from statepath_postgres.reading import Reading

CURRENT = 5


class Servers:
    """Stands for the connections: what is asked for the seq alone goes to a current server, all else to one that lags
    until it has been asked `lags` times."""

    url = "postgresql://db:5432/agents?store=default"

    def __init__(self, lags):
        self.lags = lags
        self.asked = 0

    def shown(self):
        self.asked += 1
        return CURRENT - (self.asked <= self.lags)

    async def fetch(self, statement, *arguments):
        await asyncio.sleep(0)
        if statement == reading._SHOWN:
            return [[CURRENT]]
        return [{"shown": self.shown(), "id": None}]

    @asynccontextmanager
    async def borrow(self):
        yield self

    def transaction(self, **options):
        return self

    async def start(self):
        pass

    async def commit(self):
        pass

    async def fetchval(self, statement, *arguments):
        await asyncio.sleep(0)
        return self.shown()


async def read(servers):
    documents = Documents(servers, read=None, body=None)
    return (await Reading(servers, documents, readonly=True).read(1, [("tasks", "a")], CURRENT)).seq


async def look(servers):
    documents = Documents(servers, read=None, body=None)
    async with Reading(servers, documents, readonly=True).moment(1, CURRENT) as moment:
        return moment.seq


@pytest.mark.parametrize("ask", [read, look])
async def test_a_server_that_goes_on_lagging_is_told_and_is_not_asked_all_the_time(monkeypatch, ask):
    monkeypatch.setattr(reading, "PATIENCE", 0.5)
    servers = Servers(lags=1_000_000)
    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError, match="show seq 4, and seq 5 is needed"):
            await ask(servers)
    assert servers.asked <= 7


@pytest.mark.parametrize("ask", [read, look])
async def test_a_server_that_lags_is_waited_for(monkeypatch, ask):
    monkeypatch.setattr(reading, "_LOOK", 0)
    assert await ask(Servers(lags=3)) == CURRENT


@in_no_time
async def test_a_writer_whose_view_cannot_be_written_is_told_why(monkeypatch):
    servers = Servers(lags=0)
    documents = Documents(servers, read=None, body=None)

    async def catch_up(store):
        with translated(servers.url):
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")

    monkeypatch.setattr(documents, "_catch_up", catch_up)
    documents.start(1)
    with pytest.raises(UnavailableError, match=r"show seq 5, and seq 6 is needed; .* failed: .*lock timeout"):
        await Reading(servers, documents, readonly=False).read(1, [("tasks", "a")], CURRENT + 1)
    await documents.close()
