"""The S3 backend keeps the contract, on a server that stores on disk and on one that stands in for Amazon's."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from servers.s3 import BUCKET, REGION, client
from statepath.testing import BackendContract
from statepath_s3 import factory
from statepath_s3.driver import S3Driver


class S3Contract(BackendContract):
    factory = factory
    page = 50
    endpoint: str
    machine_settings = settings(BackendContract.machine_settings, max_examples=4)

    @pytest.fixture(autouse=True)
    def _short_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pages are as long as they are asked to be: short ones show how one follows another as well as long ones."""
        send = S3Driver._send

        async def asked(driver: S3Driver, operation: str, **parameters: Any) -> Any:
            if operation == "list_objects_v2":
                parameters.setdefault("MaxKeys", self.page)
            return await send(driver, operation, **parameters)

        monkeypatch.setattr(S3Driver, "_send", asked)

    def state_path(self, folder: Path) -> str:
        return f"s3://{BUCKET}/{uuid4().hex}?endpoint_url={self.endpoint}&region={REGION}&path_style=true"

    async def raw_read(self, state_path: str, key: str) -> bytes | None:
        s3 = client(self.endpoint)
        try:
            answer = s3.get_object(Bucket=BUCKET, Key=self.config(state_path).place.prefix + key)
            data: bytes = answer["Body"].read()
        except s3.exceptions.NoSuchKey:
            return None
        finally:
            s3.close()
        return data

    async def raw_write(self, state_path: str, key: str, data: bytes) -> None:
        s3 = client(self.endpoint)
        s3.put_object(Bucket=BUCKET, Key=self.config(state_path).place.prefix + key, Body=data)
        s3.close()


@pytest.mark.usefixtures("aws")
class TestSeaweed(S3Contract):
    @pytest.fixture(autouse=True)
    def _server(self, seaweed: str) -> None:
        self.endpoint = seaweed


@pytest.mark.usefixtures("aws")
class TestMoto(S3Contract):
    @pytest.fixture(autouse=True)
    def _server(self, moto: str) -> None:
        self.endpoint = moto
