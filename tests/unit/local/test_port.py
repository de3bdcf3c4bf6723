"""Nothing passes the port by, and what a file system does not know it does without."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import statepath_local
from statepath_local.port import Port

MODULES = sorted(Path(statepath_local.__file__).parent.glob("*.py"))
HARMLESS = {
    "path",
    "DirEntry",
    "stat_result",
    "getpid",
    "geteuid",
    "name",
    "register_at_fork",
    "strerror",
    "fsencode",
    "fsdecode",
}
"""What modules may use of `os`: nothing of it touches storage. Flags aside."""
HARMLESS_PATHS = {"abspath", "basename", "expanduser", "samestat", "split", "splitext"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.name != "port.py"], ids=str)
def test_no_other_module_calls_the_system(module: Path) -> None:
    tree = ast.parse(module.read_text())
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    of_os = {node.attr for node in used if isinstance(node.value, ast.Name) and node.value.id == "os"}
    of_path = {node.attr for node in used if ast.unparse(node.value) == "os.path"}
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    assert {name for name in of_os if not name.startswith("O_")} <= HARMLESS
    assert of_path <= HARMLESS_PATHS
    assert "open" not in called
    assert not imported & {"shutil", "tempfile", "pathlib", "io", "mmap", "ctypes"}


def test_the_modules_are_found() -> None:
    assert {"port.py", "objects.py", "writer.py"} <= {module.name for module in MODULES}


def refuse(error: int) -> Any:
    def call(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    return call


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOTSUP])
def test_a_folder_on_a_file_system_that_syncs_none_is_in_nobodys_way(
    monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(os, "fsync", refuse(error))
    Port().fsync_dir(7)
    with pytest.raises(OSError, match=os.strerror(error)):
        Port().fsync(7)


def test_a_folder_that_fails_to_be_synced_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        Port().fsync_dir(7)


def test_where_a_drive_cannot_be_told_to_write_what_it_holds_the_usual_sync_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("statepath_local.port._FULL_SYNC", 51)
    monkeypatch.setattr("fcntl.fcntl", refuse(errno.ENOTSUP))
    monkeypatch.setattr(os, "fsync", synced.append)
    Port().fsync(7)
    assert synced == [7]


def test_a_descriptor_is_given_back_whatever_the_system_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath_local.port.os.close", refuse(errno.EIO))
    Port().close(7)


def test_what_is_not_open_cannot_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("statepath_local.port.os.close", refuse(errno.EBADF))
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        Port().close(7)


def test_of_a_file_that_nobody_syncs_it_is_told_that_there_was_no_space_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("statepath_local.port.os.close", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        Port().finish(7)
