"""The format of a sealed object: a header, and segments that are each encrypted and authenticated.

    magic 8 | id of the data key 16 | salt 32 | commitment 32      the header
    64 KiB, encrypted | tag 16                                     a segment; the last one is shorter, perhaps empty

The object has a key of its own, derived from the data key and the salt. A segment's nonce is its number and whether it
is the last one, so that none can be left out, put elsewhere or added; what is authenticated with it is the header and
the place that the object has in its store.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from secrets import token_bytes
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from statepath.encryption import SEALED
from statepath.errors import CorruptionError

MAGIC: Final = SEALED + b"C1"
PACKED: Final = SEALED + b"Z1"
"""So begins an object whose content was compressed before it was sealed."""

KEY_BYTES: Final = 32
ID_BYTES: Final = 16
SEGMENT: Final = 64 * 1024
TAG: Final = 16
SALT: Final = 32
HEADER: Final = len(MAGIC) + ID_BYTES + SALT + 32
STORED: Final = SEGMENT + TAG


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that content is sealed with, and its id, which is no secret."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls) -> DataKey:
        return cls(token_bytes(ID_BYTES).hex(), token_bytes(KEY_BYTES))


def derive(secret: bytes, salt: bytes, context: bytes, size: int = 2 * KEY_BYTES) -> bytes:
    """Bytes that only the holder of the secret can have, for one context."""
    return HKDF(SHA512(), size, salt, context).derive(secret)


class Sealing:
    """How one object is sealed: its header, and its own key. `packed` says that its content is compressed."""

    __slots__ = ("_cipher", "_told", "header", "packed")

    def __init__(self, key: DataKey, store: bytes, place: str, salt: bytes, *, packed: bool = False) -> None:
        derived = derive(key.secret, salt, b"statepath object\0" + store)
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self.packed = packed
        self.header = (PACKED if packed else MAGIC) + bytes.fromhex(key.id) + salt + derived[KEY_BYTES:]
        self._told = self.header + store + place.encode()

    @classmethod
    def new(cls, key: DataKey, store: bytes, place: str, *, packed: bool = False) -> Sealing:
        return cls(key, store, place, token_bytes(SALT), packed=packed)

    @classmethod
    def of(cls, key: DataKey, store: bytes, place: str, header: bytes) -> Sealing:
        """That of a stored object.

        Raises:
            CorruptionError: the header is not what was written.
        """
        salt = header[len(MAGIC) + ID_BYTES :][:SALT]
        sealing = cls(key, store, place, salt, packed=header.startswith(PACKED))
        if not hmac.compare_digest(sealing.header, header):
            raise CorruptionError("its header was altered")
        return sealing

    def seal(self, number: int, data: bytes | memoryview, *, last: bool) -> bytes:
        return self._cipher.encrypt(_nonce(number, last=last), data, self._told)

    def open(self, number: int, data: bytes | memoryview, *, last: bool) -> bytes:
        """
        Raises:
            CorruptionError: it is not that segment of that object.
        """
        try:
            return self._cipher.decrypt(_nonce(number, last=last), data, self._told)
        except (InvalidTag, ValueError) as error:
            raise CorruptionError("it was altered or cut, or belongs to another place") from error


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def key_of(header: bytes) -> str | None:
    """The id of the data key that an object was sealed with; `None`: it is not a sealed one."""
    if len(header) < HEADER or not header.startswith((MAGIC, PACKED)):
        return None
    return header[len(MAGIC) :][:ID_BYTES].hex()


def seal_all(sealing: Sealing, chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The object of these chunks, in pieces about as large as they are."""
    piece = bytearray(sealing.header)
    rest = bytearray()
    number = 0
    for chunk in chunks:
        rest += chunk
        whole = (len(rest) - 1) // SEGMENT  # something stays for the last segment
        with memoryview(rest) as held:
            for at in range(0, whole * SEGMENT, SEGMENT):
                piece += sealing.seal(number, held[at : at + SEGMENT], last=False)
                number += 1
        if whole > 0:
            rest = rest[whole * SEGMENT :]  # not cut: a debugger may still hold a view of it
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + sealing.seal(number, bytes(rest), last=True))


def open_all(sealing: Sealing, data: bytes) -> bytes:
    """The content of a whole object."""
    return open_from(sealing, 0, memoryview(data)[HEADER:], whole=True)


def open_from(sealing: Sealing, number: int, data: bytes | memoryview, *, whole: bool) -> bytes:
    """The content of the segments from that number on. `whole` says that the object ends with them; else one byte of
    the next segment is behind them, and not part of any."""
    with memoryview(data) as view:
        end = len(view) if whole else len(view) - 1
        found = []
        for at in range(0, end, STORED) or (0,):
            last = whole and at + STORED >= end
            found.append(sealing.open(number, view[at : min(at + STORED, end)], last=last))
            number += 1
    return b"".join(found)


def content_size(stored: int) -> int:
    """How many bytes an object of that size holds."""
    if stored < HEADER + TAG:
        return 0
    return stored - HEADER - TAG * -(-(stored - HEADER) // STORED)
