"""A pooler in transaction mode, as PgBouncer is: each transaction of a client gets another session of the server.

It understands enough of the protocol to see where a transaction ends. As PgBouncer does, it refuses settings in the
start-up message.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from servers.postgres import USER, PostgresServer
from servers.postgres_proxy import read_message

SESSIONS = 6

_KNOWN = {b"user", b"database", b"client_encoding"}
Messages = asyncio.Queue[bytes | None]
"""What a client sends; `None` at its end."""

_SSL_REQUEST = 80877103
_STARTED = b"R" + struct.pack("!II", 8, 0)
_KEY = b"K" + struct.pack("!III", 12, 1, 1)
_READY = b"Z" + struct.pack("!I", 5) + b"I"


@dataclass
class _Session:
    """A session of the server, past its start, and what it told of its settings."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    settings: bytes = b""


@dataclass
class PostgresPooler:
    """Listens on a port of its own. `transactions` counts those that it has passed on."""

    server: PostgresServer
    port: int = 0
    transactions: int = 0
    _free: asyncio.Queue[_Session] = field(default_factory=asyncio.Queue)
    _sessions: list[_Session] = field(default_factory=list)
    _clients: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, store: str, **parameters: object) -> str:
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres?store={store}{query}"

    async def open(self) -> None:
        for _ in range(SESSIONS):
            path = f"{self.server.folder}/.s.PGSQL.{self.server.port}"
            session = _Session(*await asyncio.open_unix_connection(path))
            said = b"user\0" + USER.encode() + b"\0database\0postgres\0\0"
            session.writer.write(struct.pack("!II", 8 + len(said), 196608) + said)
            kind = b""
            while kind != b"Z":
                kind, message = await read_message(session.reader)
                assert kind != b"E", message
                if kind == b"S":
                    session.settings += message
            self._sessions.append(session)
            self._free.put_nowait(session)

    async def close(self) -> None:
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for session in self._sessions:
            session.writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = asyncio.current_task()
        assert client is not None
        self._clients.add(client)
        client.add_done_callback(self._clients.discard)
        messages: Messages = asyncio.Queue()
        hearing: asyncio.Task[None] | None = None
        try:
            if await self._welcome(reader, writer):
                hearing = asyncio.create_task(_hear(reader, messages))
                while (message := await messages.get()) is not None:
                    await self._transaction(message, messages, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if hearing is not None:
                hearing.cancel()
            writer.transport.abort()

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        length, code = struct.unpack("!II", await reader.readexactly(8))
        if code == _SSL_REQUEST:
            writer.write(b"N")
            length, code = struct.unpack("!II", await reader.readexactly(8))
        words = (await reader.readexactly(length - 8)).rstrip(b"\0").split(b"\0")
        if unknown := set(words[::2]) - _KNOWN:
            text = b"SERROR\0C08P01\0Munsupported startup parameter: " + unknown.pop() + b"\0\0"
            writer.write(b"E" + struct.pack("!I", 4 + len(text)) + text)
            await writer.drain()
            return False
        writer.write(_STARTED + self._sessions[0].settings + _KEY + _READY)
        return True

    async def _transaction(self, first: bytes, messages: Messages, writer: asyncio.StreamWriter) -> None:
        """Pass one transaction on, to the session that waited longest."""
        session = await self._free.get()
        answering = asyncio.create_task(self._answer(session, writer))
        try:
            session.writer.write(first)
            while not answering.done():
                asking = asyncio.create_task(messages.get())
                await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
                if not asking.done():
                    asking.cancel()
                    await asyncio.wait([asking])
                elif (message := asking.result()) is not None:
                    session.writer.write(message)
                else:
                    # A session that was left in the middle of a transaction is of no use to others.
                    session.writer.transport.abort()
                    messages.put_nowait(None)
                    return
            answering.result()
            self.transactions += 1
        finally:
            answering.cancel()
            self._free.put_nowait(session)

    async def _answer(self, session: _Session, writer: asyncio.StreamWriter) -> None:
        """Pass on what the server says until the transaction is over."""
        while True:
            kind, message = await read_message(session.reader)
            writer.write(message)
            if kind == b"Z" and message[-1:] == b"I":
                return


async def _hear(reader: asyncio.StreamReader, messages: Messages) -> None:
    try:
        while True:
            messages.put_nowait((await read_message(reader))[1])
    except (OSError, asyncio.IncompleteReadError):
        messages.put_nowait(None)


@asynccontextmanager
async def postgres_pooler(server: PostgresServer) -> AsyncIterator[PostgresPooler]:
    """A pooler before the server, on a free port, for as long as the block."""
    pooler = PostgresPooler(server)
    await pooler.open()
    listening = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    pooler.port = listening.sockets[0].getsockname()[1]
    try:
        yield pooler
    finally:
        listening.close()
        await pooler.close()
        await listening.wait_closed()
