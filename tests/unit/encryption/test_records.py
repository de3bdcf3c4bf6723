"""Records of the journal: sealed with all that stands beside them, and never two with one nonce."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from secrets import token_bytes, token_hex
from typing import cast

import msgspec
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from statepath.backend import CommitLog, SupportsExtend
from statepath.commit import Commit, Put, decode_commit, encode_commit, seal
from statepath.discovery import connect
from statepath.encryption import make_keys
from statepath.encryption.journal import RecordSealer, open_record, seal_log
from statepath.encryption.keyring import Keys
from statepath.encryption.sealing import DataKey
from statepath.errors import CorruptionError, UnavailableError, UnsupportedError
from statepath.settings import Settings

KEY = DataKey.new()
STORE = token_bytes(16)
CYCLES = 100_000


def make(first: int = 5, *, count: int = 1, text: str = "sesame") -> Commit:
    document = msgspec.Raw(msgspec.json.encode({"id": "task_1", "text": text}))
    return Commit(
        first=first,
        last=first + count - 1,
        id=f"c{first}",
        prev=f"c{first - 1}",
        writer="w",
        store="s",
        incarnation="i",
        time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        durable=first - 1,
        transactions=((Put(collection="tasks", id="task_1", document=document),),) * count,
    )


def unseal(commit: Commit, key: DataKey = KEY, store: bytes = STORE) -> Commit:
    assert commit.sealed is not UNSET
    return open_record(commit, commit.sealed, key, store)


@pytest.mark.parametrize("count", [1, 3])
def test_a_record_is_opened_as_it_was_sealed_and_shows_nothing_of_it(count: int) -> None:
    commit = make(count=count)
    line = bytes(encode_commit(RecordSealer(KEY, STORE).seal(commit)))
    assert b"sesame" not in line
    assert b"task_1" not in line
    assert unseal(decode_commit(line)) == commit


@pytest.mark.parametrize(
    "change",
    [
        {"first": 6, "last": 6},
        {"last": 6},
        {"id": "c6"},
        {"prev": "c3"},
        {"writer": "v"},
        {"store": "t"},
        {"incarnation": "j"},
        {"time": datetime(2026, 1, 2, tzinfo=UTC)},
        {"durable": 5},
        {"min_writer": 0},
    ],
)
def test_what_stands_beside_the_content_is_sealed_with_it(change: dict[str, object]) -> None:
    sealed = RecordSealer(KEY, STORE).seal(make())
    with pytest.raises(CorruptionError, match="altered"):
        unseal(replace(sealed, **change))


def test_a_flipped_bit_is_refused_or_changes_nothing_whatever_the_checksum_says() -> None:
    line = bytes(encode_commit(RecordSealer(KEY, STORE).seal(make())))
    body = line[: line.rindex(b',"crc"')]
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        if damaged == body:
            continue
        forged = bytes(seal(msgspec.Raw(bytes(damaged) + b"}")))
        try:
            commit = decode_commit(forged)
            if commit.sealed is not UNSET and commit.sealed.key == KEY.id:
                assert unseal(commit) == make(), bit
        except (CorruptionError, UnsupportedError):
            continue


def test_a_record_is_opened_only_with_its_key_and_in_its_store() -> None:
    sealed = RecordSealer(KEY, STORE).seal(make())
    with pytest.raises(CorruptionError):
        unseal(sealed, DataKey(KEY.id, token_bytes(32)))
    with pytest.raises(CorruptionError):
        unseal(sealed, KEY, bytes(16))


@pytest.mark.slow
def test_no_nonce_is_used_again_however_often_the_writer_crashes() -> None:
    """Each opening writes some records behind the head; a crash tears some off, and the next one writes others at their
    seqs."""
    rng = random.Random(20261125)
    used: set[tuple[bytes, int]] = set()
    head = written = 0
    for _ in range(CYCLES):
        writer = RecordSealer(KEY, STORE)
        for seq in range(head + 1, head + 1 + rng.randint(1, 2)):
            sealed = writer.seal(make(seq)).sealed
            assert sealed is not UNSET
            used.add((sealed.salt, sealed.count))
            written += 1
        head = max(head, seq - rng.randint(0, 2))
    assert len(used) == written
    assert head < written


def test_a_record_that_was_not_written_uses_up_its_nonce() -> None:
    writer = RecordSealer(KEY, STORE)
    first, second = writer.seal(make(text="a")).sealed, writer.seal(make(text="b")).sealed
    assert first is not UNSET
    assert second is not UNSET
    assert (first.salt, first.count) != (second.salt, second.count)


class Down:
    """A log that does not answer the first time. It takes several commits at once."""

    def __init__(self) -> None:
        self.sent: list[list[Commit]] = []

    async def extend(self, after: int, commits: Sequence[Commit]) -> None:
        self.sent.append([*commits])
        if len(self.sent) == 1:
            raise UnavailableError("it is down")


@pytest.fixture
async def keys() -> AsyncIterator[Keys]:
    settings = Settings(encryption_key=b64encode(token_bytes(32)).decode())
    backend = await connect(f"memory://{token_hex(8)}")
    keys = await make_keys(backend, settings)
    yield keys
    await keys.close()
    await backend.close()


async def test_several_commits_that_are_sent_again_are_the_same_records_again(keys: Keys) -> None:
    below, commits = Down(), [make(5), make(6)]
    log = cast("SupportsExtend", seal_log(cast("CommitLog", below), keys))
    with pytest.raises(UnavailableError):
        await log.extend(4, commits)
    await log.extend(4, commits)
    first, again = below.sent
    assert first == again
    assert [unseal(one, keys.newest, keys.store) for one in again] == commits
    await log.extend(4, commits)
    assert below.sent[2] != again


@pytest.mark.parametrize("log", [Down(), object()])
def test_several_commits_are_taken_at_once_if_the_log_below_takes_them(log: object, keys: Keys) -> None:
    sealed = seal_log(cast("CommitLog", log), keys)
    assert isinstance(sealed, SupportsExtend) is isinstance(log, Down)
