"""A proxy between a client and a server that speaks HTTP, which does to chosen requests what networks do.

It forwards one request a connection. A `Fault` says which requests, and what becomes of them; the test decides when.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from urllib.parse import urlsplit


class Does(Enum):
    """What becomes of a request."""

    RESET_BEFORE = auto()
    """The connection is reset before the server has seen anything."""
    RESET_DURING = auto()
    """The server gets half of the request, and the connection is reset."""
    RESET_AFTER = auto()
    """The server does it, and the connection is reset before the answer."""
    FAIL_BEFORE = auto()
    """503, and the server has seen nothing."""
    FAIL_AFTER = auto()
    """503, although the server did it: a gateway that lost patience."""
    CUT_ANSWER = auto()
    """The server does it, and half of the answer arrives."""
    SWALLOW_BEFORE = auto()
    """Neither the server nor the client hears of it again."""
    SWALLOW_AFTER = auto()
    """The server does it, and the client hears nothing."""
    DELAY = auto()
    """The server gets it when the test says so; the client has hung up by then."""
    TWICE = auto()
    """The server gets it twice, and the client the second answer."""
    LATE = auto()
    """The answer comes after a quarter of a second."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    head: bytes
    body: bytes
    waited: bool = False
    """The client asked for leave before it sent the body."""

    @property
    def raw(self) -> bytes:
        return self.head + self.body


@dataclass
class Fault:
    """`times` of the requests that it `takes`, after `skip` of them, meet it."""

    does: Does
    takes: Callable[[Request], bool]
    times: int = 1
    skip: int = 0
    met: asyncio.Event = field(default_factory=asyncio.Event)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    delivered: asyncio.Event = field(default_factory=asyncio.Event)

    def due(self, request: Request) -> bool:
        if self.times <= 0 or not self.takes(request):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        self.met.set()
        return True


class Proxy:
    """Listens on loopback; `url` is its address. `requests` are those that it has seen, oldest first."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 80)
        self._path = parts.path
        self._faults: list[Fault] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server
        self.requests: list[Request] = []
        self.url = ""

    def fault(self, does: Does, takes: Callable[[Request], bool], *, times: int = 1, skip: int = 0) -> Fault:
        fault = Fault(does, takes, times, skip)
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        self._faults.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{self._path}"
        try:
            yield self
        finally:
            self._server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @asynccontextmanager
    async def down(self) -> AsyncIterator[None]:
        """Meanwhile nobody listens there, and nobody else gets the port."""
        self._server.close()
        kept = socket.socket()
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", urlsplit(self.url).port))
        yield
        self._server = await asyncio.start_server(self._accept, sock=kept)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            request = await _read_request(reader, writer)
            self.requests.append(request)
            fault = next((fault for fault in self._faults if fault.due(request)), None)
            await self._serve(request, writer, fault)
        writer.close()

    async def _serve(self, request: Request, writer: asyncio.StreamWriter, fault: Fault | None) -> None:
        does = None if fault is None else fault.does
        if does is Does.RESET_BEFORE:
            return _reset(writer)
        if does is Does.RESET_DURING:
            await self._forward(request.raw[: len(request.raw) - max(1, len(request.body) // 2)], half=True)
            return _reset(writer)
        if does is Does.FAIL_BEFORE:
            return await _answer(writer, _FAILED)
        if does is Does.SWALLOW_BEFORE:
            await asyncio.Event().wait()
        if fault is not None and does is Does.DELAY:
            await fault.released.wait()
            await self._forward(request.raw)
            fault.delivered.set()
            return None
        answer = await self._forward(request.raw)
        if does is Does.TWICE:
            answer = await self._forward(request.raw)
        if does is Does.RESET_AFTER:
            return _reset(writer)
        if does is Does.SWALLOW_AFTER:
            await asyncio.Event().wait()
        if does is Does.FAIL_AFTER:
            answer = _FAILED
        if does is Does.LATE:
            await asyncio.sleep(0.25)
        if does is Does.CUT_ANSWER:
            answer = answer[: len(answer) // 2]
        return await _answer(writer, answer)

    async def _forward(self, data: bytes, *, half: bool = False) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        try:
            writer.write(data)
            await writer.drain()
            if half:
                await asyncio.sleep(0.05)
                _reset(writer)
                return b""
            return await reader.read(-1)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


_FAILED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    """A whole request, rewritten so that the server closes the connection behind its answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    waited = headers.get(b"expect", b"").lower() == b"100-continue"
    if waited:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"connection", b"expect")]
    method, target, _ = first.decode().split(" ")
    return Request(method, target, b"\r\n".join([first, *kept, b"Connection: close", b"", b""]), body, waited)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A chunked body as it came, chunk sizes included."""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        body += line + await reader.readexactly(size + 2)
        if not size:
            return body


async def _answer(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(answer)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
