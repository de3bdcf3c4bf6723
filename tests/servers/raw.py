"""Servers of a few lines that speak no more of a protocol than a test needs, for what no real server does."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import TypeAlias

from servers.azure import ACCOUNT

Serve: TypeAlias = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
"""Answers a request, of which it gets the head; the body is left where it is."""

EMPTY = {
    "s3": b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
    "gcs": b"{}",
    "azure": b'<EnumerationResults ServiceEndpoint="" ContainerName=""><Blobs/><NextMarker/></EnumerationResults>',
}
"""A listing of nothing, as each service writes it."""

OBJECT = (
    b'etag: "0"\r\nx-goog-generation: 1\r\nx-ms-request-id: 1\r\n'
    b"last-modified: Fri, 27 Nov 2026 10:00:00 GMT\r\n"
)
"""What each service says of an object."""


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serves one request a connection; the address, with an account in it as Azure needs it and others do not mind."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(await reader.readuntil(b"\r\n\r\n"), writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/{ACCOUNT}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
    """200, from something that may be any of the services."""
    length = f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\nx-ms-request-id: 1\r\ncontent-type: application/xml\r\n" + length + body
    )
    await writer.drain()


def after_listing(name: str, serve: Serve) -> Serve:
    """Answers as the service of that name would if there were nothing below `x`; the rest is up to `serve`."""

    async def of(head: bytes, writer: asyncio.StreamWriter) -> None:
        target = head.partition(b"\r\n")[0]
        if target.startswith(b"GET") and b"prefix=x" in target:
            await answer(writer, EMPTY[name])
        else:
            await serve(head, writer)

    return of


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then, without end."""
    for _ in count():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)
