"""A bucket that keeps each version of an object, and lets nobody delete it for a time."""

from __future__ import annotations

from uuid import uuid4

import pytest
import statepath
from servers.s3 import client
from servers.services import s3_service


@pytest.fixture
def locked(aws, moto):
    """The state path of a new store in such a bucket."""
    bucket, made = f"locked-{uuid4().hex}", client(moto)
    made.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    retention = {"Mode": "COMPLIANCE", "Days": 1}
    made.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": retention},
        },
    )
    made.close()
    service = s3_service("moto", moto)
    return service.path("x").replace(service.root, f"s3://{bucket}")


async def test_it_holds_a_store(locked):
    for n in range(3):
        async with statepath.open(locked, autosave=0, backups=1) as store:
            raw = store.collection("raw")
            await raw.put({"id": "a", "n": n})
            await store.snapshot()
            await raw.put({"id": "b", "n": n})
    async with statepath.open(locked, readonly=True) as store:
        assert await store.collection("raw").get("b") == {"id": "b", "n": 2}
        assert len(await store.backups()) == 1
        assert await store.verify() == []
