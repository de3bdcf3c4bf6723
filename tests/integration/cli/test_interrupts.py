"""Ctrl-C, from the first moment of a command to its last; and SIGTERM."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from statepath.cli.interrupts import terminate
from statepath.discovery import connect

Run = Callable[..., Any]

pytestmark = pytest.mark.slow


def test_ctrl_c_while_modules_are_loading_ends_the_command_in_silence() -> None:
    program = (
        "import sys\n"
        "from statepath.cli import main\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


@pytest.mark.parametrize("module", ["statepath", "statepath.store", "typer"])
def test_ctrl_c_while_the_package_is_loading_ends_the_command_in_silence(module: str) -> None:
    ended = command(
        "class Loading:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}:\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Loading())\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")


def test_ctrl_c_at_the_very_end_ends_the_command_in_silence() -> None:
    ended = command("atexit.register(signal.raise_signal, signal.SIGINT)\n")
    assert ended.stdout.startswith(b"statepath ")
    assert (ended.returncode, ended.stderr) == (130, b"")


def test_ctrl_c_stays_ignored_by_a_command_that_was_started_so() -> None:
    ended = command(
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\natexit.register(signal.raise_signal, signal.SIGINT)\n"
    )
    assert ended.returncode == 0


def command(prepared: str) -> subprocess.CompletedProcess[bytes]:
    """`statepath version` in a process that was prepared so."""
    program = (
        "import atexit, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{prepared}"
        "from statepath_command import main\n"
        "sys.argv = ['statepath', 'version']\n"
        "main()\n"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)


def test_ctrl_c_at_a_question_ends_the_command(start: Run, on: Run, filled: str) -> None:
    asking = start("delete", "tasks/task_1", stdin=PIPE)
    asked = ""
    while not asked.endswith("[y/N]: "):
        asked += asking.stderr.read(1)
    asking.send_signal(signal.SIGINT)
    assert asking.wait(60) == 130
    assert on("show", "tasks/task_1").code == 0


def test_ctrl_c_ends_a_put_that_waits_for_its_text(start: Run, filled: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    putting = start("put", "tasks/task_1", str(pipe))
    with pipe.open("wb"):  # open as soon as the command reads
        putting.send_signal(signal.SIGINT)
        assert putting.wait(60) == 130


async def test_sigterm_ends_a_mirror_that_gives_up_its_turn_first(filled: str, tmp_path: Path) -> None:
    target = f"sqlite://{tmp_path}/replica.db"
    words = (sys.executable, "-m", "statepath.cli", "mirror", filled, target)
    with subprocess.Popen(words, stderr=PIPE, text=True) as mirror:
        assert mirror.stderr is not None
        assert "everything up to seq 7" in mirror.stderr.readline()
        mirror.send_signal(signal.SIGTERM)
        assert (mirror.wait(60), mirror.stderr.read()) == (-signal.SIGTERM, "")
    replica = await connect(target, readonly=True)
    assert [entry.key async for entry in replica.list_keys("leases/")] == []
    await replica.close()


def test_who_outlives_sigterm_as_the_first_process_of_a_container_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("signal.raise_signal", lambda _: None)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit) as ended:
        terminate()
    assert ended.value.code == 128 + signal.SIGTERM


@pytest.mark.parametrize("words", [("watch", "--since", "0"), ("logs", "s1", "--follow")])
def test_sigterm_closes_the_store_of_what_goes_on_by_itself(filled: str, words: tuple[str, ...]) -> None:
    ended = told(
        "from statepath import Store\n"
        "watch, close = Store.watch, Store.aclose\n"
        "def watching(*given, **named):\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    return watch(*given, **named)\n"
        "async def closed(store):\n"
        "    await close(store)\n"
        "    print('closed', file=sys.stderr)\n"
        "Store.watch, Store.aclose = watching, closed\n"
        "from statepath.cli import main\n"
        f"sys.argv = {['statepath', *words, '-s', filled]!r}\n"
        "main()\n"
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, b"closed\n")


def test_sigterm_ends_at_once_what_waits_for_whoever_reads_its_output(filled: str) -> None:
    ended = told(
        "from statepath.cli import main\n"
        "class Full:\n"
        "    encoding = 'utf-8'\n"
        "    def write(self, text):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "        print('waits', file=sys.stderr)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "sys.stdout = Full()\n"
        f"sys.argv = {['statepath', 'watch', '--since', '0', '-s', filled]!r}\n"
        "main()\n"
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, b"")


def test_a_second_sigterm_waits_for_nothing() -> None:
    ended = told(
        "import asyncio\n"
        "from statepath.cli.interrupts import terminable\n"
        "async def command():\n"
        "    with terminable():\n"
        "        try:\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "            await asyncio.Event().wait()\n"
        "        finally:\n"
        "            signal.raise_signal(signal.SIGTERM)\n"
        "            print('waits', file=sys.stderr)\n"
        "asyncio.run(command())\n"
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, b"")


def told(program: str) -> subprocess.CompletedProcess[bytes]:
    """What the program says, and how it ends."""
    words = (sys.executable, "-c", f"import signal, sys\n{program}")
    return subprocess.run(words, capture_output=True, check=False, timeout=60)


def test_ctrl_c_in_the_editor_is_the_editors_own(
    start: Run, on: Run, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "editor.py"
    script.write_text(
        "import os, pathlib, signal, sys\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "path.write_text(path.read_text().replace('completed', 'edited'))\n"
    )
    monkeypatch.setenv("EDITOR", shlex.join([sys.executable, str(script)]))
    assert start("edit", "tasks/task_1").wait(60) == 0
    assert '"edited"' in on("show", "tasks/task_1").out
