"""A store by its state path."""

from __future__ import annotations

from uuid import uuid4

import statepath
from servers.gcs import BUCKET, stored


async def test_a_store_is_opened_saved_opened_again_and_restored(google):
    prefix = uuid4().hex
    async with statepath.open(google.path(prefix), autosave=0) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "a", "n": 1})
        await store.snapshot()
        await tasks.put({"id": "a", "n": 2})
    assert stored(google.endpoint, f"{prefix}/state.json")
    async with statepath.open(google.path(prefix), autosave=0) as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "n": 2}
        await store.restore(at=1)
        assert await store.collection("tasks").get("a") == {"id": "a", "n": 1}
    async with statepath.open(google.path(prefix), readonly=True) as store:
        assert await store.collection("tasks").get("a") == {"id": "a", "n": 1}
        assert await store.verify() == []


async def test_both_schemes_lead_to_one_store(google):
    path = google.path(uuid4().hex)
    async with statepath.open(path, autosave=0) as store:
        await store.collection("raw").put({"id": "a"})
        url = store.url
    async with statepath.open(path.replace("gs://", "gcs://"), readonly=True) as store:
        assert await store.collection("raw").get("a") == {"id": "a"}
        assert store.url == url


async def test_the_environment_says_where_and_how(google, monkeypatch):
    monkeypatch.setenv("STATE_GCS_ANONYMOUS", "true")
    for variable in ("STATE_GCS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(variable, google.endpoint)
        async with statepath.open(f"gs://{BUCKET}/{uuid4().hex}", autosave=0) as store:
            await store.collection("raw").put({"id": "a"})
        monkeypatch.delenv(variable)
