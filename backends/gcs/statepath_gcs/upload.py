"""The body of an upload in one request: what is said of the object, and then its content (`multipart/related`)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Self

import msgspec
from statepath.objectstore import BLOCK, Content, blocks, measure

_UNCACHED: Final = "no-store"
"""Where anybody may read a bucket, Google's own cache would answer for an hour with what was replaced meanwhile."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A body, of which a large content is read block by block while it is sent.

    Attributes:
        headers: what the request says of the body.
    """

    headers: dict[str, str]
    _head: bytes
    _content: Content
    _tail: bytes

    @classmethod
    async def of(cls, name: str, content: Content) -> Self:
        """The upload of an object. Its MD5 is sent along, so that a content which was cut or changed on the way is
        refused; the boundary is a random one, so that no content can hold it."""
        md5, size = await measure(content)
        boundary = secrets.token_hex(16)
        said = msgspec.json.encode({"name": name, "md5Hash": md5, "cacheControl": _UNCACHED}).decode()
        head = (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{said}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers = {
            "Content-Type": f"multipart/related; boundary={boundary}",
            "Content-Length": str(len(head) + size + len(tail)),
        }
        return cls(headers, head, content, tail)

    async def body(self) -> AsyncIterator[bytes | memoryview]:
        """The blocks to send, one after the other."""
        if isinstance(self._content, bytes) and len(self._content) < BLOCK:
            yield self._head + self._content + self._tail
            return
        yield self._head
        async for block in blocks(self._content):
            yield block
        yield self._tail
