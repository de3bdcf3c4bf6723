"""Several hosts: what one of them does not do, the next one is asked for."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from servers.process import free_port
from statepath.backend import StateURL
from statepath.errors import UnavailableError
from statepath_postgres import factory
from statepath_postgres.connections import Connections

PATIENT = "connect_timeout=5&sslmode=disable"
FULL = b"SFATAL\0C53300\0Msorry, too many clients already\0\0"


@pytest.fixture
def silent():
    """The port of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
async def full():
    """The port of a server that has no connection left."""

    async def refuse(reader, writer):
        await reader.read(1)
        writer.write(b"E" + (len(FULL) + 4).to_bytes(4, "big") + FULL)
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@asynccontextmanager
async def connections(path, *, readonly=False):
    made = Connections(factory.with_env(factory.parse(StateURL.parse(path)), {}), readonly=readonly)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def answers(path, *, readonly=False):
    """From a connection of the pool, and from one of its own."""
    async with connections(f"{path}&{PATIENT}", readonly=readonly) as made:
        assert [row[0] for row in await made.fetch("SELECT 1")] == [1]
        alone = await made.connect()
        assert await alone.fetchval("SELECT 2") == 2
        await alone.close()
    return True


async def test_a_host_that_hangs_is_passed_over(path, silent):
    assert await answers(path.replace("@127.0.0.1", f"@127.0.0.1:{silent},127.0.0.1"))


async def test_a_host_that_has_no_connection_left_is_passed_over(path, full):
    assert await answers(path.replace("@127.0.0.1", f"@127.0.0.1:{full},127.0.0.1"))


async def test_a_folder_whose_server_is_gone_is_passed_over(postgres, tmp_path):
    user = f"statepath:{postgres.password}"
    folders = f"{tmp_path},{postgres.folder}"
    assert await answers(f"postgresql://{user}@/postgres?host={folders}&port={postgres.port}")


async def test_a_standby_is_only_preferred_where_that_was_said(path, full):
    several = path.replace("@127.0.0.1", f"@127.0.0.1:{full},127.0.0.1")
    assert await answers(f"{several}&target_session_attrs=prefer-standby")


async def test_a_host_that_failed_is_told_rather_than_one_that_is_no_standby(path):
    several = path.replace("@127.0.0.1", f"@127.0.0.1:{free_port()},127.0.0.1")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        await answers(f"{several}&target_session_attrs=standby")


@pytest.mark.parametrize("session", ["read-write", "primary", "read-only", "any"])
async def test_a_reader_finds_the_server_that_was_asked_for(path, session):
    assert await answers(f"{path}&target_session_attrs={session}", readonly=True)


async def test_a_port_without_a_host_is_that_of_the_local_server(postgres):
    url = f"postgresql://statepath:{postgres.password}@/postgres?port={postgres.port}"
    assert await answers(url)
