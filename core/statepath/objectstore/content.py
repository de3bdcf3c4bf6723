"""A content as it is sent: block by block."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Final

from statepath.objectstore.driver import Content

BLOCK: Final = 64 * 1024


async def blocks(content: Content) -> AsyncIterator[bytes | memoryview]:
    """The content from its beginning; a file is never in memory as a whole."""
    if isinstance(content, bytes):
        whole = memoryview(content)
        for start in range(0, len(whole), BLOCK):
            yield whole[start : start + BLOCK]
        return
    in_memory = isinstance(content, io.BytesIO)
    content.seek(0)
    while block := content.read(BLOCK) if in_memory else await asyncio.to_thread(content.read, BLOCK):
        yield block
