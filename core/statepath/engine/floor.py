"""`journal/floor`: where the log begins, whose log it is, and which snapshots of it were read back.

It is raised by compare-and-swap before anything below it is deleted, and its numbers never decrease.
"""

from __future__ import annotations

import secrets

import msgspec
from msgspec.structs import replace

from statepath.backend import IF_ABSENT, Backend, ETag, IfMatch
from statepath.commit import FLOOR_KEY, FORMAT, seal, unseal
from statepath.engine.snapshot import newer_format
from statepath.errors import CorruptionError, NotFoundError


class SnapshotMark(msgspec.Struct, frozen=True):
    """A snapshot that was written and read back: the time of its last commit, in microseconds since 1970, and how
    many bytes had been committed in all."""

    seq: int
    digest: str
    time: int = 0
    journal_bytes: int = 0


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What the log knows of itself beside its commits.

    Commits that begin below `floor` may be gone; up to `packed` they are in packs, and slots are nothing; `snapshots`
    are the newest ones, oldest first. `unfinished` says what the store is being made from, until all of it is there:
    nobody opens it before.
    """

    store: str
    incarnation: str
    floor: int = 1
    packed: int = 0
    min_reader: int = FORMAT
    min_writer: int = FORMAT
    snapshots: tuple[SnapshotMark, ...] = ()
    unfinished: str = ""
    version: str = ""
    """Random, so that no two versions of the record have the same bytes: some storages compare these."""


_decoder = msgspec.json.Decoder(Floor)
_least = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read_floor(backend: Backend) -> tuple[Floor, ETag] | None:
    """The stored record, or `None` if the store has none yet.

    Raises:
        CorruptionError: it cannot be read, or is not what was written.
        UnsupportedError: the store needs a newer program (`newer_format`).
    """
    try:
        blob = await backend.read(FLOOR_KEY)
    except NotFoundError:
        return None
    try:
        line = unseal(blob.data, "record of where the log begins")
        needed = int(bytes(_least.decode(line)["min_reader"]))
        if needed > FORMAT:
            raise newer_format(FLOOR_KEY, needed)
        return _decoder.decode(line), blob.etag
    except (CorruptionError, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise CorruptionError(f"{FLOOR_KEY} is damaged: {error}", key=FLOOR_KEY) from error


async def write_floor(backend: Backend, floor: Floor, etag: ETag | None) -> ETag:
    """Store the record in place of the version that was read (`None`: it must not exist).

    Raises:
        ConflictError, AlreadyExistsError: someone else wrote it since.
    """
    record = seal(replace(floor, version=secrets.token_hex(8)))
    return await backend.write(FLOOR_KEY, bytes(record), when=IF_ABSENT if etag is None else IfMatch(etag))
