"""What the pages show is run, as it stands there.

Of a page all Python and console blocks are run in their order, in one empty folder. The Python blocks share their
names; a block that calls `asyncio.run` is a program of its own. In a console block each line that begins with `$ ` is a
command, and what follows it is what it has to print: `…` stands for anything. A block that cannot be run is of another
language (`bash`, `text`); what a `bash` block exports can be used, all the same.

A command of ours that needs no shell is forked from a process that has it loaded, which most of them take longest for.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import statepath
from crowd.processes import finished_command
from servers.fixtures import aws, moto  # noqa: F401 - fixtures are found by name where they are
from servers.process import free_port
from statepath import Settings
from statepath.discovery import resolve

ROOT = Path(__file__).parents[3]

_TASK = """
from pydantic import BaseModel

class Task(BaseModel):
    id: str
    status: str = "pending"

task = Task(id="task_1")
"""

_INSIDE = """
import os

async with statepath.open() as made:
    await made.collection("tasks").put({"id": "task_1", "status": "pending"})
os.chdir("coding-agent-state")
"""

_STORE = """
store = await statepath.open()
tasks = store.collection("tasks")
await tasks.put({"id": "task_1", "status": "failed", "attempts": 4})
"""

_EVENTS = """
from statepath.events import DiskLow, DiskOk

alert = log_everything = listener = print
store = await statepath.open()

async def emit_and_close():
    store.events.emit(DiskLow(1, 2))
    await store.aclose()

import asyncio
ending = asyncio.ensure_future(emit_and_close())  # begins when the page waits for an event
"""

_CHANGES = """
import re
from pathlib import Path

shown = re.search(r"```python\\n(from statepath import migration.*?)```", PAGE.read_text(), re.DOTALL)
Path("changes.py").write_text(shown[1])
"""
"""The module is what the page shows."""

_SERVER = """
import re
from pathlib import Path

Path("server.py").write_text(re.search(r"```py\\n(.*?)```", PAGE.read_text(), re.DOTALL)[1])
"""
"""A program that sets up what there is once in a process."""

PAGES = {
    "README.md": _TASK,
    "docs/guide.md": "",
    "docs/guarantees.md": "",
    "docs/storage-layout.md": "",
    "docs/queries.md": "from datetime import UTC, datetime\n" + _STORE,
    "docs/events.md": _EVENTS,
    "docs/state-persistence.md": "",
    "docs/local.md": _INSIDE,
    "docs/troubleshooting.md": "",
    "docs/migrations.md": _CHANGES,
    "docs/archive.md": "",
    "docs/many-writers.md": "",
    "docs/encryption.md": "",
    "docs/mirror.md": "",
    "docs/restore.md": "",
    "docs/move.md": "",
    "docs/health.md": "",
    "docs/alerts.md": "",
    "docs/metrics.md": _SERVER,
    "docs/configuration.md": "",
}
"""The pages, each with what its first block takes for granted."""

_TROUBLE = ("error:", "warning:", "damage:")
"""A command that is to print one of these may end with another exit code than 0."""

_OURS = re.compile(r"statepath ([^][{}()<>|&;$`*?~!#\\\n]+)")
"""Holds nothing that a shell would do something about, but for quotes."""

_BLOCK = re.compile(r"^( *)```(python|console)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(page: str) -> list[Block]:
    # Another program of this machine may have the port that is shown.
    text = (ROOT / page).read_text().replace("9464", str(free_port()))
    return [
        Block(found[2], inspect.cleandoc("\n" + found[3]), text[: found.start()].count("\n") + 2)
        for found in _BLOCK.finditer(text)
    ]


async def run_python(page: str, block: Block, names: dict[str, Any]) -> None:
    """The block, in the running loop. A tracebacks's line numbers are those of the page."""
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if "asyncio.run(" in block.text or "open_sync(" in block.text:
        await asyncio.to_thread(exec, code, names)
    elif (awaitable := types.FunctionType(code, names)()) is not None:
        await awaitable


def commands_of(block: Block) -> Iterator[tuple[str, str]]:
    """Each command and what it has to print."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        while command.endswith("\\"):
            more, _, output = output.partition("\n")
            command += "\n" + more
        yield command, output


def matches(output: str, expected: str) -> bool:
    """Whether the output is what is expected, `…` standing for anything, and white space for white space."""
    pattern = ".*".join(re.escape(part) for part in " ".join(expected.split()).split("…"))
    return re.fullmatch(pattern, " ".join(output.split())) is not None


def run(command: str) -> tuple[int | None, str]:
    """The exit code, and what was written."""
    if ours := _OURS.fullmatch(command):
        return finished_command(*shlex.split(ours[1]), COLUMNS="200")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PATH": path, "COLUMNS": "200", "LC_ALL": "C.UTF-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout


def run_console(page: str, block: Block) -> None:
    for command, expected in commands_of(block):
        if "jq" in command and shutil.which("jq") is None:
            continue
        code, output = run(command)
        place = f"{page}:{block.line}: $ {command}"
        assert code == 0 or any(word in expected for word in _TROUBLE), f"{place}\n{output}"
        if expected:
            assert matches(output, expected), f"{place}\n{output}"


def stand_in_for_s3(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page says of `s3://states/…` happens on a server of this machine."""
    request.getfixturevalue("aws")
    monkeypatch.setenv("STATE_S3_ENDPOINT_URL", request.getfixturevalue("moto"))
    monkeypatch.setenv("STATE_S3_REGION", "us-east-1")
    monkeypatch.setenv("STATE_S3_PATH_STYLE", "true")


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
async def test_what_a_page_shows_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if page == "docs/move.md":
        stand_in_for_s3(request, monkeypatch)
    names: dict[str, Any] = {"__name__": "page", "statepath": statepath, "PAGE": ROOT / page}
    opening = Block("python", PAGES[page], 1)
    try:
        for block in (opening, *blocks_of(page)):
            if block.language == "python":
                await run_python(page, block, names)
            else:
                await asyncio.to_thread(run_console, page, block)
    finally:
        for held in list(names.values()):
            if isinstance(held, statepath.Store):
                await held.aclose()


EXPORTS = [
    pytest.param(
        dict(word.split("=", 1) for line in lines for word in shlex.split(line)), id=f"{page.stem}:{at}"
    )
    for page in sorted((ROOT / "docs").glob("*.md"))
    for at, block in enumerate(re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE))
    if (lines := re.findall(r"^export (.*)$", block, re.MULTILINE))
]


@pytest.mark.parametrize("variables", EXPORTS)
def test_what_a_page_exports_is_listed_and_can_be_used(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = set(re.findall(r"^\| `(STATE_\w+)`", (ROOT / "docs/configuration.md").read_text(), re.MULTILINE))
    assert {name for name in variables if name.startswith("STATE_")} <= listed
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    resolve(Settings.load().path)


def test_every_page_is_linked_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text()))
    assert linked == {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_every_promise_names_tests_that_there_are() -> None:
    """A test that was renamed or removed leaves a promise without its proof."""
    page = (ROOT / "docs/guarantees.md").read_text()
    promises = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    for promise in promises:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", promise)
        assert named, f"nothing shows: {promise.splitlines()[0]}"
        for file, test in named:
            assert re.search(rf"def {test}\(", (ROOT / "tests" / file).read_text()), f"{file}::{test}"
