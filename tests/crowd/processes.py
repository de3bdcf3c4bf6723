"""Clients in processes of their own, forked from one that has everything loaded: starting many costs little."""

from __future__ import annotations

import asyncio
import json
import multiprocessing.util
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import pidfd_send_signal
from typing import Any, TypeVar

from statepath.cli import main

PRELOADED = [
    "crowd.work",
    "statepath_local",
    "statepath_s3",
    "statepath_gcs",
    "statepath_azure",
    "statepath_postgres",
    "statepath.cli.app",
]

_context: ForkServerContext = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)
_TEMPORARY = tempfile.gettempdir()

Work = Callable[..., Awaitable[Any]]
T = TypeVar("T")


_threads = ThreadPoolExecutor(128, thread_name_prefix="crowd")


@cache
def _make_room() -> None:
    """Have a folder for the sockets of what forks: not in one that a test has for itself, whose path is too long."""
    own, tempfile.tempdir = tempfile.tempdir, _TEMPORARY
    multiprocessing.util.get_temp_dir()
    tempfile.tempdir = own


def _forked(target: Callable[..., object], *args: Any) -> BaseProcess:
    _make_room()
    process = _context.Process(target=_in, args=(dict(os.environ), target, *args), daemon=True)
    process.start()
    return process


async def _waiting(call: Callable[[], T]) -> T:
    """What the call gives, which may wait for long."""
    return await asyncio.get_running_loop().run_in_executor(_threads, call)


class Client:
    """A process that does some work, and tells what came of it."""

    def __init__(self, work: Work, *args: Any) -> None:
        self._answer, answer = _context.Pipe(duplex=False)
        self.process = _forked(_run, answer, work, args)
        assert self.process.pid is not None
        # A number may be another process's by the time that a signal is sent.
        self._handle = os.pidfd_open(self.process.pid)
        answer.close()

    async def result(self) -> Any:
        """What the work returned.

        Raises:
            EOFError: the process was killed.
        """
        result = await _waiting(self._answer.recv)
        await self.ended()
        if isinstance(result, BaseException):
            raise result
        return result

    def send(self, signal: int) -> None:
        if self._handle >= 0:
            with suppress(ProcessLookupError):  # it was done already
                pidfd_send_signal(self._handle, signal)

    @property
    def stopped(self) -> bool:
        """Whether it is stopped now."""
        if self._handle < 0:
            return False
        try:
            told = Path(f"/proc/{self.process.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended, or ends just now
            return False
        return told.rpartition(")")[2].split()[0] == "T"

    async def ended(self) -> None:
        await _waiting(self.process.join)
        self._answer.close()
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def running_command(*words: str, **environment: str) -> BaseProcess:
    """A process that runs a command, which tells nobody anything."""
    return _forked(_unheard, words, os.getcwd(), environment)


def finished_command(*words: str, **environment: str) -> tuple[int | None, str]:
    """A command that is run to its end: its exit code, and what it told."""
    told, telling = _context.Pipe(duplex=False)
    process = _forked(_heard, telling, words, os.getcwd(), environment)
    telling.close()
    with told, open(told.fileno(), encoding="utf-8", closefd=False) as output:
        said = output.read()
    process.join()
    return process.exitcode, said


async def together(number: int, work: Work, *args: Any) -> list[Any]:
    """What each of so many processes returns of `work(start, number, *args)`; all begin at `start`, when they are
    there."""
    start = time.monotonic() + 0.5 + number * 0.03
    clients = [Client(work, start, n, *args) for n in range(number)]
    return await asyncio.gather(*(client.result() for client in clients))


async def begin(start: float) -> None:
    """Wait for the moment at which all begin."""
    await asyncio.sleep(max(0.0, start - time.monotonic()))


class Journal:
    """What a client did, a line of JSON each; what it wrote is there when it is killed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **facts: Any) -> None:
        os.write(self._fd, json.dumps({"at": time.monotonic(), **facts}).encode() + b"\n")


def _in(environment: dict[str, str], target: Callable[..., object], *args: Any) -> None:
    """Have this environment, and nothing of the one in which the first that forked had the server started."""
    os.environ.clear()
    os.environ.update(environment)
    target(*args)


def _run(answer: Connection, work: Work, args: tuple[Any, ...]) -> None:
    try:
        result = asyncio.run(work(*args))
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        answer.send(error)
    else:
        answer.send(result)


def _unheard(*command: Any) -> None:
    with (
        open(os.devnull, "w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        _command(*command)


def _heard(telling: Connection, *command: Any) -> None:
    with telling:
        for stream in (1, 2):
            os.dup2(telling.fileno(), stream)
    with (
        open(1, "w", encoding="utf-8", closefd=False) as output,
        open(2, "w", encoding="utf-8", closefd=False, buffering=1) as errors,
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        _command(*command)


def _command(words: tuple[str, ...], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    sys.argv = ["statepath", *words]
    main()
