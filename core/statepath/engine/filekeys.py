"""The key of a file beside a store: a portable backup has a key ring of its own, and needs no store to be read.

magic 8 | bytes of the ring 4 | the ring, a line of JSON | what is sealed with its key
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import token_bytes
from typing import IO, TYPE_CHECKING, Final

from statepath.encryption import RING_KEY, load_keys, make_keys
from statepath.errors import ConfigurationError, CorruptionError
from statepath.memory import MemoryBackend, MemoryConfig
from statepath.settings import Settings

if TYPE_CHECKING:
    from statepath.encryption.sealing import DataKey

MAGIC: Final = b"\x93STPFILE"
_LENGTH: Final = 4
_LONGEST: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileKey:
    """The key of one file, and what the file begins with so that it can be had again."""

    beginning: bytes
    key: DataKey
    store: bytes

    @contextmanager
    def writing(self, file: IO[bytes]) -> Iterator[IO[bytes]]:
        """A file whose content is sealed into this one."""
        from statepath.encryption.files import SealedWriter

        file.write(self.beginning)
        with SealedWriter(file, self.key, self.store) as sealed:
            yield sealed  # type: ignore[misc]  # what of it a zip file needs

    def reading(self, file: IO[bytes], name: str) -> IO[bytes]:
        """The content of this file, which is closed with it."""
        from statepath.encryption.files import SealedReader

        return io.BufferedReader(SealedReader(file, len(self.beginning), self.key, self.store, name))


def passing_key() -> FileKey:
    """A key that nobody keeps, for a file that this process alone reads."""
    from statepath.encryption.sealing import DataKey

    return FileKey(b"", DataKey.new(), token_bytes(16))


async def new_file_key(settings: Settings) -> FileKey | None:
    """A key for a new file; `None`: no master key is configured."""
    if not settings.encrypted:
        return None
    shelf = MemoryBackend(MemoryConfig())
    keys = await make_keys(shelf, settings)
    try:
        ring = (await shelf.read(RING_KEY)).data
        beginning = MAGIC + len(ring).to_bytes(_LENGTH, "big") + ring
        return FileKey(beginning, await keys.primary(), keys.store)
    finally:
        await keys.close()


async def file_key_of(path: str, settings: Settings) -> FileKey | None:
    """The key of a file; `None`: it is not sealed, or not there.

    Raises:
        ConfigurationError: it is sealed, and no master key (`no_key`) or another one (`wrong_key`) is configured.
        CorruptionError: its key ring is damaged.
    """
    try:
        with open(path, "rb") as file:  # noqa: ASYNC230 - a few bytes
            if file.read(len(MAGIC)) != MAGIC:
                return None
            length = int.from_bytes(file.read(_LENGTH), "big")
            ring = file.read(min(length, _LONGEST))
    except OSError:
        return None  # whoever reads all of it says why that is not possible
    if not settings.encrypted:
        raise ConfigurationError(
            f"{path} is encrypted, and no master key is configured: set STATE_ENCRYPTION_KEY_FILE",
            code="no_key",
        )
    shelf = MemoryBackend(MemoryConfig())
    shelf.url = path
    await shelf.write(RING_KEY, ring)
    try:
        keys = await load_keys(shelf, settings)
    except CorruptionError as error:
        raise CorruptionError(
            f"{path} cannot be opened: the key ring that it begins with was altered or cut; nothing was written",
            key=path,
            code="bad_file",
        ) from error
    assert keys is not None  # noqa: S101 - it was put there
    beginning = MAGIC + length.to_bytes(_LENGTH, "big") + ring
    try:
        return FileKey(beginning, await keys.primary(), keys.store)
    finally:
        await keys.close()
