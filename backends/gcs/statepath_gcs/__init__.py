"""Keeps a store in Google Cloud Storage: `gs://bucket/prefix`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import ObjectStoreBackend, open_backend

from statepath_gcs.config import GCSConfig, complete, parameters, parse

__all__ = ["GCSConfig", "factory"]

_LARGEST: Final = 5 * 1024**4
"""What an object may have, however it is uploaded (Cloud Storage, "Quotas & limits")."""


class GCSFactory:
    """What the entry points `gs` and `gcs` name."""

    def parse(self, url: StateURL) -> GCSConfig:
        return parse(url)

    def with_env(self, config: GCSConfig, env: Mapping[str, str]) -> GCSConfig:
        return complete(config, env)

    def parameters(self, url: StateURL) -> list[Parameter]:
        return parameters(url)

    async def connect(self, config: GCSConfig, *, readonly: bool = False) -> ObjectStoreBackend:
        from statepath_gcs.driver import GCSDriver  # importing gcsfs takes two seconds

        driver = await GCSDriver.connect(config)
        return await open_backend(driver, config.place, max_object_bytes=_LARGEST, readonly=readonly)


factory: Final = GCSFactory()
