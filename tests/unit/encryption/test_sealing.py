"""The format of sealed objects: what was sealed comes back, and nothing else does."""

from __future__ import annotations

from secrets import token_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statepath.encryption.sealing import (
    HEADER,
    SEGMENT,
    STORED,
    DataKey,
    Sealing,
    content_size,
    key_of,
    open_all,
    open_from,
    seal_all,
)
from statepath.errors import CorruptionError

KEY = DataKey.new()
STORE = token_bytes(16)
CONTENT = b'{"id":"task_1","secret":"sesame"}'


def seal(content: bytes, place: str = "reports/a.json", *, key: DataKey = KEY, store: bytes = STORE) -> bytes:
    return b"".join(seal_all(Sealing.new(key, store, place), [content]))


def unseal(data: bytes, place: str = "reports/a.json", *, key: DataKey = KEY, store: bytes = STORE) -> bytes:
    return open_all(Sealing.of(key, store, place, data[:HEADER]), data)


@given(st.lists(st.binary(max_size=3 * SEGMENT), max_size=4))
def test_what_was_sealed_in_pieces_is_opened_as_a_whole(chunks: list[bytes]) -> None:
    data = b"".join(seal_all(Sealing.new(KEY, STORE, "state"), chunks))
    assert unseal(data, "state") == b"".join(chunks)
    assert content_size(len(data)) == len(b"".join(chunks))
    assert key_of(data) == KEY.id


def test_what_still_looks_at_a_piece_does_not_end_the_sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[object] = []
    seal_one = Sealing.seal

    def watched(sealing: Sealing, number: int, data: bytes | memoryview, *, last: bool) -> bytes:
        held.append(data)  # as a debugger does
        return seal_one(sealing, number, data, last=last)

    monkeypatch.setattr(Sealing, "seal", watched)
    content = token_bytes(2 * SEGMENT + 1)
    assert unseal(seal(content)) == content
    assert len(held) == 3


@pytest.mark.parametrize("size", [0, 1, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
def test_a_size_at_the_edge_of_a_segment_is_no_exception(size: int) -> None:
    content = token_bytes(size)
    data = seal(content)
    assert unseal(data) == content
    assert content_size(len(data)) == size
    assert len(data) == HEADER + size + 16 * max(1, -(-size // SEGMENT))


def test_the_same_content_is_never_sealed_the_same() -> None:
    assert seal(CONTENT) != seal(CONTENT)


def test_each_flipped_bit_is_refused() -> None:
    data = seal(CONTENT)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if key_of(bytes(damaged)) != KEY.id:
            continue  # it is not sealed, or with a key that nobody has
        with pytest.raises(CorruptionError):
            unseal(bytes(damaged))


def test_an_object_that_was_cut_or_extended_is_refused() -> None:
    data = seal(token_bytes(2 * SEGMENT + 10))
    for end in (HEADER, HEADER + 1, HEADER + STORED, HEADER + 2 * STORED, len(data) - 1):
        with pytest.raises(CorruptionError):
            unseal(data[:end])
    for more in (b"\0", data[HEADER:]):
        with pytest.raises(CorruptionError):
            unseal(data + more)


def test_segments_are_neither_swapped_nor_repeated_nor_left_out() -> None:
    data = seal(token_bytes(3 * SEGMENT))
    header, body = data[:HEADER], data[HEADER:]
    one, two, three = (body[at : at + STORED] for at in range(0, len(body), STORED))
    for order in ((two, one, three), (one, one, three), (one, three), (one, two), (two, three)):
        with pytest.raises(CorruptionError):
            unseal(header + b"".join(order))


def test_a_part_is_opened_only_where_it_stands() -> None:
    content = token_bytes(3 * SEGMENT)
    data = seal(content)
    sealing = Sealing.of(KEY, STORE, "reports/a.json", data[:HEADER])
    second = data[HEADER + STORED :][: STORED + 1]
    assert open_from(sealing, 1, second, whole=False) == content[SEGMENT : 2 * SEGMENT]
    for number, whole in ((0, False), (2, False)):
        with pytest.raises(CorruptionError):
            open_from(sealing, number, second, whole=whole)
    with pytest.raises(CorruptionError):
        open_from(sealing, 1, second[:-1], whole=True)


@pytest.mark.parametrize(
    ("place", "key", "store"),
    [("reports/b.json", KEY, STORE), ("reports/a.json", KEY, bytes(16)), ("reports/a.json", None, STORE)],
    ids=["another place", "another store", "another key"],
)
def test_an_object_is_opened_only_as_what_it_is(place: str, key: DataKey | None, store: bytes) -> None:
    with pytest.raises(CorruptionError):
        unseal(seal(CONTENT), place, key=key or DataKey(KEY.id, token_bytes(32)), store=store)


@pytest.mark.parametrize(
    "data", [b"", b"{}", CONTENT * 10, seal(CONTENT)[: HEADER - 1]], ids=["nothing", "JSON", "more", "cut"]
)
def test_what_is_not_sealed_has_no_key(data: bytes) -> None:
    assert key_of(data) is None


def test_a_key_is_not_shown() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)
