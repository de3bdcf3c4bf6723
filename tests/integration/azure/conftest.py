"""The server that speaks Azure's protocol, and the ways to be let in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from azure.storage.blob import generate_container_sas
from servers.azure import ACCOUNT, CONTAINER, KEY
from servers.fixtures import *  # noqa: F403 - fixtures are found by name where they are
from servers.services import Service, azure_service


@pytest.fixture
def az(azurite: str, azure_account: None) -> Service:
    return azure_service("azurite", azurite)


@pytest.fixture
def sas(monkeypatch: pytest.MonkeyPatch, azure_account: None) -> Callable[..., str]:
    """Makes a SAS token of some permissions, and sets it instead of the key; its signature."""

    def given(permissions: str, *, hours: float = 1) -> str:
        token = generate_container_sas(
            ACCOUNT, CONTAINER, KEY, permission=permissions, expiry=datetime.now(UTC) + timedelta(hours=hours)
        )
        monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
        monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
        return token.partition("sig=")[2].partition("&")[0]

    return given
