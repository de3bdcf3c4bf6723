"""A proxy before PostgreSQL that understands enough of its protocol to cut, hold or swallow a chosen statement."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from servers.postgres import USER, PostgresServer

What = Literal["before", "during", "after", "hung", "late"]
"""When a connection is lost: before the server has the statement, right behind it, once the statement is committed; or
its answer never comes; or the statement reaches the server only when it is released, long after the client has gone."""


@dataclass
class Fault:
    """What happens to the next `times` runs of a statement that contains the marker, of those that `chance` picks."""

    marker: bytes
    what: What
    times: int
    chance: Callable[[], bool] = lambda: True
    happened: asyncio.Event = field(default_factory=asyncio.Event)


class Held(NamedTuple):
    """A connection to the server whose client has gone, and what it had sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    data: bytes


@dataclass
class PostgresProxy:
    """Listens on a port of its own. `refusing`: nobody new is let in."""

    server: PostgresServer
    port: int = 0
    refusing: bool = False
    faults: list[Fault] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _sessions: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, store: str, **parameters: object) -> str:
        query = "".join(f"&{name}={value}" for name, value in parameters.items())
        address = f"{USER}:{self.server.password}@127.0.0.1:{self.port}"
        return f"postgresql://{address}/postgres?sslmode=disable&store={store}{query}"

    def arm(
        self, marker: str, what: What, *, times: int = 1, chance: Callable[[], bool] = lambda: True
    ) -> Fault:
        self.faults.append(fault := Fault(marker.encode(), what, times, chance))
        return fault

    def cut_all(self) -> None:
        """Lose every connection that there is."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def release(self) -> None:
        """Let the server have what was held back, and be done with it."""
        while self.held:
            held = self.held.pop()
            held.writer.write(held.data)
            with suppress(OSError, asyncio.IncompleteReadError):
                while (await read_message(held.reader))[0] != b"Z":
                    pass
            held.writer.transport.abort()

    async def close(self) -> None:
        """End every session."""
        self.cut_all()
        for held in self.held:
            held.writer.transport.abort()
        if self._sessions:
            await asyncio.wait(self._sessions)

    def _due(self, statement: bytes) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.marker in statement and fault.chance():
                fault.times -= 1
                return fault
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)
        self._writers.add(writer)
        try:
            if not self.refusing:
                upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.server.port)
                await _Session(self, reader, writer, upstream_reader, upstream).run()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()


class _Session:
    """One client and its connection to the server."""

    def __init__(
        self,
        proxy: PostgresProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream_reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._upstream_reader, self._upstream = upstream_reader, upstream
        self._statements: dict[bytes, bytes] = {}
        self._fault: Fault | None = None
        self._holding = b""

    async def run(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            (length,) = struct.unpack("!I", head := await self._reader.readexactly(4))
            self._upstream.write(head + await self._reader.readexactly(length - 4))
            tasks = [asyncio.create_task(self._ask()), asyncio.create_task(self._answer())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if self._fault is not None:
                # Where the client did not wait for the answer, it is as lost.
                self._fault.happened.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._holding:
                self._proxy.held.append(Held(self._upstream_reader, self._upstream, self._holding))
            else:
                self._upstream.transport.abort()

    async def _ask(self) -> None:
        """From the client to the server, a message at a time."""
        while True:
            kind, message = await read_message(self._reader)
            if kind == b"P":
                name, statement, *_ = message[5:].split(b"\0")
                self._statements[name] = statement
            elif kind == b"B":
                _, name, *_ = message[5:].split(b"\0")
                self._fault = self._proxy._due(self._statements.get(name, b"")) or self._fault
            fault = self._fault
            if fault is not None and fault.what == "before":
                fault.happened.set()
                return
            if fault is not None and fault.what == "late":
                self._holding += message
                if kind == b"S":
                    fault.happened.set()
                continue
            self._upstream.write(message)
            await self._upstream.drain()
            if fault is not None and fault.what == "during" and kind == b"S":
                fault.happened.set()
                return

    async def _answer(self) -> None:
        """From the server to the client."""
        while True:
            kind, message = await read_message(self._upstream_reader)
            fault = self._fault
            if fault is not None:
                if kind == b"Z":
                    fault.happened.set()
                    if fault.what == "after":
                        return
                continue
            self._writer.write(message)
            await self._writer.drain()


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The kind of the next message, and all of it."""
    head = await reader.readexactly(5)
    (length,) = struct.unpack("!I", head[1:])
    return head[:1], head + await reader.readexactly(length - 4)


@asynccontextmanager
async def postgres_proxy(server: PostgresServer) -> AsyncIterator[PostgresProxy]:
    """A proxy before the server, on a free port, for as long as the block."""
    proxy = PostgresProxy(server)
    listening = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        await proxy.close()
        await listening.wait_closed()
