"""Who listens for notifications goes on after what passes, and gives up where nobody can listen."""

import asyncio

import asyncpg
from statepath_postgres.failures import translated
from statepath_postgres.listener import Listener

URL = "postgresql://db:5432/agents?store=default"


class Server:
    """Stands for the connections, and for each of them. What it refuses, it refuses in turn."""

    url = URL
    can_listen = True
    terminated = 0
    silent = 0
    """How often it does not answer."""

    def __init__(self, connecting=(), listening=()):
        self.connecting = list(connecting)
        self.listening = list(listening)
        self.heard = asyncio.Event()

    def check_open(self):
        pass

    async def check_listener(self, connection):
        pass

    async def connect(self, *, listening):
        with translated(URL):
            if self.connecting:
                raise self.connecting.pop(0)
        return self

    def add_termination_listener(self, ended):
        pass

    async def add_listener(self, channel, tell):
        if self.listening:
            raise self.listening.pop(0)
        self.heard.set()

    async def fetchval(self, statement, *_, **limits):
        if "SELECT 1" in statement and self.silent:
            self.silent -= 1
            raise TimeoutError

    def terminate(self):
        self.terminated += 1


async def listening(server):
    listener = Listener(server)
    waiting = asyncio.ensure_future(listener.wait(listener.news, 1))
    await asyncio.sleep(0)
    return listener, waiting


async def test_a_server_that_has_no_connection_left_is_asked_again():
    server = Server(connecting=[asyncpg.exceptions.TooManyConnectionsError("too many clients already")])
    listener, waiting = await listening(server)
    async with asyncio.timeout(60):
        await server.heard.wait()
        await waiting
    await listener.close()


async def test_a_server_whose_socket_is_missing_is_asked_again():
    server = Server(connecting=[FileNotFoundError(2, "No such file or directory")])
    listener, waiting = await listening(server)
    async with asyncio.timeout(60):
        await server.heard.wait()
        await waiting
    await listener.close()


async def test_a_server_that_has_gone_without_a_word_is_connected_to_anew(monkeypatch):
    monkeypatch.setattr("statepath_postgres.listener._PULSE", 0.0)
    server = Server()
    listener, waiting = await listening(server)
    async with asyncio.timeout(30):
        await server.heard.wait()
        server.heard.clear()
        assert server.terminated == 0
        server.silent = 1
        await server.heard.wait()
    assert server.terminated == 1
    await waiting
    await listener.close()


async def test_a_standby_where_nobody_can_listen_is_asked_once():
    refused = asyncpg.exceptions.ReadOnlySQLTransactionError("cannot execute LISTEN during recovery")
    server = Server(listening=[refused])
    listener, waiting = await listening(server)
    async with asyncio.timeout(60):
        await listener._task
        await waiting
    assert not server.heard.is_set()
    await listener.close()
