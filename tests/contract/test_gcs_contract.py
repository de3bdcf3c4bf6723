"""The Google Cloud Storage backend keeps the contract, on a server that stands in for Google's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from servers.gcs import BUCKET, store, stored
from statepath.testing import BackendContract
from statepath_gcs import factory
from statepath_gcs.driver import GCSDriver


class TestFakeGCS(BackendContract):
    factory = factory
    page = 50
    endpoint: str
    machine_settings = settings(BackendContract.machine_settings, max_examples=4)

    @pytest.fixture(autouse=True)
    def _server(self, gcs: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.endpoint = gcs
        # Pages are as long as they are asked to be: short ones show how one follows another as well as long ones.
        send = GCSDriver._send

        async def shortened(driver: GCSDriver, method: str, path: str, asked: Any, **others: Any) -> Any:
            if "prefix" in asked:
                asked = {"maxResults": str(self.page), **asked}
            return await send(driver, method, path, asked, **others)

        monkeypatch.setattr(GCSDriver, "_send", shortened)

    def state_path(self, folder: Path) -> str:
        return f"gs://{BUCKET}/{uuid4().hex}?endpoint_url={self.endpoint}&anonymous=true"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        return stored(self.endpoint, self.config(state_path).place.prefix + key)

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        store(self.endpoint, self.config(state_path).place.prefix + key, data)
