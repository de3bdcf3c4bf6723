"""A server falls silent in the middle of a transaction: it is not waited for without end."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest
import statepath
from servers.postgres_proxy import postgres_proxy
from statepath.backend import StateURL
from statepath.errors import UnavailableError
from statepath_postgres import factory


@pytest.fixture
async def proxy(postgres, monkeypatch):
    monkeypatch.setattr("statepath_postgres.connections._CLOSING", 0.1)
    for patient in ("documents", "reading"):
        monkeypatch.setattr(f"statepath_postgres.{patient}.PATIENCE", 60.0)
    async with postgres_proxy(postgres) as proxy:
        yield proxy


@pytest.fixture
def path(proxy):
    return proxy.url(uuid4().hex, statement_timeout=2)


async def test_an_object_of_several_pieces_is_told_to_be_unwritten(proxy, path, monkeypatch):
    monkeypatch.setattr("statepath_postgres.objects.PIECE", 10)
    backend = await factory.connect(factory.parse(StateURL.parse(path)))
    try:
        fault = proxy.arm("INSERT INTO statepath.pieces", "hung")
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await backend.write("bodies/a/1", bytes(20))
        assert fault.happened.is_set()
        etag = await backend.write("bodies/a/1", bytes(20))
        assert (await backend.read("bodies/a/1")).etag == etag
    finally:
        await backend.close()


async def test_the_documents_are_shown_when_it_speaks_again(proxy, path, caplog):
    async with statepath.open(path, load=False) as store:
        raw = store.collection("raw")
        fault = proxy.arm("INSERT INTO statepath.documents", "hung")
        await raw.put({"id": "a"})
        await fault.happened.wait()
        assert await raw.get("a") == {"id": "a"}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
