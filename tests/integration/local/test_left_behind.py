"""What killed writers had under way is removed by whoever comes next, and what is another's stays."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

Connect = Callable[..., Any]
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing tells that a handle has ended")

LEAVE = """
import asyncio, sys
from statepath.url import StateURL
from statepath_local import factory

async def main():
    backend = await factory.connect(factory.parse(StateURL.parse(sys.argv[1])))
    await backend.share()
    print(backend._tree.create_temporary()[1], flush=True)
    sys.stdin.read()

asyncio.run(main())
"""


def under_way(backend: Any, path: Path) -> Path:
    """A file that the writer is about to put in its place."""
    _, name, fd = backend._tree.create_temporary()
    os.close(fd)
    return path / ".tmp+" / name


@pytest.fixture
async def left(share: Connect, path: Path) -> tuple[Path, Path]:
    """What a writer is about to put in its place, and what one left that was killed beside it."""
    ours = under_way(await share(), path)
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        told = await asyncio.to_thread(killed.stdout.readline)
        killed.kill()
    return ours, path / ".tmp+" / told.decode().strip()


@linux
async def test_what_a_killed_writer_left_is_removed_by_the_next_one_that_comes(
    share: Connect, connect: Connect, left: tuple[Path, Path]
) -> None:
    ours, stale = left
    await connect(readonly=True)
    assert stale.exists()
    await share()
    assert (ours.exists(), stale.exists()) == (True, False)


@linux
async def test_what_a_killed_writer_left_is_removed_by_the_maintainer(
    share: Connect, connect: Connect, left: tuple[Path, Path]
) -> None:
    ours, stale = left
    another = await connect()
    stale.touch()
    await another.maintain()
    assert (ours.exists(), stale.exists()) == (True, False)


async def test_a_writer_that_no_process_id_tells_of_keeps_what_it_has_under_way(
    share: Connect, path: Path
) -> None:
    """As in a container with the name of its host, and numbers of its own."""
    ours = under_way(await share(), path)
    lock = path / "lock"
    lines = lock.read_bytes().splitlines(keepends=True)
    lock.write_bytes(b"".join(line for line in lines if b"handle" not in line))
    backend = await share()
    await backend.maintain()
    assert ours.exists()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_the_end_of_a_forked_child_takes_nothing_from_its_parent(share: Connect, path: Path) -> None:
    ours = under_way(await share(), path)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    await share()
    assert ours.exists()


async def test_what_does_not_tell_of_whom_it_is_stays_while_others_write(
    share: Connect, connect: Connect, port: Any, path: Path
) -> None:
    """An older program's, or one's that could not lock its token."""
    port.fail("hold_byte", errno.ENOLCK, times=1)
    ours = under_way(await share(), path)
    (path / ".tmp+/tmp-01234567-8").touch()
    (path / ".tmp+/notes").touch()
    await (await connect()).maintain()
    assert {one.name for one in (path / ".tmp+").iterdir()} == {ours.name, "tmp-01234567-8", "notes"}
