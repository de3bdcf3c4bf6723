"""Keeps a store in S3, or in a service that speaks its protocol: `s3://bucket/prefix`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from statepath.backend import Parameter, StateURL
from statepath.objectstore import ObjectStoreBackend, open_backend

from statepath_s3.config import S3Config, complete, parameters, parse

__all__ = ["S3Config", "factory"]

_LARGEST: Final = 5 * 1024**3
"""What S3 takes in one request (Amazon S3 user guide, "Uploading objects")."""


class S3Factory:
    """What the entry point `s3` names."""

    def parse(self, url: StateURL) -> S3Config:
        return parse(url)

    def with_env(self, config: S3Config, env: Mapping[str, str]) -> S3Config:
        return complete(config, env)

    def parameters(self, url: StateURL) -> list[Parameter]:
        return parameters(url)

    async def connect(self, config: S3Config, *, readonly: bool = False) -> ObjectStoreBackend:
        from statepath_s3.driver import S3Driver  # importing s3fs takes a second

        driver = await S3Driver.connect(config)
        return await open_backend(
            driver,
            config.place,
            max_object_bytes=_LARGEST,
            readonly=readonly,
            bare=driver.unchecked(),
        )


factory: Final = S3Factory()
