"""What the README shows works as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the arguments, in the folder."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def toured(tmp_path: Path) -> Path:
    """A folder in which the quick tour was run."""
    tours = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    tour = next(block for block in tours if "asyncio.run" in block)
    (tmp_path / "tour.py").write_text(tour)
    done = run(tmp_path, "tour.py")
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.slow
def test_the_tour_runs_and_leaves_a_store_behind(toured: Path) -> None:
    assert (toured / "coding-agent-state/tasks/task_1.json").is_file()


@pytest.mark.slow
def test_the_commands_work_on_what_the_tour_left(toured: Path) -> None:
    commands = re.findall(r"^\$ statepath (.+)$", README, re.MULTILINE)
    assert commands
    for command in commands:
        done = run(toured, "-m", "statepath.cli", *command.split())
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
