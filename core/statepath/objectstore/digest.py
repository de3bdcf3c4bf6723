"""The digest that goes with what is put."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Final

from statepath.objectstore.driver import Content

_BLOCK: Final = 1024 * 1024


async def content_md5(content: Content) -> str:
    """The value of the header `Content-MD5`. A file is at its beginning again afterwards. With the header a service
    refuses an upload that was cut or damaged; without it some store what had arrived."""
    if isinstance(content, bytes) and len(content) < _BLOCK:
        return _md5(content)
    return await asyncio.to_thread(_md5, content)


def _md5(content: Content) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    if isinstance(content, bytes):
        digest.update(content)
    else:
        while block := content.read(_BLOCK):
            digest.update(block)
        content.seek(0)
    return base64.b64encode(digest.digest()).decode()
