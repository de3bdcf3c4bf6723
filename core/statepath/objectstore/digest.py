"""What is said of a content that is put: its digest, and its size."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Final, NamedTuple

from statepath.objectstore.driver import Content

_BLOCK: Final = 1024 * 1024


class Measured(NamedTuple):
    """A content's MD5, in Base64 as in the header `Content-MD5`, and how many bytes it has. With the digest a service
    refuses an upload that was cut or damaged; without it some store what had arrived."""

    md5: str
    size: int


async def measure(content: Content) -> Measured:
    """A content's digest and size. A file is at its beginning again afterwards."""
    if isinstance(content, bytes) and len(content) < _BLOCK:
        return _measure(content)
    return await asyncio.to_thread(_measure, content)


def _measure(content: Content) -> Measured:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
        size = len(content)
    else:
        size = 0
        while block := content.read(_BLOCK):
            digest.update(block)
            size += len(block)
        content.seek(0)
    return Measured(base64.b64encode(digest.digest()).decode(), size)
