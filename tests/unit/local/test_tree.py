"""Which keys can be files."""

from __future__ import annotations

import pytest
from statepath.errors import InvalidArgumentError
from statepath_local.tree import is_name, split_key


def test_a_key_is_folders_and_a_name() -> None:
    assert split_key("tasks/a%2Fb~.json") == (["tasks"], "a%2Fb~.json")
    assert split_key("bodies/abc/1") == (["bodies", "abc"], "1")
    assert split_key("state.json") == ([], "state.json")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "tasks/",
        "tasks//a",
        "..",
        "../a",
        "tasks/../../a",
        "tasks/..",
        "./a",
        "tasks/.",
        "a\0b",
        "a\nb",
        "a\n",
        "a b",
        "ä",
        "a\\b",
        ".tmp+/tmp-1",
        "lock",
        "lock/a",
        "a" * 513,
    ],
)
def test_what_is_no_key_never_becomes_a_path(key: str) -> None:
    with pytest.raises(InvalidArgumentError):
        split_key(key)


@pytest.mark.parametrize("name", ["..a", "a..", "...", ".hidden", "lock"])
def test_dots_are_characters_like_others(name: str) -> None:
    assert is_name(name)
    assert split_key(f"tasks/{name}") == (["tasks"], name)
