"""The examples run in an empty folder, and again where they have run before."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(set((ROOT / "examples").glob("*.py")) - {ROOT / "examples/worker_pool.py"})
SLOWLY = """
import asyncio, runpy, sys

sleep = asyncio.sleep
asyncio.sleep = lambda delay, *rest: sleep(20 * delay, *rest)
runpy.run_path(sys.argv[1], run_name="__main__")
"""
"""An example whose work takes longer, so that a kill finds it at work."""

ENVIRONMENT = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONUNBUFFERED": "1"}


def run(example: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, example], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_quick_start_is_the_tour_of_the_readme() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    tour = next(block for block in blocks if "asyncio.run" in block)
    example = (ROOT / "examples/quickstart.py").read_text()
    assert re.sub(r" {2,}#", "  #", tour) == example.partition('"""\n\n')[2]


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_can_be_run_again(example: Path, tmp_path: Path) -> None:
    assert run(example, tmp_path)
    assert run(example, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["coding-agent-state"]


@pytest.mark.slow
def test_the_orchestrator_goes_on_after_a_kill(tmp_path: Path) -> None:
    example = ROOT / "examples/orchestrator.py"
    with subprocess.Popen(
        [sys.executable, "-c", SLOWLY, example],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("half way" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert re.search(r"^[1-3] tasks had been interrupted", run(example, tmp_path), re.MULTILINE)
