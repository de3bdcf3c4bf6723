"""Which keys can be files, and what is remembered of folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from statepath.errors import InvalidArgumentError
from statepath_local.port import Port
from statepath_local.tree import Tree, is_name, split_key


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


def test_folders_that_come_and_go_leave_nothing_in_memory(tmp_path: Path) -> None:
    class Unsynced(Port):
        def fsync_dir(self, fd: int) -> None: ...

    tree = Tree(Unsynced(), str(tmp_path), os.open(tmp_path, os.O_RDONLY))
    for n in range(3000):
        os.close(tree.folder(["bodies", str(n)], create=True, lasting=True))
        (tmp_path / "bodies" / str(n)).rmdir()
    tree.close()
    assert len(tree._durable) < 1500
