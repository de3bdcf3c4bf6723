"""A clock that is off: SeaweedFS, as Amazon does, refuses what was signed more than 15 minutes ago or ahead."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import botocore.auth
import pytest
import statepath
from servers.s3 import BUCKET, SECRET, client
from servers.services import s3_service
from statepath.backend import IfMatch
from statepath.discovery import connect
from statepath.errors import AccessDeniedError
from statepath.events import SaveError

RIGHT = botocore.auth.get_current_datetime


@pytest.fixture
def prefix() -> str:
    return uuid4().hex


@pytest.fixture
def path(aws, seaweed, prefix) -> str:
    return s3_service("seaweed", seaweed).path(prefix)


@pytest.fixture
def clock(monkeypatch):
    """Sets how far the clock that requests are signed by is off."""

    def off(by: timedelta) -> None:
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *given: RIGHT(*given) + by)

    return off


@pytest.fixture
def stored(seaweed, prefix):
    """What lies there, by a client whose clock is right."""

    def keys() -> list[str]:
        listing = client(seaweed)
        try:
            answer = listing.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        finally:
            listing.close()
        return [entry["Key"] for entry in answer.get("Contents", [])]

    return keys


def check(error: AccessDeniedError) -> None:
    assert error.code == "clock_skewed"
    assert "set the clock" in str(error)
    assert "RequestTimeTooSkewed" in str(error)
    assert f"s3://{BUCKET}/" in str(error)
    assert "credentials" not in str(error)
    assert SECRET not in repr(error)


@pytest.mark.parametrize("readonly", [False, True], ids=["writing", "readonly"])
@pytest.mark.parametrize("hours", [-1, 1], ids=["slow", "fast"])
async def test_nothing_is_begun_with_a_clock_that_is_off(path, clock, stored, hours, readonly):
    clock(timedelta(hours=hours))
    with pytest.raises(AccessDeniedError) as caught:
        async with statepath.open(path, autosave=0, readonly=readonly):
            pass
    check(caught.value)
    clock(timedelta())
    assert stored() == []


async def test_a_clock_that_jumps_costs_no_more_than_what_was_saved_meanwhile(path, clock, stored):
    told = []
    async with statepath.open(path, autosave=0) as store:
        store.events.on(SaveError, told.append)
        raw = store.collection("raw")
        await raw.put({"id": "before"})
        clock(timedelta(hours=1))
        with pytest.raises(AccessDeniedError) as caught:
            await raw.put({"id": "meanwhile"})
        check(caught.value)
        assert len(told) == 1
        assert await raw.get("meanwhile") is None
        clock(timedelta())
        await raw.put({"id": "after"})
    async with statepath.open(path, readonly=True) as store:
        assert [document["id"] async for document in store.collection("raw")] == ["after", "before"]
        assert len(await store.history()) == 2
        assert await store.verify() == []


async def test_a_replace_that_is_refused_is_told_why(path, clock):
    backend = await connect(path)
    etag = await backend.write("a", b"1")
    clock(timedelta(hours=1))
    with pytest.raises(AccessDeniedError) as caught:
        await backend.write("a", b"2", when=IfMatch(etag))
    check(caught.value)
    await backend.close()
