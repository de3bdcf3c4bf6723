"""A new store on each backend that several processes may write to."""

from __future__ import annotations

from uuid import uuid4

import pytest
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.postgres import PostgresServer
from servers.services import path_at

TempPaths = pytest.TempPathFactory
STORES = ["local", "postgresql", "seaweed", "gcs", "azurite"]


@pytest.fixture(params=[pytest.param(store, marks=pytest.mark.slow) for store in STORES])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(
    kind: str, request: pytest.FixtureRequest, aws: None, azure_account: None, tmp_path_factory: TempPaths
) -> str:
    """The state path of a new store."""
    name = uuid4().hex
    if kind == "local":
        return str(tmp_path_factory.mktemp("store") / name)
    if kind == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.url(store=name)
    return path_at(kind, request.getfixturevalue(kind), name)


@pytest.fixture
def endpoint(kind: str, request: pytest.FixtureRequest, aws: None, azure_account: None) -> str:
    """Where the object store listens."""
    return str(request.getfixturevalue(kind))
