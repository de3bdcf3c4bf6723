"""The example of several workers runs as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples/worker_pool.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "postgresql"], indirect=True)
def test_each_task_is_done_once_although_workers_are_killed(path, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLE],
        cwd=tmp_path,
        env={**os.environ, "STATE_PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "40 tasks done once each, by 4 workers of which 3 were killed" in done.stdout
