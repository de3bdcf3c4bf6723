"""`journal/floor`: where the log begins, whose log it is, and which snapshots of it were read back.

It is raised by compare-and-swap before anything below it is deleted, and its numbers never decrease.
"""

from __future__ import annotations

import secrets

import msgspec
from msgspec.structs import replace

from statepath.backend import IF_ABSENT, Backend, ETag, IfMatch
from statepath.commit import FLOOR_KEY, FORMAT, seal, unseal
from statepath.encryption import RING_KEY, SEALED, has_ring
from statepath.engine.snapshot import newer_format
from statepath.errors import ConflictError, CorruptionError, NotFoundError, UnsupportedError


class SnapshotMark(msgspec.Struct, frozen=True):
    """A snapshot that was written and read back: the time and the id of its last commit, in microseconds since 1970,
    and how many bytes had been committed in all."""

    seq: int
    digest: str
    time: int = 0
    journal_bytes: int = 0
    commit: str = ""


class Earlier(msgspec.Struct, frozen=True):
    """An incarnation that a promotion ended: up to the seq its commits and snapshots are of this history, too."""

    incarnation: str
    seq: int


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What the log knows of itself beside its commits.

    Commits that begin below `floor` may be gone; up to `packed` they are in packs, and slots are nothing; `snapshots`
    are the newest ones, oldest first. `unfinished` says what the store is being made from, until all of it is there:
    nobody opens it before. `replica_of` says where the primary is: until its promotion a replica takes nothing but the
    primary's commits.
    """

    store: str
    incarnation: str
    floor: int = 1
    packed: int = 0
    min_reader: int = FORMAT
    min_writer: int = FORMAT
    snapshots: tuple[SnapshotMark, ...] = ()
    unfinished: str = ""
    replica_of: str = ""
    earlier: tuple[Earlier, ...] = ()
    version: str = ""
    """Random, so that no two versions of the record have the same bytes: some storages compare these."""

    def strange(self, incarnation: str, seq: int) -> bool:
        """Whether a state of that seq is of the time after this history parted from an earlier incarnation."""
        return any(one.incarnation == incarnation and seq > one.seq for one in self.earlier)

    def continues(self, incarnation: str, seq: int) -> bool:
        """Whether the state of that seq, in that incarnation, is of this history."""
        return incarnation == self.incarnation or any(
            one.incarnation == incarnation and seq <= one.seq for one in self.earlier
        )


_decoder = msgspec.json.Decoder(Floor)
_least = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def read_floor(backend: Backend) -> tuple[Floor, ETag] | None:
    """The stored record, or `None` if the store has none yet.

    Raises:
        CorruptionError: it cannot be read, or is not what was written.
        UnsupportedError: the store needs a newer program (`newer_format`), or is sealed, and this handle has no
            keys, or nobody has (`encrypted`).
    """
    try:
        blob = await backend.read(FLOOR_KEY)
    except NotFoundError:
        return None
    await check_plain(backend, FLOOR_KEY, blob.data)
    try:
        line = unseal(blob.data, "record of where the log begins")
        needed = int(bytes(_least.decode(line)["min_reader"]))
        if needed > FORMAT:
            raise newer_format(FLOOR_KEY, needed)
        return _decoder.decode(line), blob.etag
    except (CorruptionError, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise CorruptionError(f"{FLOOR_KEY} is damaged: {error}", key=FLOOR_KEY) from error


async def check_plain(backend: Backend, key: str, data: bytes) -> None:
    """
    Raises:
        UnsupportedError: what was read is sealed, and this handle has no keys, or nobody has (`encrypted`).
    """
    if not data.startswith(SEALED):
        return
    if await has_ring(backend):
        raise UnsupportedError(
            f"the store at {backend.url} was encrypted while it was open here: open it again with the master key",
            key=RING_KEY,
            code="encrypted",
        )
    raise UnsupportedError(
        f"{key} is sealed, and {RING_KEY} is missing, without which nothing at {backend.url} can be read: "
        f"put the newest copy of it back, and set the master key; or move {key} away if it is another store's",
        key=RING_KEY,
        code="encrypted",
    )


async def write_floor(backend: Backend, floor: Floor, etag: ETag | None) -> ETag:
    """Store the record in place of the version that was read (`None`: it must not exist).

    Raises:
        ConflictError, AlreadyExistsError: someone else wrote it since.
    """
    record = seal(replace(floor, version=secrets.token_hex(8)))
    return await backend.write(FLOOR_KEY, bytes(record), when=IF_ABSENT if etag is None else IfMatch(etag))


async def check_ours(backend: Backend, etag: ETag) -> None:
    """
    Raises:
        ConflictError: the record is not of that version: whoever makes the place theirs changes it first.
    """
    stored = await read_floor(backend)
    if stored is None or stored[1] != etag:
        raise lost(backend)


def lost(backend: Backend) -> ConflictError:
    """Why an attempt to make a store ends."""
    return ConflictError(f"someone else is making a store at {backend.url}", key=FLOOR_KEY)
