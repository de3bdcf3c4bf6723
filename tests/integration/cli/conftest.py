"""The command line, run in this process where that is enough, and as a process of its own where it is not."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import statepath
from statepath.cli.app import app
from typer.main import get_command
from typer.testing import CliRunner

SERVER = """
import asyncio, sys, statepath

async def serve(path):
    async with statepath.open(path) as store:
        tasks = store.collection("tasks")
        await tasks.put({"id": "task_1", "status": "pending"})
        await store.append_log("s1", "begun\\n")
        await store.flush()
        print(store.seq, flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            word, _, text = line.strip().partition(" ")
            if word == "unlog":
                await store.delete_log(text)
            elif word in ("s1", "s2"):
                await store.append_log(word, text + "\\n")
            else:
                await tasks.put({"id": word, "status": text})
            print(store.seq, flush=True)

asyncio.run(serve(sys.argv[1]))
"""


@dataclass(frozen=True)
class Answer:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object that was written."""
        (line,) = self.out.splitlines()
        return json.loads(line)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return facts


Cli = Callable[..., Answer]

_put_together = functools.cache(get_command)
"""Putting the commands together takes longer than most of them."""


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings and no temporary files but this test's own."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("DEBUG", "VISUAL", "EDITOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A state path where nothing is yet."""
    return str(tmp_path / "state")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process."""

    # The runner would put them together for each call.
    monkeypatch.setattr("typer.testing._get_command", _put_together)

    def run(*words: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Answer:
        result = CliRunner().invoke(app, list(words), input=stdin, env=env, catch_exceptions=False)
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def on(cli: Cli, path: str) -> Cli:
    """Run a command on the test's store."""

    def run(*words: str, **options: Any) -> Answer:
        return cli(*words, "-s", path, **options)

    return run


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three tasks, a counter, a log and a report; its head is seq 7."""
    path = tmp_path_factory.mktemp("template") / "state"

    async def fill() -> None:
        async with statepath.open(path) as store:
            tasks = store.collection("tasks")
            await tasks.put({"id": "task_1", "status": "pending", "n": 1})
            await tasks.put({"id": "task_2", "status": "failed", "n": 2})
            await tasks.put({"id": "task_3", "status": "failed", "n": 3})
            await store.collection("counters").put({"id": "today", "count": 1})
            await tasks.put({"id": "task_1", "status": "completed", "n": 1})
            await store.append_log("s1", "hello\n")
            await store.save_report("r1", {"passed": True})

    asyncio.run(fill())
    return path


@pytest.fixture
def filled(template: Path, path: str) -> str:
    """The test's own copy of the template."""
    shutil.copytree(template, path)
    return path


@pytest.fixture
def files(path: str) -> Callable[[], dict[str, bytes]]:
    """Reads everything under the state path, byte for byte; but not who had the lock last."""

    def read() -> dict[str, bytes]:
        found = (file for file in Path(path).rglob("*") if file.is_file() and file.name != "lock")
        return {str(file.relative_to(path)): file.read_bytes() for file in found}

    return read


@dataclass
class Server:
    """A process that has the store open for writing, and does what it is told."""

    process: subprocess.Popen[str]
    seq: int

    def tell(self, text: str) -> int:
        """`<id> <status>` puts a task, `s1 <text>` adds a line to that log; the seq, once that is durable."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def server(path: str) -> Iterator[Server]:
    """A running server on the test's store: `tasks/task_1`, and the log `s1`."""
    with process(sys.executable, "-c", SERVER, path, stdin=subprocess.PIPE) as started:
        assert started.stdout is not None
        yield Server(started, int(started.stdout.readline()))


@pytest.fixture
def start(path: str) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a command on the test's store as a process of its own."""
    with ExitStack() as started:
        yield lambda *words, **options: started.enter_context(
            process(sys.executable, "-m", "statepath.cli", *words, "-s", path, **options)
        )


@contextmanager
def process(*words: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    ) as started:
        try:
            yield started
        finally:
            started.kill()
