"""The commit record: what it holds, and that no damage to it goes unseen."""

import json
from datetime import UTC, datetime
from zlib import crc32

import msgspec
import pytest
from statepath.commit import (
    Append,
    Body,
    Change,
    Commit,
    Delete,
    Note,
    Put,
    RemoveLog,
    RemoveReport,
    WriteLog,
    WriteReport,
    decode_changes,
    decode_commit,
    encode_changes,
    encode_commit,
    slot_key,
)
from statepath.errors import CorruptionError

CHANGES: tuple[Change, ...] = (
    Put(collection="tasks", id="task_1", document=msgspec.Raw(b'{"id":"task_1","n":1.50}'), base=0),
    Put(collection="tasks", id="ä/..", document=msgspec.Raw(b'{"id":"\xc3\xa4/.."}')),
    Delete(collection="tasks", id="task_2", base=7),
    Append(collection="tasks", id="task_1", field="logs", value=msgspec.Raw(b'{"message":"x\\ny"}')),
    WriteLog(id="s", offset=10, text='line "one"\nline two\u2028'),
    WriteReport(id="r", document=msgspec.Raw(b"{}")),
    RemoveLog(id="s", base=33),
    RemoveLog(id="s"),
    RemoveReport(id="r"),
    Note(kind="restored", text="to seq 3"),
)


def make(*transactions: tuple[Change, ...] | Body) -> Commit:
    return Commit(
        first=5,
        last=4 + len(transactions),
        id="c5",
        prev="c4",
        writer="w",
        store="s",
        incarnation="i",
        time=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        durable=4,
        transactions=transactions,
    )


BODY = Body(key="bodies/c5/0", size=9_000_000, sha256="0" * 64)


async def test_a_commit_is_read_as_it_was_written() -> None:
    commit = make(CHANGES, (), BODY)
    assert decode_commit(encode_commit(commit)) == commit


async def test_documents_are_kept_byte_for_byte() -> None:
    line = bytes(encode_commit(make(CHANGES)))
    assert b'"document":{"id":"task_1","n":1.50}' in line


async def test_a_commit_is_one_line_of_json() -> None:
    line = bytes(encode_commit(make(CHANGES, BODY)))
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    record = json.loads(line)
    assert list(record)[-1] == "crc"
    assert record["transactions"][0][0] == {
        "op": "put",
        "collection": "tasks",
        "id": "task_1",
        "document": {"id": "task_1", "n": 1.5},
        "base": 0,
    }


async def test_the_line_end_may_be_missing() -> None:
    commit = make(CHANGES)
    assert decode_commit(bytes(encode_commit(commit)).rstrip()) == commit


async def test_no_altered_byte_goes_unseen() -> None:
    line = bytes(encode_commit(make(CHANGES)))
    for at in range(len(line) - 1):
        for bit in (0x01, 0x20):
            damaged = bytearray(line)
            damaged[at] ^= bit
            with pytest.raises(CorruptionError):
                decode_commit(damaged)


async def test_no_cut_goes_unseen() -> None:
    line = bytes(encode_commit(make(CHANGES)))
    for length in range(len(line) - 1):
        with pytest.raises(CorruptionError):
            decode_commit(line[:length])


async def test_white_space_of_a_segment_that_is_not_filled_is_no_commit() -> None:
    for text in (b"", b" " * 100, b"\n", bytes(100)):
        with pytest.raises(CorruptionError):
            decode_commit(text)


async def test_two_lines_are_no_commit() -> None:
    line = encode_commit(make(CHANGES))
    with pytest.raises(CorruptionError):
        decode_commit(line + line)


@pytest.mark.parametrize(
    "content",
    [
        {"first": 1},
        [],
        {**json.loads(encode_commit(make(()))), "last": 6},
        {**json.loads(encode_commit(make(()))), "transactions": [[{"op": "unheard of"}]]},
    ],
    ids=["cut short", "no object", "a wrong count", "a change of a newer format"],
)
async def test_a_record_of_another_shape_is_no_commit(content: object) -> None:
    line = json.dumps(content).encode()[:-1]
    with pytest.raises(CorruptionError):
        decode_commit(line + b',"crc":"%08x"}' % crc32(line))


async def test_members_that_a_newer_program_added_are_passed_over() -> None:
    commit = make(CHANGES)
    record = bytes(encode_commit(commit))[:-19]
    record += b',"hint":{"new":true}'
    assert decode_commit(record + b',"crc":"%08x"}' % crc32(record)) == commit


async def test_changes_of_a_body_are_read_as_they_were_written() -> None:
    assert decode_changes(encode_changes(CHANGES)) == CHANGES


@pytest.mark.parametrize("data", [b"", b"{}", b'[{"op":"put"}]', encode_changes(CHANGES)[:-1]])
async def test_a_damaged_body_is_corruption(data: bytes) -> None:
    with pytest.raises(CorruptionError):
        decode_changes(data)


async def test_slots_sort_by_their_seq() -> None:
    firsts = [1, 2, 9, 10, 99, 100, 10**6, 10**19]
    assert sorted(slot_key(first) for first in reversed(firsts)) == [slot_key(first) for first in firsts]
