"""A store in a container, by each way to name it and to be let in."""

from __future__ import annotations

import logging
from uuid import uuid4

import pytest
import statepath
from servers.azure import ACCOUNT, CONTAINER, KEY


async def saved_and_restored(path):
    """Open, save, open again, restore."""
    async with statepath.open(path, autosave=0) as store:
        raw = store.collection("raw")
        await raw.put({"id": "a", "n": 1})
        await store.snapshot()
        await raw.put({"id": "a", "n": 2})
        await store.snapshot()
    async with statepath.open(path, autosave=0) as store:
        assert await store.collection("raw").get("a") == {"id": "a", "n": 2}
        await store.restore(at=1)
        assert await store.collection("raw").get("a") == {"id": "a", "n": 1}
        assert len(await store.backups()) == 1  # it was copied within the service
        assert await store.verify() == []
        return store.url


@pytest.mark.parametrize("scheme", ["az", "abfs", "azblob"])
async def test_each_scheme_is_the_same_store(az, scheme):
    prefix = uuid4().hex
    path = f"{scheme}://" + az.path(prefix).removeprefix("az://")
    assert await saved_and_restored(path) == f"az://{CONTAINER}/{prefix}"
    async with statepath.open(az.path(prefix), readonly=True) as store:
        assert await store.collection("raw").get("a") == {"id": "a", "n": 1}


async def test_parameters_come_from_the_environment_too(az, monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    monkeypatch.setenv("STATE_AZURE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("STATE_AZURE_ENDPOINT_URL", az.endpoint)
    await saved_and_restored(f"az://{CONTAINER}/{uuid4().hex}")


async def test_a_token_is_enough_and_never_logged(az, sas, caplog):
    caplog.set_level(logging.DEBUG)
    signature = sas("rwdl")
    url = await saved_and_restored(az.path(uuid4().hex))
    assert caplog.records
    assert signature not in url + "".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("how", ["key", "token"])
async def test_a_connection_string_is_enough(az, sas, monkeypatch, how):
    secret = f"AccountName={ACCOUNT};AccountKey={KEY}"
    if how == "token":
        sas("rwdl")
        import os

        secret = f"SharedAccessSignature={os.environ['AZURE_STORAGE_SAS_TOKEN']}"
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{secret};BlobEndpoint={az.endpoint}")
    await saved_and_restored(f"az://{CONTAINER}/{uuid4().hex}")


async def test_a_token_to_read_with_is_enough_to_read(az, sas):
    path = az.path(uuid4().hex)
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
    sas("rl")
    async with statepath.open(path, readonly=True) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
