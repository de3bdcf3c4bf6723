"""Keeps a store in Azure Blob Storage: `az://container/prefix`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import ObjectStoreBackend, open_backend

from statepath_azure.config import AzureConfig, complete, parameters, parse

__all__ = ["AzureConfig", "factory"]

_LARGEST: Final = 5000 * 1024**2
"""What Azure takes in one request (Put Blob, "Remarks")."""


class AzureFactory:
    """What the entry points `az`, `abfs` and `azblob` name."""

    def parse(self, url: StateURL) -> AzureConfig:
        return parse(url)

    def with_env(self, config: AzureConfig, env: Mapping[str, str]) -> AzureConfig:
        return complete(config, env)

    def parameters(self, url: StateURL) -> list[Parameter]:
        return parameters(url)

    async def connect(self, config: AzureConfig, *, readonly: bool = False) -> ObjectStoreBackend:
        from statepath_azure.driver import AzureDriver  # importing adlfs takes a second

        driver = await AzureDriver.connect(config, readonly=readonly)
        return await open_backend(driver, config.place, max_object_bytes=_LARGEST, readonly=readonly)


factory: Final = AzureFactory()
