"""A stand-in, for tests alone: stands before fake-gcs-server and holds what Google holds and it ignores.

A deletion with `ifGenerationMatch` is one only of that generation, a copy with `ifSourceGenerationMatch` likewise, and
an upload whose content has not the MD5 that it says is refused. Changes of an object come one after the other, so that
nothing slips in between. The rest is passed on.

    python gcs_stand_in.py UPSTREAM HOST PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from email.parser import BytesParser
from urllib.parse import unquote

from aiohttp import ClientSession, web
from yarl import URL

_OURS = {"Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Date", "Server"}
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")


class StandIn:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def lifetime(self, app: web.Application) -> AsyncIterator[None]:
        async with ClientSession(auto_decompress=False) as self._session:
            yield

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.method == "POST" and request.query.get("uploadType") == "multipart":
            said, content = _parts(request.headers["Content-Type"], body)
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            if said.get("md5Hash") not in (None, base64.b64encode(digest).decode()):
                return _refused(400, "invalid", "Provided MD5 hash doesn't match calculated MD5 hash")
            async with self._changing[said["name"]]:
                return await self._passed_on(request, body)
        if request.method in ("POST", "DELETE") and "/o/" in request.raw_path:
            path, _, target = request.raw_path.partition("?")[0].partition("/rewriteTo/")
            names = {unquote(part.rpartition("/o/")[2]) for part in (path, target) if part}
            wanted = request.query.get("ifSourceGenerationMatch" if target else "ifGenerationMatch")
            async with AsyncExitStack() as changing:
                for name in sorted(names):  # or two that copy crosswise would wait for each other
                    await changing.enter_async_context(self._changing[name])
                if wanted is not None and await self._generation(path) not in (wanted, "0" if target else ""):
                    return _refused(412, "conditionNotMet", "At least one of the pre-conditions did not hold")
                return await self._passed_on(request, body)
        return await self._passed_on(request, body)

    async def _generation(self, path: str) -> str:
        """That of the object which is stored; 0 if there is none."""
        async with self._session.get(URL(self._upstream + path, encoded=True)) as answer:
            if answer.status == 404:
                return "0"
            found: dict[str, str] = await answer.json()
        return found["generation"]

    async def _passed_on(self, request: web.Request, body: bytes) -> web.Response:
        url = URL(self._upstream + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name not in {*_OURS, "Host"}}
        async with self._session.request(request.method, url, headers=headers, data=body) as answer:
            headers = {name: value for name, value in answer.headers.items() if name not in _OURS}
            return web.Response(status=answer.status, body=await answer.read(), headers=headers)


def _parts(kind: str, body: bytes) -> tuple[dict[str, str], bytes]:
    """What an upload says of the object, and the content."""
    boundary = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode()).get_boundary()
    _, head, rest = body.split(f"--{boundary}".encode(), 2)
    said: dict[str, str] = json.loads(_EMPTY_LINE.split(head, 1)[1])
    content = _EMPTY_LINE.split(rest, 1)[1].rpartition(f"--{boundary}--".encode())[0]
    return said, content.removesuffix(b"\n").removesuffix(b"\r")


def _refused(status: int, reason: str, message: str) -> web.Response:
    errors = [{"domain": "global", "reason": reason, "message": message}]
    return web.json_response({"error": {"code": status, "message": message, "errors": errors}}, status=status)


def main(upstream: str, host: str, port: str) -> None:
    stand_in = StandIn(upstream)
    app = web.Application(client_max_size=1024**3)
    app.cleanup_ctx.append(stand_in.lifetime)
    app.router.add_route("*", "/{path:.*}", stand_in.handle)
    web.run_app(app, host=host, port=int(port), print=None, access_log=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
