"""Master keys: each file that cannot be used is told apart, and none is ever shown."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import sys
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from secrets import token_bytes

import pytest
from statepath.encryption import KeyProvider, providers
from statepath.encryption.providers import MasterKey, _Guarded, create_key_file, provider_of, read_key_file
from statepath.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    CorruptionError,
    NotFoundError,
    StateError,
    UnavailableError,
)
from statepath.settings import Settings

SECRET = token_bytes(32)
TEXT = b64encode(SECRET).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{TEXT}\n")
    path.chmod(0o600)
    return path


def refused(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_key_file(str(file))
    assert caught.value.code == "bad_key"
    assert TEXT[:-6] not in str(caught.value)
    assert str(file) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [TEXT, f"  {TEXT}\n", SECRET.hex(), SECRET.hex().upper()],
    ids=["base64", "with space", "hex", "HEX"],
)
def test_a_key_is_written_in_base64_or_hexadecimal_digits(file: Path, text: str) -> None:
    file.write_text(text)
    assert read_key_file(str(file)) == SECRET


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert "there is no key file" in refused(tmp_path / "none")


def test_a_file_that_is_empty(file: Path) -> None:
    file.write_text(" \n")
    assert "is empty" in refused(file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b64encode(SECRET[:16]).decode(), "too short: it has 16 bytes"),
        (b64encode(SECRET * 2).decode(), "too long: it has 64 bytes"),
        ("correct horse battery staple", "no master key"),
        ("ä" * 40, "no master key"),
    ],
    ids=["short", "long", "words", "no ASCII"],
)
def test_a_file_that_holds_something_else(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    assert told in refused(file)


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o777])
def test_a_file_that_others_may_open(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert f"chmod 600 {file}" in refused(file)


def test_what_closes_a_file_can_be_pasted_whatever_its_name_is(file: Path) -> None:
    file = file.rename(file.with_name("my key"))
    file.chmod(0o604)
    assert f"chmod 600 '{file}';" in refused(file)


def test_a_file_of_another_user(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    owned = os.stat_result((stat.S_IFREG | 0o600, 1, 1, 1, 54321, 0, 45, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda fd: owned)
    assert "chown 12345" in refused(file)


def test_a_file_that_an_administrator_gives_to_a_group(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Kubernetes mounts a secret."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    owned = os.stat_result((stat.S_IFREG | 0o440, 1, 1, 1, 0, 12345, 45, 0, 0, 0))
    monkeypatch.setattr(os, "fstat", lambda fd: owned)
    assert read_key_file(str(file)) == SECRET


def test_a_folder(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_who_writes_to_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    assert "is no regular file" in refused(pipe)


def test_a_device_is_refused() -> None:
    assert "is no regular file" in refused(Path(os.devnull))


@pytest.mark.parametrize("name", ["a\0b", "\ud800"], ids=["NUL", "surrogate"])
def test_a_path_that_no_file_can_have(name: str) -> None:
    for call in (read_key_file, create_key_file):
        with pytest.raises(ConfigurationError, match="no file can be named '") as caught:
            call(name)
        assert caught.value.code == "bad_key"
        assert name not in str(caught.value)


def test_a_new_file_is_its_owner_s_alone_and_replaces_none(tmp_path: Path) -> None:
    path = tmp_path / "key"
    mask = os.umask(0)
    try:
        create_key_file(str(path))
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = read_key_file(str(path))
    assert len(key) == 32
    with pytest.raises(AlreadyExistsError):
        create_key_file(str(path))
    assert read_key_file(str(path)) == key


def test_two_master_keys_are_one_too_many(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="both set"):
        provider_of(Settings(encryption_key_file=str(file), encryption_key=TEXT))


def test_an_unknown_provider_is_told_with_those_there_are() -> None:
    told = r"key provider 'kms' \(installed: .*\): install its package, or check the name in STATE_ENCRYPTION_PROVIDER"
    with pytest.raises(ConfigurationError, match=told):
        provider_of(Settings(encryption_provider="kms:alias/agents"))


def broken(reference: str) -> KeyProvider:
    raise RuntimeError(reference)


def lacking(reference: str) -> object:
    return object()


def unprintable(reference: str) -> KeyProvider:
    provider = Talkative()
    provider.name = "one\x1b[2J"
    return provider


@pytest.mark.parametrize(
    ("points", "told"),
    [
        (
            ["broken"],
            "cannot be made by .*: RuntimeError; check what STATE_ENCRYPTION_PROVIDER says behind kms:",
        ),
        (["lacking"], "makes no key provider: .*; update its package"),
        (["unprintable"], "has a name that cannot be printed: update its package"),
        (["broken", "lacking"], "several installed packages claim .*: uninstall all but one of them"),
    ],
    ids=["broken", "lacking", "unprintable", "several"],
)
def test_a_provider_that_cannot_be_made_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, points: list[str], told: str
) -> None:
    monkeypatch.setitem(sys.modules, "keys_of_this_test", sys.modules[__name__])
    announced = [EntryPoint("kms", f"keys_of_this_test:{point}", providers.GROUP) for point in points]
    monkeypatch.setattr(providers, "points_of", lambda group: announced)
    with pytest.raises(ConfigurationError, match=told) as caught:
        provider_of(Settings(encryption_provider="kms:hunter2"))
    assert caught.value.code == "bad_key"
    assert "hunter2" not in str(caught.value)


REFERENCE = "https://agents:hunter2@vault"


class Talkative:
    """A provider whose errors quote what it was told."""

    name = "one"

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        raise RuntimeError(REFERENCE)

    unwrap = wrap

    async def close(self) -> None: ...


async def shown(call: Callable[[], Awaitable[object]]) -> str:
    """All that a traceback of what was raised has."""
    with pytest.raises(StateError) as caught:
        await call()
    return "".join(traceback.format_exception(caught.value))


async def test_what_a_provider_is_told_is_in_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keys_of_this_test", sys.modules[__name__])
    announced = [EntryPoint("kms", "keys_of_this_test:broken", providers.GROUP)]
    monkeypatch.setattr(providers, "points_of", lambda group: announced)
    settings = Settings(encryption_provider=f"kms:{REFERENCE}")

    async def make() -> object:
        return provider_of(settings)

    provider = _Guarded(Talkative(), "kms")
    for call in (make, partial(provider.wrap, SECRET, b""), partial(provider.unwrap, SECRET, b"")):
        told = await shown(call)
        assert "RuntimeError" in told
        assert REFERENCE not in told


async def test_what_was_wrapped_is_unwrapped_by_the_same_key_in_the_same_context() -> None:
    key = MasterKey(SECRET, "a file")
    wrapped = await key.wrap(b"k" * 32, b"context")
    assert await MasterKey(SECRET, "elsewhere").unwrap(wrapped, b"context") == b"k" * 32
    for other, context in ((MasterKey(token_bytes(32), "a file"), b"context"), (key, b"another")):
        with pytest.raises(ConfigurationError) as caught:
            await other.unwrap(wrapped, context)
        assert caught.value.code == "wrong_key"


def test_the_name_of_a_key_tells_it_apart_and_gives_nothing_away() -> None:
    one, other = MasterKey(SECRET, "a"), MasterKey(token_bytes(32), "a")
    assert one.name != other.name
    assert one.name == MasterKey(SECRET, "b").name
    assert TEXT not in repr(one)
    assert SECRET.hex() not in repr(one)


def test_the_name_of_a_new_file_is_durable_before_anything_is_wrapped_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    create_key_file(str(tmp_path / "key"))
    assert synced == [str(tmp_path / "key"), str(tmp_path)]


def test_a_file_that_could_not_be_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="cannot be made: No space left"):
        create_key_file(str(tmp_path / "key"))
    assert list(tmp_path.iterdir()) == []


async def test_a_provider_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging:
        name = "one"

        async def wrap(self, data_key: bytes, context: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        unwrap = wrap

        async def close(self) -> None: ...

    monkeypatch.setattr("statepath.encryption.providers._PATIENCE", 0.01)
    provider = _Guarded(Hanging(), "kms")
    for call in (provider.wrap, provider.unwrap):
        with pytest.raises(
            UnavailableError,
            match=r"the key provider 'kms' did not answer: .*: check that .*, then try again",
        ):
            await call(SECRET, b"")


class Saying:
    """A provider that says what it was made with."""

    name = "one"

    def __init__(self, error: StateError) -> None:
        self.error = error

    async def wrap(self, data_key: bytes, context: bytes) -> bytes:
        raise self.error

    unwrap = wrap

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "error", [NotFoundError("no such key"), CorruptionError("altered"), ConflictError("busy")], ids=str
)
async def test_what_a_provider_says_is_not_mistaken_for_what_a_storage_would(error: StateError) -> None:
    provider = _Guarded(Saying(error), "kms")
    for call in (provider.wrap, provider.unwrap):
        with pytest.raises(UnavailableError, match=f"did not answer: {type(error).__name__}"):
            await call(SECRET, b"")


@pytest.mark.parametrize(
    "error",
    [AccessDeniedError("not you"), UnavailableError("not now"), ConfigurationError("not this")],
    ids=str,
)
async def test_what_a_provider_may_say_reaches_the_caller(error: StateError) -> None:
    with pytest.raises(type(error), match="not "):
        await _Guarded(Saying(error), "kms").unwrap(SECRET, b"")


@pytest.mark.parametrize("how", ["hangs", "fails"])
async def test_a_provider_that_cannot_be_closed_keeps_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    class Stuck:
        name = "one"

        async def wrap(self, data_key: bytes, context: bytes) -> bytes:
            return data_key

        unwrap = wrap

        async def close(self) -> None:
            if how == "fails":
                raise RuntimeError(SECRET.decode(errors="replace"))
            await asyncio.Event().wait()

    monkeypatch.setattr("statepath.encryption.providers._PATIENCE", 0.01)
    await _Guarded(Stuck(), "kms").close()
    assert "the key provider 'kms' could not be closed" in caplog.text
    assert SECRET.decode(errors="replace") not in caplog.text
