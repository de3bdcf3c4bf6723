"""A process that is killed in mid-write: nothing that it had acknowledged is lost."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Connect = Callable[..., Any]

WRITE = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from conftest import Chain
from statepath.url import StateURL
from statepath_local import factory

async def main():
    backend = await factory.connect(factory.parse(StateURL.parse(sys.argv[1])))
    log = Chain(backend.commit_log())
    log.commits = [commit async for commit in log.log.read(0)]
    while True:
        for size in (10, 2000, 300_000, 10):
            await log.append(size, transactions=3)
            print(log.head, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_what_a_killed_writer_acknowledged_is_there(
    connect: Connect, chain: Any, path: Path, commits: Any
) -> None:
    dice = random.Random(7)
    log = chain(None)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITE, str(path), str(Path(__file__).parent)], stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            told = await asyncio.to_thread(child.stdout.readline)
            await asyncio.sleep(dice.uniform(0, 0.15))
            child.kill()
            acknowledged = int((told + child.stdout.read()).split()[-1])
        backend = await connect()
        log.log = backend.commit_log()
        found = await commits(log.log)
        assert found[: len(log.commits)] == log.commits
        assert found[-1].last >= acknowledged
        log.commits = found
        await log.append()
        await backend.close()
    assert list((path / ".tmp+").iterdir()) == []
