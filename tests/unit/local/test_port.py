"""Nothing passes the port by."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import statepath_local

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
HARMLESS_PATHS = {"abspath", "basename", "expanduser", "split", "splitext"}


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
