"""Compression of what is sealed afterwards, since nothing can be compressed once it is encrypted: zstd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, Final, cast

from statepath.errors import ConfigurationError, CorruptionError

_LEVEL: Final = 3
_PIECE: Final = 4 * 1024 * 1024


def check_installed() -> None:
    """
    Raises:
        ConfigurationError: the library is missing (`not_installed`).
    """
    _library()


def pack(data: bytes) -> bytes:
    """The data, compressed."""
    return cast("bytes", _library().ZstdCompressor(level=_LEVEL).compress(data))


def pack_all(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """As `pack`, of what should not be held in memory whole."""
    packing: Any = _library().ZstdCompressor(level=_LEVEL).compressobj()
    for chunk in chunks:
        if packed := packing.compress(chunk):
            yield packed
    yield packing.flush()


def unpack(data: bytes, limit: int) -> bytes:
    """What was compressed, if it has at most `limit` bytes.

    Raises:
        CorruptionError: it has more, or is not what `pack` made.
    """
    library = _library()
    found = bytearray()
    try:
        with library.ZstdDecompressor().stream_reader(data) as reader:
            while piece := reader.read(min(_PIECE, limit + 1 - len(found))):
                found += piece
                if len(found) > limit:
                    raise CorruptionError(f"it has more than {limit:,} bytes uncompressed")
    except library.ZstdError as error:
        raise CorruptionError(f"it cannot be uncompressed: {error}") from error
    return bytes(found)


def _library() -> ModuleType:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ConfigurationError(
            "compression needs the package zstandard; install it with: pip install 'statepath[compression]'",
            code="not_installed",
        ) from None
    return zstandard
