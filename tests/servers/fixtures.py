"""The servers, once for each worker that runs tests, and only where a test asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from servers import s3
from servers.services import Service, s3_service


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


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials that the servers know, where the SDK looks for them, and nothing else of the machine's own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["seaweed", "moto"])
def service(request: pytest.FixtureRequest, aws: None) -> Service:
    """Each object store in turn."""
    name: str = request.param
    endpoint = request.getfixturevalue(name)
    return s3_service(name, endpoint)
