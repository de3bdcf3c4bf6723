"""The example for the cloud runs on each object store, and finds everything done when it runs again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples/cloud/workers.py"


def run(path, folder):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE],
        cwd=folder,
        env={**os.environ, "STATE_PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.slow
def test_it_runs_and_can_be_run_again(path, service, tmp_path):
    assert "4 tasks done now, 4 in all" in run(path, tmp_path)
    assert "0 tasks done now, 4 in all" in run(path, tmp_path)
    assert service.endpoint not in run(path, tmp_path)
    assert list(tmp_path.iterdir()) == []
