"""The workspace says the same thing everywhere: members, version, commands."""

from __future__ import annotations

import ast
import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SOURCES = sorted(
    path
    for folder in ("core", "backends", "contrib", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if not any(part.startswith(".") or part in {"build", "dist"} for part in path.relative_to(ROOT).parts)
)


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def members() -> list[str]:
    listed: list[str] = project(ROOT)["tool"]["uv"]["workspace"]["members"]
    return listed


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


def test_requirements_install_every_member_by_path_and_nothing_else_by_path() -> None:
    lines = (ROOT / "tests/requirements.txt").read_text().splitlines()
    paths = [line.removeprefix("-e ").split("[")[0] for line in lines if line.startswith("-e ")]
    assert paths == [".", *members()]


def test_members_are_written_one_by_one_and_are_all_there_is() -> None:
    found = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("[!.]*/*/pyproject.toml")}
    assert sorted(members()) == sorted(found)


def test_what_the_distributions_ask_of_each_other_is_taken_from_the_workspace() -> None:
    """uv refuses the workspace otherwise."""
    asked = set()
    for folder in [".", *members()]:
        described = project(ROOT / folder)["project"]
        extras = described.get("optional-dependencies", {}).values()
        for line in itertools.chain(described["dependencies"], *extras):
            asked.add(re.split(r"[^a-z0-9-]", line)[0])
    ours = {project(ROOT / folder)["project"]["name"] for folder in [".", *members()]}
    sources = project(ROOT)["tool"]["uv"]["sources"]
    assert sources == {name: {"workspace": True} for name in asked & ours}


@pytest.mark.parametrize("folder", [".", *members()])
def test_every_distribution_has_the_same_version_python_and_build(folder: str) -> None:
    described = project(ROOT / folder)
    assert version(described["project"]["name"]) == version("statepath")
    assert described["project"]["requires-python"] == ">=3.11"
    assert described["build-system"]["build-backend"] == "hatchling.build"


@pytest.mark.parametrize("folder", members())
def test_every_distribution_carries_the_license(folder: str) -> None:
    """A build takes it from its own folder only."""
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert project(ROOT / folder)["project"]["license"] == project(ROOT)["project"]["license"]


def test_no_lock_file_is_kept() -> None:
    assert not [
        name for name in tracked() if re.search(r"(?:^|/)(?:[\w.-]+\.lock|pylock[\w.-]*\.toml)$", name)
    ]


def test_readme_sets_up_with_two_commands_of_one_line() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert [line.split(" && ")[-1] for line in commands] == [
        ".venv/bin/statepath demo",
        ".venv/bin/python -m pytest",
    ]
    assert all(not line.endswith("\\") for line in commands)


def test_ci_runs_the_commands_of_the_readme() -> None:
    script = (ROOT / ".ci/run").read_text()
    patterns = re.findall(r"command_ending '(.+)'", script)
    assert patterns == ["pytest", "statepath demo"]
    for pattern in patterns:
        matching = [
            line
            for line in README.splitlines()
            if re.search(rf"^python3 -m venv \.venv && .*{pattern}$", line)
        ]
        assert len(matching) == 1


def test_ci_builds_every_member() -> None:
    built = re.search(r"for member in (.+); do", (ROOT / ".ci/run").read_text())
    assert built is not None
    assert built[1].split() == [".", *members()]


def imported(path: Path) -> set[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.append(node.module or "")
    return {name.split(".")[0] for name in found}


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0] for requirement in requirements}


EXTRAS = {
    "core/statepath/testing": "testing",
    "core/statepath/encryption": "encryption",
    "core/statepath/compression.py": "compression",
    "core/statepath/webhook.py": "alerts",
    "core/statepath/instruments.py": "telemetry",
    "core/statepath/measuring.py": "prometheus",
}
"""Where more may be imported than every installation has, and the extra that brings it."""


def test_what_the_core_imports_is_declared() -> None:
    described = project(ROOT)["project"]
    extras = {place: names(described["optional-dependencies"][extra]) for place, extra in EXTRAS.items()}
    distributions = packages_distributions()
    for path in SOURCES:
        place = path.relative_to(ROOT)
        if not place.is_relative_to("core") and not place.is_relative_to("backends/local/statepath_local"):
            continue
        others = (
            imported(path) - sys.stdlib_module_names - {"statepath", "statepath_command", "statepath_local"}
        )
        declared = names(described["dependencies"]).union(
            *(listed for part, listed in extras.items() if place.is_relative_to(part))
        )
        for name in others:
            # Several distributions share the namespace of one.
            assert declared & {one.replace("_", "-") for one in distributions[name]}, (place, name)


def forbidden(tree: ast.AST) -> list[str]:
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    calls = {"eval", "exec", "__import__"}
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in modules:
            found.append(str(node.module))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls:
            found.append(node.func.id)
    return found


@pytest.mark.parametrize(
    "path",
    # The kit sends errors through pickle, as multiprocessing would, and reads nothing that was stored.
    [path for path in SOURCES if "testing" not in path.parts],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    assert forbidden(ast.parse(path.read_text())) == []


def test_the_search_for_unpickling_finds_it() -> None:
    assert forbidden(ast.parse("import pickle\nfrom marshal import loads\neval('1')")) == [
        "pickle",
        "marshal",
        "eval",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
def test_a_skipped_test_fails_the_run_in_ci_only(tmp_path: Path, ci: str, code: int) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    (tmp_path / "test_one.py").write_text("import pytest\n\ndef test_one():\n    pytest.skip('not now')\n")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-c",
            os.devnull,
            "--rootdir",
            ".",
            "-p",
            "no:cacheprovider",
            ".",
        ],
        cwd=tmp_path,
        env={**os.environ, "CI": ci},
        capture_output=True,
        text=True,
    )
    assert run.returncode == code, run.stdout + run.stderr
