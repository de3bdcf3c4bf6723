"""A new store on each object store in turn, and a proxy in front of it that counts the requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.proxy import Proxy, Request
from servers.services import SERVICES, Service


@pytest.fixture(params=SERVICES)
def name(request: pytest.FixtureRequest, aws: None, azure_account: None) -> str:
    """Each kind of object store in turn, for servers that only look like one."""
    return str(request.param)


@pytest.fixture
def path(service: Service) -> str:
    """The state path of a new store."""
    return service.path(uuid4().hex)


@pytest.fixture
async def proxy(service: Service) -> AsyncIterator[Proxy]:
    async with Proxy(service.endpoint).running() as proxy:
        yield proxy


@pytest.fixture
def counted(service: Service, proxy: Proxy) -> str:
    """The state path of a new store by way of the proxy."""
    return service.at(proxy.url).path(uuid4().hex)


@pytest.fixture
def requests(proxy: Proxy) -> Callable[[], list[Request]]:
    """The requests since the last look."""

    def since() -> list[Request]:
        seen, proxy.requests = proxy.requests, []
        return seen

    return since
