"""Sealed content as a file object: written from its beginning to its end, read anywhere."""

from __future__ import annotations

import io
from typing import IO, Final

from statepath.encryption.sealing import HEADER, SEGMENT, STORED, DataKey, Sealing, content_size, open_from
from statepath.errors import CorruptionError

PLACE: Final = "portable"


class SealedWriter(io.RawIOBase):
    """Seals what is written to it into another file, which stays open; whole only once this is closed."""

    def __init__(self, file: IO[bytes], key: DataKey, store: bytes) -> None:
        self._file = file
        self._sealing = Sealing.new(key, store, PLACE)
        self._rest = bytearray()
        self._number = 0
        file.write(self._sealing.header)

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]  # a buffer, as ours are
        self._rest += data
        while len(self._rest) > SEGMENT:
            self._seal(bytes(self._rest[:SEGMENT]), last=False)
            del self._rest[:SEGMENT]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._seal(bytes(self._rest), last=True)
        super().close()

    def _seal(self, data: bytes, *, last: bool) -> None:
        self._file.write(self._sealing.seal(self._number, data, last=last))
        self._number += 1


class SealedReader(io.RawIOBase):
    """What a `SealedWriter` wrote, from the offset of another file on, which ends with it and is closed with it.

    Each read raises `CorruptionError` if it is not what was written.
    """

    def __init__(self, file: IO[bytes], offset: int, key: DataKey, store: bytes, name: str) -> None:
        self._file = file
        self._offset = offset
        self._name = name
        file.seek(0, io.SEEK_END)
        self._stored = file.tell() - offset
        self._size = content_size(self._stored)
        self._at = 0
        self._held: tuple[int, bytes] = (-1, b"")
        file.seek(offset)
        try:
            self._sealing = Sealing.of(key, store, PLACE, file.read(HEADER))
        except CorruptionError as error:
            raise self._altered(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # as above
        number, start = divmod(self._at, SEGMENT)
        if self._at >= self._size:
            return 0
        data = self._segment(number)[start : start + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()

    def _segment(self, number: int) -> bytes:
        if self._held[0] != number:
            begin = HEADER + number * STORED
            self._file.seek(self._offset + begin)
            data = self._file.read(STORED + 1)
            try:
                self._held = number, open_from(self._sealing, number, data, whole=len(data) <= STORED)
            except CorruptionError as error:
                raise self._altered(error) from error
        return self._held[1]

    def _altered(self, error: CorruptionError) -> CorruptionError:
        return CorruptionError(
            f"{self._name} cannot be opened: {error}; nothing was written", key=self._name, code="bad_file"
        )
