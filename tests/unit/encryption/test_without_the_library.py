"""Who does not encrypt needs no library for it; who wants to is told its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_a_plain_store_needs_no_library_and_an_encrypted_one_names_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("not_installed ")
    assert "pip install 'statepath[encryption]'" in done.stdout
