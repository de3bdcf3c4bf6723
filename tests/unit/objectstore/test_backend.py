"""What every object store does alike, on a driver in memory."""

from __future__ import annotations

import asyncio
import errno
import io
import re
import tempfile
from datetime import UTC, datetime
from itertools import count

import pytest
from statepath.backend import ALWAYS, ETag, IfAbsent, IfMatch, Span
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
    UnsupportedError,
)
from statepath.objectstore import Asked, Listed, ObjectStoreBackend, Page, Place, Served, open_backend, unmet

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Driver:
    """Objects in a dict, a few to a page. `ignores` names the conditions that its service takes no notice of."""

    scheme, container, endpoint = "mem", "box", "mem://"

    def __init__(self, *, ignores=(), order=None):
        self.objects = {}
        self.put_kinds = []
        self.ignores = ignores
        self.order = order
        self.numbers = count()

    def check(self, name, when, what):
        asked = Asked(self.scheme, self.container, name, when)
        stored = self.objects.get(name)
        if isinstance(when, IfAbsent) and stored and "create" not in self.ignores:
            raise unmet(asked)
        if isinstance(when, IfMatch) and what not in self.ignores and (not stored or stored[1] != when.etag):
            raise unmet(asked)

    async def get(self, name, span):
        if name not in self.objects:
            raise NotFoundError(name, key=name)
        data, etag = self.objects[name]
        return Served(data if span is None else data[span.start : span.stop], etag, NOW)

    async def put(self, name, content, when):
        self.check(name, when, "replace")
        self.put_kinds.append(type(content))
        data = content if isinstance(content, bytes) else content.read()
        self.objects[name] = (data, ETag(str(next(self.numbers))))
        return self.objects[name][1]

    async def remove(self, name, when):
        if name not in self.objects:
            return False
        self.check(name, when, "delete")
        del self.objects[name]
        return True

    async def copy(self, source, target, when):
        self.check(source, when, "copy")
        return await self.put(target, self.objects[source][0], ALWAYS)

    async def page(self, prefix, after, following):
        names = sorted((name for name in self.objects if name.startswith(prefix)), key=self.order)
        at = int(following or 0)
        found = tuple(Listed(name, len(self.objects[name][0]), NOW) for name in names[at : at + 2])
        return Page(found, str(at + 2) if at + 2 < len(names) else "", sorted=self.order is not _folders)

    async def close(self):
        pass


class Checking(Driver):
    """Compares tokens itself before it asks the service, which its `bare` driver does not."""

    def __init__(self, bare):
        super().__init__()
        self.objects, self.numbers, self.endpoint = bare.objects, bare.numbers, bare.endpoint


def _folders(name):
    return name.split("/")


async def opened(driver, bare=None):
    return await open_backend(driver, Place("box", "p/"), max_object_bytes=10**9, readonly=False, bare=bare)


def backend(driver, prefix="p/", limit=10**9):
    return ObjectStoreBackend(driver, Place("box", prefix), max_object_bytes=limit, readonly=False)


async def test_every_object_lies_below_the_prefix():
    driver = Driver()
    await backend(driver).write("a/b", b"A")
    driver.objects["q/other"] = (b"", ETag("x"))
    assert set(driver.objects) == {"p/a/b", "q/other"}
    assert [entry.key async for entry in backend(driver).list_keys("")] == ["a/b"]


async def test_the_mark_of_the_folder_itself_is_no_object_of_the_store():
    driver = Driver()
    driver.objects["p/"] = (b"", ETag("x"))
    await backend(driver).write("a", b"A")
    assert [entry.key async for entry in backend(driver).list_keys("")] == ["a"]


async def test_nor_is_that_of_a_folder_within():
    driver = Driver()
    driver.objects["p/leases/"] = (b"", ETag("x"))
    await backend(driver).write("leases/a", b"A")
    assert [entry.key async for entry in backend(driver).list_keys("leases/")] == ["leases/a"]


async def test_an_error_names_the_key_and_not_the_object():
    with pytest.raises(NotFoundError) as caught:
        await backend(Driver()).read("a/b")
    assert caught.value.key == "a/b"


class EndsBeneath(Driver):
    """Its session ends while a request is on its way, and its library is not made for that."""

    def __init__(self):
        super().__init__()
        self.asked, self.closed = asyncio.Event(), asyncio.Event()

    async def get(self, name, span):
        self.asked.set()
        await self.closed.wait()
        raise AssertionError

    async def close(self):
        self.closed.set()


async def test_what_is_under_way_when_it_is_closed_ends_with_an_error_of_ours():
    driver = EndsBeneath()
    store = backend(driver)
    reading = asyncio.ensure_future(store.read("a"))
    await driver.asked.wait()
    await store.close()
    with pytest.raises(UnavailableError, match="closed while a was asked for"):
        await reading


class Busy(Driver):
    """Answers when it is told to."""

    def __init__(self):
        super().__init__()
        self.begun, self.answering = 0, asyncio.Event()

    async def get(self, name, span):
        self.begun += 1
        await self.answering.wait()
        return Served(b"", ETag("0"), NOW)


async def test_no_more_requests_are_begun_than_there_are_connections():
    driver = Busy()
    store = backend(driver)
    reading = [asyncio.ensure_future(store.read("a")) for _ in range(100)]
    await asyncio.sleep(0)
    assert driver.begun == 64
    reading.pop().cancel()
    driver.answering.set()
    assert len(await asyncio.gather(*reading)) == 99


async def test_a_part_that_is_empty_has_the_version_of_the_object():
    driver = Driver()
    etag = await backend(driver).write("a", b"content")
    blob = await backend(driver).read("a", span=Span(3, 3))
    assert (blob.data, blob.etag) == (b"", etag)


async def test_a_large_stream_is_a_file_and_a_small_one_is_bytes(monkeypatch):
    monkeypatch.setattr("statepath.objectstore.backend._IN_MEMORY", 10)
    driver = Driver()
    await backend(driver).write_stream("small", [b"12345", b"67890"])
    await backend(driver).write_stream("large", [b"12345", b"67890", b"1"])
    small, large = driver.put_kinds
    assert small is bytes
    assert large is not bytes
    assert driver.objects["p/large"][0] == b"12345678901"


class Full(io.BytesIO):
    """A file on a disk that has no space; what is left to be written is tried again when it is closed."""

    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        if not self.closed:
            super().close()
            raise OSError(errno.ENOSPC, "No space left on device")


def no_folder(*args, **options):
    raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")


@pytest.mark.parametrize(
    ("file", "code", "says"),
    [(lambda *args, **options: Full(), "disk_full", "/temp "), (no_folder, "unavailable", "No usable")],
    ids=["full", "readonly"],
)
async def test_a_temporary_file_that_cannot_be_written_is_told(monkeypatch, file, code, says):
    monkeypatch.setattr("statepath.objectstore.backend._IN_MEMORY", 10)
    monkeypatch.setattr(tempfile, "TemporaryFile", file)
    monkeypatch.setattr(tempfile, "tempdir", "/temp")
    driver = Driver()
    with pytest.raises(UnavailableError, match="TMPDIR") as caught:
        await backend(driver).write_stream("large", [b"12345", b"67890", b"1"])
    assert (caught.value.key, caught.value.code, says in str(caught.value)) == ("large", code, True)
    assert driver.objects == {}


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), TimeoutError("late")], ids=["broken", "late"]
)
async def test_what_the_source_of_a_stream_raises_is_not_the_temporary_file_s_fault(error):
    def broken():
        yield b"12345"
        raise error

    driver = Driver()
    with pytest.raises(type(error), match=re.escape(str(error))):
        await backend(driver).write_stream("large", broken())
    assert driver.objects == {}


async def test_more_than_one_request_takes_is_refused():
    driver = Driver()
    for write in (
        backend(driver, limit=3).write("a", b"1234"),
        backend(driver, limit=3).write_stream("a", [b"1234"]),
    ):
        with pytest.raises(InvalidArgumentError):
            await write
    assert driver.objects == {}


async def test_a_service_that_lists_by_folders_is_sorted():
    driver = Driver(order=_folders)
    for key in ("a/x", "a-b", "a", "b"):
        await backend(driver).write(key, b"")
    assert [entry.key async for entry in backend(driver).list_keys("")] == ["a", "a-b", "a/x", "b"]
    assert [entry.key async for entry in backend(driver).list_keys("", after="a-b")] == ["a/x", "b"]


async def test_a_service_that_says_it_sorts_and_does_not_is_told():
    driver = Driver(order=lambda name: -ord(name[-1]))
    for key in ("a", "b", "c"):
        await backend(driver).write(key, b"")
    with pytest.raises(UnsupportedError, match="byte order"):
        _ = [entry async for entry in backend(driver).list_keys("")]


def ignoring(condition):
    driver = Driver(ignores=(condition,))
    driver.endpoint = f"mem://ignoring-{condition}"
    return driver


@pytest.mark.parametrize("ignored", ["create", "replace", "delete"])
async def test_the_probe_refuses_a_service_that_ignores_a_condition(ignored):
    driver = ignoring(ignored)
    with pytest.raises(UnsupportedError, match=ignored):
        await opened(driver)
    assert driver.objects == {}


@pytest.mark.parametrize("ignored", ["replace", "delete"])
async def test_the_probe_refuses_a_service_that_ignores_what_its_driver_checks(ignored):
    bare = ignoring(ignored)
    with pytest.raises(UnsupportedError, match=ignored):
        await opened(Checking(bare), bare)
    assert bare.objects == {}


async def test_of_a_service_that_ignores_the_condition_of_deletions_alone_it_is_not_said_that_commits_are_lost():
    with pytest.raises(UnsupportedError, match="has conditional deletions") as caught:
        await opened(ignoring("delete"))
    assert "commits would be safe" in str(caught.value)
    assert "lose each other's commits" not in str(caught.value)
    assert caught.value.code == "conditions_ignored"


class CopiesNot(Driver):
    """Its service has no such request, or fails in it."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.endpoint = f"mem://{type(error).__name__}"

    async def copy(self, source, target, when):
        if self.error is not None:
            raise self.error
        return await super().copy(source, target, when)


@pytest.mark.parametrize(
    "driver",
    [
        ignoring("copy"),
        CopiesNot(InvalidArgumentError("400")),
        CopiesNot(AccessDeniedError("403")),
        CopiesNot(NotFoundError("404")),
        CopiesNot(UnavailableError("501")),
    ],
    ids=["ignoring", "unknown", "refused", "nowhere", "failing"],
)
async def test_a_service_that_does_not_copy_one_version_only_is_not_asked_to_copy(driver):
    for _ in range(2):
        store = await opened(driver)
        await store.write("a", b"A")
        with pytest.raises(UnsupportedError, match="read a and write it instead"):
            await store.copy("a", "b")
        assert not store.capabilities.copy
        assert set(driver.objects) == {"p/a"}


async def test_a_service_that_fails_to_copy_for_now_is_asked_again():
    driver = CopiesNot(ThrottledError("503"))
    assert not (await opened(driver)).capabilities.copy
    driver.error = None
    assert (await opened(driver)).capabilities.copy


@pytest.mark.parametrize("kind", [IfAbsent, IfMatch])
async def test_the_probe_refuses_a_service_that_does_not_know_a_condition(kind):
    class Ignorant(Driver):
        async def put(self, name, content, when):
            if isinstance(when, kind):
                raise UnsupportedError("501")
            return await super().put(name, content, when)

    driver = Ignorant()
    driver.endpoint = f"mem://ignorant-{kind.__name__}"
    with pytest.raises(UnsupportedError, match="does not keep the condition") as caught:
        await opened(driver)
    assert caught.value.code == "conditions_ignored"
    assert driver.objects == {}


async def test_the_probe_refuses_who_may_not_delete():
    class Keeping(Driver):
        async def remove(self, name, when):
            self.check(name, when, "delete")
            raise AccessDeniedError(name, key=name)

    driver = Keeping()
    driver.endpoint = "mem://keeping"
    for _ in range(2):
        with pytest.raises(AccessDeniedError):
            await opened(driver)


async def test_the_probe_tells_an_ignored_condition_though_it_may_not_delete():
    class Keeping(Driver):
        async def remove(self, name, when):
            raise AccessDeniedError(name, key=name)

    driver = Keeping(ignores=("create",))
    driver.endpoint = "mem://keeping-and-careless"
    with pytest.raises(UnsupportedError, match="create"):
        await opened(driver)


async def test_the_probe_leaves_nothing_behind():
    driver = Driver()
    driver.endpoint = "mem://sound"
    await opened(driver)
    assert driver.objects == {}


def test_an_unmet_condition_is_the_error_that_belongs_to_it():
    asked = Asked("mem", "box", "a", IfMatch(ETag("1")))
    assert type(unmet(asked)) is ConflictError
    assert type(unmet(Asked("mem", "box", "a", IfAbsent()))) is AlreadyExistsError
