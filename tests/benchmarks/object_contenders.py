"""An object a save, through each service's own client: what is compared with a store."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from documents import Task
from servers import azure, gcs, s3
from servers.services import Service, azure_service, gcs_service, s3_service


class Objects(ABC):
    """Objects of a container, each a document."""

    name: ClassVar[str]

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stack.aclose()

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def put(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    async def get(self, name: str) -> None: ...

    async def save(self, task: Task) -> None:
        await self.put(f"{self.name}/{task.id}", task.__pydantic_serializer__.to_json(task))

    async def read(self, id: str) -> None:
        await self.get(f"{self.name}/{id}")


class Aiobotocore(Objects):
    name = "aiobotocore"

    async def open(self) -> None:
        from aiobotocore.config import AioConfig
        from aiobotocore.session import get_session

        config = AioConfig(max_pool_connections=64, s3={"addressing_style": "path"})
        made = get_session().create_client(
            "s3", endpoint_url=self.service.endpoint, region_name=s3.REGION, config=config
        )
        self.client = await self.stack.enter_async_context(made)

    async def put(self, name: str, data: bytes) -> None:
        await self.client.put_object(Bucket=s3.BUCKET, Key=name, Body=data)

    async def get(self, name: str) -> None:
        answer = await self.client.get_object(Bucket=s3.BUCKET, Key=name)
        async with answer["Body"] as body:
            await body.read()


class ObstoreS3(Objects):
    name = "obstore"

    async def open(self) -> None:
        from obstore.store import S3Store

        self.store: Any = S3Store(
            s3.BUCKET,
            endpoint=self.service.endpoint,
            region=s3.REGION,
            access_key_id=s3.KEY,
            secret_access_key=s3.SECRET,
            client_options={"allow_http": True},
        )

    async def put(self, name: str, data: bytes) -> None:
        import obstore

        await obstore.put_async(self.store, name, data)

    async def get(self, name: str) -> None:
        import obstore

        await (await obstore.get_async(self.store, name)).bytes_async()


class Gcsfs(Objects):
    name = "gcsfs"

    async def open(self) -> None:
        from gcsfs.core import GCSFileSystem

        options = {"token": "anon", "endpoint_url": self.service.endpoint}
        self.fs = GCSFileSystem(asynchronous=True, skip_instance_cache=True, **options)
        self.stack.push_async_callback((await self.fs._set_session()).close)

    async def put(self, name: str, data: bytes) -> None:
        await self.fs._pipe_file(f"{gcs.BUCKET}/{name}", data)

    async def get(self, name: str) -> None:
        await self.fs._cat_file(f"{gcs.BUCKET}/{name}")


class AzureSdk(Objects):
    name = "azure-storage-blob"

    async def open(self) -> None:
        from azure.storage.blob.aio import BlobServiceClient

        made = BlobServiceClient(
            self.service.endpoint, {"account_name": azure.ACCOUNT, "account_key": azure.KEY}
        )
        client = await self.stack.enter_async_context(made)
        self.container = client.get_container_client(azure.CONTAINER)

    async def put(self, name: str, data: bytes) -> None:
        await self.container.upload_blob(name, data, overwrite=True)

    async def get(self, name: str) -> None:
        await (await self.container.download_blob(name)).readall()


@dataclass(frozen=True)
class Suite:
    """A service, who is compared on it (the plain client first), and by how much faster a store should be."""

    name: str
    server: Callable[[], AbstractContextManager[Service]]
    contenders: tuple[type[Objects], ...]
    limits: dict[str, float]


@contextmanager
def seaweed() -> Iterator[Service]:
    os.environ.update(AWS_ACCESS_KEY_ID=s3.KEY, AWS_SECRET_ACCESS_KEY=s3.SECRET)
    with s3.seaweed() as endpoint:
        yield s3_service("seaweed", endpoint)


@contextmanager
def google() -> Iterator[Service]:
    with gcs.complete() as endpoint:
        yield gcs_service("gcs", endpoint)


@contextmanager
def azurite() -> Iterator[Service]:
    os.environ.update(AZURE_STORAGE_ACCOUNT_NAME=azure.ACCOUNT, AZURE_STORAGE_ACCOUNT_KEY=azure.KEY)
    with azure.azurite() as endpoint:
        yield azure_service("azurite", endpoint)


SERVICES = {
    "seaweed": Suite("SeaweedFS", seaweed, (Aiobotocore, ObstoreS3), {"aiobotocore": 20, "obstore": 6}),
    "gcs": Suite("fake-gcs-server, stand-in before it", google, (Gcsfs,), {"gcsfs": 12}),
    "azurite": Suite("Azurite", azurite, (AzureSdk,), {"azure-storage-blob": 12}),
}
