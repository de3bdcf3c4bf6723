"""Compression: what was packed comes back, and never more than was allowed."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statepath.compression import check_installed, pack, pack_all, unpack
from statepath.errors import ConfigurationError, CorruptionError


@given(st.lists(st.binary(max_size=10_000), max_size=5))
def test_what_was_packed_is_unpacked(chunks: list[bytes]) -> None:
    content = b"".join(chunks)
    assert unpack(pack(content), len(content)) == content
    assert unpack(b"".join(pack_all(chunks)), len(content)) == content


@pytest.mark.parametrize(
    "packed", [pack(bytes(10**8)), b"".join(pack_all([bytes(10**8)]))], ids=["sized", "streamed"]
)
def test_a_bomb_is_not_unpacked(packed: bytes) -> None:
    assert len(packed) < 100_000
    with pytest.raises(CorruptionError, match="more than 1,000,000 bytes"):
        unpack(packed, 1_000_000)


@pytest.mark.parametrize("data", [b"{}", b"\x28\xb5\x2f\xfd" + b"x" * 20], ids=["JSON", "a beginning"])
def test_what_was_never_packed_is_told(data: bytes) -> None:
    with pytest.raises(CorruptionError, match="cannot be uncompressed"):
        unpack(data, 10_000)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'statepath\[compression\]'") as caught:
        check_installed()
    assert caught.value.code == "not_installed"
