"""The key ring is written with what can be unwrapped again, and with nothing else."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from msgspec.structs import replace
from statepath.commit import seal
from statepath.encryption import RING_KEY, check_outside
from statepath.encryption.keyring import Keys, read_ring
from statepath.errors import ConfigurationError, CorruptionError, NotFoundError, UnsupportedError
from statepath.memory import MemoryBackend, MemoryConfig


class Provider:
    """Of another hand: gives what it was made with."""

    name = "kms alias/agents"

    def __init__(self, wrapped: Any = None, unwrapped: Any = None) -> None:
        self.wrapped = wrapped or bytes
        self.unwrapped = unwrapped or bytes

    async def wrap(self, data_key: bytes, context: bytes) -> Any:
        return self.wrapped(data_key)

    async def unwrap(self, wrapped: Any, context: bytes) -> Any:
        return self.unwrapped(wrapped)

    async def close(self) -> None: ...


def as_text(data: bytes) -> str:
    return f"vault:v1:{b64encode(data).decode()}"


def of_text(text: str) -> bytes:
    return b64decode(text.removeprefix("vault:v1:"))


def refusing(wrapped: bytes) -> bytes:
    raise ConfigurationError("it was wrapped by another key", code="wrong_key")


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        (Provider(as_text, of_text), "wraps a data key as str"),
        (Provider(unwrapped=as_text), "unwraps something other than a data key"),
        (Provider(unwrapped=lambda wrapped: wrapped[:16]), "unwraps something other than a data key"),
        (Provider(unwrapped=lambda wrapped: b"0" * 32), "does not unwrap what it has wrapped itself"),
        (Provider(unwrapped=refusing), "does not unwrap what it has wrapped itself"),
    ],
    ids=["wraps text", "unwraps text", "unwraps half", "unwraps another", "refuses"],
)
async def test_no_ring_is_written_by_a_provider_that_does_not_unwrap_what_it_wraps(
    provider: Provider, told: str
) -> None:
    backend = MemoryBackend(MemoryConfig())
    with pytest.raises(ConfigurationError, match=f"the key provider 'kms alias/agents' .* {told}") as caught:
        await Keys.create(backend, provider)
    assert caught.value.code == "bad_key"
    with pytest.raises(NotFoundError):
        await backend.read(RING_KEY)


@pytest.mark.parametrize("unwrapped", [as_text, lambda wrapped: wrapped[:16]], ids=["text", "half"])
async def test_a_provider_that_unwraps_no_data_key_is_named(unwrapped: Any) -> None:
    backend = MemoryBackend(MemoryConfig())
    await Keys.create(backend, Provider())
    with pytest.raises(ConfigurationError, match="the key provider 'kms alias/agents' cannot be used"):
        await Keys.load(backend, Provider(unwrapped=unwrapped))


@pytest.mark.parametrize(
    "forged",
    [
        {"id": "\x1b[2J"},
        {"id": "0" * 31 + "g"},
        {"by": "key \x1b]0;hunter2\x07"},
        {"created": 1e300},
        {"created": -1e12},
    ],
    ids=str,
)
async def test_a_ring_that_cannot_be_shown_is_damaged(forged: dict[str, Any]) -> None:
    backend = MemoryBackend(MemoryConfig())
    ring = (await Keys.create(backend, Provider())).ring
    await backend.write(RING_KEY, bytes(seal(replace(ring, keys=(replace(ring.keys[0], **forged),)))))
    with pytest.raises(CorruptionError, match=r"keyring\.json is damaged") as caught:
        await read_ring(backend)
    assert str(caught.value).isprintable()


async def test_a_ring_that_names_an_unknown_command_is_damaged() -> None:
    backend = MemoryBackend(MemoryConfig())
    ring = (await Keys.create(backend, Provider())).ring
    await backend.write(RING_KEY, bytes(seal(replace(ring, converting="retire --yes"))))
    with pytest.raises(CorruptionError, match=r"keyring\.json is damaged"):
        await read_ring(backend)


async def test_a_ring_of_a_newer_format_is_not_damaged_by_what_is_new_in_it() -> None:
    backend = MemoryBackend(MemoryConfig())
    ring = (await Keys.create(backend, Provider())).ring
    await backend.write(RING_KEY, bytes(seal(replace(ring, format=2, converting="compress"))))
    with pytest.raises(UnsupportedError, match="install a newer statepath") as caught:
        await read_ring(backend)
    assert caught.value.code == "newer_format"


async def test_a_rotation_is_finished_by_who_has_sealed_with_the_newest_key() -> None:
    backend = MemoryBackend(MemoryConfig())
    one = await Keys.create(backend, Provider())
    other = await Keys.load(backend, Provider())
    assert other is not None
    await one.rotate()
    await other.rotate()
    await one.rotated(one.ring.keys[1].id)
    assert one.ring.rotating
    await other.rotated(other.newest.id)
    assert not other.ring.rotating


def test_a_store_that_is_no_folder_has_no_key_file_in_it() -> None:
    backend = MemoryBackend(MemoryConfig())
    backend.url = "memory:of a person"
    check_outside(backend, "/etc/master-key")
