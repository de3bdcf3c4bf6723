"""The servers for Google Cloud Storage, and one that answers what a test says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.services import Service, gcs_service


@dataclass
class Scripted:
    """Answers the requests with what is next in `answers`, and the last one again and again; an answer is a status and
    a body, and redirects to `location`. `requests` are the targets, `sent` the headers, and `bodies` what follows."""

    url: str = ""
    location: str = ""
    answers: list[tuple[int, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    sent: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        self.requests.append(f"{request.method} {request.raw_path}")
        self.sent.append(dict(request.headers))
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, headers={"Location": self.location})

    def refuse(self, status: int, reason: str, message: str = "") -> None:
        """As Google refuses."""
        errors = [{"domain": "global", "reason": reason, "message": message}]
        self.answers = [(status, {"error": {"code": status, "message": message, "errors": errors}})]

    def path(self, **parameters: str) -> str:
        return gcs_service("scripted", self.url).path("x", **parameters)


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    async with TestServer(app, host="127.0.0.1") as server:
        scripted.url = f"http://127.0.0.1:{server.port}"
        yield scripted


@pytest.fixture
def google(gcs: str) -> Service:
    """The complete stand-in for Google."""
    return gcs_service("gcs", gcs)


@pytest.fixture(autouse=True)
def _nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials but a test's own, and no question to the metadata service of a cloud."""
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
