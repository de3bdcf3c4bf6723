"""The Azure backend keeps the contract, on the emulator that Microsoft keeps."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob.aio import ContainerClient
from hypothesis import settings
from servers.azure import CONTAINER, client
from statepath.testing import BackendContract
from statepath_azure import factory


@pytest.mark.usefixtures("azure_account")
class TestAzurite(BackendContract):
    factory = factory
    page = 50
    endpoint: str
    machine_settings = settings(BackendContract.machine_settings, max_examples=4)

    @pytest.fixture(autouse=True)
    def _server(self, azurite: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint = azurite
        # Pages are as long as they are asked to be: short ones show how one follows another as well as long ones.
        whole = ContainerClient.list_blobs
        monkeypatch.setattr(
            ContainerClient,
            "list_blobs",
            lambda client, prefix, **options: whole(
                client, prefix, **{"results_per_page": self.page, **options}
            ),
        )

    def state_path(self, folder: Path) -> str:
        return f"az://{CONTAINER}/{uuid4().hex}?endpoint_url={self.endpoint}"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        with client(self.endpoint) as blobs:
            blob = blobs.get_blob_client(CONTAINER, self.config(state_path).place.prefix + key)
            try:
                return blob.download_blob().readall()
            except ResourceNotFoundError:
                return None

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        with client(self.endpoint) as blobs:
            blob = blobs.get_blob_client(CONTAINER, self.config(state_path).place.prefix + key)
            blob.upload_blob(data, overwrite=True)
