"""The Google Cloud Storage backend keeps the contract, on a server that stands in for Google's."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import settings
from servers.gcs import BUCKET, store, stored
from statepath.testing import BackendContract
from statepath_gcs import factory


class TestFakeGCS(BackendContract):
    factory = factory
    endpoint: str
    machine_settings = settings(BackendContract.machine_settings, max_examples=4)

    @pytest.fixture(autouse=True)
    def _server(self, gcs: str) -> None:
        self.endpoint = gcs

    def state_path(self, folder: Path) -> str:
        return f"gs://{BUCKET}/{uuid4().hex}?endpoint_url={self.endpoint}&anonymous=true"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        return stored(self.endpoint, self.config(state_path).place.prefix + key)

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        store(self.endpoint, self.config(state_path).place.prefix + key, data)
