"""The servers, once for each worker that runs tests, and only where a test asks for one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from servers import azure, s3
from servers import gcs as google
from servers.services import Service, azure_service, gcs_service, s3_service


@pytest.fixture(scope="session")
def seaweed() -> Iterator[str]:
    """The address of a SeaweedFS that speaks S3."""
    with s3.seaweed() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of a moto that speaks S3."""
    with s3.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs() -> Iterator[str]:
    """The address of a fake-gcs-server that keeps conditions, by the stand-in before it."""
    with google.complete() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def bare_gcs() -> Iterator[str]:
    """The address of a fake-gcs-server as it is, which ignores some conditions."""
    with google.bare() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azurite() -> Iterator[str]:
    """The address of an Azurite, its account included."""
    with azure.azurite() as endpoint:
        yield endpoint


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials that the servers know, where the SDK looks for them, and nothing else of the machine's own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unprobed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service has shown that it keeps conditions: a port may have been that of another test's server before."""
    monkeypatch.setattr("statepath.objectstore.probe._passed", {})


@pytest.fixture
def azure_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that Azurite knows, where adlfs looks for it, and nothing else of the machine's own."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", azure.ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", azure.KEY)


@pytest.fixture(params=["seaweed", "gcs", "azurite"])
def service(request: pytest.FixtureRequest, aws: None, azure_account: None) -> Service:
    """Each object store in turn. That two servers of S3 are the same to the backend is shown by its contract."""
    name: str = request.param
    endpoint = request.getfixturevalue(name)
    if name == "gcs":
        return gcs_service(name, endpoint)
    return azure_service(name, endpoint) if name == "azurite" else s3_service(name, endpoint)
