"""Who does not encrypt needs no library for it; who wants to is told its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import statepath
from statepath import Settings
from statepath.cli.exits import Exit
from statepath.keys import init_keys

_PROGRAM = """
import sys

sys.modules["cryptography"] = None

import statepath
import statepath.cli
from statepath.cli.app import app

with statepath.open_sync("plain") as store:
    store.collection("tasks").put({"id": "a"})
    assert store.verify() == []
with statepath.open_sync("plain", readonly=True) as store:
    assert store.collection("tasks").get("a") == {"id": "a"}
try:
    statepath.open_sync("sealed", encryption_key="A" * 43 + "=").__enter__()
except statepath.StateError as error:
    print(error.code, error)
"""

_COMMAND = """
import sys

sys.modules["cryptography"] = None

from statepath.cli import main

main()
"""

_INSTALL = "pip install 'statepath[encryption]'"


def _run(program: str, command: str = "", *, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_plain_store_needs_no_library_and_an_encrypted_one_names_it(tmp_path: Path) -> None:
    done = _run(_PROGRAM, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not_installed ")
    assert _INSTALL in done.stdout


@pytest.mark.slow
async def test_who_has_no_master_key_yet_or_needs_none_is_told_of_the_library_too(tmp_path: Path) -> None:
    await init_keys(tmp_path / "sealed", settings=Settings.load(None, encryption_key="A" * 43 + "="))
    made = _run(_COMMAND, "keys init --new-key -s new", cwd=tmp_path, STATE_ENCRYPTION_KEY_FILE="key")
    listed = _run(_COMMAND, "keys list -s sealed", cwd=tmp_path)
    for done in (made, listed):
        assert (done.returncode, _INSTALL in done.stderr) == (Exit.CONFIGURATION, True), done.stderr
    assert not (tmp_path / "key").exists()


@pytest.mark.slow
async def test_what_is_asked_about_the_keys_of_a_plain_store_needs_no_library(tmp_path: Path) -> None:
    async with statepath.open(tmp_path / "plain") as store:
        await store.collection("tasks").put({"id": "a"})
    for command in ("list", "retire --yes", "rotate"):
        done = _run(_COMMAND, f"keys {command} -s plain", cwd=tmp_path)
        assert "is not encrypted" in done.stderr
