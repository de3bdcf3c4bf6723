"""Integers of more digits than a reader takes: refused where they enter, and no danger where one is stored already."""

from __future__ import annotations

import shutil
from contextlib import aclosing

import pytest
import statepath
from pydantic import BaseModel
from statepath.engine import documents
from statepath.errors import ConflictError, CorruptionError, InvalidArgumentError


class Thing(BaseModel):
    id: str
    x: int = 0
    text: str = ""


class Short(BaseModel):
    id: str


def of(digits: int) -> int:
    return int(10 ** (digits - 1))


@pytest.fixture
def earlier(monkeypatch):
    """As what is stored already may have been written: without a look at the digits."""
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


async def watched(store, *, resync=False):
    async with aclosing(store.watch(since=0, resync=resync)) as changes:
        return [change async for change in changes]


async def archive(store):
    return await store.archive("things", older_than="0s", x=1)


READS = [
    lambda store: store.collection("things").get("bad"),
    lambda store: store.collection("things").find().all(),
    lambda store: store.collection("things").find(x=1).all(),
    lambda store: store.collection("things").find(order_by="x").first(),
    watched,
    lambda store: store.history(),
    lambda store: store.diff(0),
    lambda store: store.diff(2, 0),
    archive,
]


async def test_whoever_reads_one_that_is_stored_already_is_told_its_name(poisoned):
    for _number, read in enumerate(READS):
        with pytest.raises(CorruptionError, match=r"^things/bad cannot be read") as caught:
            await read(poisoned)
        assert caught.value.key == "things/bad"


async def test_whoever_watches_anew_is_told_its_name(trimmed, earlier):
    await trimmed.collection("things", Thing).put(Thing(id="bad", x=of(5000)))
    with pytest.raises(CorruptionError) as caught:
        await watched(trimmed, resync=True)
    assert caught.value.key == "things/bad"


async def test_what_the_error_advises_helps(poisoned):
    typed, plain = poisoned.collection("things", Short), poisoned.collection("things")
    await typed.put(Short(id="bad"))  # which keeps what the model does not know
    with pytest.raises(CorruptionError, match="delete it, or write it again without a model"):
        await plain.get("bad")
    await plain.put({"id": "bad"})
    assert await plain.get("bad") == {"id": "bad"}


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


async def test_one_is_recovered_from_its_file_beside_the_others(tmp_path, earlier):
    async with statepath.open(str(tmp_path)) as store:
        await store.collection("things", Thing).put(Thing(id="good"))
        await store.collection("things", Thing).put(Thing(id="bad", x=of(5000)))
    (tmp_path / "state.json").unlink()
    shutil.rmtree(tmp_path / "journal")
    async with statepath.open(str(tmp_path)) as again:
        things = again.collection("things")
        assert await things.get("good") == Thing(id="good").model_dump()
        with pytest.raises(CorruptionError, match="things/bad"):
            await things.get("bad")
        await things.delete("bad")


async def test_its_view_is_verified(url, memory, earlier):
    async with statepath.open(url, autosave=0, views=True) as store:
        await store.collection("things", Thing).put(Thing(id="bad", x=of(5000)))
    async with statepath.open(url, autosave=0, views=True) as again:
        assert await again.verify() == []


async def test_a_view_of_one_that_was_deleted_is_removed_at_opening(url, memory, earlier):
    async with statepath.open(url, autosave=0, views=True) as store:
        things = store.collection("things", Thing)
        await things.put(Thing(id="bad", x=of(5000)))
        await store.flush()
        left = (await memory.read("things/bad.json")).data
        await things.delete("bad")
    await memory.write("things/bad.json", left)
    async with statepath.open(url, autosave=0, views=True) as again:
        await again.flush()
        assert [entry.key async for entry in memory.list_keys("things/")] == []


async def test_a_file_with_one_that_is_put_aside_is_named(tmp_path, earlier):
    view = tmp_path / "things" / "bad.json"
    async with statepath.open(str(tmp_path)) as store:
        things = store.collection("things", Thing)
        await things.put(Thing(id="bad", x=of(5000)))
        await store.flush()
        left = view.read_bytes()
        await things.delete("bad")
    view.write_bytes(left)
    async with statepath.open(str(tmp_path)) as again:
        (damage,) = (await again.health()).damage
        assert damage.startswith("things/bad.json cannot be read")
