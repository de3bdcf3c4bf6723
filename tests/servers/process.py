"""A server that a test starts: a process of its own, on loopback and free ports, in a folder that goes with it."""

from __future__ import annotations

import atexit
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Final

HOST = "127.0.0.1"
_PORTS: Final = range(10_240, 20_240)
_STARTS: Final = 3
_claims: Final = ExitStack()
atexit.register(_claims.close)


@dataclass(frozen=True, slots=True)
class Command:
    """How a server is started, the port that it answers on, and the files that it leaves elsewhere."""

    arguments: Sequence[str]
    port: int
    ready: Callable[[], bool]
    leaves: Sequence[Path] = ()


@contextmanager
def running(command: Callable[[Path], Command], *, within: float = 120.0) -> Iterator[int]:
    """Start the server, wait until it is ready, and stop it at the end; its port. One that ends at once is started
    anew on other ports: until it listens, they are anybody's.

    Parameters:
        command: says how, given the server's own folder.
        within: seconds for it to be ready.
    """
    for left in reversed(range(_STARTS)):
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="statepath-server-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            how = command(folder)
            told = folder / "output"
            with told.open("wb") as output:
                process = subprocess.Popen(
                    how.arguments, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            stack.callback(_remove, how.leaves)
            stack.callback(_stop, process)
            if _ready(process, how, told, time.monotonic() + within):
                yield how.port
                return
            if not left:
                raise RuntimeError(f"{how.arguments[0]} ended:\n{_end_of(told)}")


def free_port(*, also: int = 0) -> int:
    """A port that nobody listens on, and that nobody was given before who runs tests on this machine; with `also`, the
    same holds for the one so many higher. It is none that an outgoing connection could be given before the server takes
    it, and drawn beside the seeds that tests set."""
    while True:
        port = SystemRandom().choice(_PORTS)
        with ExitStack() as claims, ExitStack() as probes, suppress(OSError):
            for one in {port, port + also}:
                # No server takes the port of UDP: who holds it has the number, and gives it back when it ends.
                claims.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind((HOST, one))
                probes.enter_context(socket.socket()).bind((HOST, one))
            _claims.push(claims.pop_all())
            return port


def answers(port: int) -> bool:
    """Whether someone listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def script(name: str) -> str:
    """A program that a test dependency installed beside this interpreter."""
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        raise FileNotFoundError(f"{name} is missing: install tests/requirements.txt")
    return str(path)


def _ready(process: subprocess.Popen[bytes], how: Command, told: Path, deadline: float) -> bool:
    """Whether it got ready; if not, it has ended."""
    while process.poll() is None:
        if answers(how.port) and how.ready():
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"{how.arguments[0]} is not ready:\n{_end_of(told)}")
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _remove(files: Sequence[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _end_of(told: Path) -> str:
    return told.read_text(errors="replace")[-2000:]
