"""Integers of more digits than a reader takes: refused where they enter, and no danger where one is stored already."""

from __future__ import annotations

import shutil

import pytest
import statepath
from pydantic import BaseModel
from statepath.engine import documents
from statepath.errors import ConflictError, CorruptionError, InvalidArgumentError, StateError


class Thing(BaseModel):
    id: str
    x: int = 0
    text: str = ""


def of(digits: int) -> int:
    return int(10 ** (digits - 1))


@pytest.fixture
def earlier(monkeypatch):
    """As an earlier version wrote: without a look at the digits."""
    monkeypatch.setattr(documents, "_has_long_integer", lambda data: False)


@pytest.fixture
async def poisoned(store, earlier):
    things = store.collection("things", Thing)
    await things.put(Thing(id="good"))
    await things.put(Thing(id="bad", x=of(5000)))
    await store.flush()
    return store


@pytest.mark.parametrize("digits", [4299, 4300])
async def test_an_integer_of_as_many_digits_as_can_be_read_is_kept(store, url, digits):
    thing = Thing(id="a", x=of(digits))
    await store.collection("things", Thing).put(thing)
    await store.collection("plain").put({"id": "a", "x": thing.x})
    await store.aclose()
    async with statepath.open(url) as again:
        assert await again.collection("things", Thing).get("a") == thing
        assert await again.collection("things", Thing).find().all() == [thing]
        assert await again.collection("plain").get("a") == {"id": "a", "x": thing.x}


@pytest.mark.parametrize("value", [of(5000), -of(5000), -of(4300)], ids=["long", "negative", "sign"])
async def test_an_integer_of_more_digits_is_refused(store, value):
    plain = store.collection("plain")
    await plain.put({"id": "a", "list": []})
    for save in (
        lambda: store.collection("things", Thing).put(Thing(id="a", x=value)),
        lambda: plain.put({"id": "b", "x": value}),
        lambda: plain.append("a", "list", value),
        lambda: store.save_report("r1", {"x": value}),
    ):
        with pytest.raises(InvalidArgumentError, match="too many digits; write it as text"):
            await save()


async def test_as_text_it_is_kept(store):
    things = store.collection("things", Thing)
    thing = Thing(id="a", text=str(9 * of(4300)) * 3)
    await things.put(thing)
    assert await things.get("a") == thing


async def test_one_that_is_stored_already_is_named(poisoned):
    with pytest.raises(CorruptionError, match="things/bad") as caught:
        await poisoned.collection("things").get("bad")
    assert caught.value.key == "things/bad"
    with pytest.raises(StateError):
        await poisoned.collection("things").find().all()
    with pytest.raises(CorruptionError, match="bad"):
        await poisoned.collection("things").find(x=1).all()


async def test_a_conflict_over_one_is_told_and_the_store_goes_on(poisoned):
    things = poisoned.collection("things")
    with pytest.raises(ConflictError) as caught:
        await things.put({"id": "bad"}, if_version=1)
    assert caught.value.theirs is None
    await things.put({"id": "bad"})
    assert await things.get("bad") == {"id": "bad"}


async def test_a_store_that_holds_one_opens(poisoned, url):
    await poisoned.aclose()
    async with statepath.open(url) as again:
        assert await again.collection("things", Thing).get("good") == Thing(id="good")
        await again.collection("things").delete("bad")


async def test_a_copied_store_that_holds_one_opens(tmp_path, earlier):
    async with statepath.open(str(tmp_path / "state")) as store:
        await store.collection("things", Thing).put(Thing(id="good"))
        await store.collection("things", Thing).put(Thing(id="bad", x=of(5000)))
    shutil.copytree(tmp_path / "state", tmp_path / "copy", copy_function=shutil.copyfile)
    async with statepath.open(str(tmp_path / "copy")) as again:
        assert await again.collection("things", Thing).get("good") == Thing(id="good")
